"""What objects of radiotherapy begin with: one file that is a series of its own, whose frame is that of its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .images import frame_of
from .marking import MARK, Making, mark, uid_of
from .source import taken_over


def begun(making: Making, known: Mapping[str, Any], kind: tuple[str, str], number: int, what: str) -> Any:
    """Marked, with patient, study and frame of the source; `kind`: SOP class and modality; `known`: what decides its
    UIDs; `what`: words for its description.
    """
    ds = taken_over(making.template)
    ds.SOPClassUID, ds.Modality = kind
    ds.SOPInstanceUID, ds.SeriesInstanceUID = uid_of({**known, "instance": 1}), uid_of(known)
    ds.SeriesNumber, ds.InstanceNumber = number, 1
    ds.SeriesDescription = f"{MARK} {what} from {making.given}"[:64]
    ds.FrameOfReferenceUID = frame_of(making.template)
    ds.PositionReferenceIndicator = making.template.get("PositionReferenceIndicator", "")
    mark(ds, making)
    ds.OperatorsName = ""
    return ds
