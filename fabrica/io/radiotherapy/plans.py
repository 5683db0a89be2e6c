"""RT Plan objects (PS3.3 A.20): what was prescribed to what, in how many fractions, by which beams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..scan import UnreadableError

HIGHEST_GY = 200.0  # nobody prescribes more: what stands above is cGy


@dataclass(frozen=True)
class Beam:
    """One beam at its first control point: angles in degrees (IEC 61217), energy in MV, isocentre in LPS mm."""

    name: str
    radiation: str
    energy_mv: float
    gantry_degrees: float
    isocentre_mm: tuple[float, float, float] | None


@dataclass(frozen=True)
class Plan:
    """Levels in Gy by the number of the region they are for, and those that name a site or a point alone."""

    structure_set: str  # SOP Instance UID that it refers to
    fractions: int | None
    levels_gy: Mapping[int, float] = field(default_factory=dict)
    elsewhere_gy: Mapping[str, float] = field(default_factory=dict)
    beams: tuple[Beam, ...] = ()


def plan_of(header: Any) -> Plan:
    """Raises UnreadableError for a prescription that can only be cGy."""
    levels: dict[int, float] = {}
    elsewhere: dict[str, float] = {}
    for item in header.get("DoseReferenceSequence") or []:
        stated = item.get("TargetPrescriptionDose")
        if stated is None or str(item.get("DoseReferenceType") or "") != "TARGET":
            continue
        level = float(stated)
        name = str(item.get("DoseReferenceDescription") or item.get("DoseReferenceNumber") or "target")
        if level > HIGHEST_GY:
            raise UnreadableError(
                f"prescribes {level:g} to {name!r} and calls it Gy: it must be cGy.",
                f"Say it in the recipe: job: {{prescription: {{{name}: {level / 100:g}}}}}, and leave this plan out.",
            )
        number = item.get("ReferencedROINumber")
        if number is None:
            elsewhere[name] = level
        else:
            levels[int(number)] = max(level, levels.get(int(number), 0.0))
    groups = header.get("FractionGroupSequence") or []
    planned = groups[0].get("NumberOfFractionsPlanned") if groups else None
    sets = header.get("ReferencedStructureSetSequence") or []
    return Plan(
        str(sets[0].get("ReferencedSOPInstanceUID") or "") if sets else "",
        int(planned) if planned is not None else None,
        levels,
        elsewhere,
        tuple(_beam(item) for item in header.get("BeamSequence") or []),
    )


def _beam(item: Any) -> Beam:
    points = item.get("ControlPointSequence") or [{}]
    first = points[0]
    place = first.get("IsocenterPosition")
    return Beam(
        str(item.get("BeamName") or item.get("BeamNumber") or ""),
        str(item.get("RadiationType") or ""),
        float(first.get("NominalBeamEnergy") or 0),
        float(first.get("GantryAngle") or 0),
        (float(place[0]), float(place[1]), float(place[2])) if place is not None and len(place) == 3 else None,
    )
