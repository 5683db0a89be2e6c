"""A draft of what scans show: a mask that a model draws, its findings measured, and words that carry their evidence."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray

from .. import io
from ..contracts import Field, Image
from ..data.cases import Prepared, left_out, prepare_case
from ..data.cohort import Member, Source, unreadable
from ..data.findings import described as worded
from ..data.findings import facts_of, measured_in, sentence
from ..deliver.files import write_whole
from ..evaluate.report.pictures import outlined
from ..io import UnreadableError
from ..machine.device import find_device
from ..registry import unknown
from ..run.answering import Answering
from ..run.directions import Asking, Direction, chosen
from ..run.draw import image_of
from ..run.folder import RunFolder
from ..run.sequence import Say
from .record import record_of
from .sentences import Finding, Sentence, sentences_of

PAGE = Path(__file__).with_name("draft.html")
MARK = (
    "A draft by a model. A person has to look at the images and check every sentence before anybody uses it."
    " Chances are the model's own: nobody has calibrated them."
)
NUMBERED = "findings"  # the file of findings by their numbers
HALF = 0.5
DOUBTFUL = 0.1  # chance from which what some draws show is named, though the draft does not say it
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Draft:
    case: str
    sentences: tuple[Sentence, ...]
    findings: tuple[Finding, ...]
    doubtful: tuple[Finding, ...]
    highest: float  # chance of any voxel
    spoken: tuple[dict[str, Any], ...] = ()  # words of a model that speaks, slice by slice, beside its mask
    truth: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        return " ".join(s.text for s in self.sentences)


def draft_scans(
    run: Path, data: Source, out: Path, *, label: str | None = None, draws: int = 4, stage: str | None = None,
    device: str = "auto", say: Say = print,
) -> list[Path]:  # fmt: skip
    """OUT/CASE/draft.json, draft.txt, LABEL.nii.gz, findings.nii.gz (by their numbers), OUT/index.html, OUT/drafts.csv.

    The run segments, or gives any parts and a mask among them. Where a case has the mask that is drafted, what is
    invented and left out is counted. Raises ValueError for a run that draws no mask, UnreadableError for the scans.
    """
    opened = RunFolder.open(run)
    answering = Answering(opened, opened.last_stage(stage), find_device(device))
    field = _label(answering, label)
    if answering.unfinished:
        say(answering.unfinished)
    cohort = data.find()
    for line in unreadable(cohort):
        say(line)
    drafts, shown, recorded = list[Draft](), list[dict[str, Any]](), []
    for member in answering.job.gathered(cohort.members, True):
        try:
            made = _drafted(answering, field, member, draws, out, say)
        except UnreadableError as error:
            say(left_out(member, error))
            continue
        if made is None:
            continue
        draft, pictures, mask = made
        drafts.append(draft)
        shown.append({"draft": draft, "pictures": pictures})
        recorded.append((member, {field.name: [mask]}))
        say(f"{draft.case}: {draft.text}")
    if not drafts:
        needed = ", ".join(answering.signature.given)
        raise ValueError(f"No case in {data.folder} has {needed}. See what is there: fabrica inspect {data.folder}")
    record_of(opened, answering.stage, out, recorded).write()
    environment = jinja2.Environment(autoescape=True)
    page = environment.from_string(PAGE.read_text())
    total = _total(drafts)
    about = f"{answering.stage.name} of {opened.name}, weights {answering.scans.weights[:12]}, {draws} draws"
    write_whole(out / "index.html", page.render(mark=MARK, about=about, shown=shown, total=total).encode())
    _write_table(out / "drafts.csv", drafts)
    if total:
        say(total)
    return [out / "index.html", out / "drafts.csv", *(out / d.case / "draft.json" for d in drafts)]


def _label(answering: Answering, wanted: str | None) -> Field:
    """The mask that is put into words; raises ValueError where there is none or there are several."""
    labels = [f for f in answering.signature.x if f.kind == "label"]
    if not labels or answering.job.answer not in ("image", "parts"):
        raise ValueError(
            f"{answering.run.path} draws no mask to put into words. Train one: fabrica run recipes/segmentation.yaml"
        )
    if wanted is None and len(labels) > 1:
        raise ValueError(f"The run draws {', '.join(f.name for f in labels)}. Name one: --label {labels[0].name}")
    found = next((f for f in labels if wanted in (None, f.name)), None)
    if found is None:
        raise unknown("label of the run", str(wanted), [f.name for f in labels])
    if found.channels != 2:
        raise ValueError(
            f"{found.name} has {found.channels} classes, and a draft speaks of lesions or none. Train on a mask of one:"
            " job: {name: segmentation, x: [lesion]}"
        )
    return found


def _drafted(
    answering: Answering, field: Field, member: Member, draws: int, out: Path, say: Say
) -> tuple[Draft, list[str], Path] | None:
    """The draft of a case, its pictures, and the file of its mask; nothing where it lacks what is given."""
    asked = _asked(answering, field, member, draws, say)
    if asked is None:
        return None
    prepared, chances, spoken = asked
    affine = prepared.grid.affine.numpy().astype(float)
    numbers, measured = measured_in(chances > HALF, affine)
    findings = tuple(Finding(m, float(chances[numbers == m.label].mean())) for m in measured)
    path, apart = (out / member.name / f"{name}.nii.gz" for name in (field.name, NUMBERED))
    io.write_nifti(_on_scan(answering, prepared, field, numbers > 0), path)
    io.write_nifti(_on_scan(answering, prepared, field, numbers), apart)
    sentences, doubtful = sentences_of(findings, apart, prepared.grid), _doubtful(chances, numbers, affine)
    truth = None
    if field.name in prepared.tensors:
        truth = against(numbers, findings, prepared.tensors[field.name][0].numpy() > HALF, affine)
    draft = Draft(member.name, sentences, findings, doubtful, float(chances.max()), tuple(spoken), truth)
    _write(draft, field, answering, out / member.name, draws)
    return draft, _pictures(prepared, numbers, findings), path


def _asked(
    answering: Answering, field: Field, member: Member, draws: int, say: Say
) -> tuple[Prepared, NDArray[np.float64], list[dict[str, Any]]] | None:
    """(the case, chance of the label in each voxel (z, y, x), what a speaking model said)."""
    signature, count = answering.signature, 1 if answering.family.deterministic else draws
    if answering.job.answer == "parts":
        return _asked_of_parts(answering, field, member, draws)
    if not answering.can(member):
        say(f"{member.name}: has no {', '.join(signature.given)}; left out.")
        return None
    prepared, x = answering.drawn(member, count, say)
    prepared = _with_truth(answering, field, member, prepared)
    return prepared, _chances(chosen(signature.x, x, [field.name]).numpy()), []


def _asked_of_parts(
    answering: Answering, field: Field, member: Member, draws: int
) -> tuple[Prepared, NDArray[np.float64], list[dict[str, Any]]] | None:
    signature, job = answering.signature, answering.job
    words = tuple(n for n, label in job.described.items() if label == field.name)
    images = [f.name for f in signature.x if f.name in member.contrasts() and f.kind != "label"]
    if not images:
        return None
    prepared = prepare_case(member, images, images[0], answering.preparation)
    layout = answering.layout
    asking = Asking(answering.family, job, layout, answering.seed)
    parts = asking.answer(prepared, Direction(tuple(images), (*words, field.name)), draws, lambda _: None)
    x = chosen(signature.x, parts.images, [field.name]).numpy()
    affine, spoken = prepared.grid.affine.numpy().astype(float), list[dict[str, Any]]()
    masks = x[0].argmax(0) > 0
    for name in words:
        for k in range(masks.shape[0]):
            if bool(parts.shown[k]):
                text = layout.words[name].text(parts.told[0][name][k].cpu())
                seen = facts_of(worded(masks[k], affine))
                spoken.append({"slice": k, "text": text, "agrees": dict(facts_of(text)) == dict(seen)})
    return _with_truth(answering, field, member, prepared), _chances(x), spoken


def _chances(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """(draws, classes, z, y, x) of a label -> (z, y, x): the mean chance of anything but the background."""
    positive = np.clip(x, 0, None).astype(float)
    found: NDArray[np.float64] = (positive[:, 1:].sum(1) / np.maximum(positive.sum(1), 1e-6)).mean(0)
    return found


def _with_truth(answering: Answering, field: Field, member: Member, prepared: Prepared) -> Prepared:
    """With the mask that the case has, on the same grid: it is compared with, never shown to the model."""
    if field.name not in member.contrasts():
        return prepared
    anchor = next(iter(prepared.case.images))
    try:
        known = prepare_case(member, [anchor, field.name], anchor, answering.preparation)
    except (KeyError, ValueError):
        return prepared
    return replace(prepared, tensors={**prepared.tensors, field.name: known.tensors[field.name]})


def _doubtful(
    chances: NDArray[np.float64], numbers: NDArray[np.int32], affine: NDArray[np.float64]
) -> tuple[Finding, ...]:
    """What some draws show, apart from what is said."""
    parts, measured = measured_in(chances > DOUBTFUL, affine)
    return tuple(
        Finding(m, float(chances[own].mean())) for m in measured if not (numbers[own := parts == m.label] > 0).any()
    )


def _on_scan(answering: Answering, prepared: Prepared, field: Field, values: NDArray[Any]) -> Image:
    """A map of the model's grid on that of the scan."""
    return image_of(torch.from_numpy(values[None].astype(np.float32)), field, prepared, answering.preparation)


def against(
    numbers: NDArray[np.int32], findings: Sequence[Finding], true_mask: Mask, affine: NDArray[np.float64]
) -> dict[str, Any]:
    """What of the findings touches the true mask, what is invented, what is left out."""
    parts, known = measured_in(true_mask, affine)
    right = [f.measured.label for f in findings if (parts[numbers == f.measured.label] > 0).any()]
    found = [m.label for m in known if (numbers[parts == m.label] > 0).any()]
    said, true = (
        facts_of(sentence(list(own))) for own in ([f.measured.lesion for f in findings], [m.lesion for m in known])
    )
    return {
        "lesions": len(known), "found": len(found), "drafted": len(findings), "right": len(right),
        "invented": [f.measured.label for f in findings if f.measured.label not in right],
        "left_out": [asdict(m) for m in known if m.label not in found],
        "facts": len(true), "facts_said": len(said), "facts_right": len(said.items() & true.items()),
    }  # fmt: skip


def _write(draft: Draft, field: Field, answering: Answering, folder: Path, draws: int) -> None:
    plain = {
        "draft": MARK, "case": draft.case, "model": f"{answering.run.name}/{answering.stage.name}",
        "weights": answering.scans.weights, "draws": draws, "mask": f"{field.name}.nii.gz",
        "findings_by_number": f"{NUMBERED}.nii.gz", "text": draft.text,
        "sentences": [asdict(s) for s in draft.sentences],
        "findings": [{**asdict(f.measured), "chance": f.chance} for f in draft.findings],
        "not_said": [{**asdict(f.measured), "chance": f.chance} for f in draft.doubtful],
        "highest_chance_of_a_voxel": draft.highest, "spoken": list(draft.spoken), "truth": draft.truth,
    }  # fmt: skip
    write_whole(folder / "draft.json", (json.dumps(plain, indent=1) + "\n").encode())
    lines = [MARK, "", *(s.text + (f" [not confirmed: {s.why}]" if not s.checked else "") for s in draft.sentences)]
    write_whole(folder / "draft.txt", ("\n".join(lines) + "\n").encode())


def _pictures(prepared: Prepared, numbers: NDArray[np.int32], findings: Sequence[Finding]) -> list[str]:
    """Every finding in its largest section, outlined on the first image that was given."""
    image = next(t for t in prepared.tensors.values()).numpy()[0]
    shown = []
    for one in findings:
        own = numbers == one.measured.label
        z = int(own.sum((1, 2)).argmax())
        shown.append(outlined(image[z], own[z]))
    return shown


def _total(drafts: Sequence[Draft]) -> str:
    known = [d.truth for d in drafts if d.truth is not None]
    if not known:
        return ""
    drafted, right, true, found = (sum(t[k] for t in known) for k in ("drafted", "right", "lesions", "found"))
    facts, said, correct = (sum(t[k] for t in known) for k in ("facts", "facts_said", "facts_right"))

    def of(count: int, all_: int) -> str:
        return f"{count} of {all_}" + (f" ({count / all_:.2f})" if all_ else "")

    return (
        f"Beside the masks of {len(known)} cases: {of(right, drafted)} findings are there, {drafted - right} invented;"
        f" {of(found, true)} lesions are found, {true - found} left out; {of(correct, said)} facts said are right, of"
        f" {facts} to be said."
    )


def _write_table(path: Path, drafts: Sequence[Draft]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["case", "findings", "not_confirmed", "not_said", "lesions", "found", "invented", "left_out", "text"]
        )
        for d in drafts:
            t = d.truth
            known = (
                ["", "", "", ""] if t is None else [t["lesions"], t["found"], len(t["invented"]), len(t["left_out"])]
            )
            unsure = sum(not s.checked for s in d.sentences)
            writer.writerow([d.case, len(d.findings), unsure, len(d.doubtful), *known, d.text])
