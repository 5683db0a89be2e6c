"""Measure in tiers, per patient, beside trivial competitors; what cannot be known is shown as not evaluated."""

from ..contracts import Metric
from ..registry import Table
from . import feature as feature
from . import pixel, task, temporal
from . import statistics as statistics

METRICS: Table[Metric] = Table("metric", {**pixel.METRICS, **temporal.METRICS, **task.METRICS})
