"""The worst figures of every test that learns, over seeds, precisions and threads; written into the tests as comments.

python -m tests.survey --out figures.jsonl [--seeds 5] [--write]
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
COMMENT = "# worst of"


def measure(out: Path, seeds: int, precisions: list[str], threads: list[int], only: str) -> None:
    """One run of the marked tests for each of the conditions; failing tests are figures too."""
    for precision in precisions:
        for count in threads:
            for seed in range(seeds):
                told = {
                    "FABRICA_TEST_SEED": str(seed), "FABRICA_TEST_PRECISION": precision, "FABRICA_TEST_THREADS": str(count),
                    "FABRICA_TEST_FIGURES": str(out.resolve()),
                }  # fmt: skip
                line = [
                    sys.executable,
                    "-m",
                    "pytest",
                    "-q",
                    "-m",
                    "learns",
                    "-p",
                    "no:cacheprovider",
                    *([only] if only else []),
                ]
                done = subprocess.run(
                    line, env={**os.environ, **told}, cwd=HERE.parent, capture_output=True, text=True, check=False
                )
                print(precision, count, seed, done.stdout.splitlines()[-1:], flush=True)


def write(out: Path) -> None:
    """The comments above every call, from what was measured."""
    found: dict[tuple[str, int], dict[tuple[str, int], list[tuple[float, float, int]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for line in out.read_text().splitlines():
        row = json.loads(line)
        found[row["file"], row["line"]][row["precision"], row["threads"]].append(
            (row["share"], row["value"], row["seed"])
        )
    for file in sorted({f for f, _ in found}):
        path = HERE / file
        lines = path.read_text().splitlines()
        for number in sorted((n for f, n in found if f == file), reverse=True):
            at = number - 1
            while not re.match(r"\s*(below|above|near)\(", lines[at]):
                at -= 1
            indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
            parts = []
            for (precision, threads), rows in sorted(found[file, number].items()):
                share, value, _ = max(rows)
                many = f", {threads} threads" if threads > 1 else ""
                parts.append(
                    f"{value:.3g} ({share:.2f} of the bound; {precision}{many}, {len({s for *_, s in rows})} seeds)"
                )
            comment = f"{indent}{COMMENT} {'; '.join(parts)}"
            if at and lines[at - 1].lstrip().startswith(COMMENT):
                lines[at - 1] = comment
            else:
                lines.insert(at, comment)
        path.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--only", default="")
    parser.add_argument("--write", action="store_true")
    told = parser.parse_args()
    if told.write:
        write(told.out)
    else:
        measure(told.out, told.seeds, told.precisions, told.threads, told.only)


if __name__ == "__main__":
    main()
