"""Names to classes, and the questions asked before a run: is it known, are its options right, does it fit?"""

from __future__ import annotations

import difflib
import inspect
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .contracts import Family, Measured, Metric, Noise, Operator, Reconstructor, Sampler

T = TypeVar("T")


class Table(Generic[T]):
    """The members of one noun: a dict literal, and entry points `fabrica.<noun>` that load when first asked for.

    `unlisted` members are found by name and are nothing to choose from: what comes with weights of others.
    """

    def __init__(self, noun: str, builtin: Mapping[str, T], unlisted: Mapping[str, T] | None = None) -> None:
        self.noun, self.builtin, self.unlisted = noun, dict(builtin), dict(unlisted or {})

    def names(self) -> list[str]:
        """Every registered name, sorted; entry points are named without being loaded."""
        return sorted({*self.builtin, *(point.name for point in _offered(self.noun))})

    def find(self, name: str) -> T:
        """The member; raises ValueError with the nearest name when there is none, or when two packages offer it."""
        if name in self.builtin:
            return self.builtin[name]
        if name in self.unlisted:
            return self.unlisted[name]
        points = [point for point in _offered(self.noun) if point.name == name]
        if len(points) > 1:
            packages = ", ".join(point.value for point in points)
            raise ValueError(f"{self.noun} {name!r} is offered twice: {packages}. Uninstall one.")
        for point in points:
            member: T = point.load()
            return member
        raise unknown(self.noun, name, self.names())


def _offered(noun: str) -> Sequence[EntryPoint]:
    """What installed packages offer: looked up once for the places that Python imports from, in every file of them."""
    return _scanned(f"fabrica.{noun}", tuple(sys.path), entry_points)


@lru_cache(maxsize=64)
def _scanned(group: str, path: tuple[str, ...], scan: Callable[..., Any]) -> Sequence[EntryPoint]:
    return tuple(scan(group=group))


def unknown(noun: str, got: str, known: Sequence[str]) -> ValueError:
    """The error for a name that is not in a list: what was got, the nearest match, what is known."""
    near = difflib.get_close_matches(got, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"Unknown {noun} {got!r}.{hint} Known: {', '.join(sorted(known)) or 'none'}.")


def options_of(factory: Callable[..., Any], runtime: Sequence[str] = ()) -> dict[str, Any]:
    """The options of a class or function that a recipe may set: name -> type hint."""
    return {name: hint for name, hint in _hints(factory) if name not in runtime}


@lru_cache(maxsize=1024)  # a recipe asks again for each of its stages
def _hints(factory: Callable[..., Any]) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    names = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is not p.VAR_KEYWORD]
    return tuple((name, hints.get(name, Any)) for name in names)


def check_options(noun: str, factory: Callable[..., Any], options: Mapping[str, Any], runtime: Sequence[str]) -> None:
    """Raise ValueError for an unknown, missing or wrongly typed option; `runtime` names come from the caller."""
    known = options_of(factory, runtime)
    for option, value in options.items():
        if option not in known:
            raise unknown(f"option of {noun}", option, list(known))
        check_type(f"{noun}.{option}", value, known[option])
    parameters = inspect.signature(factory).parameters
    for name in known:
        if name not in options and parameters[name].default is inspect.Parameter.empty:
            raise ValueError(f"{noun} needs {name!r}. Write {name}: followed by a {_type_name(known[name])}.")


def build(noun: str, factory: Callable[..., T], options: Mapping[str, Any], **runtime: Any) -> T:
    """Runtime parts (network, signature) come from the caller, options from the recipe; both are checked."""
    check_options(noun, factory, options, tuple(runtime))
    return factory(**options, **runtime)


def check_type(where: str, value: object, hint: Any) -> None:
    """Raise ValueError unless plain data fits a type hint: bool, int, float, str, Literal, tuple, mapping, unions."""
    if not _fits(value, hint):
        raise ValueError(f"{where} is {value!r}, expected {_type_name(hint)}.")


def _fits(value: object, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return value in parts
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin in (tuple, list) or origin is Sequence:
        inner = parts[0] if parts else Any
        fixed = origin is tuple and len(parts) > 0 and parts[-1] is not Ellipsis
        sized = isinstance(value, list | tuple) and (not fixed or len(value) == len(parts))
        return sized and all(_fits(v, parts[i] if fixed else inner) for i, v in enumerate(value))  # type: ignore[arg-type, var-annotated]
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(_fits(v, parts[1]) for v in value.values())
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(part) for part in get_args(hint))
    plain = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "nothing"}
    if hint in plain:
        return plain[hint]
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_type_name(part) for part in get_args(hint))
    if get_origin(hint) in (tuple, list, Sequence):
        return "list of " + _type_name(get_args(hint)[0])
    return str(getattr(hint, "__name__", hint))


def refusal(prior: type[Family], sampler: Sampler | None, measured: Mapping[str, Measured]) -> str | None:
    """Why this family and sampler cannot answer such a problem, or None: asked of types, before there is any data."""
    if sampler is None:
        ignored = measured and not issubclass(prior, Reconstructor)
        return f"{prior.__name__} would ignore the measurements; name a restorer." if ignored else None
    if not issubclass(prior, sampler.prior):
        return f"The sampler needs a {sampler.prior.__name__}, got {prior.__name__}."
    if measured and sampler.operator is None:
        return "The sampler would ignore the measurements; name a restorer."
    if not measured and sampler.operator is not None:
        return f"The sampler needs a measurement by {sampler.operator.__name__}, and this job has none."
    for one in measured.values():
        fits = issubclass(one.operator, sampler.operator or Operator) and issubclass(one.noise, sampler.noise or Noise)
        if not fits:
            return f"The sampler cannot use {one.operator.__name__} with {one.noise.__name__}."
    return None


@dataclass(frozen=True, slots=True)
class NotEvaluated:
    """A metric whose evidence is missing: shown as `not evaluated: needs X`, never as NaN."""

    needs: tuple[str, ...]

    def __str__(self) -> str:
        return f"not evaluated: needs {', '.join(self.needs)}"


def measure(metric: Metric, evidence: Mapping[str, Any]) -> Any:
    """Call the metric's public function with the evidence that it names, or say what is missing."""
    keywords = [p for p in inspect.signature(metric.function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    needed = [*metric.inputs, *(p.name for p in keywords if p.default is p.empty)]
    missing = tuple(name for name in needed if evidence.get(name) is None)
    if missing:
        return NotEvaluated(missing)
    options = {p.name: evidence[p.name] for p in keywords if evidence.get(p.name) is not None}
    try:
        return metric.function(*(evidence[name] for name in metric.inputs), **options)
    except ValueError as error:  # an image that a metric refuses must not end a report: it stands there in words
        return NotEvaluated((f"another image: {error}",))
