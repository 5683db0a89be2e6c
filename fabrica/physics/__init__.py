"""y = A(x) + noise: operators and noises, each a noun of the physics that it models."""

from ..contracts import Noise, Operator
from ..registry import Table
from .ct import ParallelBeam
from .mask import Mask
from .mr import CartesianSense
from .noise import Exact, Gaussian, Poisson
from .pet import Emission
from .resolution import Resolution

OPERATORS: Table[type[Operator]] = Table(
    "operator",
    {
        "emission": Emission,
        "mask": Mask,
        "parallel_beam": ParallelBeam,
        "resolution": Resolution,
        "sense": CartesianSense,
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
    "Mask",
    "ParallelBeam",
    "Poisson",
    "Resolution",
]
