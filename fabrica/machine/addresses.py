"""Which addresses are this machine's own: all others are spoken to encrypted."""

from __future__ import annotations

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str | None) -> bool:
    """Whether what is said to a host stays on this machine."""
    return host in LOOPBACK
