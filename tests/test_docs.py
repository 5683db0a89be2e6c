"""Documents that are generated are up to date, and the README's Python runs."""

import csv
import importlib.util
import re
from pathlib import Path
from typing import Any

import fabrica
import fabrica.families
import fabrica.jobs

ROOT = Path(fabrica.__file__).parents[1]


def _script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_coverage_is_up_to_date_and_names_only_what_is_there() -> None:
    coverage = _script("coverage")
    assert (ROOT / "docs" / "coverage.md").read_text() == coverage.page(), "Run: make docs"
    with (ROOT / "docs" / "methods.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 175
    for row in rows:
        status, how = coverage.judge(row)
        assert status in coverage.STATUS
        assert how, row["method"]
        for family in re.findall(r"`family: ([\w ]+)`", how):
            assert family in fabrica.families.FAMILIES.names()
        for job in re.findall(r"`job: (\w+)`", how):
            assert job in fabrica.jobs.JOBS.names()
    assert (
        coverage.judge({**rows[0], "family": "Telepathy", "section": "Unconditional Synthesis", "subsection": ""})[0]
        == "planned"
    )
    assert coverage.losses("L1 loss, tri-plane loss") == (["L1"], ["tri-plane loss"])


def test_reference_is_up_to_date() -> None:
    tables = _script("tables")
    assert (ROOT / "docs" / "reference.md").read_text() == tables.text(), "Run: make docs"


def test_readme_python_is_real() -> None:
    """Every name that the README imports or calls exists; the recipes that it names are shipped."""
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"fabrica\.(\w+)\(", text):
        assert name in fabrica.__all__, name
    for path in re.findall(r"recipes/\w+\.yaml", text):
        assert (ROOT / path).is_file(), path


def test_every_install_line_is_constrained() -> None:
    for path in (ROOT / "Makefile", ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for line in path.read_text().splitlines():
            if "pip install" in line:
                assert "-c constraints.txt" in line, line
