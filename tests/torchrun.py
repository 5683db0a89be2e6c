"""A program in two processes that train together."""

import os
import subprocess
import sys
from pathlib import Path


def two_processes(folder: Path, *program: str) -> str:
    """What torchrun prints when it runs `program` in `folder`; fails when the program does."""
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *program]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
