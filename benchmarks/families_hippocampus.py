"""Families on the same 3D patients (hippocampi with their labels), each with the same wall time: realism, and what a segmenter learns.

    python benchmarks/families_hippocampus.py --data DIR [--minutes 15] [--seeds 5] [--only flow] [--work runs/families_hippocampus]

DIR is the folder of scans. 90 patients train every family on image and label together (2 mm, 24 x 32 x 24 voxels); 90 patients are drawn of
each. Realism against the 60 patients whom nothing saw; Dice of a segmentation learned from the drawn patients alone, and from real and
drawn ones, on the same 60, beside real ones with and without augmentation. A finished part is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from sets import DEVICE, RESULTS, add_device, machine, place, resumed

from fabrica import io
from fabrica.data import cohort
from fabrica.data.grid import foreground
from fabrica.evaluate.sets.embedding import Picture
from fabrica.evaluate.sets.realism import realism
from fabrica.generate.patients import draw_patients
from fabrica.learning.checkpoint import load
from fabrica.recipe.checks import from_plain
from fabrica.run.prepare import split_stage
from fabrica.run.sequence import find_cohort, run_recipe
from fabrica.study.downstream import Terms, compare_arms

PATIENTS = 90
PREPARE = {"spacing_mm": [2, 2, 2], "multiple": 8}
SPLIT = {"train": 0.6, "test": 0.4, "seed": 0}
WIDE = {"channels": [16, 32, 64], "blocks": 1}
DEEP = {
    "kind": "transformer",
    "channels": [192],
    "blocks": 4,
    "patch": 4,
}
CODEC = {"channels": [16, 32], "blocks": 1}
PRIOR = {"channels": [32, 64], "blocks": 1, "patch": 1}
TASK = {
    "job": {"name": "segmentation", "from": ["image"], "x": ["label:3"], "axes": "zyx"}, "split": SPLIT, "seed": 0,
    "family": {"name": "regression", "network": {"channels": [16, 32, 64], "blocks": 1}},
    "prepare": PREPARE, "train": {"steps": 300, "batch": 4, "learning_rate": 0.003},
}  # fmt: skip


def one(family: dict[str, Any]) -> dict[str, Any]:
    return {"model": {"family": family, "share": 1.0}}


def two(codec: dict[str, Any], prior: dict[str, Any], times: float = 1.0) -> dict[str, Any]:
    """A third of the time for the codec, the rest for what draws its codes; `times` the minutes asked for."""
    return {
        "codec": {"family": {**codec, "network": CODEC}, "share": times / 3},
        "model": {"family": {**prior, "network": PRIOR, "in": {"stage": "codec"}}, "share": times * 2 / 3},
    }


FAMILIES: dict[str, dict[str, Any]] = {
    "vae, flow in its codes": two({"name": "vae", "kl": 0.01, "rungs": 0, "codes": 4}, {"name": "flow"}),
    "vq, autoregressive in its codes": two({"name": "vq"}, {"name": "autoregressive"}),
    "flow": one({"name": "flow", "network": DEEP}),
    "shortcut, 4 steps": one({"name": "shortcut", "steps": 4, "network": WIDE}),
    "consistency, 2 steps": one({"name": "consistency", "steps": 2, "network": WIDE}),
    "gan": one({"name": "gan", "network": WIDE}),
    "vae": one({"name": "vae", "codes": 16, "network": WIDE}),
    "diffusion": one({"name": "diffusion", "network": DEEP}),
    "flow, U-Net": one({"name": "flow", "network": WIDE}),
    "diffusion, U-Net": one({"name": "diffusion", "network": WIDE}),
    "vae, flow in its codes, four times as long": two({"name": "vae", "kl": 0.01, "rungs": 0, "codes": 4}, {"name": "flow"}, 4.0),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/families_hippocampus"))
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="one family")
    add_device(parser)
    options = parser.parse_args()
    file = RESULTS / "families_hippocampus.json"
    write(resumed(file, options.work, FAMILIES, options.only, lambda name, stages: part(name, stages, options)))


def part(name: str, stages: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    real = options.data / "mri_hippocampus"
    folder = options.work / place(name)
    known, unseen = patients(real)
    recipe = from_plain({
        "cohorts": {"all": {"path": str(real)}}, "split": {"train": known, "test": unseen[:1]}, "baseline": "none",
        "evaluate": {"draws": 1, "realism": 0, "evaluations": []},
        "stages": {
            key: {
                "job": {"name": "synthesis", "x": ["image", "label:3"], "axes": "zyx", **({} if key == "model" else {"place": False})},
                "family": plan["family"], "train": {"minutes": options.minutes * plan["share"], "batch": 4}, "prepare": PREPARE,
            }
            for key, plan in stages.items()
        },
    })  # fmt: skip
    run = folder / "run"
    run_recipe(recipe, run, say=lambda text: print("  ", text, flush=True), device=DEVICE)
    facts = [made[1] for key in stages if (made := load(run / "stages" / key)) is not None]
    drawn, began = folder / "drawn", time.perf_counter()
    if not (drawn / "patients.csv").is_file():
        draw_patients(run, drawn, PATIENTS, {}, say=lambda text: None)
    seconds = (time.perf_counter() - began) / PATIENTS
    members = {m.patient: m for m in cohort.find(real).members}
    held = [picture(members[p].load(["image"]).images["image"].data[0].numpy(), p) for p in unseen]
    images = {p: np.asarray(nibabel.load(p).dataobj, np.float32) for p in sorted(drawn.glob("*/image.nii.gz"))}  # type: ignore[attr-defined]
    sets = realism([picture(v, p.parent.name) for p, v in images.items()], held, seed=0)
    sheet([members[p] for p in unseen[:8]], drawn).save(folder / "drawn.png")
    return {
        "minutes": options.minutes, "seeds": options.seeds, "threads": torch.get_num_threads(), "machine": machine(),
        "train_s": sum(f["seconds"] for f in facts), "steps": [f["step"] for f in facts], "parameters": facts[-1]["parameters"], "draw_s": seconds,
        "realism": {
            d.embedding: {"multiple": d.value / d.null, "p": next(t.p_value for t in sets.tests if t.embedding == d.embedding and t.test.startswith("kernel"))}
            for d in sets.distances if d.measure == "Fréchet distance"
        },
        "label share": {"drawn": labelled(drawn.glob("*/label*.nii.gz")), "real": labelled((real / "labels").glob("*.nii*"))},
        "arms": arms(real, drawn, run, options, folder),
    }  # fmt: skip


def patients(real: Path) -> tuple[list[str], list[str]]:
    """(90 who train, 60 others): the parts that the arms make of the same split."""
    task = from_plain({**TASK, "cohorts": {"all": {"path": str(real)}}, "baseline": "none"})
    parts = split_stage(task, task.stages[0], {"all": find_cohort(task, "all")}).parts
    known, unseen = (sorted({m.patient for m in parts[part]}) for part in ("train", "test"))
    return known, unseen


def picture(values: NDArray[Any], patient: str) -> Picture:
    """Scaled by its foreground's median, on 2 mm: every family is judged at the spacing that it learned."""
    coarse = reduced(values) if max(values.shape) > 32 else values
    inside = foreground(torch.from_numpy(coarse)).numpy()
    return Picture(patient, patient, coarse / np.median(coarse[inside]), inside, (2.0, 2.0, 2.0))


def reduced(values: NDArray[Any]) -> NDArray[Any]:
    """Means over 2 x 2 x 2 voxels of 1 mm."""
    z, y, x = (n // 2 * 2 for n in values.shape)
    parts = values[:z, :y, :x].reshape(z // 2, 2, y // 2, 2, x // 2, 2)
    found: NDArray[Any] = parts.mean((1, 3, 5))
    return found


def labelled(files: Any) -> float:
    """Millilitres of hippocampus, median over patients."""
    volumes = []
    for path in files:
        image = nibabel.load(path)
        volumes.append(float((np.asarray(image.dataobj) > 0.5).sum() * abs(np.linalg.det(image.affine[:3, :3]))) / 1000)
    return float(np.median(volumes))


def arms(real: Path, drawn: Path, run: Path, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Arms without drawn patients are the same for every family and trained once."""
    shared, own = options.work / "real_arms", folder / "arms"
    for arm in ("real", "real_augmented"):
        if (shared / arm).is_dir() and not (own / arm).exists():
            shutil.copytree(shared / arm, own / arm, copy_function=os.link)
    compare_arms(TASK, real, drawn, own, Terms(seeds=options.seeds, generator=run), say=lambda text: None)
    for arm in ("real", "real_augmented"):
        if not (shared / arm).is_dir():
            shutil.copytree(own / arm, shared / arm, copy_function=os.link)
    found: list[dict[str, Any]] = json.loads((own / "downstream.json").read_text())["arms"]
    return found


def sheet(unseen: list[cohort.Member], drawn: Path) -> Pillow.Image:
    """Middle planes of 8 unseen patients (two rows above) and 8 drawn ones, and the same with the label in colour."""
    real, made = [], []
    for k, member in enumerate(unseen):
        label = next(c for c in member.contrasts() if c.startswith("label"))
        images = member.load(["image", label]).images
        real.append((images["image"].data[0].numpy(), images[label].data[0].numpy()))
        place = drawn / f"synthetic-{k:05d}"
        files = (place / "image.nii.gz", next(place.glob("label*")))
        image, mask = (io.read_image(f).data[0].numpy() for f in files)
        made.append((image, mask))
    rows = [
        np.concatenate([tile(*pair, coloured) for pair in side], 1)
        for side in (real, made)
        for coloured in (False, True)
    ]
    return Pillow.fromarray(np.concatenate(rows, 0))


def tile(image: NDArray[Any], label: NDArray[Any], coloured: bool) -> NDArray[np.uint8]:
    inside = label > 0.5
    z = int(np.argmax(inside.sum((1, 2)))) if inside.any() else len(image) // 2
    plane = np.clip(image[z] / max(float(np.percentile(image, 99.5)), 1e-6), 0, 1)
    colour = np.stack([plane] * 3, -1)
    if coloured:
        colour[inside[z]] = 0.5 * colour[inside[z]] + np.array([0.5, 0.1, 0.0])
    shown = Pillow.fromarray((255 * colour).astype(np.uint8))
    return np.asarray(shown.resize((96, 128), Pillow.Resampling.BICUBIC))


def write(found: dict[str, Any]) -> None:
    first = next(iter(found.values()))
    spaces, machines = list(first["realism"]), list(dict.fromkeys(f["machine"] for f in found.values()))
    lines = [
        "# Families on the same hippocampi", "",
        f"`python benchmarks/families_hippocampus.py --data DIR --minutes {first['minutes']:g} --seeds {first['seeds']}`, threads: {first['threads']}. 90 patients train, 60 others test;",
        "image and label are drawn together on voxels of 2 mm; 90 patients of each family. Fréchet distance to the 60 over the same between",
        "real halves (p of the kernel two-sample test). Dice: a segmentation learned from drawn patients alone, and from real and drawn ones, mean over",
        "seeds (smallest and largest), on the 60. Volume: median of the drawn labels, ml; of the real ones "
        f"{first['label share']['real']:.2f}.", "", f"{', '.join(f'[{k}] {m}' for k, m in enumerate(machines, 1))}.", "",
        f"| family | minutes | train s | steps | draw s | {' | '.join(spaces)} | volume | Dice, drawn alone | of real alone | Dice, real + drawn | gain over augmented |",
        "|---" * (len(spaces) + 10) + "|",
    ]  # fmt: skip
    for name, f in found.items():
        by = {a["arm"]: a for a in f["arms"]}
        cells = " | ".join(f"{f['realism'][s]['multiple']:.1f} ({f['realism'][s]['p']:.3f})" for s in spaces)
        both = by["real + synthetic"]
        gain = (
            f"{both['gain']['value']:+.3f} ({both['gain']['interval'][0]:+.3f} to {both['gain']['interval'][1]:+.3f})"
        )
        lines.append(
            f"| {name} [{machines.index(f['machine']) + 1}] | {f['minutes']:g} | {f['train_s']:.0f} | {' + '.join(map(str, f['steps']))} | {f['draw_s']:.2f} | {cells} | {f['label share']['drawn']:.2f} | "
            f"{dice(by['synthetic'])} | {100 * share(f):.0f} % | {dice(both)} | {gain} |"
        )
    lines.append("")
    for arm, words in (("real", "Real patients alone"), ("real, augmented", "With classical augmentation")):
        known = dict.fromkeys(dice(next(a for a in f["arms"] if a["arm"] == arm)) for f in found.values())
        lines.append(f"{words}: Dice {'; '.join(known)}.")
    best = max(found, key=lambda n: share(found[n]))
    lines += [
        f"Asked of drawn patients alone: 90 % of real ones; reached: {100 * share(found[best]):.0f} % ({best}).",
        "",
    ]
    seen = RESULTS / "families_hippocampus_seen.md"
    if seen.exists():
        lines += [seen.read_text().rstrip(), ""]
    (RESULTS / "families_hippocampus.md").write_text("\n".join(lines))


def share(row: dict[str, Any]) -> float:
    """Of the Dice that real patients teach, what drawn ones teach."""
    by = {a["arm"]: float(a["value"]) for a in row["arms"]}
    return by["synthetic"] / by["real"]


def dice(arm: dict[str, Any]) -> str:
    return f"{arm['value']:.3f} ({min(arm['seeds']):.3f} to {max(arm['seeds']):.3f})"


if __name__ == "__main__":
    main()
