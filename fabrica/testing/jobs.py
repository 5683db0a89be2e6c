"""Laws of jobs, samplers and metrics."""

from __future__ import annotations

import torch

from ..contracts import (
    Batch,
    Denoiser,
    Job,
    Metric,
    Problem,
    Sampler,
)
from ..registry import NotEvaluated, measure
from ..rng import Rng


def check_sampler(sampler: Sampler, prior: Denoiser, problem: Problem) -> None:
    """Same seed, same draw, whatever the batch; nothing is kept between calls."""
    seeds = list(range(len(problem.cases)))
    draw = sampler.draw(prior, problem, Rng(seeds))
    assert torch.equal(sampler.draw(prior, problem, Rng(seeds)), draw), "a second call differs: state is kept"
    alone = sampler.draw(prior, problem.rows(torch.tensor([1])), Rng(seeds[1:2]))
    torch.testing.assert_close(alone, draw[1:2], rtol=1e-4, atol=1e-4, msg="a row's draw depends on its batch")
    assert not torch.equal(sampler.draw(prior, problem, Rng([s + 100 for s in seeds])), draw), (
        "the seed changes nothing"
    )


def check_job(job: Job, batch: Batch) -> None:
    """Shapes agree with the signature, the question holds nothing of the answer, chance comes from the rng alone."""
    name, signature = type(job).__name__, job.signature()
    rng = Rng(range(len(batch.cases)))
    problem, again, question = job.problem(batch, rng), job.problem(batch, rng), job.question(batch, rng)
    assert problem.shape[0] == signature.channels, (
        f"{name}: x has {problem.shape[0]} channels, the signature says {signature.channels}"
    )
    unnamed = all(f.kind == "embedding" for f in signature.x)
    assert (problem.target is None) == unnamed, f"{name}: training problems have a target, unless x has no names"
    assert problem.target is None or tuple(problem.target.shape[1:]) == problem.shape, (
        f"{name}: the target's shape is not the problem's"
    )
    assert question.target is None, f"{name}.question shows the answer"
    for field in signature.condition:
        value = question.condition.values[field.name]
        wanted = 1 if value.ndim == 1 else field.length if field.kind == "token" else field.channels
        assert (1 if value.ndim == 1 else value.shape[1]) == wanted, (
            f"{name}: condition {field.name!r} has {tuple(value.shape)}"
        )
    if problem.target is not None:
        torch.testing.assert_close(again.target, problem.target, msg=f"{name}.problem depends on more than rng")


def check_metric(metric: Metric) -> None:
    """Without its evidence a metric says what it needs; it never answers NaN."""
    answer = measure(metric, {})
    assert isinstance(answer, NotEvaluated), f"{metric.function.__name__} answered without evidence"
    assert set(metric.inputs) <= set(answer.needs), f"{metric.function.__name__} does not name what it needs"
