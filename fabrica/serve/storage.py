"""A DICOM node that takes images in: C-ECHO and C-STORE of callers that are known (PS3.4 A, B)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..deliver.destinations.dimse import Certificates
from ..machine.addresses import is_loopback
from .intake import ClashError, Intake

OUT_OF_RESOURCES, NO_MATCH, NOT_UNDERSTOOD, CLASH = 0xA700, 0xA900, 0xC000, 0x0111  # statuses (PS3.4 B.2.3)
LEVELS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
ALL_SYNTAXES = [
    "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.5",
    # Not the deflated one: a few bytes of it become gigabytes.
]  # fmt: skip
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Door:
    """Where and as whom it listens, and whom it lets in. Raises ValueError for no caller: nobody is let in unnamed."""

    title: str
    port: int
    callers: Sequence[str]
    address: str = "127.0.0.1"
    tls: Certificates | None = None  # mutual; asked for where it listens beyond this machine

    def __post_init__(self) -> None:
        if not self.callers:
            raise ValueError("No caller is named: nobody could send. Write --caller AE")
        for title in (self.title, *self.callers):
            if not 0 < len(title.strip()) <= 16:
                raise ValueError(f"{title!r} is no name of a node: 1 to 16 letters.")
        if not is_loopback(self.address) and self.tls is None:
            raise ValueError(f"{self.address} would get patients unencrypted. Give certificates: --tls DIR")


@contextmanager
def listening(door: Door, intake: Intake, say: Say) -> Iterator[int]:
    """Takes images in for as long as it is held; the port. What is acknowledged is on disk."""
    import ssl

    from pynetdicom import AE, AllStoragePresentationContexts, evt
    from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    entity = AE(ae_title=door.title)
    entity.require_called_aet, entity.require_calling_aet = True, list(door.callers)
    entity.maximum_associations = 16
    entity.add_supported_context(Verification)
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax), ALL_SYNTAXES)
    secured = None
    if door.tls is not None:
        try:
            secured = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(door.tls.ca))
            secured.load_cert_chain(str(door.tls.certificate), str(door.tls.key))
        except OSError as error:
            folder = door.tls.ca.parent
            raise ValueError(f"{folder} holds no ca.crt, node.crt and node.key that fit ({error.strerror}).") from error
        secured.verify_mode = ssl.CERT_REQUIRED
    handlers: list[Any] = [(evt.EVT_C_STORE, lambda event: _stored(event, intake, say))]
    try:
        server: Any = entity.start_server(
            (door.address, door.port),
            block=False,
            evt_handlers=handlers,
            ssl_context=secured,
        )
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else "ports are 0 to 65535"
        raise ValueError(f"Port {door.port} cannot be listened on ({why}). Type: --port 0") from error
    try:
        yield int(server.socket.getsockname()[1])
    finally:
        server.shutdown()


def _stored(event: Any, intake: Intake, say: Say) -> int:
    """One instance of a C-STORE."""

    def keep() -> int:
        study, series, instance = (str(event.dataset.get(name, "")) for name in LEVELS)
        if instance != str(event.request.AffectedSOPInstanceUID):
            return NO_MATCH
        intake.keep(study, series, instance, event.encoded_dataset())
        return 0x0000

    return status(keep, say)


def status(keep: Callable[[], int], say: Say) -> int:
    """The answer to whoever sent an instance: success only where it is on disk. No word of it is said: it may name a
    patient.
    """
    try:
        return keep()
    except ClashError as error:
        say(f"An image was refused: {error}.")
        return CLASH
    except OSError as error:
        say(f"An image was refused: it cannot be written ({error.strerror}).")
        return OUT_OF_RESOURCES
    except Exception as error:  # whatever a stranger's bytes do to a parser
        say(f"An image was refused: it cannot be understood ({type(error).__name__}).")
        return NOT_UNDERSTOOD
