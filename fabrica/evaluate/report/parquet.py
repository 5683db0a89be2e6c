"""The per-case table as Parquet: the extra `tables` (pyarrow)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow
from pyarrow import parquet

from ..result import Row


def write_cases(rows: Sequence[tuple[str, Row]], path: Path) -> None:
    """Columns as in cases.csv, but `value` is a number or null and `note` holds the words why there is none."""
    columns: dict[str, list[object]] = {"stage": [stage for stage, _ in rows]}
    for name in ("case", "patient", "contrast", "by", "metric", "unit"):
        columns[name] = [getattr(row, name) for _, row in rows]
    columns["value"] = [None if isinstance(row.value, str) else float(row.value) for _, row in rows]
    columns["note"] = [row.value if isinstance(row.value, str) else "" for _, row in rows]
    types = {name: pyarrow.float64() if name == "value" else pyarrow.string() for name in columns}
    table = pyarrow.table({n: pyarrow.array(v, types[n]) for n, v in columns.items()})
    parquet.write_table(table, path)
