"""Papers about a run: every field a measured result with its place, or NOT MEASURED; bills that their own schema accepts."""

import json
from pathlib import Path
from typing import Any

import pytest

from fabrica.deliver.cards import DOCUMENTS, FIELDS, NOT_MEASURED, Dossier, write_cards

from .conftest import trained  # noqa: F401 (fixtures)


@pytest.fixture
def dossier(trained: Path) -> Dossier:  # noqa: F811
    return Dossier.of(trained)


def _found(report: Any, pointer: str) -> Any:
    """What stands at a JSON pointer."""
    for part in pointer.removeprefix("/").split("/"):
        report = report[int(part)] if isinstance(report, list) else report[part]
    return report


def test_every_field_points_at_what_it_says(dossier: Dossier) -> None:
    report = json.loads((dossier.run / "report" / "report.json").read_text())
    told = 0
    for name, field in FIELDS.items():
        for fact in field(dossier):
            file, _, pointer = fact.where.partition("#")
            assert (dossier.run / file).is_file(), (name, fact)
            if pointer:
                found, told = _found(report, pointer), told + 1
                if isinstance(found, dict) and "metric" in found:
                    assert f"{found['value']:.4g}" in fact.text
                    assert found["metric"] in fact.text
    assert told > 20
    assert dossier.weights() in "".join(f.text for f in FIELDS["identity and versions"](dossier))


def test_papers_say_what_nobody_measured(dossier: Dossier, tmp_path: Path) -> None:
    files = write_cards(dossier, tmp_path / "cards")
    assert [p.name for p in files] == [
        "model_card.md",
        "data_sheet.md",
        "evidence.md",
        "sbom.cdx.json",
        "model.cdx.json",
    ]
    card, tables = files[0].read_text(), files[2].read_text()
    assert f"| copies of training patients | {NOT_MEASURED} |  |" in card
    assert f"| robustness | {NOT_MEASURED} |  |" in tables
    assert "| 5 risk management | left to people |  |" in tables
    for digest in dossier.hashes.values():
        assert digest in card
    for rows in DOCUMENTS.values():
        assert {name for _, name in rows} <= {*FIELDS, "", "-"}
    before = [p.read_bytes() for p in files]
    assert [p.read_bytes() for p in write_cards(dossier, tmp_path / "cards")] == before


def test_figures_of_groups_and_of_intervals_have_their_fields(dossier: Dossier) -> None:
    """As `run/coverage` names them; a figure that could not be told says so."""
    figure = {"stage": dossier.stage, "by": "model", "interval": None, "n": 12}
    figures = [
        {**figure, "name": "mean coverage", "value": 0.91, "interval": [0.88, 0.94], "convention": "promised 90%"},
        {**figure, "name": "mean coverage, sex F", "value": 0.9, "convention": "not promised by group"},
        {**figure, "name": "coverage of the worst patient", "value": "needs 9 patients", "convention": "not promised"},
    ]
    report = json.loads(json.dumps(dossier.report))
    report["stages"][-1]["figures"] = figures
    told = Dossier(dossier.run, report, dossier.stage, dossier.hashes)
    assert [f.text for f in FIELDS["groups of patients"](told)] == [
        "mean coverage, sex F, model: 0.9 (n = 12 patients, not promised by group)"
    ]
    first, worst = (f.text for f in FIELDS["uncertainty"](told))
    assert "0.91, 95 % 0.88 to 0.94" in first
    assert "NOT MEASURED (needs 9 patients)" in worst


def test_an_audit_fills_its_field(dossier: Dossier, tmp_path: Path) -> None:
    (dossier.run / "audit").mkdir(exist_ok=True)
    gate = dossier.run / "audit" / "gate.json"
    one = {"value": 0.3, "interval": None, "bound": 0.05, "overruled": ""}
    checks = {
        "copies": {**one, "verdict": "PASS", "reason": "No copies were found."},
        "fairness": {**one, "verdict": "NOT ASSESSABLE", "reason": "no groups"},
        "shift": {**one, "verdict": "WARN", "reason": "Half are unlike.", "overruled": "a drill"},
    }
    gate.write_text(json.dumps({"weights": dossier.weights(), "checks": checks}))
    try:
        text = write_cards(Dossier.of(dossier.run), tmp_path)[0].read_text()
        assert (
            "| copies of training patients | copies: PASS. No copies were found. | `audit/gate.json#/checks/copies` |"
            in text
        )
        assert "shift: WARN. Half are unlike. Overruled: a drill" in text
        assert "no groups" not in text
        gate.write_text(json.dumps({"weights": "of another training", "checks": checks}))
        assert "No copies were found" not in write_cards(Dossier.of(dossier.run), tmp_path)[0].read_text()
    finally:
        gate.unlink()


@pytest.mark.parametrize("name", ["sbom.cdx.json", "model.cdx.json"])
def test_bills_are_what_their_schema_asks(name: str, dossier: Dossier, tmp_path: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    write_cards(dossier, tmp_path)
    text = (tmp_path / name).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    plain = json.loads(text)
    names = {c["name"] for c in plain["components"]}
    if name.startswith("sbom"):
        assert {"torch", "numpy", "pydicom"} <= names
        assert "pytest" not in names  # of tests alone
    else:
        (one,) = plain["components"]
        assert one["hashes"][0]["content"] == dossier.weights()
        assert any(m["type"] == "psnr of CT" for m in one["modelCard"]["quantitativeAnalysis"]["performanceMetrics"])


def test_what_is_no_finished_run_is_refused(dossier: Dossier, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no report"):
        Dossier.of(tmp_path)
    with pytest.raises(ValueError, match="--stage other"):
        Dossier.of(dossier.run, "other")
