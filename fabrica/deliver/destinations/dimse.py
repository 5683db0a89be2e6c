"""A DICOM node: C-STORE, storage commitment, and C-GET or C-MOVE to read back (PS3.4 B, C, J)."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import destination
from .destination import EXTRA, Destination, UnreachableError

COMMITMENT = "1.2.840.10008.1.20.1"  # Storage Commitment Push Model; its well-known instance has one number more
Retrieve = Literal["get", "move"]


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of mutual TLS: who signed the node's certificate, and our own with its key."""

    ca: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Raises UnreachableError where they cannot be read."""
        try:
            context = ssl.create_default_context(cafile=str(self.ca))
            context.load_cert_chain(str(self.certificate), str(self.key))
        except (OSError, ssl.SSLError) as error:
            raise UnreachableError(f"The certificates cannot be used ({error.strerror or error}).") from error
        return context


@dataclass(frozen=True, slots=True)
class Manners:
    """How a node is spoken to. `listen`: the port where its own calls arrive (commitment, C-MOVE), on `address`."""

    calling_ae: str = "FABRICA"
    tls: Certificates | None = None
    commitment: bool = False
    retrieve: Retrieve = "get"
    listen: int = 0
    address: str = "127.0.0.1"


class Dimse(Destination):
    """Raises ValueError for manners that need a port to listen on and have none."""

    def __init__(self, title: str, host: str, port: int, manners: Manners | None = None) -> None:
        manners = manners or Manners(os.environ.get("FABRICA_AE", "FABRICA"))
        if (manners.commitment or manners.retrieve == "move") and not manners.listen:
            raise ValueError("commitment and retrieve: move need a port where the node's calls arrive: listen: 11113")
        self.title, self.host, self.port, self.manners = title, host, port, manners
        self.own, self.name = manners.calling_ae, f"dimse:{title}@{host}:{port}"
        self.witness = "committed, read back, equal" if manners.commitment else "read back, equal"

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
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = destination.TIMEOUT_S
        return entity

    def _associated(self, entity: Any, **more: Any) -> Any:
        try:
            socket.create_connection((self.host, self.port), 10).close()
        except OSError as error:
            raise UnreachableError(f"{self.name} does not answer ({error.strerror or error}).") from error
        if self.manners.tls is not None:
            more["tls_args"] = (self.manners.tls.context(), self.host)
        association = entity.associate(self.host, self.port, ae_title=self.title, **more)
        if not association.is_established:
            raise UnreachableError(f"{self.name} refuses or does not answer; it must know {self.own}.")
        return association

    def store(self, files: Sequence[Path]) -> Mapping[str, str]:
        import pydicom

        from ..objects.marking import EXPLICIT

        datasets = [pydicom.dcmread(file) for file in files]
        entity, errors = self._entity(), {}
        for kind in {str(ds.SOPClassUID) for ds in datasets}:
            entity.add_requested_context(kind, EXPLICIT)
        with _ended(self._associated(entity)) as association:
            for ds in datasets:
                try:
                    status = association.send_c_store(ds)
                except (RuntimeError, ValueError) as error:
                    errors[str(ds.SOPInstanceUID)] = str(error)[:200]
                    continue
                if not status or status.Status != 0:
                    said = f"{status.Status:#06x}" if status else "no answer"
                    errors[str(ds.SOPInstanceUID)] = f"C-STORE: {said}"
        if "no answer" in errors.get(str(datasets[0].SOPInstanceUID), ""):  # the association broke, nothing went out
            why = f"C-STORE: no answer; it may not know {self.own}"
            raise UnreachableError(f"{self.name} says nothing to what it is sent ({why}).")
        return errors

    def commit(self, files: Sequence[Path]) -> Mapping[str, str]:
        """N-ACTION, and the node's own call with its N-EVENT-REPORT; what it does not promise is an error."""
        if not self.manners.commitment or not files:
            return {}
        import pydicom
        from pydicom.uid import generate_uid

        asked = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
        transaction, told, answered = str(generate_uid(prefix="2.25.")), dict[str, str](), threading.Event()

        def heard(event: Any) -> tuple[int, Any]:
            information = event.event_information
            if str(information.get("TransactionUID")) == transaction:
                for item in information.get("FailedSOPSequence") or []:
                    told[str(item.ReferencedSOPInstanceUID)] = f"not committed, reason {int(item.FailureReason):#06x}"
                for item in information.get("ReferencedSOPSequence") or []:
                    told.setdefault(str(item.ReferencedSOPInstanceUID), "")
                answered.set()
            return 0x0000, None

        with self._listening(committed=heard):
            self._ask_commitment(asked, transaction)
            if not answered.wait(destination.TIMEOUT_S):
                raise UnreachableError(f"{self.name} does not say whether it keeps what it took (commitment).")
        every = {str(ds.SOPInstanceUID): told.get(str(ds.SOPInstanceUID), "not committed: not named") for ds in asked}
        return {uid: error for uid, error in every.items() if error}

    def _ask_commitment(self, asked: Sequence[Any], transaction: str) -> None:
        from pydicom.dataset import Dataset

        request = Dataset()
        request.TransactionUID, request.ReferencedSOPSequence = transaction, []
        for ds in asked:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
            request.ReferencedSOPSequence.append(item)
        entity = self._entity()
        entity.add_requested_context(COMMITMENT)
        with _ended(self._associated(entity)) as association:
            status, _ = association.send_n_action(request, 1, COMMITMENT, f"{COMMITMENT}.1")
        if not status or status.Status != 0:
            said = f"{status.Status:#06x}" if status else "no answer"
            raise UnreachableError(f"{self.name} does not take the question of commitment ({said}).")

    @contextmanager
    def _listening(
        self, committed: Callable[[Any], Any] | None = None, stored: Callable[[Any], int] | None = None
    ) -> Iterator[None]:
        """Our own node, for as long as another one calls back."""
        from pynetdicom import evt

        from ..objects import DELIVERED
        from ..objects.marking import EXPLICIT

        entity, handlers = self._entity(), list[Any]()
        if committed is not None:
            entity.add_supported_context(COMMITMENT, scu_role=False, scp_role=True)
            handlers.append((evt.EVT_N_EVENT_REPORT, committed))
        if stored is not None:
            for kind in DELIVERED:
                entity.add_supported_context(kind, EXPLICIT)
            handlers.append((evt.EVT_C_STORE, stored))
        where = (self.manners.address, self.manners.listen)
        try:
            server = entity.start_server(where, block=False, evt_handlers=handlers)
        except OSError as error:
            raise UnreachableError(f"Port {self.manners.listen} cannot be listened on ({error.strerror}).") from error
        try:
            yield
        finally:
            server.shutdown()

    def fetch(self, study: str, series: str) -> Iterator[Any]:
        found: list[Any] = []

        def kept(event: Any) -> int:
            ds = event.dataset
            ds.file_meta = event.file_meta
            found.append(ds)
            return 0

        if self.manners.retrieve == "get":
            self._get(study, series, kept)
        else:
            with self._listening(stored=kept):
                self._move(study, series)
        yield from found

    def _get(self, study: str, series: str, kept: Callable[[Any], int]) -> None:
        entity = self._entity()
        from pynetdicom import build_role, evt
        from pynetdicom.sop_class import (  # type: ignore[attr-defined]
            StudyRootQueryRetrieveInformationModelGet as Get,
        )

        from ..objects import DELIVERED
        from ..objects.marking import EXPLICIT

        entity.add_requested_context(Get)
        for kind in DELIVERED:
            entity.add_requested_context(kind, EXPLICIT)
        roles = [build_role(kind, scp_role=True) for kind in DELIVERED]
        with _ended(self._associated(entity, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, kept)])) as association:
            self._answers(lambda: association.send_c_get(_query(study, series), Get), "C-GET")

    def _move(self, study: str, series: str) -> None:
        entity = self._entity()
        from pynetdicom.sop_class import (  # type: ignore[attr-defined]
            StudyRootQueryRetrieveInformationModelMove as Move,
        )

        entity.add_requested_context(Move)
        with _ended(self._associated(entity)) as association:
            self._answers(lambda: association.send_c_move(_query(study, series), self.own, Move), "C-MOVE")

    def _answers(self, ask: Callable[[], Any], what: str) -> None:
        """Until the last; raises UnreachableError where they break off or the node knows no such question."""
        try:
            for status, _ in ask():
                if not status:
                    raise UnreachableError(f"{self.name} broke off while reading back.")
                if status.Status not in (0x0000, 0xFF00, 0xFF01) and status.Status & 0xF000 in (0xA000, 0xC000):
                    raise UnreachableError(f"{self.name} gives nothing back ({what}: {status.Status:#06x}).")
        except ValueError as error:
            raise UnreachableError(f"{self.name} gives nothing back ({error}): {what} is needed.") from error


@contextmanager
def _ended(association: Any) -> Iterator[Any]:
    """An association that is released when it is left, or aborted where it broke."""
    try:
        yield association
    finally:
        association.release() if association.is_established else association.abort()


def _query(study: str, series: str) -> Any:
    from pydicom.dataset import Dataset

    ds = Dataset()
    ds.QueryRetrieveLevel, ds.StudyInstanceUID, ds.SeriesInstanceUID = "SERIES", study, series
    return ds
