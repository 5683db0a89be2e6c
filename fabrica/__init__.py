"""Fabrica: generative medical imaging, from real scans to a measured result.

The public API on one page. Names are imported when first used, so that `import fabrica` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import load as load_recipe
    from .contracts import Case as Case
    from .contracts import Field as Field
    from .contracts import Image as Image
    from .data.cohort import find as find_cohort
    from .data.virtual import simulate as simulate_patient
    from .document import RecipeError as RecipeError
    from .io import read_image as read_image
    from .io import write_nifti as write_nifti
    from .plan import Recipe as Recipe
    from .run import continue_run as continue_run
    from .run import generate_images as generate_images
    from .run import run_recipe as run_recipe

__version__ = "0.1.0"

_HOME = {
    "Case": "contracts:Case",
    "Field": "contracts:Field",
    "Image": "contracts:Image",
    "Recipe": "config:Recipe",
    "RecipeError": "document:RecipeError",
    "continue_run": "run:continue_run",
    "find_cohort": "data.cohort:find",
    "generate_images": "run:generate_images",
    "load_recipe": "config:load",
    "read_image": "io:read_image",
    "run_recipe": "run:run_recipe",
    "simulate_patient": "data.virtual:simulate",
    "write_nifti": "io:write_nifti",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fabrica' has no attribute {name!r}. Public names: {', '.join(_HOME)}.")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(import_module(f".{module}", __name__), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
