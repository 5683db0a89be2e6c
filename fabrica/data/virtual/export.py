"""Simulated patients as files: NIfTI per contrast and label, a participants table, findings in words."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from ...io import write_nifti
from .patients import LABELS, VirtualCohort
from .scan import CONTRASTS


def write_cohort(plan: VirtualCohort, folder: Path, say: Callable[[str], None]) -> int:
    """PATIENT[/VISIT]/CONTRAST.nii.gz and participants.tsv; returns the number of images written."""
    count = 0
    rows: list[dict[str, float | str]] = []
    for member in plan.cohort().members:
        case = member.load([*CONTRASTS, *LABELS])
        place = folder / case.patient / case.visit if case.visit else folder / case.patient
        for name, image in case.images.items():
            write_nifti(image, place / f"{name}.nii.gz")
            count += 1
        rows.append({"participant_id": case.patient, "visit": case.visit, "days": case.days, **case.values})
        say(f"{member.name}: {case.values['findings']}")
    with (folder / "participants.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return count
