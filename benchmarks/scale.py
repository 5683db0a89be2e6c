"""Scale measured: plans beside what runs took, two worker processes beside one, many small tasks.

    python benchmarks/scale.py [--only plan] [--work runs/scale]

Parts: plan (CPU-seconds foretold and taken by recipes cut to some fifty steps), workers (simulated patients by one and two processes of one
thread), tasks (ten thousand tiny ones: overhead of each, growth of memory), interval (checkpoints of a simulated cluster beside Young and Daly).
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from fabrica.data.virtual import VirtualCohort
from fabrica.data.virtual.export import write_cohort
from fabrica.machine.executors import Dask, Local
from fabrica.recipe.checks import from_plain
from fabrica.run.cluster import Cluster, best_interval
from fabrica.run.plan import plan_recipe
from fabrica.run.sequence import run_recipe

RECIPES = ("translation", "segmentation", "synthesis", "outcome", "volumes", "denoise")
STEPS = 50
CASES = 32
TINY = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/scale"))
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        if options.only not in ("", name):
            continue
        with (options.work / f"{name}.jsonl").open("a") as file:
            for row in part(options):
                print(json.dumps(row), flush=True)
                file.write(json.dumps(row) + "\n")
                file.flush()


def plan(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Foretold first, then run; process time of this process alone."""
    for name in RECIPES:
        plain = yaml.safe_load(Path(f"recipes/{name}.yaml").read_text())
        for stage in plain.get("stages", {"": plain}).values():
            if "train" in stage:
                stage["train"] = {**{k: v for k, v in stage["train"].items() if k != "minutes"}, "steps": STEPS}
        plain["evaluate"] = {"draws": 1, "realism": 0, "evaluations": []}
        plain["baseline"] = "none"
        began = time.process_time()
        found = plan_recipe(from_plain(plain), say=lambda text: None)
        planning = time.process_time() - began
        folder = options.work / f"plan-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        began = time.process_time()
        run_recipe(from_plain(plain), folder, say=lambda text: None)
        took = time.process_time() - began
        foretold = sum(p.cpu_s for p in found)
        yield {
            "what": name,
            "foretold": round(foretold, 1),
            "took": round(took, 1),
            "ratio": round(foretold / took, 2),
            "planning": round(planning, 1),
        }


def workers(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The same cohort by this process, one worker and two, of one thread each; workers are warm after four cases."""
    torch.set_num_threads(1)
    times = {}
    for name, executor in (("local", Local()), ("one worker", Dask(workers=1)), ("two workers", Dask(workers=2))):
        folder = options.work / f"virtual-{name.replace(' ', '-')}"
        shutil.rmtree(folder, ignore_errors=True)
        marks: list[float] = []
        plan = VirtualCohort(CASES + 4, seed=1, spacing_mm=2, planes=(30, 60))
        write_cohort(plan, folder, lambda text, marks=marks: marks.append(time.perf_counter()), executor)  # type: ignore[misc]
        times[name] = marks[-1] - marks[3]
        yield {"what": name, "seconds": round(times[name], 1), "cases": CASES}
    yield {"what": "one worker over two", "ratio": round(times["one worker"] / times["two workers"], 2)}


def tasks(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Ten thousand tasks that do nothing; memory is told from the thousandth on, when the scheduler is there."""
    began, memory = time.perf_counter(), list[int]()
    jobs = [{"x": k} for k in range(TINY)]
    for _ in Dask(workers=2).results("fabrica.machine.executors:nothing", jobs):
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    seconds = time.perf_counter() - began
    yield {
        "what": f"{len(memory)} tiny tasks",
        "seconds": round(seconds, 1),
        "ms each": round(1000 * seconds / len(memory), 2),
        "MiB at 1, 1000, half, end": [memory[k] for k in (0, 999, TINY // 2, -1)],
        "MiB grown": memory[-1] - memory[999],
    }


def interval(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The best checkpoint interval of a simulated cluster."""
    for count in (1, 10, 100, 1000):
        cluster = Cluster(count, 1.0, hours_between_failures=2000.0, checkpoint_s=10.0, restart_s=60.0)
        found = best_interval(cluster, 60 * cluster.failing_s, 200)
        yield {
            "what": f"{count} workers",
            "interval_s": round(found.interval_s),
            "young_daly_s": round(cluster.young_daly_s()),
            "failures": round(found.failures, 1),
        }


PARTS = {"plan": plan, "workers": workers, "tasks": tasks, "interval": interval}

if __name__ == "__main__":
    main()
