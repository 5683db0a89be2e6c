"""y = A(x) + noise: operators and noises, each a noun of the physics that it models."""

from ..contracts import Noise, Operator
from ..registry import Table
from .ct import LineIntegrals
from .mask import Mask
from .mr import CartesianSense, NonCartesianSense
from .noise import Exact, Gaussian, Poisson
from .pet import Emission
from .resolution import Resolution

OPERATORS: Table[type[Operator]] = Table(
    "operator",
    {
        "emission": Emission,
        "mask": Mask,
        "line_integrals": LineIntegrals,
        "resolution": Resolution,
        "sense": CartesianSense,
        "sense_anywhere": NonCartesianSense,
    },
)
NOISES: Table[type[Noise]] = Table("noise", {"exact": Exact, "gaussian": Gaussian, "poisson": Poisson})

__all__ = [
    "NOISES",
    "OPERATORS",
    "CartesianSense",
    "Emission",
    "Exact",
    "Gaussian",
    "LineIntegrals",
    "Mask",
    "NonCartesianSense",
    "Poisson",
    "Resolution",
]
