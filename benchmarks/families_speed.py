"""A training step and a draw of every family, and the autoencoder beside MONAI's, in interleaved rounds of one process.

    python benchmarks/families_speed.py [--rounds 3] [--large] [--device cuda] [--compile]

Untrained networks, made-up images, batches of 4 (2D) and 1 (3D); `--large` adds 128 x 128 and 64^3. A training step: all groups of
the family, forward, backward and the optimiser that runs use. Memory: bytes of live tensors of that step, counted. Share of the
machine's rate: operations of the step's convolutions and products (counted by torch) over those that a product of large matrices
would make in that time. `--compile`: networks through torch.compile, on both sides. Writes results/families_speed.md, on a card
families_speed_cuda.md. Run nothing beside it. Extra `bench`: MONAI.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sets import machine
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fabrica.contracts import Condition, Family, Field, Problem, Signature
from fabrica.families import FAMILIES, Latent, Vae, latent_signature
from fabrica.learning.optimiser import optimisers
from fabrica.machine.device import peak_bytes
from fabrica.networks import precision
from fabrica.networks.codec import Decoder, Encoder
from fabrica.networks.transformer import Transformer
from fabrica.networks.unet import UNet, UNetShape
from fabrica.rng import Rng

RESULTS = Path(__file__).parent / "results"
SHAPE, CODE_SHAPE = UNetShape((32, 64, 128), 1), UNetShape((32, 64), 1, patch=1)
PLACES: dict[str, tuple[str, int, int]] = {"64 x 64": ("yx", 64, 4), "32 x 32 x 32": ("zyx", 32, 1)}
LARGE: dict[str, tuple[str, int, int]] = {"128 x 128": ("yx", 128, 4), "64 x 64 x 64": ("zyx", 64, 1)}
ALONE = ("regression", "gan", "cycle", "vae", "vq", "diffusion", "flow", "shortcut", "consistency", "autoregressive")
CODED = {  # what draws codes or words, and whose
    "diffusion in codes": ("diffusion", "vae"), "flow in codes": ("flow", "vae"), "autoregressive in words": ("autoregressive", "vq"),
}  # fmt: skip
CODECS = {"autoencoder, ours": 2, "autoencoder, ours, as many codes as MONAI's": 1}  # the stem's patch
GIVEN = Field("T1w")


@dataclass(frozen=True)
class Terms:
    """What everything is timed under."""

    device: str
    precision: str
    rounds: int
    compiled: bool

    def placed(self, module: nn.Module) -> None:
        """On the device, networks compiled where asked for."""
        module.to(self.device)
        networks = [m for m in module.modules() if isinstance(m, UNet | Transformer | Encoder | Decoder)]
        for network in networks if self.compiled else []:
            network.compile()

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    terms = Terms(options.device, precision.choose(options.device), options.rounds, options.compile)
    found: dict[str, Any] = {}
    for where, (axes, side, batch) in (PLACES | (LARGE if options.large else {})).items():
        found[where] = {**families(axes, side, batch, terms), **codecs(axes, side, batch, terms)}
        print(where, found[where], flush=True)
    card = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} threads"
    told = f"{machine()}, {card}, {terms.precision}{', compiled' if options.compile else ''}"
    known = {"machine": told, "gflops": matrix_gflops(terms), "places": found}
    name = "families_speed_cuda" if options.device == "cuda" else "families_speed"
    (RESULTS / f"{name}.json").write_text(json.dumps(known, indent=1))
    write(known, RESULTS / f"{name}.md")


def matrix_gflops(terms: Terms) -> float:
    """Billions of operations a second of a product of large matrices, the best of ten."""
    kind, side = (
        {"bf16": torch.bfloat16, "fp32": torch.float32}[terms.precision],
        8192 if terms.device == "cuda" else 2048,
    )
    a = torch.randn(side, side, device=terms.device, dtype=kind)
    seconds = []
    for _ in range(10):
        terms.wait()
        began = time.perf_counter()
        a @ a
        terms.wait()
        seconds.append(time.perf_counter() - began)
    return 2e-9 * side**3 / min(seconds)


def made(name: str, axes: str, chosen: str) -> tuple[Family, bool]:
    """(family, does it draw label maps)."""
    if name in CODED:
        prior, codec = CODED[name]
        signature = Signature((Field("FLAIR"),), axes, (GIVEN,))
        options = {"codes": 4, "rungs": 0} if codec == "vae" else {}
        coder = FAMILIES.find(codec)(Signature(signature.x, axes), UNetShape((32, 64), 1), chosen, **options)
        inner = latent_signature(signature, coder, FAMILIES.find(prior))
        return Latent(coder, FAMILIES.find(prior)(inner, CODE_SHAPE, chosen), signature.condition), False
    kind = FAMILIES.find(name)
    label = "intensity" not in kind.learns
    x = Field("lesion", "label", 2) if label else Field("FLAIR")
    condition = () if name == "vq" else (GIVEN,)
    return kind(Signature((x,), axes, condition), SHAPE, chosen), label


def families(axes: str, side: int, batch: int, terms: Terms) -> dict[str, Any]:
    work: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}
    for name in (*ALONE, *CODED):
        torch.manual_seed(0)
        family, label = made(name, axes, terms.precision)
        terms.placed(family)
        grid = (side,) * len(axes)
        image = torch.rand(batch, 1, *grid, device=terms.device)
        target = torch.cat([image > 0.5, image <= 0.5], 1).float() if label else torch.rand_like(image)
        condition = Condition() if name == "vq" else Condition({"T1w": image})
        paired = torch.zeros(batch, dtype=torch.bool, device=terms.device) if name == "cycle" else None
        problem = Problem(
            tuple(map(str, range(batch))), (target.shape[1], *grid), condition, target=target, paired=paired
        )
        asked = replace(problem, target=None, paired=None)
        work[name] = (stepper(family, problem), lambda f=family, p=asked, b=batch: f.eval().sample(p, Rng(range(b))))
    return timed(work, terms, batch)


def timed(
    work: Mapping[str, tuple[Callable[[], Any], Callable[[], Any]]], terms: Terms, batch: int
) -> dict[str, dict[str, float]]:
    """Milliseconds an image of each pair (training step, draw), medians of interleaved rounds after one that warms up."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in work}
    for number in range(terms.rounds + 1):
        for name, pair in work.items():
            for kind, run in enumerate(pair):
                terms.wait()
                began = time.perf_counter()
                run()
                terms.wait()
                if number:
                    times[name][kind].append(1e3 * (time.perf_counter() - began))
    return {
        n: {"step_ms": statistics.median(a) / batch, "draw_ms": statistics.median(b) / batch, "step_gflop": operations(work[n][0]) / batch}
        for n, (a, b) in times.items()
    }  # fmt: skip


class Counting(TorchDispatchMode):
    """Operations of convolutions, products and attention, by torch's own formulas (its FlopCounterMode stumbles over penalties
    on gradients).
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def operations(step: Callable[[], Any]) -> float:
    """Billions of operations of a step."""
    with Counting() as counted:
        step()
    return counted.total / 1e9


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


def codecs(axes: str, side: int, batch: int, terms: Terms) -> dict[str, Any]:
    """Encode, decode and train: ours beside MONAI's as its users run it (float32, attention as shipped in its tutorials: none)."""
    from monai.networks.nets import AutoencoderKL

    x = torch.rand(batch, 1, *(side,) * len(axes), device=terms.device)
    work = {name: _ours(x, axes, patch, terms) for name, patch in CODECS.items()}
    theirs: nn.Module = AutoencoderKL(
        spatial_dims=len(axes), in_channels=1, out_channels=1, num_res_blocks=(1, 1, 1), channels=(32, 64, 128), attention_levels=(False,) * 3,
        latent_channels=4, norm_num_groups=32, with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
    )  # fmt: skip
    theirs.to(terms.device)
    for half in (theirs.encoder, theirs.decoder) if terms.compiled else ():
        half.compile()
    optimiser = torch.optim.AdamW(theirs.parameters(), 1e-4)

    def train_theirs() -> None:
        optimiser.zero_grad()
        back, mean, sigma = theirs(x)
        kl = 0.5 * (mean**2 + sigma**2 - (sigma**2).log() - 1).mean()
        ((back - x).abs().mean() + 1e-6 * kl).backward()
        optimiser.step()

    work["autoencoder, MONAI"] = train_theirs, _inferring(lambda: theirs.reconstruct(x))
    found = timed(work, terms, batch)
    gc.collect()
    return {name: {**figures, "step_mb": peak_bytes(work[name][0]) / 1e6} for name, figures in found.items()}


def _ours(x: Tensor, axes: str, patch: int, terms: Terms) -> tuple[Callable[[], Any], Callable[[], Any]]:
    family = Vae(Signature((Field("FLAIR"),), axes), replace(SHAPE, patch=patch), terms.precision, codes=4, rungs=0)
    terms.placed(family)
    problem = Problem(tuple(map(str, range(len(x)))), tuple(x.shape[1:]), target=x)
    return stepper(family, problem), _inferring(lambda: family.decode(family.encode(x), Condition()))


def _inferring(run: Callable[[], Any]) -> Callable[[], None]:
    @torch.inference_mode()
    def there_and_back() -> None:
        run()

    return there_and_back


def write(known: dict[str, Any], page: Path) -> None:
    lines = [
        "# Cost of families", "", "`python benchmarks/families_speed.py --large`. Medians of interleaved rounds in one process, milliseconds an image (or volume). Untrained",
        "networks of channels 32-64-128, one block a level, given one image; a draw with the family's default number of evaluations. The autoencoders encode",
        "and decode where the others draw; MB: live tensors of a training step, counted alike for both. Share: of the rate of a product of large matrices",
        f"({known['gflops']:.0f} billion operations a second), by the step's convolutions and products.", "", f"{known['machine']}.", "",
    ]  # fmt: skip
    for where, rows in known["places"].items():
        lines += [f"## {where}", "", "| family | training step, ms | share | draw, ms | MB |", "|---|---|---|---|---|"]
        for name, r in rows.items():
            share = format(r["step_gflop"] / (r["step_ms"] / 1e3) / known["gflops"], ".2f")
            if name.endswith(" MONAI") and "fp32" not in known["machine"]:
                share = ""  # its numbers are not those of the product
            memory = format(r["step_mb"], ".0f") if "step_mb" in r else ""
            lines.append(f"| {name} | {r['step_ms']:.1f} | {share} | {r['draw_ms']:.1f} | {memory} |")
        b = rows["autoencoder, MONAI"]
        lines.append("")
        for name, told in (
            ("autoencoder, ours", "ours"),
            ("autoencoder, ours, as many codes as MONAI's", "ours with as many codes"),
        ):
            a = rows[name]
            lines.append(
                f"MONAI's autoencoder over {told}: training step {b['step_ms'] / a['step_ms']:.1f}x, encoding and decoding {b['draw_ms'] / a['draw_ms']:.1f}x, memory {b['step_mb'] / a['step_mb']:.1f}x."
            )
        lines.append("")
    seen = RESULTS / f"{page.stem}_seen.md"
    page.write_text("\n".join([*lines, seen.read_text().rstrip() if seen.exists() else "", ""]))


if __name__ == "__main__":
    main()
