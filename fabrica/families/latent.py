"""A prior over the codes of a trained codec (Rombach et al. 2022): draws are codes first, then images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..contracts import Codec, Condition, Density, Family, Field, Problem, Signature
from ..networks.blocks import PLANES, folded
from ..networks.codec import Levels
from ..rng import Rng
from .codecs import Fsq
from .drawn import with_steps
from .equalised import Equalised
from .precondition import wide

SIZE = 0.3  # deviation of the codes as the prior sees them: that of images, which families' defaults are made for


def latent_signature(signature: Signature, codec: Codec, prior: type[Family]) -> Signature:
    """What the prior is asked for: as many channels as the codec has, or its words where the prior learns nothing else.

    In equalised intensities it is asked for what the job asks. Conditions on the grid keep every voxel: those of one
    code become its channels. Raises ValueError when the prior draws words and the codec has none.
    """
    if isinstance(codec, Equalised):
        return signature
    x: tuple[Field, ...] = (Field("latent", "intensity", codec.codes),)
    if "intensity" not in prior.learns:
        if not isinstance(codec, Fsq):
            raise ValueError(
                f"{prior.__name__} draws words, and {type(codec).__name__} has none. Write there: family: {{name: vq}}"
            )
        x = tuple(Field(f"word {k}", "label", count) for k, (_, count) in enumerate(codec.levels.places))
    several = codec.factor ** len(signature.axes)
    condition = (replace(f, channels=f.channels * several) if f.kind in PLANES else f for f in signature.condition)
    return replace(signature, x=x, condition=tuple(condition))


class Latent(Family):
    """`prior` learns and draws codes of `codec` (or equalised intensities), which is frozen; the voxels of a condition
    become channels of its codes' grid.
    """

    spread: Tensor

    def __init__(self, codec: Codec, prior: Family, condition: tuple[Field, ...]) -> None:
        super().__init__()
        self.codec, self.prior = codec.requires_grad_(False), prior
        self.planes = tuple(f.name for f in condition if f.kind in PLANES)
        self.factor = codec.factor
        self.register_buffer("spread", torch.ones(()))

    @property
    def _words(self) -> Levels | None:
        """Where the prior draws words instead of numbers."""
        return self.codec.levels if isinstance(self.codec, Fsq) and "intensity" not in self.prior.learns else None

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return self.prior.groups()

    def _given(self, condition: Condition) -> Condition:
        """As the prior sees it."""
        values = {n: folded(v.float(), self.factor) if n in self.planes else v for n, v in condition.values.items()}
        return Condition(values, condition.present)

    def _inner(self, problem: Problem, target: Tensor | None) -> Problem:
        words = self._words
        channels = self.codec.codes if words is None else sum(count for _, count in words.places)
        return replace(
            problem,
            shape=(channels, *(n // self.factor for n in problem.shape[1:])),
            condition=self._given(problem.condition),
            target=target,
            weight=problem.weight if isinstance(self.codec, Equalised) else None,
        )

    def _coded(self, target: Tensor) -> Tensor:
        codes = self.codec.encode(target)
        if self._words is not None:
            return self._words.one_hot(codes)
        if self.training:
            self.spread.lerp_(codes.std(), 0.05)
        return codes * (SIZE / self.spread)

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        if problem.target is None:
            raise ValueError(
                f"Training needs targets; {problem.cases[0]} has none. Leave such cases out of the training part."
            )
        self.codec.eval()
        sound = (
            problem.target.flatten(1).isfinite().all(1)
        )  # NaN is no word: its row gets a loss of NaN, which training names
        with torch.no_grad():
            codes = self._coded(problem.target.where(wide(sound, problem.target), 0.0))
        inner = self._inner(problem, codes)
        if inner.weight is None and problem.weight is not None:  # an image that is not wholly known has no code
            whole = problem.weight.flatten(1).amin(1) > 0
            inner = replace(inner, weight=whole.to(codes).reshape(-1, *[1] * (codes.ndim - 1)))
        terms = self.prior.loss(inner, group, rng, progress)
        return {name: term.where(sound, torch.nan) for name, term in terms.items()}

    def words(self, x: Tensor, condition: Condition) -> tuple[Tensor, Condition, list[int]]:
        """(words of x one-hot, the condition as the prior sees it, how many values each kind of word has)."""
        if (words := self._words) is None:
            raise TypeError(
                f"{type(self.prior).__name__} draws no words. Write: family: {{name: autoregressive, in: {{stage:"
                " codec}}"
            )
        codes = self.codec.eval().encode(x)
        return words.one_hot(codes), self._given(condition), [count for _, count in words.places]

    @property
    def multiple(self) -> int:
        """Codes exist for its factor, and the networks over them divide their grid further."""
        return self.factor * self.prior.multiple

    def with_steps(self, count: int) -> Family | None:
        prior = with_steps(self.prior, count)
        if prior is None:
            return None
        twin = Latent(self.codec, prior, ())
        twin.planes, twin.spread = self.planes, self.spread
        return twin.eval()

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        drawn = self.prior.sample(self._inner(problem, None), rng)
        codes = drawn * (self.spread / SIZE) if self._words is None else self._words.from_one_hot(drawn)
        return self.codec.decode(codes, problem.condition)


def density_of(family: Family) -> Density | None:
    """What knows chances: the family itself, or the prior over its codes; None where nothing does."""
    inner = family.prior if isinstance(family, Latent) else family
    return inner if isinstance(inner, Density) else None


@dataclass(frozen=True)
class Words:
    """Rows as whoever knows chances reads them; `kinds`: how many values each kind of word has."""

    density: Density
    x: Tensor  # (B, sum of kinds, *grid), one-hot
    condition: Condition
    kinds: Sequence[int]

    @property
    def count(self) -> int:
        """Of a row; its chance takes as many evaluations of the network."""
        return math.prod(self.x.shape[2:]) * len(self.kinds)

    @property
    def guessing(self) -> float:
        """Nats of a row when every word is as likely as any other."""
        return math.prod(self.x.shape[2:]) * sum(math.log(n) for n in self.kinds)

    @torch.no_grad()
    def nats(self) -> Tensor:
        """(B,): -log p of each row."""
        return -self.density.log_prob(self.x, self.condition)


def words_of(family: Family, x: Tensor, condition: Condition, kinds: Sequence[int]) -> Words:
    """x (B, C, *axes) as targets are, of fields with so many values each; raises TypeError where nothing knows
    chances.
    """
    if (density := density_of(family)) is None:
        raise TypeError(f"{type(family).__name__} knows no chances. Write: family: {{name: autoregressive}}")
    if isinstance(family, Latent):
        with torch.no_grad():
            x, condition, kinds = family.words(x, condition)
    return Words(density, x, condition, kinds)
