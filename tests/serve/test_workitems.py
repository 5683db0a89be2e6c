"""Work items of the node: from scheduled to completed with what came of it, cancelled before they begin, never after."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from fastapi.testclient import TestClient
from pydicom.dataset import Dataset

from fabrica.deliver.outbox import Outbox
from fabrica.serve.intake import Intake
from fabrica.serve.node import Node
from fabrica.serve.review import application
from fabrica.serve.rules import read_rules
from fabrica.serve.stow import add_intake
from fabrica.serve.workitems import item_of

from ..deliver.conftest import trained  # noqa: F401 (a fixture)
from ..deliver.scanner import head, write_series

TOKEN = "a-token-of-tests"
ASKED = {"Authorization": f"Bearer {TOKEN}"}
ITEMS = "/dicom-web/workitems"


@pytest.fixture
def node(trained: Path, tmp_path: Path) -> Node:  # noqa: F811
    rules = tmp_path / "rules.yaml"
    rules.write_text(f"- {{when: {{modality: MR}}, run: {trained}, to: 'folder:{tmp_path / 'there'}', draws: 1}}\n")
    return Node(Intake(tmp_path / "store/node"), Outbox(tmp_path / "store"), read_rules(rules), print, quiet_s=0.0)


@pytest.fixture
def web(node: Node) -> Iterator[TestClient]:
    app = application(node.outbox.folder, TOKEN)
    add_intake(app, node.intake, node.outbox, TOKEN)
    with TestClient(app, base_url="http://127.0.0.1:1", raise_server_exceptions=False) as client:
        yield client


def _arrived(node: Node, folder: Path, **more: Any) -> str:
    files = write_series(folder, *head(planes=(16, 20)), **more)
    for path in files:
        ds = pydicom.dcmread(path)
        node.intake.keep(str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID), path.read_bytes())
    return str(ds.SeriesInstanceUID)


def _item(web: TestClient, series: str) -> Dataset:
    answer = web.get(f"{ITEMS}/{item_of(series)}", headers=ASKED)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    (plain,) = answer.json()
    return Dataset.from_json(json.dumps(plain))


def test_the_life_of_a_work_item(node: Node, web: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SCHEDULED, IN PROGRESS, COMPLETED, with references to what was made; nobody's name in it."""
    series = _arrived(node, tmp_path / "scan")
    ds = _item(web, series)
    assert (ds.ProcedureStepState, ds.InputReadinessState) == ("SCHEDULED", "INCOMPLETE")
    assert (ds.SOPClassUID, ds.PatientID) == ("1.2.840.10008.5.1.4.34.6.1", "")
    (given,) = ds.InputInformationSequence
    assert given.SeriesInstanceUID == series
    assert len(given.ReferencedSOPSequence) == 4
    for _ in range(3):
        node.settle()
    assert _item(web, series).InputReadinessState == "READY"
    assert ds.ScheduledProcedureStepStartDateTime.endswith("+0000")
    during: list[str] = []
    drawn = Node._drawn

    def watched(self: Node, *rest: Any) -> str:
        during.append(_item(web, series).ProcedureStepState)
        during.append(str(web.post(f"{ITEMS}/{item_of(series)}/cancelrequest", headers=ASKED).status_code))
        return drawn(self, *rest)

    monkeypatch.setattr(Node, "_drawn", watched)
    node.answer()
    assert during == ["IN PROGRESS", "409"]
    ds = _item(web, series)
    assert ds.ProcedureStepState == "COMPLETED"
    (performed,) = ds.UnifiedProcedureStepPerformedProcedureSequence
    (made,) = node.intake.series()[0].made
    first = performed.OutputInformationSequence[0]
    assert first.SeriesInstanceUID == made
    stored = [pydicom.dcmread(p, stop_before_pixels=True) for p in node.outbox.files(made)]
    referenced = [(r.ReferencedSOPClassUID, r.ReferencedSOPInstanceUID) for r in first.ReferencedSOPSequence]
    assert referenced == [(s.SOPClassUID, s.SOPInstanceUID) for s in stored]
    assert "GEN-0001" not in json.dumps(web.get(ITEMS, headers=ASKED).json())
    assert web.post(f"{ITEMS}/{item_of(series)}/cancelrequest", headers=ASKED).status_code == 409


def test_what_is_cancelled_before_it_begins_is_not_drawn(node: Node, web: TestClient, tmp_path: Path) -> None:
    series = _arrived(node, tmp_path / "scan")
    early = web.post(f"{ITEMS}/{item_of(series)}/cancelrequest", headers=ASKED)
    assert early.status_code == 409  # what arrives meanwhile would undo it
    assert "images arrive" in early.text
    for _ in range(3):
        node.settle()
    (waiting,) = node.intake.series("waiting")
    assert web.post(f"{ITEMS}/{item_of(series)}/cancelrequest", headers=ASKED).status_code == 202
    assert not node.intake.begin(waiting.uid)  # a node that looked just before
    node.answer()
    ds = _item(web, series)
    assert ds.ProcedureStepState == "CANCELED"
    (progress,) = ds.ProcedureStepProgressInformationSequence
    assert progress.ReasonForCancellation == "cancelled by request"
    assert node.outbox.series() == []
    assert [line.event["item"] for line in node.outbox.lines() if line.event["what"] == "cancelled"] == [
        item_of(series)
    ]
    assert web.put(f"{ITEMS}/{item_of(series)}/state", headers=ASKED, content=b"{}").status_code == 409
    again = _arrived(node, tmp_path / "scan")  # sent again it is asked again
    assert again == series
    assert _item(web, series).ProcedureStepState == "SCHEDULED"


def test_items_are_searched_by_their_state_and_by_those_with_the_token(
    node: Node, web: TestClient, tmp_path: Path
) -> None:
    assert web.get(ITEMS, headers=ASKED).status_code == 204
    _arrived(node, tmp_path / "scan")
    for path in (ITEMS, f"{ITEMS}/1.2.3"):
        assert web.get(path).status_code == 401
        assert web.get(path, headers={"Authorization": "Bearer guess"}).status_code == 401
    assert web.post(f"{ITEMS}/1.2.3/cancelrequest").status_code == 401
    assert web.get(f"{ITEMS}/1.2.3", headers=ASKED).status_code == 404
    for asked, code in (
        ({"ProcedureStepState": "SCHEDULED"}, 200), ({"00741000": "COMPLETED"}, 204), ({"limit": "1"}, 200), ({"offset": "1"}, 204),
        ({"ProcedureStepState": "DONE"}, 400), ({"PatientName": "A*"}, 400), ({"limit": "many"}, 400), ({"limit": "\u00b2"}, 400), ({"limit": "9" * 12}, 400),
    ):  # fmt: skip
        assert web.get(ITEMS, headers=ASKED, params=asked).status_code == code, asked
