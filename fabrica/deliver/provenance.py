"""Where an image came from, in the words that other programs read: W3C PROV (PROV-DM), as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .ledger import Line

OURS = ("fabrica", "urn:fabrica:")
EXTRA = 'Install what writes it: pip install -e ".[clinic]" -c constraints.txt'


def provenance(lines: Sequence[Line]) -> Any:
    """Sources, weights and recipe that instances were made from, by which run, who judged them, where they went.

    A `prov.model.ProvDocument`; its `serialize(format="json")` is PROV-JSON. Raises ValueError where prov is missing.
    """
    try:
        from prov.model import ProvDocument
    except ImportError as error:
        raise ValueError(f"prov is not installed. {EXTRA}") from error
    document = ProvDocument()
    document.add_namespace(*OURS)
    document.add_namespace("dicom", "urn:oid:")
    drawn = set[str]()  # series whose drawing was told
    for line in lines:
        if line.event["what"] == "made":
            _made(document, line, drawn)
            continue
        {"judged": _judged, "delivered": _delivered, "annulled": _annulled}[str(line.event["what"])](document, line)
    return document.unified()


def _made(document: Any, line: Line, drawn: set[str]) -> None:
    event = line.event
    instance = document.entity(
        f"dicom:{line.about}", {"prov:type": "DICOM instance", "fabrica:sha256": event["sha256"]}
    )
    series = document.collection(f"dicom:{event['series']}", {"prov:type": "DICOM series"})
    document.hadMember(series, instance)
    if "withdraws" in event:
        document.wasInfluencedBy(instance, f"dicom:{event['withdraws']}")
        return
    if "verifies" in event:
        document.wasDerivedFrom(instance, f"dicom:{event['verifies']}")
        return
    drawing = f"fabrica:drawing-{event['series']}"
    if event["series"] not in drawn:
        drawn.add(str(event["series"]))
        _drawing(document, drawing, event)
    document.wasGeneratedBy(instance, drawing)
    for source in event["sources"]:
        document.wasDerivedFrom(instance, f"dicom:{source}")


def _drawing(document: Any, name: str, event: Mapping[str, Any]) -> None:
    """Once for a series: by what, of what."""
    facts = {f"fabrica:{k}": str(event[k]) for k in ("run", "stage", "seed", "draw", "version") if k in event}
    drawing = document.activity(name, None, event.get("drawn") or None, facts)
    document.used(drawing, document.entity(f"fabrica:weights-{event['weights']}", {"prov:type": "model weights"}))
    document.used(drawing, document.entity(f"fabrica:recipe-{event['recipe']}", {"prov:type": "recipe"}))
    if event.get("cohort"):
        document.used(drawing, document.entity(f"fabrica:cohort-{event['cohort']}", {"prov:type": "training cohort"}))
    for source in event["sources"]:
        document.used(drawing, document.entity(f"dicom:{source}", {"prov:type": "DICOM instance"}))
    document.wasAssociatedWith(drawing, document.agent("fabrica:program", {"prov:type": "prov:SoftwareAgent"}))


def _annulled(document: Any, line: Line) -> None:
    document.wasInvalidatedBy(f"dicom:{line.about}", None, line.time)


def _judged(document: Any, line: Line) -> None:
    event = line.event
    facts = {"fabrica:verdict": event["verdict"], "fabrica:reason": event["reason"]}
    judging = document.activity(f"fabrica:judging-{line.number}", line.time, line.time, facts)
    person = document.agent(
        f"fabrica:person-{line.number}", {"prov:type": "prov:Person", "prov:label": event["person"]}
    )
    document.used(judging, f"dicom:{line.about}")
    document.wasAssociatedWith(judging, person)


def _delivered(document: Any, line: Line) -> None:
    facts = {"fabrica:to": line.event["to"], "fabrica:witness": line.event["witness"]}
    delivery = document.activity(f"fabrica:delivery-{line.number}", line.time, line.time, facts)
    document.used(delivery, f"dicom:{line.about}")
