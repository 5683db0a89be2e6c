"""Stages that compute, asked day by day, with the learned stages before them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..contracts import Case, Image
from ..data.cohort import Member
from ..data.daily import days_of
from ..recipe.values import ComputedStage
from .answering import Answering
from .folder import RunFolder, chosen

Images = dict[str, Image]
Say = Callable[[str], None]


class Chain:
    """The computed stages of a run, and what they build on. `members`: all visits of the patients who are asked about.

    What was drawn of a patient is kept until another one is asked about. `own`: what the run has drawn of a day counts
    as drawn; for new patients, whose names may be those of others, it does not.
    """

    def __init__(
        self, run: RunFolder, members: Sequence[Member], device: str = "cpu", say: Say = print, own: bool = False
    ) -> None:
        self.run, self.device, self.say, self.own = run, device, say, own
        self.days = days_of(members)
        self.stages = {stage.name: stage for stage in run.recipe.computed}
        self.computations = {stage.name: stage.build() for stage in run.recipe.computed}
        self._answering: dict[str, Answering] = {}
        self._patient = ""
        self._drawn: dict[tuple[str, str, int], list[Images]] = {}
        self._true: dict[tuple[str, str], Images] = {}
        self._read: dict[tuple[str, str], Image] = {}

    def draws(self, name: str, day: Member, count: int) -> list[Images]:
        """What a stage, learned or computed, makes of a day: `count` draws, or one where all of them are the same.

        Raises UnreadableError where it cannot.
        """
        self._turn_to(day)
        key = name, day.name, count
        if key not in self._drawn:
            stage = self.stages.get(name)
            self._drawn[key] = self._learned(name, day, count) if stage is None else self._computed(stage, day, count)
        return self._drawn[key]

    def truth(self, name: str, day: Member) -> Images:
        """What the stage ought to have made: computed of true inputs where that is exact, else the day's own images of
        those names; nothing where nobody knows.
        """
        self._turn_to(day)
        key = name, day.name
        if key not in self._true:
            self._true[key] = self._truth(name, day)
        return self._true[key]

    def _truth(self, name: str, day: Member) -> Images:
        stage = self.stages.get(name)
        if stage is None:
            return self.images(day, [f.name for f in self.run.recipe.stage(name).build_job().signature().x])
        computation = self.computations[name]
        if not computation.exact:
            return self.images(day, [f.name for f in computation.makes()])
        cases = []
        for one in self._so_far(day) if computation.looks_back else [day]:
            true = {n: plan.stage for name, plan in stage.inputs.items() for n in stage.stands_for(name)}
            known = self.images(one, [n for n in computation.reads() if n not in true])
            for source in dict.fromkeys(true.values()):
                known |= {n: i for n, i in self.truth(source, one).items() if true.get(n) == source}
            if any(n not in known for n in true):
                return {}
            cases.append(_case_of(one, known))
        return computation.compute(cases)

    def images(self, day: Member, names: Sequence[str]) -> Images:
        """The day's own images of these names, read once."""
        wanted = [n for n in names if n in day.contrasts() and (day.name, n) not in self._read]
        if wanted:
            for n, image in day.load(wanted).images.items():
                self._read[day.name, n] = image
        return {n: self._read[day.name, n] for n in names if (day.name, n) in self._read}

    def _turn_to(self, day: Member) -> None:
        if day.patient != self._patient:
            self._patient = day.patient
            for kept in (self._drawn, self._true, self._read):
                kept.clear()

    def _so_far(self, day: Member) -> list[Member]:
        """The days of its patient up to this one."""
        own = [one for one in self.days if one.patient == day.patient]
        return own[: [one.name for one in own].index(day.name) + 1]

    def _learned(self, name: str, day: Member, count: int) -> list[Images]:
        stage = self.run.recipe.stage(name)
        if self.own and (found := self.run.drawn(stage, day.name, [f.name for f in stage.build_job().signature().x])):
            return found[:count]
        if name not in self._answering:
            self._answering[name] = Answering(self.run, stage, self.device)
        answering = self._answering[name]
        return answering.draws(day, 1 if answering.family.deterministic else count, self.say)

    def _computed(self, stage: ComputedStage, day: Member, count: int) -> list[Images]:
        computation = self.computations[stage.name]
        days = self._so_far(day) if computation.looks_back else [day]
        shown = [self._shown(stage, one, count, computation.reads()) for one in days]
        return [computation.compute([own[k % len(own)] for own in shown]) for k in range(max(map(len, shown)))]

    def _shown(self, stage: ComputedStage, day: Member, count: int, reads: Sequence[str]) -> list[Case]:
        """The day as a stage is shown it, once for each draw of what it builds on."""
        inputs: dict[str, list[Image]] = {}
        for wanted, plan in stage.inputs.items():
            made = self.draws(plan.stage, day, count)
            for name in (n for n in stage.stands_for(wanted) if n in made[0]):
                inputs[name] = chosen([images[name] for images in made], plan)
        base = self.images(day, [n for n in reads if n not in inputs])
        return [
            _case_of(day, {**base, **{name: own[k % len(own)] for name, own in inputs.items()}})
            for k in range(max(map(len, inputs.values()), default=1))
        ]


def _case_of(day: Member, images: Mapping[str, Image]) -> Case:
    return Case(day.patient, dict(images), day.values, day.visit, day.days, day.site)
