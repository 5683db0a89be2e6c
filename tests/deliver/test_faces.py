"""Faces: what sticks out of a head and what lies behind it is air afterwards, the brain is as it was; doubt is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import compress
from pydicom.uid import RLELossless
from typer.testing import CliRunner

from fabrica.cli.app import app
from fabrica.data.virtual import VirtualCohort
from fabrica.deliver.deidentification.defacing import _derived, _outlines
from fabrica.deliver.deidentification.engine import Deidentifier
from fabrica.deliver.deidentification.faces import NoHeadError, face_of
from fabrica.deliver.deidentification.folder import Hands, Pass, _together, deidentified, key_of
from fabrica.deliver.deidentification.profile import Options
from fabrica.machine.executors import Dask, Local, SetAside

from .iod import missing
from .scanner import write_series

KEY, FACES = bytes(range(32)), Options(faces=True)
STEP = 4.0
AIR, SKIN, BRAIN = 10.0, 300.0, 600.0


def _grid(shape: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    """z up, y to the back, x to the left, in mm around the middle of the head."""
    return tuple(
        (np.arange(n) - n / 2 + 0.5)[tuple(slice(None) if k == axis else None for k in range(3))] * STEP
        for axis, n in enumerate(shape)
    )


def phantom(tilt: float = 0.0) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """(z, y, x) of a head 190 mm long with brain, nose, lips and ears; its affine to LPS; where each lies.

    `tilt`: degrees of the gantry, while the table moves along z.
    """
    z, down, x = _grid((62, 62, 48))
    sine, cosine = np.sin(np.radians(tilt)), np.cos(np.radians(tilt))
    z, y = z + down * sine, down * cosine
    ball = lambda cz, cy, cx, az, ay, ax: ((z - cz) / az) ** 2 + ((y - cy) / ay) ** 2 + ((x - cx) / ax) ** 2 <= 1  # noqa: E731
    head = ball(20, 0, 0, 92, 95, 74) | (ball(-55, -15, 0, 60, 76, 58)) | ((z < -60) & ball(-60, 15, 0, 1e3, 52, 52))
    parts = {
        "brain": ball(38, 4, 0, 62, 80, 62),
        "nose": ball(-24, -98, 0, 22, 20, 12),
        "lips": ball(-62, -92, 0, 8, 8, 22),
        "ears": ball(-15, 8, -84, 26, 8, 16) | ball(-15, 8, 84, 26, 8, 16),
    }
    volume = np.full(head.shape, AIR)
    volume[head | parts["nose"] | parts["lips"] | parts["ears"]] = SKIN
    volume[parts["brain"]] = BRAIN
    volume += np.random.default_rng(0).normal(0, 3, volume.shape)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, STEP], [0, STEP * cosine, 0], [STEP, STEP * sine, 0]])
    affine[:3, 3] = [float(x.min()), float(y[0, 0, 0]), float(z[0, 0, 0])]
    sticking = {name: part & ~head for name, part in parts.items() if name != "brain"}
    return np.clip(volume, 0, None), affine, {**parts, **sticking}


def _read(folder: Path) -> tuple[np.ndarray, list[Any]]:
    files = sorted(
        (pydicom.dcmread(p) for p in folder.rglob("*.dcm")), key=lambda ds: float(ds.ImagePositionPatient[2])
    )
    return np.stack([ds.pixel_array for ds in files]), files


def _done(source: Path, out: Path, options: Options = FACES) -> tuple[Pass, list[str]]:
    said: list[str] = []
    return deidentified(source, out, Deidentifier(KEY, options), said.append), said


def test_a_face_is_air_and_the_brain_is_as_it_was(tmp_path: Path) -> None:
    volume, affine, parts = phantom()
    write_series(tmp_path / "in", volume, affine)
    found, said = _done(tmp_path / "in", tmp_path / "out")
    assert found.written == found.faceless == len(volume)
    assert any(line.strip() == f"faces taken out of {len(volume)} files" for line in said)
    made, files = _read(tmp_path / "out")
    before = np.rint(volume).astype(int)
    for name, least in (("nose", 1.0), ("lips", 1.0), ("ears", 0.75)):  # the foot of an ear is smoothed, not taken off
        assert (before[parts[name]] > SKIN / 2).all()
        assert (made[parts[name]] < AIR * 3).mean() >= least, name
    assert (made[parts["brain"]] == before[parts["brain"]]).all()
    changed = made != before
    assert changed.any((1, 2)).sum() < len(volume)  # the crown is as it was
    (front,) = (np.nonzero(made[round(len(made) * 0.38), :, made.shape[2] // 2] > SKIN / 2)[0][:1],)
    assert (
        front[0] * STEP
        > np.nonzero(before[round(len(made) * 0.38), :, made.shape[2] // 2] > SKIN / 2)[0][0] * STEP + 20
    )
    for ds in files:
        assert ds.RecognizableVisualFeatures == "NO"
        assert ds.ImageType[0] == "DERIVED"
        assert "113102" in [item.CodeValue for item in ds.DeidentificationMethodCodeSequence]
        assert missing(ds) == []


@pytest.mark.parametrize("tilt", [-20.0, 20.0])
def test_a_tilted_gantry(tilt: float, tmp_path: Path) -> None:
    volume, affine, parts = phantom(tilt)
    write_series(tmp_path / "in", volume, affine)
    found, _ = _done(tmp_path / "in", tmp_path / "out")
    assert found.faceless == len(volume)
    made, _ = _read(tmp_path / "out")
    assert (made[parts["nose"]] < AIR * 3).all()
    assert (made[parts["lips"]] < AIR * 3).all()
    assert (made[parts["brain"]] == np.rint(volume)[parts["brain"]]).all()


def test_phases_and_doubled_planes_do_not_hide_a_face(tmp_path: Path) -> None:
    """Files of another kind, named before the magnitude, and every plane once more a fifth of a millimetre away."""
    volume, affine, parts = phantom()
    same = {"SeriesInstanceUID": "1.2.3.4", "StudyInstanceUID": "1.2.3"}
    noise = np.random.default_rng(1).uniform(0, 4095, volume.shape)
    write_series(tmp_path / "in" / "a", noise, affine, ImageType=["ORIGINAL", "PRIMARY", "P"], **same)
    write_series(tmp_path / "in" / "b", volume, affine, **same)
    near = affine.copy()
    near[2, 3] += 0.2
    write_series(tmp_path / "in" / "c", volume, near, **same)
    found, _ = _done(tmp_path / "in", tmp_path / "out")
    assert found.faceless == 3 * len(volume)
    _, files = _read(tmp_path / "out")
    magnitude = [
        ds for ds in files if ds.ImageType[2] == "M" and float(ds.ImagePositionPatient[2]) % STEP == affine[2, 3] % STEP
    ]
    made = np.stack([ds.pixel_array for ds in magnitude])
    assert made.shape == volume.shape
    assert (made[parts["nose"]] < AIR * 3).all()


def test_one_file_does_not_speak_for_a_series(tmp_path: Path) -> None:
    volume, affine, _ = phantom()
    (first, *_) = write_series(tmp_path / "in", volume, affine)
    ds = pydicom.dcmread(first)
    ds.BodyPartExamined = "CHEST"
    ds.save_as(first)
    found, _ = _done(tmp_path / "in", tmp_path / "out")
    assert found.faceless == len(volume)
    ds.Modality = "XA"
    ds.save_as(first)
    found, _ = _done(tmp_path / "in", tmp_path / "other")
    assert (found.written, found.refused.total()) == (0, len(volume))


@pytest.mark.parametrize("modality", ["XC", "XA", "OT"])
def test_what_is_not_looked_at_is_left_out(modality: str, tmp_path: Path) -> None:
    volume, affine, _ = phantom()
    write_series(tmp_path / "in", volume[:12], affine, Modality=modality, BurnedInAnnotation="NO")
    found, _ = _done(tmp_path / "in", tmp_path / "out")
    assert found.written == 0
    assert all("may show a face" in why for why in found.refused)


@pytest.mark.parametrize("name", ["Body_1", "External1", "Skin -3mm", "BODY contour", "Face"])
def test_names_of_what_follows_the_skin(name: str) -> None:
    ds = Dataset()
    ds.StructureSetROISequence = [Dataset()]
    ds.StructureSetROISequence[0].ROIName = name
    assert _outlines(ds)
    ds.StructureSetROISequence[0].ROIName = "FemoralHead_L"
    assert not _outlines(ds)


def test_pixels_that_are_no_whole_numbers(tmp_path: Path) -> None:
    volume, affine, _ = phantom()
    for path in write_series(tmp_path / "in", volume, affine):
        ds = pydicom.dcmread(path)
        pixels = ds.pixel_array.astype("<f4").tobytes()
        del ds.PixelData
        ds.BitsAllocated = 32
        ds.FloatPixelData = pixels
        ds.save_as(path)
    found, _ = _done(tmp_path / "in", tmp_path / "out")
    assert found.written == 0


def test_files_that_nobody_looked_at_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, affine, _ = phantom()
    write_series(tmp_path / "in", volume, affine)

    class Lame(Local):
        """Sets every first look aside."""

        def results(self, name: str, tasks: Any) -> Any:
            if name.endswith("seen_in"):
                return iter([(number, SetAside("it ended three workers")) for number in range(len(tasks))])
            return super().results(name, tasks)

    monkeypatch.setattr("fabrica.deliver.deidentification.folder.EACH", 30)
    key = tmp_path / "key"
    by = Deidentifier(key_of(key, lambda _: None), FACES)
    found = deidentified(tmp_path / "in", tmp_path / "out", by, lambda _: None, Hands(Lame(), key))
    assert (found.written, list(found.refused.values())) == (0, [len(volume)])


def test_without_being_asked_a_face_stays_and_nothing_is_claimed(tmp_path: Path) -> None:
    volume, affine, _ = phantom()
    write_series(tmp_path / "in", volume, affine)
    _done(tmp_path / "in", tmp_path / "out", Options())
    made, files = _read(tmp_path / "out")
    assert (made == np.rint(volume)).all()
    assert "RecognizableVisualFeatures" not in files[0]


def _turned(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sagittal planes of the same head."""
    return volume.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]]


def _cut(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As planning scans are: from the forehead down, blank planes above."""
    volume = volume.copy()
    volume[40:] = AIR
    return volume, affine


@pytest.mark.parametrize("how", [_turned, _cut], ids=["sagittal", "cut"])
def test_other_planes_and_a_head_without_its_top(how: Callable[..., Any], tmp_path: Path) -> None:
    volume, affine, parts = phantom()
    volume, affine = how(volume, affine)
    face = face_of(volume, affine, hounsfield=False)
    index = np.indices(volume.shape)
    places = np.moveaxis(np.tensordot(affine[:3, :3], index, 1), 0, -1) + affine[:3, 3]
    removed = face.holds(places)
    turn = (lambda part: part.transpose(2, 0, 1)) if how is _turned else (lambda part: part)
    assert removed[turn(parts["nose"])].mean() == 1
    assert removed[turn(parts["lips"])].mean() == 1
    assert not removed[turn(parts["brain"])].any()


def test_brains_of_simulated_heads_are_left_alone() -> None:
    """Of several sizes, MR and CT: they end below the brain, so that a little of its base (.02 %) looks like a face."""
    for member in VirtualCohort(2, first=40, spacing_mm=2, skull=True, disease="none").cohort().members:
        images = member.load(["T1w", "CT", "tissue"]).images
        brain = images["tissue"].data[0].numpy() > 0
        index = np.indices(brain.shape)
        for name in ("T1w", "CT"):
            affine = images[name].affine.numpy()
            places = np.moveaxis(np.tensordot(affine[:3, :3], index, 1), 0, -1) + affine[:3, 3]
            removed = face_of(images[name].data[0].numpy(), affine, hounsfield=name == "CT").holds(places)
            assert (removed & brain).sum() < 5e-4 * brain.sum()
            assert removed.any()


def test_stored_otherwise_the_same_face_goes(tmp_path: Path) -> None:
    """Compressed, inverted, signed with a rescale: pixels of the nose hold what the air around holds."""
    volume, affine, parts = phantom()
    write_series(tmp_path / "rle", volume, affine)
    for path in (tmp_path / "rle").iterdir():
        ds = pydicom.dcmread(path)
        compress(ds, RLELossless, generate_instance_uid=False)
        ds.save_as(path)
    write_series(tmp_path / "mono", 1000 - volume, affine, PhotometricInterpretation="MONOCHROME1")
    write_series(tmp_path / "ct", np.where(volume > 100, 1024 + volume / 10, 24), affine, Modality="CT",
                 SOPClassUID="1.2.840.10008.5.1.4.1.1.2", RescaleSlope="1", RescaleIntercept="-1024")  # fmt: skip
    for kind, air in (("rle", AIR), ("mono", 1000 - AIR), ("ct", 24)):
        found, _ = _done(tmp_path / kind, tmp_path / "out" / kind)
        assert found.faceless == len(volume), found.refused
        made, files = _read(tmp_path / "out" / kind)
        assert (abs(made[parts["nose"]] - air) < 3 * AIR).all(), kind
        assert not files[0].file_meta.TransferSyntaxUID.is_compressed


def test_doubt_is_refused_and_other_parts_are_left_alone(tmp_path: Path) -> None:
    volume, affine, _ = phantom()
    knee = tmp_path / "in" / "knee"
    write_series(knee, volume, affine, BodyPartExamined="KNEE")
    write_series(tmp_path / "in" / "localizer", volume[20:23], affine)
    write_series(tmp_path / "in" / "chest", np.full((20, 40, 40), 500.0), affine, BodyPartExamined="")
    write_series(tmp_path / "in" / "said", volume, affine, RecognizableVisualFeatures="NO")
    found, _ = _done(tmp_path / "in", tmp_path / "out")
    assert found.written == 2 * len(volume)
    assert found.faceless == 0
    assert sorted(found.refused.values()) == [3, 20]
    assert all("a face in it cannot be found" in why for why in found.refused)
    trunk = np.full((30, 90, 90), AIR)
    trunk[:, 10:-10, 10:-10] = SKIN
    with pytest.raises(NoHeadError, match="no head|nothing says"):
        face_of(trunk, affine, hounsfield=False)


def test_a_structure_set_that_follows_the_skin_and_planes_without_a_place_are_refused(tmp_path: Path) -> None:
    volume, affine, _ = phantom()
    (path, *_) = write_series(tmp_path / "in", volume[:1], affine)
    ds = pydicom.dcmread(path)
    ds.Modality = "RTSTRUCT"
    del ds.PixelData
    ds.RTROIObservationsSequence = [Dataset()]
    ds.RTROIObservationsSequence[0].RTROIInterpretedType = "EXTERNAL"
    ds.save_as(path)
    bare = pydicom.dcmread(write_series(tmp_path / "bare", volume[:1], affine)[0])
    del bare.ImagePositionPatient
    bare.save_as(tmp_path / "in" / "bare.dcm")
    found, _ = _done(tmp_path / "in", tmp_path / "out")
    assert found.written == 0
    assert set(found.refused) == {
        "it outlines the body, a face with it",
        "it does not say where its planes lie: a face in it cannot be found",
    }


def _refused(folder: Path, out: Path) -> str:
    found, _ = _done(folder, out)
    assert found.written == 0
    (why,) = found.refused
    return why


def test_volumes_in_which_nothing_can_be_told(tmp_path: Path) -> None:
    volume, affine, _ = phantom()
    write_series(tmp_path / "one", volume[:1], affine)
    assert "it has one plane" in _refused(tmp_path / "one", tmp_path / "a")
    for size in (40, 44):
        same = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2"}
        moved = affine.copy()
        moved[2, 3] += 200.0 * (size == 44)
        write_series(tmp_path / "sizes" / f"{size}", volume[:20, :size], moved, **same)
    assert "several sizes" in _refused(tmp_path / "sizes", tmp_path / "b")
    paths = write_series(tmp_path / "stairs", volume, affine)
    for k, path in enumerate(paths):
        ds = pydicom.dcmread(path)
        ds.ImagePositionPatient[0] = float(ds.ImagePositionPatient[0]) + 5.0 * (k % 3)
        ds.save_as(path)
    assert "behind one another" in _refused(tmp_path / "stairs", tmp_path / "c")
    paths = write_series(tmp_path / "uneven", volume, affine)
    for k, path in enumerate(paths):
        ds = pydicom.dcmread(path)
        ds.ImagePositionPatient[2] = float(ds.ImagePositionPatient[2]) + 3000.0 * (k > 30)
        ds.save_as(path)
    assert "too unevenly" in _refused(tmp_path / "uneven", tmp_path / "d")


def test_pixels_in_colour(tmp_path: Path) -> None:
    volume, affine, _ = phantom()
    for path in write_series(tmp_path / "in", volume, affine):
        ds = pydicom.dcmread(path)
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
        ds.PixelData = bytes(3 * ds.Rows * ds.Columns)
        ds.save_as(path)
    assert "in colour" in _refused(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("nothing", "brighter than air"),
        ("small", "no head is seen"),
        ("block", "a block"),
        ("wide", "which is no head"),
    ],
)
def test_what_is_no_head(shape: str, words: str) -> None:
    volume = np.full((40, 90, 80), -1000.0)
    sizes = {"small": (15, 10, 10), "block": (25, 45, 40), "wide": (25, 70, 70)}
    if shape in sizes:
        z, y, x = sizes[shape]
        volume[2 : 2 + z, 10 : 10 + y, 5 : 5 + x] = 50.0
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, STEP], [0, STEP, 0], [STEP, 0, 0]])
    with pytest.raises(NoHeadError, match=words):
        face_of(volume, affine, hounsfield=True)


def test_frames_say_that_they_are_derived() -> None:
    ds, group, kind = Dataset(), Dataset(), Dataset()
    kind.FrameType, ds.ImageType = ["ORIGINAL", "PRIMARY", "M"], "ORIGINAL"
    group.MRImageFrameTypeSequence = [kind]
    ds.SharedFunctionalGroupsSequence = [group]
    _derived(ds)
    assert list(kind.FrameType) == ["DERIVED", "PRIMARY", "M"]
    assert ds.ImageType in ("DERIVED", ["DERIVED"])


def test_workers_write_the_same_and_series_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, affine, _ = phantom()
    for name in ("a", "b"):
        write_series(tmp_path / "in" / name, volume, affine)
    monkeypatch.setattr("fabrica.deliver.deidentification.folder.EACH", 70)
    key = tmp_path / "key"
    secret = key_of(key, lambda _: None)
    made = []
    for name, hands in (("here", None), ("there", Hands(Dask(workers=2), key))):
        found = deidentified(tmp_path / "in", tmp_path / name, Deidentifier(secret, FACES), lambda _: None, hands)
        assert found.faceless == 2 * len(volume)
        made.append({p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.dcm")})
    assert made[0] == made[1]


def test_an_instance_of_two_series_brings_them_together() -> None:
    facts = {
        f"{k}": ("p", "b", instance, series) for k, (instance, series) in enumerate(["1a", "2a", "3b", "2b", "4c"])
    }
    assert _together(list(facts), facts, True) == [["0", "1", "2", "3", "4"]]
    assert sorted(map(len, _groups(facts, True))) == [1, 4]
    assert sorted(map(len, _groups(facts, False))) == [1, 1, 1, 2]


def _groups(facts: Any, series: bool) -> list[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fabrica.deliver.deidentification.folder.EACH", 1)
        return _together(list(facts), facts, series)


def test_pixels_that_change_may_not_keep_their_uid(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Leave --keep uids out"):
        Options(frozenset({"uids"}), faces=True)
    (tmp_path / "in").mkdir()
    words = ["deidentify", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--key", str(tmp_path / "key")]
    told = CliRunner().invoke(app, [*words, "--faces", "blur"])
    assert told.exit_code != 0
    assert "Write keep or remove" in told.output
