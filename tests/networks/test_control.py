"""A control branch: at first nothing is changed, the base stays, masks are heard; from a recipe, and refused without a base."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fabrica.contracts import Condition, Field
from fabrica.learning import checkpoint
from fabrica.networks.control import Controlled
from fabrica.networks.unet import UNet, UNetShape
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError
from fabrica.run.family import trained_family
from fabrica.run.folder import RunFolder
from fabrica.run.sequence import continue_run, run_recipe

MASK, T1, AGE = Field("lesion", "label", 2, ""), Field("T1w"), Field("age", "number")


def _pair(dimensions: int = 2) -> tuple[UNet, Controlled]:
    torch.manual_seed(0)
    base = UNet(dimensions, 1, 1, (T1, AGE), UNetShape((16, 32), 1), "fp32")
    with torch.no_grad():
        for p in base.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    both = Controlled(dimensions, 1, 1, (MASK, T1, AGE), UNetShape((16, 32), 1, control=("lesion",)), "fp32")
    both.start_from(base.state_dict())
    return base, both


def _asked(dimensions: int = 2) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    generator = torch.Generator().manual_seed(1)
    grid = [8] * dimensions
    values = {
        "lesion": (torch.rand(2, 2, *grid, generator=generator) > 0.5).float(),
        "T1w": torch.rand(2, 1, *grid, generator=generator), "age": torch.rand(2, generator=generator),
    }  # fmt: skip
    return torch.randn(2, 1, *grid, generator=generator), torch.zeros(2), Condition(values)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_at_first_it_answers_as_its_base_and_only_the_branch_learns(dimensions: int) -> None:
    base, both = _pair(dimensions)
    x, level, condition = _asked(dimensions)
    with torch.no_grad():
        torch.testing.assert_close(both(x, level, condition), base(x, level, condition), atol=1e-5, rtol=1e-5)
        g, _, more = both.branch.descend(x, level, condition)
        h, _, seen = base.descend(x, level, condition)
    torch.testing.assert_close(g, h, atol=1e-5, rtol=1e-5)  # the branch begins as a copy, which hears no mask yet
    torch.testing.assert_close(more.skips[0], seen.skips[0], atol=1e-5, rtol=1e-5)
    both(x, level, condition).square().mean().backward()
    assert all(p.grad is None for p in both.base.parameters())
    assert all(layer.weight.grad is not None for layer in both.added)


def test_a_mask_is_heard_once_the_branch_adds_something() -> None:
    _, both = _pair()
    x, level, condition = _asked()
    for layer in both.added:
        nn.init.normal_(layer.weight, std=0.1)
    nn.init.normal_(both.branch.stem.weight, std=0.1)
    other = Condition({**condition.values, "lesion": 1 - condition.values["lesion"]})
    with torch.no_grad():
        assert (both(x, level, condition) - both(x, level, other)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="names tumour, and lesion, T1w is given"):
        Controlled(2, 1, 1, (MASK, T1), UNetShape((16,), 1, control=("tumour",)))
    with pytest.raises(ValueError, match="multiples of"):
        both(x[..., :7], level, condition)


def quiet(text: str) -> None:
    pass


COHORT = {"virtual": {"patients": 4, "spacing_mm": 4, "planes": [14, 20], "disease": "ms"}}
NETWORK = {"channels": [16, 32], "blocks": 1}
SHARED: dict[str, Any] = {
    "cohorts": {"all": COHORT}, "split": {"train": ["virtual0000", "virtual0001"], "test": ["virtual0002", "virtual0003"]}, "baseline": "none",
    "evaluate": {"draws": 1, "realism": 0, "evaluations": []}, "sampler": {"name": "euler", "steps": 3},
}  # fmt: skip


def test_a_synthesis_is_controlled_by_a_mask(tmp_path: Path) -> None:
    base = {**SHARED, "job": {"name": "synthesis", "x": ["FLAIR"]}, "family": {"name": "flow", "network": NETWORK}}
    run_recipe(
        from_plain({**base, "train": {"steps": 20, "batch": 4, "precision": "fp32"}}), tmp_path / "base", say=quiet
    )
    home = str(tmp_path / "base/stages/model")
    plain = {
        **SHARED, "job": {"name": "translation", "from": ["lesion"], "x": ["FLAIR"]},
        "family": {"name": "flow", "network": {**NETWORK, "control": ["lesion"]}},
        "train": {"steps": 6, "batch": 4, "precision": "fp32", "start": home},
    }  # fmt: skip
    said = list[str]()
    run_recipe(from_plain(plain), tmp_path / "controlled", say=said.append)
    assert any("A control branch:" in line for line in said)
    run = RunFolder.open(tmp_path / "controlled")
    family = trained_family(run, run.recipe.stage("model"), run.trained(run.recipe.stage("model")))
    former, _ = checkpoint.weights_in(Path(home))
    for name, value in family.net.base.state_dict().items():
        assert torch.equal(value, former[f"net.{name}"]), name
    assert float(family.net.added[-1].weight.detach().abs().max()) > 0
    assert continue_run(tmp_path / "controlled", say=quiet).report.stages[0].steps == 6
    for change in ({"train": {"steps": 6, "batch": 4}}, {"train": {**plain["train"], "rank": 2}}):
        with pytest.raises(RecipeError, match="beside a network that another run has trained"):
            from_plain({**plain, **change})
