"""Conditional parameters: `{parameter: {other: [values]}}` says beside which values of `other` a parameter exists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdexp.sweeps.grammar import Words

ACTIVE_WHEN = "hydra.sweeper.active_when"
Conditions = Mapping[str, Mapping[str, tuple[Any, ...]]]


def read_conditions(active_when: Mapping[str, Any], words: Words) -> tuple[Conditions, list[str]]:
    """The conditions, with a single value for a list of one; and everything in them that names no parameter or no
    value of one, or that goes round in a circle. A condition with a problem is left out."""
    problems = [
        f"{ACTIVE_WHEN}.{name}: expected {{other_parameter: [values]}}, got {others!r}"
        for name, others in active_when.items()
        if not isinstance(others, Mapping)
    ]
    written = {str(name): _tuples(others) for name, others in active_when.items() if isinstance(others, Mapping)}
    sound = {}
    for name, others in written.items():
        found = list(_problems(name, written, words))
        if not found:
            sound[name] = others
        problems += found
    return sound, problems


def _tuples(others: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {str(other): tuple(values) if isinstance(values, list) else (values,) for other, values in others.items()}


def _problems(name: str, conditions: Conditions, words: Words) -> Iterator[str]:
    key = f"{ACTIVE_WHEN}.{name}"
    known = {**words.distributions, **words.fixed, **words.refused}
    unknown = f"is no parameter of this search; there are: {', '.join(known)}"
    if name not in known:
        yield f"{key}: {unknown}"
    for other, allowed in conditions[name].items():
        if other not in known:
            yield f"{key}: {other} {unknown}"
        elif name in above(other, conditions):
            yield f"{key}: {name} and {other} depend on each other"
        elif not allowed:
            yield f"{key}: names no value of {other}, so it would never be drawn"
        elif other in words.distributions:
            yield from (f"{key}: {other}: {problem}" for problem in _foreign(other, allowed, words))


def _foreign(name: str, values: tuple[Any, ...], words: Words) -> Iterator[str]:
    for value in values:
        try:
            words.stored(name, value)
        except ValueError as error:
            yield str(error)


def above(name: str, conditions: Conditions) -> set[str]:
    """The parameter and all that it depends on."""
    found, waiting = {name}, [name]
    while waiting:
        for other in conditions.get(waiting.pop(), {}):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found
