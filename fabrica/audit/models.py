"""A run's model approved or retired in a registry, with what its audit says."""

from __future__ import annotations

from pathlib import Path

from ..deliver.approvals import Approvals, Decision, State
from ..run.folder import RunFolder
from ..run.shift import weights_of
from ..safeguards.gate import standing


def decide(approvals: Approvals, run: Path, state: State, by: str, reason: str, stage: str | None = None) -> Decision:
    """Add a decision on the weights that draw. Raises ValueError for a run that its audit refuses, and as
    `Approvals`.
    """
    opened = RunFolder.open(run)
    weights = weights_of(opened.home(opened.last_stage(stage)))
    if state == "approved" and (found := standing(run, weights)).startswith("REFUSED"):
        raise ValueError(
            f"{run} was audited and {found}. See {run / 'audit'}; overrule it: fabrica audit {run} --override"
        )
    return approvals.decide(weights, run.resolve(), state, by, reason)
