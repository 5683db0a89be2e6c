"""Weights that others have published as a run: their numbers, and a card that says what the numbers mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from ..contracts import SCALES
from ..data.prepare import GridPreparation, plain_preparation
from ..data.vocabulary import field_of
from ..deliver.record import hash_of
from ..families import ImportedAutoencoder, ImportedDenoiser
from ..io.weights import read_weights
from ..learning import checkpoint
from ..networks.imported import (
    DIFFUSERS_KEYS,
    MONAI_KEYS,
    MONAI_KL_KEYS,
    DiffusionShape,
    KLShape,
    diffusers_kl_shape,
    diffusers_shape,
    kl_shape,
    monai_diffusion_shape,
    renamed,
    renamed_from_diffusers,
)
from ..recipe.checks import from_plain
from ..recipe.short_form import stage_of_others
from ..recipe.text import parse
from ..registry import check_type, unknown
from .family import build_family
from .folder import RunFolder

Say = Callable[[str], None]
PERCENTILES = [0.0, 99.5]  # of the patient that arbitrary units are scaled by here
EXAMPLE = "intensities: {unit: HU, range: [-1000, 1000], to: [0, 1]}, or {percentiles: [0, 99.5], to: [0, 1]}"
SHOWN = 6  # keys that an error names


@dataclass(frozen=True)
class Card:
    """What a published file of weights does not say of itself."""

    contrast: str  # of the images, as recipes name it: T1w, CT
    spacing_mm: Sequence[float]  # (z, y, x), or (y, x) of slices
    intensities: Mapping[str, Any]  # how the network's numbers come from the image's, see EXAMPLE
    licence: str
    source: str = ""
    seen: str = ""  # whom the weights were trained on, in words
    size: Sequence[int] = ()  # of a denoiser: the sides (z, y, x) or (y, x) that it learned to draw
    noise: Mapping[str, Any] = field(default_factory=dict)  # of a denoiser: see `families.ImportedDenoiser`
    given: Sequence[str] = ()  # of a denoiser: images that are its further channels, in their order
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of a denoiser: {class: [A, B]}, in their order

    @staticmethod
    def read(path: Path) -> Card:
        """Raises ValueError for what a card must say and does not."""
        if not path.is_file():
            raise ValueError(f"There is no card at {path}. Write one: contrast, spacing_mm, intensities, licence")
        try:
            plain = parse(path.read_text())[0]
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {str(error).splitlines()[0]}. Check its indentation.") from error
        known = {f.name: f for f in fields(Card)}
        for key in plain if isinstance(plain, Mapping) else ():
            if key not in known:
                raise unknown(f"key of the card {path}", str(key), list(known))
        needed = {"contrast": "T1w", "spacing_mm": "[1, 1, 1]", "intensities": EXAMPLE, "licence": "Apache-2.0"}
        for key, example in needed.items():
            if not isinstance(plain, Mapping) or not plain.get(key):
                line = example if example.startswith(key) else f"{key}: {example}"
                raise ValueError(f"The card {path} says no {key}, without which its numbers mean nothing. Write {line}")
        card = Card(**plain)
        check_type(f"{path}: spacing_mm", card.spacing_mm, Sequence[float])
        if len(card.spacing_mm) not in (2, 3) or min(card.spacing_mm) <= 0:
            raise ValueError(f"{path}: spacing_mm is {list(card.spacing_mm)}, expected mm along z, y, x (or y, x).")
        return card

    def scale(self) -> tuple[float, float]:
        """(gain, offset) from the scale of images here to the network's. Raises ValueError for another rule."""
        rule, unit = self.intensities, field_of(self.contrast).unit
        check_type("intensities.to", rule.get("to"), Sequence[float])
        low, high = (float(v) for v in rule["to"])
        if "range" in rule:
            stated = str(rule.get("unit", ""))
            if stated not in SCALES or stated != unit:
                raise ValueError(
                    f"intensities are in {stated or 'no unit'}, {self.contrast} is in {unit}. Write {EXAMPLE}"
                )
            own = SCALES[stated]
            first, last = ((float(v) - own.offset) / own.width for v in rule["range"])
        elif list(map(float, rule.get("percentiles", ()))) == PERCENTILES and unit not in SCALES:
            first, last = 0.0, 1.0
        else:
            raise ValueError(
                f"intensities are {dict(rule)}, which cannot be had of {self.contrast} here. Write {EXAMPLE}"
            )
        gain = (high - low) / (last - first)
        return gain, low - gain * first


@dataclass(frozen=True)
class Format:
    """How one kind of published file becomes a stage."""

    stage: str  # its name
    family: str
    by: str  # whose configuration and names they are
    axes: Callable[[Mapping[str, Any]], tuple[int, int]]  # configuration -> (number of axes, sides are multiples of)
    renamed: Callable[[Mapping[str, Any], Mapping[str, Tensor]], dict[str, Tensor]]


def _of_kl(shape: KLShape) -> tuple[int, int]:
    return shape.spatial_dims, shape.factor


def _of_unet(shape: DiffusionShape) -> tuple[int, int]:
    return shape.spatial_dims, shape.multiple


FORMATS: Mapping[str, Format] = {
    "monai-autoencoder-kl": Format(
        "codec", "autoencoder_kl", "monai", lambda c: _of_kl(kl_shape(c)), lambda c, s: renamed(s, MONAI_KL_KEYS)
    ),
    "diffusers-autoencoder-kl": Format(
        "codec", "autoencoder_kl", "diffusers", lambda c: _of_kl(diffusers_kl_shape(c)[0]),
        lambda c, s: renamed_from_diffusers(s, diffusers_kl_shape(c)[0]),
    ),
    "monai-diffusion-unet": Format(
        "model", "diffusion_unet", "monai", lambda c: _of_unet(monai_diffusion_shape(c)), lambda c, s: renamed(s,
        MONAI_KEYS)
    ),
    "diffusers-unet-2d": Format(
        "model", "diffusion_unet", "diffusers", lambda c: _of_unet(diffusers_shape(c)), lambda c, s: renamed(s,
        DIFFUSERS_KEYS)
    ),
}  # fmt: skip


def import_weights(file: Path, kind: str, config: Path, card: Path, out: Path, say: Say) -> RunFolder:
    """A run folder with one finished stage, `codec` or (of a denoiser) `model`; nothing is written where anything does
    not fit.

    Raises ValueError with what is missing, unknown or of another shape, and UnreadableError for a file that holds code.
    """
    if kind not in FORMATS:
        raise unknown("format", kind, list(FORMATS))
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise ValueError(f"{out} is there already. Name a new folder: --out RUN")
    how, said, plain = FORMATS[kind], Card.read(card), _json(config)
    dimensions, multiple = how.axes(plain)
    axes = "yx" if dimensions == 2 else "zyx"
    run = RunFolder(out, from_plain(_recipe(how, said, axes, plain, card), str(out)))
    stage = run.recipe.stage(how.stage)
    family = build_family(stage, stage.build_job(), "fp32")
    assert isinstance(family, ImportedAutoencoder | ImportedDenoiser)
    state = placed(family.net, how.renamed(plain, read_weights(file)), file)
    family.net.load_state_dict(state)
    facts = _facts(said, how.stage, axes, multiple, {"file": file.name, "sha256": hash_of(file)})
    run.write_recipe()
    facts["parameters"] = sum(p.numel() for p in family.parameters())
    checkpoint.save(run.home(stage), checkpoint.pack(family, family, {}), facts)
    say(f"{len(state)} tensors of {file.name} ({said.licence}) are the stage {how.stage} of {out}.")
    seen = said.seen or "not known"
    say(f"Whom they have seen is {seen}: no check here can tell whether your test patients were among them.")
    return run


def _recipe(how: Format, card: Card, axes: str, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Of a run that holds one stage whose weights come from elsewhere; its scans are not here."""
    family = {"name": how.family, "config": dict(config), "scale": list(card.scale()), "by": how.by}
    drawing = {"size": card.size, "noise": card.noise, "given": card.given, "classes": card.classes}
    if how.stage == "codec" and (odd := [name for name, value in drawing.items() if value]):
        raise ValueError(f"The card {path} says {odd[0]}, which belongs to a denoiser. Take it out.")
    if how.stage == "model":
        if len(card.size) != len(axes):
            raise ValueError(f"The card {path} says no size, which a denoiser draws. Write size: [64, 64]")
        family["noise"] = dict(card.noise)
        units = {name: field_of(name).unit for name in (card.contrast, *card.given)}
        if odd := [name for name, unit in units.items() if unit != units[card.contrast]]:
            raise ValueError(
                f"The card {path} gives {odd[0]} in {units[odd[0]]} beside {card.contrast} in {units[card.contrast]}:"
                " its intensities say one scale. Weights whose given images have another unit are not read."
            )
    return stage_of_others(how.stage, family, card.contrast, axes, card.given, card.classes)


def placed(net: nn.Module, state: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors of a network by its names; raises ValueError that lists what is missing, unknown or misshapen."""
    own, given = net.state_dict(), dict(state)
    for name in own:  # the older layout calls the convolution after an enlargement `conv`
        older = name.replace(".postconv.", ".conv.")
        if name not in given and older != name and older in given:
            given[name] = given.pop(older)
    lists = {
        "missing": [n for n in own if n not in given],
        "unknown": [n for n in given if n not in own],
        "of another shape": [n for n in own if n in given and given[n].shape != own[n].shape],
    }
    wrong = [f"{what}: {_some(names)}" for what, names in lists.items() if names]
    if wrong:
        raise ValueError(f"{file} does not fit its configuration. {'; '.join(wrong)}. Name the right --config.")
    spoilt = [n for n, t in given.items() if not bool(torch.isfinite(t.float()).all())]
    if spoilt:
        raise ValueError(f"{file}: {spoilt[0]} holds numbers that are none. Copy it again.")
    return {n: t.to(own[n].dtype) for n, t in given.items()}


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:SHOWN])}{' ...' * (len(names) > SHOWN)} ({len(names)})"


def _facts(card: Card, stage: str, axes: str, factor: int, origin: Mapping[str, str]) -> dict[str, Any]:
    spacing = tuple(float(v) for v in card.spacing_mm)
    multiple = max(16, factor)
    sides = tuple(card.size) if stage == "model" else (multiple,) * len(axes)
    if odd := [n for n in sides if type(n) is not int or n < 1 or n % factor]:
        raise ValueError(f"The card's size holds {odd[0]!r}, expected multiples of {factor}.")
    size = (1 if axes == "yx" else sides[0], sides[-2], sides[-1])
    units = {name: field_of(name).unit for name in (card.contrast, *card.given)}
    known = {name: unit for name, unit in units.items() if unit in SCALES}
    scales = {n: (SCALES[u].offset, SCALES[u].width) if u in SCALES else (0.0, 1.0) for n, u in units.items()}
    preparation = GridPreparation(axes, (spacing[0], spacing[-2], spacing[-1]), size, scales, multiple, known)
    return {
        "stage": stage, "precision": "fp32", "float32_layers": [], "batch": 1, "device": "cpu", "threads": 1,
        "seed": 0, "preparation": plain_preparation(preparation), "reference": card.contrast, "size": list(size),
        "trained_on": [],
        "step": 1, "total": 1, "seconds": 0.0, "curve": [],
        "imported": {**origin, "licence": card.licence, "source": card.source, "seen": card.seen},
    }  # fmt: skip


def _json(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"There is no configuration at {path}. Name the JSON of the network: --config FILE") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}). Name the JSON of the network: --config FILE") from error
    if not isinstance(plain, dict):
        raise ValueError(f"{path} holds no mapping. Name the JSON of the network: --config FILE")
    return plain
