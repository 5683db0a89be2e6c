"""How to walk from noise to an image: plain functions of a denoiser, and the table of samplers."""

from ..contracts import Codec, Denoiser, Sampler, Scattered
from ..physics import Exact, Mask
from ..physics.algebra import LinearOperator
from ..registry import Table
from . import solvers
from .restorers import posterior, repaint, round_trip

SAMPLERS: Table[Sampler] = Table(
    "sampler",
    {
        "euler": Sampler(solvers.euler, Denoiser, order=1),
        "heun": Sampler(solvers.heun, Denoiser, order=2),
        "midpoint": Sampler(solvers.midpoint, Denoiser, order=2),
        "dpm": Sampler(solvers.dpm_solver_2m, Denoiser, order=2),
        "ancestral": Sampler(solvers.ancestral, Denoiser, order=0),
        "posterior": Sampler(posterior, Denoiser, LinearOperator, Scattered, order=0),
        "repaint": Sampler(repaint, Denoiser, Mask, Exact, order=0),
        "round_trip": Sampler(round_trip, Codec, Mask, Scattered, order=0, deterministic=True),
    },
)
