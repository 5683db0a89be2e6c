"""Sections of speed.py about training: the loop around the step, checkpoints, memory, and how costs grow."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fabrica.contracts import Condition, Family, Job
from fabrica.data.store import Entry, Layout, Loader, Store
from fabrica.families import Flow
from fabrica.jobs import JOBS
from fabrica.learning import checkpoint
from fabrica.learning.loop import _Loop
from fabrica.machine.device import resident_bytes
from fabrica.networks import precision
from fabrica.networks.unet import UNet, UNetShape
from fabrica.recipe.values import TrainPlan
from fabrica.rng import Rng
from fabrica.run.memory import training_need

Fact = dict[str, Any]


def made_store(folder: Path, shape: tuple[int, int, int], contrasts: Sequence[str] = ("T1w", "FLAIR")) -> Store:
    entries = []
    for i in range(3):
        files = {name: folder / f"{i}-{name}.npy" for name in contrasts}
        for path in files.values():
            np.save(path, np.random.default_rng(i).normal(0.5, 0.2, (1, *shape)).astype(np.float32))
        entries.append(Entry(f"c{i}", f"p{i}", files, shape, ((1.0,) * 4,) * 4, tuple(range(shape[0]))))
    return Store(entries)


def parts(folder: Path, axes: str, side: int, channels: tuple[int, ...]) -> tuple[Family, Job, Store, Layout]:
    job = JOBS.find("translation")(source=["T1w"], x=["FLAIR"], axes=axes)
    family = Flow(job.signature(), UNetShape(channels=channels), precision.choose())
    size = (1, side, side) if axes == "yx" else (side, side, side)
    return (
        family,
        job,
        made_store(folder, (max(8, size[0]), side + 16, side + 16)),
        Layout(("T1w", "FLAIR"), axes, size),
    )


# ---------------------------------------------------------------- the loop around a step


def training(rounds: int) -> list[Fact]:
    return [loop_share(rounds, *case) for case in (("yx", 64, 8), ("zyx", 32, 2))] + [checkpoint_block(rounds)]


def loop_share(rounds: int, axes: str, side: int, batch: int) -> Fact:
    """Steps a second of the whole loop over those of loss, backward and optimiser alone, on problems made before."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        family, job, store, layout = parts(folder, axes, side, (32, 64, 128))
        loader = Loader(store, layout, batch, 0)
        loop = _Loop(family, job, loader, TrainPlan(steps=100_000, batch=batch), folder / "stage", {}, "cpu")
        loop.resume()
        rng = Rng(list(range(batch)))
        problem, optimiser = job.problem(loader.load(0), rng), next(iter(loop.optimisers.values()))

        def bare() -> None:
            optimiser.zero_grad()
            loss = torch.stack([t.mean() for t in family.loss(problem, "model", rng, 0.0).values()]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

        steps = 6
        times: dict[str, list[float]] = {"bare step": [], "whole loop": [], "optimiser and average": []}
        for _ in range(rounds + 1):
            times["bare step"].append(clock(bare, steps))
            times["whole loop"].append(clock(loop.advance, steps))
            times["optimiser and average"].append(clock(lambda: (optimiser.step(), loop.average.update(9)), steps))
    times = {name: values[1:] for name, values in times.items()}
    share = [a / b for a, b in zip(times["bare step"], times["whole loop"], strict=True)]
    update = [a / b for a, b in zip(times["optimiser and average"], times["bare step"], strict=True)]
    name = f"{'2D' if axes == 'yx' else '3D'}, side {side}, batch {batch}"
    return {
        "name": f"training loop, {name}",
        "facts": [
            fact("whole loop, share of the speed of the bare step", share, ">= 0.95"),
            fact("optimiser and moving average, share of a bare step", update, "<= 0.05"),
            fact("bare step, ms", [1e3 * t for t in times["bare step"]]),
        ],
    }


def clock(work: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


def checkpoint_block(rounds: int) -> Fact:
    """How long a training waits while 50 million parameters, their average and two moments are saved."""
    net = UNet(2, 1, 1, (), UNetShape(channels=(128, 256, 512)))
    optimiser = torch.optim.AdamW(net.parameters(), 1e-4, fused=True)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimiser.step()
    tensors = checkpoint.pack(net, net, {"model": optimiser})
    x, level, step = torch.randn(8, 1, 64, 64), torch.rand(8), []
    blocked, whole = [], []
    with tempfile.TemporaryDirectory() as scratch:
        writer = checkpoint.Writer(Path(scratch))
        for _ in range(min(rounds, 5) + 2):
            began = time.perf_counter()
            writer.save(tensors, {})
            saved = time.perf_counter()
            net(x, level, Condition()).square().mean().backward()  # the next step, up to its optimiser
            computed = time.perf_counter()
            writer.copied()
            blocked.append(1e3 * (saved - began + time.perf_counter() - computed))
            step.append(1e3 * (computed - saved))
            writer.wait()
            whole.append(1e3 * (time.perf_counter() - began))
    millions, size = sum(p.numel() for p in net.parameters()) / 1e6, sum(t.nbytes for t in tensors.values()) / 1e6
    return {
        "name": f"checkpoint of {millions:.0f} million parameters, {size:.0f} MB",
        "facts": [
            fact("training waits, ms (first save left out)", blocked[2:], "<= 50"),
            fact("the forward and backward pass of 8 x 64 x 64 meanwhile, ms", step[2:]),
            fact("until it lies on the disk, hashed, ms", whole[2:]),
        ],
    }


# ---------------------------------------------------------------- memory

MEMORY_CASES = (
    ("yx", 96, 32, (32, 64, 128)), ("yx", 96, 64, (32, 64, 128)), ("yx", 192, 16, (48, 96, 192)),
    ("zyx", 64, 2, (32, 64, 128)), ("zyx", 96, 1, (48, 96, 192)), ("zyx", 96, 2, (16, 32, 64)),
)  # fmt: skip


def memory(rounds: int) -> list[Fact]:
    rows = [in_child("foretell", *case) for case in MEMORY_CASES]
    facts = []
    for (axes, side, batch, channels), found in zip(MEMORY_CASES, rows, strict=True):
        name = f"{axes} side {side}, batch {batch}, channels {'-'.join(map(str, channels))}"
        words = f"{found['foretold'] / 1e6:.0f} MB foretold, {found['measured'] / 1e6:.0f} MB measured"
        facts.append(fact(f"{name}: {words}; ratio", [found["foretold"] / found["measured"]], "0.85 to 1.15"))
    ours, theirs = in_child("step", "fabrica"), in_child("step", "monai")
    flop = f"{ours['gflop']:.0f} and {theirs['gflop']:.0f} GFLOP a step"
    words = f"{ours['peak'] / 1e6:.0f} and {theirs['peak'] / 1e6:.0f} MB"
    peak = fact(
        f"3D step, 64^3, batch 1, Fabrica over MONAI: {words}, {flop}", [ours["peak"] / theirs["peak"]], "<= 0.5"
    )
    return [{"name": "peak memory of a process, beyond what it held before", "facts": [*facts, peak]}]


def in_child(*arguments: Any) -> dict[str, float]:
    """A fresh process: memory that another case left behind must not count."""
    command = [sys.executable, __file__, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def foretell(axes: str, side: int, batch: int, channels: Sequence[int]) -> dict[str, float]:
    """Three steps and a checkpoint in this process: what was foretold, and what the kernel saw."""
    with tempfile.TemporaryDirectory() as scratch:
        family, job, store, layout = parts(Path(scratch), axes, side, tuple(channels))
        foretold = training_need(family, job, store, layout).total(batch)
        before = forget_peak()
        loop = _Loop(
            family, job, Loader(store, layout, batch, 0), TrainPlan(steps=9, batch=batch), Path(scratch, "s"), {}, "cpu"
        )
        loop.resume()
        for _ in range(3):
            loop.advance()
        loop.save(time.perf_counter())
        loop.writer.wait()
        return {"foretold": foretold, "measured": peak() - before}


def step(whose: str) -> dict[str, float]:
    """One training step at 64^3: default topology of each, widths chosen for about the same arithmetic."""
    from torch.utils.flop_counter import FlopCounterMode

    x, level = torch.randn(1, 1, 64, 64, 64), torch.rand(1)
    if whose == "fabrica":
        net: Any = UNet(3, 1, 1, (), UNetShape(channels=(96, 192, 384)), precision.choose())
        run: Callable[[], torch.Tensor] = lambda: net(x, level, Condition())  # noqa: E731
    else:
        from speed import monai_network

        net = monai_network(3)
        run = lambda: net(x, timesteps=level)  # noqa: E731
    optimiser = torch.optim.AdamW(net.parameters(), 1e-4, fused=True)
    before = forget_peak()
    with FlopCounterMode(display=False) as counted:
        run().float().square().mean().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    optimiser.zero_grad()
    run().float().square().mean().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return {"peak": peak() - before, "gflop": counted.get_total_flops() / 1e9}


def forget_peak() -> int:
    """Reset the kernel's high-water mark; bytes held now."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident_bytes()


def peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


# ---------------------------------------------------------------- growth


def growth(rounds: int) -> list[Fact]:
    facts = [
        curve("forward 2D, batch 4, against side", (32, 64, 128, 256), lambda n: forward(2, n, 4, 32), "<= 2.1"),
        curve("forward 3D, batch 1, against side", (16, 32, 64), lambda n: forward(3, n, 1, 32), "<= 3.15"),
        curve(
            "forward 2D, 64 x 64, batch 4, against channels", (16, 32, 64, 96), lambda n: forward(2, 64, 4, n), "<= 2"
        ),
        curve("forward 2D, 64 x 64, against batch", (1, 2, 4, 8, 16), lambda n: forward(2, 64, n, 32), "<= 1"),
        curve("a draw of 32 x 32, against draws", (1, 2, 4, 8), draws, "<= 1"),
        curve("DICOM headers scanned the first time, against files", (250, 500, 1000, 2000), headers, "about 1"),
    ]
    return [{"name": "exponents fitted to medians", "facts": facts}]


def curve(name: str, sizes: Sequence[int], make: Callable[[int], Callable[[], object]], asked: str) -> Fact:
    """Median of 3 at each size, and the slope of log time over log size."""
    times = []
    for n in sizes:
        run = make(n)
        run()
        times.append(statistics.median(clock(run, 1) for _ in range(3)))
    slope = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
    words = ", ".join(f"{n}: {1e3 * t:.0f} ms" for n, t in zip(sizes, times, strict=True))
    return fact(f"{name} ({words})", [slope], asked)


def forward(dimensions: int, side: int, batch: int, width: int) -> Callable[[], object]:
    net = UNet(dimensions, 1, 1, (), UNetShape(channels=(width, 2 * width, 4 * width)), precision.choose())
    x, level = torch.randn(batch, 1, *[side] * dimensions), torch.rand(batch)

    def run() -> None:
        with torch.inference_mode():
            net(x, level, Condition())

    return run


def draws(count: int) -> Callable[[], object]:
    folder = tempfile.TemporaryDirectory()
    family, job, store, layout = parts(Path(folder.name), "yx", 32, (32, 64, 128))
    question = job.question(Loader(store, layout, 1, 0).load(0), Rng([0])).rows(torch.zeros(count, dtype=torch.long))
    return lambda: family.sample(question, Rng(list(range(count))))


def headers(count: int) -> Callable[[], object]:
    from speed import first_time, write_series

    folder = Path(tempfile.mkdtemp())
    write_series(folder / "series", count, 16)
    return lambda: first_time(folder / "series")


def fact(what: str, values: Sequence[float], asked: str = "") -> Fact:
    """A figure with its spread, and what was asked of it: ">= a", "<= a", "a to b", "about n" (within a quarter)."""
    middle = statistics.median(values)
    return {
        "what": what,
        "median": middle,
        "least": min(values),
        "most": max(values),
        "asked": asked,
        "reached": met(middle, asked),
    }


def met(value: float, asked: str) -> bool | None:
    if not asked:
        return None
    if asked.startswith(">="):
        return value >= float(asked[2:])
    if asked.startswith("<="):
        return value <= float(asked[2:])
    if asked.startswith("about"):
        return math.isclose(value, float(asked[5:]), rel_tol=0.25)
    low, high = map(float, asked.split(" to "))
    return low <= value <= high


if __name__ == "__main__":
    what, *given = json.loads(sys.argv[1])
    print(json.dumps({"foretell": foretell, "step": step}[what](*given)))
