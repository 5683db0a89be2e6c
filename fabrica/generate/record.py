"""What a run drew, with the files that it drew from: written beside new draws, gathered from a run's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from .. import __version__
from ..data.cohort import Member
from ..deliver.record import NAME, Drawn, Evidence, Record, SourceFile, hash_of
from ..recipe.values import Stage
from ..run.folder import RECIPE, RunFolder
from ..safeguards.gate import standing

Files = Mapping[str, Sequence[Path]]  # contrast -> a file each draw


def record_of(
    run: RunFolder,
    stage: Stage,
    folder: Path,
    drawn: Sequence[tuple[Member, Files]],
    made: str = "",
    given: Sequence[str] | None = None,
    decided: Mapping[Path, Path] | None = None,
    doubts: Mapping[str, str] | None = None,
) -> Record:
    """Files of each case and contrast, by draw, as a record that lies in `folder`; `given`: which images they were
    drawn from, where not from all that the job reads but those that were drawn. `decided`: first draw -> the file that
    says what of its contrast the prior decided. `doubts`: case -> why its scans are unlike those of training.
    """
    job = stage.build_job()
    signature, images, preparation = job.signature(), [], run.trained(stage).grid_preparation
    known = tuple(dict.fromkeys((*signature.given, *job.simulates, *signature.measurements)))
    for member, by_name in drawn:
        asked = () if job.answer != "parts" else tuple(by_name)
        own = tuple(n for n in (known if given is None else given) if n in member.contrasts() and n not in asked)
        for field in signature.x:
            files = by_name.get(field.name, ())
            if not files:
                continue
            names, hashes = tuple(str(p.relative_to(folder)) for p in files), tuple(map(hash_of, files))
            numbers = job.answer in ("value", "course")
            unit = "" if numbers or field.kind == "label" else preparation.unit_of(field.name, field.unit)
            classes, sources = field.channels if field.kind == "label" else 0, sources_of(member, own)
            kind = "value" if numbers else field.kind
            by_prior = (decided or {}).get(files[0])
            told = ("", "") if by_prior is None else (str(by_prior.relative_to(folder)), hash_of(by_prior))
            images.append(
                Drawn(
                    member.name,
                    field.name,
                    unit,
                    kind,
                    names,
                    hashes,
                    own,
                    sources,
                    classes,
                    *told,
                    (doubts or {}).get(member.name, ""),
                )
            )
    checkpoint = json.loads((run.home(stage) / "checkpoint.json").read_text())
    recipe = hashlib.sha256((run.path / RECIPE).read_bytes()).hexdigest()
    when = made or datetime.now(UTC).isoformat(timespec="seconds")
    return Record(
        folder, run.name, stage.name, str(stage.job.name), stage.family.name, checkpoint["sha256"], recipe,
        run.recipe.seed, __version__, when, tuple(images), standing(run.path, checkpoint["sha256"]),
        evidence_of(run, stage), cohort_of(run, stage),
    )  # fmt: skip


def cohort_of(run: RunFolder, stage: Stage) -> str:
    """sha256 of the scans that a stage was trained and judged on, as its run noted it; '' where it did not."""
    path = run.path / "environment.json"
    known = json.loads(path.read_text()).get("data_sha256", {}) if path.is_file() else {}
    return str(known.get(stage.name, ""))


def evidence_of(run: RunFolder, stage: Stage) -> tuple[Evidence, ...]:
    """What the run's report says of the draws of a stage, as far as it was measured."""
    report = run.path / "report" / "report.json"
    if not report.is_file():
        return ()
    found = []
    for row in json.loads(report.read_text())["summaries"]:
        if row["stage"] == stage.name and str(row["by"]).startswith("model") and row["value"] is not None:
            interval = row["interval"] and (float(row["interval"][0]), float(row["interval"][1]))
            contrast, by, metric, unit = (str(row[k]) for k in ("contrast", "by", "metric", "unit"))
            found.append(Evidence(contrast, by, metric, unit, float(row["value"]), int(row["n"]), interval or None))
    return tuple(found)


def sources_of(member: Member, given: Sequence[str]) -> tuple[SourceFile, ...]:
    """The DICOM files that a case's given images lie in."""
    import pydicom

    found: dict[Path, SourceFile] = {}
    for path in (p for scan in member.scans_of(given) if scan.format == "dicom" for p in scan.files):
        if path not in found:
            header = pydicom.dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
            found[path] = SourceFile(str(path.resolve()), str(header.SOPInstanceUID), hash_of(path))
    return tuple(found.values())


def drawn_in(path: Path, stage: str | None = None) -> Record:
    """Of a folder that `generate` wrote, or of the test cases of a run; raises ValueError where nothing was drawn."""
    if (path / NAME).is_file():
        return Record.read(path)
    run = RunFolder.open(path)
    last = run.last_stage(stage)
    names, several = [f.name for f in last.build_job().signature().x], len(last.build_job().signature().x) > 1
    cases = {p.name: p for p in sorted((path / "stages" / last.name / "draws").glob("*")) if p.is_dir()}
    drawn = []
    for plan in run.recipe.cohorts.values():
        for member in last.build_job().gathered(plan.find().members):
            if (folder := cases.get(member.name)) is None:
                continue
            by_name = {n: sorted(folder.glob(f"*-{n}.nii.gz" if several else "*.nii.gz")) for n in names}
            drawn.append((member, by_name))
    if not drawn:
        raise ValueError(f"{path} has drawn nothing of cases that are still there. Type: fabrica run {path}")
    report = path / "report" / "report.json"
    made = str(json.loads(report.read_text())["made"]) if report.is_file() else ""
    return record_of(run, last, path, drawn, made)
