"""A lesion of a stated place and size in a scan that has none, by a model that learned image and mask together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import io
from ..contracts import Denoiser, Field, Image, Measurement
from ..data.cases import Prepared, left_out, prepare_case
from ..data.cohort import Member, Source
from ..data.grid import Grid, grid_of
from ..families import Drawn, Latent
from ..io import UnreadableError
from ..jobs.painted import KNOWN, Painted
from ..machine.device import find_device
from ..physics import Exact, Mask
from ..rng import derive
from ..run.answering import Answering
from ..run.draw import draw
from ..run.folder import RunFolder
from ..run.question import Shown
from ..sampling import SAMPLERS

ROOM = 1.6  # radii: inside this the image is drawn anew, so that the lesion may change its surroundings
FADE_MM = 2.0  # over which the drawn part gives way to the scan


@dataclass(frozen=True)
class Lesion:
    """A ball: where, in millimetres as viewers of NIfTI show it (right, anterior, superior), and how large."""

    right_anterior_superior_mm: tuple[float, float, float]
    radius_mm: float

    def away_mm(self, grid: Grid, offset: Sequence[float] = (0.0, 0.0, 0.0)) -> Tensor:
        """Distance of every voxel's middle (z, y, x), or of a point beside it in parts of a voxel, from its centre."""
        index = torch.stack(torch.meshgrid(*[torch.arange(n) for n in grid.shape], indexing="ij"), -1).double()
        index = index + torch.tensor(offset, dtype=torch.float64)
        lps = index @ grid.affine[:3, :3].double().T + grid.affine[:3, 3].double()
        right, anterior, superior = self.right_anterior_superior_mm
        away: Tensor = (lps - torch.tensor([-right, -anterior, superior], dtype=torch.float64)).norm(dim=-1)
        return away

    def mask(self, grid: Grid) -> Tensor:
        """bool (z, y, x): voxels of which at least half lies in the ball."""
        parts = (-1 / 3, 0.0, 1 / 3)
        inside = torch.zeros(grid.shape)
        for offset in itertools.product(parts, repeat=3):
            inside += self.away_mm(grid, offset) <= self.radius_mm
        return inside >= len(parts) ** 3 / 2


def paint_lesion(
    run: Path, data: Path | Source, out: Path, lesion: Lesion, *, label: str = "lesion", draws: int = 1,
    device: str = "auto", say: Callable[[str], None] = print,
) -> list[Path]:  # fmt: skip
    """Write out/CASE/CONTRAST-N.nii.gz, on the scan's own grid and scale, and out/CASE/LABEL.nii.gz; returns the files.

    Nothing changes farther than 1.6 radii from the centre. Raises ValueError for a run without a synthesis of image and
    label by a denoiser, for a place outside the scan, and for a lesion smaller than a voxel.
    """
    answering, contrasts, marked = _painter(run, label, device)
    if lesion.radius_mm <= 0:
        raise ValueError(f"The radius is {lesion.radius_mm:g} mm, expected more than 0. Write: --radius-mm 6")
    if answering.unfinished:
        say(answering.unfinished)
    written: list[Path] = []
    for member in Source.of(data).find().members:
        if missing := [f.name for f in contrasts if f.name not in member.contrasts()]:
            say(f"{member.name}: has no {' and no '.join(missing)}; left out.")
            continue
        try:
            written += _painted(answering, member, contrasts, marked, lesion, out / member.name, draws, say)
        except UnreadableError as error:
            say(left_out(member, error))
            continue
        say(f"{member.name}: {draws} draw{'s' * (draws > 1)} written.")
    if not written:
        names = ", ".join(f.name for f in contrasts)
        raise ValueError(
            f"No case in {Source.of(data).folder} has {names}. See what is there: fabrica inspect"
            f" {Source.of(data).folder}"
        )
    return written


def _painter(run: Path, label: str, device: str) -> tuple[Answering, list[Field], Field]:
    opened = RunFolder.open(run, "recipes/painting.yaml")
    recipe = opened.recipe
    able, codecs = [], {one.codec for one in recipe.stages}
    for one in (s for s in recipe.stages if s.name not in codecs):
        asked = one.build_job().signature()
        fields = () if asked.given or asked.measurements else asked.x
        kinds = {f.kind for f in fields if f.name == label} | {"" for f in fields if f.kind == "intensity"}
        if kinds == {"label", ""}:
            able.append(one)
    if len(able) != 1:
        raise ValueError(
            f"{run} has {len(able)} stages that draw images together with {label}, expected one. "
            f"Train one: job: {{name: synthesis, x: [FLAIR, {label}]}}, as in recipes/painting.yaml"
        )
    answering = Answering(opened, able[0], find_device(device))
    _prior(answering)
    x = answering.signature.x
    return answering, [f for f in x if f.kind == "intensity"], next(f for f in x if f.name == label)


def _prior(answering: Answering) -> Denoiser:
    """What denoises, in pixels; a recipe's sampler is left out, as painting has its own."""
    family = answering.family.prior if isinstance(answering.family, Drawn) else answering.family
    if answering.stage.equalised:
        raise ValueError(
            f"{answering.stage.name} draws equalised intensities, and a scan is painted as it is. Train without in:"
            " family: {name: flow}"
        )
    if isinstance(family, Latent):
        raise ValueError(
            f"{answering.stage.name} draws in the codes of {answering.stage.codec}: a part of a code is no part of an"
            " image. Train in pixels: family: {name: flow}"
        )
    if not isinstance(family, Denoiser):
        raise ValueError(
            f"{answering.stage.family.name} cannot draw a part of an image. Train with: family: {{name: flow}}"
        )
    return family


def _painted(
    answering: Answering, member: Member, contrasts: list[Field], marked: Field, lesion: Lesion, out: Path, draws: int,
    say: Callable[[str], None],
) -> list[Path]:  # fmt: skip
    names = [f.name for f in contrasts]
    prepared = prepare_case(member, names, names[0], answering.preparation)
    source = prepared.case.images[names[0]]
    away, ball = lesion.away_mm(grid_of(source)), lesion.mask(grid_of(source))
    if not bool(ball.any()) or not _inside(lesion, source):
        place = ", ".join(f"{v:g}" for v in lesion.right_anterior_superior_mm)
        raise ValueError(
            f"{member.name}: a lesion of {lesion.radius_mm:g} mm at {place} mm holds no voxel of the scan, whose middle"
            f" is at {_middle(source)} mm. Name another place or a larger radius."
        )
    x = _filled(answering, prepared, marked, lesion, draws, say)
    share = ((ROOM * lesion.radius_mm - away) / FADE_MM).clamp(0, 1).float()
    written, start = [], 0
    for f in answering.signature.x:
        part = x[:, start : start + f.channels]
        start += f.channels
        if f in contrasts:
            original, trace = prepared.case.images[f.name], prepared.traces[f.name]
            own = replace(answering.preparation, scales={f.name: (trace.offset, trace.scale)})
            for number, one in enumerate(part):
                image = own.back(one, trace)
                blended = original.data + share.reshape(original.data.shape) * (image.data - original.data)
                written.append(out / f"{f.name}-{number}.nii.gz")
                note = f"{answering.run.name}/{answering.stage.name}/{member.name}/{number}"
                io.write_nifti(replace(original, data=blended, source=note), written[-1])
    written.append(out / f"{marked.name}.nii.gz")
    io.write_nifti(
        replace(source, data=ball.float().reshape(source.data.shape), meaning=replace(marked, channels=1, unit="")),
        written[-1],
    )
    return written


def _inside(lesion: Lesion, image: Image) -> bool:
    """Whether the centre lies within the scan."""
    right, anterior, superior = lesion.right_anterior_superior_mm
    lps = torch.tensor([-right, -anterior, superior, 1.0], dtype=torch.float64)
    index = (torch.linalg.inv(image.affine.double()) @ lps)[:3].numpy()
    shape = np.array(grid_of(image).shape)
    return bool(((index >= -0.5) & (index <= shape - 0.5)).all())


def _middle(image: Image) -> str:
    centre = torch.tensor([*(np.array(grid_of(image).shape) - 1) / 2, 1.0], dtype=torch.float64)
    left, posterior, superior = (image.affine.double() @ centre)[:3].tolist()
    return f"{-left:.0f}, {-posterior:.0f}, {superior:.0f}"


def _filled(
    answering: Answering, prepared: Prepared, marked: Field, lesion: Lesion, draws: int, say: Callable[[str], None]
) -> Tensor:  # fmt: skip
    """(draws, C, z, y, x): the scan as it is, but drawn anew around the lesion; a measured problem like any other."""
    values, known = _known(answering, prepared, marked, lesion)
    rows = [t.transpose(0, 1) if answering.layout.axes == "yx" else t[None] for t in (values, known)]
    measured = {KNOWN: Measurement(rows[0], Mask(rows[1]), Exact())}
    family = Drawn(_prior(answering), SAMPLERS.find("repaint"), {})
    shown = [Shown(replace(prepared, measurements=measured), number) for number in range(draws)]
    seed = derive(answering.seed, "paint")
    return torch.stack(draw(family, Painted(answering.job), shown, answering.layout, seed, say, answering.window))


def _known(
    answering: Answering, prepared: Prepared, marked: Field, lesion: Lesion
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """((C, z, y, x) values, where they are known): the mask everywhere, images outside the room, other labels nowhere
    near it.
    """
    values, known = [], []
    room, ball = lesion.away_mm(prepared.grid) <= ROOM * lesion.radius_mm, lesion.mask(prepared.grid)
    for f in answering.signature.x:
        if f.name == marked.name:
            one = torch.zeros(f.channels, *ball.shape)
            one[0], one[1] = (~ball).float(), ball.float()
            values.append(one)
            known.append(torch.ones_like(one, dtype=torch.bool))
        elif f.kind == "intensity":
            values.append(prepared.tensors[f.name].float())
            known.append((~room)[None])
        else:
            values.append(torch.zeros(f.channels, *ball.shape))
            known.append(torch.zeros(f.channels, *ball.shape, dtype=torch.bool))
    return torch.cat(values), torch.cat(known)


__all__ = ["Lesion", "paint_lesion"]
