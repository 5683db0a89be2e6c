"""Laws: whatever passes works everywhere in the package. Public, so that plug-ins run them too.

Each check raises AssertionError that names the member and the law.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional as F

from ..contracts import (
    Codec,
    Condition,
    Denoiser,
    Density,
    Family,
    Field,
    Kind,
    Matcher,
    Problem,
    Reconstructor,
    Signature,
)
from ..learning.gradients import Loss, TrainingError
from ..learning.optimiser import optimisers
from ..rng import Rng

SPREAD = 0.45  # part of a taught spread that what is learned may lack or have too much
BATCH_TOLERANCE = 1e-4  # of a draw's largest value: what batching may change in float32


def check_family(family: Family, problem: Problem, make: Callable[[], Family] | None = None) -> None:
    """Losses, seeds, rows, conditions, NaN, save and reload, devices, and the promises of the capability; B >= 2.

    `make`: a new family of the same kind, into which the saved weights are read; none = a copy with other weights. Of a
    family that has learned a few steps: heads that start at zero use nothing of their condition.
    """
    name, seeds = type(family).__name__, list(range(len(problem.cases)))
    for group in family.groups():
        _check_loss(family, problem, group)
        _check_nan(family, problem, group)
    draw = family.sample(problem, Rng(seeds))
    assert draw.shape == (len(seeds), *problem.shape), f"{name}.sample gave {tuple(draw.shape)}"
    again = family.sample(problem, Rng(seeds))
    assert torch.equal(again, draw), f"{name}.sample depends on more than rng"
    alone = family.sample(problem.rows(torch.tensor([1])), Rng(seeds[1:2]))
    gap = float((alone - draw[1:2]).abs().max()) / max(1.0, float(draw.abs().max()))
    assert gap < BATCH_TOLERANCE, f"{name}: a row's draw depends on its batch ({gap:.2g})"
    _check_conditions(family, problem, draw)
    _check_reload(family, problem, draw, make)
    _check_devices(family, problem, draw)
    _check_capability(family, problem, draw)


def check_family_shapes(make: Callable[[Signature], Family], axes: str, kind: Kind = "intensity") -> None:
    """1 to 3 channels on grids whose sides differ; odd sides are drawn or refused with what they must be multiples of.

    `make`: the family for a signature of one image given and one asked for, each of so many channels; `kind` is the
    asked one's (of labels there are two at least).
    """
    for channels in (1, 2, 3) if kind == "intensity" else (2, 3):
        family = make(Signature((Field("x", kind, channels),), axes, (Field("y", "intensity", channels),)))
        step = family.multiple
        sides = tuple((k + 1) * max(4, step) for k in range(len(axes)))
        problem = _asked(channels, sides, kind)
        for group in family.groups():
            _check_loss(family, problem, group)
        drawn = family.sample(replace(problem, target=None), Rng([0, 1]))
        name = f"{type(family).__name__} with {channels} channels"
        assert drawn.shape == (2, channels, *sides), f"{name} gave {tuple(drawn.shape)}"
        assert torch.isfinite(drawn).all(), f"{name} drew what is no number"
    _check_odd(family, tuple(n + 1 for n in sides))


def check_family_learns(
    make: Callable[[Signature], Family],
    axes: str = "yx",
    steps: int = 300,
    within: float = 0.06,
    generates: bool = True,
    spread_within: float = SPREAD,
) -> dict[str, float]:
    """Taught images that are a grey each, N(0.3, 0.1) or N(0.7, 0.1) by class, a family's loss falls and its draws have
    both means (within `within`) and both spreads (within a part of them), of voxels and of whole images: voxels are
    to move as one. Without axes: numbers instead of images.

    Label maps, where a family learns nothing else, are all one label by the toss of a class's coin. A family that
    starts from an image is given one of N(0.7, 0.1) instead of a class: darker by 0.4 is the answer, or another
    patient's where it learns without pairs. A codec is held to its round trip besides, and to that alone where it
    leaves draws to others (`generates`). `make`: the family for a signature; raises ValueError where it needs an image.
    Returns the largest share of its bound that each figure takes: how near the law came to failing.
    """
    toy = _Toy(make, axes)
    family, name = toy.family, type(toy.family).__name__
    before = toy.loss()
    for step, (group, optimiser) in itertools.product(range(steps), optimisers(family, family.groups()).items()):
        for part in optimiser.param_groups:
            part["lr"] = optimiser.rate * (1 - step / steps)
        optimiser.zero_grad()
        terms = family.loss(toy.problem(step), group, Rng(range(toy.rows)).child(group, step), step / steps)
        torch.stack([t.mean() for t in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    family.eval()
    after = toy.loss()
    assert len(family.groups()) > 1 or after < before, f"{name}: its loss rose from {before:.3g} to {after:.3g}"
    ways = [toy.given_back()] if isinstance(family, Codec) else []
    ways += [toy.drawn()] if generates else []
    largest: dict[str, float] = {}
    for (mean, spread), draws in itertools.chain(*(zip(toy.moments, way, strict=True) for way in ways)):
        found = {"mean": draws.mean(), "spread of a voxel": draws.std(), "spread of whole images": draws.mean(1).std()}
        for what, value in found.items():
            got, taught = float(value), mean if what == "mean" else spread
            bound = (
                within
                if what == "mean"
                else min(within, SPREAD * taught)
                if spread_within == SPREAD
                else spread_within * taught
            )
            assert abs(got - taught) < bound, f"{name}: the {what} is {got:.3f}, taught {taught}"
            largest[what] = max(largest.get(what, 0.0), abs(got - taught) / bound)
    return largest


class _Toy:
    """Images of one grey each, and a family that is to learn them."""

    rows = 24

    def __init__(self, make: Callable[[Signature], Family], axes: str) -> None:
        self.axes = axes
        kind: Kind = "intensity" if axes else "number"
        by = (Field("class", "class", 2),)
        try:
            self.family, self.from_image = make(Signature((Field("x", kind),), axes, by)), False
        except ValueError:
            self.family, self.from_image = make(Signature((Field("x", kind),), axes, (Field("T1w"),))), True
        self.labels = "intensity" not in self.family.learns
        # few words, told one by one: the first is asked for often enough; few voxels of a volume, for the sake of time
        self.side = 4 if self.labels or len(axes) > 2 else 8
        if self.labels:
            self.family = make(Signature((Field("x", "label", 2),), axes, by))
        self.moments = [(0.3, 0.46), (0.7, 0.46)] if self.labels else [(0.3, 0.1), (0.7, 0.1)]
        self.moments = self.moments[:1] if self.from_image else self.moments

    def problem(self, step: int, rows: int = rows) -> Problem:
        """Other images every step."""
        rng = Rng(range(rows)).child("toy", step)
        kind = torch.arange(rows) % len(self.moments)
        middle, given = torch.tensor([m for m, _ in self.moments])[kind], 0.7 + 0.1 * rng.child("given").normal()
        grey = given - 0.4 if self.from_image else middle + 0.1 * rng.child("grey").normal()
        grey = grey.roll(1) if self.family.unpaired else grey
        if self.labels:
            one = (rng.child("coin").uniform() < middle).float()
            target = self._plane(1 - one, one)
        else:
            target = self._plane(grey)
        condition = Condition({"T1w": self._plane(given)} if self.from_image else {"class": kind})
        return Problem(tuple(map(str, range(rows))), tuple(target.shape[1:]), condition, target=target)

    def _plane(self, *greys: Tensor) -> Tensor:
        flat = torch.stack(greys, 1)
        sides = [self.side] * len(self.axes)
        return flat.reshape(*flat.shape, *[1] * len(sides)).expand(*flat.shape, *sides).contiguous()

    def loss(self) -> float:
        """Over problems and noise that stay the same; not of groups that are taught by what they teach."""
        group, found = list(self.family.groups())[-1], []
        with torch.no_grad():
            for step in range(4):
                terms = self.family.loss(
                    self.problem(-1 - step), group, Rng(range(self.rows)).child("judge", step), 0.0
                )
                found.append(sum(float(t.mean()) for t in terms.values()))
        return sum(found) / len(found)

    def drawn(self) -> list[Tensor]:
        """(rows, voxels): new draws, by class."""
        return self._by_class(self.family.sample(replace(self.problem(-9, 400), target=None), Rng(range(400))))

    def given_back(self) -> list[Tensor]:
        """(rows, voxels): new images after a round trip, by class."""
        problem = self.problem(-9, 400)
        assert isinstance(self.family, Codec)
        assert problem.target is not None
        return self._by_class(self.family.decode(self.family.encode(problem.target), problem.condition))

    def _by_class(self, x: Tensor) -> list[Tensor]:
        voxels = x[:, -1:].detach().flatten(1)
        return [voxels[k :: len(self.moments)] for k in range(len(self.moments))]


def _check_odd(family: Family, odd: tuple[int, ...]) -> None:
    try:
        shape, refusal = family.sample(replace(_asked(3, odd), target=None), Rng([0, 1])).shape, ""
    except ValueError as error:
        shape, refusal = None, str(error)
    name = type(family).__name__
    assert refusal or shape == (2, 3, *odd), f"{name} gave {shape} for sides of {odd}"
    assert not refusal or "multiple" in refusal, f"{name} refuses odd sides without saying which it wants: {refusal}"


def _asked(channels: int, sides: tuple[int, ...], kind: Kind = "intensity") -> Problem:
    given, target = (Rng([0, 1]).child(name).uniform(channels, *sides) for name in ("given", "target"))
    if kind == "label":
        target = F.one_hot(target.argmax(1), channels).movedim(-1, 1).float()
    return Problem(("a", "b"), (channels, *sides), Condition({"y": given}), target=target)


def _check_nan(family: Family, problem: Problem, group: str) -> None:
    """A voxel that is no number stops training, which names the patient: of the target, or of an image where nothing is
    asked.
    """
    name, values, target = type(family).__name__, dict(problem.condition.values), problem.target
    cases = tuple(f"patient {k}" for k in range(len(problem.cases)))
    if target is not None:
        target = _spoilt(target)
    else:
        planes = [n for n, v in values.items() if v.ndim > 2 and v.is_floating_point()]
        values |= {n: _spoilt(values[n]) for n in planes}
    spoilt = replace(problem, cases=cases, target=target, condition=Condition(values, problem.condition.present))
    try:
        Loss(family)(spoilt, group, Rng(range(len(cases))), 0.5)
    except TrainingError as error:
        told = [case for case in cases if case in str(error)]
    else:
        raise AssertionError(f"{name}: NaN in a scan leaves the loss of {group!r} finite")
    # families that compare patients with one another cannot tell whose scan it was
    among = family.unpaired or problem.target is None
    assert told == [cases[1]] or (among and cases[1] in told), f"{name}: NaN of {cases[1]} is said of {told}"


def _spoilt(x: Tensor) -> Tensor:
    """The second row's first voxel is no number."""
    spoilt = x.clone()
    spoilt[(1, *[0] * (x.ndim - 1))] = torch.nan
    return spoilt


def _check_conditions(family: Family, problem: Problem, draw: Tensor) -> None:
    """A row's draw follows its own condition, and another condition gives another draw: each of them, the others as
    they were.
    """
    name, rows = type(family).__name__, len(problem.cases)
    turned = torch.arange(rows).roll(1)
    together = family.sample(problem.rows(turned), Rng(turned.tolist()))
    gap = float((together - draw[turned]).abs().max()) / max(1.0, float(draw.abs().max()))
    assert gap < BATCH_TOLERANCE, f"{name}: rows in another order draw something else ({gap:.2g})"
    others = problem.rows(turned).condition
    for what, value in problem.condition.values.items():
        condition = Condition({**problem.condition.values, what: others.values[what]}, problem.condition.present)
        if torch.equal(value, others.values[what]):
            continue
        if isinstance(family, Matcher) and not value.is_floating_point():  # a text, of which it tells apart from images
            changes = not torch.equal(family.worded(condition, rows), family.worded(problem.condition, rows))
            assert changes, f"{name}: the text {what!r} changes nothing"
        else:
            drawn = family.sample(replace(problem, condition=condition), Rng(range(rows)))
            assert not torch.equal(drawn, draw), f"{name}: the condition {what!r} changes nothing"


def _check_reload(family: Family, problem: Problem, draw: Tensor, make: Callable[[], Family] | None) -> None:
    """What is saved and read back draws the same, to the bit."""
    kept = save({n: v.contiguous().clone() for n, v in family.state_dict().items()})
    copy = deepcopy(family) if make is None else make().train(family.training)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.add_(1.0)
    copy.load_state_dict(load(kept))
    again = copy.sample(problem, Rng(range(len(problem.cases))))
    assert torch.equal(again, draw), f"{type(family).__name__}: saved and read back, it draws something else"


def _check_devices(family: Family, problem: Problem, draw: Tensor) -> None:
    """Where there is a card it draws what the CPU draws, but for rounding."""
    if not torch.cuda.is_available() or draw.is_cuda:
        return
    values = {n: v.to("cuda") for n, v in problem.condition.values.items()}
    present = {n: v.to("cuda") for n, v in problem.condition.present.items()}
    asked = replace(problem, condition=Condition(values, present), target=None)
    there = deepcopy(family).to("cuda").sample(asked, Rng(range(len(draw))))
    gap = float((there.cpu() - draw).abs().mean()) / max(1.0, float(draw.abs().max()))
    assert gap < 0.01, f"{type(family).__name__}: the card draws something else ({gap:.2g})"


def _check_loss(family: Family, problem: Problem, group: str) -> None:
    terms = family.loss(problem, group, Rng(range(len(problem.cases))), 0.5)
    assert terms, f"{type(family).__name__} has no loss for its group {group!r}"
    for name, term in terms.items():
        assert term.shape in ((), (len(problem.cases),)), f"loss {name!r} has shape {tuple(term.shape)}"
        assert torch.isfinite(term).all(), f"loss {name!r} is not finite"
    total = torch.stack([t.mean() for t in terms.values()]).sum()
    parameters = list(family.groups()[group])
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    assert any(g is not None and bool(g.abs().sum() > 0) for g in gradients), f"group {group!r} gets no gradient"


def _check_capability(family: Family, problem: Problem, draw: Tensor) -> None:
    if isinstance(family, Reconstructor) and problem.measurements:
        doubled = {n: type(m)(2 * m.value, m.operator, m.noise) for n, m in problem.measurements.items()}
        again = family.sample(replace(problem, measurements=doubled), Rng(range(len(problem.cases))))
        assert not torch.equal(again, draw), "the measurement is not used"
    if isinstance(family, Denoiser):
        small = torch.full((len(draw),), 1e-4)
        torch.testing.assert_close(family.denoise(draw, small, problem.condition), draw, rtol=1e-2, atol=1e-2)
    if isinstance(family, Codec):
        promised = (family.codes, *(n // family.factor for n in problem.shape[1:]))
        encoded = tuple(family.encode(draw).shape[1:])
        assert encoded == promised, f"encode gives {encoded} a row, codes and factor promise {promised}"
    if isinstance(family, Density):
        assert family.log_prob(draw, problem.condition).shape == (len(draw),), "log_prob is not one number a row"
