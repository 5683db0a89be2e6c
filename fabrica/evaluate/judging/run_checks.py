"""Honesty checks on a run: its parts, its draws beside the truth, and what its figures may be taken for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..honesty.endpoints import SEGMENTED
from ..honesty.ledger import OFF_PIXELS, Ledger, flipped, shift_pixels
from ..metrics.pixel import METRICS
from ..report.results import Report
from ..sets.embedding import Picture
from ..sets.realism import Realism
from .folder_checks import BY_DESIGN

SURFACES = ("hausdorff95", "surface dice")
BY_CONSTRUCTION: Mapping[int, tuple[Collection[str], str]] = {  # check -> the metrics that it is about (none: all), why
    2: ((), BY_DESIGN[2]),
    3: (METRICS, "1 is the 99.5th percentile of the true image's foreground, or SynthRAD's 4095 HU."),
    5: (METRICS, "Draws are put back on the scale and in the units of the scans before they are measured."),
    6: (METRICS, "No image is stretched between its own two ends: an offset and a percentile, kept and undone."),
    7: (METRICS, "Metrics count inside the patient."),
    8: (METRICS, "The patient is where true images are bright, or the label that the recipe names."),
    10: (SURFACES, BY_DESIGN[10]),
    20: ((), "The sentence at the head claims no difference."),
}


def check_parts(ledger: Ledger, stage: str, parts: Mapping[str, Collection[str]]) -> None:
    """Check 1: `parts`: patients who train and who test."""
    for name, own in parts.items():
        for other, rest in parts.items():
            if name < other and (shared := set(own) & set(rest)):
                ledger.trigger(
                    1, f"{stage}: {len(shared)} patients are in {name} and in {other}, {min(shared)} among them."
                )
    sizes = ", ".join(f"{len(set(own))} {name}" for name, own in parts.items() if own)
    ledger.passed(1, f"Parts share no patient ({sizes}); images that are copies of training ones were left out.")


def check_drawn(ledger: Ledger, drawn: Sequence[Picture], real: Sequence[Picture], paired: bool) -> None:
    """Checks 4 and 9 on draws beside the truth of the same case; `paired`: the model was shown that patient."""
    truths = {p.name: p.values for p in real}
    if truths:
        ledger.looked.add(4)
    if low := [name for name, values in truths.items() if float(values.min()) < 0]:
        ledger.trigger(4, f"{len(low)} true images hold negative values, {low[0]} among them: SSIM means little there.")
    if not paired:
        return
    for picture in drawn:
        truth = truths.get(picture.name)
        if truth is None:
            continue
        ledger.looked.add(9)
        if flipped(picture.values, truth):
            ledger.trigger(9, f"{picture.name} fits its truth better when turned left to right.")
        elif (off := shift_pixels(picture.values, truth)) > OFF_PIXELS:
            ledger.trigger(
                9, f"{picture.name} is drawn {off:.1f} pixels off its truth; paired metrics mostly measure that."
            )


def check_distances(ledger: Ledger, found: Realism | None) -> None:
    """Checks 11, 12 and 13, where sets were compared."""
    if found is None or not found.distances:
        return
    for number in (12, 13):
        ledger.passed(number, BY_DESIGN[number])
    if weak := sorted({d.embedding for d in found.distances if d.few}):
        ledger.trigger(
            11,
            f"By {', '.join(weak)} there are fewer cases than features: the Fréchet distance is shown, and is no"
            " evidence.",
        )
    ledger.passed(11, "Every distance stands beside that of real patients from each other.")


def conclude(report: Report) -> None:
    """What is known once every stage was judged; closes the ledger."""
    ledger = report.ledger or Ledger()
    rows = [r for stage in report.stages for r in stage.cases if isinstance(r.value, int | float)]  # where it is known
    ours, theirs = ({r.metric for r in rows if r.by.startswith("model") == model} for model in (True, False))
    if ours & theirs & {*METRICS, *SEGMENTED}:
        ledger.looked.add(21)
    for sentence in (*report.undiscriminating(), *(c for s in report.stages if s.realism for c in s.realism.cheats)):
        ledger.trigger(21, sentence)
    measured = {r.metric for r in rows if r.by.startswith("model") and r.contrast}
    for number, (metrics, why) in BY_CONSTRUCTION.items():
        if measured & set(metrics) or (measured and not metrics):
            ledger.passed(number, why)
    ledger.close()
    report.ledger = ledger
