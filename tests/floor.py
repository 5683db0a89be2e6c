"""Branch coverage may rise, never fall: `python -m tests.floor` after pytest --cov."""

import json
import subprocess
import sys

FLOOR = 97.3  # per cent; raise it when the figure rises


def main() -> None:
    subprocess.run([sys.executable, "-m", "coverage", "json", "-q", "-o", ".coverage.json"], check=True)
    with open(".coverage.json") as file:
        reached = json.load(file)["totals"]["percent_covered"]
    print(f"Coverage {reached:.1f} %, floor {FLOOR} %")
    if reached < FLOOR:
        sys.exit(f"Coverage fell below its floor: {reached:.1f} % < {FLOOR} %. Test what you added.")


if __name__ == "__main__":
    main()
