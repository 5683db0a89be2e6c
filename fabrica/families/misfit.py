"""How far an answer is from its target, by the kind of each field: robust distance, cross-entropy with soft Dice, or
how likely a course was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..contracts import Field, Problem
from ..registry import unknown
from .losses import PAIRED, REGIONAL, robust_distance
from .precondition import wide


def field_terms(
    problem: Problem, output: Tensor, fields: Sequence[Field], robust: float = 0.01
) -> Mapping[str, Tensor]:
    """Named terms, (B,) each: Charbonnier distance for intensities, cross-entropy + (1 - soft Dice) for labels, and of
    events the negative logarithm of their likelihood.

    `output` holds intensities and, for label and class channels, logits. Unknown targets count by `problem.weight`.
    """
    target, weight = _known(problem)
    terms: dict[str, Tensor] = {}
    start = 0
    for field in fields:
        part = slice(start, start + field.channels)
        start += field.channels
        if field.kind in ("label", "class"):
            terms[field.name] = _label_term(output[:, part], target[:, part], weight[:, part])
        elif field.kind == "event":
            terms[field.name] = _course_term(output[:, part], target[:, part], weight[:, part])
        else:
            terms[field.name] = _mean(robust_distance(output[:, part], target[:, part], robust), weight[:, part])
    return terms


def check_losses(losses: Mapping[str, float]) -> dict[str, float]:
    """Weights of added terms by their names in the table of losses. Raises ValueError for other names and negative
    weights.
    """
    for name, weight in losses.items():
        if name not in PAIRED and name not in REGIONAL:
            raise unknown("loss", name, [*PAIRED, *REGIONAL])
        if not weight >= 0:
            raise ValueError(f"The loss {name} has the weight {weight}, expected 0 or more.")
    return dict(losses)


def added_terms(
    problem: Problem, output: Tensor, fields: Sequence[Field], losses: Mapping[str, float]
) -> Mapping[str, Tensor]:
    """Weighted losses of the table, (B,) each, of all fields together as `answer` gives them; what is unknown is zero
    on both sides.
    """
    if not losses:
        return {}
    target, weight = _known(problem)
    x, y = answer(output, fields).float() * weight, target * weight
    found = {name: share * PAIRED[name](x, y) for name, share in losses.items() if name in PAIRED}
    for name in losses.keys() & REGIONAL.keys():
        found[name] = losses[name] * _regional(problem, x, y, name)
    return found


def _regional(problem: Problem, x: Tensor, y: Tensor, name: str) -> Tensor:
    """(B,): a loss over the regions of a problem, a mean over those that a row has. Raises ValueError without any."""
    if not problem.regions:
        raise ValueError(f"The loss {name} compares values in structures, and this job has none. Take it out.")
    ground = 0 if problem.ground is None else problem.ground
    there = torch.stack([inside.flatten(1).any(1) for inside in problem.regions.values()]).float()
    each = torch.stack([REGIONAL[name](x + ground, y + ground, inside) for inside in problem.regions.values()])
    total: Tensor = (each * there).sum(0) / there.sum(0).clamp(min=1)
    return total


def squared(problem: Problem, output: Tensor, scale: Tensor) -> Tensor:
    """(B,): mean of scale * (output - target)^2 over what is known."""
    target, weight = _known(problem)
    return _mean(scale * (output - target) ** 2, weight)


def distance(problem: Problem, output: Tensor, wanted: Tensor, scale: Tensor, robust: float = 0.03) -> Tensor:
    """(B,): pseudo-Huber of the root mean square of scale * (output - wanted) over what is known; scale (B,)."""
    _, weight = _known(problem)
    square = _mean((wide(scale, output) * (output - wanted)) ** 2, weight)
    return (square + robust**2).sqrt() - robust


def answer(output: Tensor, fields: Sequence[Field]) -> Tensor:
    """Logits of label channels and of hazards become probabilities; intensities stay."""
    parts, start = [], 0
    for field in fields:
        part = output[:, start : start + field.channels]
        start += field.channels
        if field.kind in ("label", "class"):
            part = part.softmax(1)
        elif field.kind == "event" and field.channels > 1:
            part = part.sigmoid()
        parts.append(part)
    return torch.cat(parts, 1)


def _known(problem: Problem) -> tuple[Tensor, Tensor]:
    if problem.target is None:
        raise ValueError(
            f"Training needs targets; {problem.cases[0]} has none. Leave such cases out of the training part."
        )
    weight = torch.ones_like(problem.target) if problem.weight is None else problem.weight.expand_as(problem.target)
    return problem.target, weight


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1.0)


def _course_term(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Of hazards: cross-entropy in every interval that a row was followed through. Of one log-risk: the partial
    likelihood among the rows of the batch (Cox 1972, ties by Breslow); its target is the time, negative where censored.
    """
    if output.shape[1] > 1:
        return (F.binary_cross_entropy_with_logits(output, target, reduction="none") * weight).sum(1)
    time, risk = target[:, 0].abs(), output[:, 0].float()
    at_risk = time[None, :] >= time[:, None]
    among = torch.where(at_risk, risk[None, :], -torch.inf).logsumexp(1)
    return (among - risk) * (target[:, 0] > 0) * weight[:, 0]


def _label_term(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    entropy = -(target * F.log_softmax(logits, 1)).sum(1)
    if logits.ndim == 2:  # a class without a place: nothing overlaps
        return _mean(entropy[:, None], weight[:, :1])
    chances, w = logits.softmax(1)[:, 1:].flatten(2), weight[:, 1:].flatten(2)
    wanted = target[:, 1:].flatten(2)
    overlap = (2 * (chances * wanted * w).sum(2) + 1) / (((chances + wanted) * w).sum(2) + 1)
    return _mean(entropy, weight[:, 0]) + (1 - overlap).mean(1)
