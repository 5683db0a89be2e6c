"""Delivery: objects under two validators, speed beside DCMTK, a node under load, mutated files at its door.

    python benchmarks/delivery.py [--series 1000] [--data DIR] [--fuzz 30] [--only conformance] [--work runs/delivery]

Conformance: generated series of every geometry, kind and unit, and with --data (the folder of real scans) every CT, MR and PET of `dicom_samples` as a source: `dciodvfy` on each file
(its one allowed line is the attribute that its tables of 2022 do not know), the tables of the standard for attributes of type 1 and 2, places and values read back by `fabrica`.
Speed: the same bytes written with fsync, sent by DCMTK's `storescu` to the same Orthanc. Node: 200 studies by 8 senders at once, an archive that is away and returns.
Fuzzing: --fuzz minutes of mutated DICOM files and multipart bodies. Peers: `make peers`. A finished part is not run again.
"""  # fmt: skip

from __future__ import annotations

import argparse
import io
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from sets import machine, resumed

sys.path.insert(0, str(Path(__file__).parent.parent))

from fabrica.contracts import Field, Image
from fabrica.deliver.delivery import deliver
from fabrica.deliver.destinations.settings import destination
from fabrica.deliver.objects.dose import planned_dose
from fabrica.deliver.objects.images import derived_series
from fabrica.deliver.objects.marking import Making
from fabrica.deliver.objects.parametric_map import spread_map
from fabrica.deliver.objects.segmentation import segmentation
from fabrica.deliver.objects.source import read_headers
from fabrica.deliver.outbox import Outbox
from fabrica.deliver.reading import stored_image
from fabrica.deliver.record import Drawn, Record
from fabrica.deliver.rows import move
from fabrica.serve.intake import Intake
from fabrica.serve.storage import Door, listening
from fabrica.serve.stow import answer, parts_of
from tests.deliver.conftest import started
from tests.deliver.iod import missing
from tests.deliver.scanner import head, write_series
from tests.deliver.test_objects import GRIDS, _affine
from tests.servers import running

RESULTS = Path(__file__).parent / "results"
UNITS = {"CT": "HU", "MR": "", "PET": "SUV"}
PARTS = {"conformance": None, "speed": None, "rows": None, "node": None, "fuzzing": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--fuzz", type=float, default=30.0, help="minutes")
    parser.add_argument("--only", default="", help="one part")
    parser.add_argument("--work", type=Path, default=Path("runs/delivery"))
    options = parser.parse_args()
    measures = {"conformance": conformance, "speed": speed, "rows": rows, "node": node, "fuzzing": fuzzing}
    write(
        resumed(RESULTS / "delivery.json", options.work, PARTS, options.only, lambda name, _: measures[name](options))
    )


def record(folder: Path, drawn: Drawn) -> Record:
    return Record(
        folder,
        "run",
        "stage",
        "translation",
        "flow",
        "ab" * 32,
        "cd" * 32,
        3,
        "0.1.0",
        "2026-01-02T10:11:12+00:00",
        (drawn,),
    )


def validated(ds: Any, folder: Path) -> tuple[int, int]:
    """(Error lines beyond the allowed one, attributes of type 1 or 2 that are missing)."""
    path = folder / "one.dcm"
    ds.save_as(path, enforce_file_format=True)
    found = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
    errors = [e for e in found.stderr.splitlines() if e.startswith("Error") and "(0008,001c)" not in e]
    return len(errors) + (found.returncode != 0), len(missing(pydicom.dcmread(path)))


def made(number: int, headers: list[Any], folder: Path) -> tuple[str, Any, Image, float]:
    """(kind, series, what it was made of, step of its values): geometry, kind and unit turn by turn, values by chance."""
    grid = GRIDS[number % len(GRIDS)]
    kind = ("CT", "MR", "PET", "spread", "segments", "dose")[number // len(GRIDS) % 6]
    rng = np.random.default_rng(number)
    affine = _affine(grid)
    affine[:3, 3] += rng.normal(0, 50, 3)
    affine[:3, :3] *= rng.uniform(0.4, 2.0)
    depth, moments = (1, 1) if grid == "single slice" else (int(rng.integers(2, 6)), 1)
    values = torch.from_numpy(rng.normal(300, 700, (moments, depth, 20, 24)).astype(np.float32))
    unit = UNITS.get(kind, "Gy" if kind == "dose" else "HU")
    if kind in ("MR", "PET", "dose"):
        values = values.abs() / 30
    image = Image(values, "zyx", torch.from_numpy(affine), Field(kind, "intensity", 1, unit))
    drawn = Drawn(f"case{number}", kind, unit, "intensity", ("a", "b"), ("1", "2"), ("T1w",))
    making = Making(record(folder, drawn), drawn, headers)
    if kind == "segments":
        labels = (image.data > 500).float() + (image.data > 900).float()
        drawn = replace(drawn, kind="label", unit="", contrast="lesion", classes=3)
        return (
            kind,
            segmentation(Making(making.record, drawn, headers), labels[0].numpy(), affine, classes=3),
            replace(image, data=labels),
            0,
        )
    if kind == "dose":
        return kind, planned_dose(making, image.data[0].numpy(), affine), image, float(values.max()) / 65535
    series = derived_series(Making(making.record, drawn, headers), image)
    if kind == "spread":
        return (
            kind,
            spread_map(making, image.data[0].abs().numpy(), series),
            replace(image, data=image.data.abs()),
            1e-6 * float(values.abs().max()),
        )
    factor = 2.0 ** np.floor(np.log2(32767 / float(values.max()))) if kind == "MR" else 1
    step = {"CT": 1.0, "MR": 1.0, "PET": float(values.max()) / 32767}[kind]
    return kind, series, replace(image, data=image.data * factor), step


def conformance(options: argparse.Namespace) -> dict[str, Any]:
    began, kinds, wrong = time.perf_counter(), Counter[str](), Counter[str]()
    worst = {"affine_mm": 0.0, "steps": 0.0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        headers = read_headers(write_series(folder / "source", *head()))
        number = 0
        while sum(kinds.values()) < options.series:
            try:
                kind, series, image, step = made(number, headers, folder)
            except ValueError as error:
                if "tilted" not in str(error):
                    raise
                wrong["dose on tilted planes, refused by name"] += 1
                number += 1
                continue
            kinds[kind] += 1
            for ds in series.datasets:
                errors, gaps = validated(ds, folder)
                wrong["files"] += 1
                wrong["dciodvfy errors"] += errors
                wrong["type 1 or 2 missing"] += gaps
            held(series, image, step, folder / "back", worst)
            number += 1
        real = samples(options.data, folder) if options.data else {}
    return {
        "machine": machine(),
        "kinds": dict(kinds),
        "counts": dict(wrong),
        "worst": worst,
        "real": real,
        "seconds": time.perf_counter() - began,
    }


def held(series: Any, image: Image, step: float, folder: Path, worst: dict[str, float]) -> None:
    """Read back: places and values beside what was drawn."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    files = []
    for k, ds in enumerate(series.datasets):
        files.append(folder / f"{k}.dcm")
        ds.save_as(files[-1], enforce_file_format=True)
    back = stored_image(files)
    assert back is not None
    data, affine, ours = back.data, back.affine.numpy().copy(), image.affine.numpy()
    if data.shape[1] > 1 and affine[:3, 0] @ ours[:3, 0] < 0:
        data = data.flip(1)
        affine[:3, 3] += affine[:3, 0] * (data.shape[1] - 1)
        affine[:3, 0] *= -1
    columns = slice(0 if data.shape[1] > 1 else 1, 4)
    worst["affine_mm"] = max(worst["affine_mm"], float(np.abs(affine[:, columns] - ours[:, columns]).max()))
    if step:
        worst["steps"] = max(worst["steps"], float((data - image.data).abs().max()) / step)
    else:
        assert torch.equal(data, image.data)


def samples(data: Path, folder: Path) -> dict[str, Any]:
    """Every CT, MR and PET that can be read as the source of a derived series on its own planes."""
    found, refused = Counter[str](), Counter[str]()
    for path in sorted((data / "dicom_samples").rglob("*")):
        if not path.is_file():
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except pydicom.errors.InvalidDicomError:
            continue
        if header.get("Modality") not in ("CT", "MR", "PT"):
            continue
        try:
            headers = read_headers([path])
            image = stored_image([path])
            if image is None:
                raise ValueError("its planes cannot be read as one series")
            unit = image.meaning.unit if image.meaning.unit in ("HU", "SUV", "Bq/ml") else ""
            drawn = Drawn("case", str(header.Modality), unit, "intensity", ("a",), ("1",), ("T1w",))
            values = image.data[:1].clamp(min=0) if unit == "" else image.data[:1]
            series = derived_series(Making(record(folder, drawn), drawn, headers), replace(image, data=values))
        except Exception as error:  # named below
            refused[f"{path.name}: {str(error).split(str(path))[-1].lstrip(': ')[:80]}"] += 1
            continue
        for ds in series.datasets:
            errors, gaps = validated(ds, folder)
            found["files"] += 1
            found["dciodvfy errors"] += errors
            found["type 1 or 2 missing"] += gaps
        found["series"] += 1
    return {"found": dict(found), "refused": dict(refused)}


def large_series(folder: Path, slices: int = 100, side: int = 512) -> Any:
    headers = read_headers(write_series(folder / "source", *head()))
    drawn = Drawn("large", "CT", "HU", "intensity", ("a",), ("1",), ("T1w",))
    values = torch.randn(1, slices, side, side, generator=torch.Generator().manual_seed(0)) * 300
    image = Image(values, "zyx", torch.from_numpy(_affine("axial")), Field("CT", "intensity", 1, "HU"))
    return derived_series(Making(record(folder, drawn), drawn, headers), image)


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """A series of 100 planes of 512 x 512 (50 MiB): into the outbox, and to Orthanc."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        series = large_series(folder)
        outbox = Outbox(folder / "outbox")
        written, plain, encoded = [], [], []
        for _ in range(3):  # interleaved
            blobs, began = [], time.perf_counter()
            for ds in series.datasets:
                buffer = io.BytesIO()
                ds.save_as(buffer, enforce_file_format=True)
                blobs.append(buffer.getvalue())
            encoded.append(time.perf_counter() - began)
            (folder / "plain").mkdir(exist_ok=True)
            began = time.perf_counter()
            for k, blob in enumerate(blobs):
                with (folder / "plain" / f"{k}.dcm").open("wb") as file:
                    file.write(blob)
                    file.flush()
                    os.fsync(file.fileno())
            plain.append(time.perf_counter() - began)
            fresh = Outbox(folder / f"outbox{len(written)}")
            began = time.perf_counter()
            fresh.add(series, [], {})
            written.append(time.perf_counter() - began)
        outbox.add(series, [], {})
        files, megabytes = outbox.files(series.uid), sum(p.stat().st_size for p in outbox.files(series.uid)) / 2**20
        sent = {}
        for way in ("dimse", "dicomweb"):
            (folder / way).mkdir()
            with started(folder / way) as archive:
                to = destination(archive.node if way == "dimse" else archive.web)
                began = time.perf_counter()
                assert not to.store(files)
                stored = time.perf_counter() - began
                began = time.perf_counter()
                assert len(to.arrived({p.stem: p for p in files}, [p.stem for p in files])) == len(files)
                sent[way] = {"store_s": stored, "read_back_s": time.perf_counter() - began}
        (folder / "peer").mkdir()
        with started(folder / "peer") as archive:
            began = time.perf_counter()
            subprocess.run(
                ["storescu", "-aet", "FABRICA", "-aec", "TESTPACS", "127.0.0.1", str(archive.dicom), *map(str, files)],
                check=True,
            )
            sent["storescu"] = {"store_s": time.perf_counter() - began}
    return {
        "machine": machine(),
        "MiB": megabytes,
        "files": len(files),
        "written_s": min(written),
        "plain_s": min(plain),
        "encoded_s": min(encoded),
        "sent": sent,
    }


def rows(options: argparse.Namespace) -> dict[str, Any]:
    """200 series of 10 images, queued, sent and noted as delivered by 20 at once: rows in a file, and at a server."""
    with tempfile.TemporaryDirectory() as name, running(fsync=True) as server:
        folder, found = Path(name), dict[str, dict[str, float]]()
        write_series(folder / "scan", *head(planes=(15, 16)))
        headers = read_headers(sorted((folder / "scan").glob("*.dcm"))[:1])
        image = Image(
            torch.zeros(1, 10, 16, 16), "zyx", torch.eye(4, dtype=torch.float64), Field("CT", "intensity", 1, "HU")
        )
        series = []
        for k in range(200):
            drawn = Drawn(f"case{k}", "CT", "HU", "intensity", ("a",), ("1",), ("T1w",))
            series.append(derived_series(Making(record(folder, drawn), drawn, headers), image))
        for where in ("file", "server"):
            outbox = Outbox(folder / where)
            if where == "server":
                move(outbox.folder, f"{server}/postgres")
                outbox = Outbox(outbox.folder)
            clock = [time.perf_counter()]
            for one in series:
                outbox.add(one, [], {})
            clock.append(time.perf_counter())
            for one in series:
                outbox.enqueue(one.uid, "there", unreviewed=True)
            waiting = [one.instance for one in outbox.waiting("there")]
            for k in range(0, len(waiting), 20):
                outbox.delivered("there", outbox.attempted("there", waiting[k : k + 20]), "seen")
            clock.append(time.perf_counter())
            assert outbox.backlog() == {"there": 0}
            assert len(outbox.lines()) == 4000
            clock.append(time.perf_counter())
            found[where] = dict(
                zip(("prepared", "queued and delivered", "ledger checked"), np.diff(clock), strict=True)
            )
    return {"machine": machine(), "images": len(waiting), "seconds": found}


def node(options: argparse.Namespace) -> dict[str, Any]:
    """200 studies of 10 images by 8 senders at once; then the outbox against an archive that is away and returns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        volume, affine = head(planes=(15, 25))
        for k in range(200):
            write_series(folder / "scans" / str(k), volume, affine, PatientID=f"P{k:03d}")
        intake, statuses = Intake(folder / "node"), Counter[int]()
        with listening(Door("FABRICA", 0, ["SCANNER"]), intake, lambda _: None) as port:
            began = time.perf_counter()

            def send(part: int) -> None:
                for k in range(part, 200, 8):
                    files = [str(p) for p in sorted((folder / "scans" / str(k)).glob("*.dcm"))]
                    statuses[
                        subprocess.run(
                            ["storescu", "-aet", "SCANNER", "-aec", "FABRICA", "127.0.0.1", str(port), *files],
                            check=False,
                        ).returncode
                    ] += 1

            threads = [threading.Thread(target=send, args=(part,)) for part in range(8)]
            for one in threads:
                one.start()
            for one in threads:
                one.join()
            seconds = time.perf_counter() - began
        arrived = intake.series()
        whole = sum(len(intake.files(one)) for one in arrived)
        outbox, headers = Outbox(folder / "outbox"), read_headers([folder / "scans" / "0" / "000.dcm"])
        for k in range(20):
            drawn = Drawn(f"case{k}", "CT", "HU", "intensity", ("a",), ("1",), ("T1w",))
            image = Image(
                torch.full((1, 5, 64, 64), float(k)),
                "zyx",
                torch.from_numpy(_affine("axial")),
                Field("CT", "intensity", 1, "HU"),
            )
            series = derived_series(Making(record(folder, drawn), drawn, headers), image)
            outbox.add(series, [], {})
        (folder / "orthanc").mkdir()
        left = []
        with started(folder / "orthanc") as archive:
            to = destination(archive.node)
            for one in outbox.series():
                outbox.enqueue(one.uid, to.name, unreviewed=True)
            waiting = outbox.waiting(to.name)
        left.append(deliver(outbox, to, lambda _: None, tries=1))  # it is away
        away = left[0]
        with started(folder / "orthanc") as archive:  # it returns, at another port, with what it had
            back = destination(archive.node)
            for one in outbox.series():
                outbox.enqueue(one.uid, back.name, unreviewed=True)
            left.append(deliver(outbox, back, lambda _: None))
            there = len(archive.ask("/instances"))
    return {
        "machine": machine(), "studies": len(arrived), "images_acknowledged": 10 * statuses[0], "images_on_disk_unchanged": whole, "senders": 8,
        "seconds": seconds, "waiting_while_away": away, "of": len(waiting), "left_when_back": left[1], "in_the_archive": there,
    }  # fmt: skip


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A file with bytes changed, cut, doubled or lengths made absurd."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if len(data) < 16:
            break
        kind, at = rng.randrange(5), rng.randrange(len(data) - 8)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randrange(1, 64)]
        elif kind == 2:
            data[at:at] = data[at : at + rng.randrange(1, 256)]
        elif kind == 3:
            data[at : at + 4] = rng.choice(
                (b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\x00\x00\x00\x00", b"\xfe\xff\x00\xe0")
            )
        else:
            data = data[: max(1, at)]
    return bytes(data)


def fuzzing(options: argparse.Namespace) -> dict[str, Any]:
    """What a stranger's bytes do to the intake: nothing but an answer."""
    rng, outcomes = random.Random(0), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seeds = [p.read_bytes() for p in write_series(folder / "scan", *head())[:2]]
        for path in sorted((options.data / "dicom_samples").rglob("*")) if options.data else []:
            if path.is_file() and path.stat().st_size < 200_000:
                seeds.append(path.read_bytes())
        intake, outside = Intake(folder / "node"), set(folder.iterdir())
        began, tried, longest = time.perf_counter(), 0, 0.0
        while time.perf_counter() - began < 60 * options.fuzz:
            content = mutated(rng.choice(seeds), rng)
            if rng.random() < 0.2:
                content = mutated(b"--edge\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--edge--", rng)
            start = time.perf_counter()
            try:
                said = answer(
                    intake,
                    parts_of(content, "edge") if content.startswith(b"--edge") else iter([content]),
                    lambda _: None,
                )
                outcomes[str(said.status_code)] += 1
            except Exception as error:
                outcomes[f"{type(error).__name__} {getattr(error, 'status_code', '')}".strip()] += 1
            longest, tried = max(longest, time.perf_counter() - start), tried + 1
        strange = set(folder.iterdir()) - outside - {folder / "node"}
    return {
        "machine": machine(), "minutes": options.fuzz, "tried": tried, "seeds": len(seeds), "outcomes": dict(outcomes), "longest_s": longest,
        "files_outside": len(strange), "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def write(parts: dict[str, Any]) -> None:
    lines = ["# Delivery", "", (__doc__ or "").strip(), ""]
    if (c := parts.get("conformance")) is not None:
        lines += [
            "## Conformance",
            "",
            f"{c['machine']}, {c['seconds']:.0f} s.",
            "",
            "| what | figure | asked |",
            "|---|---|---|",
        ]
        lines += [
            f"| series ({', '.join(f'{n} {k}' for k, n in c['kinds'].items())}) | {sum(c['kinds'].values())} | 1,000 |"
        ]
        lines += [
            f"| {name} | {count} | {0 if 'err' in name or 'miss' in name else ''} |"
            for name, count in c["counts"].items()
        ]
        lines += [
            f"| affine, largest difference | {c['worst']['affine_mm']:.2g} mm | 1e-3 mm |",
            f"| values, largest difference | {c['worst']['steps']:.3f} steps | 0.5 |",
        ]
        if c["real"]:
            lines += [
                f"| real sources: {name} | {count} | {0 if 'err' in name or 'miss' in name else ''} |"
                for name, count in c["real"]["found"].items()
            ]
            lines += [f"| real source refused: {why} | {count} |  |" for why, count in c["real"]["refused"].items()]
        lines.append("")
    if (s := parts.get("speed")) is not None:
        peer = s["sent"]["storescu"]["store_s"]
        lines += [
            "## Speed",
            "",
            f"{s['machine']}; {s['files']} files of {s['MiB'] / s['files']:.2f} MiB.",
            "",
            "| what | seconds | ratio | asked |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| into the outbox, with hashes and ledger | {s['written_s']:.2f} | {s['written_s'] / s['plain_s']:.2f} of the same bytes with fsync | 1.5 |"
        ]
        rest = s["written_s"] - s["encoded_s"]
        lines += [
            f"| of it: encoding by pydicom | {s['encoded_s']:.2f} |  |  |",
            f"| of it: hashes, files, rows, ledger | {rest:.2f} | {rest / s['plain_s']:.2f} of the same bytes with fsync |  |",
            f"| the same bytes with fsync | {s['plain_s']:.2f} |  |  |",
            f"| `storescu` to Orthanc | {peer:.2f} |  |  |",
        ]
        for way, found in s["sent"].items():
            if way != "storescu":
                lines += [
                    f"| {way} to Orthanc | {found['store_s']:.2f} | {found['store_s'] / peer:.2f} of `storescu` |  |",
                    f"| read back by {way} and compared | {found['read_back_s']:.2f} |  |  |",
                ]
        lines.append("")
    if (r := parts.get("rows")) is not None:
        lines += ["## Rows of the outbox", "", f"{r['machine']}; {r['images']:,} images.", ""]
        lines += ["| what | SQLite, s | PostgreSQL, s | ratio |", "|---|---|---|---|"]
        for what, seconds in r["seconds"]["file"].items():
            there = r["seconds"]["server"][what]
            lines.append(f"| {what} | {seconds:.2f} | {there:.2f} | {there / seconds:.2f} |")
        lines.append("")
    if (n := parts.get("node")) is not None:
        lines += ["## Node", "", n["machine"] + ".", "", "| what | figure |", "|---|---|"]
        lines += [
            f"| {name.replace('_', ' ')} | {value if isinstance(value, int) else f'{value:.1f}'} |"
            for name, value in n.items()
            if name != "machine"
        ]
        lines += [f"| images a second, acknowledged when on disk | {n['images_acknowledged'] / n['seconds']:.0f} |", ""]
    if (f := parts.get("fuzzing")) is not None:
        lines += ["## Fuzzing of the intake", "", f["machine"] + ".", "", "| what | figure |", "|---|---|"]
        lines += [
            f"| {name.replace('_', ' ')} | {', '.join(f'{k}: {v}' for k, v in value.items()) if isinstance(value, dict) else f'{value:g}'} |"
            for name, value in f.items()
            if name != "machine"
        ]
    page = RESULTS / "delivery.md"
    faces = page.read_text().partition("## Faces")[2] if page.is_file() else ""  # what faces.py found stands below
    page.write_text("\n".join(lines) + "\n" + (f"\n## Faces{faces}" if faces else ""))


if __name__ == "__main__":
    main()
