"""The copy test, its level and power, and the audit of a run: planted copies are refused, honest draws pass."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from typer.testing import CliRunner

from fabrica.audit.conduct import COPIES, Asked
from fabrica.audit.conduct import audit as audited
from fabrica.cli import app
from fabrica.deliver.record import Record
from fabrica.generate.patients import draw_patients
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe
from fabrica.safeguards.gate import Check, Gate, standing
from fabrica.safeguards.privacy.copies import CLOSEST, assessable, copies_check, copy_test, nearest
from fabrica.safeguards.privacy.spaces import pixels, variants


def audit(run: Path, say=lambda _: None, **asked: object) -> Gate:
    return audited(run, Asked(only=(COPIES,), **asked), say=say)


def _people(count: int, seed: int, spread: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 40)) * spread
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _p_value(draws: np.ndarray, train: np.ndarray, held: np.ndarray, seed: int = 0, images_each: int = 1) -> float:
    real = np.concatenate([train, held])
    patients = [f"p{k // images_each}" for k in range(len(real))]
    return copy_test({"pixels": nearest([draws], real)}, patients, np.arange(len(real)) < len(train), seed).p_value


def test_it_says_copies_as_often_as_it_says_it_does() -> None:
    """Honest draws, also of a generator that lacks diversity: the level is kept."""
    found = [_p_value(_people(300, 3 * k), _people(80, 3 * k + 1), _people(80, 3 * k + 2), k) for k in range(150)]
    assert np.mean(np.array(found) < 0.05) <= 0.10  # 150 repetitions: .05 and three standard errors
    centre = _people(1, 999)
    narrow = []
    for k in range(60):
        draws = centre + 0.2 * _people(300, 7 * k)
        narrow.append(
            _p_value(
                draws / np.linalg.norm(draws, axis=1, keepdims=True), _people(80, 7 * k + 1), _people(80, 7 * k + 2), k
            )
        )
    assert np.mean(np.array(narrow) < 0.05) <= 0.13


def test_one_copy_in_a_hundred_is_found() -> None:
    for k in range(5):
        train, draws = _people(300, 5 * k), _people(1000, 5 * k + 1)
        draws[:10] = train[:10] + 0.2 * _people(10, 5 * k + 2)
        draws /= np.linalg.norm(draws, axis=1, keepdims=True)
        assert _p_value(draws, train, _people(300, 5 * k + 3), k) < 0.01


def test_labels_are_those_of_patients() -> None:
    """Forty images of four patients are four, not forty: chance alone can make them all of one side."""
    train, held = (np.repeat(_people(2, k), 20, 0) + 0.3 * _people(40, 10 + k) for k in (0, 1))
    draws = train + 0.01 * _people(40, 2)
    assert _p_value(draws, train, held, images_each=20) > 0.05
    assert _p_value(draws, train, held, images_each=1) < 0.01  # which is why patients count


def test_copies_that_are_mirrored_or_moved_are_near() -> None:
    images = [
        torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(k)).cumsum(-1).cumsum(-2) for k in range(4)
    ]
    turned = [images[1].flip(-1) * 3 + 2, torch.roll(images[2], 1, -1)]
    gaps, where = nearest([pixels(part) for part in variants(turned)], pixels(images))
    assert where.tolist() == [1, 2]
    assert float(gaps.max()) < 0.02


def test_what_shows_nothing_is_said() -> None:
    many, few = [f"p{k}" for k in range(20)], ["a", "b"]
    assert "2 held-out patients" in assessable(1000, many, few)
    assert "50 draws" in assessable(50, many, many)
    assert assessable(1000, many, many) == ""
    assert copies_check(None, "why").verdict == "NOT ASSESSABLE"
    assert copies_check(None, void="why").verdict == "VOID"
    assert max(CLOSEST) <= 100


def _picture(rng: np.random.Generator) -> np.ndarray:
    """A blob or two of random place, size and brightness, with noise."""
    y, x = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    image = np.zeros((32, 32))
    for _ in range(3):
        a, b, s, v = rng.uniform(6, 26), rng.uniform(6, 26), rng.uniform(2, 6), rng.uniform(80, 240)
        image = np.maximum(image, v * np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * s * s)))
    return np.clip(image + rng.normal(size=image.shape) * 4, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a hundred pictures, tested on a hundred others; honest draws, and many and few of which ten are copies."""
    place, rng = tmp_path_factory.mktemp("audit"), np.random.default_rng(0)
    for part, count in (("train", 100), ("held", 100), ("honest", 1000), ("planted", 1000), ("few", 200)):
        (place / part).mkdir()
        for k in range(count):
            Picture.fromarray(_picture(rng)).save(place / part / f"{part}{k:04d}.png")
    for k in range(10):
        copied = np.asarray(Picture.open(place / "train" / f"train{k:04d}.png")).astype(float)
        noisy = np.clip(copied[:, ::-1] + rng.normal(size=copied.shape) * 6, 0, 255).astype(np.uint8)  # mirrored, too
        for part in ("planted", "few"):
            Picture.fromarray(noisy).save(place / part / f"{part}{k:04d}.png")
    plain = {
        "cohorts": {p: {"path": str(place / p)} for p in ("train", "held")},
        "split": {"train": 0.0, "test": 1.0, "only_train": ["train"]},
        "job": {"name": "synthesis", "x": ["image"]},
        "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}},
        "sampler": {"name": "euler", "steps": 2}, "train": {"steps": 5, "batch": 8, "precision": "fp32"},
        "evaluate": {"realism": 0, "evaluations": [], "draws": 1},
    }  # fmt: skip
    run_recipe(from_plain(plain), place / "run", say=lambda _: None)
    return place


def test_planted_copies_are_refused_and_nothing_goes_out(folder: Path) -> None:
    said: list[str] = []
    gate = audit(folder / "run", data=folder / "planted", say=said.append)
    assert gate.checks[COPIES].verdict == "REFUSED"
    assert any("by image" in line for line in said)
    plain = json.loads((folder / "run/audit/gate.json").read_text())
    assert set(plain["checks"][COPIES]) == {"verdict", "value", "interval", "bound", "reason", "overruled"}
    page = (folder / "run/audit/index.html").read_text()
    assert "REFUSED" in page
    assert page.count("data:image/png") == 24
    with pytest.raises(ValueError, match="was audited and REFUSED: copies"):
        draw_patients(folder / "run", folder / "out", 2, {}, say=lambda _: None)
    few = ["audit", str(folder / "run"), "--data", str(folder / "few"), "--only", COPIES]
    result = CliRunner().invoke(app, few)
    assert result.exit_code == 1


def test_a_refusal_is_overruled_with_a_reason_that_stays(folder: Path) -> None:
    gate = audit(folder / "run", data=folder / "few", overrides={COPIES: "phantoms, nobody's scan"}, say=lambda _: None)
    assert gate.checks[COPIES].verdict == "REFUSED"
    assert gate.refused == ()
    assert "phantoms, nobody&#39;s scan" in (folder / "run/audit/index.html").read_text()
    draw_patients(folder / "run", folder / "out", 2, {}, say=lambda _: None)
    again = audit(folder / "run", data=folder / "few", say=lambda _: None)
    assert again.checks[COPIES].overruled == "phantoms, nobody's scan"  # asked again, the reason is still there
    with pytest.raises(ValueError, match="There is no check"):
        audit(folder / "run", data=folder / "few", overrides={"x": "y"}, say=lambda _: None)


def test_honest_draws_pass_and_the_bound_is_printed(folder: Path) -> None:
    said: list[str] = []
    gate = audit(folder / "run", data=folder / "honest", say=said.append)
    assert gate.checks[COPIES].verdict == "PASS"
    assert any("a rate below 0.003 would not show" in line for line in said)
    draw_patients(folder / "run", folder / "out", 2, {}, say=said.append)
    assert not any("Nobody has audited" in line for line in said)


def test_a_runs_own_draws_are_audited(folder: Path) -> None:
    gate = audit(folder / "run", draws=120, say=lambda _: None)
    assert gate.checks[COPIES].verdict == "PASS"
    assert audit(folder / "run", draws=20).checks[COPIES].verdict == "NOT ASSESSABLE"


def test_a_holdout_that_training_saw_voids_the_audit(folder: Path) -> None:
    check = audit(folder / "run", data=folder / "honest", holdout=folder / "train").checks[COPIES]
    assert check.verdict == "VOID"
    assert "held-out images show a training image" in check.reason or "have trained these weights" in check.reason
    assert "train0000" not in check.reason  # nobody is named in a gate


def test_the_gate_is_of_the_weights_that_draw_now(folder: Path, tmp_path: Path) -> None:
    Gate("w1", {COPIES: Check("REFUSED", 0.001, None, 0.05, "why")}).write(tmp_path)
    assert standing(tmp_path, "w1") == "REFUSED: copies"
    assert standing(tmp_path, "w2") == "unaudited"
    (tmp_path / "audit/gate.json").write_text("{}")
    with pytest.raises(ValueError, match="is no gate"):
        standing(tmp_path, "w1")


def test_what_was_refused_is_not_delivered(tmp_path: Path) -> None:
    from fabrica.deliver.outbox import Outbox
    from fabrica.generate.handover import hand_over

    record = Record(
        tmp_path, "run", "model", "synthesis", "flow", "w", "r", 0, "0", "2026-01-01T00:00:00", (), "REFUSED: copies"
    )
    with pytest.raises(ValueError, match="nothing of it is delivered"):
        hand_over(record, Outbox(tmp_path), say=lambda _: None)
    record.write()
    assert Record.read(tmp_path).audit == "REFUSED: copies"


def test_a_translation_has_nobody_to_audit(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run"):
        audit(tmp_path)


def test_copies_are_looked_for_in_spaces_of_the_user(folder: Path) -> None:
    asked = list[str]()

    def dark(picture: object, width: float) -> np.ndarray:
        asked.append("")
        values = picture.values  # type: ignore[attr-defined]
        return np.array([values.mean(), values.std(), *values[::8, ::8].ravel()])

    gate = audit(folder / "run", data=folder / "few", embeddings={"own": dark})
    assert gate.checks[COPIES].verdict == "REFUSED"
    assert len(asked) == 2 * 200 + 200  # draws as they are and mirrored, and real images of both sides
