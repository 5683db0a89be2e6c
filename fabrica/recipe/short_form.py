"""What a short recipe stands for: a family in codes or words, named in one line, is a codec and what draws its
codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..contracts import Family, Job
from ..families import FAMILIES
from ..jobs import JOBS, job_options
from ..networks.unet import UNetShape
from ..registry import build
from .strict import AtError

CODEC, DRAWER = "vq", "autoregressive"
CODECS: Mapping[str, Mapping[str, Any]] = {  # `in: vae`; what a codec is where others draw its codes
    "vae": {"name": "vae", "kl": 0.01, "rungs": 0, "codes": 4},
    "vq": {"name": "vq"},
}
SHARE = 1 / 3  # of the budget, for the codec
MODEL = ("pairing", "sampler", "guidance")


def written_out(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """A flat recipe of `family: vq`, of `autoregressive` on other than label maps, or of any family `in: vae` or `in:
    vq`, as two stages; any other as it is.

    The codec has a third of the budget and the network that the recipe says; what draws words has the rest and its two
    deepest levels. Whatever is wrong with the recipe is left for those who read it.
    """
    family, job = plain.get("family"), _job(plain.get("job"))
    options = dict(family) if isinstance(family, Mapping) else {"name": family}
    if "stages" in plain or job is None or "run" in options:
        return plain
    pair = _pair(options, job)
    if pair is None:
        return plain
    network = options.pop("network", {})
    if not isinstance(network, Mapping):
        return plain
    coder, drawer = pair
    own = {k: v for k, v in options.items() if k not in ("name", "in")}
    owner = CODEC if options["name"] == CODEC and "in" not in options else drawer
    asked, x = job.signature(), plain["job"].get("x") if isinstance(plain["job"], Mapping) else None
    shared = {"prepare": plain["prepare"]} if "prepare" in plain else {}
    if isinstance(plain.get("train"), Mapping) and "start" in plain["train"]:
        raise AtError(
            "train.start",
            f"{options['name']} is two stages, and weights are of one. Write both out, as in recipes/words.yaml",
        )
    whole = {k: v for k, v in network.items() if k != "kind" or owner == CODEC}  # codecs are made of convolutions
    codec = {
        "job": {
            "name": "synthesis",
            "x": x if isinstance(x, list | tuple) else [f.name for f in asked.x],
            "axes": asked.axes,
            "place": False,
        },
        "family": {**coder, "network": whole, **(own if owner == CODEC else {})},
        "train": _part(plain.get("train", {}), SHARE),
        **shared,
    }
    levels = network.get("channels", UNetShape().channels)
    narrow = {**network, "patch": 1, "channels": levels[-2:] if isinstance(levels, list | tuple) else levels}
    model = {
        "job": plain["job"], "train": _part(plain.get("train", {}), 1 - SHARE), **shared,
        "family": {"name": drawer, "in": {"stage": "codec"}, "network": narrow, **(own if owner != CODEC else {})},
        **{k: plain[k] for k in MODEL if k in plain},
    }  # fmt: skip
    rest = {k: v for k, v in plain.items() if k not in ("job", "family", "train", "prepare", *MODEL)}
    return {**rest, "stages": {"codec": codec, "model": model}}


def _pair(options: Mapping[str, Any], job: Job) -> tuple[Mapping[str, Any], str] | None:
    """(the codec, the family that draws its codes), or None where there is but one family: told, or since it works in
    words.
    """
    name, inner = options.get("name"), options.get("in")
    kind, kinds = _family(name), {f.kind for f in job.signature().x}
    if kind is None or not kinds <= {"intensity", "label"}:
        return None
    if isinstance(inner, str) and inner in CODECS:
        return CODECS[inner], str(name)
    if "in" not in options and (name == CODEC or (name == DRAWER and not kinds <= set(kind.learns))):
        return CODECS[CODEC], DRAWER
    return None


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


def codec_of_others(contrast: str, axes: str, config: Mapping[str, Any], scale: Sequence[float]) -> dict[str, Any]:
    """The recipe of a run that holds one codec whose weights come from elsewhere; its scans are not here."""
    job = {"name": "synthesis", "x": [contrast], "axes": axes, "place": False}
    family = {"name": "autoencoder_kl", "config": dict(config), "scale": list(scale)}
    stage = {"job": job, "family": family, "train": {"steps": 1}}
    return {"cohorts": {"unknown": {"path": "unknown"}}, "baseline": "none", "stages": {"codec": stage}}
