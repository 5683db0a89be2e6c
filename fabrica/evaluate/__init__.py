"""Measure in tiers, per patient, beside trivial competitors; what cannot be known is shown as not evaluated."""

from ..contracts import Metric
from ..registry import Table
from . import pixel, task

METRICS: Table[Metric] = Table("metric", {**pixel.METRICS, **task.METRICS})
