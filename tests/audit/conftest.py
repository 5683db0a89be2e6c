"""People of blobs in two contrasts, a run on them, and new scans."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from fabrica.recipe.checks import from_plain
from fabrica.recipe.values import Recipe
from fabrica.run.sequence import run_recipe


def _write(folder: Path, patient: str, rng: np.random.Generator, blur: float = 0.0, noise: float = 0.0) -> None:
    """A head of blobs in two slices, and what another contrast would show of it; for some it shows less."""
    z, y, x = np.meshgrid(np.arange(2), np.arange(32), np.arange(32), indexing="ij")
    head = 400.0 * (((y - 16) / 13) ** 2 + ((x - 16) / 12) ** 2 < 1)
    for _ in range(5):
        a, b, s = rng.uniform(8, 24), rng.uniform(8, 24), rng.uniform(2, 4)
        head += (head > 0) * rng.uniform(150, 500) * np.exp(-((y - a) ** 2 + (x - b) ** 2 + z) / (2 * s * s))
    other = np.where(head > 0, 1300 - head, 0.0) + rng.normal(size=head.shape) * blur
    shown = np.abs(head + rng.normal(size=head.shape) * (8 + noise))
    (folder / patient).mkdir(parents=True)
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    for name, values in (("T1w", shown), ("FLAIR", other)):
        nibabel.save(nibabel.Nifti1Image(values.T.astype(np.float32), affine), folder / patient / f"{name}.nii.gz")


PLAIN = {
    "split": {"train": 0.2, "validate": 0.2, "test": 0.6}, "baseline": "none",
    "job": {"name": "translation", "from": ["T1w"], "x": ["FLAIR"]},
    "family": {"name": "regression", "network": {"channels": [8, 16], "blocks": 1}},
    "train": {"steps": 60, "batch": 8, "precision": "fp32", "canaries": 2},
    "evaluate": {"draws": 1, "realism": 0, "evaluations": []},
}  # fmt: skip
PATIENTS = 100


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on people of whom half have noisier answers, two new scans of the same scanner, and two with noise."""
    place, rng = tmp_path_factory.mktemp("scans"), np.random.default_rng(0)
    lines = ["participant_id\tsex\tsite"]
    for k in range(PATIENTS):
        _write(place / "data", f"p{k:03d}", rng, blur=150.0 * (k % 2))
        lines.append(f"p{k:03d}\t{'mf'[k % 2]}\t{('north' if k % 5 < 2 else 'south')}")
    (place / "data/participants.tsv").write_text("\n".join(lines) + "\n")
    for k in range(2):
        _write(place / "new", f"n{k}", rng)
        _write(place / "noisy", f"n{k}", rng, noise=120.0)
    run_recipe(recipe_of(place, PLAIN), place / "run", say=quiet)
    return place


def recipe_of(place: Path, plain: dict) -> Recipe:
    return from_plain({"cohorts": {"all": {"path": str(place / "data")}}, **plain})
