"""Drawing many cases: company changes nothing, and every draw comes back to whom it belongs to."""

import pytest
import torch

from fabrica.contracts import Case, Measurement, Problem
from fabrica.data.cases import Prepared
from fabrica.data.grid import Grid
from fabrica.data.store import question_batch
from fabrica.families import Flow
from fabrica.jobs import layout_of
from fabrica.jobs.imaging import Synthesis, Translation
from fabrica.jobs.painted import Painted
from fabrica.networks.unet import UNetShape
from fabrica.physics import Exact, Mask
from fabrica.rng import Rng
from fabrica.run.draw import _together, draw
from fabrica.run.question import ROWS, Shown, nothing_given
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


class _Counted(Flow):
    """Draws ones, and counts what it was asked for."""

    asked = 0

    def sample(self, problem: Problem, rng: Rng) -> torch.Tensor:
        type(self).asked += len(problem.cases)
        return torch.ones(len(problem.cases), *problem.shape)


@pytest.mark.parametrize(("given", "classes"), [("T1w", 0), ("tissue:3", 3)])
def test_slices_without_anything_given_are_background(
    given: str, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not drawn, and are background of what was asked: air, in HU; the first class, of a mask."""
    monkeypatch.setattr(_Counted, "asked", 0)
    job = Translation([given], ["CT", "lesion"])
    shape = (5, 8, 8)
    image = torch.rand(1, *shape) if not classes else torch.ones(1, *shape)
    image[:, 1] = 0.0
    image[:, 4] = 0.004 if not classes else 0.0  # what resampling leaves of nothing
    prepared = Prepared("p", Case("p", {}), {given.split(":")[0]: image}, {}, Grid(torch.eye(4).double(), shape))
    family = _Counted(job.signature(), SHAPE, "fp32")
    (x,) = draw(family, job, [Shown(prepared)], layout_of(job, (1, 8, 8)), 0, lambda _: None)
    assert _Counted.asked == 3
    assert x.shape == (3, *shape)
    empty = x[:, [1, 4]]
    assert (empty[0] == 0).all()
    assert (empty[1] == 1).all()
    assert (empty[2] == 0).all()
    assert (x[:, [0, 2, 3]] == 1).all()


def test_a_missing_image_is_not_an_empty_one() -> None:
    """Where a contrast is not there at all, everything is drawn."""
    job = Translation(["T1w", "T2w"], ["FLAIR"], drop=0.5)
    prepared = Prepared("p", Case("p", {}), {}, {}, Grid(torch.eye(4).double(), (2, 8, 8)))
    problem = job.question(question_batch(prepared, layout_of(job, (1, 8, 8))), Rng([0, 1]))
    assert not nothing_given(job, problem).any()
    with_one = Prepared("p", Case("p", {}), {"T1w": torch.zeros(1, 2, 8, 8)}, {}, prepared.grid)
    problem = job.question(question_batch(with_one, layout_of(job, (1, 8, 8))), Rng([0, 1]))
    assert nothing_given(job, problem).all()
    assert not nothing_given(Synthesis(["FLAIR"]), Synthesis(["FLAIR"]).question(question_batch(with_one, layout_of(Synthesis(["FLAIR"]), (1, 8, 8))), Rng([0, 1]))).any()  # fmt: skip


def test_a_patient_of_whom_all_is_known_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows behind a mask that hides nothing are what they are."""
    monkeypatch.setattr(_Counted, "asked", 0)
    job = Synthesis(["T1w"])
    known = torch.ones(4, 1, 8, 8, dtype=torch.bool)
    known[2, :, :3] = False
    values = torch.rand(4, 1, 8, 8)
    measured = {"known": Measurement(values * known, Mask(known), Exact())}
    prepared = Prepared("p", Case("p", {}), {}, {}, Grid(torch.eye(4).double(), (4, 8, 8)), measurements=measured)
    (x,) = draw(
        _Counted(job.signature(), SHAPE, "fp32"), Painted(job), [Shown(prepared)], layout_of(job, (1, 8, 8)), 0, print
    )
    assert _Counted.asked == 1
    torch.testing.assert_close(x[0, [0, 1, 3]], values[[0, 1, 3], 0])
