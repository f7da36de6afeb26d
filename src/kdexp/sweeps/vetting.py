"""Finds every value of a search that no run could take, before the first trial: each choice and both ends of each
interval are composed as a job of the sweep would be, and held against the schema."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import BaseDistribution, FloatDistribution

from kdexp.check import check_config
from kdexp.errors import ConfigError
from kdexp.sweeps.conditions import ACTIVE_WHEN
from kdexp.sweeps.grammar import PARAMS, Words, ends

QUEUE = "hydra.sweeper.enqueue"
Check = Callable[[Sequence[str]], list[str]]
"""The words of a job -> what is wrong with its configuration. Raises what Hydra raises where it does not compose."""
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException)


class Vetted(Protocol):
    """What is asked of a space."""

    @property
    def words(self) -> Words: ...

    @property
    def distributions(self) -> dict[str, BaseDistribution]: ...

    def example(self, forced: Mapping[str, Any], *, last: bool = False) -> dict[str, Any]: ...

    def overrides(self, values: Mapping[str, Any]) -> list[str]: ...


def job_check(context: HydraContext, config: DictConfig) -> Check:
    """Composes as the launcher will, from the sweep's own configuration, and checks as the job will."""
    jobs = Jobs(context, config)

    def check(words: Sequence[str]) -> list[str]:
        hydra = HydraConfig.instance()
        before = hydra.cfg
        try:
            check_config(jobs.composed(words), overrides=words)
        except ConfigError as error:
            return error.problems
        finally:
            hydra.cfg = before
        return []

    return check


class Jobs:
    """Jobs of a sweep that differ in plain values alone share one composition, on which the values are set: loading and
    merging the files takes a hundred times longer."""

    def __init__(self, context: HydraContext, config: DictConfig) -> None:
        self.context, self.config = context, config
        self.shared: dict[tuple[str, ...], tuple[Any, DictConfig]] = {}
        """The words that decide which files are read -> Hydra's part and the rest."""

    def composed(self, words: Sequence[str]) -> DictConfig:
        """A job's configuration, with Hydra's part of it set. Raises what Hydra raises where it does not compose."""
        values = [word for word in words if _is_value(word, self.config)]
        hydra, cfg = self._parts(tuple(word for word in words if word not in values))
        if values:
            try:
                cfg = copy.deepcopy(cfg)
                ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(values), cfg)
            except COMPOSITION_ERRORS:
                hydra, cfg = self._parts(tuple(words))  # for Hydra's own message
        HydraConfig.instance().cfg = hydra
        return cfg

    def _parts(self, words: tuple[str, ...]) -> tuple[Any, DictConfig]:
        if words not in self.shared:
            cfg = self.context.config_loader.load_sweep_config(self.config, list(words))
            HydraConfig.instance().set_config(cfg)
            with open_dict(cfg):
                cfg.pop("hydra")
            self.shared[words] = HydraConfig.instance().cfg, cfg
        return self.shared[words]


def _is_value(word: str, config: DictConfig) -> bool:
    """Whether an override sets a key below a section, and so loads no file: groups have a slash, an at sign, or stand
    alone."""
    key = word.partition("=")[0]
    return "." in key and not set(key) & set("/@~+") and key not in config.hydra.runtime.choices


def vet(space: Vetted, check: Check) -> list[str]:
    """Every parameter and value that does not compose or that the schema refuses, a sentence each."""
    return _Vetting(space, check).problems()


def vet_queue(space: Vetted, named: Mapping[str, Mapping[str, Any]], check: Check) -> list[str]:
    """What is wrong with trials that are named beforehand, by name; what they leave open has its first value."""
    problems = []
    for name, params in named.items():
        try:
            found = check(space.overrides(space.example(params)))
        except COMPOSITION_ERRORS as error:
            found = [f"does not compose: {_one_line(error)}"]
        problems += [f"{QUEUE}.{name}: {problem}" for problem in found]
    return problems


class _Vetting:
    """Tries each value twice, beside the first and beside the last values of the other parameters: what is refused
    beside both is the value's own fault, what is refused beside one is a matter of both."""

    def __init__(self, space: Vetted, check: Check) -> None:
        self.space, self.check = space, check
        self.seen: dict[tuple[str, ...], list[str]] = {}
        self.broken: dict[str, str] = {}
        """Parameters that do not compose, with the reason; the other checks go on without them."""

    def problems(self) -> list[str]:
        try:
            shared = self._checked({})
        except COMPOSITION_ERRORS as error:
            return [f"the words that all trials share do not compose: {_one_line(error)}"]
        self._find_broken()
        verdicts = {
            (name, number): [problem for problem in self._verdict(name, value) if problem not in shared]
            for name, distribution in self.space.distributions.items()
            if name not in self.broken
            for number, value in enumerate(ends(distribution))
        }
        found = [*shared, *(self._said(name, None, reason) for name, reason in self.broken.items())]
        everywhere = set.intersection(*map(set, verdicts.values())) if len(verdicts) > 1 else set()
        for (name, number), problems in verdicts.items():
            value = ends(self.space.distributions[name])[number]
            for problem in problems:
                owner = self._owner(problem)
                if owner == name or (owner is None and problem not in everywhere):
                    found.append(self._said(name, value, problem))
                elif owner is None:
                    found.append(f"{PARAMS}: whatever the values, {problem}")
                elif not any(problem in own for (other, _), own in verdicts.items() if other == owner):
                    found.append(self._said(name, value, problem))
        return list(dict.fromkeys(found))

    def _find_broken(self) -> None:
        """Where not all compose together: each parameter beside nothing but what was set for its sake."""
        try:
            self._checked(self.space.example({}))
            return
        except COMPOSITION_ERRORS:
            pass
        plain = self.space.example({})
        for name, distribution in self.space.distributions.items():
            values = self.space.example({name: ends(distribution)[0]})
            needed = {key: value for key, value in values.items() if key == name or plain.get(key, value) != value}
            try:
                self._checked(needed)
            except COMPOSITION_ERRORS as error:
                if not isinstance(error, MissingConfigException):  # a group's other options may be there
                    self.broken[name] = self._reason(name, values[name], error)

    def _verdict(self, name: str, value: Any) -> list[str]:
        corners = []
        for last in (False, True):
            values = self.space.example({name: value}, last=last)
            try:
                corners.append(self._checked(values))
            except COMPOSITION_ERRORS as error:
                corners.append([self._reason(name, value, error)])
            if not corners[-1]:
                return []
        both = [problem for problem in corners[0] if problem in corners[1]]
        return both or [problem for corner in corners for problem in corner if self._owner(problem) == name]

    def _checked(self, values: Mapping[str, Any]) -> list[str]:
        words = self.space.overrides({name: value for name, value in values.items() if name not in self.broken})
        key = tuple(words)
        if key not in self.seen:
            self.seen[key] = self.check(words)
        return self.seen[key]

    def _reason(self, name: str, value: Any, error: Exception) -> str:
        """Why a job does not compose, as a problem of the parameter that Hydra's message names."""
        if isinstance(error, MissingConfigException) and error.options is not None:
            group, _, option = str(error.missing_cfg_file).rpartition("/")
            named = [key for key in self.space.distributions if key.partition("@")[0] == group]
            there = f"{option}: there is no such option; there are: {', '.join(error.options)}"
            return f"{named[0] if named else group}: {there}"
        others = [key for key in self.space.distributions if f"'{key}'" in str(error) and key != name]
        if others:
            return f"{others[0]}: cannot be set; {ACTIVE_WHEN} can say beside what it is drawn"
        cause = f" {_one_line(error.__cause__)}" if error.__cause__ is not None else ""
        word = self.space.words.word(name, value)
        return f"{name}: no run takes {name}={word}: {_one_line(error)}{cause}"

    def _owner(self, problem: str) -> str | None:
        """The parameter whose key a problem begins with."""
        own = [name for name in self.space.distributions if problem.startswith((f"{name}:", f"{name}.", f"{name} "))]
        return max(own, key=len) if own else None

    def _said(self, name: str, value: Any, problem: str) -> str:
        said = problem.removeprefix(f"{name}: ") if self._owner(problem) == name else f"with {value}, {problem}"
        if "must be an integer" in problem and isinstance(self.space.distributions[name], FloatDistribution):
            said += "; an interval gives floats, write int(interval(low, high))"
        return f"{self._origin(name)}: {said}"

    def _origin(self, name: str) -> str:
        return self.space.words.origin[name]


def _one_line(error: BaseException) -> str:
    """Hydra's message without its advice on appending keys and its list of folders."""
    noise = ("Config search path", "full_key", "object_type", "reference_type", "To append")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    stop = next((number for number, line in enumerate(lines) if line.startswith(noise)), len(lines))
    return " ".join(lines[:stop])
