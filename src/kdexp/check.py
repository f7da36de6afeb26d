"""Finds every mistake in a composed configuration, before any work: `check` lists them, every verb refuses them.

A section is held against its dataclass in `config.py`; a section with a `_target_` against the signature of what it
names. Types and ranges are pydantic's to judge. What a config may name is decided here, by a whitelist.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdexp.config import NodeKind, TrainConfig
from kdexp.effect import without_effect
from kdexp.errors import ConfigError
from kdexp.trust import TRUST_VARIABLE, trusted_packages

_SPECIAL_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_"}


def check_config(cfg: DictConfig, schema: type = TrainConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration as plain, resolved values; raises ConfigError with all mistakes at once.

    `overrides` are the words of the command line: one that turns out to have no effect is a mistake too.
    """
    problems: list[str] = []
    plain = _resolved(cfg, "", problems)
    _check_section(plain, schema, "", problems)
    if schema is TrainConfig and not any(problem.startswith("distill") for problem in problems):
        problems += _objective_problems(plain["distill"])
    if schema is TrainConfig and not problems:
        problems += _optimizer_problems(plain["optimizer"], "optimizer")
        problems += _optimizer_problems(plain["teacher"]["optimizer"], "teacher.optimizer")
    if schema is TrainConfig and not problems:
        problems += without_effect(plain, overrides)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return plain


def _resolved(node: Any, path: str, problems: list[str]) -> Any:
    """Plain values; an interpolation that fails is noted with its key."""
    if not OmegaConf.is_config(node):
        return node
    keys = list(range(len(node))) if isinstance(node, ListConfig) else list(node.keys())
    result: dict[Any, Any] = {}
    for key in keys:
        inner = f"{path}.{key}" if path else str(key)
        if OmegaConf.is_missing(node, key):
            result[key] = "???"
            continue
        try:
            result[key] = _resolved(node[key], inner, problems)
        except OmegaConfBaseException as error:
            problems.append(f"{inner}: {str(error).splitlines()[0]}")
    return result if isinstance(node, DictConfig) else [result[key] for key in keys if key in result]


def _check_section(value: Any, schema: type, path: str, problems: list[str]) -> None:
    """Holds a mapping against a dataclass: unknown keys, missing keys, types, ranges, nodes."""
    if not isinstance(value, Mapping):
        problems.append(f"{path}: expected a section with keys, got {value!r}")
        return
    hints = typing.get_type_hints(schema, include_extras=True)
    known = {field.name: field for field in fields(schema)}
    problems += _unknown_keys(value, known, path)
    for name, field in known.items():
        key = _join(path, name)
        if name not in value:
            noted = any(problem.startswith(f"{key}:") for problem in problems)
            if field.default is MISSING and field.default_factory is MISSING and not noted:
                problems.append(f"{key}: missing; every {path or 'training'} configuration needs it")
            continue
        hint, inner = hints[name], value[name]
        kind = next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, NodeKind)), None)
        if kind is not None:
            _check_node(inner, kind, key, problems)
        elif isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
            _check_section(inner, hint, key, problems)
        elif inner == "???":
            problems.append(f"{key}: has no value; give one, {key}=...")
        else:
            problems += _value_problems(inner, hint, key)


def _check_node(node: Any, kind: NodeKind, path: str, problems: list[str]) -> None:
    """Holds a `_target_` section, and those inside it, against the signatures that they name."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        problems.append(f"{path}: names nothing to build; it needs a _target_, got {node!r}")
        return
    try:
        target = locate(str(node["_target_"]), f"{path}._target_")
    except ConfigError as error:
        problems += error.problems
        return
    if not inspect.isclass(target) and _returns(target) != kind.returns:
        made = f"a class or a function that returns {kind.returns}" if kind.returns else "a class"
        problems.append(f"{path}._target_: {node['_target_']!r} cannot stand here; it needs to be {made}")
        return
    arguments = {key: value for key, value in node.items() if key not in _SPECIAL_KEYS}
    parameters, takes_any, hints = _signature(target)
    if not takes_any:
        # A preset nulls what another preset mounted; a null for an unknown parameter is not a setting.
        given = {key: value for key, value in arguments.items() if value is not None or key in parameters}
        problems += _unknown_keys(given, parameters, path, owner=str(node["_target_"]))
    noted = any(problem.startswith(f"{path}.lr:") for problem in problems)
    if "lr" in parameters and "lr" not in arguments and path.endswith("optimizer") and not noted:
        problems.append(f"{path}.lr: missing; give a number or a schedule")
    for name, parameter in parameters.items():
        key = _join(path, name)
        if name not in arguments:
            expected = kind.injected is not None and name not in kind.injected
            if expected and parameter.default is inspect.Parameter.empty:
                problems.append(f"{key}: missing; {node['_target_']} needs it")
        elif kind.injected is not None and name in kind.injected:
            problems.append(f"{key}: is set by kdexp itself; take it out")
        else:
            _check_argument(arguments[name], hints.get(name, Any), key, problems)


def _check_argument(value: Any, hint: Any, key: str, problems: list[str]) -> None:
    if value == "???":
        problems.append(f"{key}: has no value; give one, {key}=...")
    elif isinstance(value, Mapping) and "_target_" in value:
        _check_node(value, NodeKind(injected=None), key, problems)
    elif key.endswith("optimizer.lr"):
        problems += rate_problems(value, key)
    else:
        problems += _value_problems(value, hint, key)


def _objective_problems(node: Mapping[str, Any]) -> list[str]:
    """What the preset itself refuses: the course of each weight and of the temperature."""
    preset = locate(str(node["_target_"]), "distill._target_")
    accepted = inspect.signature(preset).parameters
    try:
        preset(**{name: value for name, value in node.items() if name in accepted})
    except ConfigError as error:
        return error.problems
    except (TypeError, ValueError) as error:
        return [f"distill: {error}"]
    return []


def _optimizer_problems(node: Mapping[str, Any], key: str) -> list[str]:
    """What the optimiser itself refuses, seen on one weight of no account."""
    import torch

    rate = node["lr"]["start"] if isinstance(node["lr"], Mapping) else node["lr"]
    settings = {name: value for name, value in node.items() if name not in (*_SPECIAL_KEYS, "lr")}
    try:
        locate(str(node["_target_"]), key)([torch.zeros(1, 1, requires_grad=True)], lr=rate, **settings)
    except (ValueError, TypeError, RuntimeError) as error:
        named = next((f".{name}" for name in settings if name.rstrip("s") in str(error)), "")
        return [f"{key}{named}: {node['_target_']} refuses it: {error}"]
    return []


def rate_problems(value: Any, key: str) -> list[str]:
    """What is wrong with a learning rate: a number or a schedule, nowhere below zero."""
    from annotated_types import Interval

    from kdexp.distill.schedules import make_schedule

    try:
        make_schedule(value, key, Interval(ge=0))
    except ConfigError as error:
        return error.problems
    except ValueError as error:
        return [str(error)]
    return []


def locate(name: str, key: str) -> Callable[..., Any]:
    """What a dotted name means, where the whitelist allows it.

    A name must lead to a class or function of a trusted package, and that package must be its true home: an object
    that a trusted module merely imported is refused.
    """
    module_name, _, attribute = name.rpartition(".")
    trusted = trusted_packages()
    way_out = f"to trust a package of your own, list it in the environment variable {TRUST_VARIABLE}"
    if not _within(name, trusted):
        raise ConfigError(f"{key}: {name!r} is outside the packages that a config may name; {way_out}")
    if not module_name or attribute.startswith("_"):
        raise ConfigError(f"{key}: {name!r} names no class or function, such as package.module.Name")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise ConfigError(f"{key}: cannot import {name!r} ({error})") from None
    except AttributeError:
        choices = [n for n, o in vars(importlib.import_module(module_name)).items() if callable(o) and n[0] != "_"]
        raise ConfigError(f"{key}: module {module_name} has no {attribute!r}{_nearest(attribute, choices)}") from None
    home = f"{getattr(found, '__module__', '')}.{attribute}"
    if not callable(found) or not _within(home, trusted):
        raise ConfigError(f"{key}: {name!r} is really {home!r}, outside the packages that a config may name; {way_out}")
    return found


def _signature(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool, dict[str, Any]]:
    """Parameters by name, whether it takes any keyword, and its type hints (none where they cannot be read)."""
    parameters = dict(inspect.signature(target).parameters)
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = {name: p for name, p in parameters.items() if p.kind not in variadic}
    function = target.__init__ if inspect.isclass(target) else target
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # a third-party signature that names what it does not import
        hints = {}
    return parameters, takes_any, hints


def _returns(function: Callable[..., Any]) -> str:
    """The name of what a function says that it returns."""
    said = inspect.signature(function).return_annotation
    return said if isinstance(said, str) else getattr(said, "__name__", "")


def _value_problems(value: Any, hint: Any, key: str) -> list[str]:
    """What pydantic finds wrong with a value, in JSON's strict reading: a list may be a tuple, text a path, no more."""
    from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

    if isinstance(value, float) and not math.isfinite(value):
        return [f"{key}: must be a finite number, got {value}"]
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a dataclass or model brings its own settings
        adapter = TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        return []
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        said = dict.fromkeys(_in_words(detail["msg"]) for detail in error.errors())
        return [f"{key}: {' or '.join(said)}, got {value!r}"]
    return []


def _in_words(message: str) -> str:
    words = (
        message.replace("Input should be", "must be")
        .replace("a valid integer", "an integer")
        .replace("a valid array", "a list")
        .replace("a valid", "a")
    )
    return words[:1].lower() + words[1:]


def _unknown_keys(value: Mapping[str, Any], known: Mapping[str, Any], path: str, owner: str = "") -> list[str]:
    where = f" in {owner}" if owner else ""
    return [
        f"{_join(path, str(key))}: unknown key{where}, so it would have no effect{_nearest(str(key), list(known))}"
        for key in value
        if key not in known
    ]


def _nearest(word: str, choices: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, choices, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are: {', '.join(choices)}" if choices else ""


def _within(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
