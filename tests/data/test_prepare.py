"""What goes in comes out on its own grid: exact where voxels coincide, close where they do not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fabrica.contracts import SCALES, Case, Field, Image
from fabrica.data.cases import COVERED, _misregistered, load_aligned
from fabrica.data.cohort import Source
from fabrica.data.grid import Grid, align, coverage, grid_of, inside_of, offset_mm, resample, same_grid
from fabrica.data.prepare import GridPreparation, fit, intensity_scale
from fabrica.io import UnreadableError

MAKE = Callable[..., Image]
DIRECTIONS = st.permutations([0, 1, 2]).flatmap(
    lambda order: st.tuples(st.just(order), st.tuples(*[st.sampled_from([-1, 1])] * 3))
)


def _oriented(order: list[int], signs: tuple[int, ...], spacing: tuple[float, ...] = (2.0, 1.0, 1.5)) -> torch.Tensor:
    affine = torch.zeros(4, 4, dtype=torch.float64)
    for axis, (row, sign) in enumerate(zip(order, signs, strict=True)):
        affine[row, axis] = sign * spacing[axis]
    affine[:3, 3], affine[3, 3] = torch.tensor([3.0, -8.0, 12.0]), 1.0
    return affine


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(directions=DIRECTIONS, axes=st.sampled_from(["yx", "zyx"]))
def test_any_orientation_round_trips_exactly(make_image: MAKE, directions, axes: str) -> None:
    image = make_image(affine=_oriented(*directions))
    preparation = GridPreparation(axes, None, (1, 1, 1), {"T1w": intensity_scale(image)})
    grid = preparation.grid(image, crop=False)
    tensor, trace = preparation.forward(image, grid)
    back = preparation.back(tensor, trace)
    assert torch.allclose(back.data, image.data, atol=1e-3)
    assert torch.equal(back.affine, image.affine)
    x, y, z = (grid.affine[:3, k] for k in (2, 1, 0))
    assert x[0] > 0
    assert y[1] > 0
    assert z[2] > 0


def test_same_place_same_value(make_image: MAKE) -> None:
    """Wherever a voxel of the prepared grid lies in the patient, it holds the source's value there."""
    image = make_image()
    preparation = GridPreparation("zyx", None, (1, 1, 1), {})
    tensor, trace = preparation.forward(image)
    inverse = torch.linalg.inv(image.affine)
    for index in ((3, 4, 5), (8, 9, 10)):
        place = trace.grid @ torch.tensor([*index, 1.0]).double()
        z, y, x = (inverse @ place)[:3].round().int().tolist()
        if 0 <= z < 12 and 0 <= y < 20 and 0 <= x < 16:
            assert float(tensor[0][index]) * trace.scale == pytest.approx(float(image.data[0, z, y, x]), rel=1e-5)


def test_small_organs_waste_few_voxels(make_image: MAKE) -> None:
    """An explicit multiple: the box hardly exceeds the patient, and is remembered with the preparation."""
    from fabrica.data.prepare import fit, plain_preparation, preparation_from

    case = Case("p", {"T1w": make_image((18, 26, 18))})
    coarse, fine = (fit([case], "T1w", "zyx", None, multiple) for multiple in (16, 4))
    assert coarse.size == (32, 32, 16)
    assert all(n % 4 == 0 for n in fine.size)
    assert all(n < side + 4 for n, side in zip(fine.size, (18, 26, 18), strict=True))
    image = case.images["T1w"]
    tensor, trace = fine.forward(image)
    assert tensor.shape[1:] == fine.size
    assert float(tensor.max()) * trace.scale == pytest.approx(float(image.data.max()))
    assert preparation_from(plain_preparation(fine)) == fine


def test_sides_are_multiples_and_nothing_bright_is_cut(make_image: MAKE) -> None:
    image = make_image((30, 50, 40))
    tensor, trace = GridPreparation("zyx", None, (1, 1, 1), {}).forward(image)
    assert all(side % 16 == 0 for side in tensor.shape[1:])
    assert float(tensor.max()) * trace.scale == pytest.approx(float(image.data.max()))


def test_resampling_agrees_with_simpleitk(make_image: MAKE) -> None:
    image = make_image((14, 18, 16))
    turn = torch.tensor([[1.0, 0, 0], [0, 0.995, -0.0998], [0, 0.0998, 0.995]]).double()
    affine = image.affine.clone()
    affine[:3, :3] = turn @ affine[:3, :3]
    grid = Grid(affine, (12, 16, 15))
    ours = resample(image, grid).data[0].numpy()
    source = _itk(image)
    target = SimpleITK.GetImageFromArray(np.zeros(grid.shape, np.float32))
    _place(target, affine)
    theirs = SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(source, target, SimpleITK.Transform(), SimpleITK.sitkLinear, -1.0)
    )
    inside = theirs >= 0
    assert inside.mean() > 0.5
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=0.02)


def _itk(image: Image) -> SimpleITK.Image:
    made = SimpleITK.GetImageFromArray(image.data[0].numpy())
    _place(made, image.affine)
    return made


def _place(made: SimpleITK.Image, affine: torch.Tensor) -> None:
    spacing = affine[:3, :3].norm(dim=0).flip(0).tolist()
    directions = (affine[:3, :3] / affine[:3, :3].norm(dim=0)).flip(1)
    made.SetSpacing(spacing)
    made.SetOrigin(affine[:3, 3].tolist())
    made.SetDirection(directions.flatten().tolist())


def test_labels_stay_whole_numbers(make_image: MAKE) -> None:
    label = make_image(kind="label", name="lesion")
    grid = Grid(label.affine @ torch.diag(torch.tensor([0.7, 0.6, 0.9, 1.0]).double()), (15, 30, 16))
    assert set(resample(label, grid).data.unique().tolist()) <= {0.0, 1.0, 2.0}


def test_units_come_back(make_image: MAKE) -> None:
    """HU return as HU; arbitrary units leave on the training cohort's scale, whatever the scanner's gain was."""
    ct = make_image(name="CT", unit="HU")
    ct = replace(ct, data=ct.data * 10 - 1000)
    preparation = GridPreparation("zyx", None, (1, 1, 1), {"T1w": (0.0, 50.0)})
    tensor, trace = preparation.forward(ct, preparation.grid(ct, crop=False))
    assert torch.allclose(preparation.back(tensor, trace).data, ct.data, atol=0.01)
    mr = make_image()
    outputs = []
    for gain in (1.0, 7.0):
        scan = replace(mr, data=mr.data * gain)
        tensor, trace = preparation.forward(scan, preparation.grid(scan, crop=False))
        outputs.append((tensor, preparation.back(tensor, trace).data))
    assert torch.allclose(outputs[0][0], outputs[1][0], atol=1e-5)
    assert torch.allclose(outputs[0][1], outputs[1][1], atol=1e-3)
    assert float(outputs[0][1].max()) == pytest.approx(50, rel=0.1)


def test_different_grids_are_resampled_and_said(make_image: MAKE) -> None:
    case = Case("p1", {"T1w": make_image(), "T2w": make_image((6, 20, 16), (4.0, 1.0, 1.5), name="T2w")})
    aligned, remarks = align(case, "T1w")
    assert same_grid(grid_of(aligned.images["T2w"]), grid_of(case.images["T1w"]))
    assert "T2w (4 x 1 x 1.5 mm) was resampled" in remarks[0]
    assert align(aligned, "T1w")[1] == ()


def test_fit_takes_the_middle_of_a_cohort(make_image: MAKE) -> None:
    cases = [
        Case(f"p{i}", {"T1w": make_image((20, 30 + i, 24), (1.0, s, s), seed=i)}) for i, s in enumerate((1.0, 1.0, 1.5))
    ]
    preparation = fit(iter(cases), "T1w", "yx", None)
    assert preparation.spacing_mm == (1.0, 1.0, 1.0)
    assert all(side % 16 == 0 for side in preparation.size[1:])
    assert preparation.scales["T1w"][1] > 0
    with pytest.raises(ValueError, match="nothing to train on"):
        fit(iter([]), "T1w", "yx", None)


def test_pictures_without_a_pixel_size(make_image: MAKE) -> None:
    picture = replace(make_image((28, 30)), calibrated=False)
    preparation = fit(iter([Case("p", {"T1w": picture})]), "T1w", "yx", None)
    tensor, trace = preparation.forward(picture)
    assert tensor.shape[:2] == (1, 1)
    assert preparation.back(tensor, trace).data.shape == (1, 28, 30)


def test_pictures_keep_their_frame_and_their_greys(make_image: MAKE) -> None:
    """Whoever made a picture chose both: a dark one stays dark, a corner stays a corner. Scans are cropped and scaled."""
    data = torch.zeros(1, 40, 48)
    data[0, 20:25, 20:25] = 51.0
    scan = replace(make_image((40, 48)), data=data)
    picture = replace(scan, meaning=replace(scan.meaning, unit="grey"), calibrated=False)
    assert intensity_scale(picture) == (0.0, 255.0)
    found = {}
    for name, image in (("picture", picture), ("scan", scan)):
        preparation = fit(iter([Case("p", {"T1w": image})]), "T1w", "yx", None)
        tensor, trace = preparation.forward(image)
        found[name] = (tuple(tensor.shape), float(tensor.max()), preparation.units)
        torch.testing.assert_close(preparation.back(tensor, trace).data, data)
    assert found["picture"] == ((1, 1, 48, 48), pytest.approx(0.2), {"T1w": "grey"})
    assert found["scan"] == ((1, 1, 16, 16), pytest.approx(1.0), {})


def test_units_that_differ_are_refused(make_image: MAKE) -> None:
    scan = make_image((20, 20))
    picture = replace(scan, meaning=replace(scan.meaning, unit="grey"), calibrated=False)
    with pytest.raises(
        ValueError, match=r"T1w is in a.u. for p and in grey for q: numbers of two meanings.*--unit T1w="
    ):
        fit(iter([Case("p", {"T1w": scan}), Case("q", {"T1w": picture})]), "T1w", "yx", None)


def _fitted(make_image: MAKE, unit: str, *tops: float) -> tuple[GridPreparation, list[Image]]:
    images = [replace(i := make_image((20, 20), name="X", unit=unit), data=i.data / i.data.max() * top) for top in tops]
    return fit(iter([Case(str(k), {"X": i}) for k, i in enumerate(images)]), "X", "yx", None), images


@pytest.mark.parametrize("unit", ["HU", "SUV", "Gy", "mm", "ms", "Bq/ml", "grey"])
def test_a_unit_has_one_scale_whoever_is_asked_about(make_image: MAKE, unit: str) -> None:
    """Neither the case's own values nor the cohort's: twice as many Gy are twice as many on the network's scale."""
    preparation, (weak, strong) = _fitted(make_image, unit, 10.0, 40.0)
    constant = SCALES[unit]
    for image in (weak, strong):
        x, trace = preparation.forward(image)
        flat = preparation.forward(image, grid_of(image))[0]
        torch.testing.assert_close(flat[0], (image.data - constant.offset) / constant.width)
        torch.testing.assert_close(preparation.back(x, trace).data, image.data, atol=1e-3 * constant.width, rtol=0)
    assert preparation.units["X"] == unit


def test_a_unit_without_a_constant_has_the_cohorts_scale(make_image: MAKE) -> None:
    preparation, (weak, strong) = _fitted(make_image, "mg/ml", 10.0, 40.0)
    tops = [float(preparation.forward(i, grid_of(i))[0].max()) for i in (weak, strong)]
    assert tops[1] == pytest.approx(4 * tops[0])


def test_arbitrary_units_come_to_the_cohorts_scale_by_their_own(make_image: MAKE) -> None:
    preparation, (weak, strong) = _fitted(make_image, "a.u.", 10.0, 40.0)
    tops = [float(preparation.forward(i, grid_of(i))[0].max()) for i in (weak, strong)]
    assert tops[1] == pytest.approx(tops[0])
    x, trace = preparation.forward(strong)
    middle = float(preparation.back(x, trace).data.max())
    assert middle == pytest.approx(25.0, rel=0.05)  # a draw leaves on what the cohort has, not on the case's own


def test_another_unit_than_the_cohorts_is_refused(make_image: MAKE) -> None:
    preparation, (image, _) = _fitted(make_image, "HU", 10.0, 40.0)
    counts = replace(image, meaning=replace(image.meaning, unit="a.u."), source="p9/ct.nii")
    with pytest.raises(
        UnreadableError, match=r"p9/ct.nii: its X is in a.u., that of the training cohort in HU. .*--unit X=HU"
    ):
        preparation.forward(counts)


@pytest.mark.parametrize(("values", "classes", "words"), [
    ([0, 1, 2, 4], 3, r'holds the labels 0, 1, 2, 4, and the recipe gives seg 3 classes.*Write "seg:5"'), ([0, 0.5, 1], 3, "no labels"), ([-1, 0, 1], 3, "no labels"),
])  # fmt: skip
def test_labels_that_do_not_fit_are_refused(make_image: MAKE, values: list[float], classes: int, words: str) -> None:
    image = make_image((20, 20), name="seg", kind="label", unit="")
    data = torch.tensor(values).repeat(400)[:400].reshape(1, 20, 20).float()
    wrong = replace(image, data=data)
    with pytest.raises(ValueError, match=words):
        fit(iter([Case("p", {"seg": wrong})]), "seg", "yx", None, classes={"seg": classes})
    fitting = fit(
        iter([Case("p", {"seg": replace(image, data=data.abs().round())})]), "seg", "yx", None, classes={"seg": 5}
    )
    with pytest.raises(ValueError, match="no labels|holds the labels"):
        fitting.forward(replace(wrong, data=torch.where(data == 4, 7.0, data)))


def test_images_that_share_no_place_are_refused(make_image: MAKE) -> None:
    one = make_image((6, 20, 20), name="A")
    aside = torch.zeros(4, 4, dtype=torch.float64)
    aside[0, 3] = 500.0
    away = replace(one, affine=one.affine + aside, meaning=replace(one.meaning, name="B"), source="p/b.nii")
    with pytest.raises(UnreadableError, match=r"p/b.nii: its B lies beside its A: they share no place"):
        align(Case("p", {"A": one, "B": away}), "A")
    assert coverage(away, grid_of(one)) == 0
    assert coverage(one, grid_of(one)) == 1
    half = replace(one, affine=one.affine + aside * 15 / 500)
    assert coverage(half, grid_of(one)) == pytest.approx(0.5, abs=0.06)


def test_misregistration_is_measured(make_image: MAKE) -> None:
    """A shift of known size between contrasts that share edges only; none where there is none."""
    image = make_image((40, 48, 44), (2.0, 1.0, 1.5))
    volume, inverted = image.data[0], 200 - image.data[0]
    assert offset_mm(volume, inverted, image.spacing_mm) == 0
    moved = inverted.roll((2, -3, 4), (0, 1, 2))
    assert offset_mm(volume, moved, image.spacing_mm) == pytest.approx((4.0**2 + 3.0**2 + 6.0**2) ** 0.5)


@pytest.mark.parametrize("millimetres", [0, 8])
def test_a_shift_is_told_where_one_image_shows_a_part_of_the_other(millimetres: int) -> None:
    """A small field of view is compared where it lies: what it does not show is no shift."""
    y, x = np.mgrid[:64, :64]
    body = np.hypot(y - 32, x - 32) < 22
    anatomy = body * (1 + ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(24, 64, 64)), 2))
    part = np.roll(anatomy, millimetres // 2, 1)[:, 20:60, 4:44]
    affine = torch.diag(torch.tensor([2.0, 2, 2, 1])).double()[[2, 1, 0, 3]]
    placed = affine.clone()
    placed[:3, 3] = affine[:3, 1] * 20 + affine[:3, 2] * 4
    grid = grid_of(Image(torch.from_numpy(anatomy).float()[None], "zyx", affine, Field("CT")))
    small = Image(torch.from_numpy(part.copy()).float()[None], "zyx", placed, Field("T1w"))
    wide = torch.from_numpy(anatomy).float()[None]
    tensors = {"CT": wide, "T1w": resample(small, grid).data, COVERED: inside_of(small, grid).float()[None]}
    case = Case("p", {"CT": Image(wide, "zyx", affine, Field("CT")), "T1w": small})
    found = _misregistered(case, tensors, grid)
    assert bool(found) == bool(millimetres), found
    assert not found or f"about {millimetres} mm off CT" in found[0]


def test_real_limbs_whose_fields_of_view_differ(real_data: Path) -> None:
    """A thigh whose MR shows a part of the CT lies where it should; a foot that was turned between the scans does not."""
    told = {}
    for member in Source(real_data / "ct_pet_mr" / "sarcoma").find().members:
        if member.patient in ("STS_041", "STS_019"):
            case, _ = load_aligned(member, ["T1w", "CT", COVERED], "CT")
            tensors = {name: image.data for name, image in case.images.items()}
            told[member.patient] = _misregistered(case, tensors, grid_of(case.images["CT"]))
    assert not told["STS_041"]
    assert "T1w lies about" in told["STS_019"][0] or "CT lies about" in told["STS_019"][0]


def test_every_scan_may_stay_on_its_own_voxels() -> None:
    """Two spacings: resampled to one grid unless that is forbidden; then values come back to the last bit."""
    from fabrica.contracts import Case, Field, Image
    from fabrica.data.prepare import fit

    cases = []
    for k, step in enumerate((3.0, 4.0)):
        affine = torch.tensor([[0, 0, step, 0], [0, step, 0, 0], [2.5, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
        data = torch.rand(1, 4, 40, 40, generator=torch.Generator().manual_seed(k))
        cases.append(Case(f"p{k}", {"dose": Image(data, "zyx", affine, Field("dose", "intensity", 1, "Gy"))}, {}))
    own = fit(cases, "dose", "yx", None, resample=False)
    one = fit(cases, "dose", "yx", None)
    assert own.spacing_mm is None
    assert one.spacing_mm is not None
    assert own.size[1:] == (48, 48)  # 40 voxels of either, in multiples of 16
    image = cases[1].images["dose"]
    tensor, trace = own.forward(image)
    assert torch.equal(own.back(tensor, trace).data, (image.data / 70) * 70)
    tensor, trace = one.forward(image)
    assert not torch.allclose(one.back(tensor, trace).data, image.data, atol=1e-3)
