"""What drawing new scans will cost, measured on smaller twins of the largest of them before it starts.

Memory, time and disk grow in proportion to voxels once arrays are large: two twins tell the line.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from .. import io
from ..contracts import Field, Image
from ..data.cohort import Member, Source
from ..io import Scan
from ..machine.device import in_words
from ..machine.stores import named
from ..run.answering import Answering
from ..run.folder import RunFolder
from ..run.sequence import Say

TWINS = (12_000_000, 40_000_000)  # voxels: far beyond what windows and tiles take by themselves, within two minutes
FEWEST = 32  # voxels a side of a twin
EVERY_S = 0.02  # between two looks at a process


@dataclass(frozen=True)
class Line:
    """a + b voxels."""

    a: float
    b: float

    @staticmethod
    def through(voxels: Sequence[int], values: Sequence[float]) -> Line:
        """Of two points; flat where they are of one size, never falling."""
        (v0, v1), (y0, y1) = voxels, values
        b = max(0.0, (y1 - y0) / (v1 - v0)) if v1 > v0 else 0.0
        return Line(y1 - b * v1, b)

    def at(self, voxels: int) -> float:
        return self.a + self.b * voxels


@dataclass(frozen=True)
class Foretold:
    """What all cases take in one process, one after the other."""

    cases: int
    voxels: int  # of the largest
    cpu_s: float
    memory_bytes: int
    disk_bytes: int

    def __str__(self) -> str:
        many = f"{self.cases} case{'s' * (self.cases != 1)}"
        return (
            f"Drawing {many}, the largest of {self.voxels / 1e6:.1f} million voxels:"
            f" {self.cpu_s:.0f} CPU-seconds, at most {in_words(self.memory_bytes)} of memory,"
            f" {in_words(self.disk_bytes)} of disk."
        )


@dataclass(frozen=True)
class Taken:
    """By one process."""

    cpu_s: float
    memory_bytes: int
    disk_bytes: int = 0


def foretell_scans(run: Path, data: Source, draws: int = 1, stage: str | None = None, say: Say = print) -> Foretold:
    """Draws twins of the largest case in processes of their own, and tells what all cases will take.

    Raises ValueError where no case can be drawn, or a twin cannot.
    """
    opened = RunFolder.open(run)
    answering = Answering(opened, opened.last_stage(stage))
    members = [m for m in answering.job.gathered(data.find().members, True) if answering.can(m)]
    sizes = [_voxels(m, answering) for m in members]
    if not any(sizes):
        needed = ", ".join(answering.signature.given)
        raise ValueError(
            f"No case in {data.folder} has {needed} as image files. See what is there: fabrica inspect {data.folder}"
        )
    largest = sizes.index(max(sizes))
    scans = _scans(members[largest], answering)
    side = max(answering.window.sides) if answering.window else FEWEST
    wanted = [min(max(target, side**3), sizes[largest]) for target in TWINS]
    if wanted[0] == wanted[1]:
        wanted[0] = max(1, wanted[1] // 2)
    say(f"Drawing twins of {wanted[0] / 1e6:.1f} and {wanted[1] / 1e6:.1f} million voxels first.")
    place = Path(tempfile.mkdtemp(prefix="fabrica-plan-"))
    try:
        found = []
        for number, target in enumerate(wanted):
            folder = place / str(number)
            voxels = write_twin(scans, folder / "twin", (target / sizes[largest]) ** (1 / 3))
            found.append((voxels, _drawn(run, folder, draws, stage)))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    drawn = [v for v, _ in found]
    memory, cpu, disk = (
        Line.through(drawn, [getattr(t, name) for _, t in found]) for name in ("memory_bytes", "cpu_s", "disk_bytes")
    )
    total = sum(sizes)
    return Foretold(
        len(members), sizes[largest], cpu.a + cpu.b * total, round(memory.at(sizes[largest])), round(disk.b * total)
    )


def _scans(member: Member, answering: Answering) -> dict[str, Scan]:
    """The image files that are drawn from."""
    given = [n for n in answering.given(member) if n not in answering.signature.measurements]
    found = ((name, member.scans_of([name])) for name in given)
    return {name: own[0] for name, own in found if own and own[0].format not in io.RAW}


def _voxels(member: Member, answering: Answering) -> int:
    return max((math.prod(s.shape[1:]) for s in _scans(member, answering).values()), default=0)


def write_twin(scans: dict[str, Scan], folder: Path, scale: float) -> int:
    """folder/twin/CONTRAST.nii of bodies on grids whose sides are `scale` times those of the scans; voxels written."""
    most = 0
    for name, scan in scans.items():
        sides = [max(1, round(n * scale)) if n > 1 else 1 for n in scan.shape[1:]][-3:]
        sides = [1] * (3 - len(sides)) + sides
        lines = [torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in sides]
        body = (1.1 - torch.stack([g**2 for g in torch.meshgrid(*lines, indexing="ij")]).sum(0)).clamp(0, 1)
        unit = "" if scan.kind == "label" else scan.unit
        low, wide = (-1000.0, 2000.0) if unit == "HU" else (0.0, 1000.0)
        values = (body > 0.5).float() if scan.kind == "label" else low + wide * body
        affine = torch.from_numpy(np.asarray(scan.affine, np.float64))
        image = Image(values[None], "zyx", affine, Field(name, scan.kind, 1, unit), calibrated=scan.calibrated)
        frames = scan.shape[1] if scan.axes == "tzyx" else 1
        if frames > 1:
            data, times = values.expand(1, frames, *values.shape), torch.arange(frames).double()
            image = replace(image, data=data, axes="tzyx", times=times)
        io.write_nifti(image, folder / "twin" / f"{name}.nii")
        most = max(most, frames * math.prod(sides))
    return most


def _drawn(run: Path, folder: Path, draws: int, stage: str | None) -> Taken:
    """`fabrica generate` on a twin."""
    out, more = folder / "out", ["--stage", stage] if stage else []
    try:
        words = ["--data", str(folder / "twin"), "--out", str(out), "--draws", str(draws), *more]
        taken = taken_by("generate", named(run), *words)
    except ValueError as error:
        raise ValueError(f"A twin of the largest case cannot be drawn: {error}") from None
    disk = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    return replace(taken, disk_bytes=disk)


def taken_by(*words: str) -> Taken:
    """What the system counts of a verb in a process of its own; raises ValueError with its last line where it fails."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([sys.executable, "-m", "fabrica", *words], stdout=said, stderr=said)
        most = 0
        while True:
            most = max(most, _most_held(process.pid))
            gone, status, used = os.wait4(process.pid, os.WNOHANG)
            if gone:
                break
            time.sleep(EVERY_S)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise ValueError((said.read().strip().splitlines() or ["it said nothing"])[-1])
    return Taken(used.ru_utime + used.ru_stime, most or used.ru_maxrss * 1024)


def _most_held(process: int) -> int:
    """The most memory that a process held so far; 0 where the system does not say. What the system sums up of one that
    has ended counts its parent's memory, too, from which it was started.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
