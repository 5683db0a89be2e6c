"""What Flower runs, in an environment of its own: weights from a folder to the sites, their answers into the folder.

It knows nothing of models. A folder on the server has `round-N.json` and `.bin`, and gets `round-N/ANSWER.json` and
`.bin`, then `round-N.done`; a folder of a site gets `ask-ID` and gives `answer-ID`.
"""

import json
import time
import uuid
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

server = ServerApp()
client = ClientApp()
PAUSE_S = 0.1


@server.main()  # type: ignore[untyped-decorator]
def relay(grid: Grid, context: Context) -> None:
    """Round by round, until the folder says that there are no more."""
    config = context.run_config
    folder, patience = Path(str(config["folder"])), float(config["patience_s"])
    _joined(grid, int(config["sites"]), patience)
    for number in range(int(config["rounds"])):
        ask = folder / f"round-{number}.json"
        while not ask.is_file():
            if (folder / "stopped").is_file():
                return
            time.sleep(PAUSE_S)
        content = RecordDict({"ask": _record(ask)})
        nodes = list(grid.get_node_ids())
        asked = [Message(content=content, message_type="train", dst_node_id=node) for node in nodes]
        answers = folder / f"round-{number}"
        answers.mkdir(exist_ok=True)
        for reply in grid.send_and_receive(asked, timeout=patience):
            if reply.has_error() or not reply.has_content() or "answer" not in reply.content:
                continue  # a site that failed says so on its own machine; who is none answers nothing
            try:
                record = reply.content["answer"]
                plain, weights, name = str(record["plain"]), bytes(record["weights"]), uuid.uuid4().hex
            except (KeyError, TypeError):
                continue
            (answers / f"{name}.bin").write_bytes(weights)
            (answers / f"{name}.json").write_text(plain)
        (folder / f"round-{number}.done").write_text(str(len(nodes)))


def _joined(grid: Grid, sites: int, patience: float) -> None:
    """Until so many sites are there, or nobody else is waited for."""
    until = time.monotonic() + patience
    while len(list(grid.get_node_ids())) < sites and time.monotonic() < until:
        time.sleep(PAUSE_S)


@client.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:
    """Hand the question to the site's own process, and wait for what it answers."""
    work, patience = Path(str(context.node_config["work"])), float(context.node_config.get("patience_s", 3600))
    name, record = uuid.uuid4().hex, message.content["ask"]
    (work / f"ask-{name}.bin").write_bytes(record["weights"])
    (work / f"ask-{name}.part").write_text(json.dumps(json.loads(record["plain"])))
    (work / f"ask-{name}.part").rename(work / f"ask-{name}.json")
    answer, until = work / f"answer-{name}.json", time.monotonic() + patience
    while not answer.is_file():
        if time.monotonic() > until:
            raise TimeoutError("the site's own process gives no answer")
        time.sleep(PAUSE_S)
    return Message(content=RecordDict({"answer": _record(answer)}), reply_to=message)


def _record(path: Path) -> ConfigRecord:
    return ConfigRecord({"plain": path.read_text(), "weights": path.with_suffix(".bin").read_bytes()})
