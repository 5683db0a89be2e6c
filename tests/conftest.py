"""Real scans come from FABRICA_TEST_DATA; where it is set by CI, a skipped test is a failed one."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fabrica.contracts import Field, Image

from .servers import postgresql, server  # noqa: F401 (fixtures)

PEERS = "make peers"  # what a skipped test of an archive says


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = os.environ.get("FABRICA_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real scans: FABRICA_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What machines keep is kept here for one session, subprocesses included: no test reads or writes the user's folder."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


torch.set_num_threads(
    int(os.environ.get("FABRICA_TEST_THREADS", "1"))
)  # two workers share two cores, and draws depend on the number of threads


@pytest.fixture
def make_image() -> Callable[..., Image]:
    """An image with a smooth bright body, on an axis-aligned LPS grid by default."""

    def make(
        shape: tuple[int, ...] = (12, 20, 16),
        spacing: tuple[float, float, float] = (2.0, 1.0, 1.5),
        seed: int = 0,
        name: str = "T1w",
        unit: str = "a.u.",
        kind: str = "intensity",
        affine: torch.Tensor | None = None,
    ) -> Image:
        axes = "zyx" if len(shape) == 3 else "yx"
        rng = np.random.default_rng(seed)
        grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
        centre = rng.uniform(-0.35, 0.35, len(shape))
        body = np.clip(1.2 - sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)), 0, 1) * 100 * (
            1 + seed % 3
        ) + rng.random(shape)
        if kind == "label":
            body = (body > 60).astype(float) + (body > 90)
        if affine is None:
            affine = torch.zeros(4, 4, dtype=torch.float64)
            affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *spacing, 1.0
            affine[:3, 3] = torch.tensor([-10.0, 5.0, 30.0])
        return Image(torch.tensor(body[None], dtype=torch.float32), axes, affine, Field(name, kind, 1, unit))

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    peers = [report for report in skipped if PEERS in str(report.longrepr)]
    if peers:
        terminalreporter.write_line(
            f"{len(peers)} TESTS OF ARCHIVES AND PAGES WERE SKIPPED: their programs are not installed. As root: {PEERS}"
        )
    if len(skipped) > len(peers):
        terminalreporter.write_line(
            f"{len(skipped) - len(peers)} tests on real scans were skipped: set FABRICA_TEST_DATA to run them."
        )


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # who can install peers skips no test of them
    if os.environ.get("FABRICA_NO_SKIPS") and any(root or PEERS not in str(report.longrepr) for report in skipped):
        session.exitstatus = 1
