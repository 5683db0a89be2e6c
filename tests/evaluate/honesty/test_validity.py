"""Metrics tested on real images: what they must see, what they cannot, and that the null is not raised."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from fabrica.evaluate.honesty import validity
from fabrica.evaluate.honesty.validity import LADDER, Sight, Validity, certify, corrupted
from fabrica.evaluate.sets.embedding import Picture


def _pictures(count: int, shape: tuple[int, ...] = (48, 48)) -> list[Picture]:
    found = []
    for i in range(count):
        rng = np.random.default_rng(i)
        grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
        away = np.sqrt(sum((g - 0.1 * rng.normal()) ** 2 for g in grid))
        values = 200 * (away < 0.7) + 50 * ndimage.gaussian_filter(rng.normal(size=shape), 1.5) * 5 + 60
        found.append(Picture(f"p{i}", f"p{i}", values, away < 0.7, (1.0,) * len(shape)))
    return found


@pytest.fixture(scope="module")
def certificate() -> Validity:
    return certify(_pictures(16), 300.0)


def test_metrics_are_ordered_by_blur_and_noise(certificate: Validity) -> None:
    sights = {(s.name, s.corruption): s for s in certificate.metrics}
    for metric in ("mae", "rmse", "psnr", "ssim", "haarpsi"):
        for corruption in ("blur", "noise"):
            assert sights[metric, corruption].ordered, (metric, corruption)
        assert certificate.may_support(metric) == ""
    rungs = sights["psnr", "noise"].rungs
    assert rungs[0] > rungs[1] > rungs[2]
    assert not any(name == "ms_ssim" for name, _ in sights)  # these images are too small for it


def test_blind_spots_are_said(certificate: Validity) -> None:
    blind = certificate.blind()
    assert "chessboard" in blind["gmsd"]  # halved away before anything is compared
    assert any("lesions" in w for w in blind["ssim"])
    assert "lesions" in blind["thumbnail"]
    assert "ssim does not see" in certificate.sentence()


def test_sets_see_a_chessboard_and_no_difference_where_there_is_none(certificate: Validity) -> None:
    seen = {(s.name, s.corruption): s.rungs[0] for s in certificate.sets}
    assert seen["spectrum", "chessboard"] == 1.0
    assert seen["radiomics", "blur"] >= 0.8
    assert all(rate <= 0.25 for rate, _ in certificate.null.values())
    assert all(good for _, good in certificate.null.values())


def test_corruptions_grow_with_strength_and_repeat() -> None:
    picture = _pictures(1)[0]
    picture = replace(picture, lesion=np.hypot(*(np.indices(picture.values.shape) - 24)) < 3)
    for name, (_, strengths) in LADDER.items():
        sizes = [float(np.abs(corrupted(picture, name, s, 0).values - picture.values).mean()) for s in strengths]
        assert 0 < sizes[0] < sizes[1] < sizes[2], name
        again = corrupted(picture, name, strengths[0], 0).values
        np.testing.assert_array_equal(again, corrupted(picture, name, strengths[0], 0).values)
    lesions = corrupted(picture, "lesions", 0.4, 0).values != picture.values
    assert (lesions & picture.inside).any()
    assert lesions.mean() < 0.05


def test_volumes_climb_by_a_slab_and_few_patients_by_pixels_alone() -> None:
    found = certify(_pictures(3, (30, 40, 40)), 300.0)
    assert found.sets == []
    assert {s.corruption for s in found.metrics if s.name == "ssim"} == set(LADDER) - {"erased lesions"}
    assert validity._slab(_pictures(1, (30, 20, 20))[0]).values.shape == (validity.SLAB, 20, 20)
    assert not any(s.name == "psnr" for s in certify(_pictures(2), None).metrics)


def test_a_metric_that_fails_may_not_support_anything() -> None:
    good = Sight("ssim", "noise", (0.9, 0.8, 0.7), True)
    lost = Validity([Sight("ssim", "blur", (0.9, 0.95, 0.8), False), good, Sight("ssim", "gain", (1, 1, 1), False)])
    assert "ssim is not ordered by blur" in lost.may_support("ssim")
    assert "psnr could not be tested" in lost.may_support("psnr")
    noisy = Validity(null={"radiomics": (0.6, False)})
    assert "Not calibrated on real against real: radiomics (60% false alarms)" in noisy.sentence()


def test_a_marked_lesion_is_erased_and_most_metrics_do_not_see_it() -> None:
    """EVALUATION, section 2: an erased lesion costs less than half a pixel of shift."""
    pictures = []
    for i in range(12):
        rng = np.random.default_rng(i)
        rows, columns = np.mgrid[:96, :96]
        body = np.hypot(rows - 48, columns - 48) < 40
        lesion = np.hypot(rows - rng.uniform(30, 66), columns - rng.uniform(30, 66)) < 3
        tissue = ndimage.gaussian_filter(rng.normal(size=(96, 96)), 2) * 0.6
        values = body * (1.0 + tissue) + 0.6 * lesion + 0.01 * rng.normal(size=(96, 96))
        pictures.append(Picture(f"p{i}", f"p{i}", values, body, (1.0, 1.0), lesion=lesion))
    gone = corrupted(pictures[0], "erased lesions", 1.0, 0)
    assert pictures[0].lesion is not None
    inside, outside = pictures[0].lesion, ~pictures[0].lesion
    assert np.array_equal(gone.values[outside], pictures[0].values[outside])
    assert gone.values[inside].mean() < pictures[0].values[inside].mean() - 0.4
    found = certify(pictures, 2.0)
    assert "erased lesions" in {s.corruption for s in found.metrics}
    assert "erased lesions" in {s.corruption for s in found.sets}
    assert "erased lesions (a shift of half a pixel costs more)" in found.blind()["psnr"]
    plain = certify([replace(p, lesion=None) for p in pictures], 2.0)
    assert "erased lesions" not in {s.corruption for s in (*plain.metrics, *plain.sets)}
