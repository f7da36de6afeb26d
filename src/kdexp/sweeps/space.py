"""The space of a search: what is drawn, what is fixed, and which parameters exist only beside certain others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from optuna import Trial
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution

from kdexp.check import locate
from kdexp.errors import ConfigError
from kdexp.sweeps.conditions import ACTIVE_WHEN, Conditions, above, read_conditions
from kdexp.sweeps.grammar import Words, describe_distribution, draw, ends, plain_value, read_words, same, steps
from kdexp.sweeps.vetting import job_check, vet

Values = dict[str, Any]
"""Parameter -> value as the study holds it."""
Extension = Callable[[DictConfig, Trial], None]


@dataclass(frozen=True)
class Space:
    """`conditions[parameter][other]` are the values of `other` beside which the parameter exists. A fixed parameter
    may have conditions too: then it is set only there. `extension` draws more, when all else is drawn."""

    words: Words
    conditions: Conditions = field(default_factory=dict)
    extension: Callable[[Trial], None] | None = None
    extension_name: str | None = None

    @classmethod
    def from_config(
        cls,
        settings: Mapping[str, Any],
        config: DictConfig,
        context: HydraContext,
        arguments: Sequence[str],
        *,
        with_vetting: bool = True,
    ) -> Space:
        """The space that the sweeper's settings and the command line's words make. Raises ConfigError with every
        mistake; `with_vetting` also composes every choice and both ends of every interval and checks the outcome."""
        params, active_when = kept(settings)
        space, problems = cls._sound(params, arguments, active_when)
        name = settings.get("custom_search_space")
        if name:
            extend: Extension = locate(name, "hydra.sweeper.custom_search_space")
            space = replace(space, extension=lambda trial: extend(config, trial), extension_name=name)
        if with_vetting:
            problems += vet(space, job_check(context, config))
        if problems:
            raise ConfigError(problems)
        return space

    @classmethod
    def read(
        cls, params: Mapping[str, str], arguments: Sequence[str] = (), active_when: Mapping[str, Any] | None = None
    ) -> Space:
        """The space of these words alone. Raises ConfigError with every mistake in them."""
        space, problems = cls._sound(params, arguments, active_when or {})
        if problems:
            raise ConfigError(problems)
        return space

    @classmethod
    def _sound(
        cls, params: Mapping[str, str], arguments: Sequence[str], active_when: Mapping[str, Any]
    ) -> tuple[Space, list[str]]:
        """What can be read of the space, and what is wrong with the rest."""
        words = read_words(params, arguments)
        conditions, problems = read_conditions(active_when, words)
        problems = [*words.refused.values(), *problems]
        unsure = [name for name in words.distributions if above(name, active_when) & set(words.refused)]
        unsure += [name for name in active_when if name not in conditions]
        space = cls(words.without(unsure), {n: others for n, others in conditions.items() if n not in unsure})
        return space._without_impossible(problems), problems

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """All parameters in the order in which they are drawn: those without conditions first, then each after those
        that it depends on."""
        free = [name for name in self.words.distributions if not self._swept_conditions(name)]
        bound = [name for name in self.words.distributions if name not in free]
        ordered = free
        while bound:
            ready = [name for name in bound if set(self._swept_conditions(name)) <= set(ordered)]
            ordered = ordered + ready
            bound = [name for name in bound if name not in ready]
        return {name: self.words.distributions[name] for name in ordered}

    @property
    def unconditional(self) -> dict[str, BaseDistribution]:
        """The parameters that every trial has."""
        return {name: found for name, found in self.distributions.items() if not self._swept_conditions(name)}

    def is_active(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether a parameter exists beside these values."""
        return all(
            self._known(other, values) and any(same(self._meaning(other, values), one) for one in allowed)
            for other, allowed in self.conditions.get(name, {}).items()
        )

    def suggest(self, trial: Trial) -> Values:
        """Draws what this trial needs."""
        values: Values = {}
        for name, distribution in self.distributions.items():
            if self.is_active(name, values):
                values[name] = draw(trial, name, distribution)
        if self.extension is not None:
            self.extension(trial)
            values |= {name: value for name, value in trial.params.items() if name not in values}
        return values

    def missing(self, values: Mapping[str, Any]) -> list[str]:
        """The parameters that a trial with these values should have and has not: it was cut off while it was drawn."""
        return [name for name in self.distributions if name not in values and self.is_active(name, values)]

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The words of a job with these values: what is taken out, what is fixed, what was drawn."""
        fixed = [f"{name}={word}" for name, word in self.words.fixed.items() if self.is_active(name, values)]
        drawn = [f"{name}={self.words.word(name, value)}" for name, value in values.items()]
        return [*self.words.deleted, *fixed, *drawn]

    def example(self, forced: Mapping[str, Any], *, last: bool = False) -> Values:
        """The first (or last) value of every parameter, but for those forced; what these depend on is set to suit
        them."""
        wanted = dict(forced)
        waiting = list(forced)
        while waiting:
            for other in self._swept_conditions(waiting.pop()):
                if other not in wanted:
                    wanted[other] = self._first_allowed(other, wanted)
                    waiting.append(other)
        values: Values = {}
        for name, distribution in self.distributions.items():
            if self.is_active(name, values):
                values[name] = wanted.get(name, ends(distribution)[-1 if last else 0])
        return values

    def points(self) -> list[Values]:
        """Every combination, each parameter only where it is active. Raises ConfigError where they have no end."""
        endless = [name for name, found in self.distributions.items() if steps(found) is None]
        if endless:
            raise ConfigError(
                [
                    f"{self.words.origin[name]}: an interval has no end of values, but this sampler tries all; "
                    "write choice(...) or range(low, high, step)"
                    for name in endless
                ]
            )
        points: list[Values] = [{}]
        for name, distribution in self.distributions.items():
            points = [grown for point in points for grown in self._grown(point, name, distribution)]
        return points

    def describe(self) -> dict[str, Any]:
        """The space in plain values, for the study's attributes."""
        return {
            "parameters": {name: json.loads(distribution_to_json(one)) for name, one in self.distributions.items()},
            "active_when": {
                name: {other: list(allowed) for other, allowed in others.items()}
                for name, others in self.conditions.items()
            },
            "custom_search_space": self.extension_name,
            "fixed": dict(self.words.fixed),
            "deleted": list(self.words.deleted),
        }

    def _grown(self, point: Values, name: str, distribution: BaseDistribution) -> Iterator[Values]:
        if not self.is_active(name, point):
            yield point
            return
        for value in steps(distribution) or []:
            yield {**point, name: value}

    def _swept_conditions(self, name: str) -> list[str]:
        return [other for other in self.conditions.get(name, {}) if other not in self.words.fixed]

    def _known(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether a parameter has a value: a fixed one has it where it is active itself."""
        return name in values or (name in self.words.fixed and self.is_active(name, values))

    def _meaning(self, name: str, values: Mapping[str, Any]) -> Any:
        return self.words.means(name, values[name]) if name in values else plain_value(self.words.fixed[name])

    def _first_allowed(self, other: str, wanted: Mapping[str, Any]) -> Any:
        """A value of `other` that every wanted parameter depending on it allows."""
        asked = [set_[other] for name, set_ in self.conditions.items() if name in wanted and other in set_]
        common = [one for one in asked[0] if all(any(same(one, two) for two in allowed) for allowed in asked[1:])]
        return self.words.stored(other, common[0] if common else asked[0][0])

    def _without_impossible(self, problems: list[str]) -> Space:
        """The space without parameters that no trial could have, because what they depend on is fixed otherwise.

        It is a problem where such a parameter was given on the command line, or where no word is to blame.
        """
        idle = [name for name in self.words.fixed if not self.is_active(name, self._suited(name))]
        impossible = [name for name in self.distributions if not self.is_active(name, self._suited(name))]
        problems += [
            f"{name}: has no effect, {ACTIVE_WHEN} leaves it out beside the other words"
            for name in [*impossible, *idle]
            if self.words.origin[name] == name
        ]
        problems += [
            f"{ACTIVE_WHEN}.{name}: no trial could have it, what it asks for excludes each other"
            for name in impossible
            if not above(name, self.conditions) & set(self.words.fixed)
        ]
        conditions = {name: others for name, others in self.conditions.items() if name not in impossible}
        return replace(self, words=self.words.without(impossible), conditions=conditions)

    def _suited(self, name: str) -> Values:
        """Values beside which the parameter exists, if there are any."""
        others = self._swept_conditions(name)
        return self.example({other: self._first_allowed(other, {name: None}) for other in others})


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two descriptions of a space, one sentence each; what is fixed is not looked at."""
    before, after = old["parameters"], new["parameters"]
    sentences = [f"{name}: was not searched, is now {_in_words(after[name])}" for name in after if name not in before]
    sentences += [
        f"{name}: was {_in_words(before[name])}, is no longer searched" for name in before if name not in after
    ]
    sentences += [
        f"{name}: was {_in_words(before[name])}, is now {_in_words(after[name])}"
        for name in after
        if name in before and before[name] != after[name]
    ]
    for name in dict.fromkeys([*old["active_when"], *new["active_when"]]):
        was, now = old["active_when"].get(name), new["active_when"].get(name)
        if was != now:
            sentences.append(f"{name}: was drawn {_when(was)}, is now drawn {_when(now)}")
    if old["custom_search_space"] != new["custom_search_space"]:
        sentences.append(f"custom_search_space: was {old['custom_search_space']}, is now {new['custom_search_space']}")
    return sentences


def fixed_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed in the words that are the same for all trials, one sentence each."""
    names = dict.fromkeys([*old["fixed"], *new["fixed"]])
    changed = [
        f"{name}: was {old['fixed'].get(name, 'left alone')}, is now {new['fixed'].get(name, 'left alone')}"
        for name in names
        if old["fixed"].get(name) != new["fixed"].get(name)
    ]
    if old["deleted"] != new["deleted"]:
        changed.append(f"taken out: was {old['deleted']}, is now {new['deleted']}")
    return changed


def _in_words(described: Mapping[str, Any]) -> str:
    return describe_distribution(json_to_distribution(json.dumps(described)))


def _when(condition: Mapping[str, Any] | None) -> str:
    return "in every trial" if not condition else "when " + " and ".join(f"{k} is in {v}" for k, v in condition.items())


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def kept(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`params` and `active_when` less what `without` names. Raises ConfigError for a name that is not there."""
    params, conditions = _plain(settings.get("params")) or {}, _plain(settings.get("active_when")) or {}
    left_out = _plain(settings.get("without")) or []
    unknown = [name for name in left_out if name not in params]
    if unknown:
        raise ConfigError(
            f"hydra.sweeper.without: {', '.join(unknown)} is no parameter of this search; "
            f"there are: {', '.join(params)}"
        )
    return (
        {name: value for name, value in params.items() if name not in left_out},
        {name: value for name, value in conditions.items() if name not in left_out},
    )
