"""Scale measured: plans beside what runs took, two worker processes beside one, many small tasks.

    python benchmarks/scale.py [--only plan] [--work runs/scale]

Parts: plan (CPU-seconds foretold and taken by recipes cut to some fifty steps), workers (draws and rows by one and two processes of one
thread), killed (one of two killed ten times), tasks (ten thousand tiny ones: overhead of each, growth of memory), interval (checkpoints of a simulated cluster beside Young and Daly),
index (100,000 studies), volumes (512 x 512 x 512 and more), stores (memory map and Zarr). Run one at a time, from the repository's root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import torch
import yaml

from fabrica import io
from fabrica.data.index import Index
from fabrica.data.prepare import fit as fit_preparation
from fabrica.data.store import Layout, Loader, build_store
from fabrica.data.virtual import VirtualCohort
from fabrica.evaluate.judging.folders import evaluate_folders
from fabrica.evaluate.judging.shelf import Asked, Folders
from fabrica.generate.scans import generate_images
from fabrica.machine.executors import Dask, Executor, Local, Task
from fabrica.recipe.checks import from_plain
from fabrica.run.cluster import Cluster, best_interval
from fabrica.run.plan import plan_recipe
from fabrica.run.sequence import run_recipe

RECIPES = ("translation", "segmentation", "synthesis", "latent", "painting", "denoise")
STEPS = 50
CASES = 32
TINY = 10_000
STUDIES = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/scale"))
    parser.add_argument("--only", default="")
    parser.add_argument("--times", type=int, default=3, help="Of each plan and its run; the median is told.")
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
    """Foretold first, then run, three times; process time of this process alone."""
    for name in RECIPES:
        plain = yaml.safe_load(Path(f"recipes/{name}.yaml").read_text())
        for stage in plain.get("stages", {"": plain}).values():
            if "train" in stage:
                stage["train"] = {**{k: v for k, v in stage["train"].items() if k != "minutes"}, "steps": STEPS}
        plain["evaluate"] = {"draws": 1, "realism": 0, "evaluations": []}
        plain["baseline"] = "none"
        ratios, planning = [], 0.0
        for _ in range(options.times):
            began = time.process_time()
            found = plan_recipe(from_plain(plain), say=lambda text: None)
            planning = time.process_time() - began
            folder = options.work / f"plan-{name}"
            shutil.rmtree(folder, ignore_errors=True)
            began = time.process_time()
            run_recipe(from_plain(plain), folder, say=lambda text: None)
            took, foretold = time.process_time() - began, sum(p.cpu_s for p in found)
            ratios.append((round(foretold / took, 2), round(foretold, 1), round(took, 1)))
        ratio, foretold, took = sorted(ratios)[len(ratios) // 2]
        yield {
            "what": name, "foretold": foretold, "took": took, "ratio": ratio, "all": [r[0] for r in ratios],
            "planning": round(planning, 1),
        }  # fmt: skip


class Timed(Executor):
    """When each result came."""

    def __init__(self, by: Executor) -> None:
        self.by, self.device, self.marks = by, "cpu", list[float]()

    def results(self, name: str, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        for one in self.by.results(name, tasks):
            self.marks.append(time.perf_counter())
            yield one

    @property
    def seconds(self) -> float:
        """Of all but the first four, which start workers and load the model."""
        return self.marks[-1] - self.marks[3]


def workers(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Draws and per-case rows of 32 cases by this process, one worker and two, of one thread each."""
    torch.set_num_threads(1)
    plain = yaml.safe_load(Path("recipes/translation.yaml").read_text())
    plain["train"], plain["baseline"] = {"steps": 20, "batch": 4, "precision": "fp32"}, "none"
    plain["evaluate"], plain["sampler"] = {"draws": 1, "realism": 0, "evaluations": []}, {"name": "euler", "steps": 2}
    run = options.work / "drawing"
    if not (run / "report").exists():
        run_recipe(from_plain(plain), run, say=lambda text: None, device="cpu")
    scans = options.work / "scans"
    if not scans.exists():
        for member in VirtualCohort(CASES + 4, first=500, seed=1, spacing_mm=2, planes=(30, 54)).cohort().members:
            for name, image in member.load(["T1w", "FLAIR"]).images.items():
                io.write_nifti(image, scans / name / member.patient / f"{name}.nii.gz")
    found: dict[tuple[str, str], float] = {}
    for who, executor in (
        ("this process", Local("cpu")),
        ("one worker", Dask(workers=1, device="cpu")),
        ("two workers", Dask(workers=2, device="cpu")),
    ):
        out = options.work / f"drawn-{who.replace(' ', '-')}"
        shutil.rmtree(out, ignore_errors=True)
        by = Timed(executor)
        generate_images(run, scans / "T1w", out, draws=2, say=lambda text: None, executor=by)
        found["draws", who] = by.seconds
        pairs = options.work / "pairs"
        if not pairs.exists():
            for path in out.glob("*/FLAIR-0.nii.gz"):
                (pairs / path.parent.name).mkdir(parents=True)
                shutil.copy(path, pairs / path.parent.name / "FLAIR.nii.gz")
        by, report = Timed(executor), options.work / f"rows-{who.replace(' ', '-')}"
        shutil.rmtree(report, ignore_errors=True)
        evaluate_folders(
            Folders(pairs, scans / "FLAIR"),
            report,
            Asked(data_range=1.0, quick=True, executor=by, overrides={3: "a model of seconds has no range"}),
            lambda text: None,
        )
        found["rows", who] = by.seconds
        for what in ("draws", "rows"):
            yield {"what": what, "who": who, "seconds": round(found[what, who], 2), "cases": CASES}
    for what in ("draws", "rows"):
        yield {"what": what, "two over one": round(found[what, "one worker"] / found[what, "two workers"], 2),
               "two over this process": round(found[what, "this process"] / found[what, "two workers"], 2)}  # fmt: skip


def killed(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The draws of `workers` by two workers of which one is killed ten times, at random moments."""
    out, chance, kills = options.work / "drawn-killed", random.Random(0), list[int]()
    shutil.rmtree(out, ignore_errors=True)
    done = threading.Event()

    def busy(one: psutil.Process) -> bool:
        """A worker that has loaded the model, not who watches it."""
        with contextlib.suppress(psutil.Error):
            return "spawn_main" in " ".join(one.cmdline()) and one.cpu_times().user > 4
        return False

    def kill() -> None:
        while len(kills) < 10 and not done.wait(chance.uniform(6, 16)):
            if own := [p for p in psutil.Process().children(recursive=True) if busy(p)]:
                one = chance.choice(own)
                with contextlib.suppress(psutil.Error):
                    one.kill()
                    kills.append(one.pid)

    torch.set_num_threads(1)
    killer = threading.Thread(target=kill)
    killer.start()
    began = time.perf_counter()
    try:
        generate_images(
            options.work / "drawing",
            options.work / "scans" / "T1w",
            out,
            draws=2,
            say=lambda text: None,
            executor=Dask(workers=2, device="cpu"),
        )
    finally:
        done.set()
        killer.join()
    seconds = time.perf_counter() - began
    images = {p.relative_to(out): p.read_bytes() for p in out.rglob("*.nii.gz")}
    here = options.work / "drawn-this-process"
    same = images == {p.relative_to(here): p.read_bytes() for p in here.rglob("*.nii.gz")}
    yield {
        "what": "killed workers",
        "kills": len(kills),
        "images": len(images),
        "same bytes": same,
        "seconds": round(seconds, 1),
    }


def index(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """100,000 studies of one instance, new, as they were, and with a hundredth changed."""
    folder = options.work / "studies"
    if not folder.exists():
        write_studies(folder, STUDIES)
    place = options.work / "index.sqlite"
    for one in options.work.glob("index.sqlite*"):
        one.unlink()
    with Index.open(str(place)) as known:
        for what in ("all new", "as they were", "a hundredth changed"):
            if what == "a hundredth changed":
                for path in sorted(folder.glob("*/*.dcm"))[::100]:
                    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
            looked = known.look(folder)
            yield {
                "what": what, "seconds": round(looked.seconds, 1), "new": looked.new, "changed": looked.changed,
                "kept": looked.kept, "index MB": round(place.stat().st_size / 1e6, 1),
                "memory MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }  # fmt: skip
        yield {"what": "in words", "lines": list(known.lines())[:2]}


def write_studies(folder: Path, count: int) -> None:
    """Copies of one small CT slice, each with UIDs and a patient of its own."""
    from tests.data.test_index import write_slice

    pattern = write_slice(folder / "pattern.dcm", "P000000", "1.2.3.1000000", "1.2.3.2000000").read_bytes()
    (folder / "pattern.dcm").unlink()
    for k in range(count):
        own = pattern.replace(b"P000000", b"P%06d" % k).replace(b"1.2.3.1000000", b"1.2.3.1%06d" % k)
        path = folder / f"{k // 1000:03d}" / f"{k:06d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(own.replace(b"1.2.3.2000000", b"1.2.3.2%06d" % k))


def volumes(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """512 x 512 x 512 and 800 x 512 x 512 by windows of 64 that share an eighth: foretold, then drawn, each in a process of its own; the
    codec of a prior over codes by tiles; one pair evaluated."""
    shared = {
        "cohorts": {"all": {"virtual": {"patients": 4, "spacing_mm": 4, "disease": "none"}}}, "split": {"train": 0.5, "test": 0.5}, "baseline": "none",
        "evaluate": {"draws": 1, "realism": 0, "window": [64, 64, 64], "overlap": 0.125, "evaluations": [2]},
    }  # fmt: skip
    train = {"steps": 20, "batch": 1, "precision": "fp32"}
    job = {"name": "translation", "from": ["T1w"], "x": ["T2w"], "axes": "zyx"}
    net = {"channels": [8, 16], "blocks": 1}
    flow = {
        **shared,
        "job": job,
        "family": {"name": "flow", "network": net},
        "sampler": {"name": "euler", "steps": 2},
        "train": train,
        "prepare": {"size": [32, 32, 32]},
    }
    codes = {**shared, "stages": {
        "codec": {"job": {"name": "synthesis", "x": ["T2w"], "axes": "zyx", "place": False}, "family": {"name": "vae", "network": net},
                  "train": train, "prepare": {"size": [32, 32, 32]}},
        "prior": {"job": job, "family": {"name": "flow", "in": {"stage": "codec"}, "network": {**net, "patch": 1}}, "sampler": {"name": "euler", "steps": 2},
                  "train": train, "prepare": {"size": [32, 32, 32]}},
    }}  # fmt: skip
    from fabrica.data.cohort import Source
    from fabrica.generate.forecast import foretell_scans, taken_by

    for name, plain in (("flow", flow), ("codes", codes)):
        run = options.work / f"volume-{name}"
        if not (run / "report").exists():
            run_recipe(from_plain(plain), run, say=lambda text: None, device="cpu")
        for sides in ((512, 512, 512), (800, 512, 512)) if name == "flow" else ((512, 512, 512),):
            words = " x ".join(map(str, sides))
            scans = options.work / f"scan-{sides[0]}"
            if not scans.exists():
                write_body(scans / "a" / "T1w.nii", sides)
            found = foretell_scans(run, Source(scans), say=lambda text: None)
            out = options.work / f"out-{name}-{sides[0]}"
            shutil.rmtree(out, ignore_errors=True)
            began = time.perf_counter()
            took = taken_by("generate", str(run), "--data", str(scans), "--out", str(out))
            yield {
                "what": f"{name}, {words}", "seconds": round(time.perf_counter() - began), "GB": round(took.memory_bytes / 1e9, 2),
                "GB foretold": round(found.memory_bytes / 1e9, 2), "memory": round(found.memory_bytes / took.memory_bytes, 3),
                "CPU s": round(took.cpu_s), "cpu": round(found.cpu_s / took.cpu_s, 3),
            }  # fmt: skip
    pair = options.work / "pair"
    for side, path in (
        ("drawn", options.work / "out-flow-512/a/T2w-0.nii.gz"),
        ("real", options.work / "scan-512/a/T1w.nii"),
    ):
        (pair / side / "a").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, pair / side / "a" / f"T2w{''.join(path.suffixes)}")
    shutil.rmtree(options.work / "pair-report", ignore_errors=True)
    began = time.perf_counter()
    took = taken_by(
        "evaluate",
        "--generated",
        str(pair / "drawn"),
        "--reference",
        str(pair / "real"),
        "--out",
        str(options.work / "pair-report"),
        "--quick",
    )
    yield {
        "what": "evaluate, 512 x 512 x 512",
        "seconds": round(time.perf_counter() - began),
        "GB": round(took.memory_bytes / 1e9, 2),
    }


def write_body(path: Path, sides: Sequence[int]) -> None:
    """An ellipsoid of whole numbers on a grid of 1 mm."""
    lines = [np.linspace(-1, 1, n, dtype=np.float32) ** 2 for n in sides]
    body = np.clip(1.1 - lines[0][:, None, None] - lines[1][None, :, None] - lines[2][None, None, :], 0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image((1000 * body).astype(np.int16), np.eye(4)), path)


def stores(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The same prepared images as a memory map and as sharded Zarr: disk, and batches of slices and patches a second."""
    for axes, size in (("yx", (1, 96, 96)), ("zyx", (32, 64, 64))):
        members = VirtualCohort(8, seed=1, spacing_mm=2).cohort().members
        preparation = fit_preparation((m.load(["T1w", "T2w"]) for m in members), "T1w", axes, None)
        for sharded in (False, True):
            folder = options.work / f"store-{axes}-{sharded}"
            shutil.rmtree(folder, ignore_errors=True)
            store, _ = build_store(folder, members, ["T1w", "T2w"], "T1w", preparation, sharded=sharded)
            loader = Loader(store, Layout(("T1w", "T2w"), axes, size), 8, 0)
            loader.load(0)
            began = time.perf_counter()
            for step in range(40):
                loader.load(step)
            rate = 40 / (time.perf_counter() - began)
            disk = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
            yield {"what": "slices" if axes == "yx" else "patches", "store": "zarr" if sharded else "memory map",
                   "batches a second": round(rate, 1), "MB": round(disk / 1e6, 1)}  # fmt: skip


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


PARTS = {
    "plan": plan, "workers": workers, "killed": killed, "tasks": tasks, "interval": interval, "index": index, "volumes": volumes, "stores": stores,
}  # fmt: skip

if __name__ == "__main__":
    main()
