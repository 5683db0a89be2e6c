"""Workers that a Slurm cluster starts, as the `slurm` block of a cluster.yaml asks for them (the extra `slurm`)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

EXTRA = 'Slurm needs another package. Install it: pip install -e ".[slurm]" -c constraints.txt'
EXAMPLE = "Write slurm: {jobs: 4, cores: 8, memory: 32 GB, walltime: '04:00:00', queue: cpu}"


@dataclass(frozen=True)
class Slurm:
    """Jobs that hold one worker each. `shared`: a folder that all nodes see, for the certificates of this call."""

    jobs: int
    cores: int
    memory: str
    walltime: str
    queue: str | None = None
    account: str | None = None
    interface: str | None = None  # of the network between nodes: ib0
    shared: str = "."
    patience_min: float = 60.0  # until the first job runs
    prologue: list[str] = field(default_factory=list)  # lines before the worker starts: module load python
    directives: list[str] = field(default_factory=list)  # more of #SBATCH: --gres=gpu:1

    @staticmethod
    def read(path: Path) -> Slurm:
        """Raises ValueError for a file that is none, and for what is missing, unknown or impossible in it."""
        try:
            plain = yaml.safe_load(path.read_text())
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}). {EXAMPLE}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no YAML ({str(error).splitlines()[0]}).") from error
        block = plain.get("slurm") if isinstance(plain, dict) else None
        if not isinstance(block, dict):
            raise ValueError(f"{path} has no block slurm. {EXAMPLE}")
        known = {f.name: f for f in fields(Slurm)}
        if odd := sorted(set(block) - set(known)):
            raise ValueError(f"{path}: slurm knows no {odd[0]!r}. Known: {', '.join(known)}.")
        if missing := [n for n in ("jobs", "cores", "memory", "walltime") if n not in block]:
            raise ValueError(f"{path}: slurm says no {missing[0]}. {EXAMPLE}")
        for name, value in block.items():
            if not _fits(str(known[name].type), value):
                raise ValueError(f"{path}: slurm.{name} is {value!r}, expected {known[name].type}. {EXAMPLE}")
        return Slurm(**block)

    def cluster(self) -> Any:
        """A scheduler here and its jobs there, which are asked for; certificates live as long as it does."""
        try:
            from dask_jobqueue.slurm import SLURMCluster
        except ImportError as error:
            raise ValueError(EXTRA) from error
        found = SLURMCluster(
            queue=self.queue, account=self.account, cores=self.cores, memory=self.memory, walltime=self.walltime,
            processes=1, interface=self.interface, python=sys.executable, protocol="tls://", security=True,
            shared_temp_directory=self.shared, job_script_prologue=self.prologue, worker_extra_args=["--nthreads", "1"],
            job_extra_directives=self.directives, scheduler_options={"dashboard_address": "127.0.0.1:0"},
            log_directory=self.shared,
        )  # fmt: skip
        found.scale(jobs=self.jobs)
        return found


def _fits(kind: str, value: Any) -> bool:
    if kind.startswith("list"):
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if kind.startswith("str"):
        return isinstance(value, str) and bool(value.strip())
    if kind == "int":
        return type(value) is int and value > 0
    return type(value) in (int, float) and value > 0
