"""A stage that answers with films, judged on its test part."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from ..contracts import Family, Field
from ..data.cases import Prepared
from ..data.cohort import overlaid
from ..data.filmed import EJECTED
from ..data.virtual.heart import CAVITY
from ..evaluate.judging.films import asked_figures, ejection_fraction, film_rows
from ..evaluate.report.film import moving
from ..evaluate.report.results import StageResult
from ..evaluate.result import Figure, Row
from .cases import each_drawn, write_draws
from .draw import draw
from .question import Shown, whole_answer
from .stage import PreparedStage, draws_of

FILMS = 3  # cases that the report shows
FRACTIONS = (25.0, 40.0, 55.0)  # percent, asked of the first patients whatever their own
SWEPT = 12


def judge_films(ready: PreparedStage, family: Family, result: StageResult, say: Callable[[str], None]) -> StageResult:
    """Rows of each case and answer, films of the first few; the draws are written as series of frames."""
    (field,) = ready.signature.x
    count = draws_of(ready, family)
    for one in each_drawn(ready, family, ready.test, ready.job.judged_with, say):
        member, case, x = one.member, one.case, one.x
        problem = ready.question(case)
        answers = {"model: one draw" if count > 1 else "model": x[0]}
        if count > 1:
            answers["model: mean of draws"] = x.mean(0)
        answers |= {n: whole_answer(rival.float(), ready.layout) for n, rival in ready.job.rivals(problem).items()}
        write_draws(ready, case.name, case, x)
        truth = case.tensors.get(field.name)
        if truth is None:
            result.cases.append(
                Row(case.name, member.patient, field.name, "model", "psnr", "not evaluated: needs the film")
            )
            continue
        mask = case.tensors.get(CAVITY)
        cavity = None if mask is None else mask[0].numpy() > 0.5
        asked = np.array(ready.job.asked_frames)
        for by, film in answers.items():
            own = (case.name, member.patient, field.name)
            result.cases += film_rows(own, by, film.numpy(), truth.numpy(), asked, cavity)
        if len(result.pictures) < FILMS:
            result.pictures.append(_shown(case.name, {"true": truth, **answers}))
    result.figures += _as_asked(ready, family, say)
    say(f"{ready.name}: {len(ready.test)} films drawn {count} times.")
    return result


def _as_asked(ready: PreparedStage, family: Family, say: Callable[[str], None]) -> list[Figure]:
    """Of jobs that are told how much a heart ejects: other fractions asked of the same patients."""
    if EJECTED not in {f.name for f in ready.signature.values}:
        return []
    asked, measured = list[float](), list[float]()
    people = ready.test[:SWEPT]
    for member in people:
        for percent in FRACTIONS:
            case = ready.case(overlaid(member, {}, {EJECTED: percent}), ready.job.judged_with)
            if CAVITY not in case.tensors or not bool((case.tensors[CAVITY] > 0.5).any()):
                continue
            (x,) = draw(family, ready.job, [Shown(case)], ready.layout, ready.seed, say, ready.evaluate.windows)
            cavity = case.tensors[CAVITY][0].numpy() > 0.5
            measured.append(ejection_fraction(x.numpy(), x[0].numpy(), cavity))
            asked.append(percent)
    return asked_figures(ready.name, asked, measured, len(people)) if asked else []


def shown_moving(ready: PreparedStage, case: Prepared, x: Tensor) -> str:
    """HTML: films given, true and drawn (draws, C, z, y, x) through the middle; '' where nothing moves."""
    films, start = dict[str, Tensor](), 0
    films |= {f"{f.name} (given)": case.tensors[f.name] for f in ready.signature.condition if _moves(f, case)}
    for f in ready.signature.x:
        if f.frames > 1:
            films |= {f"{f.name} (true)": case.tensors[f.name]} if _moves(f, case) else {}
            films[f"{f.name} (one draw)"] = x[0, start : start + f.channels]
        start += f.channels
    if len({len(film) for film in films.values()}) != 1:  # nothing, or what does not beat together
        return ""
    return moving({name: film[:, film.shape[1] // 2].numpy() for name, film in films.items()})


def _moves(field: Field, case: Prepared) -> bool:
    return field.frames > 1 and field.name in case.tensors


def _shown(name: str, films: dict[str, Tensor]) -> dict[str, object]:
    z = films["true"].shape[1] // 2
    return {"case": name, "slice": z, "panels": [], "drawing": moving({n: f[:, z].numpy() for n, f in films.items()})}
