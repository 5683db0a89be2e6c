"""Published networks as families: their arithmetic and their weights, on the scale that they were trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..contracts import Codec, Condition, Denoiser, Problem, Signature
from ..networks.blocks import shown
from ..networks.imported import (
    AutoencoderKL,
    DiffusionUNet,
    diffusers_kl_shape,
    diffusers_shape,
    kl_shape,
    monai_diffusion_shape,
)
from ..networks.ladder import LOG_VARIANCES, drawn_from
from ..networks.unet import UNetShape
from ..registry import check_type, unknown
from ..rng import Rng
from ..sampling.solvers import dpm_solver_2m
from .losses import kl_normal
from .misfit import field_terms, squared

DIFFUSERS = "diffusers"  # whose configuration it is, where it is not MONAI's
NOISE = {"schedule": "linear", "steps": 1000, "start": 1e-4, "end": 0.02, "prediction": "epsilon"}
SCHEDULES = ("linear", "scaled linear", "cosine")  # Ho et al. 2020; Rombach et al. 2022; Nichol and Dhariwal 2021
PREDICTIONS = ("epsilon", "v", "sample")  # the noise; Salimans and Ho 2022; the image itself


class ImportedAutoencoder(Codec):
    """`AutoencoderKL` (Rombach et al. 2022): `config` is its configuration, of MONAI or (`by: diffusers`) of diffusers;
    weights come by `fabrica import`.

    Its network sees gain * x + offset of `scale: [gain, offset]`, as the card of published weights says; what it gives
    back is brought back the same way. It can be trained on, with `kl` as the weight of its prior: distance and KL.
    Alone it draws codes by chance and is no generator: `family: {name: flow, in: {stage: codec}}`.
    """

    learns = ("intensity",)
    scale: Tensor

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, config: Mapping[str, Any],
        scale: Sequence[float] = (1.0, 0.0), kl: float = 1e-4, by: str = "monai",
    ) -> None:  # fmt: skip
        super().__init__()
        shape, factor = diffusers_kl_shape(config) if by == DIFFUSERS else (kl_shape(config), 1.0)
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
        _check_scale(scale)
        self.fields, self.net, self.kl = signature.x, AutoencoderKL(shape), kl
        self.codes, self.factor, self.gain, self.offset = shape.latent_channels, shape.factor, scale[0], scale[1]
        self.register_buffer("scale", torch.tensor(1 / factor))

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


class ImportedDenoiser(Denoiser):
    """A published U-Net that predicts noise (Ho et al. 2020), as a denoiser: `config` is its configuration, of MONAI or
    (`by: diffusers`) of diffusers; weights come by `fabrica import`.

    `scale: [gain, offset]` brings images to the network's numbers; `noise` says what it was trained on: {schedule:
    linear | scaled linear | cosine, steps, start, end, prediction: epsilon | v | sample}. A level between two steps is
    told by a step between them. Images of the condition are its further channels, in the order of the job.
    """

    learns = ("intensity",)
    levels: Tensor

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, config: Mapping[str, Any],
        scale: Sequence[float] = (1.0, 0.0), noise: Mapping[str, Any] | None = None, by: str = "monai",
    ) -> None:  # fmt: skip
        super().__init__()
        shape = diffusers_shape(config) if by == DIFFUSERS else monai_diffusion_shape(config)
        if shape.spatial_dims != len(signature.axes):
            raise ValueError(
                f"These weights need {shape.spatial_dims} axes, the job has {signature.axes or 'none'}. Write: axes:"
                f" {'yx' if shape.spatial_dims == 2 else 'zyx'}"
            )
        self.given = tuple(f.name for f in shown(signature.condition))
        channels = signature.channels + sum(f.channels for f in shown(signature.condition))
        if (shape.in_channels, shape.out_channels) != (channels, signature.channels):
            raise ValueError(
                f"These weights take {shape.in_channels} channels and give {shape.out_channels}; the job has"
                f" {channels} and {signature.channels}. Name in the card what is given: given: [T1w]"
            )
        classes = [f for f in signature.condition if f.kind == "class"]
        if sum(f.channels for f in classes) != shape.classes or len(classes) > 1:
            raise ValueError(
                f"These weights know {shape.classes} classes, the job has {sum(f.channels for f in classes)}. Name them"
                " in the card, in their order: classes: {class: [A, B]}"
            )
        _check_scale(scale)
        self.by_class = classes[0].name if classes else ""
        self.net, self.gain, self.offset, self._multiple = DiffusionUNet(shape), scale[0], scale[1], shape.multiple
        self.prediction, levels = _noise(noise or {})
        self.register_buffer("levels", levels, persistent=False)

    @property
    def multiple(self) -> int:
        return self._multiple

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"model": self.net.parameters()}

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        wide = (-1, *[1] * (x.ndim - 1))
        level = (abs(self.gain) * sigma.float()).clamp(min=float(self.levels[0]))
        noisy, s = self.gain * x + self.offset, level.reshape(wide)
        alpha = (1 + s**2).rsqrt()  # of a process that keeps the variance
        planes = [self.gain * condition.values[name] + self.offset for name in self.given]
        classes = condition.values[self.by_class].long() if self.by_class else None
        told = self.net(torch.cat([noisy * alpha, *planes], 1), self._step(level), classes)
        if self.prediction == "epsilon":
            clean = noisy - s * told
        elif self.prediction == "v":
            clean = alpha * (alpha * noisy) - s * alpha * told
        else:
            clean = told
        result: Tensor = (clean - self.offset) / self.gain
        return result

    def _step(self, level: Tensor) -> Tensor:
        """(B,) steps at which training had such levels; between two of them as the logarithm lies."""
        known, asked = self.levels.log(), level.log()
        after = torch.searchsorted(known, asked).clamp(1, len(known) - 1)
        share = (asked - known[after - 1]) / (known[after] - known[after - 1])
        return after - 1 + share.clamp(0, 1)

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        device = self.levels.device
        chance = rng.child("level").uniform().to(device)
        sigma = self.levels[(chance * len(self.levels)).long().clamp(max=len(self.levels) - 1)] / abs(self.gain)
        noise = rng.child("noise").normal(*problem.shape).to(device)
        clean = torch.zeros(1) if problem.target is None else problem.target
        wide = sigma.reshape(-1, *[1] * len(problem.shape))
        answer = self.denoise(clean + wide * noise, sigma, problem.condition)
        return {"noise": squared(problem, answer, wide**-2.0)}

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return dpm_solver_2m(self, problem, rng)


def _check_scale(scale: Sequence[float]) -> None:
    if len(scale) != 2 or not scale[0]:
        raise ValueError(f"scale is {list(scale)}, expected a gain that is not 0 and an offset: scale: [2, -1]")


def _noise(said: Mapping[str, Any]) -> tuple[str, Tensor]:
    """(prediction, noise level beside a signal of 1 at each step); raises ValueError for what is not known."""
    for key in said:
        if key not in NOISE:
            raise unknown("key of noise", str(key), list(NOISE))
    plain = {**NOISE, **said}
    check_type("noise.steps", plain["steps"], int)
    steps = int(plain["steps"])
    if plain["schedule"] not in SCHEDULES:
        raise unknown("noise.schedule", str(plain["schedule"]), list(SCHEDULES))
    if plain["prediction"] not in PREDICTIONS:
        raise unknown("noise.prediction", str(plain["prediction"]), list(PREDICTIONS))
    ends = (plain["start"], plain["end"])
    if not all(type(v) in (int, float) for v in ends) or not (0 < ends[0] < ends[1] < 1 and steps > 1):
        raise ValueError(f"noise has {steps} steps from {ends[0]} to {ends[1]}, expected 1000 from 0.0001 to 0.02.")
    start, end = map(float, ends)
    if plain["schedule"] == "cosine":
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        signal = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
        betas = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
    elif plain["schedule"] == "scaled linear":
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    else:
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
    kept = torch.cumprod(1 - betas, 0)
    return str(plain["prediction"]), ((1 - kept) / kept).sqrt().float()
