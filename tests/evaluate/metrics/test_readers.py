"""Reader studies: against DeLong where they must agree, type-I error, sheets that are balanced, answers that are checked."""

import base64
import csv
import io as buffers
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from scipy import stats
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.evaluate.judging.reading import PRACTICE, analyse, read_study
from fabrica.evaluate.metrics.task import auc_delong_paired, forced_choice, obuchowski_rockette

from ..judging.test_folders import _patients


def _ratings(
    rng: np.random.Generator, readers: int = 4, cases: int = 60, gain: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(cases) % 2
    case, reader = rng.normal(size=cases), 0.3 * rng.normal(size=readers)
    pair = 0.2 * rng.normal(size=(2, readers))
    noise = rng.normal(size=(2, readers, cases))
    strength = 1.2 + reader[None, :, None] + pair[:, :, None] + np.array([gain, 0])[:, None, None]
    return labels * strength + case + noise, labels


def test_equal_readers_are_delong() -> None:
    """No reader differs from another: what is left is the variance of cases, and the test is DeLong's."""
    rng = np.random.default_rng(0)
    scores, labels = _ratings(rng, readers=1, cases=80, gain=0.8)
    found = obuchowski_rockette(np.repeat(scores, 3, axis=1), labels)
    delong = auc_delong_paired(scores[0, 0], scores[1, 0], labels)
    assert float(found) == pytest.approx(float(delong))
    assert found.p_value == pytest.approx(delong.p_value, rel=1e-6)
    assert found.interval == pytest.approx(delong.interval)
    assert found.details["degrees_of_freedom"] > 1e6


def test_components_by_hand() -> None:
    rng = np.random.default_rng(1)
    scores, labels = _ratings(rng, readers=3, gain=0.5)
    found = obuchowski_rockette(scores, labels)
    auc = np.array([[stats.mannwhitneyu(s[labels == 1], s[labels == 0]).statistic / 900 for s in m] for m in scores])
    np.testing.assert_allclose(found.details["auc"], auc)
    centred = auc - auc.mean(1, keepdims=True) - auc.mean(0) + auc.mean()
    assert found.details["modality_by_reader"] == pytest.approx(float((centred**2).sum() / 2))
    assert float(obuchowski_rockette(scores[::-1], labels)) == pytest.approx(-float(found))
    assert obuchowski_rockette(scores[::-1], labels).p_value == pytest.approx(found.p_value)


def test_type_one_error_and_coverage() -> None:
    rng, hits = np.random.default_rng(2), 0
    repetitions = 300
    for _ in range(repetitions):
        found = obuchowski_rockette(*_ratings(rng, readers=5, cases=60))
        assert found.interval is not None
        assert (found.p_value < 0.05) == (not found.interval[0] <= 0 <= found.interval[1])
        hits += found.p_value < 0.05
    assert hits <= stats.binom.ppf(0.999, repetitions, 0.05)  # the method is known to be a little conservative


def test_ratings_that_cannot_be_analysed() -> None:
    labels = [0, 0, 1, 1]
    with pytest.raises(ValueError, match="2 or more readers"):
        obuchowski_rockette(np.zeros((2, 1, 4)), labels)
    with pytest.raises(ValueError, match="finite"):
        obuchowski_rockette(np.full((2, 2, 4), np.nan), labels)
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        obuchowski_rockette(np.zeros((2, 2, 4)), [0, 1, 2, 3])


def test_forced_choice_by_hand() -> None:
    found = forced_choice([1, 1, 1, 0] * 3, ["a"] * 4 + ["b"] * 4 + ["c"] * 4)
    assert float(found) == 0.75
    assert found.details["d_prime"] == pytest.approx(2**0.5 * stats.norm.ppf(0.75))
    assert found.details["readers"]["a"]["interval"] == pytest.approx((0.3006, 0.9544), abs=1e-3)  # Wilson, 3 of 4
    one = forced_choice([1, 0], ["a", "a"])
    assert one.interval is None
    assert "equivalent" not in one.details


def test_guessing_is_equivalence_only_with_enough_pairs() -> None:
    rng = np.random.default_rng(3)
    names = [f"r{i}" for i in range(6)]
    many = forced_choice(rng.integers(0, 2, 6 * 400), [n for n in names for _ in range(400)])
    few = forced_choice([0, 1] * 15, [n for n in names for _ in range(5)])
    assert many.details["equivalent"] < 0.01
    assert few.details["equivalent"] > 0.05
    alarms = sum(
        forced_choice(rng.integers(0, 2, 120), [n for n in names for _ in range(20)]).p_value < 0.05 for _ in range(300)
    )
    assert alarms <= stats.binom.ppf(0.999, 300, 0.05)
    with pytest.raises(ValueError, match="one 0 or 1"):
        forced_choice([0.5], ["a"])
    with pytest.raises(ValueError, match="margin"):
        forced_choice([1], ["a"], margin=0.7)


def _sheets(tmp_path: Path, kind: str) -> Path:
    _patients(tmp_path / "real", range(9))
    _patients(tmp_path / "made", range(20, 29), blur=1.0, first="g")
    call = ["readers", "--generated", str(tmp_path / "made"), "--reference", str(tmp_path / "real"), "--out", str(tmp_path / "s"), "--kind", kind]  # fmt: skip
    done = CliRunner().invoke(app, [*call, "--count", "3"])
    assert done.exit_code == 0, done.output
    return tmp_path / "s"


def _answer(folder: Path, name: str, answers: list[str]) -> None:
    with (folder / f"answers-{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "answer"])
        writer.writerows([[i + 1, a] for i, a in enumerate(answers)])


def test_sheets_are_balanced_and_hide_their_key(tmp_path: Path) -> None:
    folder = _sheets(tmp_path, "pairs")
    key = json.loads((folder / "key.json").read_text())
    orders = []
    for name, items in key["readers"].items():
        sides = [item["right"] for item in items]
        assert abs(sides.count("left") - sides.count("right")) == 1
        assert all(dict(item["shown"]).keys() == {"generated", "reference"} for item in items)
        page = (folder / f"{name}.html").read_text()
        words = re.sub(r'"[A-Za-z0-9+/=]{200,}"', "", page)
        assert "slice" not in words
        assert '"generated"' not in words
        orders.append(str(items))
    assert len(set(orders)) == 3
    png = base64.b64decode(page.split('const items = [["')[1].split('"')[0])
    assert Picture.open(buffers.BytesIO(png)).size == (320, 320)


def test_a_study_is_not_overwritten(tmp_path: Path) -> None:
    folder = _sheets(tmp_path, "pairs")
    call = [
        "readers",
        "--generated",
        str(tmp_path / "made"),
        "--reference",
        str(tmp_path / "real"),
        "--out",
        str(folder),
    ]
    done = CliRunner().invoke(app, [*call, "--seed", "5"])
    assert done.exit_code == 2
    assert "holds the key of a study" in done.output


def test_answers_become_figures_and_practice_does_not_count(tmp_path: Path) -> None:
    folder = _sheets(tmp_path, "pairs")
    key = json.loads((folder / "key.json").read_text())["readers"]
    for name, items in key.items():
        right = [item["right"] for item in items]
        wrong = ["left" if r == "right" else "right" for r in right[:PRACTICE]]
        _answer(folder, name, wrong + right[PRACTICE:])
    done = CliRunner().invoke(app, ["readers", "--out", str(folder)])
    assert done.exit_code == 0, done.output
    assert "all readers: 1.000" in done.output
    assert "reader-1: 1.000" in done.output
    assert analyse(folder)["all readers"].n == 3 * 6


def test_ratings_become_areas(tmp_path: Path) -> None:
    folder = _sheets(tmp_path, "ratings")
    items = json.loads((folder / "key.json").read_text())["readers"]["reader-2"]
    _answer(folder, "reader-2", ["2" if item["right"] == "generated" else "4" for item in items])
    assert float(analyse(folder)["reader-2"]) == 1.0


@pytest.mark.parametrize(
    ("harm", "words"),
    [("none", "no answers-READER.csv"), ("who", "is of no reader"), ("what", "item 2 has the answer 'maybe'"), ("short", "8 of 9 items are answered"), ("twice", "expected each item once"), ("other", "is not the key of a study"), ("key", "holds no key.json")],
)  # fmt: skip
def test_answers_that_cannot_be_used(tmp_path: Path, harm: str, words: str) -> None:
    folder = _sheets(tmp_path, "pairs")
    good = ["left"] * 9
    if harm == "who":
        _answer(folder, "reader-9", good)
    elif harm == "what":
        _answer(folder, "reader-1", [good[0], "maybe", *good[2:]])
    elif harm == "short":
        _answer(folder, "reader-1", good[:8])
    elif harm == "twice":
        _answer(folder, "reader-1", good)
        with (folder / "answers-reader-1.csv").open("a") as file:
            file.write("9,right\n")
    elif harm == "other":
        (folder / "key.json").write_text('{"kind": "pairs", "practice": 3, "readers": {"../x": []}}')
    elif harm == "key":
        (folder / "key.json").unlink()
    done = CliRunner().invoke(app, ["readers", "--out", str(folder)])
    assert done.exit_code == 2
    assert words in done.output


def test_sheets_that_cannot_be_made(tmp_path: Path) -> None:
    _patients(tmp_path / "real", range(4))
    call = ["readers", "--reference", str(tmp_path / "real"), "--out", str(tmp_path / "s")]
    assert "images of both sides" in CliRunner().invoke(app, call).output
    few = CliRunner().invoke(app, [*call, "--generated", str(tmp_path / "real")])
    assert "at least 5 are needed" in few.output
    kind = CliRunner().invoke(app, [*call, "--generated", str(tmp_path / "real"), "--kind", "stars"])
    assert "expected pairs or ratings" in kind.output


def _study(path: Path, scores: np.ndarray, labels: np.ndarray, names: tuple[str, ...] = ("ours", "theirs")) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["reader", "case", "modality", "truth", "score"])
        for m, name in enumerate(names):
            for r in range(scores.shape[1]):
                for c, label in enumerate(labels):
                    writer.writerow([f"dr{r}", f"case{c}", name, label, scores[m, r, c]])
    return path


def test_a_table_of_ratings_is_a_multi_reader_study(tmp_path: Path) -> None:
    scores, labels = _ratings(np.random.default_rng(4), gain=0.8)
    table = _study(tmp_path / "study.csv", scores, labels)
    found = read_study(table)
    own = obuchowski_rockette(scores, labels)
    assert found["ours minus theirs"].value == pytest.approx(own.value)
    assert found["ours minus theirs"].interval == pytest.approx(own.interval)
    assert len(found) == 2 * 4 + 1
    shown = CliRunner().invoke(app, ["readers", "--table", str(table)])
    assert shown.exit_code == 0, shown.output
    assert "ours minus theirs: " in shown.output
    assert "0 is no difference" in shown.output
    three = np.concatenate([scores, scores[:1]])
    pairs = read_study(_study(tmp_path / "three.csv", three, labels, ("a", "b", "c")))
    assert [n for n in pairs if " minus " in n] == ["a minus b", "a minus c", "b minus c"]
    assert pairs["a minus c"].value == 0


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda lines: [lines[0].replace("truth", "label"), *lines[1:]], "lacks some of the columns"),
        (lambda lines: lines[:-1], "dr3 has no score of case59 by theirs"),
        (lambda lines: [*lines, lines[-1]], "scores a case twice"),
        (lambda lines: [*lines[:-1], lines[-1].rpartition(",")[0] + ",high"], "scores case59 'high'"),
        (lambda lines: [*lines[:-1], lines[-1].replace("theirs,1", "theirs,0")], "the same in every row"),
        (lambda lines: [lines[0]], "lacks some of the columns"),
    ],
)
def test_tables_that_are_no_study(tmp_path: Path, harm: Callable[[list[str]], list[str]], words: str) -> None:
    table = _study(tmp_path / "study.csv", *_ratings(np.random.default_rng(0)))
    table.write_text("\n".join(harm(table.read_text().splitlines())))
    with pytest.raises(ValueError, match=words):
        read_study(table)
    assert CliRunner().invoke(app, ["readers", "--table", str(tmp_path / "none.csv")]).exit_code == 2
    assert CliRunner().invoke(app, ["readers"]).exit_code == 2
