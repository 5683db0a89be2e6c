"""Paired images in two folders, from any generator: matched by relative name, measured per file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .. import io
from ..data.prepare import grid_of, resample, same_grid
from ..registry import measure
from .pixel import METRICS
from .report import Report, StageResult, render
from .summary import Row, in_words


def evaluate_folders(
    generated: Path, reference: Path, out: Path, data_range: float | None, say: Callable[[str], None]
) -> Path:
    """Tier 1 for every pair; grids that differ are resampled and said so. Raises ValueError when nothing pairs."""
    ours = {str(s.files[0].relative_to(generated)): s for s in io.scan_folder(generated).scans}
    theirs = {str(s.files[0].relative_to(reference)): s for s in io.scan_folder(reference).scans}
    pairs = sorted(ours.keys() & theirs.keys())
    if not pairs:
        raise ValueError(
            f"No file name stands in both {generated} and {reference}. Give pairs the same relative names."
        )
    report = Report.start({"evaluate": {"generated": str(generated.name), "reference": str(reference.name)}}, out.name)
    lost = len(ours.keys() | theirs.keys()) - len(pairs)
    if lost:
        report.remark(f"{lost} files stand in one folder only and were left out.")
        say(report.remarks[-1])
    result = StageResult("given images", "evaluation", "unknown", {}, 0, 0.0, [])
    for name in pairs:
        image, truth = io.read(ours[name]), io.read(theirs[name])
        if not same_grid(grid_of(image), grid_of(truth)):
            image = resample(image, grid_of(truth))
            report.remark(f"{name}: resampled to the grid of its reference.")
        patient = ours[name].patient or name.split("/")[0]
        evidence = {"generated": image.data[0].numpy(), "reference": truth.data[0].numpy(), "data_range": data_range}
        for metric, known in METRICS.items():
            unit = known.unit if known.unit == "dB" else ""
            result.cases.append(Row(name, patient, "", "model", metric, in_words(measure(known, evidence)), unit))
    report.stages.append(result)
    return render(report, out)
