"""Networks that others have published, built so that their weights mean here what they mean there."""

from .autoencoder_kl import KEYS as MONAI_KL_KEYS
from .autoencoder_kl import AutoencoderKL, KLShape, kl_shape
from .diffusers_kl import diffusers_kl_shape, renamed_from_diffusers
from .diffusion_unet import (
    DIFFUSERS_KEYS,
    MONAI_KEYS,
    DiffusionShape,
    DiffusionUNet,
    diffusers_shape,
    monai_diffusion_shape,
)
from .parts import renamed

__all__ = [
    "DIFFUSERS_KEYS",
    "MONAI_KEYS",
    "MONAI_KL_KEYS",
    "AutoencoderKL",
    "DiffusionShape",
    "DiffusionUNet",
    "KLShape",
    "diffusers_kl_shape",
    "diffusers_shape",
    "kl_shape",
    "monai_diffusion_shape",
    "renamed",
    "renamed_from_diffusers",
]
