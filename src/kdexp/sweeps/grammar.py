"""What the words of a search mean: `choice`, `range`, `interval`, `int(...)`, `tag(log, ...)`, as Hydra spells them.

The upstream sweeper turns a word into a distribution. Some words it takes otherwise than they read (a log scale on a
`range` is dropped, so is a misspelt tag); here those are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
    Transformer,
)
from hydra.errors import HydraException
from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

PARAMS = "hydra.sweeper.params"


@dataclass
class Words:
    """The words of a search, read. `origin` says under which full key a parameter was written, for messages."""

    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    spelling: dict[str, dict[Any, str]] = field(default_factory=dict)
    """For each categorical parameter: the choice as the study holds it -> as it is written in an override."""
    meaning: dict[str, dict[Any, Any]] = field(default_factory=dict)
    """For each categorical parameter: the choice as the study holds it -> the plain value that it means."""
    fixed: dict[str, str] = field(default_factory=dict)
    """Parameters with one value, as it is written in an override."""
    deleted: list[str] = field(default_factory=list)
    origin: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """What could not be read: parameter -> problem, with the full key."""

    def word(self, name: str, value: Any) -> str:
        """A value, as the study holds it, in the spelling of an override."""
        spelling = self.spelling.get(name)
        return spelling[value] if spelling is not None else written(value)

    def means(self, name: str, value: Any) -> Any:
        """The plain value that one in the study stands for."""
        meanings = self.meaning.get(name)
        return meanings[value] if meanings is not None else value

    def stored(self, name: str, value: Any) -> Any:
        """A plain value, or one of another study, as the study holds it. Raises ValueError where the parameter cannot
        have it."""
        distribution = self.distributions[name]
        if isinstance(distribution, CategoricalDistribution):
            for choice, meaning in self.meaning[name].items():
                if same(meaning, value) or same(choice, value):
                    return choice
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            whole = isinstance(distribution, IntDistribution)
            if (not whole or value == int(value)) and distribution._contains(float(value)):
                return int(value) if whole else float(value)
        raise ValueError(f"{value!r} is not in {describe_distribution(distribution)}")

    def without(self, names: Sequence[str]) -> Words:
        """The same words without these parameters."""
        kept = {name: one for name, one in self.distributions.items() if name not in names}
        return replace(self, distributions=kept)


def read_words(params: Mapping[str, str], arguments: Sequence[str]) -> Words:
    """Reads the search's parameters, then the command line, where the last word on a parameter counts.

    A word that does not mean anything, or not what it says, goes to `refused`.
    """
    words = Words()
    given = [(f"{key}={value}", f"{PARAMS}.{key}") for key, value in params.items()]
    given += [(argument, argument.partition("=")[0]) for argument in arguments]
    for word, origin in given:
        try:
            _take_in(words, OverridesParser.create().parse_override(word), origin)
        except HydraException as error:
            key, _, value = word.partition("=")
            words.refused[key] = f"{origin}: {value!r} cannot be read: {str(error).splitlines()[0]}"
        except (ValueError, NotImplementedError, AssertionError) as error:
            words.refused[word.partition("=")[0]] = f"{origin}: {error}"
    return words


def plain_value(word: str) -> Any:
    """What a written value means: `'a b'` is the text a b, `1e-3` a number, `null` nothing."""
    value = OverridesParser.create().parse_override(f"value={word}").value()
    return str(value) if isinstance(value, str) else value


def written(value: Any) -> str:
    """A plain value as an override spells it; text is put in quotes where it would not be read as text."""
    if isinstance(value, str):
        try:
            if plain_value(value) == value:
                return value
        except HydraException:
            pass
        # To Hydra a backslash is one, unless a quote follows.
        return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), value) + "'"
    return Transformer.str(value)


def same(one: Any, other: Any) -> bool:
    """Equal, and not merely as 1 equals true."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def describe_distribution(distribution: BaseDistribution) -> str:
    """A distribution in the words of a search."""
    if isinstance(distribution, CategoricalDistribution):
        return f"choice({', '.join(map(str, distribution.choices))})"
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    ends = f"{distribution.low}, {distribution.high}"
    if distribution.step not in (None, 1):
        return f"from {distribution.low} to {distribution.high} in steps of {distribution.step}"
    inner = f"int(interval({ends}))" if isinstance(distribution, IntDistribution) else f"interval({ends})"
    return f"tag(log, {inner})" if distribution.log else inner


def ends(distribution: BaseDistribution) -> list[Any]:
    """What a check must try: every choice, and both ends of everything else."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    return [distribution.low, distribution.high]


def steps(distribution: BaseDistribution) -> list[Any] | None:
    """Every value in order; None where there is no end of them."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    assert isinstance(distribution, FloatDistribution)
    if distribution.step is None:
        return None
    low, high, step = (Decimal(str(value)) for value in (distribution.low, distribution.high, distribution.step))
    return [float(low + number * step) for number in range(int((high - low) / step) + 1)]


def draw(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _take_in(words: Words, override: Override, origin: str) -> None:
    if override.is_delete():
        words.deleted.append(str(override.input_line))
        return
    name = override.get_key_element()
    for earlier in (words.distributions, words.fixed, words.spelling, words.meaning):
        earlier.pop(name, None)
    words.origin[name] = origin
    if not override.is_sweep_override():
        words.fixed[name] = override.get_value_string()
        return
    problem = _problem(override.value())
    if problem:
        raise ValueError(problem)
    words.distributions[name] = _distribution(override)
    if isinstance(words.distributions[name], CategoricalDistribution):
        spelling = words.spelling[name] = _spelling(override)
        words.meaning[name] = {choice: plain_value(word) for choice, word in spelling.items()}


def _distribution(override: Override) -> BaseDistribution:
    from hydra_plugins.hydra_optuna_sweeper._impl import create_optuna_distribution_from_override

    made = create_optuna_distribution_from_override(override)
    assert isinstance(made, BaseDistribution), made
    return made


def _spelling(override: Override) -> dict[Any, str]:
    choices: Iterator[Any] = override.sweep_iterator(transformer=Transformer.encode)
    spelled: Iterator[Any] = override.sweep_iterator(transformer=written)
    return dict(zip(choices, spelled, strict=True))


def _problem(value: Any) -> str | None:
    """Why a sweep does not mean what it says; None where it does."""
    if not isinstance(value, (ChoiceSweep, RangeSweep, IntervalSweep)):
        return f"{type(value).__name__} cannot be searched; write choice(...), range(...) or interval(...)"
    if isinstance(value, RangeSweep) and "log" in value.tags:
        return "a range has no log scale; write tag(log, int(interval(low, high))) or tag(log, interval(low, high))"
    unknown = value.tags - ({"log"} if isinstance(value, IntervalSweep) else set())
    if unknown:
        return f"the tag {', '.join(sorted(unknown))} has no effect; the one tag is log, for an interval"
    if isinstance(value, IntervalSweep):
        return _interval_problem(value)
    if value.shuffle:
        return "shuffle would make another space of it at each start; samplers shuffle by themselves"
    if isinstance(value, RangeSweep):
        empty = value.step == 0 or not list(value.range())
        return (
            f"range({value.start}, {value.stop}, {value.step}) holds no value; its end is left out" if empty else None
        )
    choices = [Transformer.encode(choice) for choice in value.list]
    twice = [str(choice) for number, choice in enumerate(choices) if choice in choices[:number]]
    return f"names {', '.join(twice)} twice" if twice else None


def _interval_problem(value: IntervalSweep) -> str | None:
    low, high = value.start, value.end
    assert low is not None and high is not None
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"both ends must be finite numbers, got interval({low}, {high})"
    if low == high:
        return f"interval({low}, {high}) holds one value only; write {low} to fix it"
    if low > high:
        return f"interval({low}, {high}) is the wrong way round; write interval({high}, {low})"
    if "log" in value.tags and low <= 0:
        return f"a log scale begins above 0, got interval({low}, {high})"
    return None
