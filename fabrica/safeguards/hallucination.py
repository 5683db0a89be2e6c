"""What a reconstruction invented: how well it explains what was measured, in which details, and what no datum fixes.

A prior fills in what the data leave open (Bhadra et al. 2021). Its part cannot be right or wrong by the data; it can
only be shown. What contradicts the data can be told, and then nothing should be read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts import Measurement, Scattered
from ..physics.algebra import LinearOperator
from ..physics.consistency import Data

BANDS = ("coarse", "middle", "fine")  # thirds of the frequencies that were measured
FITS = (0.7, 1.3)  # misfits between which answer and data agree: noise leaves 1
WIDTH = 0.3  # deviation of prepared images: what is known of a voxel before anything is measured
ITERATIONS = 40


def misfit_by_band(measured: Measurement, x: Tensor) -> dict[str, Tensor]:
    """Band -> (B,) mean square of what x leaves unexplained, in units of the noise: 1 is what noise leaves.

    Of k-space bands are rings; of sinograms and images, thirds of the frequencies along the detector or of the image.
    Empty for noise without a variance.
    """
    operator, noise, y = measured.operator, measured.noise, measured.value
    if not isinstance(noise, Scattered) or not isinstance(operator, LinearOperator):
        return {}
    seen = operator.measured(y).expand_as(y)
    off = (noise.linear(y) - operator(x)) * noise.precision(y).sqrt() * seen
    axes = 1 if operator.details == "lines" else min(2, y.ndim - 2)
    own = operator.radius
    radius = _radius(tuple(y.shape[-axes:]), centred=operator.details == "spectrum") if own is None else own
    if own is not None or operator.details == "spectrum":
        power, counted = off.abs().square() / 2, seen.float()
    else:  # white noise stays white
        power = torch.fft.fftn(off, dim=tuple(range(-axes, 0)), norm="ortho").abs().square()
        counted = torch.ones_like(power) * seen.float().mean()
    found = {}
    for k, name in enumerate(BANDS):
        band = ((radius >= k / 3) & (radius < (k + 1) / 3)).to(power) * counted
        count = band.flatten(1).sum(1)
        if bool((count > 0).all()):
            found[name] = (power * (band > 0)).flatten(1).sum(1) / count
    return found


def _radius(sides: tuple[int, ...], *, centred: bool) -> Tensor:
    """From 0 in the middle of the frequencies to 1 at the end of an axis; corners are beyond the last band."""
    lines = [torch.fft.fftfreq(n).abs() * 2 for n in sides]
    lines = [torch.fft.fftshift(line) for line in lines] if centred else lines
    squares = [line**2 for line in torch.meshgrid(*lines, indexing="ij")]
    return torch.stack(squares).sum(0).sqrt()


def fixed_by_data(measured: Measurement, x: Tensor) -> Tensor:
    """The part of x that the data fix: (H + 1 / WIDTH^2)^-1 H x, H = A^H A weighed by the noise.

    x minus it is what a prior decided: along directions that were not measured, or drowned in noise.
    """
    data = Data.of(measured)
    return data.solved(data.normal(x), torch.tensor(WIDTH**-2, device=x.device), ITERATIONS)


def abstains(misfit: float, least: float = 1.0) -> str:
    """What must be known before an answer with this misfit is read; '' where it agrees with what was measured.

    `least`: the misfit that the physics leaves to any answer, 1 where it is told right. What contradicts the data more
    than that is the prior's, and nothing should be read; the physics' own part is a caution.
    """
    low, high = FITS
    if misfit > high * max(1.0, least):
        return (
            f"ABSTAIN: it explains what was measured {misfit:.1f} times worse than noise would, where the data by"
            f" themselves reach {max(1.0, least):.1f}. The prior knows no such image. Do not read it"
        )
    if misfit < low:
        return (
            f"ABSTAIN: it follows the noise (a misfit of {misfit:.2f} where 1 is expected). The noise is told too"
            " large, or the data were trusted too much. Do not read it"
        )
    if least > high:
        return (
            f"CAUTION: no image explains what was measured better than {least:.1f} times the noise. The physics (maps,"
            " phase, geometry, noise) is not quite that of the scan; read it as such"
        )
    return ""
