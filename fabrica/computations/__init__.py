"""What stages can compute without learning: `stages: {motion: {compute: register}}`."""

from ..contracts import Computation
from ..registry import Table
from .accumulation import ACCUMULATED, EQD2, Accumulate
from .contours import Warp
from .doses import AT_PLANNING, Deliver
from .motion import Register

COMPUTATIONS: Table[type[Computation]] = Table(
    "computation", {"accumulate": Accumulate, "dose": Deliver, "register": Register, "warp": Warp}
)

__all__ = ["ACCUMULATED", "AT_PLANNING", "COMPUTATIONS", "EQD2", "Accumulate", "Deliver", "Register", "Warp"]
