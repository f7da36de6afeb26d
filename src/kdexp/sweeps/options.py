"""Builds what a sampler's or pruner's option names: public ones of Optuna, and a user's own from a trusted package."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from optuna.exceptions import ExperimentalWarning

from kdexp.check import locate
from kdexp.errors import ConfigError

_NEEDS = {
    "QMCSampler": ("scipy",),
    "GPSampler": ("scipy", "torch"),
    "CmaEsSampler": ("cmaes",),
    "WilcoxonPruner": ("scipy",),
}
_PLAIN: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str, "None": type(None)}


def find_class(node: Mapping[str, Any], key: str, home: str, base: type | tuple[type, ...]) -> type:
    """The class that an option names: a public one of `home` (`optuna.samplers`), or a trusted package's.

    Raises ConfigError where there is none, where it is something else, or where a package that it needs is absent.
    """
    name = str(node.get("_target_"))
    if name.startswith(f"{home}."):
        module, _, attribute = name.rpartition(".")
        found = _public(module, attribute, home, key)
    else:
        found = locate(name, f"{key}._target_")
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"{key}._target_: {name} is no {home.rpartition('.')[2].removesuffix('s')}")
    absent = [package for package in _NEEDS.get(found.__name__, ()) if importlib.util.find_spec(package) is None]
    if absent:
        raise ConfigError(
            f"{key}: {found.__name__} needs {' and '.join(absent)}, which is not installed; "
            f"pip install {' '.join(absent)}"
        )
    return found


def arguments_of(found: type, node: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The option's settings. Raises ConfigError with all that the class does not know or that have another type."""
    parameters = inspect.signature(found).parameters
    given = {name: value for name, value in node.items() if not name.startswith("_")}
    problems = [
        f"{key}.{name}: unknown key in {found.__name__}; there are: {', '.join(parameters)}"
        for name in given
        if name not in parameters
    ]
    problems += [
        f"{key}.{name}: must be {_annotation(parameters[name])}, got {value!r}"
        for name, value in given.items()
        if name in parameters and not _fits(value, _annotation(parameters[name]))
    ]
    problems += [
        f"{key}.{name}: missing; {found.__name__} needs it"
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in given
    ]
    if problems:
        raise ConfigError(problems)
    return given


def made(found: type, arguments: Mapping[str, Any], key: str) -> Any:
    """An object of the class. What it refuses is a ConfigError."""
    try:
        with experimental_is_meant():
            return found(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {found.__name__} refuses its settings: {error}") from None


@contextmanager
def experimental_is_meant() -> Iterator[None]:
    """Optuna calls some samplers, pruners and arguments experimental; who wrote them into an option knows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def _public(module: str, attribute: str, home: str, key: str) -> Any:
    parts = {home, *(f"{home}.{part}" for part in ("nsgaii",))}
    choices = importlib.import_module(module).__all__ if module in parts else []
    if attribute not in choices:
        names = [name for name in importlib.import_module(home).__all__ if name[0].isupper()]
        raise ConfigError(f"{key}._target_: {home} has no {module}.{attribute}; there are: {', '.join(names)}")
    return getattr(importlib.import_module(module), attribute)


def _annotation(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _fits(value: Any, annotation: str) -> bool:
    """Whether a value has the annotated type, as far as it is made of plain ones."""
    words = annotation.split(" | ")
    if not set(words) <= set(_PLAIN):
        return True
    return any(isinstance(value, _PLAIN[word]) and (word == "bool" or not isinstance(value, bool)) for word in words)
