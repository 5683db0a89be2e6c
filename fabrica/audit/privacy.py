"""Privacy of a subject: are draws copies, do its weights know whom they saw, were marks learned?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..contracts import Batch, Denoiser, Density, Family, Problem
from ..data.cases import Prepared, prepare_case
from ..data.cohort import Member, one_each
from ..data.store import question_batch, to_device
from ..evaluate.sets.embedding import Embedding
from ..evaluate.sets.feature import classifier_two_sample_test
from ..io import UnreadableError
from ..machine.executors import Executor, Local
from ..rng import Rng, derive
from ..run.family import trained_family
from ..run.marks import tags_of
from ..safeguards.gate import Check
from ..safeguards.privacy.canaries import TAGS, Exposure, canaries_check, exposure_of, pattern
from ..safeguards.privacy.copies import (
    Copies,
    Described,
    Nearest,
    assessable,
    copies_check,
    copy_test,
    described,
    nearest,
    overlap,
)
from ..safeguards.privacy.membership import FEWEST, Attack, attack, beside_shadows, membership_check
from ..safeguards.privacy.spaces import embedded, encoded, pixels, shared_scale, textures, variants
from .shadows import inside_of, shadows, why_no_shadows
from .subject import Subject

LOOKED_AT = 1000  # images of each side for the blind classifier
BLIND = 0.01  # its level: so often an honest audit is void by chance
MOST = 500  # patients of each side whom membership is told of
ROWS, REPEATS = 4, 6  # slices of a patient, and chances of the loss that are averaged
LEVELS = (0.2, 0.5, 1.0)  # noise at which proximal initialisation asks
CLEAN = 0.02
AT_ONCE = 64  # marks
Array = NDArray[np.float64]


@dataclass(frozen=True)
class CopiesFound:
    """The verdict on copies and what stands behind it."""

    check: Check
    test: Copies | None = None
    described: Described | None = None


def apart(subject: Subject) -> str:
    """Why both sides cannot be held against one another, '' where they can: shared people or images, or sides that a
    classifier tells apart that never saw the model (Zhang et al. 2024, on blind baselines).
    """
    train, held = subject.sides
    if seen := subject.seen_by_training():
        return seen
    if same := overlap(pixels(train.images), pixels(held.images)):
        return same
    if both := sorted(set(train.patients) & set(held.patients)):
        subject.say(f"On both sides: {', '.join(both[:5])}.")
        return f"{len(both)} patients are on both sides."
    chosen = [_some(len(side.images), subject.seed) for side in (train, held)]
    whose = [[side.patients[i] for i in rows] for side, rows in zip((train, held), chosen, strict=True)]
    if min(len(set(own)) for own in whose) < FEWEST:
        return ""  # nobody can be told apart by so few; other checks say that they are too few
    plain = [np.concatenate([t, c], 1) for t, c in zip(subject.textured, subject.coded, strict=True)]
    first, second = (rows[k] for rows, k in zip(plain, chosen, strict=True))
    told = classifier_two_sample_test(first, second, (whose[0], whose[1]), permutations=499, seed=subject.seed)
    if told.p_value is not None and told.p_value < BLIND:
        return (
            f"training and held-out images differ by themselves (a classifier that never saw the model is right in"
            f" {float(told):.0%}, p {told.p_value:.3f}): hold out people of the same scanners and kinds."
        )
    return ""


def _some(count: int, seed: int) -> NDArray[np.int_]:
    """All rows, or LOOKED_AT of them by chance."""
    if count <= LOOKED_AT:
        return np.arange(count)
    return np.random.Generator(np.random.Philox(key=derive(seed, "some"))).permutation(count)[:LOOKED_AT]


def copies(
    subject: Subject, made: Sequence[Tensor], void: str, embeddings: Mapping[str, Embedding] | None = None
) -> CopiesFound:
    """The copy test over pixels, textures, an encoder, and embeddings of the user's, at once."""
    train, held = subject.sides
    if why_not := assessable(len(made), train.patients, held.patients):
        return CopiesFound(copies_check(None, why_not))
    if void:
        return CopiesFound(copies_check(None, void=void))
    real = [*train.images, *held.images]
    trained = np.arange(len(real)) < len(train.images)
    turned = variants(made)
    spaces = {"pixels": nearest([pixels(part) for part in turned], pixels(real))}
    spaces["textures"] = _scaled([textures(made, subject.spacing_mm)], np.concatenate(subject.textured))
    known = np.concatenate(subject.coded)
    rows = [encoded(part) for part in turned[:2]]  # its coarse grid forgives shifts, not mirrors
    spaces["encoder"] = nearest(rows, known)
    for name, embedding in (embeddings or {}).items():
        drawn = [embedded(part, subject.spacing_mm, embedding) for part in turned[:2]]
        spaces[name] = _scaled(drawn, embedded(real, subject.spacing_mm, embedding))
    found = copy_test(spaces, [*train.patients, *held.patients], trained, subject.seed)
    told = described(rows[0], known[trained], known[~trained], subject.seed)
    return CopiesFound(copies_check(found), found, told)


def _scaled(rows: Sequence[Array], real: Array) -> Nearest:
    draws, known = shared_scale(rows, real)
    return nearest(draws, known)


@dataclass(frozen=True)
class MembershipFound:
    check: Check
    attacks: tuple[Attack, ...] = ()


def membership(subject: Subject, void: str, shadowed: int = 0, executor: Executor | None = None) -> MembershipFound:
    """Attacks by what the family's own losses say of each patient, by what else it can be asked, and by all of these
    beside so many shadow models. Raises ValueError where shadows are asked for and cannot be trained.
    """
    if void:
        return MembershipFound(membership_check((), void=void))
    family = _family(subject)
    if not family.groups():
        return MembershipFound(membership_check((), "it learns nothing of anybody"))
    if shadowed and (why_not := why_no_shadows(subject)):
        raise ValueError(f"--shadows: {why_not}.")
    asked = [_by_chance(members, subject.seed) for members in (subject.train, subject.held)]
    known = [{m.patient: told for m in members if (told := _scores(subject, family, m))} for members in asked]
    if (few := min(map(len, known))) < FEWEST:
        return MembershipFound(membership_check((), f"{few} patients on a side, {FEWEST} are needed"))
    sides = [_by_name(side, known) for side in known]
    if shadowed:
        beside = _beside(subject, [m for members in asked for m in members], known, shadowed, executor or Local())
        sides = [{**side, **more} for side, more in zip(sides, beside, strict=True)]
    inside, outside = sides
    found = tuple(attack(name, inside[name], outside[name], len(inside)) for name in inside)
    return MembershipFound(membership_check(found), found)


Told = dict[str, dict[str, float]]  # of each patient, by the name of an attack


def _by_name(side: Told, sides: Sequence[Told]) -> dict[str, Array]:
    """Scores of one side by the attacks that can be told of everybody."""
    first = next(iter(side.values()))
    names = [n for n in first if all(n in one for own in sides for one in own.values())]
    return {n: np.array([one[n] for one in side.values()]) for n in names}


def _beside(
    subject: Subject, members: Sequence[Member], known: Sequence[Told], count: int, executor: Executor
) -> list[dict[str, Array]]:
    """The same scores of both sides, less what models say that others have trained."""
    trained = shadows(subject, count, executor)
    told = []
    for number, shadow in enumerate(trained):
        family = _family(shadow.subject)
        told.append({m.patient: _scores(shadow.subject, family, m) for m in members})
        subject.say(f"{number + 1} of {count} shadow models asked.")
    sides = [[p for p in side if all(one[p] for one in told)] for side in known]
    people = [p for side in sides for p in side]
    if min(map(len, sides)) < FEWEST:
        raise ValueError(f"--shadows: they can be asked of fewer than {FEWEST} patients of a side.")
    found: list[dict[str, Array]] = [{}, {}]
    for name in _by_name(known[0], known):
        own = [side[p][name] for side, of in zip(known, sides, strict=True) for p in of]
        scores = [[one[p].get(name, np.nan) for p in people] for one in told]
        if np.isfinite(scores).all():
            beyond = beside_shadows(own, scores, inside_of(trained, people))
            parts = np.split(beyond, [len(sides[0])])
            for side, part in zip(found, parts, strict=True):
                side[f"{name}, beside {count} shadow models"] = part
    return found


def _family(subject: Subject) -> Family:
    facts = subject.run.trained(subject.stage)
    family = trained_family(subject.run, subject.stage, facts)
    return family.to(next(subject.answering.family.parameters()).device).eval()


def _by_chance(members: Sequence[Member], seed: int) -> list[Member]:
    return sorted(one_each(members), key=lambda m: derive(seed, "member", m.patient))[:MOST]


def _scores(subject: Subject, family: Family, member: Member) -> dict[str, float]:
    """Higher for patients whom the family knows better; nothing where a case cannot be used."""
    prepared = _prepared(subject, member)
    if prepared is None:
        return {}
    batch = _rows(subject, prepared)
    device = next(family.parameters()).device
    found: dict[str, float] = {}
    for group in family.groups():
        total = 0.0
        for k in range(REPEATS):
            rng = Rng([derive(subject.seed, "membership", k, row) for row in range(len(batch.cases))])
            problem = subject.job.problem(to_device(batch, device), rng.child("problem"))
            if problem.target is None and not problem.beside:
                return {}
            terms = family.loss(problem, group, rng.child(group), 1.0)  # critics take slopes: gradients stay on
            total += float(torch.stack([t.detach().double().mean() for t in terms.values()]).sum())
        found[f"the loss of {group}"] = -total / REPEATS
    with torch.no_grad():
        if problem.target is not None and isinstance(family, Denoiser):
            found["proximal initialisation"] = -_proximal(family, problem)
        if problem.target is not None and isinstance(family, Density):
            found["likelihood"] = float(family.log_prob(problem.target, problem.condition).double().mean())
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _proximal(family: Denoiser, problem: Problem) -> float:
    """How badly an image comes back from noise that the model itself sees in it (PIA: Kong et al. 2024)."""
    x = problem.target
    assert x is not None  # asked only where it is known

    def denoised(value: Tensor, sigma: float) -> Tensor:
        return family.denoise(value, torch.full((len(value),), sigma, device=value.device), problem.condition)

    own = (x - denoised(x, CLEAN)) / CLEAN
    own = own / own.flatten(1).square().mean(1).sqrt().clamp(min=1e-6).reshape(-1, *[1] * (own.ndim - 1))
    off = [((x - denoised(x + s * own, s)) / s).double().square().mean() for s in LEVELS]
    return float(torch.stack(off).mean())


def _prepared(subject: Subject, member: Member) -> Prepared | None:
    answering = subject.answering
    try:
        return prepare_case(member, answering.layout.contrasts, answering.reference, answering.preparation)
    except (UnreadableError, KeyError, ValueError):
        return None


def _rows(subject: Subject, prepared: Prepared) -> Batch:
    """A few slices in which the patient is, or the one volume."""
    layout = subject.answering.layout
    if layout.axes != "yx":
        return question_batch(prepared, layout)
    anchor = next(iter(prepared.tensors.values()))[0]
    filled = ((anchor > 0.1).float().flatten(1).mean(1) > 0.02).nonzero().flatten()
    useful = filled if len(filled) else torch.arange(len(anchor))
    kept = useful[torch.linspace(0, len(useful) - 1, min(ROWS, len(useful))).round().long()]
    whole = question_batch(prepared, layout)
    return replace(
        whole, cases=tuple(whole.cases[i] for i in kept.tolist()),
        images={k: v[kept] for k, v in whole.images.items()}, affine=whole.affine[kept],
        values={k: v[kept] for k, v in whole.values.items()}, present={k: v[kept] for k, v in whole.present.items()},
    )  # fmt: skip


def canaries(subject: Subject) -> Check:
    """Exposure of the marks that training put into some images."""
    if not subject.stage.train.canaries:
        return canaries_check({}, "none were put into training. Write: train: {canaries: 8}")
    family = _family(subject)
    if len(family.groups()) != 1:
        return canaries_check({}, "networks that are rivals have no loss that says how well an image fits")
    sides = subject.answering.layout.size
    members = {m.name: m for m in subject.train}
    tags = tags_of(subject.stage, sorted(members), subject.run.recipe.seed)
    found = {}
    for name, tag in tags.items():
        if (prepared := _prepared(subject, members[name])) is None:
            continue
        if tuple(prepared.grid.shape[1:]) != tuple(sides[1:]):
            return canaries_check({}, "training was shown windows of images, and marks lay in the windows")
        found[name] = _exposed(subject, family, prepared, tag)
    return canaries_check(found)


@torch.no_grad()
def _exposed(subject: Subject, family: Family, prepared: Prepared, tag: int) -> Exposure:
    batch = _rows(subject, prepared)
    device = next(family.parameters()).device
    (group,) = family.groups()
    job = subject.job
    losses = torch.zeros(TAGS, dtype=torch.float64)
    asked = job.problem(to_device(batch, device), Rng(range(len(batch.cases))).child("problem"))
    middle = torch.full((AT_ONCE,), len(asked.cases) // 2, device=device)
    row = asked.rows(middle)
    assert row.target is not None  # canaries are put into images alone
    for start in range(0, TAGS, AT_ONCE):
        marks = torch.stack([pattern(start + n, row.target.shape[2:]) for n in range(AT_ONCE)])
        target = row.target.clone()
        target[:, 0] += marks.to(target)
        for k in range(REPEATS):
            rng = Rng([derive(subject.seed, "canary", k)] * AT_ONCE)  # the same chance for every mark
            terms = family.loss(replace(row, target=target), group, rng.child(group), 1.0)
            losses[start : start + AT_ONCE] += sum(_by_row(t) for t in terms.values())
    return exposure_of(losses, tag)


def _by_row(term: Tensor) -> Tensor:
    """(B,) of a loss term; one that mixes rows says the same of all of them."""
    return term.detach().double().cpu().expand(AT_ONCE)
