"""The tables of results/planning.md from the reports of finished runs.

    fabrica run recipes/dose.yaml --data train=openkbp/train --data valid=openkbp/valid
    python benchmarks/planning.py dose RUN
    fabrica run recipes/synthetic_ct.yaml
    python benchmarks/planning.py synthetic_ct RUN
    fabrica run recipes/adaptive.yaml
    python benchmarks/planning.py adaptive RUN
    python benchmarks/planning.py split openkbp    # every fifth training patient validates: --set "split=$(...)"

Differences are paired over patients, with the project's own interval of a mean.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

from fabrica.evaluate.judging.planned import DVH, SCORE
from fabrica.evaluate.statistics import interval

GAMMA = ("gamma 3 %/3 mm", "gamma 2 %/2 mm", "gamma 2 %/2 mm local")
COLUMNS = ("mae", "mae of bone", *GAMMA, "target D95 off", "depth of water off")
Values = dict[tuple[str, str, str], dict[str, float]]  # (stage, by, metric) -> patient -> value


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("dose", "synthetic_ct", "adaptive", "split"))
    parser.add_argument("run", type=Path)
    asked = parser.parse_args()
    if asked.what == "split":
        print(json.dumps(_split(asked.run)))
        return
    if asked.what == "adaptive":
        _adaptive(asked.run / "report" / "cases.csv")
        return
    report = json.loads((asked.run / "report" / "report.json").read_text())
    values = values_in(asked.run / "report" / "cases.csv")
    _dose(report, values) if asked.what == "dose" else synthetic_table(values)


def _split(folder: Path) -> dict[str, list[str]]:
    """Names of OpenKBP's patients: every fifth of those who train validates, the challenge's validation is tested."""
    train, test = (sorted(p.stem for p in (folder / part).glob("pt_*.npz")) for part in ("train", "valid"))
    held = train[::5]
    return {"train": [p for p in train if p not in held], "validate": held, "test": test}


def _adaptive(path: Path) -> None:
    """Means over patients of what each computed stage reached, by stage, image, answer and metric."""
    found: dict[tuple[str, str, str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            try:
                value = float(row["value"])
            except ValueError:
                continue
            key = row["stage"], row["contrast"], row["by"], row["metric"], row["unit"]
            found[key][row["patient"]].append(value)
    print("| stage | of | answer | figure | mean over patients |\n|---|---|---|---|---|")
    for (stage, contrast, by, metric, unit), own in found.items():
        over = interval([sum(values) / len(values) for values in own.values()], list(own))
        value = f"{over.value:.3g}{_ends(over.interval, 2)} {unit}, {over.n}"
        print(f"| {stage} | {contrast} | {by} | {metric} | {value} |")


def values_in(path: Path) -> Values:
    found: Values = defaultdict(dict)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            try:
                found[row["stage"], row["by"], row["metric"]][row["patient"]] = float(row["value"])
            except ValueError:  # not evaluated: the report says why
                continue
    return found


def _dose(report: dict, values: Values) -> None:  # type: ignore[type-arg]
    (stage,) = report["stages"]
    figures = {(f["by"], f["name"]): f for f in stage["figures"]}
    print(f"{stage['steps']} steps in {stage['seconds']:.0f} s\n")
    print("| answer | dose | DVH |\n|---|---|---|")
    for by in dict.fromkeys(by for by, _ in figures):
        dose, dvh = figures[by, "dose score"], figures[by, "DVH score"]
        print(f"| {by} | {dose['value']:.3f}{_ends(dose['interval'], 3)} | {dvh['value']:.3f} |")
    name = stage["name"]
    print()
    models = [by for by in dict.fromkeys(by for by, _ in figures) if by.split(":")[0] == "model"]
    for by, metric in ((by, metric) for by in models for metric in (SCORE, DVH)):
        one, other = (values[name, answer, metric] for answer in (by, "boosted trees"))
        apart = [one[p] - other[p] for p in one]
        over = interval(apart, list(one))
        better = sum(a < 0 for a in apart)
        ends = _ends(over.interval, 3)
        print(f"{by} less boosted trees, {metric}: {over.value:.3f}{ends}; better in {better} of {len(apart)}")
    print()
    for key in (
        k for k in values if k[2].endswith("decided as by the true dose") and k[1] in (*models, "boosted trees")
    ):
        own = values[key]
        print(f"{key[1]}, {key[2]}: {sum(own.values()) / len(own):.2f} of {len(own)}")
    for (_, what), f in figures.items():
        if what.startswith("coverage of"):
            print(f"{what}: {f['value']:.3f}{_ends(f['interval'], 3)} over {f['n']}; {f['convention']}")


def synthetic_table(values: Values) -> None:
    print(f"| answer | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for stage, by in dict.fromkeys((stage, by) for stage, by, metric in values if metric in GAMMA):
        cells = []
        for metric in COLUMNS:
            own = values.get((stage, by, metric), {})
            over = interval(list(own.values()), list(own)) if own else None
            cells.append(f"{over.value:.2f}{_ends(over.interval, 2)}" if over else "-")
        print(f"| {stage}: {by} | {' | '.join(cells)} |")


def _ends(ends: object, digits: int) -> str:
    return f" ({ends[0]:.{digits}f} to {ends[1]:.{digits}f})" if isinstance(ends, list | tuple) else ""


if __name__ == "__main__":
    main()
