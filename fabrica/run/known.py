"""What some families know besides their draws: images that a codec gives back, how likely the truth is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..contracts import Codec, Family
from ..data.cases import Prepared
from ..evaluate.result import Figure
from ..evaluate.statistics import interval
from ..families import Fsq, density_of, words_of
from ..networks.tiled import tiled
from .memory import window_that_fits
from .question import Asked
from .stage import PreparedStage

Say = Callable[[str], None]


class GivenBack:
    """What a codec gives back of the test part's images, and how many of its words they use; nothing of other
    families.
    """

    def __init__(self, ready: PreparedStage, family: Family) -> None:
        self.ready, self.codec, self.window = (
            ready,
            family if isinstance(family, Codec) else None,
            ready.evaluate.windows,
        )
        self.errors: list[float] = []
        self.patients: list[str] = []
        self.tokens: list[Tensor] = []

    @torch.inference_mode()
    def add(self, case: Prepared) -> None:
        if self.codec is None or not self.ready.knows(case):
            return
        device = next(self.codec.parameters()).device
        x, asked = self.ready.truth(case, device), self.ready.question(case, device)
        with tiled(self.codec.eval(), self.window or window_that_fits(self.codec, asked)):
            back = self.codec.decode(self.codec.encode(x), asked.condition)
            tokens = self.codec.tokens(x).flatten().cpu() if isinstance(self.codec, Fsq) else None
        self.errors.append(float((back - x).square().mean().sqrt()))
        self.patients.append(case.case.patient)
        if tokens is not None:
            self.tokens.append(tokens)

    def figures(self) -> list[Figure]:
        if not self.errors:
            return []
        name, found = self.ready.name, interval(self.errors, self.patients)
        what, how = "images given back: root mean square error", f"of the model's scale; {found.convention}"
        figures = [Figure(name, "model", what, found.value, found.interval, found.n, how)]
        if isinstance(self.codec, Fsq):
            share, perplexity = self.codec.used(torch.cat(self.tokens))
            how = f"{self.codec.levels.size} words; perplexity {perplexity:.1f}"
            figures.append(Figure(name, "model", "share of the words in use", share, None, found.n, how))
        return figures


class Chances:
    """How likely a family that knows chances finds the truth of some test cases; nothing of other families."""

    def __init__(self, ready: PreparedStage, family: Family) -> None:
        self.ready, self.cases, self.window = ready, ready.evaluate.likelihood, ready.evaluate.windows
        self.family = None if density_of(family) is None else family.eval()
        self.found: list[tuple[str, float]] = []
        self.how = ""

    def add(self, asked: Asked, say: Say) -> None:
        if self.family is None or len(self.found) >= self.cases or not self.ready.knows(asked.case):
            return
        device, kinds = next(self.family.parameters()).device, [f.channels for f in self.ready.signature.x]
        x, problem = self.ready.truth(asked.case, device), self.ready.question(asked.shown[0], device)
        with tiled(self.family, self.window or window_that_fits(self.family, problem)):
            words = words_of(self.family, x, problem.condition, kinds)
            say(f"{self.ready.name}: the chances of {asked.name} take {words.count} evaluations of the network.")
            self.found.append((asked.case.case.patient, float(words.nats().mean()) / words.count))
        self.how = f"{words.count} words a case; guessing evenly: {words.guessing / words.count:.3f}"

    def figures(self) -> list[Figure]:
        if not self.found:
            return []
        found = interval([nats for _, nats in self.found], [patient for patient, _ in self.found])
        what, how = "surprise at the truth (nats a word)", f"{self.how}; {found.convention}"
        return [Figure(self.ready.name, "model", what, found.value, found.interval, found.n, how)]
