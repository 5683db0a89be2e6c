"""Lightning is loaded without what it only asks for its version."""

import sys

import pytest

from fabrica.learning.processes import _not_asked, joined


def test_a_package_is_hidden_for_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    with _not_asked("wave"), pytest.raises(ImportError):
        import wave
    import wave as found

    with _not_asked("wave"):  # what is there already stays
        import wave

        assert wave is found


def test_one_process_is_joined_with_none() -> None:
    fabric = joined("cpu", 1, "auto")
    assert (fabric.world_size, fabric.global_rank) == (1, 0)
