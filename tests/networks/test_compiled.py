"""Compiled networks answer as they do uncompiled, by windows too; codecs stay; nobody is left without a word."""

from pathlib import Path

import pytest
import torch

from fabrica import io
from fabrica.contracts import Condition, Field, Problem, Signature
from fabrica.data.virtual import VirtualCohort
from fabrica.families import FAMILIES
from fabrica.generate.scans import generate_images
from fabrica.networks import compiled
from fabrica.networks.compiled import Compiled, compile_networks
from fabrica.networks.tiled import networks_of, tiled
from fabrica.networks.unet import UNetShape
from fabrica.rng import Rng

from ..deliver.conftest import trained  # noqa: F401 (fixture)

SIGNATURE = Signature((Field("T2w"),), "yx", (Field("T1w"),))
SMALL = UNetShape(channels=(8, 16), blocks=1)


def _problem(side: int = 32) -> Problem:
    shown = torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(0))
    return Problem(("a", "b"), (1, side, side), Condition({"T1w": shown}))


@pytest.mark.parametrize(("name", "device"), [("flow", "cuda"), ("diffusion", "cpu"), ("regression", "cpu")])
def test_a_compiled_family_draws_the_same(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the way of a card, too, on this processor: answers are kept before the next one is asked for."""
    steps: list[int] = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: steps.append(1))
    torch.manual_seed(0)
    family = FAMILIES.find(name)(SIGNATURE, SMALL, "fp32").eval()
    with torch.no_grad():
        for parameter in family.parameters():  # ends that begin with nothing would hide a network
            parameter.add_(0.02 * torch.randn_like(parameter))
        before = family.sample(_problem(), Rng([1, 2]))
        with tiled(family, (16, 16)):
            windowed = family.sample(_problem(), Rng([1, 2]))
        keys = set(family.state_dict())
        assert compile_networks(family, device, backend="eager") == 1
        assert any(isinstance(m, Compiled) for m in family.modules())
        torch.testing.assert_close(family.sample(_problem(), Rng([1, 2])), before, rtol=1e-4, atol=1e-4)
        with tiled(family, (16, 16)):
            torch.testing.assert_close(family.sample(_problem(), Rng([1, 2])), windowed, rtol=1e-4, atol=1e-4)
    assert bool(steps) == (device == "cuda")
    assert {key.replace("net.net.", "net.") for key in family.state_dict()} >= {key for key in keys if "net" not in key}


def test_halves_of_a_codec_stay_as_they_are() -> None:
    codec = FAMILIES.find("vae")(
        Signature((Field("T2w"),), "yx"), UNetShape(channels=(8, 16), blocks=1, patch=2), "fp32", codes=4
    )
    assert not any(held.asked for held in networks_of(codec))
    assert compile_networks(codec, "cpu", backend="eager") == 0


def test_where_nothing_can_compile_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"apt-get install g\+\+"):
        compile_networks(FAMILIES.find("flow")(SIGNATURE, SMALL, "fp32"), "cuda")
    with pytest.raises(ValueError, match="for a CUDA card"):
        compile_networks(FAMILIES.find("flow")(SIGNATURE, SMALL, "fp32"), "cpu")


def test_new_scans_by_compiled_networks(
    trained: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (member,) = VirtualCohort(1, first=30, spacing_mm=4, skull=True, planes=(18, 19), disease="none").cohort().members
    io.write_nifti(member.load(["T1w"]).images["T1w"], tmp_path / "scans" / "a" / "T1w.nii.gz")
    count: list[int] = []

    def eagerly(family: torch.nn.Module, device: str) -> int:
        count.append(compile_networks(family, device, backend="eager"))
        return count[-1]

    monkeypatch.setattr("fabrica.run.answering.compile_networks", eagerly)
    (plain,) = generate_images(trained, tmp_path / "scans", tmp_path / "plain", say=lambda _: None)
    assert count == []
    (fast,) = generate_images(trained, tmp_path / "scans", tmp_path / "fast", say=lambda _: None, compiled=True)
    assert count == [1]
    torch.testing.assert_close(io.read_image(fast).data, io.read_image(plain).data, rtol=1e-4, atol=0.1)
    said: list[str] = []
    generate_images(trained, tmp_path / "scans", tmp_path / "plain", say=said.append, compiled=True)
    assert not any("kept" in line for line in said)  # another way of computing is another draw
    assert compiled.COMPILERS
