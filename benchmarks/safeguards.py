"""Safeguards measured: who copies, level and power of the copy test, membership, private training, shift, and time.

    python benchmarks/safeguards.py --data DIR [--only level] [--work runs/safeguards]

DIR is the folder of scans. Parts: level, speed, copies, shadowed, hippocampi, private, shift, sites, watermark. A part that is finished is not run again;
each prints its rows as JSON lines into WORK/PART.jsonl, from which results/safeguards.md is written by hand with its commands.
"""

from __future__ import annotations

import argparse
import io
import json
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from families_mednist import CLASSES
from numpy.typing import NDArray
from PIL import Image as Pillow
from sets import DEVICE, add_device
from skimage.transform import resize

from fabrica.audit.conduct import COPIES, MEMBERSHIP, Asked, audit
from fabrica.audit.privacy import membership
from fabrica.audit.subject import Subject
from fabrica.data.virtual import VirtualCohort
from fabrica.evaluate.metrics.discrimination import auc_delong
from fabrica.evaluate.metrics.pixel import mae, psnr, ssim
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe
from fabrica.run.shift import rows_of
from fabrica.safeguards.privacy.copies import copy_test, nearest
from fabrica.safeguards.privacy.spaces import encoded
from fabrica.safeguards.shift import farthest, fit
from fabrica.safeguards.sites import leave_one_site_out
from fabrica.safeguards.watermark import Found, look_for, marked

NETWORK = {"channels": [16, 32, 64], "blocks": 1}
FAMILIES = {"flow": 600, "gan": 600, "vae": 600}  # steps of 16 images
LONG = {"flow, 100, 1,500 steps": ("flow", 100, 1500)}
SIZES = (100, 400, 3000)
HELD, DRAWS = 1000, 1000
PRIVATE_STEPS = 120  # of 64 images, each with a gradient of its own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/safeguards"))
    parser.add_argument("--only", default="")
    parser.add_argument("--held", type=int, default=HELD, help="pictures of MedNIST that are held out")
    parser.add_argument("--row", default="", help="of copies: this one alone, 'flow, 400'")
    add_device(parser)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        if options.only not in ("", name):
            continue
        path = options.work / f"{name}.jsonl"
        done = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        for row in part(options, {json.dumps(d["what"]) for d in done}):
            print(json.dumps(row), flush=True)
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def level(options: argparse.Namespace, done: set[str]) -> Iterator[dict[str, Any]]:
    """1,000 repetitions of an honest generator, and of one without diversity; power by the share of copies."""

    def people(count: int, seed: int) -> NDArray[np.float64]:
        rows = np.random.default_rng(seed).normal(size=(count, 40))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def p_value(draws: NDArray[Any], train: NDArray[Any], held: NDArray[Any], seed: int) -> float:
        real = np.concatenate([train, held])
        mixing = np.random.default_rng(1).normal(size=(40, 30))
        spaces = {
            "a": nearest([draws], real),
            "b": nearest([draws @ mixing], real @ mixing),
            "c": nearest([np.abs(draws)], np.abs(real)),
        }
        return copy_test(spaces, [f"p{k}" for k in range(len(real))], np.arange(len(real)) < len(train), seed).p_value

    centre = people(1, 999)
    for what, share, narrow, repeats, patients in (
        ("honest", 0.0, False, 1000, 100), ("honest, a fifth of the diversity", 0.0, True, 500, 100),
        ("1 % copies", 0.01, False, 100, 300), (".5 % copies", 0.005, False, 100, 300),
    ):  # fmt: skip
        if json.dumps(what) in done:
            continue
        found = []
        for k in range(repeats):
            train, held, draws = (
                people(patients, 4 * k),
                people(patients, 4 * k + 1),
                people(1000 if share else 300, 4 * k + 2),
            )
            if narrow:
                draws = centre + 0.2 * draws
                draws /= np.linalg.norm(draws, axis=1, keepdims=True)
            if copied := round(share * len(draws)):
                draws[:copied] = train[:copied] + 0.2 * people(copied, 4 * k + 3)
                draws /= np.linalg.norm(draws, axis=1, keepdims=True)
            found.append(p_value(draws, train, held, k))
        yield {
            "what": what,
            "refused": float(np.mean(np.array(found) < 0.05)),
            "repetitions": repeats,
            "patients a side": patients,
        }


def speed(options: argparse.Namespace, done: set[str]) -> Iterator[dict[str, Any]]:
    """Nearest neighbours of 10,000 draws among 10,000 images of 64 x 64, in pixels."""
    import resource

    if json.dumps("10,000 x 10,000") in done:
        return
    rng = np.random.default_rng(0)
    draws, real = (rng.normal(size=(10_000, 1024)) for _ in range(2))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    gaps, where = nearest([draws], real)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    copy_test({"pixels": (gaps, where)}, [f"p{k}" for k in range(10_000)], np.arange(10_000) < 5000)
    yield {
        "what": "10,000 x 10,000", "nearest_s": round(seconds, 2), "test_s": round(time.perf_counter() - began, 2),
        "memory_MiB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024,
    }  # fmt: skip


def mednist(folder: Path) -> list[NDArray[Any]]:
    """Every picture once, in an order that does not depend on its class."""
    found, seen = [], set[bytes]()
    for name in CLASSES:
        with zipfile.ZipFile(folder / f"{name}.zip") as archive:
            for member in sorted(n for n in archive.namelist() if n.endswith((".jpeg", ".jpg"))):
                image = np.asarray(Pillow.open(io.BytesIO(archive.read(member))).convert("L"))
                if image.tobytes() not in seen and image.max() > 20:
                    found.append(image)
                    seen.add(image.tobytes())
    return [found[k] for k in np.random.default_rng(0).permutation(len(found))]


def sides(options: argparse.Namespace, size: int) -> Path:
    """WORK/mednist-SIZE/{train,held}: PNG files."""
    place = options.work / f"mednist-{size}-of-{options.held}"
    if not (place / "held").is_dir():
        images = mednist(options.data / "images_2d/mednist")
        held = min(options.held, len(images) - max(SIZES))
        for part, own in (("train", images[held : held + size]), ("held", images[:held])):
            (place / part).mkdir(parents=True, exist_ok=True)
            for k, image in enumerate(own):
                Pillow.fromarray(image).save(place / part / f"{part}{k:05d}.png")
    return place


def trained(options: argparse.Namespace, place: Path, family: str, **more: Any) -> Path:
    run = options.work / f"{place.name}-{family}{more.pop('name', '')}"
    plain = {
        "cohorts": {p: {"path": str(place / p)} for p in ("train", "held")},
        "split": {"train": 0.0, "test": 1.0, "only_train": ["train"]}, "baseline": "none",
        "job": {"name": "synthesis", "x": ["image"]}, "family": {"name": family, "network": NETWORK},
        "train": {"steps": FAMILIES[family], "batch": 16, **more}, "prepare": {"size": [64, 64]},
        "evaluate": {"draws": 1, "realism": 0, "evaluations": []},
    }  # fmt: skip
    run_recipe(from_plain(plain), run, say=lambda text: None, device=DEVICE)
    return run


def copies(options: argparse.Namespace, done: set[str]) -> Iterator[dict[str, Any]]:
    """Which families copy, by the number of training images."""
    plans = {f"{family}, {size}": (family, size, FAMILIES[family]) for size in SIZES for family in FAMILIES}
    for what, (family, size, steps) in {**plans, **LONG}.items():
        if json.dumps(what) not in done and options.row in ("", what):
            run = trained(options, sides(options, size), family, name=f"-{steps}", steps=steps)
            yield {"what": what, **_audited(run)}


def shadowed(options: argparse.Namespace, done: set[str]) -> Iterator[dict[str, Any]]:
    """Membership beside eight shadow models: of the flow that saw a hundred images too often, and of one that did not."""
    for steps in (1500, 300):
        what = f"flow, 100, {steps} steps"
        if json.dumps(what) in done:
            continue
        run = trained(options, sides(options, 100), "flow", name=f"-{steps}", steps=steps)
        began = time.perf_counter()
        subject = Subject.open(run, None, "cpu", 0, lambda text: None)
        found = membership(subject, "", 8, "cpu")
        told = {
            a.name: {"found": a.found, "interval": a.interval, "rate": a.rate, "auc": a.auc, "p": a.p_value}
            for a in found.attacks
        }
        yield {
            "what": what,
            "seconds": round(time.perf_counter() - began),
            "verdict": found.check.verdict,
            "attacks": told,
        }


def _audited(run: Path) -> dict[str, Any]:
    began = time.perf_counter()
    gate = audit(run, Asked(draws=DRAWS, only=(COPIES, MEMBERSHIP)), say=lambda text: None)
    seconds = time.perf_counter() - began
    subject = Subject.open(run, None, "cpu", 0, lambda text: None)
    facts = subject.run.trained(subject.stage)
    found = {
        name: {"verdict": c.verdict, "value": c.value, "interval": c.interval, "said": c.reason}
        for name, c in gate.checks.items()
    }
    return {"train_s": round(facts.seconds), "audit_s": round(seconds), **found}


def hippocampi(options: argparse.Namespace, done: set[str]) -> Iterator[dict[str, Any]]:
    """Slabs of real hippocampi by patient: half train, half are held out."""
    for family, steps in FAMILIES.items():
        if json.dumps(family) in done:
            continue
        plain = {
            "cohorts": {"all": {"path": str(options.data / "mri_hippocampus")}}, "split": {"train": 0.5, "test": 0.5}, "baseline": "none",
            "job": {"name": "synthesis", "x": ["image"]}, "family": {"name": family, "network": NETWORK},
            "train": {"steps": steps, "batch": 16}, "evaluate": {"draws": 1, "realism": 0, "evaluations": []},
        }  # fmt: skip
        run = options.work / f"hippocampi-{family}"
        run_recipe(from_plain(plain), run, say=lambda text: None, device=DEVICE)
        yield {"what": family, **_audited(run)}


def private(options: argparse.Namespace, done: set[str]) -> Iterator[dict[str, Any]]:
    """Utility beside epsilon: Fréchet distance of draws in the encoder that nobody trained, beside real to real."""
    from fabrica.evaluate.sets.feature import frechet_distance

    place = sides(options, 3000)
    for epsilon in (1.0, 8.0, None):
        what = f"epsilon {epsilon or 'none'}"
        if json.dumps(what) in done:
            continue
        promise = {} if epsilon is None else {"privacy": {"epsilon": epsilon, "delta": 1e-5, "per": "image"}}
        run = trained(
            options, place, "flow", name=f"-{epsilon or 'none'}", steps=PRIVATE_STEPS, batch=64, average=0.95, **promise
        )
        subject = Subject.open(run, None, "cpu", 0, lambda text: None)
        train, held = (encoded_thin(subject.sides[k].images[:1000]) for k in (0, 1))
        drawn = encoded_thin(subject.draws(DRAWS))
        facts = subject.run.trained(subject.stage)
        yield {
            "what": what,
            "distance": frechet_distance(drawn, held),
            "real to real": frechet_distance(train, held),
            "train_s": round(facts.seconds),
        }


def encoded_thin(images: list[Any]) -> NDArray[np.float64]:
    """Every eighth feature: fewer than there are images."""
    return encoded(images)[:, ::8]


def shift(options: argparse.Namespace, done: set[str]) -> Iterator[dict[str, Any]]:
    """False alarms, and what is noticed: the other simulated scanner, and disease that training did not see."""
    if json.dumps("simulated") in done:
        return

    def rows(first: int, count: int, **how: Any) -> list[Any]:
        members = VirtualCohort(count, first=first, spacing_mm=2, planes=[40, 46], **how).cohort().members
        return [rows_of(m, ["T1w"]) for m in members]

    usual = {"scanners": ["A"], "disease": "none"}
    reference = fit("w", rows(0, 40, **usual), rows(1000, 60, **usual))
    same = [reference.look(r) for r in rows(2000, 60, **usual)]
    yield {"what": "simulated", "others of A": farthest(same, reference)}
    for what, how in (
        ("simulated scanner B", {**usual, "scanners": ["B"]}),
        ("simulated tumours", {**usual, "disease": "tumour"}),
    ):
        other = [reference.look(r) for r in rows(3000, 40, **how)]
        labels = [0] * len(same) + [1] * len(other)
        area = auc_delong([s.score for s in (*same, *other)], labels)
        kinds = {
            k: round(float(auc_delong([s.scores[k] for s in (*same, *other)], labels)), 3) for k in reference.clouds
        }
        yield {
            "what": what, "auc": float(area), "interval": area.interval, "by kind": kinds, "of": [len(same), len(other)],
            "told": float(np.mean([reference.shifted(s) for s in other])), "false alarms": float(np.mean([reference.shifted(s) for s in same])),
            "the site": farthest(other, reference),
        }  # fmt: skip


def sites(options: argparse.Namespace, done: set[str]) -> Iterator[dict[str, Any]]:
    """Each of three sites left out: two of scanner A, one of scanner B; and where the third is of A, too."""

    def rows(first: int, scanner: str) -> list[Any]:
        how = {"scanners": [scanner], "disease": "none", "spacing_mm": 2, "planes": [40, 46]}
        return [rows_of(m, ["T1w"]) for m in VirtualCohort(40, first=first, **how).cohort().members]

    same = {"first of A": rows(0, "A"), "second of A": rows(1000, "A")}
    for what, scanner in (("a site of another scanner", "B"), ("three sites of one scanner", "A")):
        if json.dumps(what) in done:
            continue
        found, unseen = leave_one_site_out({**same, f"third, of {scanner}": rows(2000, scanner)})
        yield {"what": what, "sites": [asdict(row) for row in found], "unseen": unseen}


def watermark(options: argparse.Namespace, done: set[str]) -> Iterator[dict[str, Any]]:
    """Found after whole numbers, a tenth fewer pixels, eight bits and JPEG 90; what figures of a model move by."""
    for what, spacing, planes in (("1 mm, 20 planes", 1, (70, 90)), ("2 mm, 44 planes", 2, (20, 64))):
        if json.dumps(what) in done:
            continue
        plain, handled, others, moved = list[float](), list[float](), list[float](), list[list[float]]()
        for n, member in enumerate(VirtualCohort(3, spacing_mm=spacing, planes=planes).cohort().members):
            image = member.load(["T1w"]).images["T1w"].data[0].double().numpy()
            for k in range(6):
                key = bytes([k, n, *[7] * 30])
                drawn = marked(image, key)
                through = _handled(drawn)
                plain.append(look_for(drawn, key).z)
                handled.append(look_for(through, key).z)
                others += [look_for(through, bytes([k, n, 9 + j, *[8] * 29])).z for j in range(3)]
                if k < 2:
                    moved.append(_moved(image, drawn, k))
        yield {
            "what": what, "z": float(np.mean(plain)), "z after": float(np.mean(handled)), "least after": min(handled),
            "found": sum(Found(z).marked for z in handled), "of": len(handled), "deviation of other keys": float(np.std(others)),
            "moved, %: PSNR, SSIM, MAE": np.mean(moved, 0).round(3).tolist(), "at most": np.max(moved, 0).round(3).tolist(),
        }  # fmt: skip


def _handled(volume: NDArray[Any]) -> NDArray[Any]:
    top, found = np.percentile(volume, 99.9), []
    for plane in volume.round():
        small = resize(plane, [round(n * 0.9) for n in plane.shape], order=1)
        buffer = io.BytesIO()
        Pillow.fromarray(np.clip(small / top * 255, 0, 255).round().astype(np.uint8)).save(buffer, "JPEG", quality=90)
        found.append(np.asarray(Pillow.open(buffer)).astype(float))
    return np.stack(found)


def _moved(image: NDArray[Any], drawn: NDArray[Any], seed: int) -> list[float]:
    """Per cent, beside a truth that is 28 dB off."""
    top, inside = np.percentile(image, 99.5), image > image.mean()
    truth = image + np.random.default_rng(seed).normal(size=image.shape) * 0.04 * top * inside

    def figures(x: NDArray[Any]) -> list[float]:
        alike = [float(ssim(x[z] / top, truth[z] / top, data_range=1.0, mask=inside[z])) for z in range(0, len(x), 5)]
        return [
            float(psnr(x / top, truth / top, data_range=1.0, mask=inside)),
            float(np.mean(alike)),
            float(mae(x / top, truth / top, mask=inside)),
        ]

    return [100 * abs(a / b - 1) for a, b in zip(figures(drawn), figures(image), strict=True)]


PARTS = {
    "level": level,
    "speed": speed,
    "copies": copies,
    "shadowed": shadowed,
    "hippocampi": hippocampi,
    "private": private,
    "shift": shift,
    "sites": sites,
    "watermark": watermark,
}

if __name__ == "__main__":
    main()
