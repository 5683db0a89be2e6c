"""Audit messages of what was done, as hospitals collect them (PS3.15 A.5.3, RFC 5424 carries them)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from xml.etree import ElementTree as Tree

from .ledger import Line

EVENTS = {  # what -> (code, meaning, action: create, read, update, delete, execute)
    "made": ("110100", "Application Activity", "C"),
    "judged": ("110103", "DICOM Instances Accessed", "R"),
    "delivered": ("110104", "DICOM Instances Transferred", "R"),
    "annulled": ("110100", "Application Activity", "U"),
    "exported": ("110106", "Export", "R"),
}
OF_NOBODY = {  # events about no study: what -> (event, type of event, action)
    "entered": (("110114", "User Authentication"), ("110122", "Login"), "E"),
    "configured": (("110113", "Security Alert"), ("110131", "Software Configuration"), "E"),
    "cancelled": (("110100", "Application Activity"), ("cancelled", "Work item cancelled"), "E"),
    "readers": (("110113", "Security Alert"), ("110131", "Software Configuration"), "E"),
}
SOURCE, DESTINATION = ("110153", "Source Role ID"), ("110152", "Destination Role ID")
APPLICATION = ("110150", "Application")
STUDY = ("110180", "Study Instance UID")


def messages(lines: Sequence[Line], studies: dict[str, str]) -> Iterator[bytes]:
    """One XML document for each run of lines that tell the same of a study, and for each that is about none (who came
    in, what was set); `studies`: of an instance or series.

    They name studies and people who judged, never patients: whoever may look a study up finds whose it is.
    """
    for (kind, when, to, who), group in groupby(lines, _event):
        if kind in OF_NOBODY:
            for line in group:
                yield _of_nobody(kind, when, failed=line.event.get("known") is False)
            continue
        about = sorted({studies[line.about] for line in group if line.about in studies})
        for study in about:
            yield _message(kind, when, to, who, study)


def _event(line: Line) -> tuple[str, str, str, str]:
    what, to = str(line.event["what"]), str(line.event.get("to", ""))
    kind = "exported" if what == "delivered" and to.startswith(("folder:", "bids:")) else what
    return kind, line.time[:19], to, str(line.event.get("person", ""))


def _message(kind: str, when: str, to: str, who: str, study: str) -> bytes:
    code, meaning, action = EVENTS[kind]
    who = "".join(c for c in who if c.isprintable())
    root = Tree.Element("AuditMessage")
    event = Tree.SubElement(
        root, "EventIdentification", EventActionCode=action, EventDateTime=f"{when}Z", EventOutcomeIndicator="0"
    )
    _code(event, "EventID", code, meaning)
    ours = Tree.SubElement(root, "ActiveParticipant", UserID="fabrica", UserIsRequestor=str(not who).lower())
    _code(ours, "RoleIDCode", *(APPLICATION if kind in ("made", "judged") else SOURCE))
    if who:
        Tree.SubElement(root, "ActiveParticipant", UserID=who, UserIsRequestor="true")
    if to:
        theirs = Tree.SubElement(root, "ActiveParticipant", UserID=to, UserIsRequestor="false")
        _code(theirs, "RoleIDCode", *DESTINATION)
    Tree.SubElement(root, "AuditSourceIdentification", AuditSourceID="fabrica")
    about = Tree.SubElement(
        root, "ParticipantObjectIdentification", ParticipantObjectID=study, ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole="3",
    )  # fmt: skip
    _code(about, "ParticipantObjectIDTypeCode", *STUDY)
    return bytes(Tree.tostring(root, encoding="utf-8", xml_declaration=True))


def _of_nobody(kind: str, when: str, *, failed: bool) -> bytes:
    (code, meaning), (of, words), action = OF_NOBODY[kind]
    root = Tree.Element("AuditMessage")
    outcome = "4" if failed else "0"  # a minor failure: somebody came with another token
    event = Tree.SubElement(
        root, "EventIdentification", EventActionCode=action, EventDateTime=f"{when}Z", EventOutcomeIndicator=outcome
    )
    _code(event, "EventID", code, meaning)
    _code(event, "EventTypeCode", of, words, "DCM" if of.isdigit() else "99FABRICA")
    ours = Tree.SubElement(root, "ActiveParticipant", UserID="fabrica", UserIsRequestor="true")
    _code(ours, "RoleIDCode", *APPLICATION)
    Tree.SubElement(root, "AuditSourceIdentification", AuditSourceID="fabrica")
    return bytes(Tree.tostring(root, encoding="utf-8", xml_declaration=True))


def _code(parent: Tree.Element, name: str, value: str, meaning: str, system: str = "DCM") -> None:
    Tree.SubElement(parent, name, {"csd-code": value, "codeSystemName": system, "originalText": meaning})
