"""What a short recipe stands for: a family in codes or words, named in one line, is a codec and what draws its
codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

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
    inner = options.get("in")
    if isinstance(inner, Mapping) and "run" in inner:
        return _in_codes_of_others(plain, options)
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


def _in_codes_of_others(plain: Mapping[str, Any], options: Mapping[str, Any]) -> Mapping[str, Any]:
    """`in: {run: RUN, stage: codec}`: that run's codec as a stage of its own, beside the one that draws its codes."""
    inner = options["in"]
    name, at = inner.get("stage", "codec"), "family.in"
    if not set(inner) <= {"run", "stage"}:
        raise AtError(at, f"family.in is {dict(inner)!r}. Write: in: {{run: RUN, stage: codec}}")
    folder = Path(str(inner["run"])).expanduser()
    if not (folder / "recipe.yaml").is_file():
        raise AtError(f"{at}.run", f"{folder} is not a run: it holds no recipe.yaml. See: ls {folder.parent}")
    try:
        theirs = stages_of(folder / "recipe.yaml")
    except ValueError as error:
        raise AtError(f"{at}.run", str(error)) from error
    stage = theirs.get(name)
    if not isinstance(stage, Mapping) or "job" not in stage:
        raise AtError(f"{at}.stage", f"{folder} has no stage {name!r}. Stages: {', '.join(map(str, theirs))}")
    codec = {"job": stage["job"], "family": {"run": str(folder), "stage": name}}
    own = {k: v for k, v in plain.items() if k in ("job", "train", "prepare", *MODEL)}
    own["family"] = {**options, "in": {"stage": "codec"}}
    rest = {k: v for k, v in plain.items() if k not in (*own, "family")}
    return {**rest, "stages": {"codec": codec, "model": own}}


def stages_of(file: Path) -> Mapping[str, Any]:
    """The stages of a run's recipe; raises ValueError when it cannot be read."""
    try:
        plain = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file} cannot be read ({type(error).__name__}). Copy the run again, or name another."
        ) from error
    if not isinstance(plain, Mapping) or not isinstance(plain.get("stages", {}), Mapping):
        raise ValueError(f"{file} is damaged: it is no recipe. Copy the run again, or name another.")
    written = written_out(plain)
    stages: Mapping[str, Any] = written.get("stages") or {"model": written}
    return stages


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


def stage_of_others(
    name: str, family: Mapping[str, Any], contrast: str, axes: str, given: Sequence[str] = (),
    classes: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The recipe of a run that holds one stage whose weights come from elsewhere; its scans are not here."""
    job: dict[str, Any] = {"name": "synthesis", "x": [contrast], "axes": axes, "place": False}
    if given:
        job = {"name": "translation", "from": list(given), "x": [contrast], "axes": axes, "vary": 0.0}
    elif classes:
        job["by"] = {one: list(own) for one, own in classes.items()}
    stage = {"job": job, "family": dict(family), "train": {"steps": 1}}
    return {"cohorts": {"unknown": {"path": "unknown"}}, "baseline": "none", "stages": {name: stage}}
