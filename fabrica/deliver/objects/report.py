"""Structured reports: what a model says of a case, and what was measured of it (PS3.16 TID 1500, 4019)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from ..record import Answer, Evidence
from .marking import (
    FIRST_NUMBER,
    MARK,
    SCHEME,
    Making,
    Series,
    library,
    moment,
    own_scheme,
    same_each_time,
    settled,
    uid_of,
)
from .rejection import person_name

UCUM = {
    "": "1",
    "HU": "[hnsf'U]",
    "dB": "dB",
    "mm": "mm",
    "s": "s",
    "%": "%",
    "Gy": "Gy",
    "ml": "ml",
    "SUV": "g/ml{SUVbw}",
}
NUMBER = FIRST_NUMBER + 950


def answer_report(making: Making, answers: Sequence[Answer]) -> Series:
    """A Comprehensive 3D SR of what a model says of a case, UNVERIFIED: each number a measurement by an algorithm.

    Raises ValueError where highdicom is not installed.
    """
    hd = library()
    known = {**making.known(), "answers": [[a.name, a.value, a.unit] for a in answers]}
    groups = [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=_tracked(hd, making, f"answer {k}", one.words()),
            measurements=[_measurement(hd, making, one.name, one.value, one.unit)],
        )
        for k, one in enumerate(answers)
    ]
    what = f"{making.drawn.contrast} from {making.given}"
    return _report(hd, making, groups, making.headers, known, NUMBER + 1, what)


def evidence_report(making: Making, about: Series) -> Series:
    """A Comprehensive 3D SR of the figures that the run reached on patients that training did not see, UNVERIFIED.

    Every figure is a measurement with the number of patients and its interval, none says that it is good enough. Where
    nothing was measured the report says NOT MEASURED. Raises ValueError where highdicom is not installed.
    """
    hd, record = library(), making.record
    known = {**making.known(), "report of": about.uid, "figures": [e.words() for e in record.evidence]}
    groups = [_group(hd, making, k, e) for k, e in enumerate(record.evidence)] or [_nothing(hd, making)]
    what = f"evidence of {making.drawn.contrast} from {making.given}"
    return _report(hd, making, groups, about.datasets, known, NUMBER, what)


def verified(report: Any, accepted: Sequence[tuple[str, str]]) -> Series:
    """The same report as people stand for it: VERIFIED, with the unverified one as its predecessor (PS3.3 C.17.2).
    `accepted`: (person, ISO 8601 time) each. Its numbers are still a model's: what was synthetic or for research stays
    so.
    """
    from pydicom.dataset import Dataset

    known = {"verified": str(report.SOPInstanceUID), "accepted": [list(one) for one in accepted]}
    ds = deepcopy(report)
    before, series, instance = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = report.SOPClassUID, report.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedSOPSequence = report.SeriesInstanceUID, [instance]
    before.StudyInstanceUID, before.ReferencedSeriesSequence = report.StudyInstanceUID, [series]
    ds.SOPInstanceUID, ds.SeriesInstanceUID = uid_of({**known, "instance": 1}), uid_of(known)
    ds.SeriesNumber, ds.CompletionFlag, ds.VerificationFlag = NUMBER + 2, "COMPLETE", "VERIFIED"
    ds.SeriesDescription = f"{report.SeriesDescription[:55]} VERIFIED"
    ds.PredecessorDocumentsSequence = [before]
    observers = []
    for person, _ in accepted:
        observer = Dataset()
        observer.VerifyingObserverName, observer.VerificationDateTime = person_name(person), ""
        observer.VerifyingOrganization = report.get("InstitutionName") or "not stated"
        observer.VerifyingObserverIdentificationCodeSequence = []
        observers.append(observer)
    ds.VerifyingObserverSequence = observers
    made = same_each_time(ds, known, accepted[-1][1])
    for observer, (_, when) in zip(made.VerifyingObserverSequence, accepted, strict=True):
        observer.VerificationDateTime = f"{moment(when)}+0000"
    return Series(uid_of(known), (made,))


def _report(
    hd: Any, making: Making, groups: Sequence[Any], evidence: Sequence[Any], known: Mapping[str, Any], number: int,
    what: str,
) -> Series:  # fmt: skip
    record = making.record
    context = hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(
            observer_type=hd.sr.CodedConcept("121007", "DCM", "Device"),
            observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                uid=uid_of({"device": record.version, "weights": record.weights}), name="Fabrica",
                manufacturer_name="Fabrica", model_name=record.family[:64],
            ),
        )
    )  # fmt: skip
    content = hd.sr.MeasurementReport(
        observation_context=context, procedure_reported=hd.sr.CodedConcept("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups, title=hd.sr.CodedConcept("126000", "DCM", "Imaging Measurement Report"),
    )  # fmt: skip
    ds = hd.sr.Comprehensive3DSR(
        evidence=list(evidence), content=content, series_instance_uid=uid_of(known), series_number=number,
        sop_instance_uid=uid_of({**known, "instance": 1}), instance_number=1, manufacturer="Fabrica",
    )  # fmt: skip
    ds.SeriesDescription = f"{MARK} {what}"[:64]
    ds.CodingSchemeIdentificationSequence = [own_scheme()]
    return Series(uid_of(known), (settled(ds, making, known),))


def _group(hd: Any, making: Making, number: int, one: Evidence) -> Any:
    measured = _measurement(hd, making, one.metric, one.value, one.unit)
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracked(hd, making, f"figure {number}", one.words()), measurements=[measured]
    )


def _measurement(hd: Any, making: Making, name: str, value: float, unit: str) -> Any:
    code = UCUM.get(unit, f"{{{unit}}}"[:16])
    return hd.sr.Measurement(
        name=hd.sr.CodedConcept(_short(name), SCHEME[0], name[:64]), value=value,
        unit=hd.sr.CodedConcept(code, "UCUM", unit or "no units"), algorithm_id=_algorithm(hd, making),
    )  # fmt: skip


def _nothing(hd: Any, making: Making) -> Any:
    said = hd.sr.QualitativeEvaluation(
        name=hd.sr.CodedConcept("evidence", SCHEME[0], "Evidence"),
        value=hd.sr.CodedConcept("not measured", SCHEME[0], "NOT MEASURED"),
    )
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracked(hd, making, "none", "NOT MEASURED"), qualitative_evaluations=[said]
    )


def _tracked(hd: Any, making: Making, number: str, words: str) -> Any:
    return hd.sr.TrackingIdentifier(uid=uid_of({**making.known(), "tracked": number}), identifier=words)


def _algorithm(hd: Any, making: Making) -> Any:
    record = making.record
    return hd.sr.AlgorithmIdentification(
        name=f"Fabrica {record.job} by {record.family}", version=record.version,
        parameters=[f"weights sha256 {record.weights}", f"seed {record.seed}"],
    )  # fmt: skip


def _short(metric: str) -> str:
    """A code of a metric, of at most 16 letters; two metrics have two."""
    return metric if len(metric) <= 16 else f"{metric[:7]} {hashlib.sha256(metric.encode()).hexdigest()[:8]}"
