"""A published autoencoder as a codec: its arithmetic and its weights, on the scale that it was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..contracts import Codec, Condition, Problem, Signature
from ..networks.imported import AutoencoderKL, kl_shape
from ..networks.ladder import LOG_VARIANCES, drawn_from
from ..networks.unet import UNetShape
from ..rng import Rng
from .losses import kl_normal
from .misfit import field_terms


class ImportedAutoencoder(Codec):
    """MONAI's `AutoencoderKL` (Rombach et al. 2022): `config` is its configuration, weights come by `fabrica import`.

    Its network sees gain * x + offset of `scale: [gain, offset]`, as the card of published weights says; what it gives
    back is brought back the same way. It can be trained on, with `kl` as the weight of its prior: distance and KL.
    Alone it draws codes by chance and is no generator: `family: {name: flow, in: {stage: codec}}`.
    """

    learns = ("intensity",)
    scale: Tensor

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, config: Mapping[str, Any],
        scale: Sequence[float] = (1.0, 0.0), kl: float = 1e-4,
    ) -> None:  # fmt: skip
        super().__init__()
        shape = kl_shape(config)
        if shape.spatial_dims != len(signature.axes):
            raise ValueError(
                f"These weights need {shape.spatial_dims} axes, the job has {signature.axes or 'none'}. Write: axes:"
                f" {'yx' if shape.spatial_dims == 2 else 'zyx'}"
            )
        if not shape.in_channels == shape.out_channels == signature.channels:
            raise ValueError(
                f"These weights take one image of {shape.in_channels} channels and give {shape.out_channels}; the job"
                f" has {signature.channels}. Name as many in x."
            )
        if signature.condition:
            raise ValueError("A codec encodes x alone. Write: job: {name: synthesis, x: [...], place: false}")
        if len(scale) != 2 or not scale[0]:
            raise ValueError(f"scale is {list(scale)}, expected a gain that is not 0 and an offset: scale: [2, -1]")
        self.fields, self.net, self.kl = signature.x, AutoencoderKL(shape), kl
        self.codes, self.factor, self.gain, self.offset = shape.latent_channels, shape.factor, scale[0], scale[1]
        self.register_buffer("scale", torch.ones(()))

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"model": self.net.parameters()}

    def encode(self, x: Tensor) -> Tensor:
        return self._encoded(x)[0] / self.scale

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        found: Tensor = (self.net.decode(z * self.scale) - self.offset) / self.gain
        return found

    def _encoded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if bad := [n for n in x.shape[2:] if n % self.factor]:
            raise ValueError(
                f"The codec got a side of {bad[0]}, expected multiples of {self.factor}. Write: prepare: {{multiple:"
                f" {self.factor}}}"
            )
        return self.net.encode(self.gain * x + self.offset)

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        if problem.target is None:
            raise ValueError(
                f"Training needs targets; {problem.cases[0]} has none. Leave such cases out of the training part."
            )
        mean, log_variance = self._encoded(problem.target)
        codes = mean, log_variance.clamp(*LOG_VARIANCES)
        if self.training:
            with torch.no_grad():
                self.scale.lerp_((mean**2 + codes[1].exp()).mean().sqrt(), 0.02)
        given_back = (self.net.decode(drawn_from(codes, rng.child("code"))) - self.offset) / self.gain
        return {**field_terms(problem, given_back, self.fields), "KL": self.kl * kl_normal(*codes)}

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        if bad := [n for n in problem.shape[1:] if n % self.factor]:
            raise ValueError(f"The codec is asked for a side of {bad[0]}, expected multiples of {self.factor}.")
        shape = (self.codes, *(n // self.factor for n in problem.shape[1:]))
        return self.decode(rng.child("code").normal(*shape).to(self.scale.device), problem.condition)
