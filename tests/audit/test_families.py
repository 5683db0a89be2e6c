"""Laws of the audit over every family: it runs, and says something of everything."""

from pathlib import Path
from typing import Any

import pytest

from fabrica.audit.conduct import CHECKS, MEMBERSHIP, ROBUSTNESS, Asked, audit
from fabrica.families import FAMILIES
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe

from .conftest import quiet

SMALL = {"network": {"channels": [8, 16], "blocks": 1}}
TRANSLATION = {"name": "translation", "from": ["T1w"], "x": ["FLAIR"]}
SYNTHESIS = {"name": "synthesis", "x": ["T1w"]}
RESTORED = {"name": "enhancement", "x": "T1w", "deviation": 0.1}
HOW: dict[str, dict[str, Any]] = {
    **{name: {"job": SYNTHESIS} for name in ("diffusion", "flow", "gan", "shortcut", "consistency", "vae", "vq")},
    "regression": {"job": TRANSLATION}, "cycle": {"job": TRANSLATION, "pairing": "none"},
    "bridge": {"job": RESTORED}, "unrolled": {"job": RESTORED},
    "autoregressive": {"job": SYNTHESIS}, "contrastive": {"job": {"name": "representation", "from": ["T1w"], "width": 8}},
}  # fmt: skip
LOOKED_AT = tuple(name for name in CHECKS if name != ROBUSTNESS)  # faults of scans are the same for every family
TRAIN = {"steps": 1, "batch": 4, "precision": "fp32"}


def _recipe(place: Path, name: str) -> dict[str, Any]:
    shared = {
        "cohorts": {"all": {"path": str(place / "data")}}, "split": {"train": 0.1, "test": 0.1, "validate": 0.2},
        "baseline": "none", "evaluate": {"draws": 1, "realism": 0, "evaluations": []},
    }  # fmt: skip
    if name in ("vq", "autoregressive"):
        codec = {"job": {**SYNTHESIS, "place": False}, "family": {"name": "vq", **SMALL}, "train": TRAIN}
        prior = {
            "job": SYNTHESIS,
            "family": {
                "name": "autoregressive",
                "in": {"stage": "codec"},
                "network": {"channels": [8, 16], "blocks": 1, "patch": 1},
            },
            "train": TRAIN,
        }
        return {**shared, "stages": {"codec": codec, "prior": prior}}
    return {**shared, **HOW[name], "family": {"name": name, **SMALL}, "train": TRAIN}


@pytest.mark.parametrize("name", FAMILIES.names())
def test_every_family_is_audited(name: str, finished: Path, tmp_path: Path) -> None:
    run_recipe(from_plain(_recipe(finished, name)), tmp_path / "run", say=quiet)
    gate = audit(tmp_path / "run", Asked(draws=20, only=LOOKED_AT), say=quiet)
    assert tuple(gate.checks) == LOOKED_AT
    assert all(c.reason for c in gate.checks.values())
    known = gate.checks[MEMBERSHIP]
    if name == "contrastive":
        assert known.verdict == "NOT ASSESSABLE"
    else:
        assert known.verdict in ("PASS", "WARN"), known.reason
    assert (tmp_path / "run/audit/index.html").is_file()
