"""Bounds on what a network has learned, far enough from what luck brings.

Every test that holds a learned figure to a bound bears the marker `learns` and does so through these functions. Above each call a
comment says the worst figure of five seeds, by precision and number of threads; `python -m tests.survey` measures them again
and writes the comments. The bound lies at least 1.5 times away from the worst (`tests/test_house.py` reads the comments).
"""

import inspect
import json
import os
from pathlib import Path

import pytest

SEED = int(os.environ.get("FABRICA_TEST_SEED", "0"))  # of weights before training
PRECISION = os.environ.get("FABRICA_TEST_PRECISION", "fp32")
learns = pytest.mark.learns


def below(what: str, value: float, bound: float) -> None:
    """An error stays below its bound."""
    _seen(what, value, bound, float(value) / bound)
    assert value < bound, f"{what}: {value:.4g}, expected below {bound:g}"


def above(what: str, value: float, bound: float) -> None:
    """What is the better the larger reaches more than its bound."""
    _seen(what, value, bound, bound / float(value) if value > 0 else float("inf"))
    assert value > bound, f"{what}: {value:.4g}, expected above {bound:g}"


def near(what: str, value: float, target: float, within: float) -> None:
    """A figure comes near what was taught."""
    _seen(what, value, within, abs(float(value) - target) / within)
    assert abs(value - target) < within, f"{what}: {value:.4g}, expected {target:g} within {within:g}"


def _seen(what: str, value: float, bound: float, share: float) -> None:
    """For the survey: where the call stands, and what share of its bound was taken."""
    if not (file := os.environ.get("FABRICA_TEST_FIGURES")):
        return
    caller = inspect.stack()[2]
    row = {
        "file": str(Path(caller.filename).relative_to(Path(__file__).parent)), "line": caller.lineno, "what": what,
        "test": os.environ.get("PYTEST_CURRENT_TEST", ""), "value": float(value), "bound": float(bound), "share": float(share),
        "seed": SEED, "precision": PRECISION, "threads": int(os.environ.get("FABRICA_TEST_THREADS", "1")),
    }  # fmt: skip
    with Path(file).open("a") as lines:
        lines.write(json.dumps(row) + "\n")
