"""What a short recipe stands for: a family that works in words, named alone, is a codec and what draws its words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .contracts import Family, Job
from .families import FAMILIES
from .jobs import JOBS, job_options
from .networks.unet import UNetShape
from .registry import build
from .strict import AtError

CODEC, DRAWER = "vq", "autoregressive"
SHARE = 1 / 3  # of the budget, for the codec
MODEL = ("pairing", "sampler", "guidance")


def written_out(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """A flat recipe of `family: vq`, or of `autoregressive` on other than label maps, as two stages; any other as it is.

    The codec has a third of the budget and the network that the recipe says; what draws words has the rest and its two deepest
    levels. Whatever is wrong with the recipe is left for those who read it.
    """
    family, job = plain.get("family"), _job(plain.get("job"))
    options = dict(family) if isinstance(family, Mapping) else {"name": family}
    if "stages" in plain or job is None or {"in", "run"} & set(options) or not _needs_words(options.get("name"), job):
        return plain
    network = options.pop("network", {})
    if not isinstance(network, Mapping):
        return plain
    own = {k: v for k, v in options.items() if k != "name"}
    asked, x = job.signature(), plain["job"].get("x") if isinstance(plain["job"], Mapping) else None
    shared = {"prepare": plain["prepare"]} if "prepare" in plain else {}
    if isinstance(plain.get("train"), Mapping) and "start" in plain["train"]:
        raise AtError(
            "train.start",
            f"{options['name']} is two stages, and weights are of one. Write both out, as in recipes/words.yaml",
        )
    whole = {
        k: v for k, v in network.items() if k != "kind" or options["name"] == CODEC
    }  # codecs are made of convolutions
    codec = {
        "job": {"name": "synthesis", "x": x if isinstance(x, list | tuple) else [f.name for f in asked.x], "axes": asked.axes, "place": False},
        "family": {"name": CODEC, "network": whole, **(own if options["name"] == CODEC else {})},
        "train": _part(plain.get("train", {}), SHARE), **shared,
    }  # fmt: skip
    levels = network.get("channels", UNetShape().channels)
    narrow = {**network, "patch": 1, "channels": levels[-2:] if isinstance(levels, list | tuple) else levels}
    model = {
        "job": plain["job"], "train": _part(plain.get("train", {}), 1 - SHARE), **shared,
        "family": {"name": DRAWER, "in": {"stage": "codec"}, "network": narrow, **(own if options["name"] == DRAWER else {})},
        **{k: plain[k] for k in MODEL if k in plain},
    }  # fmt: skip
    rest = {k: v for k, v in plain.items() if k not in ("job", "family", "train", "prepare", *MODEL)}
    return {**rest, "stages": {"codec": codec, "model": model}}


def _needs_words(name: Any, job: Job) -> bool:
    """Does a family of this name work in words, and are the job's images none that it takes as they are?"""
    kind, kinds = _family(name), {f.kind for f in job.signature().x}
    if kind is None or not kinds <= {"intensity", "label"}:
        return False
    return name == CODEC or (name == DRAWER and not kinds <= set(kind.learns))


def _family(name: Any) -> type[Family] | None:
    try:
        return FAMILIES.find(str(name))
    except ValueError:
        return None


def _job(value: Any) -> Job | None:
    options = dict(value) if isinstance(value, Mapping) else {"name": value}
    name = options.pop("name", None)
    try:
        return build(f"job {name!r}", JOBS.find(str(name)), job_options(options))
    except (ValueError, TypeError):
        return None


def _part(train: Any, share: float) -> Any:
    """As much of the budget, at least a step."""
    if not isinstance(train, Mapping):
        return train
    kept = {k: v for k, v in train.items() if k not in ("steps", "minutes")}
    steps, minutes = train.get("steps"), train.get("minutes")
    kept |= (
        {"steps": max(1, round(steps * share)) if type(steps) is int and steps > 0 else steps}
        if "steps" in train
        else {}
    )
    kept |= (
        {"minutes": minutes * share if isinstance(minutes, int | float) and minutes is not True else minutes}
        if "minutes" in train
        else {}
    )
    return kept
