"""What the node has to do, as work items that other systems follow: UPS-RS (PS3.18 11, PS3.4 CC).

The node alone performs them. Others may look, and cancel what waits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response

from ..deliver.objects.marking import moment
from ..deliver.outbox import Outbox
from .intake import Arrived, Intake, State

PUSH = "1.2.840.10008.5.1.4.34.6.1"  # Unified Procedure Step - Push SOP Class
STATES: Mapping[State, str] = {
    "arriving": "SCHEDULED", "waiting": "SCHEDULED", "drawing": "IN PROGRESS", "prepared": "COMPLETED",
    "refused": "CANCELED", "failed": "CANCELED",
}  # fmt: skip
STATE = ("ProcedureStepState", "00741000")  # what can be asked for, by its word and by its number
PAGING = ("limit", "offset")
MOST = 200  # items of one answer
JSON = "application/dicom+json"


def item_of(series: str) -> str:
    """UID of the work item of a series that arrived: the same series, the same item."""
    return f"2.25.{int(hashlib.sha256(f'work item {series}'.encode()).hexdigest()[:32], 16)}"


def workitem(one: Arrived, intake: Intake, outbox: Outbox) -> Any:
    """A pydicom dataset of one item: how far it is, what it was given, and what came of it. It names no patient:
    whoever may look the study up finds whose it is.
    """
    from pydicom.dataset import Dataset

    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = PUSH, item_of(one.uid)
    ds.ProcedureStepState, ds.ScheduledProcedureStepPriority = STATES[one.state], "MEDIUM"
    ds.ProcedureStepLabel, ds.WorklistLabel = "Draw and prepare", "Fabrica"
    ds.ScheduledProcedureStepStartDateTime = f"{moment(one.since)}+0000"
    ds.InputReadinessState = "INCOMPLETE" if one.state == "arriving" else "READY"
    ds.ScheduledStationNameCodeSequence, ds.ScheduledWorkitemCodeSequence = [], []
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "", "", "", ""
    ds.StudyInstanceUID = one.study
    ds.InputInformationSequence = [_instances(one.study, one.uid, intake.instances(one.uid))]
    progress, performed = Dataset(), Dataset()
    progress.ProcedureStepProgress = "100" if one.state == "prepared" else "0"
    progress.ProcedureStepProgressDescription = _words(one)[:64]
    if one.state in ("refused", "failed"):
        progress.ReasonForCancellation = one.reason[:10240]
    ds.ProcedureStepProgressInformationSequence = [progress]
    ds.UnifiedProcedureStepPerformedProcedureSequence = []
    if one.state == "prepared":
        performed.OutputInformationSequence = [
            _instances(one.study, uid, outbox.instances(uid))
            for made in one.made
            for uid in (made, *outbox.parts(made))
        ]
        ds.UnifiedProcedureStepPerformedProcedureSequence = [performed]
    return ds


def _words(one: Arrived) -> str:
    said = {"arriving": "images arrive", "waiting": "waits to be drawn", "drawing": "is drawn",
            "prepared": "prepared"}  # fmt: skip
    return said.get(one.state, one.reason)


def _instances(study: str, series: str, instances: list[tuple[str, str]]) -> Any:
    """`instances`: (class, UID) each."""
    from pydicom.dataset import Dataset

    ds = Dataset()
    ds.TypeOfInstances, ds.StudyInstanceUID, ds.SeriesInstanceUID = "DICOM", study, series
    referenced = []
    for kind, uid in instances:
        one = Dataset()
        one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = kind, uid
        referenced.append(one)
    ds.ReferencedSOPSequence = referenced
    return ds


def add_workitems(app: FastAPI, intake: Intake, outbox: Outbox, allowed: Any) -> None:
    """`GET /dicom-web/workitems[/UID]` and `POST /dicom-web/workitems/UID/cancelrequest`; `allowed`: who may."""
    known = [Depends(allowed)]

    def found(uid: str) -> Arrived:
        for one in intake.series():
            if item_of(one.uid) == uid:
                return one
        raise HTTPException(404, "There is no such work item.")

    @app.get("/dicom-web/workitems", dependencies=known)
    def searched(request: Request) -> Response:
        asked = dict(request.query_params)
        if strange := set(asked) - {*STATE, *PAGING}:
            raise HTTPException(
                400, f"{sorted(strange)[0][:40]} cannot be asked for. Ask for {STATE[0]}, {', '.join(PAGING)}."
            )
        if not all(re.fullmatch("[0-9]{1,9}", asked.get(name, "0")) for name in PAGING):
            raise HTTPException(400, "limit and offset are numbers.")
        state = asked.get(STATE[0], asked.get(STATE[1], ""))
        if state not in ("", *STATES.values()):
            raise HTTPException(400, f"A state is one of {', '.join(dict.fromkeys(STATES.values()))}.")
        fitting = [one for one in intake.series() if state in ("", STATES[one.state])]
        start, count = int(asked.get("offset", "0")), min(MOST, int(asked.get("limit", MOST)))
        part = [workitem(one, intake, outbox).to_json_dict() for one in fitting[start : start + count]]
        more = len(fitting) - start - len(part)
        warned = {"Warning": f'299 fabrica "{more} more: ask with offset={start + len(part)}"'} if more > 0 else {}
        return JSONResponse(part, media_type=JSON, headers=warned) if part else Response(status_code=204)

    @app.get("/dicom-web/workitems/{uid}", dependencies=known)
    def one_of(uid: str) -> Response:
        return JSONResponse([workitem(found(uid), intake, outbox).to_json_dict()], media_type=JSON)

    @app.put("/dicom-web/workitems/{uid}/state", dependencies=known)
    def changed(uid: str) -> Response:
        found(uid)
        raise HTTPException(
            409, "This node alone performs its work items. Ask it to cancel one: POST .../cancelrequest"
        )

    @app.post("/dicom-web/workitems/{uid}/cancelrequest", dependencies=known)
    def cancelled(uid: str) -> Response:
        one = found(uid)
        if not intake.cancel(one.uid):
            raise HTTPException(409, f"Nothing is cancelled: of the series {_words(found(uid))}.")
        outbox.note("cancelled", item=uid)
        return Response(status_code=202)
