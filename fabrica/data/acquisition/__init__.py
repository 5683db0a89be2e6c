"""How scanners measure a slice: what a recipe says of one, and what it would have measured of a known image."""

from ...registry import Table
from .acquisition import Acquisition
from .ct import CtAcquisition
from .mr import MrAcquisition
from .pet import PetAcquisition

ACQUISITIONS: Table[type[Acquisition]] = Table(
    "acquisition", {"ct": CtAcquisition, "mr": MrAcquisition, "pet": PetAcquisition}
)

__all__ = ["ACQUISITIONS", "Acquisition", "CtAcquisition", "MrAcquisition", "PetAcquisition"]
