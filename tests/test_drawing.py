"""Drawing many cases: company changes nothing, and every draw comes back to whom it belongs to."""

import pytest
import torch

from fabrica.contracts import Case
from fabrica.data.prepare import Grid
from fabrica.data.store import Prepared
from fabrica.drawing import ROWS, Shown, _together, draw
from fabrica.families import Flow
from fabrica.jobs import layout_of
from fabrica.jobs.imaging import Synthesis
from fabrica.networks.unet import UNetShape
from fabrica.testing import BATCH_TOLERANCE

SHAPE = UNetShape(channels=(8, 16), blocks=1)


def _case(name: str, shape: tuple[int, int, int], label: str) -> Prepared:
    return Prepared(name, Case(name, {}, {"class": label}), {}, {}, Grid(torch.eye(4).double(), shape))


@pytest.mark.parametrize("axes", ["yx", "zyx"])
def test_company_changes_no_draw(axes: str) -> None:
    torch.manual_seed(0)
    job = Synthesis(x=["image"], by={"class": ["a", "b"]}, axes=axes)
    family, layout = (
        Flow(job.signature(), SHAPE, "fp32"),
        layout_of(job, (1, 8, 8) if axes == "yx" else (4, 8, 8)),
    )
    for parameter in family.parameters():  # zero layers would hide who is who
        torch.nn.init.normal_(parameter, std=0.05) if parameter.ndim > 1 else None
    depth = 1 if axes == "yx" else 4
    cases = [_case(f"p{k}", (depth, 8, 8 if k < 3 else 16), "ab"[k % 2]) for k in range(5)]
    shown = [Shown(c, n) for c in cases for n in range(2)]
    said: list[str] = []
    together = draw(family, job, shown, layout, 7, said.append)
    assert not said
    assert [tuple(x.shape) for x in together] == [(1, depth, 8, 8)] * 6 + [(1, depth, 8, 16)] * 4
    for one, x in zip(shown, together, strict=True):
        (alone,) = draw(family, job, [one], layout, 7, said.append)
        assert (x - alone).abs().max() <= BATCH_TOLERANCE * alone.abs().max()
    assert (together[0] - together[1]).abs().max() > 0.01  # another number is another draw


def test_rows_of_a_batch_are_few_and_of_one_grid() -> None:
    layout = layout_of(Synthesis(x=["image"]), (1, 8, 8))
    shown = [Shown(_case(str(k), (1, 8, 8) if k != 40 else (5, 8, 8), "a")) for k in range(80)]
    groups = _together(shown, layout)
    assert [s.case.name for g in groups for s in g] == [str(k) for k in range(80)]
    assert [len(g) for g in groups] == [ROWS, 40 - ROWS, 1, ROWS, 39 - ROWS]
