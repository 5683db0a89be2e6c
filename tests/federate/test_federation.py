"""Flower on loopback with TLS: two sites learn one model, odd messages do not count, faults are said in one line."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.federate.flower import USUAL, flower_at, make_certificates, secret_in
from fabrica.federate.messages import Message, recipe_hash
from fabrica.federate.server import Gathering, _agreed, _answers, _listening, _wait_for, serve
from fabrica.federate.site import Site, _answered, _closed, join
from fabrica.federate.stages import stage_of
from fabrica.generate.scans import generate_images
from fabrica.learning.checkpoint import load
from fabrica.learning.federation import FederationError, LocalPlan
from fabrica.recipe.checks import from_plain
from fabrica.recipe.checks import load as load_recipe
from fabrica.recipe.values import Recipe

ROOT = Path(__file__).parents[2]
PLAIN = {
    "cohorts": {"all": {"path": "nowhere"}}, "split": {"train": 0.7, "test": 0.3}, "baseline": "none",
    "job": {"name": "translation", "from": ["T1w"], "x": ["FLAIR"]},
    "family": {"name": "regression", "network": {"channels": [8, 16], "blocks": 1}},
    "prepare": {"size": [32, 32]}, "train": {"steps": 1, "batch": 4, "precision": "fp32"},
}  # fmt: skip


def _site(folder: Path, first: int, gain: float) -> Path:
    rng = np.random.default_rng(first)
    for k in range(first, first + 6):
        values = gain * (200 + 100 * rng.random((32, 32, 2)))
        values[:4] = values[-4:] = values[:, :4] = values[:, -4:] = 0
        for name, image in (("T1w", values), ("FLAIR", np.where(values > 0, 500 * gain - values, 0))):
            (folder / f"p{k}").mkdir(parents=True, exist_ok=True)
            nibabel.save(
                nibabel.Nifti1Image(image.astype(np.float32), np.diag([2.0, 2, 5, 1])),
                folder / f"p{k}" / f"{name}.nii.gz",
            )
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("federation")
    _site(made / "one", 0, 1.0)
    _site(made / "two", 100, 3.0)
    (made / "recipe.yaml").write_text(yaml.safe_dump(PLAIN))
    make_certificates(made / "keys", "127.0.0.1")
    return made


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_sites_learn_one_model_over_tls(place: Path, tmp_path: Path) -> None:
    flower = ROOT / USUAL
    flower_at(flower)  # fails with the line that makes it
    port = _port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    clients = [
        subprocess.Popen(
            [sys.executable, "-m", "fabrica", "federate", "client", str(place / "recipe.yaml"), "--data", f"all={place / name}",
             "--server", f"127.0.0.1:{port}", "--certificates", str(place / "keys"), "--name", name, "--work", str(tmp_path / name),
             "--flower", str(flower)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT,
        )
        for name in ("one", "two")
    ]  # fmt: skip
    said: list[str] = []
    try:
        asked = Gathering(2, 2, LocalPlan(2), least=2, patience_s=120)
        run = serve(
            load_recipe(place / "recipe.yaml"),
            tmp_path / "run",
            asked,
            ("127.0.0.1", port),
            place / "keys",
            said.append,
            flower,
        )
        for one in clients:
            one.wait(timeout=90)
    finally:
        for one in clients:
            one.kill()
        told = [one.communicate()[0] for one in clients]
    assert all("Round 2 of 2: loss" in text and "The server has ended." in text for text in told), told
    log = json.loads((run / "federation.json").read_text())
    assert [sorted(r["taken"]) for r in log] == [["one", "two"], ["one", "two"]]
    _, facts = load(run / "stages/model") or ({}, {})
    assert facts["federation"] == {"sites": ["one", "two"], "rounds": 2, "images": facts["federation"]["images"]}
    scales = [facts["preparation"]["scales"][n][1] for n in ("T1w", "FLAIR")]
    assert all(300 < s < 1500 for s in scales)  # between those of the two sites
    assert len(generate_images(run, place / "one", tmp_path / "out", say=lambda _: None)) == 6
    sent = b"".join(p.read_bytes() for p in (run / "federation").rglob("*.json"))
    assert b"p100" not in sent  # nobody is named


def _question(recipe: Recipe, local: Sequence[str] = ()) -> dict[str, Any]:
    plan = {
        "round": 0,
        "rounds": 1,
        "steps": 1,
        "learning_rate": None,
        "optimiser": "auto",
        "clip": 1.0,
        "proximal": 0.0,
    }
    return {**plan, "local": list(local), "recipe": recipe_hash(recipe)}


def test_a_site_answers_what_it_is_asked_and_says_what_went_wrong(place: Path, tmp_path: Path) -> None:
    recipe = load_recipe(place / "recipe.yaml", data=[f"all={place / 'one'}"])
    site = Site.of(recipe, tmp_path, place / "keys", "one", lambda _: None)
    asked = _question(recipe)
    weights = {n: t.detach() for n, t in site.family.state_dict().items()}
    answer = site.answer(Message(asked, weights))
    assert answer.plain["count"] == len(site.loader.places)
    assert answer.plain["loss"] > 0
    assert set(answer.weights) == set(weights)
    other = site.answer(Message({**asked, "recipe": "x"}, weights))
    assert "another recipe" in other.plain["error"]
    misfit = site.answer(Message(asked, {"x": torch.zeros(1)}))
    assert "do not fit this site's network" in misfit.plain["error"]


def test_messages_that_do_not_count(place: Path, tmp_path: Path) -> None:
    secret = secret_in(place / "keys")
    asked = {"round": 0, "recipe": "r"}
    good = {
        "site": "a",
        "recipe": "r",
        "round": 0,
        "count": 1,
        "loss": 0.5,
        "preparation": {},
        "reference": "T1w",
        "size": [1, 1, 1],
    }
    Message(good, {"w": torch.ones(2)}).write(tmp_path / "1", secret)
    Message({**good, "site": "b", "recipe": "other"}, {}).write(tmp_path / "2", secret)
    Message({**good, "site": "c", "round": 7}, {}).write(tmp_path / "3", secret)
    Message({**good, "site": "d", "error": "no images"}, {}).write(tmp_path / "4", secret)
    Message({**good, "site": "e"}, {}).write(tmp_path / "5", b"another secret")
    (tmp_path / "6.json").write_text("{")
    Message({k: v for k, v in good.items() if k != "count"} | {"site": "f"}, {}).write(tmp_path / "9", secret)
    for k in (7, 8):
        Message({**good, "site": "twice"}, {}).write(tmp_path / str(k), secret)
    found, odd = _answers(tmp_path, secret, asked)
    assert [m.plain["site"] for m in found] == ["a"]
    assert odd["b"] == "it has another recipe"
    assert odd["c"] == "it answered another round"
    assert odd["d"] == "no images"
    assert odd["f"] == "its answer lacks count"
    assert odd["twice"] == "two sites bear this name"
    assert any("was not made with the secret" in why for why in odd.values())
    assert any("is damaged" in why for why in odd.values())
    (tmp_path / "1.bin").write_bytes(b"changed on the way")
    with pytest.raises(ValueError, match="not made with the secret"):
        Message.read(tmp_path / "1", secret)


def test_sites_agree_on_grid_and_units_and_share_scales() -> None:
    one = {
        "site": "a",
        "count": 1,
        "reference": "T1w",
        "size": [1, 32, 32],
        "preparation": {"axes": "yx", "spacing_mm": None, "units": {}, "classes": {}, "scales": {"T1w": [0.0, 1.0]}},
    }
    other = {**one, "site": "b", "count": 3, "preparation": {**one["preparation"], "scales": {"T1w": [0.0, 5.0]}}}
    assert _agreed({"a": one, "b": other})["preparation"]["scales"] == {"T1w": [0.0, 4.0]}
    with pytest.raises(FederationError, match="of another kind or size"):
        _agreed({"a": one, "b": {**other, "size": [1, 64, 64]}})
    with pytest.raises(FederationError, match="do not both have FLAIR"):
        _agreed(
            {
                "a": one,
                "b": {**other, "preparation": {**other["preparation"], "scales": {"T1w": [0, 1], "FLAIR": [0, 1]}}},
            }
        )
    with pytest.raises(FederationError, match="b has spacing_mm"):
        _agreed({"a": one, "b": {**other, "preparation": {**other["preparation"], "spacing_mm": [1, 1, 1]}}})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prepare": {}}, "Sites see images of one size"),
        ({"train": {"steps": 1, "canaries": 2}}, "are of one site's training"),
        ({"family": {"name": "flow", "in": {"equalised": 0.5}}}, "measured of a site's own images"),
    ],
)
def test_what_cannot_be_learned_by_rounds_is_refused(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        stage_of(from_plain({**PLAIN, **change}))


def test_heads_that_stay_at_home_make_a_run_at_the_site(place: Path, tmp_path: Path) -> None:
    recipe = load_recipe(place / "recipe.yaml", data=[f"all={place / 'one'}"])
    site = Site.of(recipe, tmp_path, place / "keys", "one", lambda _: None)
    asked = _question(recipe, ["net.head"])
    weights = {n: t.detach() for n, t in site.family.state_dict().items() if not n.startswith("net.head")}
    answer = site.answer(Message(asked, weights))
    assert not any(n.startswith("net.head") for n in answer.weights)
    assert len(generate_images(tmp_path / "run", place / "one", tmp_path / "out", say=lambda _: None)) == 6


def test_a_server_listens_on_its_own_machine_alone(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bring sites there by a tunnel"):
        serve(
            load_recipe(place / "recipe.yaml"),
            tmp_path / "run",
            Gathering(1, 1, LocalPlan(1)),
            ("0.0.0.0", 8443),
            place / "keys",
            print,
        )


def test_what_is_missing_is_said_with_the_line_to_type(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="make federation"):
        flower_at(tmp_path)
    with pytest.raises(ValueError, match="fabrica federate certificates"):
        secret_in(tmp_path)
    with pytest.raises(ValueError, match="holds certificates already"):
        make_certificates(place / "keys", "127.0.0.1")
    (tmp_path / "authority.pem").write_text("x")
    (tmp_path / "secret").write_text("\n")
    with pytest.raises(ValueError, match="it was cut off"):
        secret_in(tmp_path)
    assert (place / "keys/server.key").stat().st_mode & 0o077 == 0
    assert (place / "keys/secret").stat().st_mode & 0o077 == 0


class _Node:
    """A node of Flower that lives for so many looks."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def poll(self) -> int | None:
        self.left -= 1
        return None if self.left >= 0 else 0


class _Learner:
    """A site that tells how large the weights are that it was sent."""

    name, secret = "one", b"ours"

    def answer(self, asked: Message) -> Message:
        if asked.plain["round"] == 0:
            return Message({"error": "its scans are of another unit"}, {})
        return Message({"loss": float(asked.weights["w"].sum())}, asked.weights)


def _asks(folder: Path, rounds: int, of: int) -> Path:
    folder.mkdir()
    for k in range(rounds):
        Message({"round": k, "rounds": of}, {"w": torch.full((2,), float(k))}).write(folder / f"ask-{k}.json", b"ours")
    return folder


def test_questions_are_answered_until_the_server_ends(tmp_path: Path) -> None:
    asks, said = _asks(tmp_path / "asks", 2, 2), list[str]()
    Message({"round": 0, "rounds": 2}, {}).write(asks / "ask-9.json", b"somebody else's")
    assert _answered(_Learner(), asks, f"127.0.0.1:{_port()}", _Node(5), said.append) == 2  # type: ignore[arg-type]
    assert not list(asks.glob("ask-*.json"))
    assert Message.read(asks / "answer-1.json", b"ours").plain == {"loss": 2.0}
    assert said == [
        "Round 1 of 2: its scans are of another unit.", "Round 2 of 2: loss 2.",
        "A question was not answered: a message was not made with the secret of this federation.",
        "The server has ended.",
    ]  # fmt: skip


def test_a_server_that_goes_early_or_was_never_there_is_told_apart(tmp_path: Path) -> None:
    said = list[str]()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = f"127.0.0.1:{listening.getsockname()[1]}"
        assert not _closed(server)
        asks = _asks(tmp_path / "asks", 1, 3)
        assert _answered(_Learner(), asks, server, _Node(1), said.append) == 1  # type: ignore[arg-type]
    assert _closed(server)
    assert said[-1] == "The server is gone before the last round."
    with pytest.raises(FederationError, match=r"No server asked one anything.*flower\.log"):
        _answered(_Learner(), tmp_path / "asks", server, _Node(1), said.append)  # type: ignore[arg-type]


def test_a_site_whose_node_ends_at_once_says_where_to_look(tmp_path: Path) -> None:
    tools = tmp_path / "environment/bin"
    tools.mkdir(parents=True)
    node = tools / "flower-supernode"
    node.write_text('#!/bin/sh\necho "$@"\n')
    node.chmod(0o700)
    (tools / "flower-superlink").symlink_to(node)
    make_certificates(tmp_path / "keys", "127.0.0.1")
    work = tmp_path / "work"
    with pytest.raises(FederationError, match="No server asked one anything"):
        join(
            _Learner(), "127.0.0.1:8443", tmp_path / "keys", work, print, tmp_path / "environment",  # type: ignore[arg-type]
        )  # fmt: skip
    told = (work / "flower.log").read_text()
    assert "--superlink 127.0.0.1:8443 --host 127.0.0.1" in told
    assert str(work / "asks") in told


def test_verbs_of_a_federation(place: Path, tmp_path: Path) -> None:
    run = CliRunner()
    made = run.invoke(app, ["federate", "certificates", str(tmp_path / "keys")])
    assert made.exit_code == 0, made.output
    assert "hand authority.pem and secret" in " ".join(made.output.split())
    assert (tmp_path / "keys/server.key").is_file()
    again = run.invoke(app, ["federate", "certificates", str(tmp_path / "keys")])
    assert again.exit_code == 2
    assert "holds certificates already" in again.output
    recipe, keys = str(place / "recipe.yaml"), ["--certificates", str(place / "keys")]
    open_to_all = ["federate", "server", recipe, "--out", str(tmp_path / "run"), *keys, "--host", "0.0.0.0"]
    refused = run.invoke(app, open_to_all)
    assert refused.exit_code == 2
    assert "bring sites there by a tunnel" in " ".join(refused.output.split())
    assert not (tmp_path / "run").exists()
    asked = ["federate", "client", recipe, "--server", "127.0.0.1:8443", *keys, "--name", "one", "--work"]
    nowhere = run.invoke(app, [*asked, str(tmp_path / "work"), "--data", f"all={tmp_path / 'none'}"])
    assert nowhere.exit_code == 2
    assert "none" in nowhere.output
    environment = ["--flower", str(tmp_path / "no-flower")]
    alone = run.invoke(app, [*asked, str(tmp_path / "own"), "--data", f"all={place / 'one'}", *environment])
    assert alone.exit_code == 2
    assert "make federation" in " ".join(alone.output.split())


def test_a_server_that_does_not_open_or_sends_no_round_says_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with pytest.raises(FederationError, match=r"did not open at 127\.0\.0\.1:1\. $"):
        _listening("127.0.0.1", 1, _Node(1), log)  # type: ignore[arg-type]
    log.write_text("starting\nno port is free\n")
    with pytest.raises(FederationError, match="Its last line: no port is free"):
        _listening("127.0.0.1", 1, _Node(0), log)  # type: ignore[arg-type]
    with pytest.raises(FederationError, match=r"No round came back.*no port is free"):
        _wait_for(tmp_path / "done", _Node(1), Gathering(1, 1, LocalPlan(1)), log)  # type: ignore[arg-type]


def test_a_folder_with_something_in_it_is_not_written_over(place: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "kept").write_text("")
    asked = Gathering(1, 1, LocalPlan(1))
    with pytest.raises(ValueError, match="is there already. Name a new folder"):
        serve(load_recipe(place / "recipe.yaml"), tmp_path / "run", asked, ("127.0.0.1", 8443), place / "keys", print)
