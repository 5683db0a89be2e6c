"""The node: images in by C-STORE and STOW, gated, answered, held, accepted, delivered; killed, stopped, attacked."""

import gc
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from fastapi.testclient import TestClient

from fabrica.audit.models import decide
from fabrica.deliver.approvals import Approvals
from fabrica.deliver.database import Database
from fabrica.deliver.destinations.destination import UnreachableError
from fabrica.deliver.destinations.dimse import Certificates, Dimse, Manners
from fabrica.deliver.destinations.folder import Folder
from fabrica.deliver.outbox import Outbox
from fabrica.deliver.record import Record
from fabrica.generate.handover import hand_over
from fabrica.serve.intake import MODELS, ClashError, Intake
from fabrica.serve.monitoring import figures
from fabrica.serve.node import Node
from fabrica.serve.review import application
from fabrica.serve.rules import read_rules
from fabrica.serve.running import run_node
from fabrica.serve.storage import Door, listening
from fabrica.serve.stow import DEFLATED, add_intake, parts_of

from ..deliver.conftest import drawn, program, record, trained  # noqa: F401 (fixtures)
from ..deliver.scanner import head, write_series
from ..deliver.test_destinations import certificates  # noqa: F401 (a fixture)

TOKEN = "a-token-of-tests"
LARGE = head(planes=(16, 24))


@pytest.fixture
def rules(trained: Path, tmp_path: Path) -> Path:  # noqa: F811
    path = tmp_path / "rules.yaml"
    path.write_text(f"- {{when: {{modality: MR}}, run: {trained}, to: 'folder:{tmp_path / 'there'}', draws: 2}}\n")
    return path


@pytest.fixture
def node(rules: Path, tmp_path: Path) -> Node:
    return Node(
        Intake(tmp_path / "store" / "node"), Outbox(tmp_path / "store"), read_rules(rules), [].append, quiet_s=0.0
    )


def _keep(intake: Intake, files: list[Path]) -> None:
    for path in files:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        intake.keep(str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID), path.read_bytes())


def _send(port: int, folder: Path, *more: str, title: str = "FABRICA", caller: str = "SCANNER") -> int:
    """By DCMTK's storescu."""
    command = [
        program("storescu"),
        *more,
        "-aet",
        caller,
        "-aec",
        title,
        "127.0.0.1",
        str(port),
        *map(str, sorted(folder.glob("*.dcm"))),
    ]
    return subprocess.run(command, capture_output=True, check=False).returncode


def _until(told: Callable[[], Any], seconds: float = 60) -> Any:
    for _ in range(int(seconds / 0.05)):
        if found := told():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def test_from_a_scanner_to_the_archive_by_way_of_a_person(node: Node, tmp_path: Path) -> None:
    """storescu sends, the rule's run draws, nothing leaves before a person accepts, then all of it is there."""
    write_series(tmp_path / "scan", *LARGE)
    door = Door("FABRICA", 0, ["SCANNER"])
    with listening(door, node.intake, print) as port:
        assert (
            subprocess.run(
                [program("echoscu"), "-aet", "SCANNER", "-aec", "FABRICA", "127.0.0.1", str(port)], check=False
            ).returncode
            == 0
        )
        assert _send(port, tmp_path / "scan") == 0
        assert _send(port, tmp_path / "scan") == 0  # sent twice is kept once
        for refused in ({"title": "OTHER"}, {"caller": "STRANGER"}):
            assert _send(port, tmp_path / "scan", **refused) != 0
    (one,) = node.intake.series()
    assert (one.instances, one.state) == (8, "arriving")
    for _ in range(3):
        node.settle()
    assert node.intake.series()[0].state == "waiting"
    node.answer()
    (one,) = node.intake.series("prepared")
    assert len(one.made) == 1
    node.hand_out()
    assert not (tmp_path / "there").exists()
    node.outbox.judge(one.made[0], "accept", "looks right", "Dr. A")
    node.hand_out()
    files = list((tmp_path / "there").rglob("*.dcm"))
    assert len(files) == 8 + 1
    assert {pydicom.dcmread(f).PatientID for f in files} == {"GEN-0001"}
    node.outbox.judge(one.made[0], "reject", "bone is missing", "Dr. B")
    node.hand_out()
    assert len(list((tmp_path / "there").rglob("*.dcm"))) == 8 + 2  # it is told that the series is withdrawn
    told = figures(node.intake, node.outbox)
    assert 'fabrica_series{state="prepared"} 1' in told
    assert 'fabrica_verdicts{verdict="reject"} 1' in told
    assert 'fabrica_backlog{to="folder"} 0' in told


def test_what_a_gate_refuses_is_never_drawn(node: Node, tmp_path: Path) -> None:
    files = write_series(tmp_path / "scan", *LARGE)
    _keep(node.intake, [*files[:3], *files[4:]])
    for _ in range(3):
        node.settle()
    (one,) = node.intake.series()
    assert one.state == "refused"
    assert "planes are missing" in one.reason
    node.answer()
    assert node.outbox.series() == []
    assert 'fabrica_refusals{reason="planes are missing: . mm behind plane , . mm elsewhere"} 1' in figures(
        node.intake, node.outbox
    )
    _keep(node.intake, [files[3]])  # the plane comes later
    for _ in range(3):
        node.settle()
    assert node.intake.series()[0].state == "waiting"


def test_a_series_is_whole_only_when_nothing_more_comes(rules: Path, tmp_path: Path) -> None:
    node = Node(Intake(tmp_path / "node"), Outbox(tmp_path / "store"), read_rules(rules), print, quiet_s=0.2)
    files = write_series(tmp_path / "scan", *LARGE)
    for path in files:
        _keep(node.intake, [path])
        node.settle()
        time.sleep(0.03)
        assert node.intake.series()[0].state == "arriving"
    time.sleep(0.25)
    node.settle()
    assert node.intake.series()[0].state == "waiting"
    late = pydicom.dcmread(files[0])
    with pytest.raises(ClashError, match="taken as whole"):
        node.intake.keep(str(late.StudyInstanceUID), str(late.SeriesInstanceUID), "1.2.3.4", b"late")


def test_a_drawing_that_fails_is_tried_again_and_then_looked_at(node: Node, tmp_path: Path) -> None:
    write_series(tmp_path / "scan", *LARGE, description="no contrast that is known")
    _keep(node.intake, sorted((tmp_path / "scan").glob("*.dcm")))
    for _ in range(3):
        node.settle()
    node.answer()
    assert node.intake.series()[0].state == "waiting"
    node.answer()
    (one,) = node.intake.series()
    assert (one.state, one.tries) == ("failed", 2)
    assert "the drawing ended with" in one.reason
    assert node.outbox.series() == []


def test_a_model_that_nobody_approved_draws_nothing(rules: Path, trained: Path, tmp_path: Path) -> None:  # noqa: F811
    """The rule names a registry: what it does not approve is refused with its reason, and drawn once it is approved."""
    (tmp_path / "approved").mkdir()
    approvals = Approvals(tmp_path / "approved")
    rules.write_text(rules.read_text().replace("draws: 2", "draws: 1, registry: approved"))
    node = Node(Intake(tmp_path / "store/node"), Outbox(tmp_path / "store"), read_rules(rules), print, quiet_s=0.0)
    write_series(tmp_path / "scan", *LARGE)
    _keep(node.intake, sorted((tmp_path / "scan").glob("*.dcm")))
    for _ in range(3):
        node.settle()
    node.answer()
    (one,) = node.intake.series()
    assert one.state == "waiting"
    assert "approve" in one.reason
    decide(approvals, trained, "approved", "Dr. Lee", "validated here")
    node.answer()
    assert [one.state for one in node.intake.series()] == ["prepared"]


def test_a_series_unlike_those_of_training_is_kept_where_the_rule_refuses_such(rules: Path, tmp_path: Path) -> None:
    """The run has seen too few scans to tell what is usual: a rule that asks for usual ones gets nothing, and why."""
    rules.write_text(rules.read_text().replace("draws: 2", "draws: 1, shift: refuse"))
    node = Node(Intake(tmp_path / "store/node"), Outbox(tmp_path / "store"), read_rules(rules), print, quiet_s=0.0)
    write_series(tmp_path / "scan", *LARGE)
    _keep(node.intake, sorted((tmp_path / "scan").glob("*.dcm")))
    for _ in range(3):
        node.settle()
    node.answer()
    (one,) = node.intake.series()
    assert one.state == "waiting"
    assert "needs to know training's scans" in one.reason
    assert node.outbox.series() == []


def test_a_place_that_cannot_be_used_holds_no_other_up(node: Node, tmp_path: Path) -> None:
    """A pacs.yaml that is gone: it is said, and what goes elsewhere goes."""
    said: list[str] = []
    node.say = said.append
    node.intake.keep("1.2", "1.3", "1.4", b"one")
    node.intake.prepared("1.3", ["2.25.1"], str(tmp_path / "gone.yaml"))
    node.intake.prepared("1.3", ["2.25.2"], f"folder:{tmp_path / 'there'}")
    asked: list[str] = []
    node._deliver = lambda to: asked.append(to.name)  # type: ignore[method-assign]
    node.hand_out()
    node.hand_out()
    assert asked == [f"folder:{tmp_path / 'there'}"] * 2
    assert len([line for line in said if "gone.yaml" in line]) == 1


def test_one_bad_series_holds_no_other_up(node: Node, tmp_path: Path) -> None:
    """A file that was changed after it arrived, a decision that cannot be acted on, headers that say what none may."""
    said: list[str] = []
    node.say = said.append
    first, second = (write_series(tmp_path / name, *LARGE) for name in ("first", "second"))
    odd = pydicom.dcmread(first[0])
    odd.SOPInstanceUID = odd.file_meta.MediaStorageSOPInstanceUID = "1.2.3.5"
    odd.SeriesInstanceUID, odd.SliceThickness = "1.2.3.4", [2, 2]
    odd.save_as(tmp_path / "odd.dcm", enforce_file_format=True)
    _keep(node.intake, [*first, *second, tmp_path / "odd.dcm"])
    for _ in range(3):
        node.settle()
    states = {one.uid: one for one in node.intake.series()}
    assert states["1.2.3.4"].state in ("refused", "waiting")
    (one, *_) = (o for o in node.intake.series("waiting") if o.instances == 8)
    changed = node.intake.files(one)[0]
    changed.write_bytes(b"changed")
    node._drawn = lambda rule, one, out: "no drawing in this test"  # type: ignore[method-assign]
    for _ in range(8):
        node.answer()
    assert {o.state for o in node.intake.series()} <= {"failed", "refused"}
    acted: list[str] = []

    def act(uid: str) -> None:
        acted.append(uid)
        if uid == "2.25.1":
            raise RuntimeError("its files are gone")

    node._act = act  # type: ignore[method-assign]
    node._acted(["2.25.1", "2.25.2"])
    assert acted == ["2.25.1", "2.25.2"]
    assert any("its files are gone" in line for line in said)


def test_what_was_accepted_or_unreviewed_before_a_crash_goes_out_after_it(
    node: Node,
    record: Record,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Killed between two steps: the next start looks at everything that was made."""
    (uid,) = hand_over(record, node.outbox, say=lambda _: None)
    node.intake.keep("1.2", "1.3", "1.4", b"one")
    node.outbox.judge(uid, "accept", "looks right", "Dr. A")
    node.hand_out()  # somebody was faster than the hand-over
    node.intake.prepared("1.3", [uid], f"folder:{tmp_path / 'there'}")
    again = Node(node.intake, node.outbox, node.rules, print)
    again.hand_out()
    assert len(list((tmp_path / "there").rglob("*.dcm"))) == 5
    (other,) = hand_over(record, node.outbox, which="0", say=lambda _: None)
    node.intake.prepared("1.3", [other], f"folder:{tmp_path / 'else'}", unreviewed=True)
    Node(node.intake, node.outbox, node.rules, print).hand_out()
    assert len(list((tmp_path / "else").rglob("*.dcm"))) == 4


def test_identifiers_and_clashes_at_the_door(tmp_path: Path) -> None:
    intake = Intake(tmp_path)
    for study, series, instance in (
        ("../../etc", "1.2", "1.3"),
        ("1.2", "1.2/..", "1.3"),
        ("1.2", "1.3", "x"),
        ("1.2", "", "1.4"),
        ("1" * 65, "1.2", "1.3"),
    ):
        with pytest.raises(ValueError, match="is no UID"):
            intake.keep(study, series, instance, b"x")
    assert intake.keep("1.2", "1.3", "1.4", b"one")
    assert not intake.keep("1.2", "1.3", "1.4", b"one")
    with pytest.raises(ClashError, match="other content"):
        intake.keep("1.2", "1.3", "1.4", b"two")
    with pytest.raises(ClashError, match="another study"):
        intake.keep("1.9", "1.3", "1.5", b"one")
    assert [p.name for p in (tmp_path / "studies").rglob("*") if p.is_file()] == ["1.4.dcm"]
    (tmp_path / "studies" / "1.2" / "1.3" / "1.4.dcm").unlink()
    assert not intake.keep("1.2", "1.3", "1.4", b"one")  # lost since: what is acknowledged is on disk
    assert (tmp_path / "studies" / "1.2" / "1.3" / "1.4.dcm").read_bytes() == b"one"
    (one,) = intake.series()
    (tmp_path / "studies" / "1.2" / "1.3" / "1.4.dcm").write_bytes(b"changed")
    with pytest.raises(ValueError, match="was changed"):
        intake.files(one)


def test_a_full_disk_is_answered_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "scan", *head())
    intake = Intake(tmp_path / "node")

    def full(target: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fabrica.serve.intake.write_whole", full)
    said: list[str] = []
    with listening(Door("FABRICA", 0, ["SCANNER"]), intake, said.append) as port:
        command = [
            program("storescu"),
            "-v",
            "-aet",
            "SCANNER",
            "-aec",
            "FABRICA",
            "127.0.0.1",
            str(port),
            str(next((tmp_path / "scan").glob("*.dcm"))),
        ]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (
        "OutOfResources" in (found.stdout + found.stderr).replace(" ", "").replace(":", "")
        or "0xa700" in (found.stdout + found.stderr).lower()
    )
    assert intake.series() == []
    assert any("No space left" in line for line in said)
    assert "GEN-0001" not in "".join(said)


def test_a_process_that_is_gone_left_its_drawing_to_the_next(tmp_path: Path) -> None:
    intake = Intake(tmp_path)
    intake.keep("1.2", "1.3", "1.4", b"one")
    intake.move("1.3", "drawing")
    assert Intake(tmp_path).series()[0].state == "waiting"


@pytest.mark.parametrize(
    ("more", "words"),
    [({"callers": []}, "No caller is named"), ({"title": ""}, "no name of a node"), ({"callers": ["A" * 17]}, "no name of a node"), ({"address": "0.0.0.0"}, "unencrypted")],
)  # fmt: skip
def test_doors_that_are_none(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Door(**{"title": "FABRICA", "port": 0, "callers": ["A"], **more})


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # pynetdicom leaves a refused socket open
def test_the_door_beyond_this_machine_asks_for_certificates(
    certificates: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Mutual TLS: with ours it is stored, with a stranger's, or in plain, nobody is let in."""
    files = write_series(tmp_path / "scan", *head())
    intake = Intake(tmp_path / "node")
    ours = Certificates(certificates / "server.crt", certificates / "client.crt", certificates / "client.key")
    theirs = Certificates(certificates / "client.crt", certificates / "server.crt", certificates / "server.key")
    with listening(Door("FABRICA", 0, ["SCANNER"], "127.0.0.1", theirs), intake, print) as port:
        assert not Dimse("FABRICA", "127.0.0.1", port, Manners("SCANNER", tls=ours)).store(files)
        monkeypatch.setattr("fabrica.deliver.destinations.destination.TIMEOUT_S", 2)
        stranger = replace(ours, certificate=certificates / "stranger.crt", key=certificates / "stranger.key")
        for tls in (None, stranger):
            with pytest.raises(UnreachableError):
                Dimse("FABRICA", "127.0.0.1", port, Manners("SCANNER", tls=tls)).store(files)
    assert intake.series()[0].instances == len(files)
    gone = Door("FABRICA", 0, ["SCANNER"], "0.0.0.0", replace(theirs, key=tmp_path / "none.key"))
    with pytest.raises(ValueError, match="holds no ca.crt"), listening(gone, intake, print):
        pass
    gc.collect()  # sockets that a refused handshake leaves, here and not in whatever test comes next


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_node_in_order(number: signal.Signals, rules: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def ended() -> None:
        _until(lambda: any(line.startswith("Open ") for line in said))
        time.sleep(0.3)
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    own = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever is started in the background ignores it
    thread = threading.Thread(target=ended)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_node(rules, Door("FABRICA", 0, ["SCANNER"]), tmp_path / "store", 0, 1.0, said.append)
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, own)
        thread.join()
    assert said[-1].startswith("Stopping")
    assert any("1 rules." in line for line in said)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    intake = Intake(tmp_path)
    with (
        listening(Door("FABRICA", 0, ["A"]), intake, print) as port,
        pytest.raises(ValueError, match="cannot be listened on"),
        listening(Door("FABRICA", port, ["A"]), intake, print),
    ):
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[TestClient, Intake]]:
    intake, outbox = Intake(tmp_path / "store" / "node"), Outbox(tmp_path / "store")
    app = application(tmp_path / "store", TOKEN)
    add_intake(app, intake, outbox, TOKEN)
    with TestClient(app, base_url="http://127.0.0.1:1", raise_server_exceptions=False) as client:
        yield client, intake


def _multipart(contents: list[bytes]) -> tuple[bytes, dict[str, str]]:
    body = (
        b"".join(b"--edge\r\nContent-Type: application/dicom\r\n\r\n" + c + b"\r\n" for c in contents) + b"--edge--\r\n"
    )
    return body, {
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": 'multipart/related; type="application/dicom"; boundary=edge',
    }


def test_stow_says_what_became_of_each(web: tuple[TestClient, Intake], tmp_path: Path) -> None:
    client, intake = web
    files = write_series(tmp_path / "scan", *head())
    body, headers = _multipart([p.read_bytes() for p in files])
    answer = client.post("/dicom-web/studies", content=body, headers=headers)
    assert answer.status_code == 200
    assert len(answer.json()["00081199"]["Value"]) == len(files)
    assert intake.series()[0].instances == len(files)
    changed = pydicom.dcmread(files[0])
    changed.EchoTime = "99"
    buffer = io.BytesIO()
    changed.save_as(buffer)
    body, headers = _multipart([files[1].read_bytes(), buffer.getvalue(), b"no dicom"])
    answer = client.post("/dicom-web/studies", content=body, headers=headers)
    assert answer.status_code == 202
    assert [i["00081197"]["Value"][0] for i in answer.json()["00081198"]["Value"]] == [0x0111, 0xC000]
    body, headers = _multipart([b"no dicom"])
    assert client.post("/dicom-web/studies", content=body, headers=headers).status_code == 409


def test_the_web_side_refuses_strangers_and_nonsense(
    web: tuple[TestClient, Intake], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, intake = web
    body, headers = _multipart([b"x"])
    for token in ("", "Bearer guess", TOKEN, "Bearer ÿ"):
        assert (
            client.post(
                "/dicom-web/studies", content=body, headers={**headers, "Authorization": token.encode("latin-1")}
            ).status_code
            == 401
        )
        assert client.get("/metrics", headers={"Authorization": token.encode("latin-1")}).status_code == 401
    assert (
        client.post(
            "/dicom-web/studies", content=body, headers={**headers, "Content-Type": "application/dicom"}
        ).status_code
        == 415
    )
    assert client.post("/dicom-web/studies", content=b"nothing", headers=headers).status_code == 400
    monkeypatch.setattr("fabrica.serve.stow.LARGEST", 1000)
    assert client.post("/dicom-web/studies", content=b"x" * 2000, headers=headers).status_code == 413
    assert intake.series() == []
    told = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert told.status_code == 200
    assert "# TYPE fabrica_series gauge" in told.text


def test_a_bomb_is_not_opened(web: tuple[TestClient, Intake], tmp_path: Path) -> None:
    """Deflated: a few bytes become gigabytes before anything can be asked of them."""
    client, intake = web
    ds = pydicom.dcmread(write_series(tmp_path / "scan", *head())[0])
    ds.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    assert DEFLATED.search(content)
    padded = content.replace(
        b"\x02\x00\x02\x00UI",
        b"\x02\x00\x01\x00OB\x00\x00" + (3000).to_bytes(4, "little") + b"\0" * 3000 + b"\x02\x00\x02\x00UI",
        1,
    )
    for one in (content, padded):  # however far back in its head it says so
        body, headers = _multipart([one])
        assert client.post("/dicom-web/studies", content=body, headers=headers).status_code == 409
    assert intake.series() == []


def test_a_body_of_no_stated_length_is_for_images_alone(web: tuple[TestClient, Intake]) -> None:
    client, _ = web
    assert client.post("/series/x/verdict", content=iter([b"x" * 10] * 10)).status_code == 413


def test_parts_of_bodies() -> None:
    body, _ = _multipart([b"one\r\n\r\ntwo", b""])
    assert list(parts_of(body, "edge")) == [b"one\r\n\r\ntwo", b""]
    assert list(parts_of(b"--edge\r\nno end", "edge")) == []


def _started(rules: Path, store: Path, log: Path) -> tuple[subprocess.Popen[bytes], int, str]:
    """`fabrica serve` as a process: (it, its DICOM port, the address of its page)."""
    command = [
        sys.executable,
        "-m",
        "fabrica",
        "serve",
        str(rules),
        "--caller",
        "SCANNER",
        "--port",
        "0",
        "--page",
        "0",
        "--quiet",
        "0.3",
        "--store",
        str(store),
    ]
    with log.open("w") as out:
        running = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "COLUMNS": "200"})
    address = _until(lambda: re.search(r"Open (http://\S+)", log.read_text()))
    port = re.search(r"listens at 127\.0\.0\.1:(\d+)", log.read_text())
    assert port
    return running, int(port[1]), address[1]


def test_it_is_killed_and_started_again_and_nothing_is_lost(rules: Path, tmp_path: Path) -> None:
    """kill -9 while images arrive, and again while it draws: what was acknowledged is answered once."""
    store, scan = tmp_path / "store", tmp_path / "scan"
    write_series(scan, *LARGE)
    running, port, _ = _started(rules, store, tmp_path / "log1")
    first = sorted(scan.glob("*.dcm"))
    command = [program("storescu"), "-aet", "SCANNER", "-aec", "FABRICA", "127.0.0.1", str(port), *map(str, first[:5])]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert Intake(store / "node").series()[0].instances == 5
    running, port, _ = _started(rules, store, tmp_path / "log2")
    assert _send(port, scan) == 0
    intake = Intake.__new__(Intake)
    intake._rows = Database.in_file(
        store / "node" / "node.sqlite", MODELS
    )  # looked at from outside: opening it anew would say that nobody draws
    _until(lambda: intake.series("drawing"))
    running.send_signal(signal.SIGKILL)
    running.wait()
    running, port, address = _started(rules, store, tmp_path / "log3")
    try:
        (one,) = _until(lambda: intake.series("prepared"))
        assert one.instances == 8
        outbox = Outbox(store)
        (series,) = outbox.series()
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with browser.open(address, timeout=20) as page:
            assert "SYNTHETIC CT from T1w" in page.read().decode()
        outbox.judge(series.uid, "accept", "looks right", "Dr. A")
        _until(lambda: len(list((tmp_path / "there").rglob("*.dcm"))) == 9)
        _until(lambda: outbox.waiting(Folder(tmp_path / "there").name) == [])
        second = subprocess.run(
            [sys.executable, "-m", "fabrica", "serve", str(rules), "--caller", "SCANNER", "--port", "0", "--page", "0", "--store", str(store)], capture_output=True, text=True, check=False
        )  # fmt: skip
        assert second.returncode == 2
        assert "Another node serves" in second.stderr + second.stdout
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) is not None
        assert "Stopping" in (tmp_path / "log3").read_text()
    finally:
        running.kill()
        running.wait()


def test_what_was_stopped_was_no_try_and_what_is_sent_again_is_asked_again(node: Node, tmp_path: Path) -> None:
    """A node that is stopped as often as anybody likes gives no series up; one that failed is drawn again when it comes
    again.
    """
    files = write_series(tmp_path / "scan", *LARGE)
    _keep(node.intake, files)
    for _ in range(3):
        node.settle()

    def stopped(rule: object, one: object, out: Path) -> str:
        node.stopped.set()
        return "the drawing ended with -15"

    node._drawn = stopped  # type: ignore[method-assign]
    for _ in range(5):
        node.answer()
        (one,) = node.intake.series("waiting")
        assert one.tries == 0
    node.stopped.clear()
    node._drawn = lambda rule, one, out: "a fault of the run"  # type: ignore[method-assign]
    node.answer()
    node.answer()
    assert node.intake.series()[0].state == "failed"
    _keep(node.intake, files[:1])
    (one,) = node.intake.series("arriving")
    assert (one.tries, one.reason, one.instances) == (0, "", 8)


def test_a_drawing_that_starts_while_the_node_is_stopped_is_ended(
    node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would be waited for, for hours."""
    asked: list[list[str]] = []
    started = subprocess.Popen

    def sleeping(command: list[str], **more: Any) -> Any:
        asked.append(command)
        return started(["/bin/sleep", "600"], **more)

    monkeypatch.setattr("fabrica.serve.node.subprocess.Popen", sleeping)
    node.intake.keep("1.2", "1.3", "1.4", b"one")
    node.stopped.set()
    began = time.monotonic()
    assert node._drawn(node.rules[0], node.intake.series()[0], tmp_path / "out") == "the drawing ended with -15: "
    assert time.monotonic() - began < 60
    assert asked[0][2:4] == ["fabrica", "generate"]


def test_a_step_that_fails_stops_no_other(node: Node) -> None:
    """Until it is stopped; a drawing under way is ended."""
    done: list[str] = []
    said: list[str] = []
    node.say = said.append

    def failing() -> None:
        done.append("failing")
        raise RuntimeError("a fault nobody thought of")

    def ending() -> None:
        done.append("ending")
        if len(done) >= 6:
            node.stop()

    node.settle, node.hand_out, node.answer = failing, ending, lambda: None  # type: ignore[method-assign]
    node.run(every_s=0.01)
    assert done == ["failing", "ending"] * 3
    assert said == ["failing: RuntimeError: a fault nobody thought of"] * 3


def test_what_no_rule_fits_or_ended_the_node_before_is_not_drawn(node: Node, tmp_path: Path) -> None:
    _keep(node.intake, write_series(tmp_path / "ct", *LARGE, Modality="CT"))
    for _ in range(3):
        node.settle()
    assert node.intake.series()[0].reason.startswith("no rule fits (rule 1: modality is CT")
    uid = node.intake.series()[0].uid
    node.intake.move(uid, "waiting")
    node.answer()
    assert "no rule fits" in node.intake.series()[0].reason
    for _ in range(2):
        node.intake.move(uid, "waiting")
        assert node.intake.begin(uid)
    node.intake.move(uid, "waiting")
    node.answer()
    assert node.intake.series()[0].state == "failed"
