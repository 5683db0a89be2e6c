"""The nouns of Fabrica; imports nothing of ours but `rng`. Every job draws x from p(x | condition, y = A(x) + noise).

Shapes: B rows, C channels, *axes a grid in the order t z y x. x is always ONE tensor (B, C, *axes): its channels are
explained by `Field`s. Numbers (risk, ejection fraction) are x without axes, (B, C); text is tokens, (B, 1, length)."""

from .measured import Measured, Measurement, Noise, Operator, Rowwise
from .roles import (
    Codec,
    Condition,
    Decoder,
    Denoiser,
    Density,
    Family,
    Job,
    Metric,
    Preparation,
    Problem,
    Reconstructor,
    Sampler,
)
from .values import ARBITRARY, SCALES, Batch, Case, Field, Image, Kind, Scale, Signature, Trace

__all__ = [
    "ARBITRARY",
    "SCALES",
    "Batch",
    "Case",
    "Codec",
    "Condition",
    "Decoder",
    "Denoiser",
    "Density",
    "Family",
    "Field",
    "Image",
    "Job",
    "Kind",
    "Measured",
    "Measurement",
    "Metric",
    "Noise",
    "Operator",
    "Preparation",
    "Problem",
    "Reconstructor",
    "Rowwise",
    "Sampler",
    "Scale",
    "Signature",
    "Trace",
]
