"""Objects of radiotherapy in DICOM: structure sets, doses, plans, and how they belong to the images beside them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..scan import Oddity, Scan, UnreadableError
from . import doses, plans, structures
from .plans import Plan

STRUCTURES, DOSE, PLAN = (f"1.2.840.10008.5.1.4.1.1.481.{n}" for n in (3, 2, 5))  # SOP classes
_BY_MODALITY = {"RTSTRUCT": STRUCTURES, "RTDOSE": DOSE, "RTPLAN": PLAN}
Facts = Callable[[Any], dict[str, Any]]


def kind_of(header: Any) -> str:
    """The SOP class of a radiotherapy object, by its modality where the class is not stated; "" for others."""
    stated = str(header.get("SOPClassUID") or "") or _BY_MODALITY.get(str(header.get("Modality") or ""), "")
    return stated if stated in (STRUCTURES, DOSE, PLAN) else ""


def patient_of(header: Any) -> str:
    return str(header.get("PatientID") or "").strip()


@dataclass
class Surroundings:
    """The images of one patient that radiotherapy objects may refer to, by the identifiers of their files."""

    series: dict[str, list[Scan]] = field(default_factory=lambda: defaultdict(list))  # Series Instance UID -> volumes
    frames: dict[str, str] = field(default_factory=dict)  # the same -> Frame of Reference UID
    instances: dict[str, str] = field(default_factory=dict)  # SOP Instance UID -> Series Instance UID

    def add(self, members: Sequence[tuple[Path, Any]], scans: Sequence[Scan]) -> None:
        """A series that was read; only volumes of one moment can hold contours."""
        header = members[0][1]
        uid = str(header.get("SeriesInstanceUID") or "")
        self.series[uid] += [s for s in scans if s.axes == "zyx" and s.kind == "intensity"]
        self.frames[uid] = str(header.get("FrameOfReferenceUID") or "")
        self.instances |= {str(own.get("SOPInstanceUID") or ""): uid for _, own in members}


def listing(
    objects: Sequence[tuple[Path, Any]], around: Mapping[str, Surroundings], facts: Facts
) -> tuple[list[Scan], list[Oddity]]:
    """Structures and doses as scans; plans say what was prescribed to structures. A file that fails is one line.

    `around`: Patient ID -> images; `facts`: what a header says of patient and visit.
    """
    by_patient: dict[str, list[tuple[Path, Any]]] = defaultdict(list)
    for path, header in objects:
        by_patient[patient_of(header)].append((path, header))
    scans: list[Scan] = []
    odd: list[Oddity] = []
    for patient, own in by_patient.items():
        found, more = _of_patient(own, around.get(patient, Surroundings()), facts)
        scans += found
        odd += more
    return scans, odd


def _of_patient(
    objects: Sequence[tuple[Path, Any]], around: Surroundings, facts: Facts
) -> tuple[list[Scan], list[Oddity]]:
    scans: list[Scan] = []
    odd: list[Oddity] = []
    sets: dict[str, list[Scan]] = {}  # SOP Instance UID of a structure set -> its structures
    found: list[tuple[Path, Plan]] = []
    for path, header in objects:
        try:
            kind = kind_of(header)
            if kind == STRUCTURES:
                own, more = structures.listed(path, around.series, around.frames, around.instances)
                sets[structures.structure_set(path).instance] = own
                odd += more
            elif kind == DOSE:
                scan, more = doses.listed(path, header, facts(header))
                scans.append(_at_home(scan, around))
                odd += more
            else:
                found.append((path, plans.plan_of(header)))
        except UnreadableError as error:
            odd.append(Oddity(str(path), error.fault, error.next_step))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            text = f"is a radiotherapy object that cannot be understood ({type(error).__name__}: {str(error)[:60]})."
            odd.append(Oddity(str(path), text, "Export it again from the planning system."))
    for path, plan in found:
        if plan.structure_set in sets:
            sets[plan.structure_set] = [_prescribed(s, plan) for s in sets[plan.structure_set]]
        else:
            odd.append(Oddity(str(path), _alone(plan), "Give the structure set that it was made for."))
    return [s for own in sets.values() for s in own] + scans, odd


def _at_home(dose: Scan, around: Surroundings) -> Scan:
    """A dose belongs to the visit of the images in its frame of reference; raises UnreadableError where the patient has
    images and none is in that frame.
    """
    volumes = [scan for own in around.series.values() for scan in own]
    same = [s for s in volumes if dose.frame_of_reference and s.frame_of_reference == dose.frame_of_reference]
    if same:
        return replace(dose, patient=same[0].patient, visit=same[0].visit)
    if volumes and dose.frame_of_reference:
        raise UnreadableError(
            "lies in another frame of reference than the images of its patient.",
            "Export it with the series that it was computed on.",
        )
    return dose


def _prescribed(scan: Scan, plan: Plan) -> Scan:
    """A structure with what its plan prescribes to it."""
    number = scan.recipe.number
    values: dict[str, float | str] = dict(scan.values)
    if number in plan.levels_gy:
        values[prescribed_to(scan.modality)] = plan.levels_gy[number]
    if plan.fractions is not None:
        values["fractions"] = float(plan.fractions)
    return replace(scan, values=values)


def prescribed_to(structure: str) -> str:
    """The name of the value of a case that says how many Gy are prescribed to a structure."""
    return f"Gy to {structure}"


def _alone(plan: Plan) -> str:
    levels: Mapping[str, float] = {**{f"region {n}": v for n, v in plan.levels_gy.items()}, **plan.elsewhere_gy}
    said = ", ".join(f"{level:g} Gy to {name}" for name, level in levels.items()) or "no dose to a structure"
    return f"is a plan ({said}) whose structure set is not here."
