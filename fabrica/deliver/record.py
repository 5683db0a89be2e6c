"""What was drawn, by which weights, of which files: all that delivery needs to know of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NAME = "generated.json"
FORMAT = 2  # 1 knew neither classes nor evidence


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A DICOM file that a draw was made from."""

    file: str
    sop_instance_uid: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """One contrast of one case: its draws as files, and what they were made from."""

    case: str
    contrast: str
    unit: str
    kind: str  # "intensity" or "label"; "value": its one file holds numbers, see `answers_in`
    files: tuple[str, ...]  # relative to the record's folder, a draw each
    sha256: tuple[str, ...]
    given: tuple[str, ...]  # contrasts that it was drawn from
    sources: tuple[SourceFile, ...] = ()  # empty where the source was no DICOM
    classes: int = 0  # of a label map, with the background
    decided: str = ""  # the file that says what of the mean of draws no datum fixes; none where nothing was measured
    decided_sha256: str = ""
    doubt: str = ""  # why its scans are unlike those of training; nothing where they are not


@dataclass(frozen=True, slots=True)
class Evidence:
    """A figure that the run reached on patients whom training did not see."""

    contrast: str
    by: str  # the mean of draws, one draw
    metric: str
    unit: str
    value: float
    n: int  # patients
    interval: tuple[float, float] | None  # 95 %; None where there are too few patients for one

    def words(self) -> str:
        """In one line."""
        apart = "no interval" if self.interval is None else f"95 % {self.interval[0]:.4g} to {self.interval[1]:.4g}"
        of = f" of {self.contrast}" if self.contrast else ""
        return f"{self.metric}{of}, {self.by}: {self.value:.4g} {self.unit} ({apart}, {self.n} patients)"


@dataclass(frozen=True, slots=True)
class Record:
    """A stage's draws. `folder` is where the record lies; what it says of itself is the same on every machine."""

    folder: Path
    run: str
    stage: str
    job: str
    family: str
    weights: str  # sha256 of the checkpoint's tensors
    recipe: str  # sha256 of the recipe as it ran
    seed: int
    version: str
    made: str  # ISO 8601, when the draws were made
    images: tuple[Drawn, ...]
    audit: str = ""  # what the audit of the weights said when they drew: passed, unaudited, or what was refused
    evidence: tuple[Evidence, ...] = ()  # empty where nothing was measured
    cohort: str = ""  # sha256 of what its stage was trained and judged on, as the run noted it

    def write(self) -> Path:
        """As `generated.json` in its folder."""
        plain = {"format": FORMAT, **asdict(self)}
        del plain["folder"]
        path = self.folder / NAME
        path.write_text(json.dumps(plain, indent=1) + "\n")
        return path

    @staticmethod
    def read(folder: Path) -> Record:
        """Raises ValueError where there is none, or another program wrote it."""
        path = folder / NAME
        if not path.is_file():
            raise ValueError(f"{folder} holds no {NAME}. Make one: fabrica generate RUN --data DICOM --out {folder}")
        try:
            plain = json.loads(path.read_text())
            if plain.pop("format") not in (1, FORMAT):
                raise ValueError("its format is not known here")
            return _of(folder, plain)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no record of draws ({error}). Draw again: fabrica generate RUN") from error


def _of(folder: Path, plain: Mapping[str, Any]) -> Record:
    images = []
    for one in plain["images"]:
        sources = tuple(SourceFile(**{k: str(s[k]) for k in SourceFile.__slots__}) for s in one["sources"])
        lists = {k: tuple(map(str, one[k])) for k in ("files", "sha256", "given")}
        case, contrast, unit, kind = (str(one[k]) for k in ("case", "contrast", "unit", "kind"))
        decided = (str(one.get("decided", "")), str(one.get("decided_sha256", "")))
        for name in (*lists["files"], *filter(None, decided[:1])):
            check_inside(folder, name)
        if len(lists["files"]) != len(lists["sha256"]) or not lists["files"]:
            raise ValueError(f"{case} has {len(lists['files'])} files and {len(lists['sha256'])} hashes")
        files, hashes, given = lists["files"], lists["sha256"], lists["given"]
        images.append(
            Drawn(
                case, contrast, unit, kind, files, hashes, given, sources, int(one.get("classes", 0)), *decided,
                str(one.get("doubt", "")),
            )
        )  # fmt: skip
    words = {k: str(plain[k]) for k in ("run", "stage", "job", "family", "weights", "recipe", "version", "made")}
    evidence = tuple(map(_figure, plain.get("evidence", [])))
    return Record(
        folder, **words, seed=int(plain["seed"]), images=tuple(images), evidence=evidence,
        audit=str(plain.get("audit", "")), cohort=str(plain.get("cohort", "")),
    )  # fmt: skip


def _figure(one: Mapping[str, Any]) -> Evidence:
    words = {k: str(one[k]) for k in ("contrast", "by", "metric", "unit")}
    known = one["interval"]
    interval = None if known is None else (float(known[0]), float(known[1]))
    return Evidence(**words, value=float(one["value"]), n=int(one["n"]), interval=interval)


@dataclass(frozen=True, slots=True)
class Answer:
    """A number that a model says of a case: a chance, an amount in its unit."""

    name: str
    value: float
    unit: str = ""

    def words(self) -> str:
        return f"{self.name}: {self.value:.4g} {self.unit}".strip()


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    """As JSON; the folder is made when needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(one) for one in answers], indent=1) + "\n")


def answers_in(path: Path) -> list[Answer]:
    """What `write_answers` wrote; raises ValueError for a file that holds something else."""
    try:
        return [Answer(str(a["name"]), float(a["value"]), str(a["unit"])) for a in json.loads(path.read_text())]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no answers ({error}). Draw again: fabrica generate") from error


def check_inside(folder: Path, name: str) -> None:
    """Raises ValueError for a name that leads out of a folder: paths from data are never trusted."""
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name} lies outside its folder")


def hash_of(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_drawn(record: Record, drawn: Drawn, numbers: Sequence[int]) -> list[Path]:
    """The files of some draws; raises ValueError where one is gone or was changed."""
    return [_unchanged(record.folder / drawn.files[number], drawn.sha256[number]) for number in numbers]


def check_decided(record: Record, drawn: Drawn) -> Path | None:
    """The file of what the prior decided, where there is one; raises ValueError where it is gone or was changed."""
    return _unchanged(record.folder / drawn.decided, drawn.decided_sha256) if drawn.decided else None


def _unchanged(path: Path, digest: str) -> Path:
    if not path.is_file() or hash_of(path) != digest:
        raise ValueError(f"{path} is gone or was changed after it was drawn. Draw again: fabrica generate")
    return path


def check_sources(drawn: Drawn, elsewhere: Path | None = None) -> list[Path]:
    """The files that a draw was made from, in a folder where they lie now; raises ValueError for missing or changed
    ones.
    """
    known = {}
    if elsewhere is not None:
        known = {hash_of(p): p for p in sorted(elsewhere.rglob("*")) if p.is_file()}
    found = []
    for source in drawn.sources:
        path = known.get(source.sha256) if elsewhere is not None else Path(source.file)
        if path is None or not path.is_file():
            where = f" below {elsewhere}" if elsewhere else f" at {source.file}"
            raise ValueError(f"{drawn.case}: a file that it was drawn from is not{where}. Say where: --source DIR")
        if hash_of(path) != source.sha256:
            raise ValueError(f"{drawn.case}: {path} was changed after the draw. Draw again from it, or restore it.")
        found.append(path)
    return found
