"""Whether images keep to the masks they were drawn around: planted obedience, planted disobedience, and nobody reads himself."""

import math

import numpy as np
import pytest

from fabrica.evaluate.report.page import _by_stage
from fabrica.evaluate.report.results import StageResult
from fabrica.evaluate.sets import masks
from fabrica.evaluate.sets.adherence import Adherence
from fabrica.evaluate.sets.gallery import Gallery
from fabrica.evaluate.sets.masks import Masked, dice_of_asked, mask_adherence
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe


def _mask(seed: int, shape: tuple[int, ...] = (32, 32)) -> np.ndarray:
    """Two discs (balls) of different classes somewhere."""
    rng, grid = np.random.default_rng(seed), np.indices(shape)
    mask = np.zeros(shape, np.int64)
    for kind in (1, 2):
        centre = [rng.uniform(7, n - 7) if n > 16 else n / 2 for n in shape]
        mask[sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < 25] = kind
    return mask


def _image(mask: np.ndarray, seed: int, noise: float = 0.1) -> np.ndarray:
    return 0.5 * mask + noise * np.random.default_rng(1000 + seed).normal(size=mask.shape)


def _pairs(start: int, count: int, shape: tuple[int, ...] = (32, 32), other: int = 0) -> list[Masked]:
    """`other`: the image is drawn around the mask of somebody else."""
    found = [(_mask(k, shape), _mask(k + other, shape)) for k in range(start, start + count)]
    return [
        Masked(f"p{start + i}", _image(drawn_around, start + i), mask) for i, (mask, drawn_around) in enumerate(found)
    ]


@pytest.mark.parametrize("shape", [(32, 32), (12, 32, 32)])
def test_obedient_images_reach_what_real_ones_reach(shape: tuple[int, ...]) -> None:
    found = mask_adherence("organ", _pairs(500, 22, shape), _pairs(0, 15, shape), 0)
    assert (found.embedding, found.measure, found.images) == ("voxels", "organ: Dice", 22)
    assert found.generated == pytest.approx(found.real, abs=0.05)
    assert found.real > 0.8
    assert found.shuffled < found.generated - 0.4
    assert found.generated_interval is not None
    assert found.generated_interval[0] <= found.generated <= found.generated_interval[1]


def test_images_that_ignore_their_mask_are_at_chance() -> None:
    found = mask_adherence("organ", _pairs(500, 20, other=50), _pairs(0, 15), 0)
    assert found.generated == pytest.approx(found.shuffled, abs=0.1)
    assert found.real > 0.8


def test_a_small_lesion_counts_as_much_as_a_large_organ() -> None:
    """Every class teaches alike: ten voxels of it are found."""

    def pair(seed: int) -> Masked:
        mask = np.zeros((32, 32), np.int64)
        row, column = np.random.default_rng(seed).integers(4, 28, 2)
        mask[row - 1 : row + 2, column - 1 : column + 2] = 1
        return Masked(f"p{seed}", 2.0 * mask + 0.1 * np.random.default_rng(seed).normal(size=mask.shape), mask)

    found = mask_adherence("lesion", [pair(k) for k in range(100, 106)], [pair(k) for k in range(12)], 0)
    assert found.generated > 0.6


def test_nobody_is_read_by_who_was_taught_on_him(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 15 patients three are left out of each reader; draws of a test patient are read by one who never saw him."""
    taught: list[int] = []
    reader = masks._Reader

    class Listening(reader):
        def __init__(self, pairs: list) -> None:
            taught.append(len(pairs))
            super().__init__(pairs)

    monkeypatch.setattr(masks, "_Reader", Listening)
    real = _pairs(0, 15)
    mask_adherence("organ", [Masked("p3", r.image, r.mask) for r in real[:2]], real, 0)
    assert taught == [12] * 5 + [15]
    odd = [Masked(r.patient, -r.image if r.patient == "p7" else r.image, r.mask) for r in real]
    own = mask_adherence("organ", [odd[7], odd[7]], odd, 0)  # who turns black into white is read by the others' rule
    assert own.generated < 0.2


def test_dice_by_hand() -> None:
    found, wanted = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    assert dice_of_asked(found, wanted) == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert dice_of_asked(found, np.where(wanted == 2, 0, wanted)) == pytest.approx(
        2 / 3
    )  # classes that were not asked for
    assert np.isnan(dice_of_asked(found, np.zeros(4, np.int64)))


def test_patients_of_different_grids_have_a_chance_too_and_empty_masks_do_not_count() -> None:
    """A report holds numbers only: nothing is NaN where grids differ, and images whose mask is empty are not counted."""
    drawn = [p for k in range(4) for p in _pairs(500 + k, 1, (12, 32 + 2 * k, 32))]
    empty = Masked("q", np.zeros((12, 32, 32)), np.zeros((12, 32, 32), np.int64))
    found = mask_adherence("organ", [*drawn, empty], _pairs(0, 12, (12, 32, 32)), 0)
    assert found.images == 4
    assert found.generated > 0.8
    assert 0 <= found.shuffled < 0.5
    blank = [Masked(f"r{k}", empty.image, empty.mask) for k in range(12)]
    with pytest.raises(ValueError, match="only empty masks"):
        mask_adherence("organ", drawn, blank, 0)


def test_too_few_and_empty_masks_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="at least 10 real patients and 2 generated images; there are 9 and 4"):
        mask_adherence("organ", _pairs(500, 4), _pairs(0, 9), 0)
    empty = [Masked(f"q{i}", np.zeros((8, 8)), np.zeros((8, 8), np.int64)) for i in range(3)]
    with pytest.raises(ValueError, match="only empty masks"):
        mask_adherence("organ", empty, _pairs(0, 12), 0)


def test_a_gallery_keeps_pairs_and_says_what_is_missing() -> None:
    gallery = Gallery(12, (1.0, 1.0, 1.0))
    for k in range(20):
        mask = _mask(k)[None]
        gallery.add_mask("organ", f"p{k}", _image(mask, k), mask.astype(np.float32), drawn=k >= 12)
    found, missing = gallery.mask_adherence(0)
    assert [len(side) for side in gallery.masked["organ"]] == [8, 12]
    assert found[0].generated > 0.8
    assert not missing
    gallery.add_mask("lesion", "p", _image(mask, 0), mask, drawn=True)
    _, missing = gallery.mask_adherence(0)
    assert missing[0].startswith("adherence to lesion: needs masks of at least 10")


def test_a_run_tells_how_masks_were_kept(tmp_path) -> None:
    """An untrained model draws grey around tissue: far below what real images reach."""
    result = run_recipe(from_plain({
        "cohorts": {"all": {"virtual": {"patients": 14, "seed": 0, "spacing_mm": 4, "planes": [18, 20]}}},
        "split": {"train": 0.8, "test": 0.2}, "baseline": "none", "evaluate": {"draws": 1},
        "job": {"name": "translation", "from": ["tissue:4"], "x": ["T1w"], "values": {"text": {"findings": 8}}},
        "family": {"name": "gan", "network": {"channels": [8, 16], "blocks": 1}}, "train": {"steps": 1, "batch": 2, "precision": "fp32"},
    }), tmp_path / "run", say=lambda text: None)  # fmt: skip
    (found,) = [a for a in result.report.stages[0].adherence if a.embedding == "voxels"]
    assert found.measure == "tissue: Dice"
    assert found.real > 0.5
    assert math.isfinite(found.generated)  # what one step brings is luck
    assert "tissue: Dice" in result.page.read_text()
    panel = next(p for p in result.report.stages[0].pictures[0]["panels"] if p["title"] == "tissue (given)")
    assert (panel["low"], panel["high"]) == (0.0, 3.0)  # classes are told apart in the picture
    said = [a for a in result.report.stages[0].adherence if a.measure == "findings: rank of the words"]
    assert said or any("adherence to findings: needs" in line for line in result.report.not_evaluated)


def test_a_report_of_several_stages_names_them_beside_adherence() -> None:
    one = Adherence("voxels", "tissue: Dice", 0.5, None, 0.8, 0.2, 3)
    stages = [StageResult(n, "translation", "flow", {}, 1, 1.0, [], adherence=[one]) for n in ("first", "second")]
    assert [a.measure for a in _by_stage(stages)] == ["first, tissue: Dice", "second, tissue: Dice"]
    assert [a.measure for a in _by_stage(stages[:1])] == ["tissue: Dice"]
