"""The server of a federation: rounds asked, answers brought together, a run written that draws like any other."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..contracts import Family
from ..deliver.files import write_whole
from ..learning import checkpoint
from ..learning.federation import FederationError, LocalPlan, Update, combined, shared_weights
from ..machine.addresses import is_loopback
from ..recipe.values import Recipe, Stage
from ..run.folder import RunFolder
from .flower import ended, relay_in, secret_in, started
from .messages import Message, recipe_hash
from .stages import PRECISION, first_family, stage_of

Say = Callable[[str], None]
PAUSE_S = 0.2
OPENING_S = 60.0
LOG = "federation.json"
TOLD = ("count", "loss", "preparation", "reference", "size")  # of every answer
TWICE = "two sites bear this name"


@dataclass(frozen=True)
class Gathering:
    """Who may come and how long is waited: `least` answers make a round; `patience_s` for joining, and for a round."""

    sites: int
    rounds: int
    plan: LocalPlan
    least: int = 1
    patience_s: float = 600.0


def serve(
    recipe: Recipe, out: Path, asked: Gathering, address: tuple[str, int], certificates: Path, say: Say,
    flower: Path | None = None,
) -> Path:  # fmt: skip
    """Run all rounds with whoever joins; returns the run, which holds the weights and federation.json.

    Raises ValueError for a recipe that cannot be learned by rounds, FederationError where too few sites answer.
    """
    stage, secret = stage_of(recipe), secret_in(certificates)
    if not is_loopback(address[0]):
        raise ValueError(
            f"Flower runs what anybody sends who reaches it, and {address[0]} is not this machine alone. Listen at"
            " 127.0.0.1 and bring sites there by a tunnel that knows them: ssh -L 8443:127.0.0.1:8443 SERVER"
        )
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is there already. Name a new folder: --out RUN")
    run = RunFolder(out, recipe)
    run.write_recipe()
    folder = out / "federation"
    folder.mkdir(parents=True)
    family = first_family(recipe, stage)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        _open(folder, asked, address, certificates.resolve(), flower, processes)
        say(f"Waiting for {asked.sites} sites at {address[0]}:{address[1]}.")
        weights, told = _rounds(run, family, asked, secret, processes[-1], say)
        _settled(processes[-1])
    finally:
        (folder / "stopped").touch()
        ended(processes)
    if asked.plan.local:
        checkpoint.save(folder / "shared", {f"average/{n}": t for n, t in weights.items()}, {"sites": told["sites"]})
        say(
            f"What is shared lies in {folder / 'shared'}; whole models, with heads of their own, at the sites: WORK/run"
        )
    else:
        say(f"The model of {asked.rounds} rounds is in {out}: fabrica generate {out} --data DIR --out DIR")
    return out


def _open(
    folder: Path, asked: Gathering, address: tuple[str, int], certificates: Path, flower: Path | None,
    processes: list[subprocess.Popen[bytes]],
) -> None:  # fmt: skip
    """Flower's server over TLS, and the relay that runs on it."""
    host, port = address
    home = (folder / "flower").resolve()
    words = ["--ssl-certfile", str(certificates / "server.pem"), "--ssl-keyfile", str(certificates / "server.key"),
             "--ssl-ca-certfile", str(certificates / "authority.pem"), "--disable-runtime-dependency-installation",
             "--host", host, "--port", str(port)]  # fmt: skip
    processes.append(started("flower-superlink", words, home, flower, folder / "flower.log"))
    _listening(host, port, processes[-1], folder / "flower.log")
    write_whole(
        home / "config.toml",
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{host}:{port}"\n'
        f'root-certificates = "{certificates / "authority.pem"}"\n'.encode(),
    )
    config = (
        f'folder="{folder.resolve()}" rounds={asked.rounds} sites={asked.sites} patience_s={float(asked.patience_s)}'
    )
    relay = relay_in(home)
    words = ["run", str(relay), "here", "--run-config", config, "--stream"]
    processes.append(started("flwr", words, home, flower, folder / "relay.log"))


def _listening(host: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + OPENING_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((host, port)) == 0:
                return
        time.sleep(PAUSE_S)
    raise FederationError(f"Flower's server did not open at {host}:{port}. {_last(log)}")


def _last(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return f"Its last line: {lines[-1][:200]}" if lines else ""


def _rounds(
    run: RunFolder, family: Family, asked: Gathering, secret: bytes, relay: subprocess.Popen[bytes], say: Say
) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    """The weights after all rounds, and what sites told of their images' grid and scales."""
    folder, recipe, stage = run.path / "federation", recipe_hash(run.recipe), stage_of(run.recipe)
    train = stage.train
    weights: Mapping[str, Tensor] = shared_weights(family, asked.plan.local)
    known: dict[str, Any] = {}
    told: Mapping[str, Any] = {}
    log: list[dict[str, Any]] = []
    for number in range(asked.rounds):
        plan = replace(
            asked.plan, round=number, rounds=asked.rounds, learning_rate=train.learning_rate,
            optimiser=train.optimiser, clip=train.clip,
        )  # fmt: skip
        plain = {
            "round": number, "rounds": asked.rounds, "steps": plan.steps, "learning_rate": plan.learning_rate,
            "optimiser": plan.optimiser, "clip": plan.clip, "proximal": plan.proximal, "local": list(plan.local),
            "recipe": recipe,
        }  # fmt: skip
        Message(plain, weights).write(folder / f"round-{number}", secret)
        _wait_for(folder / f"round-{number}.done", relay, asked, folder / "relay.log")
        answers, odd = _answers(folder / f"round-{number}", secret, plain)
        updates = [_update(m) for m in answers]
        found = combined(weights, updates, asked.least)
        weights = found.weights
        known |= {str(m.plain["site"]): m.plain for m in answers if m.plain["site"] in found.taken}
        told = _agreed(known)
        refused = {**odd, **found.refused}
        taken = [u for u in updates if u.site in found.taken]
        loss = float(np.average([u.loss for u in taken], weights=[u.count for u in taken]))
        log.append({"round": number, "taken": list(found.taken), "refused": refused, "loss": loss})
        write_whole(run.path / LOG, (json.dumps(log, indent=1) + "\n").encode())
        left = "".join(f" Left out: {site} ({why})." for site, why in refused.items())
        if not asked.plan.local:
            _write_weights(run, stage, family, weights, told, asked.rounds)
        say(f"Round {number + 1} of {asked.rounds}: {len(found.taken)} sites, loss {loss:.4g}.{left}")
    return weights, told


def _update(message: Message) -> Update:
    plain = message.plain
    return Update(str(plain["site"]), message.weights, int(plain["count"]), float(plain["loss"]))


def _wait_for(done: Path, relay: subprocess.Popen[bytes], asked: Gathering, log: Path) -> None:
    until = time.monotonic() + 2 * asked.patience_s + OPENING_S
    while not done.is_file():
        if relay.poll() is not None or time.monotonic() > until:
            raise FederationError(f"No round came back from Flower. {_last(log)}")
        time.sleep(PAUSE_S)


def _answers(folder: Path, secret: bytes, asked: Mapping[str, Any]) -> tuple[list[Message], dict[str, str]]:
    """Those that answer this question, each site once; and why others do not count."""
    found: dict[str, Message] = {}
    odd: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            message = Message.read(path, secret)
            site = str(message.plain["site"])
            if error := message.plain.get("error"):
                odd[site] = str(error)
            elif message.plain["recipe"] != asked["recipe"]:
                odd[site] = "it has another recipe"
            elif message.plain["round"] != asked["round"]:
                odd[site] = "it answered another round"
            elif missing := [key for key in TOLD if key not in message.plain]:
                odd[site] = f"its answer lacks {missing[0]}"
            elif site in found or odd.get(site) == TWICE:
                odd[site] = TWICE
                found.pop(site, None)
            else:
                found[site] = message
        except (ValueError, KeyError, TypeError) as error:
            odd[f"somebody ({path.stem[:8]})"] = str(error)
    return list(found.values()), odd


def _agreed(known: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Grid and scales of all sites as one: sizes must be the same, scales are the mean by images. Raises
    FederationError where sites show images of other grids or units.
    """
    first, *others = known.values()
    preparation = dict(first["preparation"])
    for one in others:
        if (one["reference"], one["size"]) != (first["reference"], first["size"]):
            raise FederationError(f"{one['site']} and {first['site']} show images of another kind or size.")
        if one["preparation"]["scales"].keys() != preparation["scales"].keys():
            lacking = sorted(one["preparation"]["scales"].keys() ^ preparation["scales"].keys())
            raise FederationError(f"{one['site']} and {first['site']} do not both have {', '.join(lacking)}.")
        for key in ("axes", "spacing_mm", "units", "classes"):
            if one["preparation"][key] != preparation[key]:
                raise FederationError(
                    f"{one['site']} has {key} {one['preparation'][key]}, {first['site']} {preparation[key]}."
                    " Say it in the recipe: prepare: {spacing_mm: [1, 1]}"
                )
    counts = [int(one["count"]) for one in known.values()]
    scales = [one["preparation"]["scales"] for one in known.values()]
    preparation["scales"] = {
        name: np.average([own[name] for own in scales], axis=0, weights=counts).tolist() for name in scales[0]
    }
    return {**first, "preparation": preparation, "sites": sorted(known), "count": sum(counts)}


def _settled(relay: subprocess.Popen[bytes]) -> None:
    """Until the relay has ended by itself."""
    with suppress(subprocess.TimeoutExpired):
        relay.wait(timeout=30)


def _write_weights(
    run: RunFolder, stage: Stage, family: Family, weights: Mapping[str, Tensor], told: Mapping[str, Any], total: int
) -> None:  # fmt: skip
    """As a checkpoint, finished when all rounds are: whoever stops it keeps what there is."""
    family.load_state_dict({**family.state_dict(), **weights})
    rounds = json.loads((run.path / LOG).read_text())
    facts: dict[str, Any] = {
        "stage": stage.name, "precision": PRECISION, "float32_layers": [], "batch": stage.train.batch, "device": "cpu",
        "threads": 1, "seed": run.recipe.seed, "preparation": told["preparation"], "reference": told["reference"],
        "size": told["size"], "parameters": sum(p.numel() for p in family.parameters()), "trained_on": [],
        "step": len(rounds), "total": total, "seconds": 0.0, "curve": [[r["round"] + 1, r["loss"]] for r in rounds],
        "federation": {"sites": told["sites"], "rounds": len(rounds), "images": told["count"]},
    }  # fmt: skip
    checkpoint.save(run.home(stage), checkpoint.pack(family, family, {}), facts)
