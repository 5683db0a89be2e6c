"""Public data sets by the names of their files: which one a folder looks like, and what its names mean.

The sets themselves are data (`layouts.yaml`): patterns, contrasts, licence, access, citation. Units follow from what
contrasts are called (CTres is a CT in HU, SUV a PET), from headers and sidecars. Nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_suffix(".yaml")
ENOUGH = 0.8  # of the images of a folder: of fewer, names of something else are read
FEWEST = 2
_WORDS = {"p": "patient", "v": "visit", "c": "contrast", "s": "site"}
_LABELS = ("label", "lesion", "tissue", "brain_mask", "change")


@dataclass(frozen=True)
class Named:
    """What a path says."""

    patient: str
    visit: str
    contrast: str
    site: str
    label: bool
    days: float | None


@dataclass(frozen=True)
class Layout:
    """A public data set, and how its files are named."""

    name: str
    title: str
    shows: str
    licence: str
    access: str
    page: str
    cite: str
    paths: Sequence[str]
    means: Mapping[str, str] = field(default_factory=dict)  # a name of theirs -> ours
    contrast: str = ""  # where no name says it
    labels: tuple[str, ...] = ()
    others_are_labels: bool = False  # whatever `means` does not name
    skip: tuple[str, ...] = ()  # names that say again what another says better
    dicom: bool = False  # headers say whose an image is
    general: bool = False  # how many sets are handed out: a set of its own goes before it
    needs: str = ""  # what some path holds: others have the rest alike
    days: str = ""  # a pattern of visits whose group counts days
    common: bool = False  # others name their files so, too: it is only proposed
    convention: bool = False  # no set, but how many are laid out; read by its own rules
    doubtful: str = ""  # why its names do not say who is whose patient

    @property
    def proposed(self) -> bool:
        """Whether a folder is only said to look like it: headers say more, or others have such names."""
        return self.dicom or self.common or self.convention

    def named(self, path: str) -> Named | None:
        """What a path (from the folder's own name on, with /) says; None where it is none of the set's."""
        for pattern, contrast in _compiled(tuple(self.paths)):
            if found := pattern.search(path):
                known = found.groupdict()
                own = known.get("contrast") or ""
                meant = contrast or self.means.get(own) or own or self.contrast
                label = meant in (*_LABELS, *self.labels) or (self.others_are_labels and own not in self.means)
                visit = known.get("visit") or ""
                told = re.search(self.days, visit) if self.days and visit else None
                days = float(told[1]) if told else None
                return Named(known.get("patient") or "", visit, meant, known.get("site") or "", label, days)
        return None

    def skipped(self, path: str) -> bool:
        """Whether a file says again what another one says better."""
        return bool(self.skip) and any(
            (found := pattern.search(path)) and found.groupdict().get("contrast") in self.skip
            for pattern, _ in _compiled(tuple(self.paths))
        )

    def in_words(self, count: int, all_: int) -> str:
        """One line for who looks at a folder."""
        if self.convention:
            return f"This is laid out as {self.title}: {count} of {all_} files. {self.page}. Cite {self.cite}."
        shows = f" ({self.shows})" if self.shows else ""
        terms = f"licence {self.licence}" if self.licence != "see page" else "terms on its page"
        looks = "may be" if self.common else "looks like"
        read = " Files of others are named so, too, and its names are not used." if self.common else ""
        said = f"This {looks} {self.title}{shows}: {count} of {all_} files. {self.page}: {terms}. Cite {self.cite}."
        return said + read


@lru_cache(maxsize=1)
def layouts() -> tuple[Layout, ...]:
    """All sets that are known; raises ValueError for a line of the data that says nothing."""
    found = []
    for plain in yaml.safe_load(FILE.read_text()):
        labels = plain.get("labels", ())
        found.append(
            Layout(
                **{k: str(plain[k]) for k in ("name", "title", "shows", "licence", "access", "page", "cite")},
                paths=tuple(plain["paths"]), means={str(k): str(v) for k, v in plain.get("as", {}).items()},
                contrast=str(plain.get("is", "")), labels=() if labels is True else tuple(labels),
                others_are_labels=labels is True, skip=tuple(plain.get("skip", ())), dicom=bool(plain.get("dicom")),
                general=bool(plain.get("general")), needs=str(plain.get("needs", "")), days=str(plain.get("days", "")),
                common=bool(plain.get("common")), convention=bool(plain.get("convention")),
                doubtful=str(plain.get("doubtful", "")),
            )
        )  # fmt: skip
        _compiled(found[-1].paths if isinstance(found[-1].paths, tuple) else tuple(found[-1].paths))
    return tuple(found)


@dataclass(frozen=True)
class Recognised:
    """The set that a folder looks like, and what it says of each file."""

    layout: Layout
    files: Mapping[Path, Named]
    count: int

    @property
    def words(self) -> str:
        return self.layout.in_words(len(self.files), self.count)


def recognised(paths: Sequence[Path], base: Path) -> Recognised | None:
    """The set of which most of these files are, where nearly all of them are of one; else None."""
    if len(paths) < FEWEST:
        return None
    names = {path: f"{base.resolve().name}/{path.relative_to(base).as_posix()}" for path in paths}
    best: Recognised | None = None
    for layout in sorted(layouts(), key=lambda one: one.general):
        first = list(names.items())[:: max(1, len(names) // 64)]
        if sum(layout.named(name) is not None for _, name in first) < ENOUGH * len(first):
            continue
        if layout.needs and not any(layout.needs in name for name in names.values()):
            continue
        found = {path: told for path, name in names.items() if (told := layout.named(name)) is not None}
        if len(found) >= ENOUGH * len(names) and (best is None or len(found) > len(best.files)):
            best = Recognised(layout, found, len(names))
    return best


@lru_cache(maxsize=256)
def _compiled(paths: tuple[str, ...]) -> tuple[tuple[re.Pattern[str], str], ...]:
    """(pattern, contrast or '') of each."""
    found = []
    for text in paths:
        path, _, contrast = text.partition(" = ")
        found.append((re.compile(f"(?:^|/){_translated(path)}$"), contrast.strip()))
    return tuple(found)


def _translated(path: str) -> str:
    """A pattern of the data as a regular expression: {p:...} groups, {p=} what they held, * and **/ of folders."""
    out, k = "", 0
    while k < len(path):
        if path[k] == "{" and (inner := _inside(path, k)) is not None:
            out += _group(inner)
            k += len(inner) + 2
        elif path.startswith("**/", k):
            out += "(?:[^/]+/)*"
            k += 3
        elif path.startswith("%v", k):
            out += r"\.nii(?:\.gz)?"
            k += 2
        elif path[k] == "*" and (k == 0 or path[k - 1] in "/}_-"):
            out += "[^/]*"
            k += 1
        else:
            out += path[k]
            k += 1
    return out


def _inside(path: str, start: int) -> str | None:
    """What stands between the braces of a group; None where they count repetitions."""
    if not re.match(r"\{[pvcsnw](?:[:=]|\})", path[start:]):
        return None
    depth = 0
    for k in range(start, len(path)):
        depth += {"{": 1, "}": -1}.get(path[k], 0)
        if depth == 0:
            return path[start + 1 : k]
    return None


def _group(inner: str) -> str:
    if inner in ("w", "n"):
        return "[^/]+" if inner == "w" else r"\d+"
    name = _WORDS[inner[0]]
    return f"(?P={name})" if inner[1] == "=" else f"(?P<{name}>{inner[2:]})"


def described() -> list[dict[str, Any]]:
    """Every set in words, for a table."""
    keys = ("name", "title", "shows", "licence", "access", "page", "cite")
    return [{key: getattr(one, key) for key in keys} | {"dicom": one.dicom} for one in layouts()]
