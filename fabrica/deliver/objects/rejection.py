"""That a delivered series is withdrawn: a Key Object Selection, as archives know it (IHE IOCM, PS3.3 A.35.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .marking import FIRST_NUMBER, MARK, Series, library, same_each_time, uid_of

TITLE = ("113001", "DCM", "Rejected for Quality Reasons")
NUMBER = FIRST_NUMBER + 990


def rejection(datasets: Sequence[Any], reason: str, person: str, when: str) -> Series:
    """A Key Object of all instances of a series, with who rejected it, why and when (ISO 8601).

    It is a person's word and no drawn image: Synthetic Data is NO, for research as what it is about.
    Raises ValueError where highdicom is not installed.
    """
    hd, first = library(), datasets[0]
    known = {"rejected": str(first.SeriesInstanceUID), "reason": reason, "person": person, "when": when}
    content = hd.ko.KeyObjectSelection(
        document_title=hd.sr.CodedConcept(*TITLE), referenced_objects=list(datasets), description=reason[:1000],
        observer_person_context=hd.sr.ObserverContext(
            observer_type=hd.sr.CodedConcept("121006", "DCM", "Person"),
            observer_identifying_attributes=hd.sr.PersonObserverIdentifyingAttributes(name=person_name(person)),
        ),
    )  # fmt: skip
    ds = hd.ko.KeyObjectSelectionDocument(
        evidence=list(datasets), content=content, series_instance_uid=uid_of(known), series_number=NUMBER,
        sop_instance_uid=uid_of({**known, "instance": 1}), instance_number=1, manufacturer="Fabrica",
    )  # fmt: skip
    ds.SyntheticData, ds.ContentQualification = "NO", "RESEARCH"
    ds.SeriesDescription = f"REJECTED {MARK} series"[:64]
    return Series(uid_of(known), (same_each_time(ds, known, when),))


def person_name(text: str) -> str:
    """A name as people write it, as DICOM does: the last word is the family's."""
    words = text.replace("^", " ").replace("\\", " ").replace("=", " ").split()
    return "^".join([words[-1], " ".join(words[:-1])])[:64].rstrip("^") if words else "UNKNOWN"
