"""Strict plain data: what a mapping may hold, and where a fault lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..registry import check_options, unknown
from .values import Named


class AtError(ValueError):
    """A fault and the path of the key that holds it."""

    def __init__(self, at: str, text: str) -> None:
        super().__init__(text)
        self.at = at


def ancestors(path: str) -> Iterator[str]:
    """The path, then what it lies in, outwards."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def named(value: Any, at: str) -> Named:
    if isinstance(value, str):
        return Named(value)
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise AtError(at, f"{at or 'value'} has no name. Write: {at.rpartition('.')[2]}: {{name: ...}}")
    return Named(value["name"], {k: v for k, v in value.items() if k != "name"})


def dataclass_of(kind: type[Any], value: Any, at: str, tuples: Sequence[str] = ()) -> Any:
    if not isinstance(value, Mapping):
        raise AtError(at, f"{at} is {value!r}, expected a mapping. Write: {at.rpartition('.')[2]}: {{...}}")
    known_keys(value, at, [f.name for f in fields(kind)])
    guard(at, lambda: check_options(at, kind, value, ()))
    return kind(**{k: tuple(v) if k in tuples or isinstance(v, list) else v for k, v in value.items()})


def known_keys(value: Mapping[str, Any], at: str, known: Sequence[str]) -> None:
    for key in value:
        if key not in known:
            raise AtError(f"{at}.{key}" if at else str(key), str(unknown("key", str(key), list(known))))


def need(value: Mapping[str, Any], at: str, key: str, line: str) -> None:
    if key not in value:
        raise AtError(at, f"{key} is missing. Write: {line}")


def mapping(value: Mapping[str, Any], at: str, key: str) -> Mapping[str, Any]:
    inner = value[key]
    if not isinstance(inner, Mapping) or not inner:
        raise AtError(key, f"{key} is {inner!r}, expected a mapping with at least one entry.")
    return inner


def whole(value: int, at: str) -> None:
    if value < 1:
        raise AtError(at, f"{at} is {value}, expected at least 1.")


def guard(at: str, ask: Any) -> Any:
    try:
        return ask()
    except AtError:
        raise
    except ValueError as error:
        raise AtError(at, str(error)) from error
