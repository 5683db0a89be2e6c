"""A site of a federation: it learns on its own images whenever it is asked, and sends weights alone."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..contracts import Family
from ..data.prepare import plain_preparation
from ..data.store import Loader
from ..evaluate.report.results import Report
from ..learning import checkpoint
from ..learning.federation import FederationError, LocalPlan, local_round, shared_weights, take_over
from ..learning.gradients import TrainingError
from ..recipe.values import Recipe
from ..rng import derive
from ..run.folder import RunFolder
from ..run.prepare import prepare_stage
from ..run.sequence import found_cohorts
from ..run.stage import PreparedStage
from .flower import AUTHORITY, ended, make_certificates, secret_in, started
from .messages import Message, recipe_hash
from .stages import PRECISION, first_family, stage_of

Say = Callable[[str], None]
PAUSE_S = 0.2
WAIT_S = 300  # of a site whose server does not answer, before it ends
BATCH = 8


@dataclass
class Site:
    """Its name, its images as the recipe prepares them, and the model between rounds (local heads live here)."""

    name: str
    ready: PreparedStage
    family: Family
    loader: Loader
    recipe: str
    secret: bytes

    @staticmethod
    def of(recipe: Recipe, work: Path, certificates: Path, name: str, say: Say) -> Site:
        """Reads and prepares the site's images; raises ValueError and UnreadableError as a run does."""
        stage, secret = stage_of(recipe), secret_in(certificates)
        run = RunFolder(work / "run", recipe)
        ready = prepare_stage(
            run, stage, found_cohorts(recipe), work / "store", say, Report.start(recipe.plain(), name)
        )
        seed = derive(recipe.seed, "site", name)
        layout = replace(ready.layout, augment=stage.train.augment)
        loader = ready.loader(layout, stage.train.batch or BATCH, seed)
        return Site(name, ready, first_family(recipe, stage), loader, recipe_hash(recipe), secret)

    def answer(self, asked: Message) -> Message:
        """A round of learning; what went wrong is an answer, too."""
        plain: dict[str, Any] = {"site": self.name, "recipe": self.recipe, "round": asked.plain["round"]}
        try:
            if asked.plain["recipe"] != self.recipe:
                raise FederationError("The server has another recipe than this site. Use the same file.")
            plan = LocalPlan(
                int(asked.plain["steps"]), int(asked.plain["round"]), int(asked.plain["rounds"]),
                asked.plain["learning_rate"], asked.plain["optimiser"], float(asked.plain["clip"]),
                float(asked.plain["proximal"]),
                tuple(asked.plain["local"]),
            )  # fmt: skip
            take_over(self.family, asked.weights, plan.local)
            loss = local_round(self.family, self.ready.stage.training_job(), self.loader, plan)
        except (FederationError, TrainingError, ValueError) as error:
            return Message({**plain, "error": str(error)}, {})
        if plan.local and plan.round + 1 == plan.rounds:
            self.keep()
        told = {
            "count": len(self.loader.places), "loss": loss, "preparation": plain_preparation(self.ready.preparation),
            "reference": self.ready.reference, "size": list(self.ready.layout.size),
        }  # fmt: skip
        return Message({**plain, **told}, shared_weights(self.family, plan.local))

    def keep(self) -> None:
        """The site's own model, heads included, as a run that draws: in its working folder."""
        self.ready.run.write_recipe()
        facts: dict[str, Any] = {
            "stage": self.ready.name, "precision": PRECISION, "float32_layers": [], "batch": self.loader.batch,
            "device": "cpu", "threads": 1, "seed": self.ready.seed, "trained_on": [], "curve": [],
            "preparation": plain_preparation(self.ready.preparation), "reference": self.ready.reference,
            "size": list(self.ready.layout.size), "step": 1, "total": 1, "seconds": 0.0,
        }  # fmt: skip
        checkpoint.save(self.ready.home, checkpoint.pack(self.family, self.family, {}), facts)


def join(site: Site, server: str, certificates: Path, work: Path, say: Say, flower: Path | None = None) -> int:
    """Answer until the server ends; returns the number of rounds. Raises FederationError where it was never there."""
    asks = work / "asks"
    asks.mkdir(parents=True, exist_ok=True)
    own = work / "own"
    if not (own / AUTHORITY).is_file():
        make_certificates(own, "127.0.0.1")
    words = [
        "--root-certificates", str((certificates / AUTHORITY).resolve()), "--superlink", server,
        "--host", "127.0.0.1", "--port", str(_free_port()), "--max-wait-time", str(WAIT_S),
        "--ssl-certfile", str((own / "server.pem").resolve()), "--ssl-keyfile", str((own / "server.key").resolve()),
        "--ssl-ca-certfile", str((own / AUTHORITY).resolve()), "--node-config", f'work="{asks.resolve()}"',
    ]  # fmt: skip
    log = work / "flower.log"
    node = started("flower-supernode", words, (work / "flower").resolve(), flower, log)
    try:
        return _answered(site, asks, server, node, say)
    finally:
        ended([node])


def _answered(site: Site, asks: Path, server: str, node: subprocess.Popen[bytes], say: Say) -> int:
    done, last = 0, False
    while node.poll() is None and not (last and _closed(server)):
        for path in sorted(asks.glob("ask-*.json")):
            target = asks / path.name.replace("ask-", "answer-")
            try:
                asked = Message.read(path, site.secret)
            except ValueError as error:
                say(f"A question was not answered: {error}.")
                path.unlink()
                continue
            answer = site.answer(asked)
            answer.write(target, site.secret)
            for used in (path, path.with_suffix(".bin")):
                used.unlink()
            said = answer.plain.get("error") or f"loss {answer.plain['loss']:.4g}"
            done, last = done + 1, asked.plain["round"] + 1 == asked.plain["rounds"]
            say(f"Round {asked.plain['round'] + 1} of {asked.plain['rounds']}: {said}.")
        time.sleep(PAUSE_S)
    if not done:
        raise FederationError(f"No server asked {site.name} anything. See {asks.parent / 'flower.log'}")
    say("The server has ended." if last else "The server is gone before the last round.")
    return done


def _closed(server: str) -> bool:
    """Whether nobody listens there any more."""
    host, _, port = server.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((host, int(port))) != 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
