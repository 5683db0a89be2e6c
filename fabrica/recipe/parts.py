"""Parts of a recipe, each by itself: cohorts and their split, budgets, grids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..contracts import Family
from ..data.cone_beam import ConeBeam
from ..data.sharded import check_installed
from ..data.simulated_days import SimulatedDays
from ..data.simulated_events import SimulatedEvents
from ..data.simulated_plans import SimulatedPlans
from ..data.units import check_unit
from ..data.virtual import VirtualCohort, VirtualHearts
from ..families import FAMILIES, RUNTIME
from ..machine.stores import place
from ..networks.unet import UNetShape
from ..registry import check_options, check_type, unknown
from .strict import AtError, dataclass_of, guard, known_keys, named, whole
from .values import (
    CohortPlan,
    Named,
    PreparePlan,
    PrivacyPlan,
    TrainPlan,
)


def is_paired(value: Any, family: type[Family], at: str) -> bool:
    """Whether targets are of the condition's patient; refused where the family needs the other."""
    if value not in ("patient", "none"):
        raise AtError(at, f"pairing is {value!r}. Write: pairing: none, or leave it out")
    if value == "none" and not family.unpaired:
        raise AtError(at, f"{family.__name__} needs pairs. Write: family: {{name: cycle}}")
    if value == "patient" and family.unpaired:
        raise AtError(at, f"{family.__name__} learns without pairs. Write: pairing: none")
    return bool(value == "patient")


def check_name(name: str, at: str) -> None:
    """Names become folders: letters, digits, '_', '-' and '.', a letter or digit first."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise AtError(at, f"{name!r} cannot name a folder. Use letters, digits, _ and -, such as: to_flair")


PRIVATE_BATCH = 64  # patients of a private step, where a recipe says no other number: noise is shared out over them


def train_plan(value: Mapping[str, Any], at: str) -> TrainPlan:
    """With its promise of privacy, where it makes one."""
    plain = {k: v for k, v in value.items() if k != "privacy"}
    train: TrainPlan = dataclass_of(TrainPlan, plain, at)
    if (asked := value.get("privacy")) is None:
        return train
    privacy: PrivacyPlan = dataclass_of(PrivacyPlan, asked, f"{at}.privacy")
    if not (privacy.epsilon > 0 and 0 < privacy.delta < 1 and privacy.clip > 0):
        raise AtError(
            f"{at}.privacy",
            "privacy needs epsilon and clip above 0, and delta between 0 and 1. Write: privacy: {epsilon: 8, delta:"
            " 1.0e-5}",
        )
    if any(v <= 0 for v in privacy.scales.values()):
        raise AtError(f"{at}.privacy.scales", "a scale is a positive number. Write: scales: {T1w: 1000}")
    if train.steps is None:
        raise AtError(f"{at}.privacy", "what a private training spends is counted in steps. Write: train: {steps: 500}")
    return replace(train, privacy=privacy, batch=train.batch or PRIVATE_BATCH)


def check_train(train: TrainPlan, at: str) -> None:
    if train.canaries < 0 or train.canaries > 64:
        raise AtError(f"{at}.canaries", f"train.canaries is {train.canaries}, expected 0 to 64. Write: canaries: 8")
    if train.steps is not None and train.minutes is not None:
        raise AtError(at, "train has steps and minutes. Keep one: train: {minutes: 5}")
    if train.steps is None and train.minutes is None:
        raise AtError(at, "train has no budget. Write: train: {minutes: 5}")
    amounts = (train.steps, train.minutes, train.batch, train.learning_rate)
    if any(amount is not None and amount <= 0 for amount in amounts):
        raise AtError(
            at, "train.steps, minutes, batch and learning_rate must be positive. Write: train: {minutes: 5, batch: 8}"
        )
    if train.precision not in ("auto", "bf16", "fp32"):
        raise AtError(
            f"{at}.precision", f"train.precision is {train.precision!r}. Write: precision: auto, bf16 or fp32"
        )
    if not 0 <= train.augment <= 3:
        raise AtError(
            f"{at}.augment", f"train.augment is {train.augment}, expected a strength from 0 to 3. Write: augment: 1"
        )
    if train.rank is not None and (train.rank < 1 or train.start is None or train.privacy is not None):
        raise AtError(
            f"{at}.rank",
            f"train.rank is {train.rank}, expected 1 or more beside weights to start from, without privacy. Write:"
            " train: {start: RUN/stages/STAGE, rank: 8}, or type: fabrica adapt RUN --data DIR --out RUN2",
        )
    if not 0 <= train.average < 1:
        raise AtError(
            f"{at}.average", f"train.average is {train.average}, expected a decay in [0, 1). Write: average: 0.999"
        )


def check_control(network: UNetShape, train: TrainPlan, within: object, at: str) -> None:
    """A control branch stands beside weights that are trained already, and needs them."""
    if network.control and (train.start is None or train.rank is not None or train.privacy is not None or within):
        raise AtError(
            at,
            "a control branch stands beside a network that another run has trained on the images themselves. Write:"
            " train: {start: RUN/stages/model, ...}, without rank, privacy and family.in",
        )


def check_prepare(prepare: PreparePlan, axes: str, at: str) -> None:
    wanted = (2, 3) if axes == "yx" else (3,)
    whole(prepare.multiple, f"{at}.multiple")
    if prepare.store == "zarr":
        guard(f"{at}.store", check_installed)
    for name, value in (("spacing_mm", prepare.spacing_mm), ("size", prepare.size)):
        if value is not None and (len(value) not in wanted or any(v <= 0 for v in value)):
            raise AtError(
                f"{at}.{name}", f"prepare.{name} is {list(value)}, expected {wanted[-1]} positive numbers (z, y, x)."
            )
    if prepare.spacing_mm is not None and not prepare.resample:
        raise AtError(f"{at}.resample", "prepare names a spacing and says not to resample. Take one of them out")
    if prepare.spacing_mm is not None and not all(0.05 <= s <= 50 for s in prepare.spacing_mm):
        raise AtError(
            f"{at}.spacing_mm",
            f"prepare.spacing_mm is {list(prepare.spacing_mm)}; is the unit mm? Expected 0.05 to 50.",
        )
    if prepare.size is not None and any(v % 8 for v in prepare.size[-2:]):
        raise AtError(f"{at}.size", f"prepare.size is {list(prepare.size)}, expected multiples of 8, better of 16.")


def check_multiple(prepare: PreparePlan, family: Family, axes: int, at: str) -> None:
    """Sides of the grid, or of training patches, are what the network can be called with."""
    needed = family.multiple
    if prepare.size is None and prepare.multiple % needed:
        raise AtError(
            f"{at}.multiple",
            f"prepare.multiple is {prepare.multiple}, and the network needs sides that are multiples of {needed}. "
            f"Write: prepare: {{multiple: {needed}}}, or fewer levels",
        )
    if prepare.size is not None and any(side % needed for side in prepare.size[-axes:]):
        raise AtError(
            f"{at}.size",
            f"prepare.size is {list(prepare.size)}, and the network needs sides that are multiples of {needed}. "
            "Round them up, or use fewer levels",
        )


ADDED: Mapping[str, type[Any]] = {  # what is simulated of a cohort's patients
    "cone_beam": ConeBeam, "plans": SimulatedPlans, "days": SimulatedDays, "events": SimulatedEvents,
}  # fmt: skip


def cohort_plan(value: Any, at: str) -> CohortPlan:
    if not isinstance(value, Mapping) or sum(key in value for key in ("path", "virtual", "hearts")) != 1:
        raise AtError(
            at,
            "a cohort has either a path or a virtual block, or hearts. Write: {path: DIR} or {virtual: {patients: 24}}",
        )
    known_keys(value, at, ("path", "table", "virtual", "hearts", "units", *ADDED))
    added = {k: v for k, v in value.items() if k in ADDED and v is not None}
    if added:
        plan = cohort_plan({k: v for k, v in value.items() if k not in ADDED}, at)
        made = {
            k: guard(f"{at}.{k}", lambda k=k, v=v: dataclass_of(ADDED[k], v, f"{at}.{k}")) for k, v in added.items()
        }
        return replace(plan, **made)
    if "hearts" in value:
        hearts = dataclass_of(VirtualHearts, value["hearts"], f"{at}.hearts")
        guard(f"{at}.hearts", hearts.cohort)
        return CohortPlan(virtual=hearts)
    if "virtual" in value:
        virtual = dataclass_of(VirtualCohort, value["virtual"], f"{at}.virtual")
        guard(f"{at}.virtual", virtual.cohort)
        return CohortPlan(virtual=virtual)
    units = value.get("units", {})
    guard(f"{at}.units", lambda: check_type(f"{at}.units", units, Mapping[str, str]))
    said = {str(n): guard(f"{at}.units", lambda n=n, u=u: check_unit(str(n), u)) for n, u in units.items()}
    path, told = (
        guard(f"{at}.{key}", lambda key=key: place(str(value[key])).expanduser()) if value.get(key) else None
        for key in ("path", "table")
    )
    return CohortPlan(path, told, units=said)


def split_plan(value: Any, cohorts: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise AtError("split", f"split is {value!r}. Write: split: {{train: 0.8, test: 0.2}}")
    known_keys(value, "split", ("unit", "train", "validate", "calibrate", "test", "by", "only_train", "seed"))
    only = value.get("only_train", [])
    if not isinstance(only, list):
        raise AtError("split.only_train", f"split.only_train is {only!r}. Write: only_train: [{cohorts[0]}]")
    for name in only:
        if name not in cohorts:
            raise AtError("split.only_train", str(unknown("cohort", str(name), cohorts)))
    guard("split.seed", lambda: check_type("split.seed", value.get("seed", 0), int))
    if value.get("unit", "patient") != "patient":
        raise AtError(
            "split.unit", f"split.unit is {value['unit']!r}; slices of one patient would leak. Write: unit: patient"
        )
    parts = {k: v for k, v in value.items() if k not in ("unit", "by", "only_train", "seed")}
    names = [isinstance(v, list) for v in parts.values()]
    if any(names) and not all(names):
        raise AtError("split", "split mixes names and fractions. Write: split: {train: [p07], test: [p19]}")
    if not any(names):
        for part, share in parts.items():
            guard(f"split.{part}", lambda part=part, share=share: check_type(f"split.{part}", share, float))
        if not 0 < sum(parts.values()) <= 1 + 1e-6 or min(parts.values()) < 0:
            raise AtError(
                "split",
                f"split adds up to {sum(parts.values()):g}, expected at most 1. Write: split: {{train: 0.8, test:"
                " 0.2}",
            )
    return value


def family_named(value: Any, at: str) -> tuple[Named, UNetShape]:
    family = named(value, at)
    family_class = guard(f"{at}.name", lambda: FAMILIES.find(family.name))
    options = {k: v for k, v in family.options.items() if k != "in"}
    network = dataclass_of(UNetShape, options.pop("network", {}), f"{at}.network", tuples=("channels", "control"))
    guard(at, lambda: check_options(f"family {family.name!r}", family_class, options, RUNTIME))
    return Named(family.name, options), network
