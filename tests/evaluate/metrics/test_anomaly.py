"""Where images do not look healthy: rulers, thresholds, areas, lesions by size."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from fabrica.evaluate.metrics.anomaly import Ruler, average_precision, found_by_size, threshold

MM = (1.0, 1.0, 1.0)


def _healthy(count: int, noise: float, seed: int = 0, draws: int = 3) -> list:
    """Smooth images whose twins miss more where they are steep."""
    rng = np.random.default_rng(seed)
    _, y, x = np.mgrid[:6, :32, :32]
    found = []
    for _ in range(count):
        twin = 1 / (1 + np.exp((np.hypot(y - 16, x - 16) - 9) * 2))
        steep = np.hypot(*np.gradient(twin, axis=(1, 2)))
        image = twin + (noise + steep) * rng.normal(size=twin.shape)
        found.append((image, np.stack([twin] * draws), np.ones(twin.shape, bool)))
    return found


def test_healthy_people_leave_one() -> None:
    ruler = Ruler.of(_healthy(4, 0.02), MM, 0.0)
    maps = [ruler.anomaly(image, draws, MM) for image, draws, _ in _healthy(4, 0.02, seed=1)]
    assert np.sqrt(np.mean(np.square(maps))) == pytest.approx(1, abs=0.05)
    (image, draws, _), flat, edge = _healthy(1, 0.02, seed=2)[0], (3, 16, 16), (3, 16, 7)
    raised = image.copy()
    raised[flat] += 0.2
    raised[edge] += 0.2
    now, before = ruler.anomaly(raised, draws, MM), ruler.anomaly(image, draws, MM)
    assert now[flat] - before[flat] > 5 > abs(now[edge] - before[edge])  # an edge is no anomaly


def test_what_draws_do_not_agree_on_is_no_anomaly() -> None:
    healthy = _healthy(3, 0.05)
    ruler = Ruler.of(healthy, MM, 0.0)
    image, draws, _ = healthy[0]
    spread = draws + np.array([-0.4, 0.0, 0.4])[:, None, None, None]
    raised = image + 0.3
    assert ruler.anomaly(raised, spread, MM).mean() < 0.5 * ruler.anomaly(raised, draws, MM).mean()


def test_smoothing_sees_what_is_wide_and_not_what_is_a_single_voxel() -> None:
    ruler = Ruler.of(_healthy(3, 0.05), MM, 1.0)
    _, draws, _ = _healthy(1, 0.0, seed=5)[0]
    twin = draws[0].copy()
    single, wide = twin.copy(), twin.copy()
    single[3, 16, 16] += 0.3
    wide[2:5, 14:19, 14:19] += 0.3
    assert ruler.anomaly(wide, draws, MM)[3, 16, 16] > 3 * ruler.anomaly(single, draws, MM)[3, 16, 16]


def test_nobody_and_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="needs healthy people"):
        Ruler.of([], MM, 0.0)
    _, draws, inside = _healthy(1, 0.0)[0]
    with pytest.raises(ValueError, match="leave nothing"):
        Ruler.of([(draws[0], draws, inside)], MM, 0.0)
    with pytest.raises(ValueError, match="needs healthy people"):
        threshold([], 0.01)


def test_a_threshold_leaves_the_share_that_was_asked_and_people_count_alike() -> None:
    rng = np.random.default_rng(0)
    maps = [np.abs(rng.normal(size=20_000)), np.abs(rng.normal(size=4_000)) * 3]
    limit = threshold(maps, 0.02)
    assert np.mean([(m > limit).mean() for m in maps]) == pytest.approx(0.02, abs=0.003)


def test_average_precision_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    scores, lesion = np.round(rng.normal(size=(4, 10, 10)), 1), rng.uniform(size=(4, 10, 10)) > 0.9
    inside = rng.uniform(size=lesion.shape) > 0.2
    assert average_precision(scores, lesion, inside) == pytest.approx(
        average_precision_score(lesion[inside], scores[inside])
    )
    assert average_precision(lesion.astype(float), lesion, inside) == 1
    with pytest.raises(ValueError, match="needs a lesion"):
        average_precision(scores, np.zeros_like(lesion), inside)


def test_lesions_are_counted_by_their_diameter() -> None:
    z, y, x = np.mgrid[:40, :40, :40]

    def ball(centre: tuple[int, int, int], radius: float) -> np.ndarray:
        return (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2

    small, middle, large = ball((5, 5, 5), 1), ball((10, 20, 20), 2.2), ball((28, 28, 28), 7)
    marked = middle | ball((28, 28, 28), 2)
    found = found_by_size(marked, small | middle | large, MM)
    assert found == {"below 3 mm": (0, 1), "3 to 5 mm": (1, 1), "5 to 10 mm": (0, 0), "from 10 mm": (0, 1)}
    flat = found_by_size(np.zeros((1, 40, 40), bool), (np.hypot(y, x - 20) < 2)[:1], (8.0, 1.0, 1.0))
    assert sum(n for _, n in flat.values()) == 1
