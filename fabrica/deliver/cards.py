"""Papers about a run: model card, data sheet, evidence tables, bills of material. Each field is a measured result with
the place where it stands, or the words NOT MEASURED; nothing is written by hand.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

NOT_MEASURED, PEOPLE = "NOT MEASURED", "left to people"
CYCLONEDX = "1.6"


@dataclass(frozen=True, slots=True)
class Fact:
    """What was measured or noted, and where it stands in the run's files."""

    text: str
    where: str


@dataclass(frozen=True)
class Dossier:
    """A run's report, its weights and its recipe, as files that are hashed."""

    run: Path
    report: Mapping[str, Any]
    stage: str
    hashes: Mapping[str, str]  # file -> sha256

    @staticmethod
    def of(run: Path, stage: str | None = None) -> Dossier:
        """Raises ValueError where a folder holds no report of a finished run, or no stage of that name."""
        path = run / "report" / "report.json"
        if not path.is_file():
            raise ValueError(f"{run} holds no report/report.json. Finish it: fabrica run {run}")
        report = json.loads(path.read_text())
        names = [one["name"] for one in report["stages"]]
        if stage is not None and stage not in names:
            raise ValueError(f"--stage {stage} is none of {', '.join(names)}.")
        chosen = stage or names[-1]
        files = ["report/report.json", "recipe.yaml", f"stages/{chosen}/checkpoint.json", "audit/gate.json"]
        known = {f: hashlib.sha256((run / f).read_bytes()).hexdigest() for f in files if (run / f).is_file()}
        return Dossier(run, report, chosen, known)

    @property
    def plan(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = next(one for one in self.report["stages"] if one["name"] == self.stage)
        return found

    def at(self, place: str) -> str:
        """Where something of the stage stands."""
        index = next(k for k, one in enumerate(self.report["stages"]) if one["name"] == self.stage)
        return _at(f"stages/{index}/{place}")

    def weights(self) -> str:
        """sha256 of the tensors, or that there are none here."""
        path = self.run / "stages" / self.stage / "checkpoint.json"
        return str(json.loads(path.read_text())["sha256"]) if path.is_file() else NOT_MEASURED

    def rows(self, ours: bool) -> list[tuple[int, Mapping[str, Any]]]:
        """(place, figure) of the stage's own answers, or of those beside it."""
        return [
            (k, row) for k, row in enumerate(self.report["summaries"])
            if row["stage"] == self.stage and str(row["by"]).startswith("model") == ours and row["value"] is not None
        ]  # fmt: skip


Field = Callable[[Dossier], Iterator[Fact]]


def _at(place: str) -> str:
    return f"report/report.json#/{place}"


def _identity(e: Dossier) -> Iterator[Fact]:
    yield Fact(f"{e.plan['job']} by {e.plan['family']}, run {e.report['run']} of {e.report['made']}", e.at("name"))
    yield Fact(f"weights sha256 {e.weights()}", f"stages/{e.stage}/checkpoint.json")
    yield Fact(", ".join(f"{k} {v}" for k, v in e.report["versions"].items()), _at("versions"))


def _cohorts(e: Dossier) -> Iterator[Fact]:
    for k, one in enumerate(e.report["cohorts"]):
        seen = ", ".join(f"{n} {c}" for c, n in one["contrasts"].items())
        yield Fact(f"{one['name']}: {one['patients']} patients, {one['cases']} cases ({seen})", _at(f"cohorts/{k}"))
        for oddity in one["oddities"][:20]:
            yield Fact(f"{one['name']}: {oddity}", _at(f"cohorts/{k}/oddities"))


def _independence(e: Dossier) -> Iterator[Fact]:
    yield from _checks(e, ("no patient both trains",))
    for k, remark in enumerate(e.report["remarks"]):
        yield Fact(str(remark), _at(f"remarks/{k}"))


def _checks(e: Dossier, only: tuple[str, ...] = ()) -> Iterator[Fact]:
    for k, check in enumerate(e.report["checks"]):
        if not only or str(check["title"]).startswith(only):
            yield Fact(f"{check['title']}: {check['status']}. {check['why']}".strip(), _at(f"checks/{k}"))


def _figure(row: Mapping[str, Any]) -> str:
    between = row["interval"]
    apart = f"95 % {between[0]:.4g} to {between[1]:.4g}" if between else "no interval"
    of = f" of {row['contrast']}" if row["contrast"] else ""
    return f"{row['metric']}{of}, {row['by']}: {row['value']:.4g} {row['unit']} ({apart}, n = {row['n']} patients)"


def _performance(e: Dossier) -> Iterator[Fact]:
    yield from (Fact(_figure(row), _at(f"summaries/{k}")) for k, row in e.rows(True))


def _beside(e: Dossier) -> Iterator[Fact]:
    yield from (Fact(_figure(row), _at(f"summaries/{k}")) for k, row in e.rows(False))


def _told(figure: Mapping[str, Any]) -> str:
    """A figure over all patients of a stage, as the report has it."""
    value, between = figure["value"], figure["interval"]
    said = f"{value:.4g}" if isinstance(value, int | float) else f"{NOT_MEASURED} ({value})"
    apart = f", 95 % {between[0]:.4g} to {between[1]:.4g}" if between else ""
    return f"{figure['name']}, {figure['by']}: {said}{apart} (n = {figure['n']} patients, {figure['convention']})"


def _uncertainty(e: Dossier) -> Iterator[Fact]:
    for k, figure in enumerate(e.plan["figures"]):
        if re.search("coverage|interval|calibrat|misfit", figure["name"]) and not _of_group(figure):
            yield Fact(_told(figure), e.at(f"figures/{k}"))


def _of_group(figure: Mapping[str, Any]) -> bool:
    return "by group" in str(figure["convention"])


def _groups(e: Dossier) -> Iterator[Fact]:
    for k, figure in enumerate(e.plan["figures"]):
        if _of_group(figure):
            yield Fact(_told(figure), e.at(f"figures/{k}"))
    yield from _audited("fairness")(e)


def _failures(e: Dossier) -> Iterator[Fact]:
    lost = sum(int(row.get("lost", 0)) + int(row.get("failed", 0)) for _, row in e.rows(True))
    yield Fact(f"{lost} values were lost or failed over all figures of the model", _at("summaries"))
    yield from (Fact(str(one), _at(f"abstained/{k}")) for k, one in enumerate(e.report["abstained"]))
    for k, one in enumerate(e.report["not_evaluated"]):
        yield Fact(f"not evaluated: {one}", _at(f"not_evaluated/{k}"))


def _training(e: Dossier) -> Iterator[Fact]:
    told = {k: v for k, v in e.plan["plan"]["train"].items() if v is not None}
    yield Fact(f"{e.plan['steps']} steps in {e.plan['seconds']:.0f} s", e.at("steps"))
    yield Fact(", ".join(f"{k} {v}" for k, v in told.items()), e.at("plan/train"))


def _costs(e: Dossier) -> Iterator[Fact]:
    for k, one in enumerate(e.plan["costs"]):
        text = f"{one['evaluations']} evaluations: {one['seconds']:.3g} s for {one['cases']} cases"
        yield Fact(text, e.at(f"costs/{k}"))


def _audited(*names: str) -> Field:
    """Verdicts of the audit, where it was of these weights; those that could not be assessed are not measured."""

    def told(e: Dossier) -> Iterator[Fact]:
        path = e.run / "audit" / "gate.json"
        gate: Any = json.loads(path.read_text()) if path.is_file() else {"weights": "", "checks": {}}
        if gate["weights"] != e.weights():
            return
        for name in names:
            one = gate["checks"].get(name)
            if one is not None and one["verdict"] != "NOT ASSESSABLE":
                overruled = f" Overruled: {one['overruled']}" if one["overruled"] else ""
                yield Fact(f"{name}: {one['verdict']}. {one['reason']}{overruled}", f"audit/gate.json#/checks/{name}")

    return told


def _private(e: Dossier) -> Iterator[Fact]:
    """What the training promised of each patient, and what its weights were found to tell."""
    path = e.run / "stages" / e.stage / "checkpoint.json"
    promised = json.loads(path.read_text())["facts"].get("privacy") if path.is_file() else None
    if promised:
        text = (
            f"(epsilon {promised['epsilon']:.3g}, delta {promised['delta']:g}) per {promised['per']}: noise"
            f" {promised['noise']:.3g} times the clip of {promised['clip']:g}, {promised['steps']} steps at a rate of"
            f" {promised['rate']:.3g}; {promised['accountant']}"
        )
        yield Fact(text, f"stages/{e.stage}/checkpoint.json#/facts/privacy")
    yield from _audited("membership", "canaries")(e)


def _verdict(e: Dossier) -> Iterator[Fact]:
    yield Fact(str(e.report["sentence"]), _at("sentence"))
    if e.report["verdict"] is not None:
        yield Fact(json.dumps(e.report["verdict"])[:400], _at("verdict"))


FIELDS: Mapping[str, Field] = {
    "identity and versions": _identity, "cohorts": _cohorts, "independence of the split": _independence,
    "training": _training, "performance on unseen patients": _performance, "answers beside it": _beside,
    "uncertainty": _uncertainty, "groups of patients": _groups, "failures and abstentions": _failures,
    "copies of training patients": _audited("copies"), "what weights tell of patients": _private,
    "scans unlike those of training": _audited("shift", "robustness"), "cost of a draw": _costs,
    "checks of the evaluation": _checks, "what may be claimed": _verdict,
}  # fmt: skip
# document -> (what it asks for in short, the field that answers it; "" is not measured here, - is for people)
DOCUMENTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "Evidence for FDA predetermined change control plans": (
        ("description of the model as it is", "identity and versions"),
        ("data management", "cohorts"),
        ("re-training", "training"),
        ("performance evaluation", "performance on unseen patients"),
        ("comparison with what was before", "answers beside it"),
        ("performance by group", "groups of patients"),
        ("update procedure and its gates", "checks of the evaluation"),
        ("impact assessment: risk judgement", "-"),
        ("labelling", "-"),
    ),
    "Evidence for EU AI Act, annex IV": (
        ("1 general description and versions", "identity and versions"),
        ("2 development: data", "cohorts"),
        ("2 development: independence of test data", "independence of the split"),
        ("2 development: training", "training"),
        ("2 validation and testing, logged", "performance on unseen patients"),
        ("3 accuracy by group", "groups of patients"),
        ("3 limits and foreseeable failures", "failures and abstentions"),
        ("3 monitoring in use", ""),
        ("4 why the metrics fit", "checks of the evaluation"),
        ("5 risk management", "-"),
        ("6 changes over time", ""),
        ("7 standards applied", "-"),
        ("8 declaration of conformity", "-"),
        ("9 plan after market entry", "-"),
    ),
    "Evidence for CLAIM 2024": (
        ("data: sources, counts, exclusions", "cohorts"),
        ("partitions, disjoint by patient", "independence of the split"),
        ("model and versions", "identity and versions"),
        ("training", "training"),
        ("performance with uncertainty", "performance on unseen patients"),
        ("reference and competitors", "answers beside it"),
        ("robustness", "scans unlike those of training"),
        ("failure analysis", "failures and abstentions"),
        ("calibration", "uncertainty"),
        ("memorisation of patients", "copies of training patients"),
        ("privacy of patients", "what weights tell of patients"),
        ("clinical rationale", "-"),
    ),
}


def write_cards(dossier: Dossier, out: Path) -> list[Path]:
    """All papers of a run, as files; the same run gives the same bytes."""
    out.mkdir(parents=True, exist_ok=True)
    card = ("identity and versions", "training", "performance on unseen patients", "answers beside it", "uncertainty",
            "groups of patients", "failures and abstentions", "copies of training patients",
            "what weights tell of patients", "scans unlike those of training", "cost of a draw",
            "what may be claimed")  # fmt: skip
    texts = {
        "model_card.md": _page("Model card", dossier, [(name, name) for name in card]),
        "data_sheet.md": _page("Data sheet", dossier, [(n, n) for n in ("cohorts", "independence of the split")]),
        "evidence.md": "\n".join(_page(title, dossier, rows) for title, rows in DOCUMENTS.items()),
        "sbom.cdx.json": json.dumps(software(dossier), indent=1) + "\n",
        "model.cdx.json": json.dumps(model(dossier), indent=1) + "\n",
    }
    for name, text in texts.items():
        (out / name).write_text(text)
    return [out / name for name in texts]


def _page(title: str, dossier: Dossier, rows: Any) -> str:
    lines = [f"# {title}", "", f"Run {dossier.report['run']}, stage {dossier.stage}. For research only.", ""]
    lines += [f"- `{name}` sha256 {digest}" for name, digest in dossier.hashes.items()]
    lines += ["", "| asked | measured | where |", "|---|---|---|"]
    for topic, name in rows:
        facts = [] if name in ("", "-") else list(FIELDS[name](dossier))
        if not facts:
            lines.append(f"| {topic} | {PEOPLE if name == '-' else NOT_MEASURED} |  |")
        lines += [f"| {topic} | {_cell(fact.text)} | `{fact.where}` |" for fact in facts]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _bom(dossier: Dossier, what: str, component: Mapping[str, Any]) -> dict[str, Any]:
    told = json.dumps([what, dossier.hashes], sort_keys=True)
    return {
        "bomFormat": "CycloneDX", "specVersion": CYCLONEDX, "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, told)}",
        "metadata": {"timestamp": dossier.report["made"], "component": component},
    }  # fmt: skip


def software(dossier: Dossier) -> dict[str, Any]:
    """CycloneDX bill of what Fabrica runs on here: every distribution that it needs, and what those need."""
    from .. import __version__

    ours = {"type": "application", "bom-ref": "fabrica", "name": "fabrica", "version": __version__}
    found = dict(sorted(_needed("fabrica").items()))
    components = [
        {"type": "library", "bom-ref": f"pkg:pypi/{name}@{version}", "name": name, "version": version,
         "purl": f"pkg:pypi/{name}@{version}", **_licence(name)}
        for name, version in found.items()
    ]  # fmt: skip
    return {**_bom(dossier, "software", ours), "components": components}


def _needed(name: str) -> dict[str, str]:
    """Distributions that are installed and asked for, without extras."""
    found: dict[str, str] = {}
    left = [name]
    while left:
        for line in metadata.requires(left.pop()) or []:
            asked = re.split(r"[\s;<>=!~\[(]", line, maxsplit=1)[0].lower().replace("_", "-")
            if "extra ==" in line or asked in found:
                continue
            try:
                found[asked] = metadata.version(asked)
            except metadata.PackageNotFoundError:  # for another system or version
                continue
            left.append(asked)
    return found


def _licence(name: str) -> dict[str, Any]:
    said = metadata.metadata(name).json.get("license_expression")
    return {"licenses": [{"expression": str(said)}]} if said else {}


def _metric(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": f"{row['metric']} of {row['contrast']}" if row["contrast"] else str(row["metric"]),
        "value": f"{row['value']:.6g} {row['unit']}".strip(), "slice": f"{row['by']}, {row['n']} unseen patients",
    }  # fmt: skip
    if row["interval"]:
        low, high = (f"{v:.6g}" for v in row["interval"])
        found["confidenceInterval"] = {"lowerBound": low, "upperBound": high}
    return found


def model(dossier: Dossier) -> dict[str, Any]:
    """CycloneDX bill of the model, with its figures on unseen patients."""
    plan = dossier.plan
    metrics = [_metric(row) for _, row in dossier.rows(True)]
    limits = [fact.text for fact in _failures(dossier)] + [str(dossier.report["sentence"])]
    component: dict[str, Any] = {
        "type": "machine-learning-model", "bom-ref": "model", "name": f"{plan['job']} by {plan['family']}",
        "version": str(dossier.report["run"]),
        "modelCard": {
            "modelParameters": {"task": str(plan["job"]), "architectureFamily": str(plan["family"])},
            "quantitativeAnalysis": {"performanceMetrics": metrics},
            "considerations": {"technicalLimitations": [*limits, "For research only."]},
        },
    }  # fmt: skip
    if (weights := dossier.weights()) != NOT_MEASURED:
        component["hashes"] = [{"alg": "SHA-256", "content": weights}]
    ours = {"type": "application", "bom-ref": "run", "name": f"run {dossier.report['run']}"}
    return {**_bom(dossier, "model", ours), "components": [component]}
