"""Prepared cases as plain memory-mapped arrays, and batches of slices or patches read from them into reused memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..contracts import Batch, class_name
from ..contracts.measured import joined as joined_measurements
from ..io import UnreadableError
from ..machine.device import writing
from ..machine.processes import ALONE, Processes
from ..machine.stores import NOT_KEPT
from ..rng import Rng, derive
from .augment import augmented
from .cases import Prepared, left_out, prepare_case
from .cohort import Member
from .prepare import GridPreparation
from .sharded import ENDING, Sharded, files_of, write_sharded
from .split import fingerprint
from .subwords import Subwords
from .text import hashed
from .worded import worded

MADE_AGAIN = "Signature: 8a477f597d28d172789f06886806bc55\n# Prepared images, which a run makes again.\n"


@dataclass(frozen=True)
class Entry:
    """One stored case."""

    name: str
    patient: str
    files: Mapping[str, Path]
    shape: tuple[int, int, int]  # (z, y, x)
    affine: tuple[tuple[float, ...], ...]
    useful: tuple[int, ...]  # slices in which the patient is
    values: Mapping[str, float | str] = field(default_factory=dict)


class Store:
    """Arrays on disk, opened when first read: a cohort may be larger than memory."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self._open: dict[Path, NDArray[np.float32]] = {}

    def array(self, entry: Entry, contrast: str) -> NDArray[np.float32]:
        """(C, z, y, x), memory-mapped."""
        path = entry.files[contrast]
        if path not in self._open and path.suffix == ENDING:
            self._open[path] = cast(NDArray[np.float32], Sharded(path))
        elif path not in self._open:
            self._open[path] = np.load(path, mmap_mode="r", allow_pickle=False)
        return self._open[path]

    def fingerprints(self, contrast: str) -> dict[str, NDArray[np.float32]]:
        """Thumbnails for the leak check, by case."""
        return {e.name: fingerprint(self.array(e, contrast)[:1]) for e in self.entries if contrast in e.files}

    def digest(self) -> str:
        """SHA-256 over every stored array: what a run's environment file calls its data hash."""
        total = hashlib.sha256()
        for entry in self.entries:
            for contrast, path in sorted(entry.files.items()):
                total.update(f"{entry.name}/{contrast}".encode())
                for file in files_of(path) if path.suffix == ENDING else [path]:
                    total.update(file.read_bytes())
        return total.hexdigest()


def build_store(
    folder: Path, members: Iterable[Member], contrasts: Sequence[str], reference: str, preparation: GridPreparation,
    processes: Processes = ALONE, sharded: bool = False,
) -> tuple[Store, tuple[str, ...]]:  # fmt: skip
    """Prepare every member once into `folder`; returns the store and the remarks made on the way.

    `sharded`: as compressed Zarr, else as plain arrays that are mapped into memory. Each of several processes prepares
    its share, and all of them open the whole. A member whose files cannot be used is left out, and one remark names the
    file. Raises ValueError where a process does not see what another one wrote.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own: dict[int, tuple[Entry | None, list[str]]] = {}
    for number, member in list(enumerate(members))[processes.rank :: processes.count]:
        try:
            prepared = prepare_case(member, contrasts, reference, preparation)
        except UnreadableError as error:
            own[number] = None, [left_out(member, error)]
            continue
        own[number] = (
            _write(folder / member.name, prepared, reference, preparation.axes if sharded else ""),
            list(prepared.remarks),
        )
    found = {number: one for share in processes.gathered(own) for number, one in share.items()}
    entries = [entry for _, (entry, _) in sorted(found.items()) if entry is not None]
    if unseen := next((path for e in entries for path in e.files.values() if not path.exists()), None):
        raise ValueError(f"{unseen} was prepared by another process and is not here. Run where all see one folder.")
    if processes.first:
        _write_index(folder, entries)
    return Store(entries), tuple(line for _, (_, lines) in sorted(found.items()) for line in lines)


def _write_index(folder: Path, entries: Sequence[Entry]) -> None:
    index = [_plain_entry(entry, folder) for entry in entries]
    with writing(folder / "index.json"):
        (folder / NOT_KEPT).write_text(MADE_AGAIN)
        (folder / "index.json").write_text(json.dumps(index, indent=1))


def _plain_entry(entry: Entry, folder: Path) -> dict[str, object]:
    """An entry as plain data with paths relative to the store."""
    files = {name: str(path.relative_to(folder)) for name, path in entry.files.items()}
    return {"name": entry.name, "patient": entry.patient, "files": files, "shape": list(entry.shape),
            "useful": list(entry.useful), "values": dict(entry.values)}  # fmt: skip


def _write(folder: Path, prepared: Prepared, reference: str, sharded: str = "") -> Entry:
    """`sharded`: axes that are read at a time from Zarr; "": a plain array."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, tensor in prepared.tensors.items():
        files[name] = folder / f"{name}{ENDING if sharded else '.npy'}"
        with writing(files[name]):
            values = tensor.numpy().astype(np.float32)
            if sharded:
                write_sharded(files[name], values, sharded)
            else:
                np.save(files[name], values, allow_pickle=False)
    anchor = prepared.tensors.get(reference)
    anchor = next(iter(prepared.tensors.values())) if anchor is None else anchor
    inside = (anchor[0] > 0.1).float().flatten(1).mean(1)
    useful = tuple(int(z) for z in (inside > 0.02).nonzero().flatten()) or tuple(range(anchor.shape[1]))
    affine = tuple(tuple(float(v) for v in row) for row in prepared.grid.affine)
    return Entry(prepared.name, prepared.case.patient, files, prepared.grid.shape, affine, useful, prepared.case.values)


@dataclass(frozen=True)
class Layout:
    """What a batch is cut from a store: which contrasts, slices or patches, of which size, with which neighbours."""

    contrasts: tuple[str, ...]
    axes: str  # "yx" or "zyx"
    size: tuple[int, int, int]  # (z, y, x); z = 1 for slices
    context: Mapping[str, int] = field(default_factory=dict)  # contrast -> neighbouring slices on each side
    values: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # value -> its classes
    labels: tuple[str, ...] = ()  # contrasts that are label maps
    augment: float = 0.0  # strength of random turns and scalings in training
    texts: Mapping[str, int] = field(default_factory=dict)  # values that are words -> length of their vector
    words: Mapping[str, Subwords] = field(default_factory=dict)  # values that are texts -> how they become subwords
    place: bool = False  # of volumes: `images["place"]` says where each voxel is, (B, 3, z, y, x) from -1 to 1


class Loader:
    """Batch number `step` of an endless, shuffled pass: a function of (seed, step) alone, so that a run can resume."""

    def __init__(self, store: Store, layout: Layout, batch: int, seed: int) -> None:
        self.store, self.layout, self.batch, self.seed = store, layout, batch, seed
        slices = layout.axes == "yx"
        self.places = [(e, z) for e in store.entries for z in (e.useful if slices else (0,))]
        if not self.places:
            raise ValueError(
                "There is nothing to train on: the training part holds no cases. See: fabrica inspect DIR."
            )
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def load(self, step: int) -> Batch:
        """(B, C, *axes) per contrast, augmented by left-right flips and, where the layout says so, turns and
        scalings.
        """
        first = step * self.batch
        return self.rows([self._place(first + row) for row in range(self.batch)], first)

    def rows(self, places: Sequence[int], number: int) -> Batch:
        """Of these places, in this order; flips, turns and windows are those of row `number` and the next ones."""
        chosen = [self.places[k] for k in places]
        rng = Rng([derive(self.seed, "load", number + row) for row in range(len(chosen))])
        flips, offsets = rng.uniform(1).flatten() < 0.5, rng.child("offset").uniform(3)
        flips &= ~torch.tensor([self._says_sides(entry) for entry, _ in chosen])
        images: dict[str, Tensor] = {}
        present: dict[str, Tensor] = {}
        for name in self.layout.contrasts:
            images[name], present[name] = self._stack(name, chosen, offsets, flips)
        if self.layout.augment:
            images = augmented(images, self.layout.labels, self.layout.augment, rng)
        rows = [e for e, _ in chosen]
        if self.layout.place:
            images["place"] = self._where(rows, offsets, flips)
        values, known = encode_values([e.values for e in rows], self.layout)
        if self.layout.axes == "yx":
            values["position"] = torch.tensor([position(e.shape[0], z) for e, z in chosen])
        affine = torch.tensor([e.affine for e in rows], dtype=torch.float64)
        said, heard = worded([e.values for e in rows], self.layout.words, images, present, affine)
        names = tuple(f"{e.name}/{z}" for e, z in chosen)
        return Batch(names, images, affine, {**values, **said}, {**present, **known, **heard})

    def _says_sides(self, entry: Entry) -> bool:
        """Whether a case's own text is read, whose left would be the right of a mirrored image."""
        return any(how.written_from not in entry.files for how in self.layout.words.values())

    def _place(self, index: int) -> int:
        epoch, place = divmod(index, len(self.places))
        if epoch != self._epoch:
            stream = np.random.Generator(np.random.Philox(key=derive(self.seed, "order", epoch)))
            self._epoch, self._order = epoch, stream.permutation(len(self.places))
        return int(self._order[place])

    def _stack(
        self, name: str, chosen: Sequence[tuple[Entry, int]], offsets: Tensor, flips: Tensor
    ) -> tuple[Tensor, Tensor]:
        around = self.layout.context.get(name, 0)
        first = next((e for e, _ in chosen if name in e.files), None)
        channels = 1 if first is None else self.store.array(first, name).shape[0]
        depth = (2 * around + 1) if self.layout.axes == "yx" else self.layout.size[0]
        out = np.empty((len(chosen), channels, depth, *self.layout.size[1:]), np.float32)
        for row, (entry, z) in enumerate(chosen):
            place = out[row, ..., ::-1] if flips[row] else out[row]  # written in reverse: a flip that costs nothing
            if name in entry.files:
                self._cut(place, self.store.array(entry, name), z, around, offsets[row].tolist())
            else:
                place.fill(0)
        batch = torch.from_numpy(out)
        if self.layout.axes == "yx":
            batch = batch.flatten(1, 2)
        return batch, torch.tensor([name in e.files for e, _ in chosen])

    def _where(self, rows: Sequence[Entry], offsets: Tensor, flips: Tensor) -> Tensor:
        """Of each voxel of the patches that `_cut` reads, in the whole volume; a flipped patch lies on the other
        side.
        """
        found = []
        for entry, at, flip in zip(rows, offsets.tolist(), flips.tolist(), strict=True):
            lines = []
            for k, (have, want) in enumerate(zip(entry.shape, self.layout.size, strict=True)):
                first, _, lands = self._span(have, want, at[k])
                line = places(have, first - lands, want)
                lines.append(-line.flip(0) if flip and k == 2 else line)
            found.append(torch.stack(torch.meshgrid(*lines, indexing="ij")))
        return torch.stack(found)

    def _cut(self, out: NDArray[np.float32], volume: NDArray[np.float32], z: int, around: int, at: list[float]) -> None:
        """Read one window straight into the batch; what lies outside the volume stays zero."""
        if self.layout.axes == "yx":
            planes = np.clip(np.arange(z - around, z + around + 1), 0, volume.shape[1] - 1)
            (y0, y1, ty), (x0, x1, tx) = (self._span(volume.shape[k + 1], self.layout.size[k], at[k]) for k in (1, 2))
            if (y1 - y0, x1 - x0) != out.shape[2:]:
                out.fill(0)
            out[:, :, ty : ty + y1 - y0, tx : tx + x1 - x0] = volume[:, planes, y0:y1, x0:x1]
            return
        (z0, z1, tz), (y0, y1, ty), (x0, x1, tx) = (
            self._span(volume.shape[k + 1], self.layout.size[k], at[k]) for k in (0, 1, 2)
        )
        if (z1 - z0, y1 - y0, x1 - x0) != out.shape[1:]:
            out.fill(0)
        out[:, tz : tz + z1 - z0, ty : ty + y1 - y0, tx : tx + x1 - x0] = volume[:, z0:z1, y0:y1, x0:x1]

    @staticmethod
    def _span(have: int, want: int, at: float) -> tuple[int, int, int]:
        """(first, last, where it lands): a random window of a longer axis, the middle of a shorter one."""
        if have >= want:
            first = round(at * (have - want))
            return first, first + want, 0
        return 0, have, (want - have) // 2


def position(depth: int, z: int) -> float:
    """Where a slice is between feet (-1) and head (1) of its box."""
    return 2 * (z + 0.5) / depth - 1


def places(length: int, first: int, count: int) -> Tensor:
    """Where `count` voxels from number `first` are along an axis of `length` voxels, from -1 to 1."""
    return 2 * (torch.arange(first, first + count) + 0.5) / length - 1


def encode_values(
    rows: Sequence[Mapping[str, float | str]], layout: Layout
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Numbers as they are, classes as their index, texts as vectors; a value that a row lacks is 0 and marked
    absent.
    """
    values: dict[str, Tensor] = {}
    present: dict[str, Tensor] = {}
    for name in layout.values:
        classes = layout.categories.get(name)
        known = [name in row and (classes is None or class_name(row[name]) in classes) for row in rows]
        if classes is not None:
            numbers = [
                float(classes.index(class_name(row[name]))) if ok else 0.0 for row, ok in zip(rows, known, strict=True)
            ]
        else:
            known = [ok and isinstance(row[name], int | float) for row, ok in zip(rows, known, strict=True)]
            numbers = [float(row[name]) if ok else 0.0 for row, ok in zip(rows, known, strict=True)]
        values[name], present[name] = torch.tensor(numbers), torch.tensor(known)
    for name, width in layout.texts.items():
        said = [str(row[name]) if isinstance(row.get(name), str) else "" for row in rows]
        values[name] = torch.stack([hashed(text, width) for text in said])
        present[name] = torch.tensor([bool(text.strip()) for text in said])
    return values, present


def question_batch(prepared: Prepared, layout: Layout) -> Batch:
    """Every slice (or the one volume) of a prepared case, nothing random: what drawing asks about."""
    depth = prepared.grid.shape[0]
    rows = depth if layout.axes == "yx" else 1
    images: dict[str, Tensor] = {}
    present: dict[str, Tensor] = {}
    for name in layout.contrasts:
        volume = prepared.tensors.get(name)
        present[name] = torch.full((rows,), volume is not None)
        if volume is None:
            blank = (2 * layout.context.get(name, 0) + 1, *prepared.grid.shape[1:])
            images[name] = torch.zeros(rows, *(blank if layout.axes == "yx" else (1, *prepared.grid.shape)))
        elif layout.axes == "yx":
            around = layout.context.get(name, 0)
            planes = (torch.arange(depth)[:, None] + torch.arange(-around, around + 1)).clamp(0, depth - 1)
            images[name] = volume[:, planes].permute(1, 0, 2, 3, 4).flatten(1, 2)
        else:
            images[name] = volume[None]
    if layout.place:
        lines = [places(n, 0, n) for n in prepared.grid.shape]
        images["place"] = torch.stack(torch.meshgrid(*lines, indexing="ij"))[None]
    values, known = encode_values([prepared.case.values] * rows, layout)
    if layout.axes == "yx":
        values["position"] = torch.tensor([position(depth, z) for z in range(depth)])
    affine = prepared.grid.affine.expand(rows, 4, 4)
    said, heard = worded([prepared.case.values] * rows, layout.words, images, present, affine)
    names = tuple(f"{prepared.name}/{z}" for z in range(rows))
    return Batch(names, images, affine, {**values, **said}, {**present, **known, **heard}, prepared.measurements)


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches of one grid and one layout as one."""
    if len(batches) == 1:
        return batches[0]
    images, values, present = (
        {n: torch.cat([getattr(b, part)[n] for b in batches]) for n in getattr(batches[0], part)}
        for part in ("images", "values", "present")
    )
    cases, affine = tuple(c for b in batches for c in b.cases), torch.cat([b.affine for b in batches])
    measured = {n: joined_measurements([b.measurements[n] for b in batches]) for n in batches[0].measurements}
    return Batch(cases, images, affine, values, present, measured)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch there."""

    def move(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: t.to(device) for name, t in tensors.items()}

    measured = {name: m.to(device) for name, m in batch.measurements.items()}
    return Batch(
        batch.cases, move(batch.images), batch.affine.to(device), move(batch.values), move(batch.present), measured
    )
