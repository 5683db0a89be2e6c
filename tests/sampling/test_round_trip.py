"""What passes through a codec comes back as far as its codes can say it."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from fabrica.contracts import Codec, Condition, Measurement, Problem
from fabrica.families import Drawn
from fabrica.physics import Exact, Gaussian, Mask
from fabrica.rng import Rng
from fabrica.sampling import SAMPLERS


class Coarse(Codec):
    """Codes are means of two by two pixels."""

    codes, factor = 1, 2

    def groups(self) -> Mapping:
        return {}

    def loss(self, problem, group, rng, progress):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def sample(self, problem, rng):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def encode(self, x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, 2)

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        return z.repeat_interleave(2, -1).repeat_interleave(2, -2)


def _problem(image: Tensor, noise: object) -> Problem:
    whole = torch.ones(1, *image.shape[1:], dtype=torch.bool)
    return Problem(("a", "b"), tuple(image.shape[1:]), measurements={"seen": Measurement(image, Mask(whole), noise)})  # type: ignore[arg-type]


def test_what_codes_say_comes_back_and_a_spot_does_not() -> None:
    smooth = torch.arange(4.0).reshape(1, 1, 4, 1).expand(2, 1, 4, 4).floor().div(2, rounding_mode="floor")
    spot = smooth.clone()
    spot[1, 0, 0, 0] += 1
    drawn = Drawn(Coarse(), SAMPLERS.find("round_trip"), {})
    assert drawn.deterministic
    found = drawn.sample(_problem(spot, Gaussian(0.2)), Rng([0, 1]))
    torch.testing.assert_close(found[0], smooth[0])
    assert float(found[1, 0, 0, 0]) == 0.25
    assert torch.equal(drawn.sample(_problem(spot, Gaussian(0.2)), Rng([7, 8])), found)


def test_it_needs_an_image_with_noise() -> None:
    with pytest.raises(ValueError, match="cannot use Mask with Exact"):
        Drawn(Coarse(), SAMPLERS.find("round_trip"), {}).sample(_problem(torch.zeros(2, 1, 4, 4), Exact()), Rng([0, 1]))
