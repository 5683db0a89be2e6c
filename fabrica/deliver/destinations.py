"""Where objects go: a folder, a DICOMweb server, a DICOM node. Each says what arrived, and gives it back."""

from __future__ import annotations

import logging
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .outbox import write_whole

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EXTRA = 'Install what talks to it: pip install -e ".[clinic]" -c constraints.txt'
TIMEOUT_S = 60
HOW = "Write folder:DIR, dicomweb:URL or dimse:AE@HOST:PORT"


class UnreachableError(Exception):
    """A destination that does not answer, in words."""


class Destination(ABC):
    """A place that keeps objects."""

    name: str  # as the queue knows it

    @abstractmethod
    def store(self, files: Sequence[Path]) -> Mapping[str, str]:
        """SOP instance UID -> why it was not taken, for those that were not; raises UnreachableError."""

    @abstractmethod
    def fetch(self, study: str, series: str) -> Iterator[Any]:
        """What it keeps of a series, as data sets; nothing where it knows none. Raises UnreachableError."""


def destination(text: str) -> Destination:
    """From the command line; raises ValueError for what is none."""
    kind, _, where = text.partition(":")
    if kind == "folder" and where:
        return Folder(Path(where))
    if kind == "dicomweb" and where:
        return Dicomweb(where)
    if kind == "dimse" and where:
        return Dimse.of(where)
    raise ValueError(f"--to {text!r} is no destination. {HOW}")


class Folder(Destination):
    """Files below DIR/STUDY/SERIES."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, f"folder:{path.resolve()}"

    def store(self, files: Sequence[Path]) -> Mapping[str, str]:
        import pydicom

        errors = {}
        for file in files:
            header = pydicom.dcmread(file, stop_before_pixels=True)
            uid = str(header.SOPInstanceUID)
            target = self.path / str(header.StudyInstanceUID) / str(header.SeriesInstanceUID) / f"{uid}.dcm"
            content = file.read_bytes()
            if target.is_file() and target.read_bytes() != content:
                errors[uid] = f"{target} holds something else under this UID"
                continue
            try:
                write_whole(target, content)
            except OSError as error:
                raise UnreachableError(f"{self.path} cannot be written ({error.strerror}).") from error
        return errors

    def fetch(self, study: str, series: str) -> Iterator[Any]:
        import pydicom

        for file in sorted((self.path / study / series).glob("*.dcm")):
            yield pydicom.dcmread(file)


class Dicomweb(Destination):
    """STOW-RS and WADO-RS (PS3.18). User and password, or a token, come from FABRICA_PACS_USER, _PASSWORD, _TOKEN."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a DICOMweb server. Write dicomweb:https://HOST/dicom-web")
        if parts.username or parts.password:
            raise ValueError("A password is no part of an address: set FABRICA_PACS_USER, FABRICA_PACS_PASSWORD.")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ValueError(f"{parts.hostname} would get patients unencrypted. Write https://")
        self.url, self.name = url, f"dicomweb:{url}"

    def _client(self) -> Any:
        try:
            import requests
            from dicomweb_client.api import DICOMwebClient
        except ImportError as error:
            raise UnreachableError(EXTRA) from error
        session = requests.Session()
        if token := os.environ.get("FABRICA_PACS_TOKEN"):
            session.headers["Authorization"] = f"Bearer {token}"
        elif user := os.environ.get("FABRICA_PACS_USER"):
            session.auth = (user, os.environ.get("FABRICA_PACS_PASSWORD", ""))
        client = DICOMwebClient(url=self.url, session=session)
        client.set_http_retry_params(retry=False)
        return client

    def store(self, files: Sequence[Path]) -> Mapping[str, str]:
        import pydicom

        datasets = [pydicom.dcmread(file) for file in files]
        answer = self._asked(lambda client: client.store_instances(datasets))
        failed = {}
        for item in answer.get("FailedSOPSequence") or []:
            failed[str(item.ReferencedSOPInstanceUID)] = f"refused, reason {int(item.get('FailureReason', 0)):#06x}"
        taken = {str(item.ReferencedSOPInstanceUID) for item in answer.get("ReferencedSOPSequence") or []}
        for ds in datasets:
            if str(ds.SOPInstanceUID) not in taken | set(failed):
                failed[str(ds.SOPInstanceUID)] = "the server does not say that it was stored"
        return failed

    def fetch(self, study: str, series: str) -> Iterator[Any]:
        try:
            yield from self._asked(lambda client: client.retrieve_series(study, series))
        except UnreachableError as error:
            answer = getattr(error.__cause__, "response", None)  # of an HTTP error
            if answer is None or answer.status_code != 404:
                raise

    def _asked(self, ask: Any) -> Any:
        client = self._client()
        from requests import HTTPError, RequestException

        try:
            return ask(client)
        except HTTPError as error:
            code = error.response.status_code if error.response is not None else "?"
            raise UnreachableError(f"{self.url} answers {code}.") from error
        except (RequestException, OSError, ValueError) as error:
            raise UnreachableError(f"{self.url} does not answer as it should ({type(error).__name__}).") from error


class Dimse(Destination):
    """C-STORE, and C-GET to read back (PS3.4 B, C). Its own name is FABRICA_AE, or FABRICA."""

    def __init__(self, title: str, host: str, port: int) -> None:
        self.title, self.host, self.port = title, host, port
        self.own, self.name = os.environ.get("FABRICA_AE", "FABRICA"), f"dimse:{title}@{host}:{port}"

    @staticmethod
    def of(where: str) -> Dimse:
        title, at, rest = where.partition("@")
        host, colon, port = rest.rpartition(":")
        if not (at and colon and title and host and port.isdigit() and 0 < int(port) < 65536 and len(title) <= 16):
            raise ValueError(f"dimse:{where} is no DICOM node. Write dimse:AE@HOST:PORT")
        return Dimse(title, host, int(port))

    def _entity(self) -> Any:
        try:
            from pynetdicom import AE
        except ImportError as error:
            raise UnreachableError(EXTRA) from error
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # what matters is said in our words, once
        entity = AE(ae_title=self.own)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = TIMEOUT_S
        return entity

    def _associated(self, entity: Any, **more: Any) -> Any:
        try:
            socket.create_connection((self.host, self.port), 10).close()
        except OSError as error:
            raise UnreachableError(f"{self.name} does not answer ({error.strerror or error}).") from error
        association = entity.associate(self.host, self.port, ae_title=self.title, **more)
        if not association.is_established:
            raise UnreachableError(f"{self.name} refuses or does not answer; it must know {self.own}.")
        return association

    def store(self, files: Sequence[Path]) -> Mapping[str, str]:
        import pydicom

        from .objects.marking import EXPLICIT

        datasets = [pydicom.dcmread(file) for file in files]
        entity, errors = self._entity(), {}
        for kind in {str(ds.SOPClassUID) for ds in datasets}:
            entity.add_requested_context(kind, EXPLICIT)
        association = self._associated(entity)
        try:
            for ds in datasets:
                try:
                    status = association.send_c_store(ds)
                except (RuntimeError, ValueError) as error:
                    errors[str(ds.SOPInstanceUID)] = str(error)[:200]
                    continue
                if not status or status.Status != 0:
                    said = f"{status.Status:#06x}" if status else "no answer"
                    errors[str(ds.SOPInstanceUID)] = f"C-STORE: {said}"
        finally:
            association.release() if association.is_established else association.abort()
        if "no answer" in errors.get(str(datasets[0].SOPInstanceUID), ""):  # the association broke, nothing went out
            raise UnreachableError(f"{self.name} says nothing to what it is sent (C-STORE: no answer).")
        return errors

    def fetch(self, study: str, series: str) -> Iterator[Any]:
        entity = self._entity()
        from pydicom.dataset import Dataset
        from pynetdicom import build_role, evt
        from pynetdicom.sop_class import (  # type: ignore[attr-defined]
            StudyRootQueryRetrieveInformationModelGet as Get,
        )

        from .objects import DELIVERED
        from .objects.marking import EXPLICIT

        found: list[Any] = []

        def kept(event: Any) -> int:
            ds = event.dataset
            ds.file_meta = event.file_meta
            found.append(ds)
            return 0

        entity.add_requested_context(Get)
        for kind in DELIVERED:
            entity.add_requested_context(kind, EXPLICIT)
        roles = [build_role(kind, scp_role=True) for kind in DELIVERED]
        association = self._associated(entity, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, kept)])
        query = Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID, query.SeriesInstanceUID = "SERIES", study, series
        try:
            for status, _ in association.send_c_get(query, Get):
                if not status:
                    raise UnreachableError(f"{self.name} broke off while reading back.")
        except ValueError as error:
            raise UnreachableError(f"{self.name} gives nothing back ({error}): C-GET is needed.") from error
        finally:
            association.release() if association.is_established else association.abort()
        yield from found
