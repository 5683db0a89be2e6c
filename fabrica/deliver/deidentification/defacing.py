"""Series of heads without their faces: looked for in all files of a series at once, taken out of each by its place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...io import UnreadableError
from ...io.placement import planes_of
from ...io.planes import Plane
from .engine import RefusedError
from .faces import Face, NoHeadError, face_of

SEEN_BY = ("CT", "MR", "PT", "NM")  # modalities whose volumes are looked at
FACELESS = (  # those that show no face: words, plans, doses, registrations, curves, projections, microscopy
    "SR", "KO", "PR", "REG", "RTPLAN", "RTDOSE", "RTRECORD", "RWV", "FID", "ECG", "EPS", "HD", "AU", "US", "IVUS", "MG",
    "CR", "DX", "RF", "BMD", "OCT", "SM", "GM",
)  # fmt: skip
ELSEWHERE = {  # body parts (PS3.16 Annex L) whose scans show none
    "ABDOMEN", "ABDOMENPELVIS", "ADRENAL", "ANKLE", "AORTA", "ARM", "BLADDER", "BREAST", "CALF", "CHEST",
    "CHESTABDOMEN", "CHESTABDPELVIS", "COLON", "COCCYX", "ELBOW", "EXTREMITY", "FEMUR", "FINGER", "FOOT",
    "FOREARM", "GALLBLADDER", "HAND", "HEART", "HIP", "HUMERUS", "KIDNEY", "KNEE", "LEG", "LIVER", "LSPINE", "LUNG",
    "LSSPINE", "PANCREAS", "PELVIS", "PROSTATE", "RECTUM", "RIB", "SCROTUM", "SHOULDER", "SIJOINT", "SPLEEN",
    "SSPINE", "STERNUM", "THIGH", "THUMB", "TIBIA", "TOE", "TSPINE", "UPPERLIMB", "LOWERLIMB", "UTERUS", "WRIST",
}  # fmt: skip
OUTLINES = {"body", "external", "skin", "outline", "outer", "contour", "face"}  # words of what follows the skin
EDGE = 3  # pixels around a plane, where air is
SAME_PLACE = 0.3  # of the usual step: planes that are nearer show one place
OFF_LINE_MM = 1.0  # that a plane may lie off the line of the others
PHASE = re.compile(r"\b(P|PHASE|PHASE MAP|VELOCITY)\b")
Key = tuple[object, ...]


@dataclass(frozen=True)
class Faces:
    """What is to be taken out of a series, as its volumes (echoes, phases) showed it."""

    found: tuple[Face, ...]

    def holds(self, points_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of the points (..., 3), LPS mm, any of them holds."""
        held: NDArray[np.bool_] = np.logical_or.reduce([face.holds(points_mm) for face in self.found])
        return held


def face_in(paths: Sequence[Path]) -> Faces | None:
    """What is to be taken out of the files of one series; None where no face can be in it.

    Raises RefusedError where one may be and is not found.
    """
    import pydicom

    headers = [(path, pydicom.dcmread(path, stop_before_pixels=True)) for path in paths]
    if any(_outlines(header) for _, header in headers):
        raise RefusedError("it outlines the body, a face with it")
    if all(_shows_none(header) for _, header in headers):
        return None
    if odd := sorted({str(h.get("Modality", "")) for _, h in headers} - set(SEEN_BY)):
        raise RefusedError(f"it may show a face, which is looked for in CT, MR, PET and SPECT alone, not in {odd[0]}")
    found, why = list[Face](), ""
    hounsfield = headers[0][1].Modality == "CT"
    for group in _groups([plane for path, header in headers for plane in _planes(path, header)]):
        try:
            volume, affine = _volume(_stack(group))
            found.append(face_of(volume, affine, hounsfield=hounsfield))
        except NoHeadError as error:
            why = why or str(error)
    if not found:
        raise RefusedError(f"a face in it cannot be found: {why}")
    return Faces(tuple(found))


def without_face(ds: Any, path: Path, face: Faces) -> None:
    """Overwrites the face in the pixels of a data set by air; raises RefusedError for pixels that are no grey ones."""
    if int(ds.get("SamplesPerPixel", 1)) != 1:
        raise RefusedError("a face cannot be taken out of pixels in colour")
    if "PixelData" not in ds or "FloatPixelData" in ds or "DoubleFloatPixelData" in ds:
        raise RefusedError("a face cannot be taken out of pixels that are no whole numbers")
    planes = sorted(_planes(path, ds), key=lambda plane: plane.frame)
    if ds.file_meta.TransferSyntaxUID.is_compressed:
        ds.decompress(generate_instance_uid=False)
    pixels = np.array(ds.pixel_array)
    frames = pixels.reshape(-1, *pixels.shape[-2:])
    if len(planes) != len(frames):
        raise RefusedError(f"it places {len(planes)} of its {len(frames)} frames")
    for frame, plane in zip(frames, planes, strict=True):
        frame[face.holds(_centres(plane, frame.shape))] = _air(frame, ds)
    little = ds.file_meta.TransferSyntaxUID.is_little_endian
    ds.PixelData = pixels.astype(pixels.dtype.newbyteorder("<" if little else ">")).tobytes()
    _derived(ds)


def _derived(ds: Any) -> None:
    """Of the image and of its frames: that their pixels are no longer those of the scanner."""
    groups = [*ds.get("SharedFunctionalGroupsSequence", []), *ds.get("PerFrameFunctionalGroupsSequence", [])]
    names = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
    items = [item for group in groups for name in names for item in group.get(name, [])]
    for owner, name in ((ds, "ImageType"), *((item, "FrameType") for item in items)):
        values = owner.get(name)
        if values:
            owner[name].value = ["DERIVED", *([] if isinstance(values, str) else list(values)[1:])]


def _outlines(header: Any) -> bool:
    """Whether a structure set or a segmentation follows the skin."""
    kinds = {str(one.get("RTROIInterpretedType", "")).upper() for one in header.get("RTROIObservationsSequence", [])}
    names = [str(one.get("ROIName", "")) for one in header.get("StructureSetROISequence", [])]
    names += [str(one.get("SegmentLabel", "")) for one in header.get("SegmentSequence", [])]
    words = {word for name in names for word in re.findall("[a-z]+", name.lower())}
    return "EXTERNAL" in kinds or bool(words & OUTLINES)


def _shows_none(header: Any) -> bool:
    """Whether a file says that no face can be in it: by its kind, its part of the body, or in so many words."""
    part, modality = str(header.get("BodyPartExamined", "")).upper().replace(" ", ""), str(header.get("Modality", ""))
    named = modality in ("RTSTRUCT", "SEG")  # their structures have names, which were looked at
    none = str(header.get("RecognizableVisualFeatures", "")) == "NO"
    return none or named or modality in FACELESS or part in ELSEWHERE


def _planes(path: Path, header: Any) -> list[Plane]:
    """Where its frames lie; raises RefusedError where it does not say."""
    try:
        planes = planes_of(path, header, 0.0)
    except (UnreadableError, AttributeError, KeyError, ValueError, TypeError):
        planes = []
    if not planes:
        raise RefusedError("it does not say where its planes lie: a face in it cannot be found")
    return planes


def _groups(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Planes of one kind each (echo, type of image) and one direction; phases, which show no outline, are none."""

    def kind(plane: Plane) -> Key:
        return (*plane.key, *(round(v, 2) for v in (*plane.row, *plane.column)))

    groups: dict[Key, list[Plane]] = {}
    for plane in planes:
        groups.setdefault(kind(plane), []).append(plane)
    shown = [own for key, own in groups.items() if not PHASE.search(" ".join(map(str, key)).upper())]
    return shown or list(groups.values())


def _stack(planes: Sequence[Plane]) -> list[Plane]:
    """Each place once, from one side to the other."""
    ordered = sorted(planes, key=lambda plane: plane.location)
    usual = (ordered[-1].location - ordered[0].location) / max(1, len(ordered) - 1)
    kept = ordered[:1]
    for plane in ordered[1:]:
        if plane.location - kept[-1].location > max(0.01, SAME_PLACE * usual):
            kept.append(plane)
    return kept


def _volume(planes: Sequence[Plane]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Evenly spaced planes, each the nearest there is, and where they lie; raises NoHeadError for a few."""
    if len(planes) < 2:
        raise NoHeadError("it has one plane")
    arrays = _read(planes)
    places, positions = np.array([p.location for p in planes]), np.array([p.position for p in planes])
    along = (positions[-1] - positions[0]) / (places[-1] - places[0])  # of a tilted gantry this is not the normal
    if np.abs(positions - positions[0] - (places - places[0])[:, None] * along).max() > OFF_LINE_MM:
        raise NoHeadError("its planes do not lie behind one another")
    step = float(np.median(np.diff(places)))
    even = np.arange(places[0], places[-1] + step / 2, step)
    if len(even) > 4 * len(planes):
        raise NoHeadError("its planes lie too unevenly")
    nearest = np.abs(even[:, None] - places[None]).argmin(1)
    first, affine = planes[0], np.eye(4)
    affine[:3, 0] = along * step
    affine[:3, 1] = np.array(first.column) * first.spacing[0]
    affine[:3, 2] = np.array(first.row) * first.spacing[1]
    affine[:3, 3] = first.position
    return np.stack([arrays[k] for k in nearest]), affine


def _read(planes: Sequence[Plane]) -> list[NDArray[np.float32]]:
    """The pixels of each plane; raises NoHeadError for several sizes."""
    import pydicom

    read: dict[Path, NDArray[np.float32]] = {}
    arrays = []
    for plane in planes:
        if plane.path not in read:
            read = {plane.path: _values(pydicom.dcmread(plane.path))}  # one file at a time
        arrays.append(read[plane.path][plane.frame])
    if len({array.shape for array in arrays}) > 1:
        raise NoHeadError("its planes are of several sizes")
    return arrays


def _values(ds: Any) -> NDArray[np.float32]:
    """(frames, rows, columns), bright where there is something: HU of CT."""
    pixels = np.asarray(ds.pixel_array, np.float32)
    if int(ds.get("SamplesPerPixel", 1)) != 1:
        raise RefusedError("a face cannot be taken out of pixels in colour")
    pixels = pixels.reshape(-1, *pixels.shape[-2:])
    if str(ds.get("PhotometricInterpretation", "")) == "MONOCHROME1":
        return -pixels
    shared = ds.get("SharedFunctionalGroupsSequence") or [{}]
    own = ds.get("PerFrameFunctionalGroupsSequence") or [{}] * len(pixels)
    for frame, group in zip(pixels, own, strict=False):
        told = (
            group.get("PixelValueTransformationSequence") or shared[0].get("PixelValueTransformationSequence") or [ds]
        )
        frame *= float(told[0].get("RescaleSlope") or 1.0)
        frame += float(told[0].get("RescaleIntercept") or 0.0)
    return pixels


def _centres(plane: Plane, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """(rows, columns, 3): LPS mm of the middle of each pixel."""
    down = np.arange(shape[0])[:, None, None] * plane.spacing[0] * np.array(plane.column)
    along = np.arange(shape[1])[None, :, None] * plane.spacing[1] * np.array(plane.row)
    found: NDArray[np.float64] = np.array(plane.position) + down + along
    return found


def _air(frame: NDArray[Any], ds: Any) -> Any:
    """What a plane holds at its edges where nothing is."""
    edges = np.concatenate(
        [frame[:EDGE].ravel(), frame[-EDGE:].ravel(), frame[:, :EDGE].ravel(), frame[:, -EDGE:].ravel()]
    )
    inverse = str(ds.get("PhotometricInterpretation", "")) == "MONOCHROME1"
    return np.percentile(edges, 95 if inverse else 5, method="nearest")
