"""Honesty checks on folders of images: before anything is measured, on every pair, and on what was found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ... import io
from ...contracts import Metric
from ...data.split import copies, fingerprint
from ...io import Scan, UnreadableError
from ...registry import NotEvaluated, measure
from ..honesty.claim import Verdict
from ..honesty.endpoints import SEGMENTED, SETS
from ..honesty.ledger import (
    BACKGROUND,
    OFF_PIXELS,
    Ledger,
    background_share,
    flipped,
    mask_of_generated,
    range_fault,
    shift_pixels,
    stretched,
)
from ..honesty.validity import Validity
from ..metrics.pixel import METRICS, POINTWISE
from ..report.results import Report
from ..result import Row
from ..sets.embedding import Picture
from ..statistics import SMALLEST
from ..threads import side_by_side
from .measured import in_words

Array = NDArray[np.floating[Any]]
LEVELS = 256
BLUR = 2.0  # pixels: of the mean image that stands for knowing nothing of the patient
BY_DESIGN: Mapping[int, str] = {
    10: "Functions of surfaces and dose take spacing_mm and have no default.",
    2: "Images of a patient are averaged before anything is inferred.",
    12: "Distances bear no bootstrap interval; a kernel distance has a jackknife error.",
    13: "All sets together scale the features.",
    19: "Failed cases count as 0 where a scale ends there, else as the worst value of either side.",
    20: "Only the verbs of a claim are tested; a test that finds nothing is said to prove nothing.",
}
RESTS_ON: Mapping[int, tuple[str, ...]] = {  # refused check -> endpoints that fall with it; others fall with every one
    3: ("psnr", "ssim", "ms_ssim", "gmsd", "haarpsi", "vif"),
    4: ("ssim", "ms_ssim"),
    10: ("hausdorff95", "surface dice", "volume error"),
    11: (),
    14: SETS,
}


def patient_of(name: str, scan: Scan) -> str:
    """As the file says; else its first folder, or its own name where it lies in none. A row of an array file is a
    patient of its own, a picture of an archive belongs to its folder there, or to the archive.
    """
    if scan.patient:
        return scan.patient
    suffix = f"#{scan.member}"
    member = scan.member if scan.member and name.endswith(suffix) else ""
    first, *inner = (name.removesuffix(suffix) if member else name).split("/")
    patient = first if inner else io.stem(first)
    if member and scan.files[0].suffix.lower() == ".npz":
        return f"{patient}#{member}"
    folder, *deeper = member.split("/")
    return folder if deeper else patient


def aligned(own: Mapping[str, Scan], reference: Mapping[str, Scan]) -> dict[str, Scan]:
    """Scans under the names of their references: the same relative name, or the only one that differs in its ending
    alone.
    """
    stems = {names[0] for names in _by_stem(reference).values() if len(names) == 1}
    others = {io.stem(name): name for name in stems if name not in own}
    single = {names[0] for names in _by_stem(own).values() if len(names) == 1}
    return {others.get(io.stem(n), n) if n in single and n not in reference else n: s for n, s in own.items()}


def _by_stem(scans: Mapping[str, Scan]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in scans:
        found.setdefault(io.stem(name), []).append(name)
    return found


def refused(ledger: Ledger, number: int) -> bool:
    """Whether a check has refused, and was not overruled."""
    return number in ledger.found and ledger.found[number].status == "refused"


def fingerprints(folder: Path, scans: Mapping[str, Scan]) -> dict[str, str]:
    """SHA-256 of every file that was read, by its path below the folder."""
    files = sorted({f for scan in scans.values() for f in scan.files})
    base = folder if folder.is_dir() else folder.parent
    return {str(f.relative_to(base)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def check_shared(ledger: Ledger, found: Mapping[str, Mapping[str, Scan]]) -> None:
    """Check 1: whoever trained the generator may not judge it, under this name or another."""
    if "training" not in found:
        return
    trained = {patient_of(n, s) for n, s in found["training"].items()}
    fix = "Judge on patients whom training did not see."
    for side in ("reference", "holdout"):
        shared = sorted(trained & {patient_of(n, s) for n, s in found.get(side, {}).items()})
        if shared:
            shown = ", ".join(shared[:5]) + (" and others" if len(shared) > 5 else "")
            ledger.stop(1, f"{shown}: in the training folder and in --{side}.", fix)
    ledger.looked.add(1)
    every = {side: _thumbnails(found.get(side, {})) for side in ("training", "reference", "holdout")}
    for size in {
        len(p) for prints in every.values() for p in prints.values()
    }:  # slices and volumes are no copies of each other
        prints = {side: {n: p for n, p in own.items() if len(p) == size} for side, own in every.items()}
        for one, case, other, copy, alike in copies(prints):
            if one != "training":
                continue
            ledger.stop(
                1, f"{copy} in --{other} shows the same image as {case} in training (correlation {alike:.5f}).", fix
            )


def _thumbnails(scans: Mapping[str, Scan]) -> dict[str, NDArray[np.float32]]:
    found = {}
    for name, scan in scans.items():
        try:
            data = io.read(scan).data
        except UnreadableError:
            continue  # said where it is measured
        volume = data[:, data.shape[1] // 2] if data.ndim == 5 else data if data.ndim == 4 else data[:1, None]
        found[name] = fingerprint(volume.numpy().astype(np.float32))
    return found


def check_pairs(
    ledger: Ledger, pairs: Mapping[str, Mapping[str, Any]], data_range: float | None, patients: Mapping[str, str]
) -> None:
    """Checks 2 to 9 and the left-right flip, on arrays of one grid."""
    if not pairs:
        return
    if same := _one_image_of_several(pairs, patients):
        ledger.trigger(2, f"{same}. They are no patients of their own.", "Leave copies out.")
    references = [e["reference"] for e in pairs.values()]
    ledger.looked |= {4, 5, 7, 9} | ({3} if data_range is not None else set()) | ({6} if len(pairs) >= 5 else set())
    if data_range is not None and (why := range_fault(data_range, references)):
        ledger.trigger(3, why, "Write the span of possible values: --data-range 1 for values from 0 to 1.")
    if any(float(r.min()) < 0 for r in references):
        ledger.trigger(
            4, "Reference values are negative.", "Add a constant to both sides, so that the least possible value is 0."
        )
    if stretched(references) and stretched([e["generated"] for e in pairs.values()]):
        ledger.trigger(
            6, "Every image on both sides has the same minimum and maximum: a stretch of each image hides bias."
        )
    dark = {n: background_share(e["reference"]) for n, e in pairs.items() if "mask" not in e}
    if dark and (share := float(np.median(list(dark.values())))) > BACKGROUND:
        gain = -10 * np.log10(1 - share) if share < 1 else float("inf")
        ledger.trigger(
            7,
            f"{share:.0%} of the images is background: PSNR is {gain:.1f} dB higher than inside the patient.",
            "Name --masks.",
        )
    if any("mask" in e for e in pairs.values()):
        ledger.looked.add(8)
    for faults in side_by_side(lambda name: _faults_of_pair(name, pairs[name]), list(pairs)):
        for fault in faults:
            ledger.trigger(*fault)


def _one_image_of_several(pairs: Mapping[str, Mapping[str, Any]], patients: Mapping[str, str]) -> str:
    """Patients whose references are the same image, in words; constant images show nobody."""
    owners: dict[bytes, list[str]] = {}
    for name, e in pairs.items():
        if np.ptp(e["reference"]):
            print_ = hashlib.sha256(np.asarray(e["reference"], np.float32).tobytes()).digest()
            owners.setdefault(print_, []).append(patients[name])
    groups = [sorted(set(p)) for p in owners.values() if len(set(p)) > 1]
    if not groups:
        return ""
    shown = ", ".join(groups[0][:4]) + (" and others" if len(groups[0]) > 4 else "")
    return f"{sum(map(len, groups))} patients share {len(groups)} reference image{'s' * (len(groups) > 1)} ({shown})"


def lossy_side(generated: Sequence[Picture], real: Sequence[Picture], report: Report, name: str = "generated") -> str:
    """Check 14: JPEG, or 8 bits, on one side alone; '' when neither. Both sides being JPEG is remarked. `name`: of the
    first side.
    """
    sides = {name: generated, "reference": real}
    jpeg = {n: any(p.name.lower().endswith((".jpg", ".jpeg")) for p in side) for n, side in sides.items()}
    if all(jpeg.values()):
        report.remark("Both sides are JPEG: what compression removes is seen by nobody.")
        return ""
    if any(jpeg.values()):
        return f"JPEG on the {max(jpeg, key=jpeg.__getitem__)} side alone would be what distances measure."
    levels = {n: [len(np.unique(_middle(p.values))) for p in side] for n, side in sides.items()}
    coarse = [n for n, counts in levels.items() if max(counts) <= LEVELS]
    if len(coarse) == 1 and all(np.median(counts) > LEVELS for n, counts in levels.items() if n not in coarse):
        return f"At most {LEVELS} grey levels on the {coarse[0]} side alone (8 bits) would be what distances measure."
    return ""


def _middle(values: Array) -> Array:
    return values[len(values) // 2] if values.ndim == 3 else values


def _faults_of_pair(name: str, e: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    """(check, why, what to do) of units, mask, place and side."""
    image, truth = (_one_of(e, k) for k in ("generated", "reference"))
    units, found = e.get("units", ("", "")), []
    if (share := e.get("covered", 1.0)) < 0.5:
        found.append((9, f"{name} covers {share:.0%} of its reference; the rest is counted against it.", ""))
    if units[0] != units[1] and {"HU", "Gy", "SUV"} & set(units):
        found.append(
            (
                5,
                f"{name}: the reference is in {units[1] or 'no unit'}, the generated image in {units[0] or 'no unit'}.",
                "",
            )
        )
    if "mask" in e and mask_of_generated(e["mask"], image, truth):
        found.append((8, f"{name}: its mask is a threshold of the generated image.", "Make masks from the truth."))
    off = shift_pixels(image, truth)
    if flipped(image, truth) and shift_pixels(image[..., ::-1], truth) <= off:  # mirrored, it seems to lie elsewhere
        found.append((9, f"{name} fits its reference better when turned left to right.", ""))
    elif off > OFF_PIXELS:
        found.append((9, f"{name} lies {off:.1f} pixels off its reference; paired metrics mostly measure that.", ""))
    return found


def _one_of(e: Mapping[str, Any], side: str) -> Array:
    """One image of a pair: the middle frame of a series, the mean of colours."""
    if "series" in e:
        frame: Array = e[side][len(e[side]) // 2]
        return frame
    return np.asarray(e[side].mean(0) if "channels" in e else e[side])


def measured(known: Metric, evidence: Mapping[str, Any], whole: bool = False) -> float | str:
    """A number or words; of a series or of colours the mean over frames or channels, unless the metric wants it
    `whole`.
    """
    if not {"series", "channels"} & evidence.keys() or whole:
        return in_words(measure(known, evidence))
    if "channels" in evidence and known in [METRICS[name] for name in POINTWISE]:
        return in_words(measure(known, _side_by_side_channels(evidence)))
    frames = zip(evidence["generated"], evidence["reference"], strict=True)
    found = [measure(known, {**evidence, "generated": g, "reference": r}) for g, r in frames]
    lost = next((f for f in found if isinstance(f, NotEvaluated)), None)
    return in_words(lost if lost is not None else float(np.mean(found)))


def _side_by_side_channels(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """The channels of colours one below the other, as one image."""
    count = len(evidence["reference"])
    stacked = {k: np.concatenate(list(evidence[k])) for k in ("generated", "reference")}
    mask = {"mask": np.concatenate([evidence["mask"]] * count)} if evidence.get("mask") is not None else {}
    return {**evidence, **stacked, **mask}


def trivial_rows(
    pairs: Mapping[str, Mapping[str, Any]], patients: Mapping[str, str], data_range: float | None,
    training: Mapping[str, Array],
) -> list[Row]:  # fmt: skip
    """Check 21's competitors, from images of the same shape: the blurred mean of other patients' truths, and the
    training image, or the other patient, that is most like the truth. A case without such images has none.
    """
    totals: dict[tuple[int, ...], Array] = {}
    for e in pairs.values():
        total = totals.setdefault(e["reference"].shape, np.zeros(e["reference"].shape))
        total += e["reference"]
    near = Nearest({n: e["reference"] for n, e in pairs.items()}, patients, training)
    rows = side_by_side(lambda name: _trivial_rows(name, pairs, patients, totals, near, data_range), list(pairs))
    return [row for own in rows for row in own]


class Nearest:
    """Of an image of a case: the training image, or else the other patient's image, whose thumbnail is most like it."""

    def __init__(
        self, references: Mapping[str, Array], patients: Mapping[str, str], training: Mapping[str, Array]
    ) -> None:
        self.references, self.patients, self.training = references, patients, training
        self.by = "nearest training image" if training else "nearest other patient"
        self.candidates = training or references
        self.own = {name: fingerprint(np.asarray(v, np.float32)) for name, v in references.items()}
        self.prints = {n: fingerprint(np.asarray(v, np.float32)) for n, v in training.items()} or self.own

    def of(self, name: str) -> Array | None:
        nearest = self.name_of(name)
        return None if nearest is None else self.candidates[nearest]

    def name_of(self, name: str) -> str | None:
        shape = self.references[name].shape
        fit = [n for n, v in self.candidates.items() if v.shape == shape and self._foreign(n, name)]
        return max(fit, key=lambda n: float(self.prints[n] @ self.own[name]), default=None)

    def _foreign(self, candidate: str, name: str) -> bool:
        return bool(self.training) or self.patients[candidate] != self.patients[name]


def _trivial_rows(
    name: str, pairs: Mapping[str, Mapping[str, Any]], patients: Mapping[str, str],
    totals: Mapping[tuple[int, ...], Array], near: Nearest, data_range: float | None,
) -> list[Row]:  # fmt: skip
    shape, answers = pairs[name]["reference"].shape, dict[str, Array]()
    alike = [n for n in pairs if pairs[n]["reference"].shape == shape]
    own = [n for n in alike if patients[n] == patients[name]]
    if len(own) < len(alike):
        others = totals[shape] - sum(pairs[n]["reference"].astype(np.float64) for n in own)
        answers["others' mean, blurred"] = ndimage.gaussian_filter(others / (len(alike) - len(own)), BLUR)
    if (nearest := near.of(name)) is not None:
        answers[near.by] = nearest
    rows = []
    for by, image in answers.items():
        evidence = {**pairs[name], "generated": image, "data_range": data_range}
        for m, known in METRICS.items():
            unit = "dB" if known.unit == "dB" else ""
            rows.append(Row(name, patients[name], "", by, m, measured(known, evidence), unit))
    return rows


def after_checks(verdict: Verdict, ledger: Ledger, validity: Validity | None) -> Verdict:
    """A verdict falls when a check refused what it rests on, or its endpoint failed on the user's own images."""
    endpoint, stamp = verdict.claim.endpoint, next((r for r in verdict.remarks if "EXPLORATORY" in r), "")
    if stamp:
        ledger.trigger(17, stamp)
    reasons = [
        f"check {f.number}: {f.why}"
        for f in ledger.table()
        if f.status == "refused" and endpoint in RESTS_ON.get(f.number, (endpoint,))
    ]
    if validity is None and endpoint not in SEGMENTED:
        reasons.append("what the endpoint sees was not tested on these images (--quick)")
    elif validity is not None and (lost := validity.may_support(endpoint, verdict.claim.embedding)):
        reasons.append(lost)
    reasons += declared_faults(verdict, ledger)
    if verdict.patients < SMALLEST:
        ledger.trigger(16, verdict.may)
    else:
        ledger.passed(16, f"{verdict.patients} patients.")
    ledger.passed(17, "The claim's hash was written before anything was measured.")
    if not reasons or verdict.status == "REFUSED":  # by what it says itself; the checks stand beside it
        return verdict
    return replace(
        verdict, status="REFUSED", may=f"Nothing may be claimed: {'; '.join(reasons)}.", may_not=verdict.claim.claim
    )


def declared_faults(verdict: Verdict, ledger: Ledger) -> Sequence[str]:
    """Checks 15, 18, 22, 23 and 24: what the claim says of itself."""
    claim, faults = verdict.claim, []
    if claim.about == "reconstruction":
        if claim.raw_data == "simulated":
            ledger.trigger(
                15, "Raw data were simulated from finished images: errors come out a quarter to a half too small."
            )
        else:
            ledger.passed(15, "Figure raw data, as declared.")
    asked = {
        "privacy": (23, "privacy needs an attack with a blind baseline and a holdout, which this report does not make"),
        "coverage": (
            24,
            "coverage needs intervals per image calibrated on other patients, which this report does not make",
        ),
        "utility": (22, "utility needs equal compute beside augmented real data: fabrica downstream"),
    }
    if claim.about in asked:
        number, why = asked[claim.about]
        if not ledger.trigger(number, f"The claim is about {claim.about}; {why}."):
            faults.append(f"check {number}: {why}")
    if claim.seeds_started is not None and claim.seeds_started != claim.seeds_reported:
        why = f"{claim.seeds_started} seeds were started and {claim.seeds_reported} are reported"
        if not ledger.trigger(18, f"{why}."):
            faults.append(f"check 18: {why}")
    elif claim.seeds_started is not None:
        ledger.passed(18, f"{claim.seeds_started} seeds started and reported, as declared.")
    return faults
