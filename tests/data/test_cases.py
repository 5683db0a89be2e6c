"""Images that do not lie everywhere: what is beyond a small field of view is neither learned nor judged."""

from pathlib import Path

import nibabel
import numpy as np
import torch

from fabrica.contracts import Batch
from fabrica.data import cohort
from fabrica.data.cases import COVERED, load_aligned, prepare_case
from fabrica.data.prepare import fit
from fabrica.evaluate.judging.paired import StageEvidence, body_mask
from fabrica.jobs import Translation, layout_of
from fabrica.rng import Rng


def _pair(folder: Path, mr_slices: int) -> None:
    """A CT of 16 slices, and an MR of its first ones."""
    rng = np.random.default_rng(0)
    for name, slices in (("CT", 16), ("T1w", mr_slices)):
        data = rng.uniform(100, 900, (24, 24, slices)).astype(np.float32)
        data[0] = -1000 if name == "CT" else 0
        (folder / "p1").mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(data, np.diag([2.0, 2.0, 3.0, 1.0])), folder / "p1" / f"{name}.nii.gz")


def test_where_the_smaller_image_lies_is_known(tmp_path: Path) -> None:
    _pair(tmp_path, 10)
    (member,) = cohort.find(tmp_path).members
    case, remarks = load_aligned(member, ["T1w", "CT", COVERED], "CT")
    covered = case.images[COVERED].data[0]
    assert covered.shape == case.images["CT"].data.shape[1:]
    assert covered.sum((1, 2)).tolist() == [576.0] * 10 + [0.0] * 6
    assert any("of which it covers 6" in line for line in remarks)
    assert COVERED not in load_aligned(member, ["T1w", "CT"], "CT")[0].images
    whole = load_aligned(member, ["T1w", "CT", COVERED], "T1w")[0]
    assert COVERED not in whole.images  # the CT lies everywhere that the MR does


def test_what_is_beyond_is_not_learned_and_not_judged(tmp_path: Path) -> None:
    _pair(tmp_path, 10)
    (member,) = cohort.find(tmp_path).members
    job = Translation(["T1w"], ["CT"])
    names = layout_of(job, (1, 24, 24)).contrasts
    assert names == ("T1w", "CT", COVERED)
    aligned = load_aligned(member, ["T1w", "CT"], "CT")[0]
    preparation = fit([aligned], "CT", "yx", None)
    prepared = prepare_case(member, names, "CT", preparation)
    inside = body_mask(prepared, StageEvidence("s", (), ("T1w",), ("mae",)), "CT", preparation)
    assert not inside[10:].any()
    assert inside[:10].any()


def test_training_compares_only_where_there_is_something_to_learn_from() -> None:
    job, rng = Translation(["T1w"], ["CT"]), Rng(range(2))
    images = {n: rng.child(n).uniform(1, 8, 8) for n in ("T1w", "CT")}
    images[COVERED] = torch.ones(2, 1, 8, 8)
    images[COVERED][:, :, :, 5:] = 0
    present = {COVERED: torch.tensor([True, False])}  # the second case is covered everywhere: it has no such map
    batch = Batch(("a/0", "b/0"), images, torch.eye(4).expand(2, 4, 4), {"position": torch.zeros(2)}, present)
    weight = job.problem(batch, Rng(range(2))).weight
    assert weight is not None
    assert weight[0, 0].sum() == 8 * 5
    assert weight[1, 0].sum() == 64
