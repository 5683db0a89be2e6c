"""CT and PET: laws, sinograms of ellipses in closed form, and what classical solvers make of them."""

import math

import numpy as np
import pytest
import torch

from fabrica.data.acquisition import CtAcquisition, PetAcquisition
from fabrica.data.acquisition.ct import GAIN, SCALE
from fabrica.physics import Emission, Gaussian, ParallelBeam, Poisson
from fabrica.physics.ct import WATER_PER_MM
from fabrica.physics.projector import ParallelGeometry, filtered, projector, simulated
from fabrica.physics.rays import joseph, sampled
from fabrica.rng import Rng
from fabrica.testing import check_operator

SHAPE = (64, 48)


def _ellipse(
    shape: tuple[int, int], centre: tuple[float, float], half: tuple[float, float], finer: int = 8
) -> torch.Tensor:
    """(1, y, x): the share of each pixel inside."""
    axes = [(torch.arange(n * finer) + 0.5) / finer - 0.5 - (n - 1) / 2 for n in shape]
    y, x = torch.meshgrid(*axes, indexing="ij")
    inside = (((y - centre[0]) / half[0]) ** 2 + ((x - centre[1]) / half[1]) ** 2 <= 1).float()
    return torch.nn.functional.avg_pool2d(inside[None, None], finer)[0]


def _exact(geometry: ParallelGeometry, centre: tuple[float, float], half: tuple[float, float]) -> torch.Tensor:
    """Line integrals of an ellipse (Kak and Slaney 1988, eq. 3.4), (1, views, detectors)."""
    rows = []
    for angle in geometry.angles:
        c, s = math.cos(angle), math.sin(angle)
        reach = (half[1] * c) ** 2 + (half[0] * s) ** 2
        t = torch.from_numpy(geometry.bins) - (centre[1] * c + centre[0] * s)
        rows.append(2 * half[0] * half[1] / reach * (reach - t**2).clamp(min=0).sqrt())
    return torch.stack(rows)[None].float()


@pytest.mark.parametrize("shape", [SHAPE, (33, 40)])
def test_operators_keep_the_laws(shape: tuple[int, int]) -> None:
    geometry = ParallelGeometry.around(shape, 20)
    x = torch.randn(2, 1, *shape)
    check_operator(ParallelBeam(geometry, torch.tensor([0.7, 2.0])), x)
    lines = (20, geometry.detectors)
    check_operator(Emission(geometry, torch.rand(2, 1, *lines), torch.rand(1, 1, *lines)), x)


def test_forward_and_transpose_agree_to_six_digits() -> None:
    geometry = ParallelGeometry.around((128, 128), 60)
    x, y = torch.rand(1, 1, 128, 128), torch.rand(1, 1, 60, geometry.detectors)
    lines = projector(geometry)
    one = float((lines.forward(x).double() * y).sum())
    other = float((x.double() * lines.backward(y)).sum())
    assert abs(one - other) / one < 1e-6


@pytest.mark.parametrize("by", ["matrix", "simulation"])
def test_an_ellipse_has_its_sinogram(by: str) -> None:
    geometry = ParallelGeometry.around(SHAPE, 24)
    centre, half = (6.0, -4.0), (18.0, 11.0)
    image, exact = _ellipse(SHAPE, centre, half), _exact(geometry, centre, half)
    found = projector(geometry).forward(image[None])[0] if by == "matrix" else simulated(image, geometry)
    assert float((found - exact).abs().mean()) < 0.012 * float(exact.max())
    torch.testing.assert_close(found.sum(-1), exact.sum(-1), rtol=0.01, atol=0.0)  # every view sees the same mass


def test_filtered_back_projection_keeps_the_level() -> None:
    geometry = ParallelGeometry.around(SHAPE, 180)
    centre, half = (6.0, -4.0), (18.0, 11.0)
    found = filtered(_exact(geometry, centre, half)[None], geometry)[0, 0]
    inside = _ellipse(SHAPE, centre, (half[0] - 4, half[1] - 4))[0] == 1
    outside = _ellipse(SHAPE, centre, (half[0] + 4, half[1] + 4))[0] == 0
    assert float(found[inside].mean()) == pytest.approx(1.0, abs=0.01)
    assert float(found[outside].abs().mean()) < 0.01


def test_water_measures_as_water_whatever_the_pixel() -> None:
    """A disc of 0 HU in air: line integrals in the unit of attenuation, and back to HU by the operator."""
    disc = _ellipse(SHAPE, (0.0, 0.0), (16.0, 16.0))
    image = (disc * 1000 - 1000 - SCALE.offset) / SCALE.width
    for side in (1.0, 2.5):
        measured = CtAcquisition(views=90, photons=1e9, electronic=0.0).measure(image, (side, side), Rng([0]))
        assert isinstance(measured.operator, ParallelBeam)
        level = measured.operator(torch.ones(1, 1, *SHAPE)) * (1 + SCALE.offset / 1000) * WATER_PER_MM / GAIN
        middle = (measured.value + level)[
            0, 0, :, measured.value.shape[-1] // 2 - 1 : measured.value.shape[-1] // 2 + 1
        ]
        assert float(middle.mean()) == pytest.approx(32 * side * WATER_PER_MM, rel=0.02)
        found = measured.operator.solved(measured.value)["FBP"][0, 0] * SCALE.width + SCALE.offset
        assert float(found[disc[0] == 1][::3].mean()) == pytest.approx(0.0, abs=25)


def test_fewer_photons_are_told_by_the_rays_themselves() -> None:
    image = (_ellipse(SHAPE, (0.0, 0.0), (24.0, 18.0)) * 1000 - 1000 - SCALE.offset) / SCALE.width
    quiet, loud = (CtAcquisition(views=30, photons=n).measure(image, (4.0, 4.0), Rng([1])) for n in (1e6, 1e4))
    assert isinstance(loud.noise, Gaussian)
    off = loud.noise.misfit(loud.value, loud.operator(image[None]))
    assert 0.8 < float(off.mean()) < 1.6  # the simulating projector is another one
    assert isinstance(quiet.noise, Gaussian)
    assert float(loud.noise.deviation.mean()) > 8 * float(quiet.noise.deviation.mean())
    thick = loud.noise.deviation[0, 0].mean(0)
    assert float(thick[len(thick) // 2]) > 2 * float(thick[0])  # where the patient is thick fewer arrive


def test_emission_counts_and_their_attenuation() -> None:
    image = _ellipse(SHAPE, (0.0, 0.0), (20.0, 15.0)) * 0.5
    m = PetAcquisition(counts=1e6, background=0.25).measure(image, (3.0, 3.0), Rng([2]))
    assert isinstance(m.operator, Emission)
    assert isinstance(m.noise, Poisson)
    trues = float(m.operator(image[None]).sum())
    assert trues == pytest.approx(5e5, rel=0.08)  # the outline counts pixels that are partly outside
    assert float(m.noise.background.sum()) == pytest.approx(trues / 3, rel=0.03)
    assert float(m.value.sum()) == pytest.approx(trues * 4 / 3, rel=0.02)
    assert 0.9 < float(m.noise.misfit(m.value, m.operator(image[None])).mean()) < 1.1
    found = m.operator.solved(m.value)
    inside = _ellipse(SHAPE, (0.0, 0.0), (14.0, 9.0))[0] == 1
    for x in found.values():
        assert float(x[0, 0][inside].mean()) == pytest.approx(0.5, rel=0.05)
        assert float(x.min()) >= 0
    likelier = [float(m.nll(x)) for x in (found["MLEM"], m.operator.crude(m.value))]
    assert likelier[0] < likelier[1]


def test_a_slice_without_activity_counts_background_alone() -> None:
    m = PetAcquisition().measure(torch.zeros(1, *SHAPE), (3.0, 3.0), Rng([3]))
    assert m.value.isfinite().all()
    assert all(bool(x.isfinite().all()) for x in m.operator.solved(m.value).values())


@pytest.mark.parametrize("made", [CtAcquisition(views=8), PetAcquisition(views=8)], ids=["ct", "pet"])
def test_pixels_that_are_no_squares_are_refused(made: CtAcquisition | PetAcquisition) -> None:
    with pytest.raises(ValueError, match="are no squares"):
        made.measure(torch.rand(1, *SHAPE), (1.0, 2.0), Rng([0]))


def test_options_that_are_none() -> None:
    with pytest.raises(ValueError, match="expected at least 4 views"):
        CtAcquisition(views=1)
    with pytest.raises(ValueError, match="expected counts above 0"):
        PetAcquisition(counts=0)


def test_detectors_off_the_middle_move_the_image() -> None:
    """A detector whose centre is moved by two bins sees what stands two bins aside."""
    base = ParallelGeometry.around((48, 48), 4)
    moved = ParallelGeometry(base.shape, base.angles, base.detectors, base.width, centre=2.0)
    x = torch.zeros(1, 1, 48, 48)
    x[..., 20:28, 20:28] = 1
    a, b = (projector(g).forward(x)[0, 0].numpy() for g in (base, moved))
    np.testing.assert_allclose(np.roll(a, 2, -1), b, atol=1e-4)


def test_compiled_rays_are_those_that_the_source_says() -> None:
    """The same function, interpreted: what the compiler makes of it changes nothing but the last bits."""
    shape, angles, bins = (6, 5), np.array([0.0, 0.7, 2.1]), np.arange(7) - 3.0
    for made, told in zip(joseph(shape, angles, bins), joseph.py_func(shape, angles, bins), strict=True):
        np.testing.assert_allclose(made, told, rtol=1e-6)
    image = np.random.default_rng(0).random(shape)
    one = sampled(image, angles, bins, 1.0, 2, 0.5)
    np.testing.assert_allclose(one, sampled.py_func(image, angles, bins, 1.0, 2, 0.5), rtol=1e-9, atol=1e-12)
