"""Documents that are generated are up to date, and the README's Python runs."""

import csv
import importlib.util
import re
from pathlib import Path
from typing import Any

import yaml

import fabrica
import fabrica.families
import fabrica.jobs
from fabrica.config import from_plain

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
        if status in ("have", "equivalent"):
            _accepted(how)
    assert (
        coverage.judge({**rows[0], "family": "Telepathy", "section": "Unconditional Synthesis", "subsection": ""})[0]
        == "planned"
    )
    assert coverage.losses("L1 loss, tri-plane loss") == (["L1"], ["tri-plane loss"])


def _accepted(how: str) -> None:
    """What a row of the page names is a recipe that would be run; codes and words come from a stage before."""
    parts = [yaml.safe_load(p) for p in re.findall(r"`([a-z ]+: [^`]+)`", how)]
    named = {key: value for part in parts for key, value in part.items()}
    job = named.get("job", "translation")
    example = {"translation": {"from": ["T1w"], "x": ["FLAIR"]}, "synthesis": {"x": ["FLAIR"]}}[job]
    words = {k: named[k] for k in ("text", "values") if k in named}
    network = {**named.get("network", {}), "channels": [48, 48], "blocks": 1}
    family = {"name": named["family"], "network": network}
    if "adversarial" in named:
        family["adversarial"] = named["adversarial"]
    plain = {
        "cohorts": {"all": {"path": "x"}}, "baseline": "none",
        "stages": {"model": {"job": {"name": job, **example, **words}, "family": family, "train": {"steps": 1}}},
    }  # fmt: skip
    if named["family"] == "cycle":
        plain["stages"]["model"]["pairing"] = "none"
    if "in the words of" in how:
        codec = {
            "job": {"name": "synthesis", "x": ["FLAIR"], "place": False},
            "family": {"name": "vq"},
            "train": {"steps": 1},
        }
        plain["stages"] = {"codec": codec, "model": plain["stages"]["model"]}
        family |= {"in": {"stage": "codec"}, "network": {**network, "patch": 1}}
    from_plain(plain)


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
