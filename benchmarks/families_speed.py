"""A training step and a draw of every family, and the autoencoder beside MONAI's, in interleaved rounds of one process.

    python benchmarks/families_speed.py [--rounds 3] [--large]

Untrained networks, made-up images, batches of 4 (2D) and 1 (3D); `--large` adds 128 x 128 and 64^3. A training step: all groups of
the family, forward, backward and the optimiser that runs use. Memory: bytes of live tensors of that step, counted. Writes results/families_speed.md.
Run nothing beside it. Extra `test`: MONAI.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from sets import machine
from torch import nn

from fabrica.contracts import Condition, Family, Field, Problem, Signature
from fabrica.families import FAMILIES, Latent, Vae, latent_signature
from fabrica.machine import peak_bytes
from fabrica.networks import precision
from fabrica.networks.unet import UNetShape
from fabrica.optimiser import optimisers
from fabrica.rng import Rng

RESULTS = Path(__file__).parent / "results"
SHAPE, CODE_SHAPE = UNetShape((32, 64, 128), 1), UNetShape((32, 64), 1, patch=1)
PLACES: dict[str, tuple[str, int, int]] = {"64 x 64": ("yx", 64, 4), "32 x 32 x 32": ("zyx", 32, 1)}
LARGE: dict[str, tuple[str, int, int]] = {"128 x 128": ("yx", 128, 4), "64 x 64 x 64": ("zyx", 64, 1)}
GIVEN = Field("given T1w")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    chosen = precision.choose("cpu")
    found: dict[str, Any] = {}
    for where, (axes, side, batch) in (PLACES | (LARGE if options.large else {})).items():
        found[where] = {
            **families(axes, side, batch, chosen, options.rounds),
            **codecs(axes, side, batch, chosen, options.rounds),
        }
        print(where, found[where], flush=True)
    known = {"machine": f"{machine()}, {torch.get_num_threads()} threads, {chosen}", "places": found}
    (RESULTS / "families_speed.json").write_text(json.dumps(known, indent=1))
    write(known)


def made(name: str, axes: str, chosen: str) -> tuple[Family, bool]:
    """(family, does it draw label maps)."""
    if name == "flow in codes":
        signature = Signature((Field("FLAIR"),), axes, (GIVEN,))
        codec = Vae(Signature(signature.x, axes), UNetShape((32, 64), 1), chosen, codes=4, rungs=0)
        inner = latent_signature(signature, codec, FAMILIES.find("flow"))
        return Latent(codec, FAMILIES.find("flow")(inner, CODE_SHAPE, chosen), signature.condition), False
    kind = FAMILIES.find(name)
    label = "intensity" not in kind.learns
    x = Field("lesion", "label", 2) if label else Field("FLAIR")
    condition = () if name == "vq" else (GIVEN,)
    return kind(Signature((x,), axes, condition), SHAPE, chosen), label


def families(axes: str, side: int, batch: int, chosen: str, rounds: int) -> dict[str, Any]:
    names = [
        "regression",
        "gan",
        "cycle",
        "vae",
        "vq",
        "diffusion",
        "flow",
        "shortcut",
        "consistency",
        "autoregressive",
        "flow in codes",
    ]
    work: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}
    for name in names:
        torch.manual_seed(0)
        family, label = made(name, axes, chosen)
        grid = (side,) * len(axes)
        image, rows = torch.rand(batch, 1, *grid), list(range(batch))
        target = torch.cat([image > 0.5, image <= 0.5], 1).float() if label else torch.rand(batch, 1, *grid)
        paired = torch.zeros(batch, dtype=torch.bool) if name == "cycle" else None
        condition = Condition() if name == "vq" else Condition({"given T1w": image})
        problem = Problem(tuple(map(str, rows)), (target.shape[1], *grid), condition, target=target, paired=paired)
        work[name] = (stepper(family, problem), lambda f=family, p=problem, r=rows: f.eval().sample(p, Rng(r)))
    return timed(work, rounds, batch)


def timed(work: Mapping[str, tuple[Callable[[], Any], Callable[[], Any]]], rounds: int, batch: int) -> dict[str, Any]:
    """Milliseconds an image of each pair (training step, draw), medians of interleaved rounds after one that warms up."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in work}
    for number in range(rounds + 1):
        for name, pair in work.items():
            for kind, run in enumerate(pair):
                began = time.perf_counter()
                run()
                if number:
                    times[name][kind].append(1e3 * (time.perf_counter() - began))
    return {
        n: {"step_ms": statistics.median(a) / batch, "draw_ms": statistics.median(b) / batch}
        for n, (a, b) in times.items()
    }


def stepper(family: Family, problem: Problem) -> Callable[[], None]:
    turns = optimisers(family, family.groups(), learning_rate=1e-4)  # as every run trains

    def step() -> None:
        family.train()
        for group, optimiser in turns.items():
            optimiser.zero_grad()
            terms = family.loss(problem, group, Rng(range(len(problem.cases))), 0.5)
            torch.stack([t.mean() for t in terms.values()]).sum().backward()
            optimiser.step()

    return step


def codecs(axes: str, side: int, batch: int, chosen: str, rounds: int) -> dict[str, Any]:
    """Encode, decode and train: ours beside MONAI's as its users run it (float32, attention as shipped in its tutorials: none)."""
    from monai.networks.nets import AutoencoderKL

    grid, d = (side,) * len(axes), len(axes)
    x = torch.rand(batch, 1, *grid)
    ours = Vae(Signature((Field("FLAIR"),), axes), UNetShape((32, 64, 128), 1), chosen, codes=4, rungs=0)
    theirs: nn.Module = AutoencoderKL(
        spatial_dims=d, in_channels=1, out_channels=1, num_res_blocks=(1, 1, 1), channels=(32, 64, 128), attention_levels=(False,) * 3,
        latent_channels=4, norm_num_groups=32, with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
    )  # fmt: skip
    optimiser = torch.optim.AdamW(theirs.parameters(), 1e-4)
    problem = Problem(tuple(map(str, range(batch))), (1, *grid), target=x)

    def train_theirs() -> None:
        optimiser.zero_grad()
        back, mean, sigma = theirs(x)
        kl = 0.5 * (mean**2 + sigma**2 - (sigma**2).log() - 1).mean()
        ((back - x).abs().mean() + 1e-6 * kl).backward()
        optimiser.step()

    @torch.inference_mode()
    def there_and_back(encode: Callable[[], Any]) -> None:
        encode()

    work = {
        "autoencoder, ours": (
            stepper(ours, problem),
            lambda: there_and_back(lambda: ours.decode(ours.encode(x), Condition())),
        ),
        "autoencoder, MONAI": (train_theirs, lambda: there_and_back(lambda: theirs.reconstruct(x))),
    }
    found = timed(work, rounds, batch)
    gc.collect()
    return {name: {**figures, "step_mb": peak_bytes(work[name][0]) / 1e6} for name, figures in found.items()}


def write(known: dict[str, Any]) -> None:
    lines = [
        "# Cost of families", "", "`python benchmarks/families_speed.py`. Medians of interleaved rounds in one process, milliseconds an image (or volume). Untrained",
        "networks of channels 32-64-128, one block a level, given one image; a draw with the family's default number of evaluations. The autoencoders encode",
        "and decode where the others draw; MB: live tensors of a training step, counted alike for both.", "", f"{known['machine']}.", "",
    ]  # fmt: skip
    for where, rows in known["places"].items():
        lines += [f"## {where}", "", "| family | training step, ms | draw, ms | MB |", "|---|---|---|---|"]
        for name, r in rows.items():
            lines.append(
                f"| {name} | {r['step_ms']:.1f} | {r['draw_ms']:.1f} | {format(r['step_mb'], '.0f') if 'step_mb' in r else ''} |"
            )
        a, b = rows["autoencoder, ours"], rows["autoencoder, MONAI"]
        lines += [
            "", f"MONAI's autoencoder over ours: training step {b['step_ms'] / a['step_ms']:.1f}x, encoding and decoding {b['draw_ms'] / a['draw_ms']:.1f}x, "
            f"memory {b['step_mb'] / a['step_mb']:.1f}x.", "",
        ]  # fmt: skip
    lines += [(RESULTS / "families_speed_seen.md").read_text().rstrip(), ""]
    (RESULTS / "families_speed.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
