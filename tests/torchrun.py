"""A program in two processes that train together."""

import os
import subprocess
import sys
from pathlib import Path


def words(*program: str) -> list[str]:
    """The command line that runs `program` in two processes."""
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *program]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}


def two_processes(folder: Path, *program: str) -> str:
    """What torchrun prints when it runs `program` in `folder`; fails when the program does."""
    done = subprocess.run(
        words(*program), cwd=folder, capture_output=True, text=True, env=environment(), check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
