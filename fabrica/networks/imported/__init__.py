"""Networks that others have published, built so that their weights mean here what they mean there."""

from .autoencoder_kl import AutoencoderKL, KLShape, kl_shape, renamed

__all__ = ["AutoencoderKL", "KLShape", "kl_shape", "renamed"]
