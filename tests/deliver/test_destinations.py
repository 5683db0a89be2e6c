"""Destinations of `pacs.yaml`: commitment, C-MOVE and mutual TLS with Orthanc, a second peer, BIDS, and wrong words."""

import gc
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import requests
from pydicom.dataset import Dataset

from fabrica import io
from fabrica.deliver.delivery import deliver
from fabrica.deliver.destinations.bids import Bids
from fabrica.deliver.destinations.destination import UnreachableError
from fabrica.deliver.destinations.dicomweb import Dicomweb, Login
from fabrica.deliver.destinations.dimse import Certificates, Dimse, Manners
from fabrica.deliver.destinations.folder import Folder
from fabrica.deliver.destinations.settings import destination, told
from fabrica.deliver.outbox import Outbox
from fabrica.deliver.record import Record
from fabrica.generate.handover import hand_over

from ..servers import free_port
from .conftest import Archive, program, started


@pytest.fixture
def filled(record: Record, tmp_path: Path) -> tuple[Outbox, str]:
    outbox = Outbox(tmp_path / "outbox")
    (uid,) = hand_over(record, outbox, say=lambda _: None)
    return outbox, uid


def _written(folder: Path, text: str) -> Path:
    path = folder / "pacs.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("retrieve", ["get", "move"])
def test_an_archive_commits_itself_and_gives_it_back(retrieve: str, filled: tuple[Outbox, str], tmp_path: Path) -> None:
    outbox, uid = filled
    (tmp_path / "orthanc").mkdir()
    with started(tmp_path / "orthanc") as archive:
        to = told(_written(tmp_path, f"""
            {{kind: dimse, host: 127.0.0.1, port: {archive.dicom}, called_ae: TESTPACS, commitment: true, retrieve: {retrieve}, listen: {archive.ours}}}
        """))  # fmt: skip
        outbox.enqueue(uid, to.name, unreviewed=True)
        said: list[str] = []
        assert deliver(outbox, to, said.append, wait_s=0.1) == 0, said
        (line,) = [x for x in outbox.trace(outbox.files(uid)[0].stem) if x.event["what"] == "delivered"]
        assert line.event["witness"] == "committed, read back, equal"


def test_what_an_archive_does_not_commit_itself_to_still_waits(filled: tuple[Outbox, str], archive: Archive) -> None:
    """Asked to keep what it was never sent: it says so, by name."""
    outbox, uid = filled
    files = outbox.files(uid)
    to = Dimse("TESTPACS", "127.0.0.1", archive.dicom, Manners(commitment=True, listen=archive.ours))
    to.store(files[1:])
    errors = to.commit(files)
    assert set(errors) == {files[0].stem}
    assert "reason 0x0112" in errors[files[0].stem]


def test_an_archive_that_says_nothing_of_commitment_is_unreachable(
    filled: tuple[Outbox, str], archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows another port of ours: its answer goes nowhere."""
    outbox, uid = filled
    monkeypatch.setattr("fabrica.deliver.destinations.destination.TIMEOUT_S", 2)
    to = Dimse("TESTPACS", "127.0.0.1", archive.dicom, Manners(commitment=True, listen=free_port()))
    outbox.enqueue(uid, to.name, parts=False, unreviewed=True)
    said: list[str] = []
    assert deliver(outbox, to, said.append, tries=1) == 4
    assert any("does not say whether it keeps" in line for line in said)


@pytest.mark.parametrize("answer", ["abort", "out of resources"])
def test_what_an_archive_does_not_answer_for_is_an_error_by_its_name(
    answer: str, filled: tuple[Outbox, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An association that breaks after the first image, and one that refuses the second: what was kept is not in doubt."""
    from pynetdicom import AE, evt
    from pynetdicom.presentation import StoragePresentationContexts

    monkeypatch.setattr("fabrica.deliver.destinations.destination.TIMEOUT_S", 5)
    outbox, uid = filled
    files, kept, asked = outbox.files(uid), list[str](), count(1)

    def heard(event: Any) -> int:
        if next(asked) == 2:
            if answer == "out of resources":
                return 0xA700
            event.assoc.abort()
            return 0x0000
        kept.append(str(event.dataset.SOPInstanceUID))
        return 0x0000

    node, port = AE("TESTPACS"), free_port()
    node.supported_contexts = StoragePresentationContexts
    server = node.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, heard)])
    try:
        errors = Dimse("TESTPACS", "127.0.0.1", port, Manners()).store(files)
    finally:
        server.shutdown()
    assert kept[0] == files[0].stem
    lost = files[1:] if answer == "abort" else files[1:2]
    assert set(errors) == {file.stem for file in lost}
    assert answer == "abort" or errors[files[1].stem] == "C-STORE: 0xa700"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's and a client's, each signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("certificates")
    for name in ("server", "client", "stranger"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        made = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(datetime.now(UTC) - timedelta(1))
            .not_valid_after(datetime.now(UTC) + timedelta(2))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")]), False)
            .add_extension(x509.BasicConstraints(True, None), True).sign(key, hashes.SHA256())
        )  # fmt: skip
        (folder / f"{name}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return folder


@pytest.fixture(scope="module")
def guarded(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    more = {
        "DicomTlsEnabled": True, "DicomTlsPrivateKey": str(certificates / "server.key"), "DicomTlsCertificate": str(certificates / "server.crt"),
        "DicomTlsTrustedCertificates": str(certificates / "client.crt"), "DicomTlsRemoteCertificateRequired": True,
    }  # fmt: skip
    with started(tmp_path_factory.mktemp("guarded"), **more) as running:
        yield running


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # pynetdicom leaves a refused socket open
def test_mutual_tls_delivers_and_strangers_are_refused(
    filled: tuple[Outbox, str], guarded: Archive, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, uid = filled
    to = told(_written(certificates, f"""
        kind: dimse
        host: 127.0.0.1
        port: {guarded.dicom}
        called_ae: TESTPACS
        tls: {{ca: server.crt, certificate: client.crt, key: client.key}}
    """))  # fmt: skip
    outbox.enqueue(uid, to.name, unreviewed=True)
    said: list[str] = []
    assert deliver(outbox, to, said.append, wait_s=0.1) == 0, said
    monkeypatch.setattr("fabrica.deliver.destinations.destination.TIMEOUT_S", 2)
    ours = Certificates(certificates / "server.crt", certificates / "stranger.crt", certificates / "stranger.key")
    for tls in (None, ours, replace(ours, ca=certificates / "client.crt")):
        other = Dimse("TESTPACS", "127.0.0.1", guarded.dicom, Manners(tls=tls))
        with pytest.raises(UnreachableError, match="refuses or does not answer"):
            other.store(outbox.files(uid))
    with pytest.raises(UnreachableError, match="certificates cannot be used"):
        Dimse("TESTPACS", "127.0.0.1", guarded.dicom, Manners(tls=replace(ours, key=certificates / "none.key"))).store(
            outbox.files(uid)
        )
    gc.collect()  # here, where the warning is expected, and not in whatever test comes next


@pytest.fixture
def second_peer(tmp_path: Path) -> Iterator[int]:
    """DCMTK's archive, which is another code than Orthanc's."""
    port, folder = free_port(), tmp_path / "dcmqrdb"
    folder.mkdir()
    (tmp_path / "q.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\nHostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nQRTEST {folder} RW (200, 1024mb) ANY\nAETable END\n"
    )
    running = subprocess.Popen(
        [program("dcmqrscp"), "-c", str(tmp_path / "q.cfg")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    yield port
    running.terminate()
    running.wait(10)


def test_another_archive_keeps_it_as_well(filled: tuple[Outbox, str], second_peer: int) -> None:
    outbox, uid = filled
    to = destination(f"dimse:QRTEST@127.0.0.1:{second_peer}")
    outbox.enqueue(uid, to.name, unreviewed=True)
    said: list[str] = []
    assert deliver(outbox, to, said.append, wait_s=0.1) == 0, said


def test_a_bids_data_set_holds_the_voxels_where_they_were(filled: tuple[Outbox, str], tmp_path: Path) -> None:
    outbox, uid = filled
    to = destination(f"bids:{tmp_path / 'set'}")
    outbox.enqueue(uid, to.name, parts=to.parts, unreviewed=True)
    assert deliver(outbox, to, lambda _: None) == 0
    (path,) = (tmp_path / "set").rglob("*.nii.gz")
    assert re.fullmatch(
        r"sub-GEN0001\w{8}/ses-\w{8}/ct/sub-GEN0001\w{8}_ses-\w{8}_desc-synthetic_CT.nii.gz",
        str(path.relative_to(tmp_path / "set")),
    )
    beside = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
    assert (beside["SyntheticData"], beside["SeriesInstanceUID"]) == ("YES", uid)
    assert json.loads((tmp_path / "set" / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    image, ours = nibabel.load(path), io.read_image(path)
    first = pydicom.dcmread(outbox.files(uid)[0])
    assert np.array_equal(image.get_fdata()[:, :, 0].T, first.pixel_array)
    corner = np.diag([-1, -1, 1, 1]) @ image.affine @ [0, 0, 0, 1]
    assert np.allclose(corner[:3], np.array(first.ImagePositionPatient, float), atol=1e-3)
    assert ours.data.shape[1:] == (4, *first.pixel_array.shape)
    path.write_bytes(b"other")
    assert to.arrived({p.stem: p for p in outbox.files(uid)}, [outbox.files(uid)[0].stem])[outbox.files(uid)[0].stem]
    outbox_of_maps = outbox.files(outbox.parts(uid)[0])
    assert "no place in BIDS" in next(iter(to.store(outbox_of_maps).values()))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: ftp", "says no kind"), ("[", "is no YAML"), ("kind: folder", "path is missing"), ("{kind: folder, path: x, port: 3}", "port is not known"),
        ("{kind: dimse, host: h, port: 104}", "called_ae is missing"), ("{kind: dimse, host: h, port: true, called_ae: A}", "port is True"),
        ("{kind: dimse, host: h, port: 99999, called_ae: A}", "port is 99999"), ("{kind: dimse, host: h, port: 104, called_ae: ABCDEFGHIJKLMNOPQ}", "no name of a node"),
        ("{kind: dimse, host: h, port: 104, called_ae: A, commitment: yes please}", "commitment is"), ("{kind: dimse, host: h, port: 104, called_ae: A, commitment: true}", "listen: 11113"),
        ("{kind: dimse, host: h, port: 104, called_ae: A, retrieve: push}", "retrieve is"), ("{kind: dimse, host: h, port: 104, called_ae: A, tls: on}", "tls is no list"),
        ("{kind: dimse, host: h, port: 104, called_ae: A, tls: {ca: x}}", "certificate is missing"), ("{kind: dicomweb, url: 'https://h/x', password: hunter2}", "stands in the file"),
        ("{kind: dicomweb, url: 'https://h/x', token: 'env:NOT_SET_HERE'}", "is not set"), ("{kind: dicomweb, url: 'http://h/x'}", "unencrypted"),
    ],
)  # fmt: skip
def test_settings_that_are_wrong_are_refused_in_one_line(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        told(_written(tmp_path, text))
    assert "pacs.yaml" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_settings_that_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_TOKEN", "s3cret")
    folder, bids = (
        told(_written(tmp_path, "{kind: folder, path: out}")),
        told(_written(tmp_path, "{kind: bids, path: out}")),
    )
    assert isinstance(folder, Folder)
    assert folder.path == tmp_path / "out"
    assert isinstance(bids, Bids)
    web = destination(
        str(_written(tmp_path, "{kind: dicomweb, url: 'https://h/x', token: 'env:PACS_TOKEN', ca: root.crt}"))
    )
    assert isinstance(web, Dicomweb)
    assert (web.login.token, web.ca) == ("s3cret", tmp_path / "root.crt")
    assert "s3cret" not in web.name
    with pytest.raises(ValueError, match="There is no file"):
        destination(str(tmp_path / "none.yaml"))


def test_a_web_server_is_told_who_asks_and_what_it_refuses_is_said(
    filled: tuple[Outbox, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a token, or by name and password; one is refused, one is not spoken of, one is stored; a code is said."""
    outbox, uid = filled
    (tmp_path / "ca.crt").write_text("a certificate")
    session = Dicomweb("https://pacs.example/x", Login(token="t"), tmp_path / "ca.crt")._client()._session
    assert (session.headers["Authorization"], session.verify) == ("Bearer t", str(tmp_path / "ca.crt"))
    assert Dicomweb("https://pacs.example/x", Login("me", "quiet"))._client()._session.auth == ("me", "quiet")
    files = outbox.files(uid)[:3]
    refused, stored = Dataset(), Dataset()
    refused.ReferencedSOPInstanceUID, refused.FailureReason = files[0].stem, 0x0110
    stored.ReferencedSOPInstanceUID = files[1].stem
    answer = Dataset()
    answer.FailedSOPSequence, answer.ReferencedSOPSequence = [refused], [stored]
    to = Dicomweb("https://pacs.example/x", Login())
    monkeypatch.setattr(to, "_client", lambda: SimpleNamespace(store_instances=lambda datasets: answer))
    assert to.store(files) == {
        files[0].stem: "refused, reason 0x0110", files[2].stem: "the server does not say that it was stored",
    }  # fmt: skip

    def failing(*_: object) -> None:
        raise requests.HTTPError(response=SimpleNamespace(status_code=503))  # type: ignore[arg-type]

    monkeypatch.setattr(to, "_client", lambda: SimpleNamespace(store_instances=failing, retrieve_series=failing))
    with pytest.raises(UnreachableError, match=r"https://pacs.example/x answers 503\."):
        to.store(files)
    with pytest.raises(UnreachableError, match="answers 503"):
        list(to.fetch("1.2", "1.3"))
