"""A stage whose weights stay, with a thin change beside them that is trained: how it starts, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..contracts import Family
from ..learning import checkpoint
from ..learning.loop import Trained
from ..networks.adapters import adapt, factors, merge
from ..networks.control import Controlled
from ..recipe.values import TrainPlan

Say = Callable[[str], None]
RATE = 1e-3  # of the thin factors, where a recipe says none: three times as much unlearns (results/foundation.md)


def with_adapter(family: Family, plan: TrainPlan, say: Say) -> TrainPlan:
    """The family with the weights that it starts from, frozen beside thin changes; returns the plan of what is left.

    Raises CheckpointError for weights of another network.
    """
    assert plan.start is not None  # the recipe was checked
    assert plan.rank is not None
    weights, _ = checkpoint.weights_in(Path(plan.start))
    checkpoint.into(
        family, weights, f"The weights in {plan.start} do not fit. Adapt with the same job, family and network."
    )
    total = sum(p.numel() for p in family.parameters())
    trained = {p for group in family.groups().values() for p in group}
    learned = adapt(family, trained, plan.rank)
    say(f"An adapter of rank {plan.rank}: {learned:,} parameters learn, {total:,} stay as they are.")
    return replace(plan, start=None, learning_rate=plan.learning_rate or RATE)


def kept_apart(trained: Trained, plan: TrainPlan, home: Path) -> Trained:
    """Of a finished training the thin factors alone stay in its checkpoint; the family that draws has them merged."""
    assert plan.start is not None
    found = checkpoint.load(home)
    assert found is not None  # it was saved a moment ago
    facts = {k: v for k, v in found[1].items() if k != "format"}
    start = Path(plan.start)
    facts["adapter"] = {"start": str(start), "sha256": checkpoint.tensors_hash(start), "rank": plan.rank}
    checkpoint.save(home, factors(trained.family), facts)
    merge(trained.family)
    return trained


def with_control(family: Family, plan: TrainPlan, begins: bool, say: Say) -> None:
    """The family's network beside the one that it starts from, which stays; its branch `begins` as a copy, or goes on.

    Raises CheckpointError for weights of another network.
    """
    assert plan.start is not None  # the recipe was checked
    weights, _ = checkpoint.weights_in(Path(plan.start))
    fault = f"The weights in {plan.start} do not fit. Control a stage of the same family and network, without the mask."
    nets = [net for net in family.modules() if isinstance(net, Controlled)]
    if not begins:  # its own checkpoint holds all weights
        for net in nets:
            net.base.requires_grad_(False)
        return
    found = {k.removeprefix("net."): v for k, v in weights.items() if k.startswith("net.")}
    if len(nets) != 1 or len(found) != len(weights):
        raise checkpoint.CheckpointError(fault)
    try:
        nets[0].start_from(found)
    except (RuntimeError, KeyError) as error:
        raise checkpoint.CheckpointError(f"{fault} ({str(error).splitlines()[-1].strip()[:120]})") from error
    learned = sum(p.numel() for p in family.parameters() if p.requires_grad)
    say(f"A control branch: {learned:,} parameters learn, {sum(p.numel() for p in nets[0].base.parameters()):,} stay.")
