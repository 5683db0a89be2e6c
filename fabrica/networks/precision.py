"""Which number format a machine is fast in, by trying it: processors of one name differ, and names lie.

Both formats take turns, so that other work on the machine slows both alike. The answer is kept by processor, threads
and versions in the user's cache folder, and two runs agree; an answer that is not certain is not kept.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..machine.device import cache_folder, processor_name

WORTH_IT = 1.3  # bfloat16 must be this much faster than float32 to be used
ROUNDS = (9, 15, 31)  # after each of these the answer is looked at: certain enough, or go on
SHOTS = 3  # of each work and format in a round
MISSED = 0.05  # the chance that the true median lies outside the interval that is shown
_FILE = "precision.json"


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast both formats are, over forward and backward passes of a convolution and a matrix product."""

    gflops: Mapping[str, float]  # "convolution fp32", "convolution bf16", "product fp32", "product bf16"
    gain: float  # how many times faster bfloat16 is: median over rounds, geometric mean over both kinds of work
    low: float  # the interval of that median
    high: float
    rounds: int
    kept: bool = False  # was it read from the cache folder?

    @property
    def certain(self) -> bool:
        """Does the whole interval lie on one side of what is worth it?"""
        return self.low >= WORTH_IT or self.high < WORTH_IT

    @property
    def choice(self) -> str:
        """ "bf16" or "fp32"; where nothing is certain, the exact one."""
        return "bf16" if self.low >= WORTH_IT else "fp32"

    def in_words(self) -> str:
        """One line for `fabrica doctor`."""
        g = self.gflops
        words = ", ".join(f"{w} {g[f'{w} fp32']:.0f} / {g[f'{w} bf16']:.0f}" for w in ("convolution", "product"))
        sure = "certain" if self.certain else "not certain, so not kept"
        source = "kept from an earlier measurement" if self.kept else f"{self.rounds} rounds just now"
        return (
            f"{words} GFLOP/s in float32 / bfloat16; bfloat16 is {self.gain:.2f} times as fast "
            f"({self.low:.2f} to {self.high:.2f}, {sure}; {source}): runs use {self.choice}"
        )


def choose(device: str = "cpu") -> str:
    """ "bf16" or "fp32": what a run uses when its recipe says `precision: auto`; it stands in the checkpoint."""
    return rates(device).choice


def rates(device: str = "cpu", fresh: bool = False) -> Rates:
    """What this machine reaches with the present number of threads; `fresh` measures again and keeps the new answer."""
    if fresh:
        _rates.cache_clear()
        _forget(_key(device))
    return _rates(device, torch.get_num_threads())


@functools.lru_cache(maxsize=8)
def _rates(device: str, threads: int) -> Rates:
    key = _key(device)
    if (known := _kept().get(key)) is not None:
        return known
    found = measured(device)
    if found.certain:
        _keep(key, found)
    return found


def measured(device: str = "cpu") -> Rates:
    """Interleaved rounds after a warm-up: 1 to 3 s, without a look at the cache folder."""
    works = {"convolution": _convolution, "product": _product}
    runs = {f"{name} {t}": make(device, kind) for name, make in works.items() for t, kind in _FORMATS.items()}
    for run, _ in runs.values():
        for _ in range(3):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for rounds in ROUNDS:
        while len(seconds["product fp32"]) < rounds:
            forward = len(seconds["product fp32"]) % 2 == 0
            for name in list(runs) if forward else reversed(list(runs)):
                seconds[name].append(_timed(runs[name][0], device))
        found = _summary(seconds, {name: work for name, (_, work) in runs.items()})
        if found.certain:
            break
    return found


_FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _summary(seconds: Mapping[str, list[float]], work: Mapping[str, float]) -> Rates:
    ratios = [
        [slow / fast for slow, fast in zip(seconds[f"{w} fp32"], seconds[f"{w} bf16"], strict=True)]
        for w in ("convolution", "product")
    ]
    gains = sorted(math.sqrt(a * b) for a, b in zip(*ratios, strict=True))
    low, high = _interval(gains)
    gflops = {name: 1e-9 * work[name] / statistics.median(found) for name, found in seconds.items()}
    return Rates(gflops, statistics.median(gains), low, high, len(gains))


def _interval(ordered: list[float]) -> tuple[float, float]:
    """Order statistics between which the median lies: the binomial interval, without any shape assumed."""
    n, tail, k = len(ordered), 0.0, 0
    while (tail := tail + math.comb(n, k) / 2**n) <= MISSED / 2:
        k += 1
    first = max(0, k - 1)
    return ordered[first], ordered[n - 1 - first]


def _timed(run: Callable[[], object], device: str) -> float:
    """Seconds of the quickest of a few: what another program took of one of them does not count."""
    found = []
    for _ in range(SHOTS):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found)


def _convolution(device: str, kind: torch.dtype) -> tuple[Callable[[], object], float]:
    """A convolution and its gradients, channels-last; and its operations."""
    x, w = torch.randn(4, 64, 32, 32, device=device), torch.randn(64, 64, 3, 3, device=device)
    x, w = (t.to(kind).contiguous(memory_format=torch.channels_last).requires_grad_() for t in (x, w))
    return _both_ways(lambda: F.conv2d(x, w, padding=1), (x, w)), 3 * 2.0 * 9 * 64 * 64 * 4 * 32 * 32


def _product(device: str, kind: torch.dtype) -> tuple[Callable[[], object], float]:
    x, w = (torch.randn(n, 384, device=device).to(kind).requires_grad_() for n in (1024, 384))
    return _both_ways(lambda: F.linear(x, w), (x, w)), 3 * 2.0 * 1024 * 384 * 384


def _both_ways(call: Callable[[], Tensor], inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    gradient = torch.randn_like(call())
    return lambda: torch.autograd.grad(call(), inputs, gradient)


def _key(device: str) -> str:
    name = torch.cuda.get_device_name(0) if device == "cuda" else processor_name()
    return f"{name}; {torch.get_num_threads()} threads; torch {torch.__version__}; fabrica {version('fabrica')}"


def _kept() -> dict[str, Rates]:
    """What the cache folder holds; a damaged file holds nothing."""
    try:
        plain = json.loads((cache_folder() / _FILE).read_text())
        return {str(key): _from_plain(value) for key, value in plain.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _from_plain(plain: Mapping[str, Any]) -> Rates:
    gflops = {str(name): float(rate) for name, rate in plain["gflops"].items()}
    gain, low, high = (float(plain[name]) for name in ("gain", "low", "high"))
    return Rates(gflops, gain, low, high, int(plain["rounds"]), kept=True)


def _keep(key: str, found: Rates) -> None:
    _write({**_kept(), key: replace(found, kept=True)})


def _forget(key: str) -> None:
    known = _kept()
    if known.pop(key, None) is not None:
        _write(known)


def _write(known: Mapping[str, Rates]) -> None:
    """Atomic; where nothing can be written every process measures for itself."""
    path = cache_folder() / _FILE
    part = path.with_name(f"{_FILE}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({key: asdict(value) for key, value in known.items()}, indent=1))
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
