"""A report of values that people accepted: a verified version, which supersedes the one that the model wrote alone."""

from __future__ import annotations

from .objects.rejection import person_name
from .objects.report import verified
from .outbox import Outbox


def verify(outbox: Outbox, series: str) -> str | None:
    """UID of the verified report of a series that stands accepted by these persons, made where there is none yet;
    nothing where it is no report, or has not been accepted by as many as are asked. It goes where the report goes; one
    that others, or a withdrawn acceptance, stood for goes nowhere any more.
    """
    import pydicom

    (found,) = outbox.series(outbox.main_of(series)) or (None,)
    if found is None or found.verdict != "accept":
        return None
    first = pydicom.dcmread(outbox.files(found.uid)[0])
    if first.Modality != "SR":
        return None
    accepted = outbox.acceptances(found.uid)
    standing = None
    for part in outbox.parts(found.uid):
        known = pydicom.dcmread(outbox.files(part)[0], stop_before_pixels=True)
        if known.get("VerificationFlag") != "VERIFIED":
            continue
        told = [(str(o.VerifyingObserverName), str(o.VerificationDateTime)) for o in known.VerifyingObserverSequence]
        if [name for name, _ in told] == [person_name(p) for p, _ in accepted] and not _rejected_since(outbox, part):
            standing = part
        else:
            outbox.annul(part)
    if standing is not None:
        return standing
    made = verified(first, accepted)
    event = {"verifies": found.uid, "persons": [person for person, _ in accepted], "reason": found.reason}
    outbox.add(made, [], event, part_of=found.uid)
    return made.uid


def _rejected_since(outbox: Outbox, part: str) -> bool:
    """Whether anybody has rejected what a part goes with after it was made."""
    made = outbox.trace(part)[0].number
    main = outbox.main_of(part)
    return any(
        line.number > made and line.event.get("what") == "judged" and line.event.get("verdict") == "reject"
        for line in outbox.trace(main)
    )
