"""What a model says in numbers goes to an archive as a structured report: whose, by what, of which images."""

import json
import subprocess
from pathlib import Path

import pydicom
import pytest
from fastapi.testclient import TestClient

from fabrica.deliver.audit import messages
from fabrica.deliver.delivery import deliver
from fabrica.deliver.destinations.settings import destination
from fabrica.deliver.outbox import Outbox
from fabrica.deliver.provenance import provenance
from fabrica.deliver.reading import stored_answers
from fabrica.deliver.record import Answer, Record, answers_in
from fabrica.deliver.verification import verify
from fabrica.deliver.withdrawal import withdraw
from fabrica.generate.handover import hand_over
from fabrica.generate.scans import generate_images
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe
from fabrica.serve.review import application, key_of

from .conftest import program
from .iod import missing
from .scanner import head, write_series

TOKEN = "t" * 20
PLAIN = {
    "cohorts": {"all": {"virtual": {"patients": 4, "spacing_mm": 4, "planes": [18, 20], "disease": "none"}}},
    "split": {"train": 0.5, "test": 0.5}, "baseline": "none", "family": {"name": "regression", "network": {"channels": [8, 8], "blocks": 1}},
    "train": {"steps": 2, "batch": 2, "precision": "fp32"}, "evaluate": {"draws": 1, "realism": 0},
}  # fmt: skip
JOBS = {
    "age": {"name": "outcome", "from": ["T1w"], "x": "age", "centre": 50.0, "width": 20.0, "unit": "years"},
    "sex": {"name": "outcome", "from": ["T1w"], "x": "sex", "classes": ["F", "M"]},
}


@pytest.fixture(scope="module", params=list(JOBS))
def answered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `generate` wrote of a DICOM head."""
    folder = tmp_path_factory.mktemp(request.param)
    run_recipe(from_plain({**PLAIN, "job": JOBS[request.param]}), folder / "run", say=lambda _: None)
    write_series(folder / "dicom", *head())
    generate_images(folder / "run", folder / "dicom", folder / "out", say=lambda _: None)
    return folder / "out"


def test_a_record_holds_what_was_said(answered: Path) -> None:
    record = Record.read(answered)
    (drawn,) = record.images
    assert drawn.kind == "value"
    assert drawn.sources
    told = answers_in(answered / drawn.files[0])
    line = (answered / "answers.csv").read_text().splitlines()[1].split(",")
    assert line[0] == drawn.case
    assert [float(v) for v in line[1:]] == pytest.approx([a.value for a in told], rel=1e-4)
    if drawn.contrast == "age":
        assert (told[0].name, told[0].unit) == ("age", "years")
    else:
        assert [a.name for a in told] == ["chance of F", "chance of M"]
        assert sum(a.value for a in told) == pytest.approx(1)


def test_it_becomes_a_report_that_validators_read(answered: Path, tmp_path: Path) -> None:
    outbox, record, said = Outbox(tmp_path / "store"), Record.read(answered), list[str]()
    (uid,) = hand_over(record, outbox, say=said.append)
    assert "a structured report, made" in said[0]
    (path,) = outbox.files(uid)
    ds = pydicom.dcmread(path)
    assert (ds.Modality, ds.VerificationFlag, ds.SyntheticData, ds.ContentQualification) == (
        "SR",
        "UNVERIFIED",
        "YES",
        "RESEARCH",
    )
    source = pydicom.dcmread(record.images[0].sources[0].file, stop_before_pixels=True)
    assert (ds.PatientID, ds.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    told = answers_in(answered / record.images[0].files[0])
    assert stored_answers([path]) == [a.words() for a in told]
    assert hand_over(record, outbox, say=said.append) == [uid]
    assert "known" in said[-1]
    found = subprocess.run([program("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False)
    errors = [line for line in found.stderr.splitlines() if line.startswith("Error")]
    assert not [e for e in errors if "(0008,001c)" not in e], errors
    assert missing(ds) == []


def test_a_person_sees_the_numbers_and_they_are_delivered(answered: Path, tmp_path: Path) -> None:
    outbox, record = Outbox(tmp_path / "store"), Record.read(answered)
    (uid,) = hand_over(record, outbox, evidence=True, say=lambda _: None)
    with TestClient(application(tmp_path / "store", TOKEN), base_url="http://127.0.0.1:1") as client:
        client.get(f"/enter?t={TOKEN}")
        page = client.get(f"/series/{key_of(uid)}").text
        (first, *_) = stored_answers(outbox.files(uid))
        assert first in page
        assert "what the model says" in page
        assert "the images that it was told from" in page
        assert client.get(f"/series/{key_of(uid)}/result/0.png").headers["content-type"] == "image/png"
    outbox.judge(uid, "accept", "plausible", "Dr Lee")
    to = destination(f"folder:{tmp_path / 'archive'}")
    outbox.enqueue(uid, to.name, parts=to.parts)
    assert deliver(outbox, to, lambda _: None) == 0
    kinds = sorted(pydicom.dcmread(p).Modality for p in (tmp_path / "archive").rglob("*.dcm"))
    assert kinds == ["SR", "SR"]  # what it says, and what was measured of the model


def test_an_accepted_report_goes_out_verified_and_supersedes_the_models_own(answered: Path, tmp_path: Path) -> None:
    """The person's name and the predecessor stand in it; validators and dsrdump read it; a rejection withdraws both."""
    outbox, record = Outbox(tmp_path / "store"), Record.read(answered)
    (uid,) = hand_over(record, outbox, say=lambda _: None)
    assert verify(outbox, uid) is None  # nobody has accepted it
    outbox.ask_readers(2)
    outbox.judge(uid, "accept", "plausible", "Ana Lee")
    assert verify(outbox, uid) is None  # one of two
    outbox.judge(uid, "accept", "agreed", "Dr. Zoë Ünal")
    made = verify(outbox, uid)
    assert made is not None
    assert verify(outbox, uid) == made
    assert outbox.parts(uid) == [made]
    (path,) = outbox.files(made)
    ds, own = pydicom.dcmread(path), pydicom.dcmread(outbox.files(uid)[0])
    assert (ds.VerificationFlag, ds.SyntheticData, ds.ContentQualification) == ("VERIFIED", "YES", "RESEARCH")
    assert (own.VerificationFlag, own.PatientID) == ("UNVERIFIED", ds.PatientID)
    assert [str(o.VerifyingObserverName) for o in ds.VerifyingObserverSequence] == ["Lee^Ana", "Ünal^Dr. Zoë"]
    (before,) = ds.PredecessorDocumentsSequence
    (instance,) = before.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert instance.ReferencedSOPInstanceUID == own.SOPInstanceUID
    assert stored_answers([path]) == stored_answers(outbox.files(uid))
    assert ds.SOPInstanceUID != own.SOPInstanceUID
    found = subprocess.run([program("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False)
    errors = [line for line in found.stderr.splitlines() if line.startswith("Error")]
    assert not [e for e in errors if "(0008,001c)" not in e], errors
    assert missing(ds) == []
    read = subprocess.run([program("dsrdump"), str(path)], capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr
    assert "VERIFIED" in read.stdout
    to = destination(f"folder:{tmp_path / 'archive'}")
    outbox.enqueue(uid, to.name, parts=to.parts)
    assert deliver(outbox, to, lambda _: None) == 0
    sent = [pydicom.dcmread(p).VerificationFlag for p in (tmp_path / "archive").rglob("*.dcm")]
    assert sorted(sent) == ["UNVERIFIED", "VERIFIED"]
    times = [str(o.VerificationDateTime) for o in ds.VerifyingObserverSequence]
    assert all(t.endswith("+0000") for t in times)
    assert times == sorted(times)
    outbox.judge(uid, "accept", "looked again", "Ana Lee")
    assert verify(outbox, uid) == made  # by the same persons: none anew
    outbox.judge(uid, "reject", "of another patient", "Ana Lee")
    assert verify(outbox, uid) is None
    assert withdraw(outbox, uid) == [to.name]
    outbox.judge(uid, "accept", "it is this patient's", "Dr. Bo")
    outbox.judge(uid, "accept", "agreed", "Ana Lee")
    again = verify(outbox, uid)
    assert again not in (made, None)
    assert outbox.parts(uid) == [again]  # what a withdrawn acceptance stood for goes nowhere any more
    other = destination(f"folder:{tmp_path / 'other'}")
    outbox.enqueue(uid, other.name, parts=other.parts)
    assert deliver(outbox, other, lambda _: None) == 0
    verified = [
        d for p in (tmp_path / "other").rglob("*.dcm") if (d := pydicom.dcmread(p)).VerificationFlag == "VERIFIED"
    ]
    assert [[str(o.VerifyingObserverName) for o in d.VerifyingObserverSequence] for d in verified] == [
        ["Bo^Dr.", "Lee^Ana"]
    ]
    told = [text.decode() for text in messages(outbox.lines(), outbox.studies())]
    assert any('EventActionCode="U"' in text for text in told)
    assert "wasInvalidatedBy" in provenance(outbox.trace(made)).serialize(format="json")
    assert "wasDerivedFrom" in provenance(outbox.trace(str(ds.SOPInstanceUID))).serialize(format="json")


def test_a_file_of_answers_that_was_changed_is_refused(answered: Path, tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    path.write_text(json.dumps([{"name": "age"}]))
    with pytest.raises(ValueError, match="holds no answers"):
        answers_in(path)
    assert Answer("age", 61.234567, "years").words() == "age: 61.23 years"
