"""Samples anywhere in k-space: the Fourier sum itself, its transpose, its square, and what is told from them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fabrica import io
from fabrica.data.acquisition.mr import MrAcquisition, coil_sensitivities, direct, radial
from fabrica.data.measured import measurement_of
from fabrica.data.virtual import VirtualCohort
from fabrica.io import UnreadableError
from fabrica.physics import NonCartesianSense
from fabrica.physics.calibration import middle_of_samples
from fabrica.physics.mr import to_k_space
from fabrica.physics.nufft import Nufft, Toeplitz
from fabrica.rng import Rng
from fabrica.safeguards.hallucination import misfit_by_band
from fabrica.testing import check_operator


def _places(sides: tuple[int, ...], count: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(count, len(sides), generator=generator) - 0.5) * torch.tensor(sides)


def _phantom(side: int = 64) -> torch.Tensor:
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    rings = [(0.75, y, x, 0.6), (0.25, y - 0.2, x + 0.1, 0.35)]
    return sum(grey * torch.sigmoid((r - (v**2 + u**2).sqrt()) * side / 4) for r, v, u, grey in rings)[None]


@pytest.mark.parametrize("sides", [(16, 20), (15, 24), (12,), (8, 10, 12)])
def test_it_is_the_fourier_sum(sides: tuple[int, ...]) -> None:
    places, x = _places(sides), torch.randn(3, *sides, dtype=torch.complex64)
    waves = torch.zeros(len(places), *sides, dtype=torch.float64)
    for d, n in enumerate(sides):
        line = places[:, d].double()[:, None] * (torch.arange(n) - n // 2) / n
        waves = waves + line.reshape(len(places), *[n if k == d else 1 for k in range(len(sides))])
    exact = (
        torch.exp(-2j * math.pi * waves).flatten(1) @ x.flatten(1).T.to(torch.complex128) / math.sqrt(math.prod(sides))
    )
    found = Nufft.at(places, sides).forward(x)
    assert float((found - exact.T).abs().max() / exact.abs().max()) < 2e-5


def test_at_whole_places_it_is_the_transform_of_the_grid() -> None:
    x = torch.randn(1, 16, 12, dtype=torch.complex64)
    grid = torch.stack(torch.meshgrid(torch.arange(16) - 8, torch.arange(12) - 6, indexing="ij"), -1).float()
    found = Nufft.at(grid.reshape(-1, 2), (16, 12)).forward(x).reshape(1, 16, 12)
    torch.testing.assert_close(found, to_k_space(x, 2), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("sides", [(16, 20), (15, 24), (8, 10, 12)])
def test_transpose_and_square(sides: tuple[int, ...]) -> None:
    places = _places(sides)
    lines, x = Nufft.at(places, sides), torch.randn(2, *sides, dtype=torch.complex64)
    v = torch.randn(2, len(places), dtype=torch.complex64)
    one, other = (lines.forward(x).conj() * v).sum(), (x.conj() * lines.adjoint(v)).sum()
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    both = lines.adjoint(lines.forward(x))
    assert float((Toeplitz.of(places, sides).times(x) - both).abs().max() / both.abs().max()) < 3e-5


@pytest.mark.parametrize("wide", [False, True])
def test_the_operator_keeps_the_laws(wide: bool) -> None:
    maps = coil_sensitivities(3, (16, 20), Rng([0]))[None].expand(2, -1, -1, -1)
    weight = torch.polar(torch.ones(2, 1, 16, 20), torch.rand(2, 1, 16, 20))
    operator = NonCartesianSense(maps, radial(9, (16, 20)), weight, (20, 24) if wide else None)
    x = torch.randn(2, 1, *operator.sides)
    check_operator(operator, x)
    torch.testing.assert_close(operator.normal(x), operator.adjoint(operator.apply_to(x)), rtol=1e-3, atol=1e-3)
    small = operator.corner((8, 8))
    check_operator(small, torch.randn(2, 1, 8, 8))
    assert torch.equal(
        operator.feasible(x)[..., 2:18, 2:22] if wide else operator.feasible(x), x[..., 2:18, 2:22] if wide else x
    )


def test_from_spokes_alone() -> None:
    """Maps, phase and gain told from a third of the spokes: least squares explains them and shows the phantom."""
    image = _phantom()
    measured = MrAcquisition(coils=6, acceleration=2, trajectory="radial").measure(image, (1.0, 1.0), Rng([0]))
    truth = measured.noise.misfit(measured.value, measured.operator(image[None])).mean()
    assert float(truth) == pytest.approx(1, abs=0.2)
    (found,) = measured.operator.solved(measured.value).values()
    crude = measured.operator.crude(measured.value)
    errors = [float((x - image).square().mean().sqrt()) for x in (found, crude)]
    assert errors[0] < 0.03
    assert errors[0] < errors[1] < 0.15  # gridded, as bright as it should be
    bands = misfit_by_band(measured, image[None])
    assert set(bands) == {"coarse", "middle", "fine"}
    assert float(bands["fine"]) == pytest.approx(1, abs=0.1)
    off = measured.value + 10 * (measured.operator.radius > 0.8)
    wrong = misfit_by_band(type(measured)(off, measured.operator, measured.noise), image[None])
    assert float(wrong["fine"]) > 5 * float(wrong["middle"])


@pytest.mark.parametrize("acceleration", [2, 4])
def test_a_head_is_explained_by_what_its_spokes_tell(acceleration: float) -> None:
    """Bright skin at the edge of what coils see: maps of too few samples would leave several times the noise."""
    (member,) = VirtualCohort(1, seed=0, spacing_mm=2, skull=True, planes=(43, 44), first=500).cohort().members
    image = member.load(["T1w"]).images["T1w"].data[0, :1]
    image = image / torch.quantile(image, 0.995)
    acquisition = MrAcquisition(coils=6, acceleration=acceleration, trajectory="radial")
    measured = acquisition.measure(image, (2.0, 2.0), Rng([0]))
    assert float(measured.noise.misfit(measured.value, measured.operator(image[None])).mean()) == pytest.approx(
        1, abs=0.6
    )


def test_how_far_the_middle_is_covered() -> None:
    assert middle_of_samples(radial(80, (64, 64)).flatten(0, 1), (64, 64)) >= 40
    with pytest.raises(ValueError, match="coil maps"):
        middle_of_samples(radial(6, (64, 64)).flatten(0, 1), (64, 64))


def _saved(folder: Path, **more: Any) -> Any:
    """An archive of spokes, as a user would write it."""
    image, places = _phantom(), radial(70, (64, 64))
    maps = coil_sensitivities(4, (64, 64), Rng([3]))
    noise = 0.01 * torch.view_as_complex(Rng([5]).normal(4, *places.shape[:2], 2)[0])
    plain = {
        "kspace": (direct(image * maps, places) + noise).numpy(), "trajectory": places.numpy(), "matrix": np.array([64, 64]),
        "noise": 0.01 * torch.view_as_complex(Rng([6]).normal(4, 500, 2)[0]).numpy(),
    }  # fmt: skip
    np.savez(folder / "kspace.npz", **{k: v for k, v in (plain | more).items() if v is not None})
    (scan,) = io.scan_folder(folder).scans
    return scan


def test_an_archive_of_spokes_is_a_scan(tmp_path: Path) -> None:
    scan = _saved(tmp_path, voxel_mm=np.array([2.0, 2.0]))
    assert scan.shape == (4, 1, 64, 64)
    measured = measurement_of(scan)
    assert isinstance(measured.operator, NonCartesianSense)
    (found,) = measured.operator.solved(measured.value).values()
    image = _phantom()
    gain = float((found * image).sum() / found.square().sum())
    assert float((gain * found - image).square().mean().sqrt()) < 0.03
    assert float(measured.noise.misfit(measured.value, measured.operator(found)).mean()) == pytest.approx(
        1, abs=0.4
    )  # at a noise of .01 maps show
    assert measured.affine is not None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"trajectory": radial(70, (64, 64)).numpy() / 64}, "its unit is another"),
        ({"trajectory": radial(70, (64, 64)).numpy() * 2 * np.pi}, "its unit is another"),
        ({"trajectory": radial(7, (64, 64)).numpy()}, "for samples"),
        ({"trajectory": np.full((70, 128, 2), np.nan)}, "not finite"),
        ({"matrix": np.array([64, 32])}, "or the order of its axes"),
        ({"mask": np.ones((70, 128))}, "it has a mask"),
        ({"kspace": np.zeros((4, 70, 128), np.complex64)}, "8960 samples are 0 in every coil"),
        ({"noise": np.zeros((3, 9), np.complex64)}, r"its noise is \(3, 9\)"),
    ],
)
def test_what_cannot_be_meant_is_refused(more: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=words):
        io.read_raw(_saved(tmp_path, **more))


def test_without_its_matrix_it_is_named_as_odd(tmp_path: Path) -> None:
    _saved(tmp_path)
    plain = dict(np.load(tmp_path / "kspace.npz"))
    np.savez(tmp_path / "kspace.npz", **{k: v for k, v in plain.items() if k != "matrix"})
    found = io.scan_folder(tmp_path)
    assert not found.scans
    assert "its matrix is []" in str(found.oddities)


def test_the_trajectory_of_a_scanner(real_data: Path) -> None:
    """Real coordinates of a radial scan, in samples of k-space: a phantom comes back from them."""
    (file,) = (real_data / "kspace/radial_trajectory").glob("*.npy")
    places = torch.from_numpy(np.load(file)).float()
    side = 128
    places = places * (side / 2) / float(places.abs().max())  # of an image of so many pixels
    image, maps = _phantom(side), coil_sensitivities(4, (side, side), Rng([3]))
    y = direct(image * maps, places)[None]
    operator = NonCartesianSense(maps[None], places, torch.ones(1, 1, side, side) + 0j)
    (found,) = operator.solved(y).values()
    assert float((found - image).square().mean().sqrt()) < 0.02
