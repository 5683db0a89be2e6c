"""What was asked against what is read; a report that can be made again to the byte; typed tables."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.evaluate.judging.folders import evaluate_folders
from fabrica.evaluate.judging.recomputation import recomputed
from fabrica.evaluate.judging.shelf import Asked, Folders
from fabrica.evaluate.sets.adherence import _ranks, adherence, read_labels
from fabrica.evaluate.sets.embedding import Picture

from .judging.test_folders import _patients


def _set(first: str, sizes: np.ndarray, seed: int) -> list[Picture]:
    rng, found = np.random.default_rng(seed), []
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    for i, size in enumerate(sizes):
        values = 200.0 * (np.hypot(y, x) < size) + 10 * rng.normal(size=(40, 40)) + 50
        found.append(Picture(f"{first}{i}", f"{first}{i}", values, np.ones((40, 40), bool), (1.0, 1.0)))
    return found


def _labelled(sizes: np.ndarray, asked: np.ndarray) -> tuple[dict, dict]:
    sets = {"generated": _set("g", sizes, 1), "reference": _set("r", sizes, 2)}
    labels = {("generated", f"g{i}"): f"{a:.4f}" for i, a in enumerate(asked)}
    return sets, labels | {("reference", f"r{i}"): f"{s:.4f}" for i, s in enumerate(sizes)}


def test_numbers_that_are_obeyed_and_numbers_that_are_not() -> None:
    sizes = np.linspace(0.2, 0.8, 30)
    good = {a.embedding: a for a in adherence(*_labelled(sizes, sizes))}
    bad = {a.embedding: a for a in adherence(*_labelled(sizes, sizes[::-1]))}
    assert good["thumbnail"].measure == "concordance"
    assert good["thumbnail"].generated > 0.8
    assert good["thumbnail"].real > 0.7
    assert abs(good["thumbnail"].shuffled) < 0.5
    assert bad["thumbnail"].generated < 0


def test_classes_and_the_same_patients_on_both_sides() -> None:
    sizes = np.where(np.arange(30) % 2, 0.7, 0.3)
    sets, labels = _labelled(sizes, sizes)
    labels = {k: ("large" if float(v) > 0.5 else "small") for k, v in labels.items()}
    for found in adherence(sets, labels):
        assert found.measure == "accuracy"
        assert found.generated == 1.0
        assert found.generated_interval is not None
    noise = [Picture(p.name, p.patient, np.random.default_rng(i).random((40, 40)), p.inside, p.spacing_mm) for i, p in enumerate(sets["reference"])]  # fmt: skip
    copies = [Picture(p.name, p.patient, p.values, p.inside, p.spacing_mm) for p in noise]
    by_name = {("generated", p.name): labels["reference", p.name] for p in copies} | {k: v for k, v in labels.items() if k[0] == "reference"}  # fmt: skip
    for found in adherence({"generated": copies, "reference": noise}, by_name):
        assert found.generated == pytest.approx(found.real), "a reader was taught on the patient whom it reads"


WORDS = ("a small round disc", "a middling disc", "a large disc that fills the picture")


@pytest.mark.parametrize("obeys", [True, False])
def test_words_that_are_obeyed_and_words_that_are_not(obeys: bool) -> None:
    kinds = np.arange(45) % 3
    sizes = np.array([0.25, 0.5, 0.8])[kinds]
    sets = {"generated": _set("g", sizes if obeys else np.full(45, 0.5), 1), "reference": _set("r", sizes, 2)}
    labels = {(side, f"{side[0]}{i}"): WORDS[k] for side in sets for i, k in enumerate(kinds)}
    (found,) = (a for a in adherence(sets, labels, words=64) if a.embedding == "thumbnail")
    assert found.measure == "rank of the words"
    assert found.real > 0.95
    assert 0.3 < found.shuffled < 0.7
    assert found.generated_interval is not None
    assert found.generated > 0.95 if obeys else 0.35 < found.generated < 0.65
    assert found.generated_interval[0] <= found.generated <= found.generated_interval[1]


def test_one_text_for_all_tells_nothing() -> None:
    sizes = np.linspace(0.2, 0.8, 20)
    sets, labels = _labelled(sizes, sizes)
    with pytest.raises(ValueError, match="needs texts that differ; all are 'a disc'"):
        adherence(sets, dict.fromkeys(labels, "a disc"), words=16)


def test_ranks_by_hand() -> None:
    vectors = {"a": np.array([1.0, 0]), "b": np.array([0, 1.0]), "c": np.array([-1.0, 0])}
    answers = np.array([[2.0, 1], [2, 1], [0, 0]])  # nearest to a, then b, then c; the last knows nothing
    assert _ranks(answers, ["a", "b", "c"], vectors) == [1.0, 0.5, 0.5]


def test_labels_that_do_not_suffice(tmp_path: Path) -> None:
    sets, labels = _labelled(np.linspace(0.2, 0.8, 6), np.linspace(0.2, 0.8, 6))
    with pytest.raises(ValueError, match="at least 10 real patients; there are 6 and 6"):
        adherence(sets, labels)
    with pytest.raises(ValueError, match="no table"):
        read_labels(tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_text("name,label\na,b\n")
    with pytest.raises(ValueError, match="lacks the columns"):
        read_labels(tmp_path / "bad.csv")
    (tmp_path / "short.csv").write_text("folder,name,label\ngenerated,a0.png\ngenerated,b.png, \ngenerated,c.png,7\n")
    assert read_labels(tmp_path / "short.csv") == {("generated", "c.png"): "7"}
    sets, labels = _labelled(np.linspace(0.2, 0.8, 30), np.linspace(0.2, 0.8, 30))
    with pytest.raises(ValueError, match="mix numbers and words"):
        adherence(sets, {**labels, ("generated", "g3"): "old"})
    (tmp_path / "good.csv").write_text("\ufefffolder,name,label\ngenerated, a/b.npz ,x\n")
    assert read_labels(tmp_path / "good.csv") == {("generated", "a/b.npz"): "x"}


@pytest.fixture
def report(tmp_path: Path) -> Path:
    _patients(tmp_path / "real", range(6))
    _patients(tmp_path / "ours", range(6), blur=0.5)
    asked = Asked(300.0, seed=3, quick=True, overrides={7: "the phantom has no background"})
    evaluate_folders(Folders(tmp_path / "ours", tmp_path / "real"), tmp_path / "out", asked, lambda _: None)
    return tmp_path / "out"


def test_the_same_bytes_also_after_a_move(report: Path, tmp_path: Path) -> None:
    assert "The same bytes" in recomputed(report, dict)
    place = tmp_path / "elsewhere"
    place.mkdir()
    for name in ("real", "ours", "out"):
        shutil.move(tmp_path / name, place / name)
    done = CliRunner().invoke(app, ["evaluate", "--recompute", str(place / "out")])
    assert done.exit_code == 0, done.output
    assert "from 12 files" in done.output
    assert sorted(p.name for p in place.iterdir()) == ["ours", "out", "real"]
    (place / "out").rename(place / "renamed")
    assert "The same bytes" in recomputed(place / "renamed", dict)
    with contextlib.chdir(place / "renamed"):
        assert "The same bytes" in recomputed(Path("."), dict)
    (place / "renamed").rename(place / "out")
    assert str(tmp_path) not in (place / "out" / "report.json").read_text()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("change", "p3/slice.npz of the reference images has changed"),
        ("remove", "p3/slice.npz of the reference images is gone"),
        ("add", "p9/slice.npz of the reference images is new"),
        ("edit", "report.json differs"),
        ("csv", "cases.csv differs"),
        ("folder", "no longer at"),
        ("version", "fabrica 9.9"),
        ("damage", "holds no report of folders"),
    ],
)
def test_what_has_changed_is_named(report: Path, tmp_path: Path, harm: str, words: str) -> None:
    file, plain = tmp_path / "real" / "p3" / "slice.npz", json.loads((report / "report.json").read_text())
    if harm == "change":
        shutil.copy(tmp_path / "real" / "p4" / "slice.npz", file)
    elif harm == "remove":
        file.unlink()
    elif harm == "add":
        _patients(tmp_path / "real", range(9, 10))
    elif harm == "edit":
        plain["summaries"][0]["value"] += 1
        (report / "report.json").write_text(json.dumps(plain, indent=1))
    elif harm == "csv":
        (report / "cases.csv").write_text("nothing")
    elif harm == "folder":
        shutil.move(tmp_path / "real", tmp_path / "away")
    elif harm == "version":
        plain["versions"]["fabrica"] = "9.9"
        (report / "report.json").write_text(json.dumps(plain, indent=1))
    else:
        (report / "report.json").write_text("{")
    with pytest.raises(ValueError, match=words):
        recomputed(report, dict)


def test_a_typed_table(report: Path) -> None:
    table = parquet.read_table(report / "cases.parquet").to_pylist()
    psnr = [r for r in table if r["metric"] == "psnr" and r["by"] == "model"]
    assert len(psnr) == 6
    assert all(isinstance(r["value"], float) and r["note"] == "" for r in psnr)
    words = [r for r in table if r["metric"] == "ms_ssim"]
    assert all(r["value"] is None and "161" in r["note"] for r in words)


def test_the_verb_names_what_is_missing() -> None:
    done = CliRunner().invoke(app, ["evaluate", "--generated", "x"])
    assert done.exit_code == 2
    assert "--reference DIR" in done.output
