"""The laws can fail: a family with each fault, and the law that names it."""

from collections.abc import Iterable, Mapping

import pytest
import torch
from torch import Tensor, nn

from fabrica.contracts import Codec, Condition, Family, Field, Problem, Signature
from fabrica.families import FAMILIES
from fabrica.networks.unet import UNetShape
from fabrica.rng import Rng
from fabrica.testing import check_family, check_family_learns, check_family_shapes
from fabrica.testing.families import _check_capability


class Sound(Family):
    """Noise about a multiple of its condition."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7))

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"model": self.parameters()}

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        assert problem.target is not None
        return {"square": ((self.gain * problem.condition.values["given"] - problem.target) ** 2).flatten(1).mean(1)}

    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return (self.gain * problem.condition.values["given"] + rng.normal(*problem.shape)).detach()


class Unseeded(Sound):
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return super().sample(problem, rng) + torch.rand(1)


class Batched(Sound):
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        drawn = super().sample(problem, rng)
        return drawn - drawn.mean(0)


class Deaf(Sound):
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return rng.normal(*problem.shape)


class Placed(Sound):
    """What a row draws depends on where it stands."""

    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        drawn = super().sample(problem, rng)
        return drawn if len(drawn) == 1 else drawn + torch.tensor([0.0, 0.0, 1.0]).reshape(-1, 1, 1, 1)


class Forgetful(Sound):
    """Something that was learned is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.secret = nn.Parameter(torch.tensor(0.3))
        self._register_state_dict_hook(lambda module, state, prefix, _: (state.pop(prefix + "secret"), None)[1])

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True, assign: bool = False):  # type: ignore[no-untyped-def]
        return super().load_state_dict(state, strict=False, assign=assign)

    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return (super().sample(problem, rng) + self.secret).detach()


class Careless(Sound):
    """NaN counts as 0, and nobody hears of it."""

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        return {n: t.nan_to_num() for n, t in super().loss(problem, group, rng, progress).items()}


class Mixing(Sound):
    """The loss of every row holds that of all."""

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        return {n: t.mean().expand(len(t)) for n, t in super().loss(problem, group, rng, progress).items()}


class Silent(Sound):
    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        return {n: t.detach() + 0 * self.gain for n, t in super().loss(problem, group, rng, progress).items()}


def _problem() -> Problem:
    rng = Rng([0, 1, 2])
    given, target = (rng.child(n).uniform(1, 8, 8) for n in ("given", "target"))
    return Problem(("a", "b", "c"), (1, 8, 8), Condition({"given": given}), target=target)


def test_a_sound_family_passes() -> None:
    check_family(Sound(), _problem())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Unseeded, "depends on more than rng"), (Batched, "depends on its batch"), (Deaf, "the condition 'given' changes nothing"),
        (Placed, "depends on its batch|rows in another order"), (Forgetful, "saved and read back, it draws something else"),
        (Careless, "leaves the loss of 'model' finite"), (Mixing, "NaN of patient 1 is said of .'patient 0', 'patient 1', 'patient 2'"), (Silent, "gets no gradient"),
    ],
)  # fmt: skip
def test_each_fault_is_named(kind: type[Sound], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_family(kind(), _problem())


class Shaped(Sound):
    """Of a signature; draws 2 channels whatever was asked for, or dies on odd sides without a word."""

    fault = ""

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        return {"square": ((self.gain - problem.target) ** 2).flatten(1).mean(1)}  # type: ignore[operator]

    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        channels, *sides = problem.shape
        if self.fault == "odd" and any(n % 2 for n in sides):
            raise ValueError("shapes differ")
        return rng.normal(2 if self.fault == "channels" else channels, *sides)


@pytest.mark.parametrize(
    ("fault", "words"), [("channels", "with 1 channels gave"), ("odd", "without saying which it wants"), ("", "")]
)
@pytest.mark.parametrize("axes", ["yx", "zyx"])
def test_shapes_that_are_wrong(fault: str, words: str, axes: str) -> None:
    def make(signature: Signature) -> Family:
        family = Shaped()
        family.fault = fault
        return family

    if not fault:
        check_family_shapes(make, axes)
        return
    with pytest.raises(AssertionError, match=words):
        check_family_shapes(make, axes)


class Remembering(Sound):
    """What it learned lies outside of what is saved."""

    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return super().sample(problem, rng) + getattr(self, "learned", 0.0)


def test_what_is_not_saved_is_found_by_a_new_family() -> None:
    family = Remembering()
    family.learned = 0.5
    check_family(family, _problem())  # a copy remembers
    with pytest.raises(AssertionError, match="saved and read back"):
        check_family(family, _problem(), Remembering)


class Pupil(Family):
    """Learns a grey and a spread for each class; `fault` says what goes wrong."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.middle, self.spread = fault, nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2) - 1)

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"model": self.parameters()}

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        assert problem.target is not None
        kind = problem.condition.values["class"]
        gap, width = problem.target.flatten(1).mean(1) - self.middle[kind], self.spread[kind]
        term = 0.5 * (gap / width.exp()) ** 2 + width
        return {"nats": 2 * term.detach() - term if self.fault == "rises" else term}  # its value, and a slope upwards

    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        kind = problem.condition.values["class"]
        kind = torch.zeros_like(kind) if self.fault == "one class" else kind
        noise = rng.normal(1, *problem.shape[1:])
        noise = noise if self.fault == "voxels apart" else noise[:, :, :1, :1].expand_as(noise)
        size = {"too narrow": 0.1, "too wide": 2.0, "half as wide": 0.5}.get(self.fault, 1.0)
        wide = (self.middle[kind], size * self.spread[kind].exp())
        middle, spread = (v.detach().reshape(-1, 1, 1, 1) for v in wide)
        return middle + spread * noise


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("one class", r"the mean is 0.\d+, taught 0.7"), ("too narrow", "the spread of a voxel is 0.0.., taught 0.1"),
        ("too wide", "the spread of a voxel is 0.2.., taught 0.1"), ("half as wide", "the spread of a voxel is 0.05., taught 0.1"), ("voxels apart", "the spread of whole images is 0.0.., taught 0.1"),
        ("rises", "its loss rose"), ("", ""),
    ],
)  # fmt: skip
def test_what_is_learned_wrongly_is_named(fault: str, words: str) -> None:
    def learn() -> None:
        check_family_learns(lambda signature: Pupil(fault), steps=1500)

    if not fault:
        learn()
        return
    with pytest.raises(AssertionError, match=words):
        learn()


class PupilCodec(Codec):
    """Gives images back as they are, or darker; draws as the pupil within it."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.inner, self.codes, self.factor = fault, Pupil(fault), 1, 1

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return self.inner.groups()

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        return self.inner.loss(problem, group, rng, progress)

    def encode(self, x: Tensor) -> Tensor:
        return x - 0.1 if self.fault == "darker" else x

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        return z

    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return self.inner.sample(problem, rng)


def test_a_codec_that_promises_other_codes_is_named() -> None:
    """What `codes` and `factor` say is what priors are built for."""
    torch.manual_seed(0)
    problem = Problem(("a", "b"), (1, 16, 16), target=torch.rand(2, 1, 16, 16))
    made = FAMILIES.find("vae")(Signature((Field("x"),), "yx"), UNetShape((8, 16), 1), "fp32", codes=4).eval()
    _check_capability(made, problem, torch.rand(2, 1, 16, 16))
    made.factor = 2
    with pytest.raises(AssertionError, match=r"encode gives \(4, 4, 4\) a row, codes and factor promise \(4, 8, 8\)"):
        _check_capability(made, problem, torch.rand(2, 1, 16, 16))


def test_a_codec_is_held_to_its_round_trip_and_to_its_draws() -> None:
    with pytest.raises(AssertionError, match=r"the mean is 0.2.., taught 0.3"):
        check_family_learns(lambda signature: PupilCodec("darker"), steps=1500, generates=False)
    with pytest.raises(AssertionError, match="the spread of whole images is 0.0.., taught 0.1"):
        check_family_learns(lambda signature: PupilCodec("voxels apart"), steps=1500)
    check_family_learns(lambda signature: PupilCodec("voxels apart"), steps=1500, generates=False)
