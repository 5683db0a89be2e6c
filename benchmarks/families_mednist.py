"""Families on the same 2D pictures (MedNIST, six classes, 64 x 64), each with the same wall time, beside MONAI's diffusion model.

    python benchmarks/families_mednist.py --data DIR [--minutes 15] [--threads 1] [--only flow] [--work runs/families_mednist]

DIR is the folder of scans. A part that is finished is not run again; the table is made from what is there. 800 pictures a class
train, 200 a class are held out. 252 draws of each part, 42 a class, are compared with the held-out pictures in four embeddings;
the null is 252 real training pictures in place of the draws. Extra `bench`: MONAI.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embeddings import classifier, resnet, tensor
from numpy.typing import NDArray
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file
from sets import DEVICE, RESULTS, Sets, add_device, machine, place, sheet
from torch import Tensor, nn
from torch.nn import functional as F

from fabrica.contracts import Batch
from fabrica.families import with_steps
from fabrica.learning.checkpoint import load
from fabrica.recipe.checks import from_plain
from fabrica.rng import Rng, derive
from fabrica.run.answering import Answering
from fabrica.run.costs import evaluations
from fabrica.run.folder import RunFolder
from fabrica.run.sequence import run_recipe

CLASSES = ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT")
HELD_OUT, DRAWS, SIDE, BATCH, PEER_BATCH = 200, 252, 64, 8, 16
WIDE = {"channels": [32, 64, 128], "blocks": 1}
CODEC = {"channels": [32, 64], "blocks": 1}
PRIOR = {"channels": [64, 128], "blocks": 1, "patch": 1}
EVALUATIONS = (1, 2, 4, 8)  # of the network, beside what a family takes by itself
SEEDS = (8, 9, 10, 11)  # of other draws of the same model, where a target is judged
RACERS, ROUNDS = 18, 3
LEARNING_RATES = (1e-4, 3e-4, 1e-3)  # of the peer; the first is its tutorials'


def one(family: dict[str, Any], share: float = 1.0) -> dict[str, Any]:
    return {"model": {"family": family, "share": share}}


def two(codec: dict[str, Any], prior: dict[str, Any]) -> dict[str, Any]:
    """A third of the time for the codec, the rest for what draws its codes."""
    return {
        "codec": {"family": codec, "share": 1 / 3},
        "model": {"family": {**prior, "in": {"stage": "codec"}}, "share": 2 / 3},
    }


OURS: dict[str, dict[str, Any]] = {
    "flow": one({"name": "flow", "network": WIDE}),
    "flow, an eighth of the time": one({"name": "flow", "network": WIDE}, 1 / 8),
    "diffusion": one({"name": "diffusion", "network": WIDE}),
    "shortcut, 4 steps": one({"name": "shortcut", "steps": 4, "network": WIDE}),
    "consistency, 2 steps": one({"name": "consistency", "steps": 2, "network": WIDE}),
    "gan": one({"name": "gan", "network": WIDE}),
    "vae": one({"name": "vae", "codes": 16, "network": WIDE}),
    "vae, flow in its codes": two({"name": "vae", "kl": 0.01, "rungs": 0, "codes": 4, "network": CODEC}, {"name": "flow", "network": PRIOR}),
    "vq, autoregressive in its codes": two({"name": "vq", "network": CODEC}, {"name": "autoregressive", "network": PRIOR}),
}  # fmt: skip
EQUALISED = one({"name": "flow", "network": WIDE, "in": {"equalised": 0.5}})
BROAD = one({"name": "flow", "network": {"channels": [48, 96, 192], "blocks": 1}})  # too slow to win in minutes
LONG = {
    f"{name}, {minutes:g} minutes of {'both cores' if threads == 2 else 'one core'}": (minutes, threads, plan)
    for name, minutes, threads, plan in (
        ("flow", 15.0, 2, OURS["flow"]),
        ("flow, equalised", 15.0, 2, EQUALISED),
        ("vae, flow in its codes", 15.0, 2, OURS["vae, flow in its codes"]),
        ("flow, broad network", 60.0, 1, BROAD),
    )
}  # whatever --minutes and --threads say
PEERS = [f"MONAI DDPM, learning rate {rate:g}" for rate in LEARNING_RATES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/families_mednist"))
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="one part, or peer draws, race, evaluations or table")
    add_device(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    train, held = pictures(options.data / "images_2d" / "mednist", options.work)
    for name in (*OURS, *LONG, *PEERS):
        done = options.work / place(name) / ("trained.json" if name in PEERS else "facts.json")
        if options.only in ("", name) and not done.is_file():
            (peer if name in PEERS else ours)(name, options, train)
    if options.only in ("", "peer draws"):
        peer_draws(options)
    if options.only in ("", "race"):
        race(options)
    if options.only in ("", "evaluations"):
        for name in (*OURS, *LONG):
            fewer(name, options)
    if options.only in ("", "table"):
        tabulate(options, train, held)


# ---------------------------------------------------------------- pictures


def pictures(folder: Path, work: Path) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """(training, held out), each with `images` uint8 and `labels`; also written as the npz that Fabrica reads."""
    parts: dict[str, list[Any]] = {"train": [], "held": []}
    seen: set[bytes] = set()
    for label, name in enumerate(CLASSES):
        with zipfile.ZipFile(folder / f"{name}.zip") as archive:
            found = []
            for member in sorted(n for n in archive.namelist() if n.endswith((".jpeg", ".jpg"))):
                image = np.asarray(Pillow.open(io.BytesIO(archive.read(member))).convert("L"))
                if image.tobytes() not in seen:  # some are blank, all alike
                    found.append((image, label))
                    seen.add(image.tobytes())
        order = np.random.default_rng(0).permutation(len(found))
        parts["held"] += [found[i] for i in order[:HELD_OUT]]
        parts["train"] += [found[i] for i in order[HELD_OUT:]]
    stacked = [
        {"images": np.stack([i for i, _ in p]), "labels": np.array([y for _, y in p], np.uint8)} for p in parts.values()
    ]
    file = work / "train.npz"
    if not file.is_file():
        np.savez(file, train_images=stacked[0]["images"], train_labels=stacked[0]["labels"])
    return stacked[0], stacked[1]


# ---------------------------------------------------------------- ours


def ours(name: str, options: argparse.Namespace, train: dict[str, NDArray[Any]]) -> None:
    """Train by a recipe as a user would, then draw."""
    folder, threads = options.work / place(name), LONG[name][1] if name in LONG else options.threads
    torch.set_num_threads(threads)
    recipe = recipe_of(name, options)
    run_recipe(from_plain(recipe), folder / "run", say=print, device=DEVICE)
    known = [load(folder / "run" / "stages" / s) for s in recipe["stages"]]
    facts = [k[1] for k in known if k is not None]
    answering = Answering(RunFolder.open(folder / "run"), from_plain(recipe).stage("model"))
    family = answering.family.eval()
    began = time.perf_counter()
    images = drawn_by(family, answering)
    seconds = (time.perf_counter() - began) / DRAWS
    keep(folder, name, images, np.arange(DRAWS) % len(CLASSES), {
        "train_s": sum(f["seconds"] for f in facts), "steps": [f["step"] for f in facts], "calls": evaluations(family, problem_of(answering, torch.tensor([0]))),
        "draw_s": seconds, "threads": threads, "precision": facts[-1]["precision"],
        "parameters": facts[-1]["parameters"], "machine": machine(),
    })  # fmt: skip


def recipe_of(name: str, options: argparse.Namespace) -> dict[str, Any]:
    classes = {"class": [str(k) for k in range(len(CLASSES))]}
    minutes, _, plans = LONG.get(name) or (options.minutes, options.threads, OURS[name])
    stages = {}
    for stage, plan in plans.items():
        by = {"by": classes} if stage == "model" else {}
        stages[stage] = {
            "job": {"name": "synthesis", "x": ["image"], **by, **({} if by else {"place": False})},
            "family": plan["family"], "train": {"minutes": minutes * plan["share"], "batch": BATCH},
        }  # fmt: skip
    return {
        "cohorts": {"all": {"path": str(options.work / "train.npz")}}, "split": {"train": 0.99, "test": 0.01}, "baseline": "none",
        "evaluate": {"draws": 1, "evaluations": []}, "stages": stages,
    }  # fmt: skip


@torch.inference_mode()
def drawn_by(family: Any, answering: Answering, seed: int = 7) -> NDArray[Any]:
    """(DRAWS, y, x) in greys; the same seeds for whatever draws."""
    images, labels = [], torch.arange(DRAWS) % len(CLASSES)
    offset, scale = answering.preparation.scales["image"]
    for start in range(0, DRAWS, 42):
        chosen = labels[start : start + 42]
        x = family.sample(
            problem_of(answering, chosen), Rng([derive(seed, str(start + i)) for i in range(len(chosen))])
        )
        images.append(x[:, 0].float() * scale + offset)
    return torch.cat(images).numpy()


def fewer(name: str, options: argparse.Namespace) -> None:
    """Draws of a trained part with fewer evaluations, kept beside its own; nothing where it cannot be told."""
    folder = options.work / place(name)
    if not (folder / "facts.json").is_file():
        return
    recipe = from_plain(recipe_of(name, options))
    answering = Answering(RunFolder(folder / "run", recipe), recipe.stage("model"))
    for count in EVALUATIONS:
        file = folder / f"draws-{count}.npz"
        told = with_steps(answering.family.eval(), count)
        if told is not None and not file.is_file():
            np.savez(file, images=drawn_by(told.eval(), answering).clip(0, 255).astype(np.float32))
            print(name, count, flush=True)
    for seed in SEEDS if name in LONG else ():
        file = folder / f"draws-seed-{seed}.npz"
        if not file.is_file():
            np.savez(file, images=drawn_by(answering.family.eval(), answering, seed).clip(0, 255).astype(np.float32))


def problem_of(answering: Answering, labels: Tensor) -> Any:
    rows = len(labels)
    batch = Batch(
        tuple(map(str, range(rows))), {"image": torch.zeros(rows, 1, SIDE, SIDE)}, torch.eye(4).expand(rows, 4, 4),
        {"class": labels.float(), "position": torch.zeros(rows)},
    )  # fmt: skip
    return answering.job.question(batch, Rng([0]))


def keep(folder: Path, name: str, images: NDArray[Any], labels: NDArray[Any], facts: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "draws.npz", images=images.clip(0, 255).astype(np.float32), labels=labels)
    (folder / "facts.json").write_text(json.dumps({"name": name, **facts}, indent=1))
    print(name, facts)


# ---------------------------------------------------------------- the peer


def network() -> nn.Module:
    from monai.networks.nets import DiffusionModelUNet

    made: nn.Module = DiffusionModelUNet(
        spatial_dims=2, in_channels=1, out_channels=1, channels=(32, 64, 128), attention_levels=(False, False, True),
        num_res_blocks=2, num_head_channels=32, num_class_embeds=len(CLASSES),
    )  # fmt: skip
    return made


def peer(name: str, options: argparse.Namespace, train: dict[str, NDArray[Any]]) -> None:
    """MONAI's network and schedulers as its tutorials use them: epsilon, 1,000 steps, Adam; the moving average beside."""
    from monai.networks.schedulers import DDPMScheduler

    rate = LEARNING_RATES[PEERS.index(name)]
    torch.manual_seed(0)
    net, scheduler = network(), DDPMScheduler(num_train_timesteps=1000)
    average = copy.deepcopy(net).eval()
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    images = torch.from_numpy(train["images"]).float()[:, None] / 127.5 - 1
    labels = torch.from_numpy(train["labels"]).long()

    def loss(model: nn.Module, index: Tensor) -> Tensor:
        noise, t = torch.randn(len(index), 1, SIDE, SIDE), torch.randint(0, 1000, (len(index),))
        noisy = scheduler.add_noise(original_samples=images[index], noise=noise, timesteps=t)
        return F.mse_loss(model(noisy, timesteps=t, class_labels=labels[index]), noise)

    began, step = time.perf_counter(), 0
    while time.perf_counter() - began < 60 * options.minutes:
        optimiser.zero_grad()
        loss(net, torch.randint(0, len(images), (PEER_BATCH,))).backward()
        optimiser.step()
        step += 1
        decay = min(0.999, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, new in zip(average.parameters(), net.parameters(), strict=True):
                mean.lerp_(new, 1 - decay)
    folder = options.work / place(name)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(5)
    with torch.inference_mode():
        reached = float(
            torch.stack(
                [loss(average, torch.arange(i, i + PEER_BATCH)) for i in range(0, 16 * PEER_BATCH, PEER_BATCH)]
            ).mean()
        )
    for kind, used in (("net", net), ("average", average)):
        save_file(used.state_dict(), folder / f"{kind}.safetensors")
    (folder / "trained.json").write_text(
        json.dumps({"train_s": time.perf_counter() - began, "steps": [step], "loss": reached})
    )
    print(name, step, reached)


def peer_draws(options: argparse.Namespace) -> None:
    """By DDIM in 50 steps: as the tutorials have it (first learning rate, no average), and the best average of the rates."""
    trained = {n: json.loads(f.read_text()) for n in PEERS if (f := options.work / place(n) / "trained.json").is_file()}
    if set(trained) < set(PEERS):
        return
    best = min(trained, key=lambda n: trained[n]["loss"])
    for name, kind, words in (
        (PEERS[0], "net", "as in the tutorials"),
        (best, "average", "best of three, moving average"),
    ):
        folder = options.work / place(f"{name}, {words}")
        if (folder / "facts.json").is_file():
            continue
        net = network().eval()
        net.load_state_dict(load_file(options.work / place(name) / f"{kind}.safetensors"))
        wanted = torch.arange(DRAWS) % len(CLASSES)
        began = time.perf_counter()
        torch.manual_seed(1)
        found = [ddim(net, part) for part in wanted.split(42)]
        seconds = (time.perf_counter() - began) / DRAWS
        keep(folder, f"{name}, {words}", ((torch.cat(found)[:, 0] + 1) * 127.5).numpy(), wanted.numpy(), {
            **trained[name], "calls": 50, "draw_s": seconds, "threads": options.threads, "precision": "fp32",
            "parameters": sum(p.numel() for p in net.parameters()), "machine": machine(),
        })  # fmt: skip


@torch.inference_mode()
def ddim(net: nn.Module, labels: Tensor) -> Tensor:
    """(rows, 1, y, x) in [-1, 1], 50 steps."""
    from monai.networks.schedulers import DDIMScheduler

    fast = DDIMScheduler(num_train_timesteps=1000)
    fast.set_timesteps(50)
    x = torch.randn(len(labels), 1, SIDE, SIDE)
    for t in fast.timesteps:
        x, _ = fast.step(net(x, timesteps=torch.full((len(labels),), int(t)), class_labels=labels), int(t), x)
    return x


def race(options: argparse.Namespace) -> None:
    """Seconds a picture of the flow and of the peer, turn about in one process on as many threads."""
    if not (options.work / place("flow") / "facts.json").is_file() or (options.work / "race.json").is_file():
        return
    recipe = from_plain(recipe_of("flow", options))
    answering, net = (
        Answering(RunFolder(options.work / place("flow") / "run", recipe), recipe.stage("model")),
        network().eval(),
    )
    family, labels = answering.family.eval(), torch.arange(RACERS) % len(CLASSES)
    times: dict[str, list[float]] = {"flow": [], "MONAI DDIM, 50 steps": []}
    for _ in range(ROUNDS):
        for name, seconds in times.items():
            began = time.perf_counter()
            if name == "flow":
                with torch.inference_mode():
                    family.sample(problem_of(answering, labels), Rng(range(RACERS)))
            else:
                ddim(net, labels)
            seconds.append((time.perf_counter() - began) / RACERS)
    found = {n: float(np.median(v)) for n, v in times.items()} | {"threads": options.threads, "machine": machine()}
    (options.work / "race.json").write_text(json.dumps(found, indent=1))
    print(found)


# ---------------------------------------------------------------- measures


def tabulate(options: argparse.Namespace, train: dict[str, NDArray[Any]], held: dict[str, NDArray[Any]]) -> None:
    net, natural = classifier(options.work, train), resnet(options.data)
    with torch.inference_mode():
        accuracy = float((net(tensor(held["images"])).argmax(1).numpy() == held["labels"]).mean())
        sets = Sets(train["images"], held["images"], {
            "classifier": lambda x: net.features(tensor(x)).double().numpy(),
            "texture": None, "ResNet-20": lambda x: natural(tensor(x)).double().numpy(), "16 x 16 pixels": None,
        }, DRAWS)  # fmt: skip
        rows = []
        for folder in sorted(p.parent for p in options.work.glob("*/facts.json")):
            facts, drawn = json.loads((folder / "facts.json").read_text()), np.load(folder / "draws.npz")
            adherence = float((net(tensor(drawn["images"])).argmax(1).numpy() == drawn["labels"]).mean())
            row = {"machine": machine(), **facts, "adherence": adherence, **sets.measure(drawn["images"])}
            told = {n: np.load(f)["images"] for n in EVALUATIONS if (f := folder / f"draws-{n}.npz").is_file()}
            row["evaluations"] = {
                str(n): {k: v["multiple"] for k, v in sets.measure(x).items()} for n, x in told.items()
            }
            others = [
                sets.measure(np.load(f)["images"]) for n in SEEDS if (f := folder / f"draws-seed-{n}.npz").is_file()
            ]
            row["seeds"] = (
                {n: sorted(one[n]["multiple"] for one in [row, *others]) for n in sets.spaces} if others else {}
            )
            rows.append(row)
            print(row)
            shown = [held["images"][held["labels"] == k][:6] for k in range(len(CLASSES))]
            both = np.concatenate([np.stack(shown, 1).reshape(-1, SIDE, SIDE), drawn["images"][:36]])
            sheet(both, len(CLASSES)).save(folder / "beside_real.png")  # six rows of real ones, six of draws
        rows += earlier({r["name"] for r in rows})
        real = sets.measure(train["images"][np.random.default_rng(3).permutation(len(train["images"]))[:DRAWS]])
    found = {
        "machine": machine(),
        "minutes": options.minutes,
        "classifier_accuracy": accuracy,
        "null": sets.null,
        "real": real,
        "rows": rows,
    }
    if (race := race_known(options.work)) is not None:
        found["race"] = race
    (RESULTS / "families_mednist.json").write_text(json.dumps(found, indent=1))
    write(found)


def seen() -> list[str]:
    """What was seen in the pictures, where somebody wrote it down."""
    page = RESULTS / "families_seen.md"
    return [page.read_text().rstrip()] if page.is_file() else []


def few(rows: list[dict[str, Any]], spaces: list[str]) -> list[str]:
    """Quality against the number of evaluations, for every part that can be told."""
    lines = [
        "| multiples of the null with so many evaluations | calls | " + " | ".join(spaces) + " |",
        "|---" * (len(spaces) + 2) + "|",
    ]
    for r in (r for r in rows if r["name"] in OURS or r["name"] in LONG):
        own = {str(r["calls"]) + " (its own)": {n: r[n]["multiple"] for n in spaces}}
        for count, found in {**r.get("evaluations", {}), **own}.items():
            lines.append(f"| {r['name']} | {count} | {' | '.join(f'{found[n]:.1f}' for n in spaces)} |")
    return [*lines, ""]


def by_seed(rows: list[dict[str, Any]], spaces: list[str]) -> list[str]:
    """How far the multiples of one model move from one set of draws to another."""
    lines = [
        "| lowest to highest of so many sets of draws | sets | " + " | ".join(spaces) + " |",
        "|---" * (len(spaces) + 2) + "|",
    ]
    for r in (r for r in rows if r.get("seeds")):
        cells = " | ".join(f"{r['seeds'][n][0]:.1f} to {r['seeds'][n][-1]:.1f}" for n in spaces)
        lines.append(f"| {r['name']} | {len(r['seeds'][spaces[0]])} | {cells} |")
    return [*lines, ""]


def raced(race: dict[str, Any] | None) -> list[str]:
    if race is None:
        return []
    ours, theirs = race["flow"], race["MONAI DDIM, 50 steps"]
    return [
        f"Drawing, turn about in one process on {race['threads']} thread(s) ({race['machine']}): the flow {ours:.3f} s a picture, MONAI's DDIM with 50 steps {theirs:.2f} s: **{theirs / ours:.0f} times**.",
        "",
    ]


def race_known(work: Path) -> dict[str, Any] | None:
    """Of this work folder, or the one that was written before."""
    own, written = work / "race.json", RESULTS / "families_mednist.json"
    if own.is_file():
        return dict(json.loads(own.read_text()))
    return json.loads(written.read_text()).get("race") if written.is_file() else None


def earlier(names: set[str]) -> list[dict[str, Any]]:
    """Rows of results/families_mednist.json that this work folder has not made again."""
    file = RESULTS / "families_mednist.json"
    known = json.loads(file.read_text()) if file.is_file() else {"rows": []}
    return [{"machine": known["machine"], **r} for r in known["rows"] if r["name"] not in names]


def write(found: dict[str, Any]) -> None:
    spaces, machines = list(found["null"]), list(dict.fromkeys(r["machine"] for r in found["rows"]))
    lines = [
        "# Families on the same pictures", "", "## MedNIST, 64 x 64, by class", "",
        "`python benchmarks/families_mednist.py --data DIR --minutes M --threads T`, as the table says; minutes and threads stand beside each part. 252 draws, 42 a class, beside",
        "1,200 held-out pictures. Fréchet distance in 32 principal dimensions of the two sets pooled, as a multiple of its null (252 real training pictures",
        "in place of the draws, mean of 20). Adherence: share of draws that a classifier of real pictures calls by the class that was asked for. Copies: share of",
        "draws nearer to a training picture than all but 1 % of the held-out ones are, by the classifier's features. WORK/part/beside_real.png shows them.", "",
        f"{', '.join(f'[{k}] {m}' for k, m in enumerate(machines, 1))}. The classifier is right on {found['classifier_accuracy']:.3f} of the held-out pictures. Nulls: "
        + ", ".join(f"{n} {v['frechet']:.3g} (largest of 20: {v['largest'] / v['frechet']:.1f} times)" for n, v in found["null"].items()) + ".", "",
        f"| part | minutes, threads | steps | calls | s a draw | adherence | {' | '.join(spaces)} | precision / recall | copies |", "|---" * (len(spaces) + 8) + "|",
    ]  # fmt: skip
    first = spaces[0]
    for r in sorted(found["rows"], key=lambda r: r[first]["multiple"]):
        cells = " | ".join(f"{r[n]['multiple']:.1f}" for n in spaces)
        lines.append(
            f"| {r['name']} [{machines.index(r['machine']) + 1}] | {r['train_s'] / 60:.1f}, {r['threads']} | {' + '.join(map(str, r['steps']))} | {r['calls']} | {r['draw_s']:.3f} | {r['adherence']:.2f} | "
            f"{cells} | {r[first]['precision']:.2f} / {r[first]['recall']:.2f} | {r[first]['copies']:.2f} |"
        )
    r = found["real"]
    cells = " | ".join(f"{r[n]['multiple']:.1f}" for n in spaces)
    lines += [f"| real training pictures | | | | | | {cells} | {r[first]['precision']:.2f} / {r[first]['recall']:.2f} | {r[first]['copies']:.2f} |", "", "| kernel distance | " + " | ".join(spaces) + " |", "|---" * (len(spaces) + 1) + "|"]  # fmt: skip
    lines += [f"| {r['name']} | " + " | ".join(f"{r[n]['kernel']:.3g}" for n in spaces) + " |" for r in found["rows"]]
    lines += ["| standard deviation of its null | " + " | ".join(f"{found['null'][n]['kernel_sd']:.2g}" for n in spaces) + " |", "", *few(found["rows"], spaces), *by_seed(found["rows"], spaces), *raced(found.get("race")), *seen(), ""]  # fmt: skip
    (RESULTS / "families.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
