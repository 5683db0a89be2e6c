"""The words for contrasts, labels and visits, and how they are recognised in file names and DICOM descriptions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePath

from ..contracts import Field

# name -> tokens that mean it; the first token of a file name that is found decides
CONTRASTS: dict[str, tuple[str, ...]] = {
    "T1w": ("t1w", "t1", "t1n", "mprage", "bravo", "spgr"),
    "T1ce": ("t1ce", "t1c", "t1gd", "t1post", "t1wce", "t1km"),
    "T2w": ("t2w", "t2"),
    "T2star": ("t2star", "t2s", "t2starw", "swi"),
    "PDw": ("pdw", "pd"),
    "FLAIR": ("flair", "fla", "t2flair", "tirm", "t2f"),
    "DWI": ("dwi", "dmri", "dti", "adc"),
    "bold": ("bold", "fmri", "func", "epi"),
    "cine": ("cine",),
    "MT": ("mt", "mt1"),
    "MToff": ("mt0", "mtoff"),
    "CT": ("ct", "ldct", "cta"),
    "CBCT": ("cbct", "conebeam"),
    "PET": ("pet", "fdg", "pt", "suv"),
    "dose": ("dose",),
    "MR": ("mr",),
}
LABELS: dict[str, tuple[str, ...]] = {
    "lesion": ("lesion", "lesions", "lesionmask", "gold", "consensus", "wmh"),
    "change": ("gt", "groundtruth"),
    "brain_mask": ("brainmask", "brain_mask", "betmask"),
    "tissue": ("tissue", "tissues"),
    "label": ("label", "labels", "labelstr", "seg", "segm", "segmentation", "mask", "gmseg", "fusion", "dseg", "lumen"),
}
IMAGES = ("image", "images", "imagestr", "imagests")
_CONTRAST_OF = {token: name for name, tokens in CONTRASTS.items() for token in tokens}
_LABEL_OF = {token: name for name, tokens in LABELS.items() for token in tokens}
UNITS = {
    "CT": "HU",
    "CBCT": "HU",
    "PET": "SUV",
    "dose": "Gy",
    "prescription": "Gy",
    "table dose": "Gy",
    "even beams": "Gy",
}
# when a recipe does not say
CLASSES = {
    "possible_dose": 2,
    "lesion": 2,
    "change": 2,
    "brain_mask": 2,
    "label": 3,
    "tissue": 4,
}  # when a recipe does not say
PARTS = {
    "train",
    "training",
    "test",
    "testing",
    "valid",
    "val",
    "validation",
    "anat",
    "func",
    "raw",
    "bet",
    "data",
    "png",
    "jpg",
    "jpeg",
}
_VISIT = re.compile(
    r"^(?:baseline|followup|bl|fu\d*)$|^(?:ses|session|visit|study|tp|timepoint|scan|year|month|week|day|mr|v|m)-?(\d+)$"
)


def tokens(name: str) -> list[str]:
    """Lower-case words of a file or folder name, endings left out."""
    bare = re.sub(r"\.(nii\.gz|nii|dcm\.png|[A-Za-z]{2,4})$", "", PurePath(name).name)
    return [t for t in re.split(r"[^A-Za-z0-9*]+", bare.lower().replace("brain_mask", "brainmask")) if t]


def contrast_of(words: Iterable[str], folders: Iterable[str] = ()) -> tuple[str, bool]:
    """(name, is a label map) from the words of a file name, then of its folders; ("", False) when nothing is said."""
    words, folders = _joined(words), _joined(folders)
    for found in (words, folders):
        for word in found:
            if word in _LABEL_OF and not (word in ("seg",) and found is folders):
                return _LABEL_OF[word], True
        told = [_CONTRAST_OF[word] for word in found if word in _CONTRAST_OF]
        if told:  # MR_T1 is a T1w: what says more wins
            return next((name for name in told if name != "MR"), "MR"), False
    return ("image", False) if any(word in IMAGES for word in folders + words) else ("", False)


def _joined(words: Iterable[str]) -> list[str]:
    """T2-FLAIR is one contrast, whatever parts its two words."""
    found: list[str] = []
    for word in words:
        if word == "flair" and found and found[-1] in ("t2", "t2w"):
            found[-1] = "t2flair"
        else:
            found.append(word)
    return found


def visit_of(word: str) -> str | None:
    """The visit that a word names ("study2" -> "study2"), or None."""
    return word if _VISIT.match(word) else None


def is_contrast(word: str) -> bool:
    return word in _CONTRAST_OF or word in _LABEL_OF or word in IMAGES


def field_of(name: str, classes: int | None = None) -> Field:
    """What a recipe means by a name: `lesion` is a label map of 2 classes, `CT` is in HU, `label:4` has 4 classes."""
    base, _, count = name.partition(":")
    if base in CLASSES or count:
        return Field(base, "label", int(count) if count else classes or CLASSES[base], "")
    if base.startswith(("distance ", "motion ")):
        return Field(base, "intensity", 1, "mm")
    if base.startswith(("fixed ", "moving ")):
        return Field(base, "intensity", 1, UNITS.get(base.partition(" ")[2], "a.u."))
    if base in ("age", "days"):
        return Field(base, "number", 1, "year" if base == "age" else "day")
    return Field(base, "intensity", 1, UNITS.get(base, "a.u."))


def film_or_image(name: str) -> Field:
    """As `field_of`, of jobs that take films, too: `cine@20` has 20 frames. Raises ValueError for one that is none."""
    if "@" not in name:
        return field_of(name)
    base, _, text = name.partition("@")
    frames, film = int(text) if text.isdecimal() else 0, field_of(base)
    if not base or frames < 2 or film.kind != "intensity":
        raise ValueError(f"{name!r} is no film. Write an image and its frames: cine@20")
    return replace(film, channels=frames, frames=frames)
