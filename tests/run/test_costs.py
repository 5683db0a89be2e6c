"""Families told to draw with fewer evaluations, counted."""

import pytest
import torch

from fabrica.contracts import Condition, Family, Field, Problem, Signature
from fabrica.families import (
    Autoregressive,
    Diffusion,
    Drawn,
    Flow,
    Gan,
    Latent,
    Regression,
    Shortcut,
    Vae,
    latent_signature,
    with_guidance,
    with_steps,
)
from fabrica.networks.unet import UNetShape
from fabrica.run.costs import evaluations
from fabrica.sampling import SAMPLERS

SMALL = UNetShape((8, 16), 1)
IMAGE = Signature((Field("FLAIR"),), "yx")
PROBLEM = Problem(("a", "b"), (1, 16, 16))


@pytest.mark.parametrize("kind", [Flow, Diffusion, Shortcut])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_as_many_as_asked(kind: type[Family], count: int) -> None:
    family = kind(IMAGE, SMALL, "fp32").eval()
    before = evaluations(family, PROBLEM)
    told = with_steps(family, count)
    assert told is not None
    assert evaluations(told, PROBLEM) == count
    assert evaluations(family, PROBLEM) == before > 2  # the family itself is as it was


def test_guidance_asks_twice() -> None:
    """With and without the condition, in one call: two evaluations each inside the band."""
    given = Signature(IMAGE.x, "yx", (Field("age", "number"),))
    flow = Flow(given, SMALL, "fp32")
    problem = Problem(("a",), (1, 16, 16), Condition({"age": torch.tensor([0.5])}))
    plain, guided = (with_steps(f.eval(), 4) for f in (flow, with_guidance(flow, ("age",), 2.0, low=0.0, high=1e9)))
    assert plain is not None
    assert guided is not None
    assert evaluations(plain, problem) == 4
    assert evaluations(guided, problem) == 8


def test_samplers_codes_and_words() -> None:
    flow = Flow(IMAGE, SMALL, "fp32")
    heun = with_steps(Drawn(flow, SAMPLERS.find("heun"), {"high": 20.0}), 3)
    assert isinstance(heun, Drawn)
    assert heun.options == {"high": 20.0, "steps": 3}
    assert evaluations(heun, PROBLEM) == 5  # two a step, one in the last
    words = with_steps(Autoregressive(Signature((Field("lesion", "label", 2),), "yx"), SMALL, "fp32"), 5)
    assert words is not None
    assert evaluations(words.eval(), Problem(("a",), (2, 16, 16))) == 5
    vae = Vae(IMAGE, SMALL, "fp32", codes=2)
    latent = Latent(vae, Flow(latent_signature(IMAGE, vae, Flow), UNetShape((8,), 1, patch=1), "fp32"), ())
    latent.spread.fill_(0.7)
    told = with_steps(latent, 3)
    assert isinstance(told, Latent)
    assert float(told.spread) == pytest.approx(0.7)
    assert evaluations(told, PROBLEM) == 3
    assert told.codec is latent.codec


@pytest.mark.parametrize("kind", [Regression, Gan, Vae])
def test_one_evaluation_is_no_choice(kind: type[Family]) -> None:
    given = Signature(IMAGE.x, "yx", (Field("T1w"),))
    assert with_steps(kind(given, SMALL, "fp32"), 2) is None
    assert with_steps(Latent(Vae(IMAGE, SMALL, "fp32"), kind(given, SMALL, "fp32"), ()), 2) is None


def test_a_step_count_of_a_shortcut_is_a_power_of_two() -> None:
    told = with_steps(Shortcut(IMAGE, SMALL, "fp32"), 7)
    assert told is not None
    assert evaluations(told, PROBLEM) == 4
