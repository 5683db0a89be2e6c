"""Metrics beside their peers: interleaved rounds in one process, ratios within a round, medians over rounds.

    python benchmarks/evaluation_speed.py [--rounds 5]

Peers: torchmetrics, MONAI, scipy, prdc, fastrad, MIRP; one that is not installed is left out and said. Writes
results/evaluation_speed.md. Run nothing beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import linalg, ndimage
from speed import line, machine

from fabrica.evaluate.metrics import pixel
from fabrica.evaluate.sets import feature

RESULTS = Path(__file__).parent / "results"
Section = Callable[[int], dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = [
        section(options.rounds) for section in (ssim_2d, ssim_3d, frechet, neighbours, permutation, radiomics, growth)
    ]
    (RESULTS / "evaluation_speed.json").write_text(json.dumps(found, indent=1))
    (RESULTS / "evaluation_speed.md").write_text("\n".join(page(found, options.rounds)) + "\n")


def have(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def pair(*shape: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    truth = ndimage.gaussian_filter(rng.random(shape), [0, 2, 2] if len(shape) == 3 and shape[0] < 100 else 2)
    return truth + 0.01 * rng.normal(size=shape), truth


def ssim_2d(rounds: int) -> dict[str, Any]:
    x, y = pair(64, 256, 256)
    a, b = torch.from_numpy(x[:, None]).float(), torch.from_numpy(y[:, None]).float()
    peers: dict[str, Callable[[], Any]] = {
        "fabrica": lambda: [pixel.ssim(p, q, data_range=1.0) for p, q in zip(x, y, strict=True)]
    }
    if have("torchmetrics"):
        from torchmetrics.functional.image import structural_similarity_index_measure as theirs

        peers["torchmetrics"] = lambda: theirs(a, b, data_range=1.0)
    from monai.metrics import SSIMMetric

    peers["MONAI"] = lambda: SSIMMetric(2)(a, b)
    return line("SSIM of 64 images of 256 x 256", rounds, peers, {"torchmetrics": 15, "MONAI": 10})


def ssim_3d(rounds: int) -> dict[str, Any]:
    from monai.metrics import SSIMMetric

    x, y = pair(128, 128, 128)
    a, b = torch.from_numpy(x[None, None]).float(), torch.from_numpy(y[None, None]).float()
    return line("SSIM of 128^3", min(rounds, 3), {
        "fabrica": lambda: pixel.ssim(x, y, data_range=1.0), "MONAI": lambda: SSIMMetric(3)(a, b)}, {"MONAI": 8})  # fmt: skip


def frechet(rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10_000, 2048)), rng.normal(0.05, 1.1, size=(10_000, 2048))
    values = {}

    def by_root() -> None:
        s, t = np.cov(x.T), np.cov(y.T)
        root = linalg.sqrtm(s @ t).real
        values["scipy"] = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(root)

    def ours() -> None:
        values["fabrica"] = feature.frechet_distance(x, y)

    found = line(
        "Fréchet distance of 10,000 x 2,048",
        1,
        {"fabrica": ours, "scipy.linalg.sqrtm": by_root},
        {"scipy.linalg.sqrtm": 10},
    )
    found["name"] += f" (values differ by {abs(values['fabrica'] / values['scipy'] - 1):.1e})"
    return found


def neighbours(rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4000, 512)), rng.normal(size=(4000, 512))

    peers: dict[str, Callable[[], Any]] = {
        "fabrica": lambda: feature.precision_recall(x, y)
    }  # all four are in its details
    if have("prdc"):
        from prdc import compute_prdc

        peers["prdc"] = lambda: compute_prdc(y, x, 5)
    return line(
        "precision, recall, density, coverage of 4,000 x 512",
        3 * rounds,
        peers,
        {"prdc": 3},
    )


def permutation(rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1000, 128)), rng.normal(size=(1000, 128))
    groups = ([f"a{i}" for i in range(1000)], [f"b{i}" for i in range(1000)])
    run = lambda: feature.mmd_permutation_test(x, y, groups)  # noqa: E731
    found = line(
        "permutation MMD of 1,000 + 1,000, 500 permutations (under 2,000 ms)", min(rounds, 3), {"fabrica": run}, {}
    )
    found["limit_ms"] = 2000
    return found


def radiomics(rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.normal(size=(256, 256)), 1.5) * 300 + 100
    inside = np.hypot(*np.mgrid[-128:128, -128:128]) < 110
    peers: dict[str, Callable[[], Any]] = {"fabrica, all families": lambda: feature.radiomics(image, inside, (1, 1), 8)}
    if have("fastrad"):
        import fastrad

        classes = ["firstorder", "glcm", "glrlm", "glszm", "ngtdm"]  # its shape needs 47 GB for this region
        extractor = fastrad.FeatureExtractor(
            fastrad.FeatureSettings(feature_classes=classes, bin_width=8.0, device="cpu")
        )
        given = fastrad.MedicalImage(torch.from_numpy(image[None]).float())
        mask = fastrad.Mask(torch.from_numpy(inside[None]).float())
        peers["fastrad, five families"] = lambda: extractor.extract(given, mask)
    if have("mirp"):
        peers[MIRP] = lambda: by_mirp(image, inside)
    found = line(
        "radiomics of 256 x 256", rounds, peers, {"fastrad, five families": 1, MIRP: 5}, by="fabrica, all families"
    )
    if MIRP in peers:
        ours = feature.radiomics(image, inside, (1, 1), 8, outline=False).values()
        theirs = np.array(by_mirp(image, inside))
        gap = max(float(np.abs(theirs - v).min() / max(abs(v), 1e-9)) for v in ours)
        found["name"] += f" ({len(ours)} features, farthest from any of MIRP's: {gap:.0e})"
    return found


MIRP = "MIRP, eight families"  # its morphology takes half a minute


def by_mirp(image: Any, inside: Any) -> list[float]:
    from mirp import extract_features

    logging.disable()
    (table,) = extract_features(
        image=image[None], mask=inside[None].astype(int), by_slice=True, base_discretisation_method="fixed_bin_size",
        base_discretisation_bin_width=8.0, resegmentation_intensity_range=[float(image[inside].min()), float(image[inside].max())],
        base_feature_families=["statistics", "intensity_histogram", "glcm", "glrlm", "glszm", "gldzm", "ngtdm", "ngldm"],
    )  # fmt: skip
    return [float(v) for v in table.iloc[0] if isinstance(v, int | float | np.number)]


def growth(rounds: int) -> dict[str, Any]:
    """Cost against voxels and cases: exponents of median times."""
    words = []
    for name, sizes, make in (
        ("radiomics, voxels a side in 3D", (24, 32, 48, 64), _volume), ("Fréchet distance, cases of 256 features", (500, 1000, 2000, 4000), _sets),
    ):  # fmt: skip
        times = []
        for n in sizes:
            run = make(n)
            run()
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
        slope = np.polyfit(np.log(sizes), np.log(times), 1)[0]
        words.append(
            f"{name}: "
            + ", ".join(f"{n} {1e3 * t:.0f} ms" for n, t in zip(sizes, times, strict=True))
            + f"; exponent {slope:.2f}"
        )
    return {"growth": words}


def _volume(n: int) -> Callable[[], object]:
    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(n, n, n)), 1.5) * 300
    return lambda: feature.radiomics(image, np.ones(image.shape), (1, 1, 1), 8)


def _sets(n: int) -> Callable[[], object]:
    x, y = (np.random.default_rng(s).normal(size=(n, 256)) for s in (0, 1))
    return lambda: feature.frechet_distance(x, y)


def page(found: list[dict[str, Any]], rounds: int) -> list[str]:
    lines = [
        "# Metrics beside their peers", "",
        f"`python benchmarks/evaluation_speed.py --rounds {rounds}`. {machine()}. Medians of interleaved rounds; ratio: time over Fabrica's, median.",
        "prdc 0.2, fastrad 1.0.0 and MIRP 2.7.0 are installed by hand beside the extras `test` and `bench`.", "",
        "| what | who | ms | ratio | asked | reached |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for one in (f for f in found if "times_ms" in f):
        for who, times in one["times_ms"].items():
            ratio, asked = statistics.median(one["ratios"][who]), one["targets"].get(who)
            good = (
                one.get("limit_ms") and statistics.median(times) <= one["limit_ms"] if asked is None else ratio >= asked
            )
            verdict = "" if asked is None and "limit_ms" not in one else "yes" if good else "**no**"
            shown = "" if asked is None else f"{asked:g}"
            lines.append(
                f"| {one['name']} | {who} | {statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f}) | {ratio:.1f} | {shown} | {verdict} |"
            )
    lines += ["", *(f"- {words}." for one in found for words in one.get("growth", []))]
    return lines


if __name__ == "__main__":
    main()
