"""The priors that ship: trained by their own recipe, on simulated patients alone, and stripped to what drawing needs.

`python benchmarks/priors.py mr_brain`: trains fabrica/priors/mr_brain/recipe.yaml in runs/priors/mr_brain (goes on where it
stopped), and writes its averaged weights beside that recipe, to be drawn with in float32 on any processor.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from fabrica.learning import checkpoint
from fabrica.recipe.borrowed import PRIORS
from fabrica.recipe.checks import load
from fabrica.run.sequence import run_recipe

LARGEST = 20e6  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(p.parent.name for p in PRIORS.glob("*/recipe.yaml")))
    parser.add_argument("--runs", type=Path, default=Path("runs/priors"))
    told = parser.parse_args()
    home, run = PRIORS / told.name, told.runs / told.name
    run_recipe(load(home / "recipe.yaml"), run, say=print)
    found = checkpoint.load(run / "stages" / "model")
    assert found is not None
    tensors, facts = found
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith("average/")}
    size = sum(t.nbytes for t in kept.values())
    assert size < LARGEST, f"{size / 1e6:.0f} MB, expected less than {LARGEST / 1e6:.0f}"
    place = home / "stages" / "model"
    shutil.rmtree(place, ignore_errors=True)
    checkpoint.save(place, kept, {**facts, "precision": "fp32", "float32_layers": [], "device": "cpu"})
    print(f"{told.name}: {facts['step']} steps in {facts['seconds'] / 60:.0f} min, {size / 1e6:.1f} MB.")


if __name__ == "__main__":
    main()
