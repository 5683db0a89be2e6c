"""Fabrica beside its peers: interleaved rounds in one process, ratios within a round, medians over rounds.

    python benchmarks/speed.py [--rounds 7] [--only reading|store|network|training|memory|growth|drawing]

Peers (extras `test` and `bench`): pydicom, SimpleITK, nibabel, MONAI; untrained networks, made-up scans, warm page cache. Each
finished section is written at once to results/speed.json, and results/speed.md is made from it: machine, versions,
medians, spreads, the target of each line and whether it was reached. Run nothing beside it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import SimpleITK
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from speed_training import growth, memory, training
from torch import nn

from fabrica import io
from fabrica.contracts import Condition, Problem, Signature
from fabrica.data.store import Entry, Layout, Loader, Store
from fabrica.data.vocabulary import field_of
from fabrica.families import Flow
from fabrica.io import explicit
from fabrica.networks import precision
from fabrica.networks.tiled import tiled, windows
from fabrica.networks.unet import UNet, UNetShape
from fabrica.rng import Rng
from fabrica.sampling.solvers import dpm_solver_2m

RESULTS = Path(__file__).parent / "results"
Candidates = dict[str, Callable[[], Any]]
WIDTHS = (32, 64, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=list(SECTIONS))
    options = parser.parse_args()
    file = RESULTS / "speed.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    here = machine()
    for name, section in SECTIONS.items():
        if options.only in (None, name):
            known.setdefault(here, {})[name] = section(options.rounds)
            file.write_text(json.dumps(known, indent=1))
            (RESULTS / "speed.md").write_text("\n".join(page(known)) + "\n")


def machine() -> str:
    """CPU, kind of bfloat16, threads and versions: what figures of one column have in common."""
    names = [x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    packages = ", ".join(f"{n} {version(n)}" for n in ("torch", "monai", "pydicom", "nibabel", "simpleitk"))
    cpu = names[0] if names else platform.machine()
    return f"{cpu}, bfloat16 x{precision.rates().gain:.1f}, {torch.get_num_threads()} threads; {packages}"


def compare(candidates: Candidates, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each candidate in each round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds + 1):
        for name, run in candidates.items():
            began = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - began))
    return {name: values[1:] for name, values in times.items()}


# ---------------------------------------------------------------- reading


def reading(rounds: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        series, many = Path(scratch, "series"), Path(scratch, "many")
        files, small = write_series(series, 200, 512), write_series(many, 2000, 32)
        packed = Path(scratch, "packed.nii.gz")
        voxels = np.random.default_rng(0).normal(300, 90, (256, 256, 150)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), packed)
        scan = io.scan_folder(packed).scans[0]
        return [
            line("DICOM series, 200 x 512 x 512, to float32 in HU", rounds, {
                "fabrica": lambda: io.read_image(series), "pydicom": lambda: by_pydicom(files),
                "SimpleITK": lambda: by_simpleitk(series)}, {"pydicom": 5, "SimpleITK": 8}),
            line("nii.gz, 256 x 256 x 150 int16, to float32", rounds, {
                "fabrica": lambda: io.read(scan),
                "nibabel": lambda: np.asarray(nibabel.load(packed).dataobj, np.float32)}, {"nibabel": 3}),
            line("2,000 DICOM headers, first time, and volumes built", rounds, {
                "fabrica": lambda: first_time(many), "pydicom headers": lambda: headers(small)},
                {"pydicom headers": 10}),
            line("2,000 DICOM headers, again in one process", rounds, {
                "fabrica": lambda: io.scan_folder(many), "pydicom headers": lambda: headers(small)},
                {"pydicom headers": 10}),
        ]  # fmt: skip


def write_series(folder: Path, count: int, side: int) -> list[Path]:
    folder.mkdir()
    series, study = generate_uid(), generate_uid()
    rng = np.random.default_rng(0)
    for z in range(count):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid()
        ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, study
        ds.Modality, ds.PatientID, ds.PatientName, ds.StudyDate = "CT", "P", "A^B", "20260101"
        ds.InstanceNumber, ds.SeriesNumber, ds.Manufacturer, ds.SeriesDescription = z + 1, 1, "X", "head"
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 1.25 * z], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness, ds.RescaleSlope, ds.RescaleIntercept = [0.8, 0.8], 1.25, 1, -1024
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = side, side, 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.PixelData = rng.normal(1000, 300, (side, side)).astype(np.int16).tobytes()
        ds.save_as(folder / f"{z:04d}.dcm", enforce_file_format=True)
    return sorted(folder.glob("*.dcm"))


def by_pydicom(files: list[Path]) -> Any:
    slices = sorted((pydicom.dcmread(f) for f in files), key=lambda d: float(d.ImagePositionPatient[2]))
    return np.stack([np.float32(d.RescaleSlope) * d.pixel_array + np.float32(d.RescaleIntercept) for d in slices])


def by_simpleitk(folder: Path) -> Any:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    reader.SetOutputPixelType(SimpleITK.sitkFloat32)
    return SimpleITK.GetArrayFromImage(reader.Execute())


def headers(files: list[Path]) -> Any:
    return [pydicom.dcmread(f, stop_before_pixels=True) for f in files]


def first_time(folder: Path) -> Any:
    explicit.forget()
    return io.scan_folder(folder)


# ---------------------------------------------------------------- store


def store(rounds: int) -> list[dict[str, Any]]:
    from monai.data import CacheDataset, DataLoader
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandFlipd, RandSpatialCropd

    with tempfile.TemporaryDirectory() as scratch:
        rng, entries, files = np.random.default_rng(0), [], []
        for i in range(8):
            volume = rng.normal(0, 1, (128, 128, 128)).astype(np.float32)
            array, packed = Path(scratch, f"{i}.npy"), Path(scratch, f"{i}.nii.gz")
            np.save(array, volume[None])
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), packed)
            entries.append(
                Entry(f"c{i}", f"p{i}", {"CT": array}, (128, 128, 128), ((1.0,) * 4,) * 4, tuple(range(128)))
            )
            files.append({"image": str(packed)})
        loader = Loader(Store(entries), Layout(("CT",), "zyx", (96, 96, 96)), 2, 0)
        crop = Compose([
            LoadImaged("image"), EnsureChannelFirstd("image"), RandSpatialCropd("image", (96, 96, 96), random_size=False),
            RandFlipd("image", 0.5, 2),
        ])  # fmt: skip
        peer = DataLoader(CacheDataset(files, crop, progress=False), batch_size=2)
        steps = iter(range(1_000_000))
        ours = lambda: [loader.load(next(steps)) for _ in range(4)]  # noqa: E731
        return [line("8 crops of 96^3 with flips, batches of 2", rounds,
                     {"fabrica": ours, "MONAI CacheDataset": lambda: list(peer)}, {"MONAI CacheDataset": 4})]  # fmt: skip


# ---------------------------------------------------------------- networks


def network(rounds: int) -> list[dict[str, Any]]:
    cases = [(d, side, batch, train) for d, side, batch in ((2, 64, 8), (3, 32, 2)) for train in (False, True)]
    wide = [default_network(*case, rounds) for case in ((2, 64, 8), (2, 128, 4), (3, 64, 1))]
    return [*(one_network(*case, rounds) for case in cases), *wide]


def default_network(dimensions: int, side: int, batch: int, rounds: int) -> dict[str, Any]:
    """Patches of 2 and twice the width: about MONAI's arithmetic in 2D, half of it in 3D; and the machine's own limit."""
    x, level = torch.randn(batch, 1, *[side] * dimensions), torch.rand(batch)
    ours = UNet(dimensions, 1, 1, (), UNetShape(channels=tuple(2 * w for w in WIDTHS)), precision.choose())
    peer, dtype = monai_network(dimensions), torch.bfloat16 if precision.choose() == "bf16" else torch.float32
    images = torch.randn(8, 64, 64, 64).to(dtype, memory_format=torch.channels_last)
    kernel = torch.randn(64, 64, 3, 3).to(dtype, memory_format=torch.channels_last)
    limit = lambda: torch.nn.functional.conv2d(images, kernel, padding=1)  # noqa: E731
    run = {
        "fabrica, default": Call(ours, lambda n: n(x, level, Condition())),
        "MONAI as shipped": Call(peer, lambda n: n(x, timesteps=level)),
    }
    work = {name: flop(inferred(call)) for name, call in run.items()} | {"convolution alone": flop(limit)}
    columns = {(2, 64): (5, 3.6), (2, 128): (10, 7), (3, 64): (25, 18)}
    asked = columns[dimensions, side][0 if precision.rates().gain >= 4 else 1] if dtype == torch.bfloat16 else 1.0
    words = ", ".join(f"{n} {g:.1f} GFLOP" for n, g in work.items() if n != "convolution alone")
    found = line(
        f"forward, default network, {'x'.join([str(side)] * dimensions)}, batch {batch} ({words})", rounds,
        {**{n: inferred(c) for n, c in run.items()}, "convolution alone": limit}, {"MONAI as shipped": asked}, by="fabrica, default",
    )  # fmt: skip
    rate = {n: work[n] / statistics.median(t) for n, t in found["times_ms"].items()}
    share = rate["fabrica, default"] / rate["convolution alone"]
    target = {2: 0.25, 3: 0.45}[dimensions]
    found["name"] += (
        f"; {share:.2f} of the {1e3 * rate['convolution alone']:.0f} GFLOP/s of a convolution (asked {target})"
    )
    return found


def flop(run: Callable[[], Any]) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counted:
        run()
    return counted.get_total_flops() / 1e9


def one_network(dimensions: int, side: int, batch: int, train: bool, rounds: int) -> dict[str, Any]:
    x, level = torch.randn(batch, 1, *[side] * dimensions), torch.rand(batch)
    low, how = precision.choose() == "bf16", trained if train else inferred
    ours = {patch: our_network(dimensions, patch) for patch in (1, 2)}
    plain, best = monai_network(dimensions), monai_network(dimensions, flash=True)
    setting = "MONAI, flash attention, channels-last" + (", autocast" if low else "")
    candidates: Candidates = {
        "fabrica, same topology": how(Call(ours[1], lambda n: n(x, level, Condition()))),
        "fabrica, default stem": how(Call(ours[2], lambda n: n(x, level, Condition()))),
        "MONAI as shipped": how(Call(plain, lambda n: n(x, timesteps=level))),
        setting: how(Call(best, lambda n: autocast(n, x, level, low, dimensions))),
    }
    shape = f"{'x'.join([str(side)] * dimensions)}, batch {batch}, channels 32-64-128"
    name = f"{'training step' if train else 'forward'}, {dimensions}D, {shape}"
    return line(name, rounds, candidates, network_targets(dimensions, train, low), by="fabrica, same topology")


class Call:
    """A network and how it is called."""

    def __init__(self, net: nn.Module, run: Callable[[Any], torch.Tensor]) -> None:
        self.net, self.run = net, run


def inferred(call: Call) -> Callable[[], Any]:
    def go() -> None:
        with torch.inference_mode():
            call.run(call.net)

    return go


def trained(call: Call) -> Callable[[], Any]:
    optimiser = torch.optim.AdamW(call.net.parameters(), 1e-4, fused=True)

    def go() -> None:
        optimiser.zero_grad()
        call.run(call.net).float().square().mean().backward()
        optimiser.step()

    return go


def our_network(dimensions: int, patch: int) -> UNet:
    return UNet(dimensions, 1, 1, (), UNetShape(channels=WIDTHS, patch=patch), precision.choose())


def monai_network(dimensions: int, flash: bool = False) -> nn.Module:
    from monai.networks.nets import DiffusionModelUNet

    net: nn.Module = DiffusionModelUNet(
        spatial_dims=dimensions, in_channels=1, out_channels=1, channels=WIDTHS, attention_levels=(False, False, True),
        num_res_blocks=2, num_head_channels=32, norm_num_groups=32, use_flash_attention=flash,
    )  # fmt: skip
    layout: Any = torch.channels_last if dimensions == 2 else torch.channels_last_3d
    return net.to(memory_format=layout) if flash else net


def autocast(net: Any, x: torch.Tensor, level: torch.Tensor, low: bool, dimensions: int) -> torch.Tensor:
    layout = torch.channels_last if dimensions == 2 else torch.channels_last_3d
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        result: torch.Tensor = net(x.contiguous(memory_format=layout), timesteps=level)
    return result


def network_targets(dimensions: int, train: bool, low: bool) -> dict[str, float]:
    """What is asked against MONAI as shipped: with matrix units, with other fast bfloat16, without any."""
    if not low:
        return {"MONAI as shipped": 1.0}
    columns = {(2, False): (4, 2.8), (3, False): (4, 2.8), (2, True): (1.8, 1.9), (3, True): (3.5, 2.8)}
    return {"MONAI as shipped": columns[dimensions, train][0 if precision.rates().gain >= 4 else 1]}


# ---------------------------------------------------------------- drawing


def drawing(rounds: int) -> list[dict[str, Any]]:
    """A whole draw against its evaluations of the network alone."""
    signature = Signature((field_of("T1w"),), "yx", ())
    family = Flow(signature, UNetShape(channels=WIDTHS), precision.choose())
    problem = Problem(tuple(f"c{i}" for i in range(8)), (1, 64, 64), Condition())
    x, level = torch.randn(8, 1, 64, 64), torch.ones(8)
    calls = 0
    original = family.net.forward

    def counted(*given: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        result: torch.Tensor = original(*given)
        return result

    family.net.forward = counted  # type: ignore[method-assign]
    family.sample(problem, Rng(list(range(8))))
    evaluations, family.net.forward = calls, original  # type: ignore[method-assign]

    def alone() -> None:
        with torch.no_grad():
            for _ in range(evaluations):
                family.net(x, level, Condition())

    found = line(
        f"a draw of 8 x 64 x 64 with the default sampler, {evaluations} evaluations (at most 20)", rounds,
        {"the network alone": alone, "fabrica": lambda: family.sample(problem, Rng(list(range(8))))},
        {"fabrica": 1.05}, by="the network alone", at_most=True,
    )  # fmt: skip
    return [found, by_windows(rounds)]


def by_windows(rounds: int) -> dict[str, Any]:
    """A volume drawn by windows against as many evaluations of the network on one window."""
    family = Flow(Signature((field_of("T1w"),), "zyx", ()), UNetShape(channels=WIDTHS), precision.choose())
    problem, x, level = Problem(("c",), (1, 64, 96, 64), Condition()), torch.randn(1, 1, 48, 48, 48), torch.ones(1)
    count = len(windows(problem.shape[1:], (48, 48, 48)))

    def whole() -> None:
        with torch.no_grad(), tiled(family, (48, 48, 48)):
            dpm_solver_2m(family, problem, Rng([0]), steps=2)

    def alone() -> None:
        with torch.no_grad():
            for _ in range(2 * count):
                family.net(x, level, Condition())

    return line(
        f"a draw of 64 x 96 x 64 by {count} windows of 48^3, 2 evaluations each", rounds,
        {"the network alone": alone, "fabrica": whole}, {"fabrica": 1.1}, by="the network alone", at_most=True,
    )  # fmt: skip


# ---------------------------------------------------------------- the page


def line(
    name: str,
    rounds: int,
    candidates: Candidates,
    targets: dict[str, float],
    by: str = "fabrica",
    at_most: bool = False,
) -> dict[str, Any]:
    """One comparison: how many times longer each candidate takes than `by`, round by round."""
    print(name, flush=True)
    times = compare(candidates, rounds)
    ratios = {n: [a / b for a, b in zip(v, times[by], strict=True)] for n, v in times.items()}
    return {"name": name, "times_ms": times, "ratios": ratios, "targets": targets, "at_most": at_most}


def page(known: dict[str, Any]) -> list[str]:
    lines = [
        "# Speed beside peers", "",
        "`python benchmarks/speed.py` (extra `bench`). Medians of interleaved rounds in one process, smallest to largest in brackets.",
        "Ratio: time over Fabrica's in the same round, median. Networks are untrained; scans are made up; page cache warm.", "",
    ]  # fmt: skip
    for column, sections in known.items():
        lines += [f"## {column}", "", "| what | who | ms | ratio | asked | reached |", "|---|---|---|---|---|---|"]
        for found in (f for section in sections.values() for f in section if "times_ms" in f):
            for who, times in found["times_ms"].items():
                ratio, asked = statistics.median(found["ratios"][who]), found["targets"].get(who)
                good = asked is not None and (ratio <= asked if found["at_most"] else ratio >= asked)
                verdict = ("", "") if asked is None else (f"{asked:g}", "yes" if good else "**no**")
                spread = f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})"
                lines.append(f"| {found['name']} | {who} | {spread} | {ratio:.2f} | {verdict[0]} | {verdict[1]} |")
        lines += ["", "| what | median (least to most) | asked | reached |", "|---|---|---|---|"]
        for found in (f for section in sections.values() for f in section if "facts" in f):
            for f in found["facts"]:
                verdict = {True: "yes", False: "**no**", None: ""}[f["reached"]]
                spread = f"{f['median']:.3g} ({f['least']:.3g} to {f['most']:.3g})"
                lines.append(f"| {found['name']}: {f['what']} | {spread} | {f['asked']} | {verdict} |")
        lines.append("")
    return [*lines, (RESULTS / "speed_missed.md").read_text().rstrip()]  # kept by hand


SECTIONS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "reading": reading,
    "store": store,
    "network": network,
    "drawing": drawing,
    "training": training,
    "memory": memory,
    "growth": growth,
}

if __name__ == "__main__":
    main()
