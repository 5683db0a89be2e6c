"""Synthetic CT on real scans, judged by the dose that it leads to: limbs from their MR, heads from a cone-beam CT.

    python benchmarks/synthetic_ct.py --data DIR [--only sarcoma] [--minutes 2] [--work runs/synthetic_ct]

DIR is the folder of scans. Parts: sarcoma (eight patients, each answered by a model of the seven others), cone_beam (heads of OpenKBP,
of whose CTs a cone-beam CT is simulated whenever one is read: more than twenty minutes on a core before training begins). A fold that is finished is not run again.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from planning import Values, synthetic_table, values_in
from sets import DEVICE, add_device

from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe

DOSE = {"prescription_gy": 60, "gantry_degrees": [0, 72, 144, 216, 288]}
MACHINE = {"views": 120, "photons": 2.0e4, "scatter": 0.5}  # as recipes/synthetic_ct.yaml has it
TRAINED, TESTED = 24, 12  # heads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/synthetic_ct"))
    parser.add_argument("--minutes", type=float, default=2.0, help="of training, a fold")
    parser.add_argument("--only", choices=("", *PARTS), default="")
    add_device(parser)
    asked = parser.parse_args()
    for name, part in PARTS.items():
        if asked.only in ("", name):
            print(f"\n{name}\n")
            synthetic_table(part(asked))


def sarcoma(asked: argparse.Namespace) -> Values:
    """Each patient by a model that has seen the seven others, all figures in one table."""
    folder = asked.data / "ct_pet_mr" / "sarcoma"
    patients, found = sorted(p.name for p in folder.glob("STS_*")), defaultdict(dict)
    for one in patients:
        plain = _plain("T1w", asked.minutes) | {
            "cohorts": {"limbs": {"path": str(folder)}},
            "split": {"train": [p for p in patients if p != one], "test": [one]},
        }
        for key, own in _run(plain, asked.work / f"sarcoma-{one}").items():
            found[key] |= own
    return found


def cone_beam(asked: argparse.Namespace) -> Values:
    """Heads of the challenge's validation patients, by a model of its training patients."""
    folder = asked.data / "radiotherapy" / "openkbp"
    trained, tested = (sorted(p.stem for p in (folder / part).glob("pt_*.npz")) for part in ("train", "valid"))
    plain = _plain("CBCT", asked.minutes) | {
        "cohorts": {p: {"path": str(folder / p), "cone_beam": MACHINE} for p in ("train", "valid")},
        "split": {"train": trained[:TRAINED], "test": tested[:TESTED]},
    }
    return _run(plain, asked.work / "cone_beam")


PARTS = {"sarcoma": sarcoma, "cone_beam": cone_beam}


def _plain(given: str, minutes: float) -> dict[str, Any]:
    return {
        "job": {"name": "translation", "from": [given], "x": ["CT"], "neighbours": 1},
        "family": {"name": "regression"}, "train": {"minutes": minutes, "batch": 8}, "baseline": "none",
        "evaluate": {"draws": 1, "realism": 0, "evaluations": [], "dose": DOSE},
    }  # fmt: skip


def _run(plain: dict[str, Any], run: Path) -> Values:
    if not (run / "report" / "cases.csv").exists():
        run_recipe(from_plain(plain), run, say=print, device=DEVICE)
    return values_in(run / "report" / "cases.csv")


if __name__ == "__main__":
    main()
