"""Measure in tiers, per patient, beside trivial competitors; what cannot be known is shown as not evaluated."""

from ..contracts import Metric
from ..registry import Table
from . import statistics as statistics
from .metrics import pixel, task, temporal
from .sets import feature as feature

METRICS: Table[Metric] = Table("metric", {**pixel.METRICS, **temporal.METRICS, **task.METRICS})
