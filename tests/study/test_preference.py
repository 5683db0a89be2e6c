"""What readers like, taught to a generator: the reward foretells ratings, others judge, the bound is kept."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from typer.testing import CliRunner

from fabrica import io
from fabrica.cli import app
from fabrica.evaluate.judging.reading import make_sheets
from fabrica.generate.patients import draw_patients
from fabrica.learning import checkpoint
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe
from fabrica.study.preference import Taste, prefer, reward_of

SIDE = 16


def quiet(text: str) -> None:
    pass


def _blob(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    a, b, s = rng.uniform(5, 11), rng.uniform(5, 11), rng.uniform(1.5, 4)
    return np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * s * s)) + 0.02 * rng.random((SIDE, SIDE))


def _width(image: torch.Tensor) -> float:
    """What these readers look at: how much of the picture is bright."""
    return float((image > 0.3).float().mean())


def test_a_reward_foretells_ratings_of_images_that_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(_blob(rng)).float()[None, None] for _ in range(120)]
    ratings = np.array([_width(i) for i in images])
    ratings = (ratings - ratings.mean()) / ratings.std() + 0.3 * rng.normal(size=120)
    reward = reward_of(images[:80], ratings[:80])
    assert reward.foretold > 0.6
    told = np.corrcoef(reward(images[80:]), ratings[80:])[0, 1]
    assert told > 0.6
    chance = reward_of(images[:80], rng.normal(size=80))
    assert chance.foretold < 0.4
    with pytest.raises(ValueError, match="5 images are rated, 20 are needed"):
        reward_of(images[:5], ratings[:5])
    with pytest.raises(ValueError, match="rated alike"):
        reward_of(images[:80], np.ones(80))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on blobs, drawings of it, and three readers who rated them."""
    folder, rng = tmp_path_factory.mktemp("preference"), np.random.default_rng(1)
    (folder / "real").mkdir()
    for k in range(40):
        Picture.fromarray((255 * np.clip(_blob(rng), 0, 1)).astype(np.uint8)).save(folder / "real" / f"r{k:03d}.png")
    plain = {
        "cohorts": {"all": {"path": str(folder / "real")}}, "split": {"train": 0.7, "test": 0.3}, "baseline": "none",
        "job": {"name": "synthesis", "x": ["image"]}, "family": {"name": "flow", "network": {"channels": [16], "blocks": 1}},
        "sampler": {"name": "euler", "steps": 4}, "train": {"steps": 60, "batch": 8, "precision": "fp32"},
        "evaluate": {"draws": 1, "realism": 0, "evaluations": []},
    }  # fmt: skip
    run_recipe(from_plain(plain), folder / "run", say=quiet)
    draw_patients(folder / "run", folder / "draws", 40, {}, say=quiet)
    sides = [io.by_name(folder / d, io.scan_folder(folder / d).scans) for d in ("draws", "real")]
    make_sheets(sides[0], sides[1], folder / "study", readers=3, kind="ratings")
    _answer(folder)
    return folder


def _answer(folder: Path) -> None:
    key, rng = json.loads((folder / "study/key.json").read_text()), np.random.default_rng(2)
    for reader, items in key["readers"].items():
        with (folder / "study" / f"answers-{reader}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["item", "answer"])
            for number, item in enumerate(items, 1):
                side, name = item["shown"][0]
                image = io.read_image(folder / ("draws" if side == "generated" else "real") / name).data
                seen = _width(image / image.max()) + 0.02 * rng.normal()
                writer.writerow([number, int(np.clip(1 + seen * 12, 1, 5))])


def test_a_generator_is_taught_within_a_bound(place: Path, tmp_path: Path) -> None:
    said = list[str]()
    taste = Taste(place / "study", place / "draws", count=40, steps=5, rank=2)
    result = prefer(place / "run", taste, tmp_path / "liked", device="cpu", say=said.append)
    told = json.loads((result.folder / "preference.json").read_text())
    assert told["held"] == "reader-3"
    names = [row[0] for row in told["figures"]]
    assert any("reader-3, whom it never saw" in n for n in names)
    assert {"diversity (Vendi), before", "diversity (Vendi), after", "kernel distance to real, after"} <= set(names)
    assert any("10 of 40 draws teach" in line for line in said)
    found = checkpoint.load(result.folder / "stages/model")
    assert found is not None
    assert found[1]["adapter"]["rank"] == 2  # a thin change of the weights that were
    assert found[1]["total"] == 5
    assert not list(tmp_path.glob(".*"))
    draw_patients(result.folder, tmp_path / "more", 2, {}, say=quiet)


def test_what_teaches_nothing_is_refused(place: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    words = ["prefer", str(place / "run"), "--readers", str(place / "study"), "--draws", str(place / "draws")]
    result = run(app, [*words, "--out", str(tmp_path / "a"), "--held", "reader-9"])
    assert result.exit_code != 0
    assert "There is no reader 'reader-9'" in result.output
    result = run(app, [*words[:-1], str(place / "real"), "--out", str(tmp_path / "a")])
    assert "was rated and is not in" in result.output
    result = run(app, [*words[:3], str(place / "draws"), *words[4:], "--out", str(tmp_path / "a")])
    assert "holds no key.json" in result.output


def test_the_verb(place: Path, tmp_path: Path) -> None:
    words = [
        "prefer",
        str(place / "run"),
        "--readers",
        str(place / "study"),
        "--draws",
        str(place / "draws"),
        "--out",
        str(tmp_path / "b"),
    ]
    result = CliRunner().invoke(app, [*words, "--count", "16", "--steps", "2", "--rank", "1", "--keep", "0.5"])
    assert result.exit_code == 0, result.output
    assert "Report: " in result.output
    assert (tmp_path / "b/liked/patients.csv").is_file()  # the cohort that taught stays with the run
    few = json.loads((place / "study/key.json").read_text())
    assert few["kind"] == "ratings"
