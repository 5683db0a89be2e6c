"""What the data carry and what they do not: noise has a misfit of 1 in every band, unmeasured details are the prior's."""

import pytest
import torch

from fabrica.contracts import Measurement
from fabrica.physics import CartesianSense, Exact, Gaussian, LineIntegrals, Poisson, Resolution
from fabrica.physics.geometry import ParallelGeometry
from fabrica.physics.mr import to_k_space
from fabrica.physics.variation import total_variation
from fabrica.rng import Rng
from fabrica.safeguards.hallucination import BANDS, WIDTH, abstains, fixed_by_data, misfit_by_band

SIDE, DEVIATION = 32, 0.05


def _sense(mask: torch.Tensor) -> CartesianSense:
    one = torch.ones(1, 1, SIDE, SIDE, dtype=torch.complex64)
    return CartesianSense(one, mask.expand(1, 1, SIDE, SIDE), one)


def _middle_lines(kept: int) -> torch.Tensor:
    """Symmetric about the zero frequency, so that real images keep what is measured."""
    away = (torch.arange(SIDE) - SIDE // 2).abs()
    return (away <= kept)[:, None].expand(SIDE, SIDE)


def _image(rows: int = 2) -> torch.Tensor:
    return 0.5 + 0.2 * Rng(range(rows)).normal(1, SIDE, SIDE)


def _measured(name: str) -> Measurement:
    x = _image(6)
    if name == "k-space":
        operator, noise = _sense(_middle_lines(16)), Gaussian(DEVIATION)
    elif name == "sinogram":
        operator, noise = LineIntegrals(ParallelGeometry.around((SIDE, SIDE), 40)), Gaussian(DEVIATION)
    elif name == "image":
        operator, noise = Resolution([None, None]), Gaussian(DEVIATION)
    else:
        operator, noise = LineIntegrals(ParallelGeometry.around((SIDE, SIDE), 40), 20.0), Poisson(50.0)
    return Measurement(noise.draw(operator(x), Rng(range(6)).child("y")), operator, noise)


@pytest.mark.parametrize("name", ["k-space", "sinogram", "image", "counts"])
def test_the_truth_has_a_misfit_of_one_in_every_band(name: str) -> None:
    found = misfit_by_band(_measured(name), _image(6))
    assert tuple(found) == BANDS
    for band, value in found.items():
        assert float(value.mean()) == pytest.approx(1, abs=0.1), band


@pytest.mark.parametrize("name", ["k-space", "sinogram", "image"])
def test_a_blurred_answer_lacks_the_fine_details(name: str) -> None:
    x = _image(6)
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    found = {band: float(v.mean()) for band, v in misfit_by_band(_measured(name), blurred).items()}
    assert found["fine"] > 3
    assert found["fine"] > 1.5 * found["coarse"]


def test_what_is_measured_whole_is_fixed_but_for_its_noise() -> None:
    x = _image()
    measured = Measurement(to_k_space(x + 0j, 2), _sense(_middle_lines(SIDE)), Gaussian(DEVIATION))
    torch.testing.assert_close(fixed_by_data(measured, x), x / (1 + DEVIATION**2 / WIDTH**2), atol=1e-4, rtol=1e-4)


def test_what_was_not_measured_is_the_priors() -> None:
    x, mask = _image(), _middle_lines(6)
    measured = Measurement(to_k_space(x + 0j, 2) * mask, _sense(mask), Gaussian(1e-3))
    decided = x - fixed_by_data(measured, x)
    spectrum = to_k_space(decided + 0j, 2).abs()
    assert float(spectrum[..., mask].max()) < 1e-3
    torch.testing.assert_close(spectrum[..., ~mask], to_k_space(x + 0j, 2).abs()[..., ~mask], atol=1e-3, rtol=1e-3)
    share = float((x - decided).square().sum() / x.square().sum())
    assert 0.8 < share < 0.99  # most of an image's energy is its level


def test_what_is_only_noise_is_not_fixed() -> None:
    """The larger the noise, the less the data fix."""
    x, mask = _image(), _middle_lines(SIDE)
    shares = []
    for deviation in (0.01, 0.3, 3.0):
        measured = Measurement(to_k_space(x + 0j, 2), _sense(mask), Gaussian(deviation))
        shares.append(float(fixed_by_data(measured, x).norm() / x.norm()))
    assert shares == pytest.approx([1 / (1 + (d / WIDTH) ** 2) for d in (0.01, 0.3, 3.0)], rel=1e-3)


@pytest.mark.parametrize(
    ("misfit", "least", "words"),
    [
        (1.0, 1.0, ""), (0.8, 1.0, ""), (1.25, 1.0, ""), (1.25, 0.95, ""),
        (4.6, 1.0, "ABSTAIN: it explains what was measured 4.6 times worse"), (4.6, 2.6, "the data by themselves reach 2.6"),
        (0.3, 1.0, "ABSTAIN: it follows the noise"), (3.2, 2.6, "CAUTION: no image explains what was measured better than 2.6"),
    ],
)  # fmt: skip
def test_when_nothing_should_be_read(misfit: float, least: float, words: str) -> None:
    """What the prior contradicts is told from what no answer of this physics could explain."""
    found = abstains(misfit, least)
    assert words in found
    assert bool(found) == bool(words)


def test_a_planted_structure_is_told() -> None:
    """A lesion that the data do not hold, in an answer that is otherwise right."""
    image = torch.zeros(1, 1, SIDE, SIDE)
    image[..., 6:26, 8:24] = 0.7
    operator, noise = _sense(_middle_lines(10)), Gaussian(0.02)
    measured = Measurement(noise.draw(operator(image), Rng([0])), operator, noise)
    x = total_variation(operator, noise, measured.value)
    planted = x.clone()
    planted[..., 14:19, 14:19] += 0.3

    def off(answer: torch.Tensor) -> float:
        seen, misfit = operator.measured(measured.value), noise.misfit(measured.value, operator(answer))
        return float((misfit * seen).sum() / seen.expand_as(misfit).sum())

    assert abstains(off(x)) == ""
    assert "ABSTAIN" in abstains(off(planted))


def test_noise_without_a_variance_has_no_misfit() -> None:
    measured = _measured("image")
    assert misfit_by_band(Measurement(measured.value, measured.operator, Exact()), _image(6)) == {}
