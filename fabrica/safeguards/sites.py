"""Would a scan from a site that training never saw have been noticed? Each site in turn is left out and looked for.

No network is trained anew: what scans look like is told from the other sites, and a threshold from other patients of
theirs (safeguards/shift.py). A site that nobody would have noticed is one where a fall in quality goes unseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluate.metrics.discrimination import auc_delong
from ..rng import derive
from .shift import FEWEST, FEWEST_SCANS, FEWEST_TRAINED, SITE, Reference, Seen, chance_of, farthest, fit

Scan = Mapping[str, Mapping[str, Any]]  # contrast -> kind -> features


@dataclass(frozen=True)
class LeftOut:
    """A site, held against all others."""

    site: str
    patients: int
    others: int  # patients of the other sites that the threshold is a rank among
    told: float  # share of its scans that are unlike those of the others
    alarms: float  # share of scans of other sites' patients, neither fitted nor ranked, that are told, too
    auc: float  # of its scans' scores against theirs
    interval: tuple[float, float] | None  # none where every score of one side lies above those of the other
    kind: str  # of feature by which its scans lie farthest out together
    p_value: float  # of that, times the number of kinds
    chance: float  # that false alarms alone tell as many

    @property
    def noticed(self) -> bool:
        """As the verdict on scans of a source is given (safeguards/shift.py)."""
        return min(self.chance, self.p_value) < SITE / 2


def leave_one_site_out(sites: Mapping[str, Sequence[Scan]], seed: int = 0) -> tuple[list[LeftOut], list[str]]:
    """(a row for each site, why some have none). `sites`: features of one scan a patient.

    A third of the other sites' patients tells what scans look like, a third the threshold, and a third how often it is
    wrong.
    """
    if len(sites) < 2:
        return [], ["all scans come from one site, or nobody says from which"]
    found, unseen = [], []
    for site, own in sites.items():
        others = [row for name, rows in sites.items() if name != site for row in rows]
        order = np.random.Generator(np.random.Philox(derive(seed, "site", site))).permutation(len(others))
        shuffled = [others[i] for i in order]
        third = len(others) // 3
        if len(own) < FEWEST_SCANS:
            unseen.append(f"{site} has {len(own)} patients, {FEWEST_SCANS} are needed")
            continue
        if third < max(FEWEST, FEWEST_TRAINED):
            unseen.append(
                f"without {site} there are {len(others)} patients, {3 * max(FEWEST, FEWEST_TRAINED)} are needed"
            )
            continue
        trained, ranked = shuffled[: len(others) - 2 * third], shuffled[len(others) - 2 * third : len(others) - third]
        try:
            reference = fit("", trained, ranked)
        except ValueError:  # features of several lengths
            unseen.append(f"without {site} scans cannot be compared: some say where they lie, some do not")
            continue
        if reference.why_not:
            unseen.append(f"without {site}: {reference.why_not}")
            continue
        there, usual = _looked(own, reference), _looked(shuffled[len(others) - third :], reference)
        if len(there) < FEWEST_SCANS or len(usual) < FEWEST_SCANS:
            unseen.append(f"too few scans of {site} can be held against those of the others: other contrasts, or grids")
            continue
        found.append(_row(site, there, usual, reference))
    return found, unseen


def _row(site: str, there: Sequence[Seen], usual: Sequence[Seen], reference: Reference) -> LeftOut:
    area = auc_delong([one.score for one in (*there, *usual)], [1] * len(there) + [0] * len(usual))
    kind, p_value = farthest(there, reference)
    told, alarms = (float(np.mean([reference.shifted(one) for one in side])) for side in (there, usual))
    chance = chance_of(there, reference)
    return LeftOut(
        site, len(there), reference.calibrated_on, told, alarms, float(area), area.interval, kind, p_value, chance
    )


def _looked(rows: Sequence[Scan], reference: Reference) -> list[Seen]:
    found = []
    for row in rows:
        try:
            found.append(reference.look(row))
        except ValueError:  # nothing of it that the others have
            continue
    return found


def in_words(row: LeftOut) -> str:
    """A sentence for people."""
    seen = "would have been noticed" if row.noticed else "would NOT have been noticed"
    return (
        f"{row.site}: had training not seen it, it {seen} ({row.told:.0%} of {row.patients} scans told,"
        f" {row.alarms:.0%} of the others' by chance, AUC {row.auc:.2f})"
    )
