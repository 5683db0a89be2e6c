"""What structures are called: names of TG-263 and common other ones, and the dose levels of targets.

Names on the right come from AAPM TG-263 (Mayo et al. 2018) and from habits of clinics; what they become on the left are
the names of the OpenKBP challenge where it has them, so that one model reads both, else those of TG-263.
"""

from __future__ import annotations

import re

SIDED = {  # without its side, in small letters -> name with its side
    "parotid": ("LeftParotid", "RightParotid"),
    "lung": ("Lung_L", "Lung_R"),
    "kidney": ("Kidney_L", "Kidney_R"),
    "eye": ("Eye_L", "Eye_R"),
    "lens": ("Lens_L", "Lens_R"),
    "opticnerve": ("OpticNrv_L", "OpticNrv_R"),
    "cochlea": ("Cochlea_L", "Cochlea_R"),
    "submandibular": ("Glnd_Submand_L", "Glnd_Submand_R"),
    "femoralhead": ("Femur_Head_L", "Femur_Head_R"),
    "femur": ("Femur_L", "Femur_R"),
    "breast": ("Breast_L", "Breast_R"),
    "hippocampus": ("Hippocampus_L", "Hippocampus_R"),
}
SINGLE = {
    "Brainstem": ("brainstem", "brainstm", "bstem"),
    "SpinalCord": ("spinalcord", "cord", "spinalcrd", "myelon", "medulla"),
    "Esophagus": ("esophagus", "oesophagus", "eso"),
    "Larynx": ("larynx", "larynxglottic", "glottis"),
    "Mandible": ("mandible", "bonemandible", "mandibula"),
    "Brain": ("brain", "wholebrain"),
    "OpticChiasm": ("opticchiasm", "chiasm"),
    "Pituitary": ("pituitary", "hypophysis"),
    "Cavity_Oral": ("cavityoral", "oralcavity"),
    "Thyroid": ("thyroid", "glndthyroid"),
    "Heart": ("heart",),
    "Lungs": ("lungs", "bilatlung"),
    "Liver": ("liver",),
    "Stomach": ("stomach",),
    "Spleen": ("spleen",),
    "Bladder": ("bladder", "urinarybladder"),
    "Rectum": ("rectum",),
    "Bowel": ("bowel", "bowelbag", "bagbowel"),
    "Prostate": ("prostate",),
    "External": ("external", "body", "skin", "patient", "outercontour"),
}
_SHORT = {
    "brainstem": "brainstem",
    "stem": "brainstem",
    "submand": "submandibular",
    "glndsubmand": "submandibular",
    "submandgland": "submandibular",
    "opticnrv": "opticnerve",
    "optnerve": "opticnerve",
    "opticn": "opticnerve",
    "parotidgland": "parotid",
    "glndparotid": "parotid",
    "parotis": "parotid",
    "femurhead": "femoralhead",
    "headfemur": "femoralhead",
    "femhead": "femoralhead",
    "globe": "eye",
}
_LEFT, _RIGHT = ("l", "lt", "left", "li", "links", "sin"), ("r", "rt", "right", "re", "rechts", "dex")
_OTHER = re.compile(r"prv|\+|ring|avoid|opt\b|minus|sub\b|dnu|zz|expand|margin|overlap|~|\d\s*mm", re.IGNORECASE)
_TARGET = re.compile(r"^(?P<kind>[PCGI]TV)(?P<rest>.*)$", re.IGNORECASE)
_LEVEL = re.compile(r"^[ _-]*(?:D[ _-]?)?(?P<level>\d{2}(?:[.p]\d+)?|\d{4})[ _-]*(?P<unit>c?gy)?$", re.IGNORECASE)
_SINGLE = {alias: name for name, aliases in SINGLE.items() for alias in aliases}


def known_as(stated: str) -> str:
    """The name of the table for what a file calls a structure; "" where the table does not know it.

    A volume made of another one (PRV, ring, "+5 mm", part without overlap) is not that other one.
    PTV70, PTV_7000, "PTV 70 Gy" and "PTV_D70" are all PTV70.
    """
    if (target := _TARGET.match(stated.strip())) is not None:
        level = _LEVEL.match(target["rest"])
        return f"{target['kind'].upper()}{_gray(level)}" if level else ""
    if _OTHER.search(stated):
        return ""
    words = [w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", stated)]
    side = [w for w in words if w in (*_LEFT, *_RIGHT)]
    bare = "".join(w for w in words if w not in side)
    bare = _SHORT.get(bare, bare)
    if bare in SIDED:
        one_side = len(side) == 1
        return SIDED[bare][side[0] in _RIGHT] if one_side else "Lungs" if bare == "lung" and not side else ""
    return "" if side else _SINGLE.get(bare, "")


def _gray(level: re.Match[str]) -> str:
    """70, 7000 and 54.12 as they stand in a name: 70, 70, 54.12; four digits are cGy."""
    value = float(level["level"].lower().replace("p", "."))
    if len(level["level"]) == 4 and value >= 1000:
        value /= 100
    return f"{value:g}"


def plain(stated: str) -> str:
    """What a file calls a structure, without characters that a path or a recipe cannot hold."""
    return re.sub(r"[^\w+.-]+", "_", stated.strip()).strip("_") or "structure"
