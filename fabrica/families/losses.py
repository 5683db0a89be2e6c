"""Losses that published methods are made of, each one number a row (B,): what `docs/coverage.md` counts.

Logits of a critic are (B, patches). Images are (B, C, *axes) with two or three axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def _rows(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


def relativistic_critic(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(fake - real): pairs of a real and a generated image (Jolicoeur-Martineau 2019, Huang et al. 2024)."""
    return _rows(F.softplus(fake - real))


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    return _rows(F.softplus(real - fake))


def hinge_critic(real: Tensor, fake: Tensor) -> Tensor:
    """relu(1 - real) + relu(1 + fake) (Lim and Ye 2017)."""
    return _rows(F.relu(1 - real)) + _rows(F.relu(1 + fake))


def hinge_generator(real: Tensor, fake: Tensor) -> Tensor:
    return -_rows(fake)


def least_squares_critic(real: Tensor, fake: Tensor) -> Tensor:
    """(real - 1)^2 + fake^2 (Mao et al. 2017)."""
    return _rows((real - 1) ** 2) + _rows(fake**2)


def least_squares_generator(real: Tensor, fake: Tensor) -> Tensor:
    return _rows((fake - 1) ** 2)


def non_saturating_critic(real: Tensor, fake: Tensor) -> Tensor:
    """-log sigmoid(real) - log(1 - sigmoid(fake)) (Goodfellow et al. 2014)."""
    return _rows(F.softplus(-real)) + _rows(F.softplus(fake))


def non_saturating_generator(real: Tensor, fake: Tensor) -> Tensor:
    return _rows(F.softplus(-fake))


def wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    """fake - real (Arjovsky et al. 2017); needs a gradient penalty."""
    return _rows(fake) - _rows(real)


def wasserstein_generator(real: Tensor, fake: Tensor) -> Tensor:
    return -_rows(fake)


Form = Callable[[Tensor, Tensor], Tensor]
ADVERSARIAL: Mapping[str, tuple[Form, Form]] = {  # name -> critic, generator
    "relativistic": (relativistic_critic, relativistic_generator), "hinge": (hinge_critic, hinge_generator),
    "least squares": (least_squares_critic, least_squares_generator),
    "non-saturating": (non_saturating_critic, non_saturating_generator),
    "wasserstein": (wasserstein_critic, wasserstein_generator),
}  # fmt: skip


def gradient_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """|d logits / d x|^2 of each row: R1 on real, R2 on generated images (Mescheder et al. 2018). Keeps the graph.

    logits (B, patches): the mean over patches where they see different voxels. (The slope of their mean would be as
    many times smaller as there are patches, and bind a critic of large volumes by nothing.)
    """
    patches = logits.flatten(1)
    (slope,) = torch.autograd.grad(patches.sum() / patches.shape[1] ** 0.5, x, create_graph=True)
    return (slope**2).flatten(1).sum(1)


def kl_normal(
    mean: Tensor, log_variance: Tensor, expected: Tensor | None = None, expected_log_variance: Tensor | None = None
) -> Tensor:
    """KL(N(mean, variance) | N(expected, its variance)) of each row in nats, per element; N(0, 1) where nothing is
    expected.
    """
    apart = mean if expected is None else mean - expected
    other = torch.zeros_like(mean) if expected_log_variance is None else expected_log_variance
    return _rows(0.5 * ((apart**2 + log_variance.exp()) * (-other).exp() - 1 + other - log_variance))


def commitment(encoded: Tensor, quantised: Tensor) -> Tensor:
    """|encoded - fixed quantised|^2: an encoder that stays near its code (van den Oord et al. 2017)."""
    return _rows((encoded - quantised.detach()) ** 2)


def absolute(x: Tensor, y: Tensor) -> Tensor:
    """L1; between a round trip and its start: cycle, between input and its own kind: identity (Zhu et al. 2017)."""
    return _rows((x - y).abs())


def squared_error(x: Tensor, y: Tensor) -> Tensor:
    return _rows((x - y) ** 2)


def charbonnier(x: Tensor, y: Tensor, small: float = 0.01) -> Tensor:
    """Mean of `robust_distance` (Charbonnier et al. 1994)."""
    return _rows(robust_distance(x, y, small))


def robust_distance(x: Tensor, y: Tensor, small: float = 0.01) -> Tensor:
    """sqrt((x - y)^2 + small^2) - small of every voxel: squared near 0, absolute beyond `small`."""
    return ((x - y) ** 2 + small**2).sqrt() - small


def gradient_difference(x: Tensor, y: Tensor) -> Tensor:
    """L1 of the differences between neighbours, along every axis (Mathieu et al. 2016)."""
    terms = [_rows((x.diff(dim=d) - y.diff(dim=d)).abs()) for d in range(2, x.ndim) if x.shape[d] > 1]
    return torch.stack(terms).sum(0) if terms else x.new_zeros(len(x))


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference between neighbours, along every axis (Rudin et al. 1992, anisotropic)."""
    return gradient_difference(x, torch.zeros_like(x))


def frequency(x: Tensor, y: Tensor) -> Tensor:
    """L1 of the Fourier transforms, orthonormal: every detail counts by its size, also where pixels hardly see it."""
    axes = tuple(range(2, x.ndim))
    spectrum: Tensor = torch.fft.rfftn(x.float() - y.float(), dim=axes, norm="ortho")
    return _rows(spectrum.abs())


def structural(x: Tensor, y: Tensor, data_range: float = 1.0, side: int = 7) -> Tensor:
    """1 - SSIM with a uniform window (Zhao et al. 2017)."""
    pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
    k = min(side, *x.shape[2:])
    ux, uy = pool(x, k, 1), pool(y, k, 1)
    vx, vy, vxy = pool(x * x, k, 1) - ux * ux, pool(y * y, k, 1) - uy * uy, pool(x * y, k, 1) - ux * uy
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similar = (2 * ux * uy + c1) * (2 * vxy + c2) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))
    return 1 - _rows(similar)


PAIRED: Mapping[str, Form] = {  # name -> of an image and its target; what a recipe may add: losses: {structural: 0.5}
    "absolute": absolute, "squared": squared_error, "charbonnier": charbonnier, "frequency": frequency,
    "gradient difference": gradient_difference, "structural": structural,
    "total variation": lambda x, y: total_variation(x),
}  # fmt: skip


def histogram(x: Tensor, y: Tensor, inside: Tensor) -> Tensor:
    """(B,): how far the values of x and y in a region lie apart, wherever in it they lie: mean difference of both in
    their order (Wasserstein's first distance; of doses the area between two dose-volume histograms of a slice or a
    volume). inside (B, 1, *axes) bool; rows without any voxel count 0.
    """
    found = []
    for one, other, mask in zip(x, y, inside, strict=True):
        where = mask.expand_as(one)
        own, true = one[where].sort().values, other[where].sort().values
        found.append((own - true).abs().mean() if len(own) else one.sum() * 0)
    return torch.stack(found)


REGIONAL: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"histogram": histogram}  # in a problem's regions


def edge_agreement(x: Tensor, y: Tensor) -> Tensor:
    """1 - correlation of edge strengths of two images whose grey values mean different things: shape must stay."""
    strengths = []
    for image in (x, y):
        edges = torch.stack([_padded_difference(image.mean(1), d) ** 2 for d in range(1, image.ndim - 1)]).sum(0)
        flat = (edges + 1e-8).sqrt().flatten(1)
        strengths.append(flat - flat.mean(1, keepdim=True))
    a, b = strengths
    agreement: Tensor = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-8)
    return 1 - agreement


def _padded_difference(image: Tensor, axis: int) -> Tensor:
    slope = image.diff(dim=axis)
    return torch.cat([slope, torch.zeros_like(image.narrow(axis, 0, 1))], axis)


def contrastive(x: Tensor, y: Tensor, temperature: float = 0.1) -> Tensor:
    """InfoNCE: row i of x belongs to row i of y and to no other (van den Oord et al. 2018); (B, features) each."""
    logits = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(x), device=x.device), reduction="none")


def feature_matching(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """L1 between what a critic sees in both, mean over its levels (Wang et al. 2018); real features are fixed."""
    return torch.stack([_rows((a.detach() - b).abs()) for a, b in zip(real, fake, strict=True)]).mean(0)


LOSSES: Mapping[str, Callable[..., Tensor]] = {
    **{f"{name} critic": pair[0] for name, pair in ADVERSARIAL.items()},
    **{f"{name} generator": pair[1] for name, pair in ADVERSARIAL.items()},
    "gradient penalty": gradient_penalty,
    "KL": kl_normal,
    "commitment": commitment,
    "L1": absolute,
    "L2": squared_error,
    "Charbonnier": charbonnier,
    "gradient difference": gradient_difference,
    "total variation": total_variation,
    "frequency": frequency,
    "structural": structural,
    "edge agreement": edge_agreement,
    "contrastive": contrastive,
    "feature matching": feature_matching,
    "histogram": histogram,
}
