"""Verbs on the way to a clinic: prepare and send, review, trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .options import ExecutorName, Scheduler, Workers
from .terminal import FAILED, echo, errors, fail

Store = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where objects, queue and ledger lie; the user's data folder when left out."),
]


@app.command()
def deliver(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="RUN|OUT", help="A run, or what generate wrote; none: what waits or was accepted."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="WHERE", help="folder:DIR, bids:DIR, dicomweb:URL, dimse:AE@HOST:PORT, pacs.yaml"),
    ] = None,
    draw: Annotated[str, typer.Option(help="mean, all, or the number of a draw.")] = "mean",
    stage: Annotated[str | None, typer.Option(help="Which stage of a run; the last when left out.")] = None,
    source: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the files drawn from lie now.")] = None,
    identity: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A DICOM file of the patient, where sources are none.")
    ] = None,
    evidence: Annotated[
        bool, typer.Option(help="A structured report of what was measured of the model goes with each series.")
    ] = False,
    structures: Annotated[bool, typer.Option(help="Label maps go as an RT Structure Set, too: contours.")] = False,
    unreviewed: Annotated[bool, typer.Option(help="Send what nobody has accepted; it stays RESEARCH.")] = False,
    store: Store = None,
) -> None:
    """Make DICOM series of draws, marked as synthetic, and deliver them: sent, read back, compared, noted."""
    from ..deliver.delivery import deliver as send
    from ..deliver.destinations.settings import destination
    from ..deliver.outbox import Outbox
    from ..deliver.verification import verify
    from ..generate.handover import default_store, hand_over
    from ..generate.record import drawn_in

    with errors():
        outbox, place = Outbox(store or default_store()), destination(to) if to else None
        known = {s.uid: s for s in outbox.series()}
        if path is not None:
            made = hand_over(
                drawn_in(path, stage), outbox, which=draw, identity=identity, source=source, evidence=evidence,
                structures=structures, say=echo,
            )  # fmt: skip
            known = {s.uid: s for s in outbox.series() if s.uid in made}
        outbox.sign()
        if place is None:
            left = [s for s in known.values() if not s.verdict]
            echo(f"{len(left)} series wait for a decision: fabrica review, then fabrica deliver --to WHERE")
            return
        if path is None:  # what people accepted meanwhile, and nobody has sent anywhere
            known = {uid: s for uid, s in known.items() if s.verdict == "accept" and not outbox.queued(uid)}
        for series in known.values():
            if series.verdict == "reject":
                echo(f"{series.description}: rejected by {series.person} ({series.reason}); not sent.")
            elif series.verdict == "accept" or unreviewed:
                asked = series.verdict != "accept"
                verify(outbox, series.uid)
                outbox.enqueue(series.uid, place.name, parts=place.parts, unreviewed=asked)
            else:
                echo(f"{series.description}: nobody has accepted it. Type: fabrica review, or add --unreviewed")
        undecided = path is not None and not any(s.verdict == "accept" or unreviewed for s in known.values())
        if undecided and not outbox.waiting(place.name):
            raise typer.Exit(FAILED)
        if not outbox.waiting(place.name):
            echo(f"Nothing waits for {place.name}.")
            return
        waits = send(outbox, place, echo)
        outbox.sign()
        if waits:
            fail(f"{waits} instances still wait. Once it answers: fabrica deliver --to {to}", FAILED)
        echo(f"Delivered. Where each came from: fabrica trace {next(iter(known), 'UID')}")


@app.command()
def trace(
    uid: Annotated[str, typer.Argument(metavar="UID", help="Of an instance or a series.")],
    prov: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it as W3C PROV-JSON, which other programs read.")
    ] = None,
    store: Store = None,
) -> None:
    """Say where a delivered image came from: weights, recipe, seed, sources, reviewer, deliveries."""
    from ..deliver.outbox import Outbox
    from ..generate.handover import default_store

    with errors():
        lines = Outbox(store or default_store()).trace(uid)
        if not lines:
            fail(f"{uid} is not known here. Give the ledger that knows it: --store DIR")
        for line in lines:
            words = ", ".join(f"{k} {', '.join(v) if isinstance(v, list) else v}" for k, v in line.event.items())
            echo(f"{line.number}  {line.time}  {line.about}\n    {words}")
        if prov is not None:
            from ..deliver.provenance import provenance

            prov.write_text(provenance(lines).serialize(format="json", indent=1))
            echo(f"Written: {prov}")


@app.command()
def ledger(
    head: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a signed head; keep it on another machine.")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Hold the ledger against a signed head that was kept elsewhere.")
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write DICOM audit messages, one XML document a line.")
    ] = None,
    store: Store = None,
) -> None:
    """Check what was noted of every delivery, sign its end, hand it to an audit repository."""
    import json
    from dataclasses import asdict

    from ..deliver import heads
    from ..deliver.audit import messages
    from ..deliver.outbox import Outbox
    from ..generate.handover import default_store

    with errors():
        outbox = Outbox(store or default_store())
        lines = outbox.lines()
        echo(f"{len(lines)} lines; each holds the hash of the one before, and every signed head agrees.")
        if verify is not None:
            kept = heads.Head.of(verify.read_text(errors="replace"))
            heads.check_head(outbox.folder, lines, kept)
            echo(f"The head of {kept.time} ({kept.count} lines) agrees.")
        if head is not None:
            signed = outbox.sign()
            if signed is None:
                fail("The ledger is empty: there is no end to sign. Type: fabrica deliver RUN")
            head.write_text(json.dumps(asdict(signed)) + "\n")
            echo(f"Written: {head}. Keep it where nobody who can write the ledger can write.")
        if audit is not None:
            told = [message.replace(b"\n", b" ") for message in messages(lines, outbox.studies())]
            audit.write_bytes(b"".join(one + b"\n" for one in told))
            echo(f"Written: {len(told)} messages in {audit}")


@app.command()
def outbox(
    database: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="postgresql://USER@HOST/DATABASE: move its rows there, for good."),
    ] = None,
    store: Store = None,
) -> None:
    """Say what is prepared, decided and on its way; move queue and ledger to PostgreSQL, for several machines."""
    from collections import Counter

    from ..deliver.outbox import Outbox
    from ..deliver.rows import holds_rows, move
    from ..generate.handover import default_store

    with errors():
        folder = store or default_store()
        if database is not None:
            echo(f"Moved: {move(folder, database)} lines of the ledger, and what they tell of.")
        if not holds_rows(folder):
            fail(
                f"{folder} holds no outbox. Name the folder of fabrica deliver --store, or prepare: fabrica deliver RUN"
            )
        box = Outbox(folder)
        words = {"accept": "accepted", "reject": "rejected", "": "undecided"}
        counts = Counter(words[one.verdict] for one in box.series())
        told = ", ".join(f"{counts[word]} {word}" for word in words.values())
        echo(f"{counts.total()} series: {told}")
        for to, left in sorted(box.backlog().items()):
            echo(f"  {to}: {left} instances wait" if left else f"  {to}: all has arrived")
        echo(f"{len(box.lines())} lines of the ledger, checked; rows lie {box.whereabouts}.")


@app.command()
def review(
    store: Store = None,
    port: Annotated[int, typer.Option(help="On this machine alone; 0 takes a free one.")] = 8765,
    readers: Annotated[
        int | None, typer.Option(help="How many persons have to accept a series; kept for all that follow.")
    ] = None,
) -> None:
    """Open the page on which a person looks at prepared series beside their source, and accepts or rejects them."""
    from ..deliver.outbox import Outbox
    from ..generate.handover import default_store

    with errors():
        try:
            from ..serve.review import serve
        except ImportError as error:
            fail(f'The page needs the extra: pip install -e ".[clinic]" -c constraints.txt ({error.name} is missing)')
        if readers is not None:
            Outbox(store or default_store()).ask_readers(readers)
        serve(store or default_store(), port, echo)


@app.command()
def deidentify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="DICOM files, at any depth.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where they are written.")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="Decides names, UIDs and days; made where there is none.")],
    dates: Annotated[str, typer.Option(help="remove, shift (by days of each patient's own) or keep.")] = "remove",
    keep: Annotated[list[str] | None, typer.Option(help="uids, device, institution or characteristics.")] = None,
    descriptors: Annotated[
        bool, typer.Option(help="Keep words of descriptions that name no one, so that contrasts are still known.")
    ] = False,
    faces: Annotated[str, typer.Option(help="keep, or remove: out of the pixels of heads in CT, MR and PET.")] = "keep",
    burned_in: Annotated[bool, typer.Option(help="Let files through whose pixels may hold words.")] = False,
    executor: ExecutorName = "local",
    scheduler: Scheduler = None,
    workers: Workers = 2,
) -> None:
    """Take identifiers out of DICOM files, by the table of the standard (PS3.15 Annex E)."""
    from ..deliver.deidentification.engine import Deidentifier
    from ..deliver.deidentification.folder import Hands, deidentified, key_of
    from ..deliver.deidentification.profile import Options
    from ..machine.executors import executor as named

    with errors():
        if not folder.is_dir():
            fail(f"There is no folder {folder}.")
        if faces not in ("keep", "remove"):
            fail(f"--faces {faces} is none. Write keep or remove.")
        options = Options(frozenset(keep or ()), dates, descriptors, faces == "remove")  # type: ignore[arg-type]
        by = Deidentifier(key_of(key, echo), options, burned_in)
        alone = executor == "local" and scheduler is None
        found = deidentified(folder, out, by, echo, None if alone else Hands(named(executor, scheduler, workers), key))
        if found.refused:
            raise typer.Exit(FAILED)


@app.command()
def serve(
    rules: Annotated[Path, typer.Argument(metavar="RULES", help="rules.yaml: which run is asked of which series.")],
    caller: Annotated[list[str], typer.Option(metavar="AE", help="Who may send; may be said again.")],
    port: Annotated[int, typer.Option(help="Where images are taken in; 0 takes a free one.")] = 11112,
    title: Annotated[str, typer.Option(metavar="AE", help="Its own name.")] = "FABRICA",
    address: Annotated[str, typer.Option(help="Where it listens; beyond this machine only with --tls.")] = "127.0.0.1",
    tls: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Holds ca.crt, node.crt and node.key: both sides show theirs.")
    ] = None,
    page: Annotated[int, typer.Option(help="Port of review page, STOW-RS, /metrics; 0 is a free one.")] = 8765,
    quiet: Annotated[float, typer.Option(help="Seconds without another image, then a series is whole.")] = 10.0,
    store: Store = None,
) -> None:
    """Be a DICOM node: take studies in, answer them by rule, hold what was drawn until it is accepted, deliver it."""
    from ..deliver.destinations.dimse import Certificates
    from ..generate.handover import default_store

    with errors():
        try:
            from ..serve.running import run_node
            from ..serve.storage import Door
        except ImportError as error:
            fail(f'The node needs the extra: pip install -e ".[clinic]" -c constraints.txt ({error.name} is missing)')
        shown = None if tls is None else Certificates(tls / "ca.crt", tls / "node.crt", tls / "node.key")
        run_node(rules, Door(title, port, caller, address, shown), store or default_store(), page, quiet, echo)


@app.command()
def card(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where they are written, else RUN/cards.")] = None,
    stage: Annotated[str | None, typer.Option(help="Which stage; the last when left out.")] = None,
) -> None:
    """Write model card, data sheet, evidence tables and bills of material: measured and hashed, or NOT MEASURED."""
    from ..deliver.cards import Dossier, write_cards

    with errors():
        for path in write_cards(Dossier.of(run, stage), out or run / "cards"):
            echo(str(path))


@app.command()
def models(
    registry: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that says which models may be used.")],
    approve: Annotated[Path | None, typer.Option(metavar="RUN", help="Approve the model of a run.")] = None,
    retire: Annotated[Path | None, typer.Option(metavar="RUN", help="Retire it.")] = None,
    by: Annotated[str, typer.Option(metavar="NAME", help="Who decides.")] = "",
    reason: Annotated[str, typer.Option(metavar="WHY", help="Why; it stays.")] = "",
    stage: Annotated[str | None, typer.Option(help="Which stage draws; the last when left out.")] = None,
) -> None:
    """Which models are approved, by whom and why: a signed list that generate --registry DIR obeys."""
    from ..audit.models import decide
    from ..deliver.approvals import Approvals

    with errors():
        known = Approvals(registry)
        if approve is not None and retire is not None:
            fail("Approve or retire, one at a time.")
        if (run := approve or retire) is not None:
            decide(known, run, "approved" if approve else "retired", by, reason, stage)
        for one in known.decisions:
            standing = "" if known.last(one.weights) is one else " (no longer)"
            echo(f"{one.time} {one.state}{standing}: {one.run}, weights {one.weights[:12]}, by {one.by}: {one.reason}")
        current = known.current()
        echo(f"In use: {current.run}" if current else "No model is approved.")
