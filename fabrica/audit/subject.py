"""What is audited: a trained stage, the people it learned from, and people it did not see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..contracts import Field, Job, Reconstructor
from ..data.cases import prepare_case
from ..data.cohort import Member, Source
from ..data.split import Split, patient_hash
from ..families import FAMILIES
from ..generate.patients import asked_patients, synthesising_stage
from ..io import UnreadableError
from ..jobs.posed import Posed
from ..machine.device import find_device
from ..recipe.values import Stage
from ..run.answering import Answering
from ..run.draw import draw
from ..run.folder import RunFolder
from ..run.prepare import split_stage
from ..run.question import Shown
from ..safeguards.privacy.copies import repeated
from ..safeguards.privacy.spaces import Array, encoded, pixels, textures

Say = Callable[[str], None]


@dataclass(frozen=True)
class Side:
    """Images of one side, (1, z, y, x) each, with whose they are."""

    images: list[Tensor]
    names: list[str]
    patients: list[str]


def _filled(tensor: Tensor) -> list[Tensor]:
    """Slices in which the patient is: blank ones are alike whoever they are of."""
    slices = [tensor[:, z : z + 1] for z in range(tensor.shape[1])]
    filled = [one for one in slices if float((one > 0.1).float().mean()) > 0.02]
    return filled or slices


@dataclass(frozen=True)
class Subject:
    """A trained stage of a run with the parts of its split; `held`: the test part, or those of a folder."""

    answering: Answering
    split: Split
    held: tuple[Member, ...]
    named: bool  # whether somebody named who was held out
    seed: int
    say: Say

    @staticmethod
    def open(
        run: Path, holdout: Path | Source | None, device: str, seed: int, say: Say, stage: str | None = None
    ) -> Subject:  # fmt: skip
        """Raises ValueError where there is no such run or it has several last stages, UnreadableError for a folder
        without scans.
        """
        opened = RunFolder.open(run, "recipes/synthesis.yaml")
        audited = _drawing(opened, stage)
        answering = Answering(opened, audited, find_device(device))
        cohorts = {name: plan.find() for name, plan in opened.recipe.cohorts.items()}
        split = split_stage(opened.recipe, audited, cohorts)
        held = answering.job.gathered(Source.of(holdout).find().members) if holdout else split.parts["test"]
        return Subject(answering, split, tuple(held), holdout is not None, seed, say)

    @property
    def run(self) -> RunFolder:
        return self.answering.run

    @property
    def stage(self) -> Stage:
        return self.answering.stage

    @cached_property
    def job(self) -> Job:
        """As training saw it, each patient beside his own answer."""
        job = self.answering.job
        taught = issubclass(FAMILIES.find(self.stage.family.name), Reconstructor)
        return Posed(job) if taught and job.signature().measurements else job

    @cached_property
    def train(self) -> tuple[Member, ...]:
        """Who trained these weights, as far as they tell: the training part, without who came later."""
        known = self.run.trained(self.stage).trained_on
        part = self.split.parts["train"]
        return tuple(m for m in part if patient_hash(m.patient) in known) if known else part

    def seen_by_training(self) -> str:
        """Why people of the other side are none, by the hashes that the weights keep; '' where they are."""
        known = self.run.trained(self.stage).trained_on
        seen = {m.patient for m in self.held if patient_hash(m.patient) in known}
        if not seen:
            return ""
        return f"{len(seen)} patients who are held out have trained these weights: name others by --holdout."

    @property
    def weights(self) -> str:
        return self.answering.scans.weights

    @property
    def synthesises(self) -> bool:
        """Whether its draws follow nobody's scan."""
        job, signature = self.answering.job, self.answering.signature
        return job.answer == "image" and not (signature.given or signature.measurements or job.simulates)

    @property
    def drawn(self) -> Field | None:
        """The first intensity that it draws."""
        return next((f for f in self.answering.signature.x if f.kind == "intensity"), None)

    @property
    def channel(self) -> int:
        """Where that lies among the channels of x."""
        fields = self.answering.signature.x
        first = next((k for k, f in enumerate(fields) if f.kind == "intensity"), len(fields))
        return sum(f.channels for f in fields[:first])

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return self.answering.preparation.spacing_mm or (1.0, 1.0, 1.0)

    @property
    def by_image(self) -> bool:
        """Whether no patient has two training images: where nobody says patients, every image counts as one."""
        train, _ = self.sides
        return len(set(train.patients)) == len(train.images)

    @cached_property
    def sides(self) -> tuple[Side, Side]:
        """What it draws as training patients and as those of the other side have it, images that both have left out of
        the other side as the run did.
        """
        train, held = self.side(self.train), self.side(self.held)
        same = set(() if self.named else repeated(pixels(train.images), pixels(held.images)).tolist())
        if same and len(same) < len(held.images):
            self.say(f"{len(same)} held-out images show the same as a training image and are left out.")
            kept = [k for k in range(len(held.images)) if k not in same]
            held = Side([held.images[k] for k in kept], [held.names[k] for k in kept], [held.patients[k] for k in kept])
        return train, held

    @cached_property
    def textured(self) -> tuple[Array, Array]:
        """Textures of both sides' images, a row each: they take most of an audit's time."""
        train, held = self.sides
        return textures(train.images, self.spacing_mm), textures(held.images, self.spacing_mm)

    @cached_property
    def coded(self) -> tuple[Array, Array]:
        """Features of both sides' images by the encoder that nobody trained."""
        train, held = self.sides
        return encoded(train.images), encoded(held.images)

    def side(self, members: Sequence[Member], alike: bool = False) -> Side:
        """Images of members as the run prepares them; what cannot be read is said and left out. Raises ValueError
        where nothing is left, and where `alike` images have other sides than those of training.
        """
        field, answering = self.drawn, self.answering
        images, names, patients = list[Tensor](), list[str](), list[str]()
        for member in members if field else ():
            assert field is not None  # or there are no members
            if field.name not in member.contrasts():
                continue
            try:
                tensor = prepare_case(member, [field.name], field.name, answering.preparation).tensors[field.name]
            except (UnreadableError, KeyError) as error:
                self.say(f"{member.name} is left out: {error}")
                continue
            whole = answering.layout.axes == "zyx"
            slices = [tensor] if whole else _filled(tensor)
            images += slices
            names += [member.name] * len(slices)
            patients += [member.patient] * len(slices)
        if not images:
            what = field.name if field else "what is drawn"
            raise ValueError(f"There is no image of {what} to audit with. See: fabrica inspect DIR")
        if alike:
            self._check_alike(images)
        return Side(self._cut(images), names, patients)

    def _check_alike(self, images: Sequence[Tensor]) -> None:
        known = {tuple(t.shape[2:]) for t in self.sides[0].images}
        usual = tuple(self.answering.layout.size[1:])
        other = next((tuple(t.shape[2:]) for t in images if tuple(t.shape[2:]) not in known | {usual}), None)
        if other is not None:
            raise ValueError(
                f"Draws have {' x '.join(map(str, other))} pixels, training images {' x '.join(map(str, usual))}: they"
                " could not be held against one another. Give draws as the model makes them."
            )

    def draws(self, count: int) -> list[Tensor]:
        """The first intensity of so many patients who do not exist."""
        answering, found = self.answering, list[Tensor]()
        for shown in asked_patients(answering, count):
            asked = [Shown(one) for one in shown]
            x = draw(answering.family, answering.job, asked, answering.layout, self.seed, self.say)
            found += [one[self.channel : self.channel + 1] for one in x]
            self.say(f"{len(found)} of {count} draws made.")
        return self._cut(found)

    def _cut(self, images: Sequence[Tensor]) -> list[Tensor]:
        """All on one grid: the middle of what is larger, zeros around what is smaller."""
        layout = self.answering.layout
        depth, *sides = layout.size
        wanted = (1 if layout.axes == "yx" else depth, *sides)
        found = []
        for image in images:
            out = torch.zeros(1, *wanted)
            here, there = [slice(None)], [slice(None)]
            for have, want in zip(image.shape[1:], wanted, strict=True):
                n = min(have, want)
                here.append(slice((want - n) // 2, (want - n) // 2 + n))
                there.append(slice((have - n) // 2, (have - n) // 2 + n))
            out[tuple(here)] = image[tuple(there)]
            found.append(out)
        return found


def _drawing(opened: RunFolder, name: str | None) -> Stage:
    """The stage whose answers go out: the one named, the one that synthesises, or the last one."""
    if name is not None:
        return opened.last_stage(name)
    try:
        return synthesising_stage(opened)
    except ValueError:
        return opened.last_stage(None)
