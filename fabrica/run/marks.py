"""Which training cases of a stage are marked, and the job that shows them so; see `safeguards.privacy.canaries`."""

from __future__ import annotations

from ..contracts import Job
from ..jobs.marked import Marked
from ..recipe.values import Stage
from ..safeguards.privacy.canaries import chosen, pattern


def tags_of(stage: Stage, cases: list[str], seed: int) -> dict[str, int]:
    """Case -> tag, of the cases of the training part; nothing where no marks are asked for."""
    return chosen(cases, stage.train.canaries, seed)


def marked(job: Job, tags: dict[str, int]) -> Job:
    """The job as training sees it. Raises ValueError where an answer is no image that can bear a mark."""
    if not tags:
        return job
    signature = job.signature()
    if not signature.x or signature.x[0].kind != "intensity" or signature.measurements:
        raise ValueError(
            "Canaries are put into images that are learned as they are; this job has none. Leave train.canaries out."
        )
    return Marked(job, tags, pattern)
