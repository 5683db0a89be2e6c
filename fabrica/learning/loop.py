"""The one training loop: any family, any job, on CPU, GPU or several processes, killed and resumed without a trace."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from ..contracts import Family, Job
from ..data.store import Loader, to_device
from ..networks.average import Average
from ..recipe.values import TrainPlan
from ..rng import Rng, derive
from . import checkpoint
from .gradients import Loss, PrivateGradients, TrainingError, check_private
from .optimiser import optimisers
from .processes import joined

WARM_UP_STEPS = 14  # timed to turn minutes into steps
RECOUNTS = (0.1, 0.25, 0.5, 0.75, 0.9)  # of the steps, where minutes are turned into steps once more
CURVE_POINTS = 400


class Interrupted(Exception):  # noqa: N818 (not an error: the user asked for it)
    """Ctrl-C: the state is saved and the run can be continued."""


@dataclass
class Progress:
    """What a watcher is told after every step."""

    step: int
    total: int
    loss: float
    images_per_second: float
    seconds_left: float


@dataclass
class Trained:
    """The trained family with averaged weights in place, and what there is to report."""

    family: Family
    steps: int
    seconds: float
    curve: list[tuple[int, float]] = field(default_factory=list)
    resumed_at: int = 0


def fit(
    family: Family, job: Job, loader: Loader, plan: TrainPlan, folder: Path, facts: Mapping[str, Any],
    watch: Callable[[Progress, Family], None] | None = None, device: str = "cpu",
) -> Trained:  # fmt: skip
    """Train to the end of the budget, or go on from the checkpoint in `folder`; raises TrainingError, CheckpointError.

    Random numbers come from (seed, step, row), so a killed run ends bit-identical to one that was not (same machine,
    same number of threads); of a budget in minutes it keeps the number of steps that it had when it was saved.
    """
    loop = _Loop(family, job, loader, plan, folder, dict(facts), device)
    loop.resume()
    began, last_save = time.perf_counter(), time.perf_counter()
    try:
        while loop.step < loop.total:
            loss = loop.advance()
            if watch is not None:
                watch(loop.progress(loss, began), cast(Family, loop.average.slow))
            loop.count_again(began)
            if time.perf_counter() - last_save > 60 * plan.checkpoint_minutes:
                loop.save(began)
                last_save = time.perf_counter()
            loop.writer.check()
    except KeyboardInterrupt as error:
        loop.save(began)
        loop.writer.wait()
        raise Interrupted(f"Stopped at step {loop.step} of {loop.total}; the state is saved.") from error
    except TrainingError as error:
        loop.writer.wait()
        raise TrainingError(f"{error} The last good checkpoint is kept in {folder}.") from error
    finally:
        loop.writer.finish()  # whatever stopped the training, a save that has begun is not lost
    loop.save(began)
    loop.writer.wait()
    return loop.finish(began)


class _Loop:
    """Weights, averages, optimisers and a step number: all that a checkpoint holds."""

    def __init__(
        self,
        family: Family,
        job: Job,
        loader: Loader,
        plan: TrainPlan,
        folder: Path,
        facts: dict[str, Any],
        device: str,
    ) -> None:
        self.processes = int(os.environ.get("WORLD_SIZE", "1"))
        strategy = _together(family) if self.processes > 1 else "auto"
        self.fabric = joined(device, self.processes, strategy)
        self.family, self.job, self.loader, self.plan = family, job, loader, plan
        self.folder, self.facts, self.writer = folder, facts, checkpoint.Writer(folder)
        self.step, self.total, self.before, self.resumed_at = 0, plan.steps or 0, 0.0, 0
        self.recounts: tuple[float, ...] = ()
        self.curve: list[tuple[int, float]] = []
        self._set_up()

    def _set_up(self) -> None:
        made = optimisers(self.family, self.family.groups(), self.plan.optimiser, self.plan.learning_rate)
        self.rates = {name: optimiser.rate for name, optimiser in made.items()}
        wrapped, *ready = self.fabric.setup(Loss(self.family), *made.values())
        self.module, self.optimisers = wrapped, dict(zip(made, ready, strict=True))
        self.average = Average(self.family, self.plan.average)
        self.private: PrivateGradients | None = None
        if (promised := self.plan.privacy) is not None:
            check_private(self.family, list(made), self.processes)
            self.private = PrivateGradients(promised, self.loader, self.plan.steps or 0)
            self.facts["privacy"] = {**asdict(self.private.spent), "per": promised.per, "clip": promised.clip}

    def resume(self) -> None:
        """Take over the checkpoint when there is one; else turn minutes into steps and write checkpoint zero."""
        found = checkpoint.load(self.folder)
        self.fabric.barrier()  # every process has looked before the first one writes
        if found is None:
            self._start_from_other()
            if self.plan.minutes is not None:
                self.total = int(self.fabric.broadcast(self._steps_in(self.plan.minutes)))
                self.recounts = RECOUNTS
            self.save(time.perf_counter())
            self.writer.wait()
            return
        tensors, facts = found
        if (before := facts.get("processes", 1)) != self.processes:
            raise checkpoint.CheckpointError(_other_processes(before, self.processes))
        self.step = self.resumed_at = int(facts["step"])
        self.total, self.before = int(facts["total"]), float(facts["seconds"])
        self.curve = [(int(s), float(v)) for s, v in facts["curve"]]
        checkpoint.unpack(tensors, self.family, self.average.slow, self.optimisers, self.folder)

    def _start_from_other(self) -> None:
        if self.plan.start is None:
            return
        if not (Path(self.plan.start) / "checkpoint.json").is_file():
            raise checkpoint.CheckpointError(f"train.start names {self.plan.start}, which holds no checkpoint.json.")
        slow, _ = checkpoint.weights_in(Path(self.plan.start))
        for module in (self.family, self.average.slow):
            checkpoint.into(
                module, slow, f"The weights in {self.plan.start} do not fit. Use the same job, family and network."
            )

    def _steps_in(self, minutes: float) -> int:
        """Time a few steps, undo them, divide."""
        state = {k: v.clone() for k, v in self.family.state_dict().items()}
        slow = {k: v.clone() for k, v in self.average.slow.state_dict().items()}
        times = []
        for _ in range(WARM_UP_STEPS):
            start = time.perf_counter()
            self.total = 1_000_000
            self.advance()
            times.append(time.perf_counter() - start)
        self.family.load_state_dict(state)
        self.average.slow.load_state_dict(slow)
        for optimiser in self.optimisers.values():
            optimiser.state.clear()
        self.step, self.curve = 0, []
        quiet = sorted(times[WARM_UP_STEPS // 2 :])
        return max(1, int(60 * minutes / quiet[len(quiet) // 2]))

    def count_again(self, began: float) -> None:
        """Minutes into steps once more: the first steps are seldom as fast as the rest, and a machine has other work at
        times.
        """
        if self.step and any(self.step >= share * self.total for share in self.recounts):
            steps = self.step * 60 * (self.plan.minutes or 0) / (self.before + time.perf_counter() - began)
            self.total = max(self.step, int(self.fabric.broadcast(steps)))
            self.recounts = tuple(share for share in self.recounts if self.step < share * self.total)

    def advance(self) -> float:
        """One step of every group; the loss of the last."""
        progress = self.step / max(1, self.total)
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = self.rates[name] * _warm_and_cool(self.step, self.total)
        total = self._descend(progress) if self.private is None else self._descend_privately(self.private, progress)
        self.average.update(self.step)
        self.step += 1
        if self.step % max(1, self.total // CURVE_POINTS) == 0 and self.private is None:  # losses tell of patients
            self.curve.append((self.step, total))
        return total

    def _descend(self, progress: float) -> float:
        batch = self.loader.load(self.step * self.processes + self.fabric.global_rank)
        batch = to_device(batch, self.fabric.device)
        seed, total = derive(self.loader.seed, "train", self.step), 0.0
        rng = Rng([derive(seed, self.fabric.global_rank, row) for row in range(len(batch.cases))])
        problem = self.job.problem(batch, rng.child("problem"))
        for name, optimiser in self.optimisers.items():
            optimiser.zero_grad()
            loss = self.module(problem, name, rng.child(name), progress)
            self.fabric.backward(loss)
            self.fabric.clip_gradients(self.module, optimiser, max_norm=self.plan.clip, error_if_nonfinite=False)
            self.writer.copied()  # a checkpoint may still be copying what the optimiser is about to change
            optimiser.step()
            total = float(loss.detach())
        return total

    def _descend_privately(self, gradients: PrivateGradients, progress: float) -> float:
        ((name, optimiser),) = self.optimisers.items()
        optimiser.zero_grad()
        total = gradients.into(self.module, self.job, name, self.step, progress)
        self.writer.copied()
        optimiser.step()
        return total

    def progress(self, loss: float, began: float) -> Progress:
        done = self.step - self.resumed_at
        rate = done / max(1e-9, time.perf_counter() - began)
        images = rate * self.loader.batch * self.processes
        return Progress(self.step, self.total, loss, images, (self.total - self.step) / max(1e-9, rate))

    def save(self, began: float) -> None:
        """Only the first process writes, in the background."""
        if self.fabric.global_rank:
            return
        seconds = self.before + time.perf_counter() - began
        facts = {**self.facts, "step": self.step, "total": self.total, "seconds": seconds, "curve": self.curve}
        facts |= {"processes": self.processes}
        buffers = {f"model/{name}" for name, _ in self.family.named_buffers()}  # a forward pass may change them
        self.writer.save(checkpoint.pack(self.family, self.average.slow, self.optimisers), facts, at_once=buffers)

    def finish(self, began: float) -> Trained:
        seconds = self.before + time.perf_counter() - began
        self.family.load_state_dict(self.average.slow.state_dict())
        return Trained(self.family, self.step, seconds, self.curve, self.resumed_at)


def _together(family: Family) -> str:
    """Where groups take turns, each step leaves the others' parameters without a gradient."""
    return "ddp_find_unused_parameters_true" if len(family.groups()) > 1 else "ddp"


def _other_processes(before: int, now: int) -> str:
    """Their batches would be others than those that the step number counts."""
    again = f"torchrun --nproc-per-node {before} -m fabrica run RUN" if before > 1 else "fabrica run RUN"
    return f"This training was begun by {before} processes, this is {now}: it would not end the same. Type: {again}"


def _warm_and_cool(step: int, total: int, warm: int = 40) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    rise = min(1.0, (step + 1) / min(warm, max(1, total // 10)))
    return rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, total)))))
