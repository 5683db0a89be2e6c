"""The laws of every registered member, public, so that plug-ins run them too."""

from .families import (
    BATCH_TOLERANCE,
    SPREAD,
    check_family,
    check_family_learns,
    check_family_shapes,
)
from .jobs import check_job, check_metric, check_sampler
from .physics import check_noise, check_operator

__all__ = [
    "BATCH_TOLERANCE",
    "SPREAD",
    "check_family",
    "check_family_learns",
    "check_family_shapes",
    "check_job",
    "check_metric",
    "check_noise",
    "check_operator",
    "check_sampler",
]
