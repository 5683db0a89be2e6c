"""Other people's libraries on the same images: torchmetrics, MONAI and SimpleITK give our numbers where conventions agree.

Where they do not, the test says where the difference comes from.
"""

import numpy as np
import pytest
import SimpleITK
import torch
import torchmetrics.functional.image as torchmetrics
from monai import metrics as monai
from scipy import ndimage
from torchmetrics.functional.classification import binary_auroc

from fabrica.evaluate.metrics import pixel, task
from fabrica.evaluate.sets import feature

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of theirs
SPACING_MM = (2.0, 1.0, 0.5)


def _pair(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image from 0 to 1 and the same with noise."""
    rng = np.random.default_rng(seed)
    y = ndimage.gaussian_filter(rng.random(shape), 2.5)
    y = (y - y.min()) / np.ptp(y)
    return np.clip(y + 0.05 * rng.normal(size=shape), 0, 1), y


def _batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image[None, None])


@pytest.mark.parametrize("shape", [(64, 72), (33, 90), (24, 26, 28)])
def test_ssim(shape: tuple[int, ...]) -> None:
    x, y = _pair(shape, 1)
    ours = pixel.ssim(x, y, data_range=1.0)
    theirs = monai.SSIMMetric(len(shape))(_batch(x).float(), _batch(y).float())
    assert ours == pytest.approx(float(theirs), abs=1e-5)  # theirs is in float32
    _, whole = torchmetrics.structural_similarity_index_measure(
        _batch(x), _batch(y), data_range=1.0, return_full_image=True
    )
    inner = whole[(..., *[slice(5, -5)] * len(shape))]  # it averages a border of reflections in
    assert ours == pytest.approx(float(inner.mean()), abs=1e-6)


def test_multi_scale_ssim() -> None:
    x, y = _pair((200, 190), 2)
    ours = pixel.ms_ssim(x, y, data_range=1.0)
    assert ours == pytest.approx(float(monai.MultiScaleSSIMMetric(2)(_batch(x).float(), _batch(y).float())), abs=1e-5)
    theirs = torchmetrics.multiscale_structural_similarity_index_measure(_batch(x), _batch(y), data_range=1.0)
    assert ours == pytest.approx(float(theirs), abs=2e-3)  # its borders again


def test_peak_signal_to_noise() -> None:
    x, y = _pair((40, 41), 3)
    ours = pixel.psnr(x, y, data_range=2.0)
    assert ours == pytest.approx(float(torchmetrics.peak_signal_noise_ratio(_batch(x), _batch(y), data_range=2.0)))
    assert ours == pytest.approx(float(monai.PSNRMetric(2.0)(_batch(x), _batch(y))))
    assert pixel.mae(x, y) == pytest.approx(float(monai.MAEMetric()(_batch(x), _batch(y))))
    assert pixel.rmse(x, y) == pytest.approx(float(monai.RMSEMetric()(_batch(x), _batch(y))))


@pytest.mark.parametrize("shape", [(64, 72), (90, 47)])
def test_visual_information(shape: tuple[int, int]) -> None:
    """torchmetrics keeps the noise variance of 0 to 255 whatever the range: images are given to it on that scale."""
    x, y = _pair(shape, 4)
    theirs = torchmetrics.visual_information_fidelity(_batch(255 * x), _batch(255 * y))
    assert pixel.vif(x, y, data_range=1.0) == pytest.approx(float(theirs), abs=1e-6)


def test_distances_of_sets() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(300, 12)), rng.normal(0.3, 1.2, size=(280, 12))
    theirs = monai.FIDMetric()(torch.from_numpy(x), torch.from_numpy(y))
    assert feature.frechet_distance(x, y) == pytest.approx(float(theirs), rel=1e-6)


def _masks(seed: int, shift: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = ndimage.binary_opening(ndimage.gaussian_filter(rng.random((20, 22, 24)), 2) > 0.5)
    return mask, np.roll(mask, shift, 1)


def _hot(mask: np.ndarray) -> torch.Tensor:
    return _batch(mask.astype(np.float32))


@pytest.mark.parametrize(("seed", "shift"), [(0, 1), (1, 2), (2, 5), (3, 0)])
def test_masks(seed: int, shift: int) -> None:
    x, y = _masks(seed, shift)
    assert task.dice(x, y) == pytest.approx(float(monai.DiceMetric()(_hot(x), _hot(y))))
    overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*(SimpleITK.GetImageFromArray(m.astype(np.uint8)) for m in (x, y)))
    assert task.dice(x, y) == pytest.approx(overlap.GetDiceCoefficient())
    theirs = monai.HausdorffDistanceMetric(include_background=True, percentile=95)
    far = float(theirs(_hot(x), _hot(y), spacing=list(SPACING_MM)))
    assert task.hausdorff95(x, y, spacing_mm=SPACING_MM) == pytest.approx(far)
    for tolerance in (0.5, 1.0, 2.0):
        near = monai.SurfaceDiceMetric([tolerance], include_background=True)(_hot(x), _hot(y), spacing=list(SPACING_MM))
        ours = task.normalised_surface_dice(x, y, spacing_mm=SPACING_MM, tolerance_mm=tolerance)
        assert ours == pytest.approx(float(near), abs=1e-6)


def test_the_largest_distance_of_surfaces() -> None:
    """ITK measures from every voxel of a mask: equal for convex ones, whose far points lie on their surfaces."""
    x, y = np.zeros((2, 20, 22, 24), bool)
    x[4:12, 5:15, 6:16], y[6:14, 5:15, 9:19] = True, True
    images = []
    for mask in (x, y):
        image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(SPACING_MM[::-1])
        images.append(image)
    far = SimpleITK.HausdorffDistanceImageFilter()
    far.Execute(*images)
    ours = task.hausdorff95(x, y, spacing_mm=SPACING_MM)
    assert ours <= far.GetHausdorffDistance() + 1e-9
    assert far.GetHausdorffDistance() == pytest.approx(np.hypot(4.0, 1.5))


def test_area_under_the_curve() -> None:
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 2, 90)
    scores = np.round(rng.normal(size=90) + labels, 1)  # with ties
    theirs = binary_auroc(torch.from_numpy(scores).sigmoid(), torch.from_numpy(labels))
    assert task.auc_delong(scores, labels).value == pytest.approx(float(theirs), abs=1e-6)
