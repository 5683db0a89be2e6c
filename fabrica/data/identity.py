"""Whose image a file is: names and folders read as the field writes them. Two readings of one name are said, not
chosen.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from .. import io
from ..io import RAW, VOLUMES, Scan, UnreadableError
from ..io.radiotherapy.names import known_as
from . import vocabulary

EQUAL = 0.6  # of neighbours inside: regions of a label map are of one number, intensities are not
FEW = 12  # numbers of a label map whose name says nothing
PLANS = ("planning",)  # folders whose masks are structures: PTV70, and not ptv70
SMALL = 8_000_000  # bytes of a file that is opened to see whether it is one: masks pack well
_BRATS = re.compile(r"^(BraTS-[A-Za-z]+-\d+)-(\d{3})\b")
_CHANNEL = re.compile(r"^(.+)_(\d{4})$")
_SLICE = re.compile(r"^(.*?\d.*?)[_-]*(?:slice|sl|frame|fr|img|im|z)[_-]?(\d+)$", re.IGNORECASE)
_CODE = re.compile(r"[vVmM]\d{3,}")  # a person of a group, or a late visit
_TWO_NUMBERS = re.compile(r"^(.*?\d.*?)(?:[_-]([A-Za-z0-9]+)|(?<=\d)([a-z]))$")
_DATE = re.compile(r"(?<!\d)((?:19|20)\d{2}-?[01]\d-?[0-3]\d)(?!\d)")
_PERSON = re.compile(r"^(?:sub|subject|patient|pat|participant|case|pid|p|s)[-_ ]?\d+\b", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One image: of whom, when, and what it shows."""

    patient: str
    visit: str
    contrast: str
    scan: Scan
    values: Mapping[str, float | str] = field(default_factory=dict)
    site: str = ""
    days: float | None = None
    doubt: str = ""  # the two readings of its name


def guess(scans: Sequence[Scan], root: Path) -> list[Row]:
    """What names, folders and headers say of every image below `root`."""
    base = root if root.is_dir() else root.parent
    raw = _nnunet_cases(scans)
    scans = [_by_content(scan) for scan in scans]
    rows = [_row(scan, base, raw) for scan in scans]
    return _with_doubts(rows, base)


def _row(scan: Scan, base: Path, raw: Mapping[Path, set[str]]) -> Row:
    folders = list(scan.files[0].relative_to(base).parts[:-1])
    if scan.format == "dicom":
        return _dicom(scan, folders)
    if scan.format == "planning":
        own = scan.files[0].parent.name if scan.files[0].suffix == ".csv" else scan.files[0].stem
        return Row(own, "", scan.modality, scan, dict(scan.values))
    if scan.format in ("contours", "dose"):
        whom = scan.patient or (folders[0] if folders else "unknown")
        return Row(whom, scan.visit, scan.modality, scan, scan.values, doubt=scan.doubt)
    stem = Path(scan.member).stem if scan.member and not scan.recipe else scan.files[0].name
    if (found := _nnunet(scan, raw)) is not None:
        return found
    words = vocabulary.tokens(stem)
    folder_words = [w for f in folders for w in vocabulary.tokens(f)]
    contrast, label = vocabulary.contrast_of(words, folder_words)
    if label:
        scan = replace(scan, kind="label")
    elif scan.kind == "label":  # by its content
        told = vocabulary.contrast_of(words)[0]
        inside = any(not _is_plain(f) for f in folders)
        contrast = "_".join(words) if inside and not told else "label"
    if scan.kind == "label" and any(f.lower() in PLANS for f in folders):
        contrast = known_as(_bare(scan.files[0])) or contrast
    contrast = scan.modality if scan.format in RAW else contrast or scan.modality or "image"
    if scan.format == "raster":
        return _picture(scan, folders, stem, contrast)
    return _volume(scan, folders, stem, words, contrast, base)


def _volume(scan: Scan, folders: list[str], stem: str, words: list[str], contrast: str, base: Path) -> Row:
    values = dict(scan.values)
    folder_words = [w for f in folders for w in vocabulary.tokens(f)]
    full = "_".join([*folders, stem])
    subject, session = re.search(r"sub-([A-Za-z0-9]+)", full), re.search(r"ses-([A-Za-z0-9]+)", full)
    visits = [v for w in folder_words + words if (v := vocabulary.visit_of(w))]
    visit = session.group(1) if session else visits[0] if visits else ""
    if subject:
        return Row("sub-" + subject.group(1), visit, contrast, scan, values)
    for name in (*folders, stem):
        if found := _BRATS.match(name):
            return Row(found[1], found[2], contrast, scan, values)
    own = [f for f in folders if not _is_plain(f)]
    if own:
        level = _level_of_patients(own)
        deeper = "-".join(own[level + 1 :])
        return Row(_without_visit(own[level]), visit or deeper, contrast, scan, values)
    if not visit and (dated := _DATE.search(stem)):
        visit = dated[1]
        words = vocabulary.tokens(stem.replace(visit, ""))
    rest = [w for w in words if not vocabulary.is_contrast(w) and not vocabulary.visit_of(w)]
    return Row("_".join(rest) or base.name, visit, contrast, scan, values)


def _without_visit(folder: str) -> str:
    """p01_tp1 and OAS1_0001_MR2 are visits of p01 and OAS1_0001."""
    parts = re.split(r"[_-]", folder)
    last = parts[-1].lower()
    return folder[: -len(last) - 1] if len(parts) > 1 and vocabulary.visit_of(last) else folder


def _level_of_patients(folders: Sequence[str]) -> int:
    """Which folder is a patient's: what is called so, else the first with a number that is no date or visit; else the
    first.
    """
    called = next((k for k, f in enumerate(folders) if _PERSON.match(f)), None)
    numbered = (k for k, f in enumerate(folders) if re.search(r"\d", f) and not _tells_when(f))
    return called if called is not None else next(numbered, 0)


def _tells_when(folder: str) -> bool:
    """A date, or a visit in words; a letter and a number (M101) may as well be somebody."""
    date, code = r"(?:19|20)\d{2}[-_\d]*", r"[a-zA-Z]-?\d+"
    return bool(re.fullmatch(date, folder)) or bool(
        vocabulary.visit_of(folder.lower()) and not re.fullmatch(code, folder)
    )


def _dicom(scan: Scan, folders: list[str]) -> Row:
    description = vocabulary.tokens(scan.description)
    contrast, label = vocabulary.contrast_of(description, [])
    if scan.kind == "label" or (label and scan.modality == "SEG"):
        named = re.sub(r"[^a-z0-9]+", "_", scan.description.lower()).strip("_") if scan.member else ""
        contrast = named or (contrast if label else "label")
    elif label or not contrast:
        contrast = {"CT": "CT", "PT": "PET"}.get(scan.modality, scan.modality or "image")
    whom = scan.patient or (folders[0] if folders else "unknown")
    return Row(whom, scan.visit, contrast, scan, scan.values, doubt=scan.doubt)


def _picture(scan: Scan, folders: list[str], stem: str, contrast: str) -> Row:
    """A folder or archive named with letters only is a class, one with digits is a patient; slices belong to one
    patient.
    """
    values = dict(scan.values)
    own = [f for f in folders if not _is_plain(f)]
    if scan.member and not scan.recipe:
        own.append(scan.files[0].stem)
    name = scan.member.replace("/", "_") if scan.recipe else re.sub(r"\.(dcm\.)?[a-z]+$", "", stem)
    bare, kinds = (name, False) if scan.recipe else _without_kind(name)
    sliced = _SLICE.match(bare)
    if own and not re.search(r"\d", own[-1]):
        values["class"] = own[-1]
        if sliced:
            return Row(sliced[1].rstrip("_-"), f"slice{sliced[2]}", contrast, scan, values)
        return Row(f"{own[-1]}_{name}" if not name.startswith(own[-1]) else name, "", contrast, scan, values)
    if own:
        return Row(own[-1], bare if kinds else name, contrast, scan, values)
    if sliced:
        return Row(sliced[1].rstrip("_-"), f"slice{sliced[2]}", contrast, scan, values)
    return Row((bare if kinds else name) or name, "", contrast, scan, values)


def _without_kind(name: str) -> tuple[str, bool]:
    """A picture's name without the word that says what it shows: p1_label and p1_t1 are of one p1."""
    parts = re.split(r"([_-])", name)
    kept = [i for i in range(0, len(parts), 2) if not vocabulary.is_contrast(parts[i].lower())]
    if len(kept) == (len(parts) + 1) // 2:
        return name, False
    return "".join(p for i in kept for p in parts[max(0, i - 1) : i + 1]).strip("_-"), True


def _is_plain(folder: str) -> bool:
    """Does a folder name say nothing about the patient (images, labels, anat, train, t1)?"""
    words = vocabulary.tokens(folder)
    return all(w in vocabulary.PARTS or vocabulary.is_contrast(w) or vocabulary.visit_of(w) for w in words)


def _nnunet_cases(scans: Iterable[Scan]) -> dict[Path, set[str]]:
    """nnU-Net raw data: data set folder -> names of its cases; images bear the number of their channel, labels do
    not.
    """
    found: dict[Path, set[str]] = defaultdict(set)
    for scan in scans:
        path = scan.files[0]
        if path.parent.name in ("imagesTr", "imagesTs", "imagesVal") and (named := _CHANNEL.match(_bare(path))):
            found[path.parent.parent].add(named[1])
    return found


def _nnunet(scan: Scan, raw: Mapping[Path, set[str]]) -> Row | None:
    path = scan.files[0]
    cases, folder = raw.get(path.parent.parent), path.parent.name
    if not cases or not folder.startswith(("images", "labels")):
        return None
    if folder.startswith("labels") and _bare(path) in cases:
        return Row(_bare(path), "", "label", replace(scan, kind="label"), scan.values)
    named = _CHANNEL.match(_bare(path))
    return None if named is None else Row(named[1], "", _channel(path.parent.parent, named[2]), scan, scan.values)


def _channel(folder: Path, number: str) -> str:
    """What a channel shows, as dataset.json says; else image, or image1 and so on."""
    try:
        plain = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        said = plain.get("channel_names") or plain.get("modality") or {}
        name = str(said[str(int(number))])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "image" if int(number) == 0 else f"image{int(number)}"
    known = vocabulary.contrast_of(vocabulary.tokens(f"{name}.x"))[0]
    return known or re.sub(r"[^A-Za-z0-9]+", "", name) or f"image{int(number)}"


def _bare(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii").removesuffix(path.suffix if path.suffix != ".gz" else "")


def _by_content(scan: Scan) -> Scan:
    """A volume of a few whole numbers whose regions are of one each is a label map, whatever it or its folder is
    called.
    """
    if scan.format not in VOLUMES or scan.kind == "label":
        return scan
    path = scan.files[0]
    told = vocabulary.contrast_of(vocabulary.tokens(path.name))[0]
    if scan.bytes_each != 1 and (told or path.stat().st_size > SMALL):
        return scan
    try:
        volume = io.read(scan).data[0]
    except UnreadableError:
        return scan  # said where it is read
    return replace(scan, kind="label") if _is_label(volume) else scan


def _is_label(volume: torch.Tensor) -> bool:
    inside = volume[..., 1:] != 0
    if not bool(inside.any()) or bool((volume != volume.round()).any()) or float(volume.min()) < 0:
        return False
    if len(torch.unique(volume)) > FEW:
        return False
    return float((volume[..., 1:] == volume[..., :-1])[inside].float().mean()) >= EQUAL


def _with_doubts(rows: Sequence[Row], base: Path) -> list[Row]:
    """Rows whose names have two readings say so: p1_2 may be the second image of p1, or a patient of its own."""
    rows = _with_doubtful_codes(_with_doubtful_folders(_with_doubtful_headers(rows), base), base)
    flat: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if _is_flat(row, base) and (named := _TWO_NUMBERS.match(row.patient)):
            flat[named[1]].add(row.patient)
    several = {one for one, full in flat.items() if len(full) > 1}
    if len(flat) < 2:  # one first number for all is the name of the collection
        return list(rows)
    found = []
    for row in rows:
        named = _TWO_NUMBERS.match(row.patient) if _is_flat(row, base) else None
        if named and named[1] in several:
            own = named[2] or named[3]
            doubt = f"{row.patient} may be image {own} of patient {named[1]}, or a patient of its own"
            row = replace(row, patient=named[1], visit=row.visit or own, doubt=doubt)
        found.append(row)
    return found


def _with_doubtful_headers(rows: Sequence[Row]) -> list[Row]:
    """Headers that name nobody are doubted where there are several images of one kind."""
    count = Counter(row.contrast for row in rows if row.doubt)
    return [replace(row, doubt=row.doubt if count[row.contrast] > 1 else "") for row in rows]


def _with_doubtful_folders(rows: Sequence[Row], base: Path) -> list[Row]:
    """anna/1 and bert/1 may be first visits of two people, or two people of number 1 in two groups."""
    above: dict[str, set[str]] = defaultdict(set)
    inside: dict[int, list[str]] = {}
    for k, row in enumerate(rows):
        own = [f for f in row.scan.files[0].relative_to(base).parts[:-1] if not _is_plain(f)]
        stated = any(_PERSON.match(f) or f.startswith("sub-") or _BRATS.match(f) for f in own)
        guessed = row.scan.format in VOLUMES and len(own) > 1 and not stated
        if guessed and _level_of_patients(own) > 0:
            inside[k] = own
            above[own[_level_of_patients(own)]].add(own[0])
    found = list(rows)
    for k, own in inside.items():
        name = own[_level_of_patients(own)]
        if len(above[name]) > 1:
            doubt = f"{'/'.join(own)} may be visit {name} of {own[0]}, or patient {name} of a group"
            found[k] = replace(rows[k], patient=own[0], visit="-".join(own[1:]), doubt=doubt)
    return found


def _with_doubtful_codes(rows: Sequence[Row], base: Path) -> list[Row]:
    """siteA/M101 may be month 101 of one person, or person M101 of a site: where no other folder bears a number."""
    found = []
    for row in rows:
        folders = row.scan.files[0].relative_to(base).parts[:-1]
        numbered = [f for f in folders if re.search(r"\d", f)]
        if row.scan.format in VOLUMES and len(folders) > 1 and len(numbered) == 1 and _CODE.fullmatch(numbered[0]):
            doubt = (
                f"{'/'.join(folders)} may be visit {numbered[0]} of {row.patient}, or patient {numbered[0]} of a group"
            )
            row = replace(row, doubt=doubt)
        found.append(row)
    return found


def _is_flat(row: Row, base: Path) -> bool:
    """Is the patient named by the file alone? Archives and arrays number their pictures, headers name patients."""
    path = row.scan.files[0]
    folders = [f for f in path.relative_to(base).parts[:-1] if not _is_plain(f)]
    classed = row.scan.format == "raster" and not any(
        re.search(r"\d", f) for f in folders
    )  # a folder of letters is a class
    return (
        row.scan.format in (*VOLUMES, "raster") and (not folders or classed) and not row.scan.member and not row.visit
    )
