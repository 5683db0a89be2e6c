"""CT and PET: laws, sinograms of ellipses in closed form, and what classical solvers make of them."""

import numpy as np
import pytest
import torch

from fabrica.data.acquisition import CtAcquisition, PetAcquisition
from fabrica.data.acquisition.ct import GAIN, SCALE
from fabrica.physics import Emission, Gaussian, LineIntegrals, Poisson
from fabrica.physics.ct import WATER_PER_MM
from fabrica.physics.geometry import FanGeometry, Geometry, ParallelGeometry
from fabrica.physics.projector import filtered, projector, rebinned, simulated
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


def _exact(geometry: Geometry, centre: tuple[float, float], half: tuple[float, float]) -> torch.Tensor:
    """Line integrals of an ellipse (Kak and Slaney 1988, eq. 3.4), (1, views, detectors)."""
    turns, offsets = (torch.from_numpy(part[..., 0]) for part in geometry.beams())
    c, s = turns.cos(), turns.sin()
    reach = (half[1] * c) ** 2 + (half[0] * s) ** 2
    t = offsets - (centre[1] * c + centre[0] * s)
    return (2 * half[0] * half[1] / reach * (reach - t**2).clamp(min=0).sqrt())[None].float()


def _fan(shape: tuple[int, int], views: int, degrees: float = 360.0) -> FanGeometry:
    """Near enough that its rays are far from parallel."""
    return FanGeometry.around(shape, views, degrees=degrees, source=1.5 * max(shape))


GEOMETRIES = {"parallel": ParallelGeometry.around, "fan": _fan}


@pytest.mark.parametrize("shape", [SHAPE, (33, 40)])
@pytest.mark.parametrize("beams", GEOMETRIES)
def test_operators_keep_the_laws(beams: str, shape: tuple[int, int]) -> None:
    geometry = GEOMETRIES[beams](shape, 20)
    x = torch.randn(2, 1, *shape)
    check_operator(LineIntegrals(geometry, torch.tensor([0.7, 2.0])), x)
    lines = (20, geometry.detectors)
    check_operator(Emission(geometry, torch.rand(2, 1, *lines), torch.rand(1, 1, *lines)), x)


@pytest.mark.parametrize("beams", GEOMETRIES)
def test_forward_and_transpose_agree_to_six_digits(beams: str) -> None:
    geometry = GEOMETRIES[beams]((128, 128), 60)
    x, y = torch.rand(1, 1, 128, 128), torch.rand(1, 1, 60, geometry.detectors)
    lines = projector(geometry)
    one = float((lines.forward(x).double() * y).sum())
    other = float((x.double() * lines.backward(y)).sum())
    assert abs(one - other) / one < 1e-6


@pytest.mark.parametrize("beams", GEOMETRIES)
@pytest.mark.parametrize("by", ["matrix", "simulation"])
def test_an_ellipse_has_its_sinogram(by: str, beams: str) -> None:
    geometry = GEOMETRIES[beams](SHAPE, 24)
    centre, half = (6.0, -4.0), (18.0, 11.0)
    image, exact = _ellipse(SHAPE, centre, half), _exact(geometry, centre, half)
    found = projector(geometry).forward(image[None])[0] if by == "matrix" else simulated(image, geometry)
    assert float((found - exact).abs().mean()) < 0.012 * float(exact.max())
    torch.testing.assert_close(found.sum(-1), exact.sum(-1), rtol=0.01, atol=0.0)  # every view sees the same mass


@pytest.mark.parametrize("beams", ["parallel", "fan", "short scan"])
def test_filtered_back_projection_keeps_the_level(beams: str) -> None:
    """Of a fan over half a turn and its own width every ray is known once at least."""
    geometry = (
        _fan(SHAPE, 250, 250.0) if beams == "short scan" else GEOMETRIES[beams](SHAPE, 360 if beams == "fan" else 180)
    )
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
        assert isinstance(measured.operator, LineIntegrals)
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
    turns, offsets = ParallelGeometry(shape, tuple(angles), len(bins)).beams(2)
    rays = turns[..., 0].reshape(-1), offsets[..., 0].reshape(-1)
    for made, told in zip(joseph(shape, *rays), joseph.py_func(shape, *rays), strict=True):
        np.testing.assert_allclose(made, told, rtol=1e-6)
    image = np.random.default_rng(0).random(shape)
    one = sampled(image, turns, offsets, 0.5)
    np.testing.assert_allclose(one, sampled.py_func(image, turns, offsets, 0.5), rtol=1e-9, atol=1e-12)


def test_simulation_leaves_the_number_of_threads_as_it_was() -> None:
    """Compiled loops share a pool with torch, whose draws depend on how many threads there are."""
    before = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        try:
            simulated(torch.rand(1, 16, 16), ParallelGeometry.around((16, 16), 8))
            assert torch.get_num_threads() == count
        finally:
            torch.set_num_threads(before)


def test_a_fan_of_a_far_source_is_parallel() -> None:
    far = FanGeometry.around((24, 24), 6, degrees=180.0, source=1e7)
    x = torch.rand(1, 1, 24, 24)
    near = ParallelGeometry((24, 24), far.angles, far.detectors)
    torch.testing.assert_close(projector(far).forward(x), projector(near).forward(x), rtol=1e-3, atol=1e-3)


def test_what_a_fan_did_not_measure_stays_out() -> None:
    """Of a fan over an eighth of a turn most parallel rays were never measured; those are 0, the others what they are."""
    fan = _fan(SHAPE, 45, 45.0)
    found = rebinned(torch.ones(1, 1, 45, fan.detectors), fan)[0, 0]
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert 0.05 < float(found.mean()) < 0.4


def test_a_source_within_the_patient_is_refused() -> None:
    with pytest.raises(ValueError, match="source_mm: 570"):
        FanGeometry.around((100, 100), 60, source=60.0)
    with pytest.raises(ValueError, match="over at most 360 degrees"):
        CtAcquisition(geometry="fan", degrees=400)
