"""Ways to learn p(x | condition) and to draw from it. A family is called with (signature, network, precision, options)."""

from ..contracts import Family
from ..registry import Table
from .contrastive import Contrastive
from .diffusion import Diffusion
from .drawn import Drawn
from .flow import Flow
from .guided import Guided
from .regression import Regression

RUNTIME = ("signature", "network", "precision")  # what the run supplies; everything else is an option of the recipe

FAMILIES: Table[type[Family]] = Table(
    "family", {"contrastive": Contrastive, "diffusion": Diffusion, "flow": Flow, "regression": Regression}
)

__all__ = ["FAMILIES", "RUNTIME", "Contrastive", "Diffusion", "Drawn", "Flow", "Guided", "Regression"]
