"""Delivered objects read back as images on their planes: what a person looks at is what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import io
from ..contracts import Field, Image

PARAMETRIC_MAP, SEGMENTATION, DOSE = (
    "1.2.840.10008.5.1.4.1.1.30", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.2",
)  # fmt: skip
REPORT = "1.2.840.10008.5.1.4.1.1.88.34"  # Comprehensive 3D SR


def stored_image(files: Sequence[Path]) -> Image | None:
    """(1, z, y, x) of the one series in some files: planes, a map in its unit, segments by number, dose in Gy.

    None where they are several series, or nothing that has planes.
    """
    import pydicom

    first = pydicom.dcmread(files[0], stop_before_pixels=True)
    kind = str(first.get("SOPClassUID", ""))
    if kind == DOSE:
        return _dose(pydicom.dcmread(files[0]))
    if kind in (PARAMETRIC_MAP, SEGMENTATION):
        return _frames(pydicom.dcmread(files[0]), kind)
    return _planes(files)


def stored_answers(files: Sequence[Path]) -> list[str]:
    """Every number of a structured report, in words; nothing of other objects."""
    import pydicom

    ds = pydicom.dcmread(files[0], stop_before_pixels=True)
    return _numbers(ds) if str(ds.get("SOPClassUID", "")) == REPORT else []


def _numbers(item: Any) -> list[str]:
    found = []
    for one in item.get("ContentSequence") or []:
        if one.get("ValueType") == "NUM":
            measured, name = one.MeasuredValueSequence[0], one.ConceptNameCodeSequence[0].CodeMeaning
            unit = str(measured.MeasurementUnitsCodeSequence[0].CodeMeaning)
            found.append(f"{name}: {float(measured.NumericValue):.4g} {'' if unit == 'no units' else unit}".strip())
        found += _numbers(one)
    return found


def _planes(files: Sequence[Path]) -> Image | None:
    from ..io import dicom

    scans, _ = dicom.listing(files)
    if len(scans) != 1:
        return None
    image = io.read(scans[0])
    if image.axes == "yx":
        return Image(image.data[:, None], "zyx", image.affine, image.meaning, source=image.source)
    if image.axes == "tzyx":  # a film to be scrolled through, one moment after the other; its times say that it is one
        data = image.data.flatten(1, 2)
        return Image(data, "zyx", image.affine, image.meaning, times=image.times, source=image.source)
    return image if image.axes == "zyx" else None


def _dose(ds: Any) -> Image:
    pixels = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns)
    values = (pixels * float(ds.DoseGridScaling)).astype(np.float32)
    offsets = [float(v) for v in ds.get("GridFrameOffsetVector", [0.0])]
    row, column = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
    step = (offsets[1] - offsets[0] if len(offsets) > 1 else float(ds.SliceThickness or 1)) * np.cross(row, column)
    affine = _affine(np.array(ds.ImagePositionPatient, float), step, row, column, ds.PixelSpacing)
    return _image(values, affine, Field("dose", "intensity", 1, "Gy"))


def _frames(ds: Any, kind: str) -> Image:
    """A multi-frame object: its planes in order, of segments the number of the highest that holds a voxel."""
    shared = ds.SharedFunctionalGroupsSequence[0]
    row, column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    measures, normal = shared.PixelMeasuresSequence[0], np.cross(row, column)
    frames = ds.PerFrameFunctionalGroupsSequence
    places = np.array([f.PlanePositionSequence[0].ImagePositionPatient for f in frames], float)
    heights = np.round(places @ normal, 3)
    levels, plane = np.unique(heights, return_inverse=True)
    corners = np.array([places[plane == k][0] for k in range(len(levels))])
    step = (
        (corners[-1] - corners[0]) / (len(levels) - 1) if len(levels) > 1 else float(measures.SliceThickness) * normal
    )
    pixels = ds.pixel_array.reshape(len(frames), ds.Rows, ds.Columns)
    values = np.zeros((len(levels), ds.Rows, ds.Columns), np.float32)
    for k, frame in enumerate(frames):
        if kind == SEGMENTATION:
            said = frame if "SegmentIdentificationSequence" in frame else shared  # of one class it is said once for all
            number = int(said.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            values[plane[k]] = np.where(pixels[k] > 0, np.maximum(values[plane[k]], number), values[plane[k]])
        else:
            values[plane[k]] = pixels[k]
    affine = _affine(corners[0], step, row, column, measures.PixelSpacing)
    field = Field("label", "label", len(ds.SegmentSequence) + 1, "") if kind == SEGMENTATION else Field("spread")
    return _image(values, affine, field)


def _affine(
    corner: NDArray[Any], step: NDArray[Any], row: NDArray[Any], column: NDArray[Any], spacing: Any
) -> NDArray[np.float64]:
    found = np.eye(4)
    found[:3] = np.stack([step, column * float(spacing[0]), row * float(spacing[1]), corner], 1)
    return found


def _image(values: NDArray[np.float32], affine: NDArray[np.float64], field: Field) -> Image:
    return Image(torch.from_numpy(values)[None], "zyx", torch.from_numpy(affine), field)
