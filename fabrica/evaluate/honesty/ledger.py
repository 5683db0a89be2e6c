"""The honesty checks of EVALUATION, section 8: what each asks, what came of it, and the reason when it was
overruled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.registration import phase_cross_correlation

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Severity = Literal["refuse", "warn", "note"]
Status = Literal["passed", "refused", "warned", "noted", "overruled", "not asked"]
OFF_PIXELS = 0.25  # residual shift of a pair that is warned of
WIDEST = {1: 4096, 2: 1024, 3: 160}  # axes -> side of the block in which a shift is looked for
ENOUGH = 2_000_000  # voxels of a correlation
BACKGROUND = 0.2  # share of the image beyond the patient
TITLES: Mapping[int, tuple[str, Severity]] = {
    1: ("no patient both trains and judges", "refuse"),
    2: ("intervals and p values are over patients, not images", "refuse"),
    3: ("data_range is given and fits the images", "refuse"),
    4: ("SSIM only where no value is negative", "refuse"),
    5: ("physical units are not measured on a normalised scale", "warn"),
    6: ("no minimum and maximum taken from each image", "refuse"),
    7: ("background does not dilute the metrics", "warn"),
    8: ("masks come from the truth", "refuse"),
    9: ("pairs lie on each other", "warn"),
    10: ("surfaces are measured in millimetres", "refuse"),
    11: ("Fréchet distances have more cases than features, and a null", "refuse"),
    12: ("no interval from resampling a distance", "refuse"),
    13: ("features are scaled by both sets together", "refuse"),
    14: ("no lossy compression on one side alone", "refuse"),
    15: ("raw data are not simulated from finished images", "warn"),
    16: ("enough patients for a verdict", "refuse"),
    17: ("one endpoint, declared before results", "refuse"),
    18: ("every seed that was started is reported", "refuse"),
    19: ("failed cases count as worst", "refuse"),
    20: ("no difference found is not called no difference", "refuse"),
    21: ("the model beats trivial answers", "warn"),
    22: ("utility is compared at equal compute with augmented real data", "refuse"),
    23: ("privacy is claimed on an attack and a holdout", "refuse"),
    24: ("coverage is claimed per image, on patients who calibrated nothing", "refuse"),
    25: ("tiers agree", "warn"),
}


class HonestyError(ValueError):
    """A check refused; `number` is what --override takes."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


@dataclass(frozen=True)
class Finding:
    """What came of one check."""

    number: int
    status: Status
    why: str

    @property
    def title(self) -> str:
        return TITLES[self.number][0]


@dataclass
class Ledger:
    """Findings of a report. `overrides`: check -> the reason why it may be overruled, which stays in the report."""

    overrides: Mapping[int, str] = field(default_factory=dict)
    found: dict[int, Finding] = field(default_factory=dict)
    looked: set[int] = field(default_factory=set)  # checks that had something to look at

    def __post_init__(self) -> None:
        for number, reason in self.overrides.items():
            if number not in TITLES:
                raise ValueError(
                    f"There is no check {number}. Checks are numbered 1 to {len(TITLES)}: see docs/honesty.md"
                )
            if len(reason.strip()) < 10:
                raise ValueError(
                    f"Check {number} is overruled by a reason that readers see. Write: --override '{number}=why ...'"
                )

    def trigger(self, number: int, why: str, fix: str = "") -> bool:
        """The check found something. Returns whether what it guards may still be shown; raises where nothing may
        follow.

        A warning never stops anything. What is refused may follow only when it was overruled.
        """
        if number in self.overrides:
            self._set(number, "overruled", f"{why} Overruled: {self.overrides[number]}")
            return True
        severity = TITLES[number][1]
        states: dict[Severity, Status] = {"refuse": "refused", "warn": "warned", "note": "noted"}
        self._set(number, states[severity], f"{why} {fix}".strip())
        return severity != "refuse"

    def stop(self, number: int, why: str, fix: str) -> None:
        """As `trigger`, for what must not be evaluated at all: raises HonestyError unless overruled."""
        if not self.trigger(number, why, fix):
            raise HonestyError(
                number, f"{why} {fix} (Honesty check {number}; to overrule: --override '{number}=why ...')"
            )

    def passed(self, number: int, why: str = "") -> None:
        """Nothing was found; an earlier finding stays."""
        if number not in self.found:
            self._set(number, "passed", why)

    def close(self) -> None:
        """What looked and found nothing has passed."""
        for number in sorted(self.looked):
            self.passed(number)

    def _set(self, number: int, status: Status, why: str) -> None:
        before = self.found.get(number)
        if before is None or before.status == "passed" or (status != before.status and status != "passed"):
            self.found[number] = Finding(number, status, why)
        elif why not in before.why and before.why.count(";") < 3:
            self.found[number] = Finding(number, status, f"{before.why}; {why}")

    def table(self) -> list[Finding]:
        """All 25, those that were not asked too."""
        return [self.found.get(n, Finding(n, "not asked", "")) for n in TITLES]


def parse_overrides(texts: Sequence[str]) -> dict[int, str]:
    """`7=reason` each; raises ValueError for anything else."""
    found = {}
    for text in texts:
        number, equals, reason = text.partition("=")
        if not equals or not number.strip().isdigit():
            raise ValueError(f"{text!r} overrules nothing. Write: --override '7=the background is part of the task'")
        found[int(number)] = reason.strip()
    return found


def range_fault(data_range: float, references: Sequence[Array]) -> str:
    """Check 3: why a data_range cannot be that of these images; '' when it can."""
    low, high = min(float(r.min()) for r in references), max(float(r.max()) for r in references)
    if high - low > 1.05 * data_range:
        return f"data_range is {data_range:g}, but reference values run from {low:.4g} to {high:.4g}."
    if low >= 0 and high <= 1 and data_range > 1:
        return f"data_range is {data_range:g}, but reference values lie between 0 and 1."
    if high - low < data_range / 20:
        return f"data_range is {data_range:g}, twenty times what reference values span ({low:.4g} to {high:.4g})."
    return ""


def stretched(images: Sequence[Array]) -> bool:
    """Check 6: does every image have the same minimum and maximum, as after a per-image stretch? Five images at
    least.
    """
    ends = {(float(i.min()), float(i.max())) for i in images if i.size}
    return len(images) >= 5 and len(ends) == 1


def background_share(reference: Array) -> float:
    """Check 7: share of voxels within a hundredth of the span of the darkest value."""
    low, high = float(reference.min()), float(reference.max())
    return float((reference <= low + 0.01 * (high - low)).mean())


def mask_of_generated(mask: Mask, generated: Array, reference: Array) -> bool:
    """Check 8: is the mask what some threshold makes of the generated image, and not of the reference?"""
    return _threshold_fit(mask, generated) > 0.999 > _threshold_fit(mask, reference)


def _threshold_fit(mask: Mask, image: Array) -> float:
    """Largest share of voxels on which mask and a threshold of the image agree, among 64 thresholds."""
    inside, outside = image[mask], image[~mask]
    if not inside.size or not outside.size:
        return 0.0
    levels = np.unique(
        np.concatenate([np.quantile(inside, np.linspace(0, 0.2, 32)), np.quantile(outside, np.linspace(0.8, 1, 32))])
    )
    agree = [((inside >= v).sum() + (outside < v).sum()) / image.size for v in levels]
    return float(max(agree))


def shift_pixels(generated: Array, reference: Array) -> float:
    """Check 9: by how many pixels a pair is shifted, to a tenth (upsampled phase correlation of their smoothed
    selves). Of volumes too large for that, the block around their middle says it.
    """
    place = _middle(reference)
    generated, reference = generated[place], reference[place]
    if not np.ptp(generated) or not np.ptp(reference):
        return 0.0
    pair = [ndimage.gaussian_filter(np.asarray(v, np.float64) - np.mean(v), 1.0) for v in (generated, reference)]
    window = np.ones(())
    for n in reference.shape:
        window = window[..., None] * (np.hanning(n + 2)[1:-1] if n > 4 else np.ones(n))
    found, _, _ = phase_cross_correlation(pair[1] * window, pair[0] * window, upsample_factor=10, normalization=None)  # type: ignore[no-untyped-call]
    return float(np.linalg.norm(found))


def _middle(image: Array) -> tuple[slice, ...]:
    """The block of at most WIDEST voxels a side around the middle of what is bright."""
    widest, dark = WIDEST[min(image.ndim, 3)], float(image.min())
    place = []
    for axis, n in enumerate(image.shape):
        others = tuple(k for k in range(image.ndim) if k != axis)
        mass = np.cumsum(image.mean(others, dtype=np.float64) - dark)
        centre = int(np.searchsorted(mass, mass[-1] / 2)) if n > widest else 0
        first = min(max(0, centre - widest // 2), max(0, n - widest))
        place.append(slice(first, first + widest))
    return tuple(place)


def flipped(generated: Array, reference: Array) -> bool:
    """Whether a pair fits clearly better after turning the generated image left to right."""

    step = max(1, round((reference.size / ENOUGH) ** (1 / reference.ndim)))  # a flip shows in every k-th voxel as well
    thin = (slice(None, None, step),) * reference.ndim
    generated, reference = generated[thin], reference[thin]

    def fit(a: Array) -> float:
        return float(np.corrcoef(a.ravel(), reference.ravel())[0, 1]) if np.ptp(a) and np.ptp(reference) else 0.0

    return fit(generated[..., ::-1]) > fit(generated) + 0.1
