"""Which plots a study has to show, with which arguments of Optuna's functions, and why one of them would be empty."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from kdexp.sweeps.summary import n_by_state, states_in_words
from kdexp.sweeps.view import StudyView, one_objective, quiet

N_CONTOUR_PARAMETERS = 4
"""A contour needs a panel for each pair of parameters; of more parameters the most important are shown."""
N_SLICES_IN_A_ROW = 3
BEST_PART, FEWEST_BEST = 0.1, 5
"""PED-ANOVA asks what sets the best trials apart: a tenth, but five at least, below which Optuna calls it unstable."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One plot: Optuna's `plot_<kind>` on `study` with `arguments`. `empty` says why it has nothing to show."""

    name: str
    kind: str
    title: str
    study: optuna.Study
    empty: str | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    """A further line for the head."""
    inches: tuple[float, float] = (8.0, 4.8)
    rows: tuple[Mapping[str, Any], ...] = ({},)
    """A picture with many panels is drawn in rows, each with further arguments, so that it stays readable."""


@dataclass(frozen=True)
class _Objective:
    study: optuna.Study
    complete: list[FrozenTrial]
    name: str
    suffix: str
    label: str
    reason: str | None
    """Why nothing about this objective's values can be drawn."""

    @property
    def parameters(self) -> list[str]:
        return sorted({name for trial in self.complete for name in trial.params})

    @property
    def no_parameters(self) -> str | None:
        return self.reason or (None if self.parameters else "the trials have no parameters")

    @property
    def too_equal(self) -> str | None:
        differ = len({trial.value for trial in self.complete}) > 1
        return self.reason or (None if differ else "it needs two complete trials with different values")


def charts(view: StudyView) -> Iterator[Chart]:
    """All plots of a study; the ones about values once for each objective."""
    objectives = [_objective(view, number) for number in range(len(view.objectives))]
    for objective in objectives:
        yield _history(objective)
        yield _edf(objective)
        importance = _importance(objective)
        yield _importances(objective, importance)
        yield _slice(objective)
        yield _contour(objective, importance if isinstance(importance, list) else [])
    yield _parallel_coordinate(view, objectives[0])
    if len(objectives) > 1:
        yield _pareto_front(view, objectives[0].reason)
    yield _timeline(view)
    yield _intermediate_values(view)


def _objective(view: StudyView, number: int) -> _Objective:
    several, name = len(view.objectives) > 1, view.objectives[number]
    study = one_objective(view, number)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    finite = [trial for trial in complete if math.isfinite(trial.value or 0.0)]
    reason = None if finite else f"no trial is complete ({states_in_words(n_by_state(view))})"
    if complete and not finite:
        reason = "no complete trial has a finite value"
    return _Objective(study, finite, name, f"_{number}" if several else "", f": {name}" if several else "", reason)


def _history(objective: _Objective) -> Chart:
    return Chart(
        name=f"optimization_history{objective.suffix}",
        kind="optimization_history",
        title=f"Optimisation history{objective.label}",
        study=objective.study,
        empty=objective.reason,
        arguments={"target_name": objective.name},
        inches=(9.0, 4.8),
    )


def _edf(objective: _Objective) -> Chart:
    return Chart(
        name=f"edf{objective.suffix}",
        kind="edf",
        title=f"Empirical distribution of values{objective.label}",
        note="complete trials only",
        study=objective.study,
        empty=objective.too_equal,
        arguments={"target_name": objective.name},
    )


def _importance(objective: _Objective) -> list[str] | str:
    """Parameters by importance, the highest first; or the reason why there is none."""
    reason = objective.no_parameters or objective.too_equal
    if reason:
        return reason
    if not any(_n_values(objective.complete, name) > 1 for name in objective.parameters):
        return "it needs two complete trials with different parameters"
    with quiet():
        found = get_param_importances(objective.study, evaluator=_evaluator(objective), normalize=False)
    if not sum(found.values()) > 0:
        return "no parameter tells the best complete trials from the others"
    return list(found)


def _importances(objective: _Objective, importance: list[str] | str) -> Chart:
    n = len(objective.complete)
    n_best = _n_best(objective)
    rough = ", too few for more than a hint" if n_best < FEWEST_BEST else ""
    return Chart(
        name=f"param_importances{objective.suffix}",
        kind="param_importances",
        title=f"Parameter importance (PED-ANOVA){objective.label}",
        note=f"what sets the best {n_best} of {n} complete trials apart{rough}",
        study=objective.study,
        empty=importance if isinstance(importance, str) else None,
        arguments={"target_name": objective.name, "evaluator": _evaluator(objective)},
        inches=(8.0, max(2.5, 0.8 + 0.4 * len(objective.parameters))),
    )


def _slice(objective: _Objective) -> Chart:
    names = objective.parameters
    starts = range(0, len(names), N_SLICES_IN_A_ROW)
    return Chart(
        name=f"slice{objective.suffix}",
        kind="slice",
        title=f"Slices: value over each parameter{objective.label}",
        note="complete trials only",
        study=objective.study,
        empty=objective.no_parameters,
        arguments={"target_name": objective.name},
        inches=(7.0, 3.4),
        rows=tuple({"params": names[start : start + N_SLICES_IN_A_ROW]} for start in starts),
    )


def _contour(objective: _Objective, importance: Sequence[str]) -> Chart:
    varied = [name for name in objective.parameters if _n_values(objective.complete, name) > 1]
    ranked = [name for name in importance if name in varied]
    shown = sorted([*ranked, *(name for name in varied if name not in ranked)][:N_CONTOUR_PARAMETERS])
    few = "it needs two parameters that vary together among the complete trials"
    chosen = "most important" if ranked else "first"
    side = 2.8 * len(shown) if len(shown) > 2 else 6.0
    return Chart(
        name=f"contour{objective.suffix}",
        kind="contour",
        title=f"Contours{objective.label}",
        note="interpolated between complete trials"
        + (f"; the {chosen} {len(shown)} of {len(varied)} parameters" if len(shown) < len(varied) else ""),
        study=objective.study,
        empty=objective.no_parameters or (None if _has_pair(objective.complete, shown) else few),
        arguments={"params": shown, "target_name": objective.name},
        inches=(side + 1.5, side),
    )


def _parallel_coordinate(view: StudyView, objective: _Objective) -> Chart:
    n_axes = len(objective.parameters) + len(view.objectives)
    return Chart(
        name="parallel_coordinate",
        kind="parallel_coordinate",
        title="Parallel coordinates",
        note="complete trials only",
        study=view.study,
        empty=objective.no_parameters,
        arguments={} if len(view.objectives) > 1 else {"target_name": objective.name},
        inches=(max(8.0, 1.5 * n_axes), 5.5),
    )


def _pareto_front(view: StudyView, reason: str | None) -> Chart:
    n = len(view.objectives)
    too_many = f"Optuna draws it for two or three objectives, the study has {n}"
    return Chart(
        name="pareto_front",
        kind="pareto_front",
        title="Pareto front",
        study=view.study,
        empty=reason or (too_many if n > 3 else None),
        arguments={"target_names": list(view.objectives)},
    )


def _timeline(view: StudyView) -> Chart:
    started = [trial for trial in view.trials if trial.datetime_start]
    lasted = any(trial.state == TrialState.RUNNING or trial.duration for trial in started)
    return Chart(
        name="timeline",
        kind="timeline",
        title="Timeline",
        study=view.study,
        empty=None if lasted else "no trial took any time" if started else "no trial has started",
        inches=(9.0, 5.0),
    )


def _intermediate_values(view: StudyView) -> Chart:
    drawn = view.of(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    return Chart(
        name="intermediate_values",
        kind="intermediate_values",
        title="Intermediate values by epoch",
        note="complete, pruned and running trials",
        study=view.study,
        empty=None if any(t.intermediate_values for t in drawn) else "no trial reported a value while it ran",
        inches=(9.0, 5.0),
    )


def _n_best(objective: _Objective) -> int:
    """How many trials PED-ANOVA sets against all; never more than half."""
    n = len(objective.complete)
    return max(1, math.ceil(BEST_PART * n), min(FEWEST_BEST, n // 2))


def _evaluator(objective: _Objective) -> PedAnovaImportanceEvaluator:
    # Half a trial less, so that rounding up gives the number meant.
    return PedAnovaImportanceEvaluator(target_quantile=(_n_best(objective) - 0.5) / max(1, len(objective.complete)))


def _n_values(trials: Sequence[FrozenTrial], name: str) -> int:
    return len({repr(trial.params[name]) for trial in trials if name in trial.params})


def _has_pair(trials: Sequence[FrozenTrial], names: Sequence[str]) -> bool:
    """Whether any two parameters vary in trials that have both."""
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            both = [trial for trial in trials if one in trial.params and other in trial.params]
            if _n_values(both, one) > 1 and _n_values(both, other) > 1:
                return True
    return False
