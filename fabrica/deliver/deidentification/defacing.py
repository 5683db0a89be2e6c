"""Series of heads without their faces: looked for in all files of a series at once, taken out of each by its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...io import UnreadableError
from ...io.placement import planes_of
from ...io.planes import Plane
from .engine import RefusedError
from .faces import Face, NoHeadError, face_of

SEEN_BY = ("CT", "MR", "PT", "NM")  # modalities whose volumes show a face
ELSEWHERE = {  # body parts (PS3.16 Annex L) whose scans show none
    "ABDOMEN", "ABDOMENPELVIS", "ADRENAL", "ANKLE", "AORTA", "ARM", "BLADDER", "BREAST", "CALF", "CHEST",
    "CHESTABDOMEN", "CHESTABDPELVIS", "COLON", "COCCYX", "ELBOW", "EXTREMITY", "FEMUR", "FINGER", "FOOT",
    "FOREARM", "GALLBLADDER", "HAND", "HEART", "HIP", "HUMERUS", "KIDNEY", "KNEE", "LEG", "LIVER", "LSPINE", "LUNG",
    "LSSPINE", "PANCREAS", "PELVIS", "PROSTATE", "RECTUM", "RIB", "SCROTUM", "SHOULDER", "SIJOINT", "SPLEEN",
    "SSPINE", "STERNUM", "THIGH", "THUMB", "TIBIA", "TOE", "TSPINE", "UPPERLIMB", "LOWERLIMB", "UTERUS", "WRIST",
}  # fmt: skip
OUTLINES = ("body", "external", "skin", "outer contour", "patient outline")  # structures that follow the skin
EDGE = 3  # pixels around a plane, where air is


def face_in(paths: Sequence[Path]) -> Face | None:
    """What is to be taken out of the files of one series; None where no face can be in it.

    Raises RefusedError where one may be and is not found.
    """
    import pydicom

    headers = [(path, pydicom.dcmread(path, stop_before_pixels=True)) for path in paths]
    first = headers[0][1]
    if _outlines(first):
        raise RefusedError("it outlines the body, a face with it")
    part = str(first.get("BodyPartExamined", "")).upper().replace(" ", "")
    if str(first.get("Modality", "")) not in SEEN_BY or part in ELSEWHERE:
        return None
    if all(str(header.get("RecognizableVisualFeatures", "")) == "NO" for _, header in headers):
        return None
    planes = [plane for path, header in headers for plane in _planes(path, header)]
    chosen = _stack(planes)
    try:
        volume, affine = _volume(chosen)
        return face_of(volume, affine, hounsfield=first.Modality == "CT")
    except NoHeadError as error:
        raise RefusedError(f"a face in it cannot be found: {error}") from error


def without_face(ds: Any, path: Path, face: Face) -> None:
    """Overwrites the face in the pixels of a data set by air; raises RefusedError for pixels of several channels."""
    if int(ds.get("SamplesPerPixel", 1)) != 1:
        raise RefusedError("a face cannot be taken out of pixels in colour")
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
    if "ImageType" in ds:
        ds.ImageType = ["DERIVED", *list(ds.ImageType)[1:]]


def _outlines(header: Any) -> bool:
    """Whether a structure set follows the skin."""
    kinds = {str(one.get("RTROIInterpretedType", "")).upper() for one in header.get("RTROIObservationsSequence", [])}
    names = {str(one.get("ROIName", "")).strip().lower() for one in header.get("StructureSetROISequence", [])}
    return "EXTERNAL" in kinds or bool(names & set(OUTLINES))


def _planes(path: Path, header: Any) -> list[Plane]:
    """Where its frames lie; raises RefusedError where it does not say."""
    try:
        planes = planes_of(path, header, 0.0)
    except (UnreadableError, AttributeError, KeyError, ValueError, TypeError):
        planes = []
    if not planes:
        raise RefusedError("it does not say where its planes lie: a face in it cannot be found")
    return planes


def _stack(planes: Sequence[Plane]) -> list[Plane]:
    """The parallel planes that are most, each place once, from one side to the other."""

    def way(plane: Plane) -> tuple[float, ...]:
        return tuple(round(v, 2) for v in (*plane.row, *plane.column))

    usual = Counter(map(way, planes)).most_common(1)[0][0]
    places: dict[float, Plane] = {}
    for plane in planes:
        if way(plane) == usual:
            places.setdefault(round(plane.location, 2), plane)
    return [places[key] for key in sorted(places)]


def _volume(planes: Sequence[Plane]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Evenly spaced planes, each the nearest there is, and where they lie; raises NoHeadError for a few."""
    import pydicom

    if len(planes) < 2:
        raise NoHeadError("it has one plane")
    read: dict[Path, NDArray[np.float32]] = {}
    shape = None
    arrays = []
    for plane in planes:
        if plane.path not in read:
            read = {plane.path: _values(pydicom.dcmread(plane.path))}  # one file at a time
        array = read[plane.path][plane.frame]
        shape = shape or array.shape
        if array.shape != shape:
            raise NoHeadError("its planes are of several sizes")
        arrays.append(array)
    places = np.array([plane.location for plane in planes])
    step = float(np.median(np.diff(places)))
    even = np.arange(places[0], places[-1] + step / 2, step)
    nearest = np.abs(even[:, None] - places[None]).argmin(1)
    first, affine = planes[0], np.eye(4)
    affine[:3, 0] = np.array(first.normal) * step
    affine[:3, 1], affine[:3, 2] = (
        np.array(first.column) * first.spacing[0],
        np.array(first.row) * first.spacing[1],
    )
    affine[:3, 3] = first.position
    return np.stack([arrays[k] for k in nearest]), affine


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
