"""Weights that others have published as a run: their numbers, and a card that says what the numbers mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from ..contracts import SCALES
from ..data.prepare import GridPreparation, plain_preparation
from ..data.vocabulary import field_of
from ..deliver.record import hash_of
from ..families import ImportedAutoencoder
from ..io.weights import read_weights
from ..learning import checkpoint
from ..networks.imported import kl_shape, renamed
from ..recipe.checks import from_plain
from ..recipe.short_form import codec_of_others
from ..recipe.text import parse
from ..registry import check_type, unknown
from .family import build_family
from .folder import RunFolder

Say = Callable[[str], None]
FORMATS = ("monai-autoencoder-kl",)
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


def import_weights(file: Path, kind: str, config: Path, card: Path, out: Path, say: Say) -> RunFolder:
    """A run folder with one finished stage, `codec`; nothing is written where anything does not fit.

    Raises ValueError with what is missing, unknown or of another shape, and UnreadableError for a file that holds code.
    """
    if kind not in FORMATS:
        raise unknown("format", kind, list(FORMATS))
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise ValueError(f"{out} is there already. Name a new folder: --out RUN")
    said, plain = Card.read(card), _json(config)
    shape = kl_shape(plain)
    axes = "yx" if shape.spatial_dims == 2 else "zyx"
    recipe = codec_of_others(said.contrast, axes, plain, said.scale())
    run = RunFolder(out, from_plain(recipe, str(out)))
    codec = run.recipe.stage("codec")
    family = build_family(codec, codec.build_job(), "fp32")
    assert isinstance(family, ImportedAutoencoder)
    state = placed(family.net, renamed(read_weights(file)), file)
    family.net.load_state_dict(state)
    run.write_recipe()
    facts = _facts(said, axes, shape.factor, {"file": file.name, "sha256": hash_of(file)})
    facts["parameters"] = sum(p.numel() for p in family.parameters())
    checkpoint.save(run.home(codec), checkpoint.pack(family, family, {}), facts)
    say(f"{len(state)} tensors of {file.name} ({said.licence}) are the stage codec of {out}.")
    seen = said.seen or "not known"
    say(f"Whom they have seen is {seen}: no check here can tell whether your test patients were among them.")
    return run


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


def _facts(card: Card, axes: str, factor: int, origin: Mapping[str, str]) -> dict[str, Any]:
    spacing = tuple(float(v) for v in card.spacing_mm)
    multiple, unit = max(16, factor), field_of(card.contrast).unit
    size = (1 if axes == "yx" else multiple, multiple, multiple)
    known = {} if unit not in SCALES else {card.contrast: unit}
    own = SCALES.get(unit)
    scales = {card.contrast: (own.offset, own.width) if own else (0.0, 1.0)}
    preparation = GridPreparation(axes, (spacing[0], spacing[-2], spacing[-1]), size, scales, multiple, known)
    return {
        "stage": "codec", "precision": "fp32", "float32_layers": [], "batch": 1, "device": "cpu", "threads": 1,
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
