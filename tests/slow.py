"""Tests over five seconds beside docs/tests.md: `python -m tests.slow LOG` after `pytest --durations=0 -vv > LOG`."""

import re
import sys
from pathlib import Path

LISTED = Path(__file__).parents[1] / "docs" / "tests.md"
LONG_S = 5.0
LINE = re.compile(r"([0-9.]+)s (?:call|setup)\s+tests/([^\[\s]+)")


def listed() -> set[str]:
    """FILE::TEST of each row."""
    return set(re.findall(r"^\| `([^`]+)` \|", LISTED.read_text(), re.MULTILINE))


def taken(log: str) -> dict[str, float]:
    """FILE::TEST -> seconds of its longest call or fixture."""
    found: dict[str, float] = {}
    for seconds, name in LINE.findall(log):
        found[name] = max(found.get(name, 0.0), float(seconds))
    return found


def main(log: Path) -> None:
    times, known = taken(log.read_text(errors="replace")), listed()
    for name, seconds in sorted(times.items(), key=lambda one: -one[1]):
        if seconds >= LONG_S and name not in known:
            print(f"{seconds:.0f} s, not listed: {name}")
    for name in sorted(known):
        if times.get(name, 0.0) < LONG_S / 2:
            print(f"listed, and quick or gone: {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
