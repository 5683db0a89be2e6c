"""Documents that are generated are up to date, and the README's Python runs."""

import importlib.util
import re
from pathlib import Path

import fabrica

ROOT = Path(fabrica.__file__).parents[1]


def test_reference_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec
    assert spec.loader
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
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
