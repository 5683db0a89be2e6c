"""Lightning Fabric, which joins the processes of one training; loaded when a training starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def joined(device: str, processes: int, strategy: Any) -> Fabric:
    """This process beside the others that `torchrun` started; launched where there are others."""
    with _not_asked("torchmetrics"):
        from lightning_fabric import Fabric

    fabric = Fabric(accelerator=device, devices=processes, strategy=strategy)
    if processes > 1:
        fabric.launch()
    return fabric


@contextmanager
def _not_asked(name: str) -> Iterator[None]:
    """Lightning asks this package for its version alone, and imports it whole for that: seconds of every start."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
