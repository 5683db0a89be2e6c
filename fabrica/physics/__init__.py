"""y = A(x) + noise: operators and noises, each a noun of the physics that it models."""

from ..contracts import Noise, Operator
from ..registry import Table
from .mask import Mask
from .mr import CartesianSense
from .noise import Exact, Gaussian

OPERATORS: Table[type[Operator]] = Table("operator", {"mask": Mask, "sense": CartesianSense})
NOISES: Table[type[Noise]] = Table("noise", {"exact": Exact, "gaussian": Gaussian})

__all__ = ["NOISES", "OPERATORS", "CartesianSense", "Exact", "Gaussian", "Mask"]
