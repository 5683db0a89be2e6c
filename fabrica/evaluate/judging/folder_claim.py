"""A claim on folders of images: can these folders answer it, and what comes of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..honesty import endpoints
from ..honesty.claim import Claim, Verdict, judge, refused
from ..honesty.set_claim import judge_sets
from ..report.results import REAL, StageResult
from ..result import Row
from ..sets.embedding import Embedding, Picture
from .segmented import TRIVIAL


def check_answerable(claim: Claim, given: Collection[str]) -> None:
    """Raise ValueError when no result of these folders could answer the claim, with what to type. `given`: names of the
    folders.
    """
    if claim.arm:
        raise ValueError("A claim on what models learn from is tested by: fabrica downstream RECIPE --claim FILE")
    segmented = claim.endpoint in endpoints.SEGMENTED
    if segmented and not {"segmentations", "masks"} <= set(given):
        raise ValueError(
            f"{claim.endpoint} needs the true masks and what a segmentation marked in the generated images: --masks DIR"
            " --segmentations DIR"
        )
    if claim.against == "competitor" and (segmented or "competitor" not in given):
        other = "against: goal, trivial answers or real images" if segmented else "--competitor DIR"
        raise ValueError(
            f"A claim compares {claim.endpoint} with that of somebody else on the same patients. Name the other:"
            f" {other}" + ("" if segmented else "; or write in the claim: against: trivial answers, or: against: goal")
        )
    if claim.against == "real images" and segmented and "reference_segmentations" not in given:
        raise ValueError(
            f"{claim.endpoint} of real images needs what the same segmentation marked in them:"
            " --reference-segmentations DIR"
        )


def verdict_on(
    claim: Claim, stages: Sequence[StageResult], sets: Mapping[str, Sequence[Picture]], more: Mapping[str, Embedding],
    stamp: str = "",
) -> Verdict:  # fmt: skip
    """Of the report's first stage (the generated images) and its second (the competitor's), or of the sets."""
    if claim.endpoint in endpoints.SETS:
        return judge_sets(claim, sets, more, stamp)
    rows = [r for r in stages[0].cases if r.metric == claim.endpoint]
    ours = _by_case([r for r in rows if r.by == "model"])
    patients = {r.case: r.patient for r in rows}
    if claim.against == "goal":
        return judge(claim, ours, dict.fromkeys(ours, claim.goal), patients, stamp, f"the goal of {claim.goal:g}")
    if claim.against == "competitor":
        other = [r for stage in stages[1:] for r in stage.cases if r.metric == claim.endpoint and r.by == "model"]
        return judge(claim, ours, _by_case(other), patients | {r.case: r.patient for r in other}, stamp)
    if claim.against == "real images":
        return judge(claim, ours, _by_case([r for r in rows if r.by == REAL]), patients, stamp)
    return _against_trivial(claim, ours, rows, patients, stamp)


def _against_trivial(
    claim: Claim, ours: Mapping[str, float | None], rows: Sequence[Row], patients: Mapping[str, str], stamp: str
) -> Verdict:
    """Against the trivial answer with the best mean over the cases that have it, chosen on the same patients: to our
    loss.
    """
    answers = {by: _by_case([r for r in rows if r.by == by]) for by in {r.by for r in rows} - {"model", REAL}}
    sign = endpoints.directed(claim.endpoint)
    known = {
        by: sign * float(np.mean([v for v in own.values() if v is not None and np.isfinite(v)]))
        for by, own in answers.items()
        if endpoints.ends(own.values(), sign) is not None
    }
    if not known:
        where = "masks of other patients" if TRIVIAL in answers else "images of other patients on the same grid"
        return refused(claim, f"no trivial answer could be made: it needs {where}.", len(set(patients.values())))
    best = max(sorted(known), key=lambda by: known[by])
    theirs = dict(answers[best])
    usual = float(np.median([v for v in theirs.values() if v is not None and np.isfinite(v)]))
    own = {case: value for case, value in ours.items() if case in theirs or value is None}
    theirs |= {case: usual for case in own if case not in theirs}  # ours failed: a trivial answer could have been made
    verdict = judge(claim, own, theirs, patients, stamp, f"the best trivial answer ({best})")
    if left := len(ours) - len(own):
        return replace(verdict, remarks=(*verdict.remarks, f"{left} cases have no trivial answer and are left out."))
    return verdict


def _by_case(rows: Sequence[Row]) -> dict[str, float | None]:
    return {r.case: endpoints.number(r.value) for r in rows}
