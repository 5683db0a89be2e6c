"""A DICOMweb server: STOW-RS to store, WADO-RS to read back (PS3.18)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ...machine.addresses import is_loopback
from .destination import EXTRA, Destination, UnreachableError


@dataclass(frozen=True, slots=True)
class Login:
    """How a server knows us; the words themselves, never written anywhere."""

    user: str = ""
    password: str = ""
    token: str = ""

    @staticmethod
    def of_environment() -> Login:
        """FABRICA_PACS_USER and _PASSWORD, or _TOKEN."""
        return Login(*(os.environ.get(f"FABRICA_PACS_{word}", "") for word in ("USER", "PASSWORD", "TOKEN")))


class Dicomweb(Destination):
    """`ca`: a certificate that the server's is signed by, where it is no public one."""

    witness = "stored by STOW, read back, equal"

    def __init__(self, url: str, login: Login | None = None, ca: Path | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a DICOMweb server. Write dicomweb:https://HOST/dicom-web")
        if parts.username or parts.password:
            raise ValueError("A password is no part of an address: set FABRICA_PACS_USER, FABRICA_PACS_PASSWORD.")
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise ValueError(f"{parts.hostname} would get patients unencrypted. Write https://")
        self.url, self.name, self.ca = url, f"dicomweb:{url}", ca
        self.login = Login.of_environment() if login is None else login

    def _client(self) -> Any:
        try:
            import requests
            from dicomweb_client.api import DICOMwebClient
        except ImportError as error:
            raise UnreachableError(EXTRA) from error
        session = requests.Session()
        if self.login.token:
            session.headers["Authorization"] = f"Bearer {self.login.token}"
        elif self.login.user:
            session.auth = (self.login.user, self.login.password)
        if self.ca is not None:
            session.verify = str(self.ca)
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
