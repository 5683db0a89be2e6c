"""Fabrica: generative medical imaging, from real scans to a measured result.

The public API on one page. Names are imported when first used, so that `import fabrica` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .contracts import Case as Case
    from .contracts import Field as Field
    from .contracts import Image as Image
    from .data.cohort import find as find_cohort
    from .data.virtual import simulate as simulate_patient
    from .generate.scans import generate_images as generate_images
    from .io import read_image as read_image
    from .io import write_nifti as write_nifti
    from .recipe.checks import load as load_recipe
    from .recipe.text import RecipeError as RecipeError
    from .recipe.values import Recipe as Recipe
    from .run.sequence import continue_run as continue_run
    from .run.sequence import run_recipe as run_recipe

__version__ = "0.1.0"

_HOME = {
    "Case": "contracts:Case",
    "Field": "contracts:Field",
    "Image": "contracts:Image",
    "Recipe": "recipe.values:Recipe",
    "RecipeError": "recipe.text:RecipeError",
    "continue_run": "run.sequence:continue_run",
    "find_cohort": "data.cohort:find",
    "generate_images": "generate.scans:generate_images",
    "load_recipe": "recipe.checks:load",
    "read_image": "io:read_image",
    "run_recipe": "run.sequence:run_recipe",
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
