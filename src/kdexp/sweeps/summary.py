"""The summary of a study: what was run on what data, what came out, and how far to trust it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from kdexp.records import redact, redact_argument
from kdexp.sweeps.limits import is_feasible
from kdexp.sweeps.view import FINISHED, StudyView, epochs_run, from_run_command, planned_epochs, seconds, utc

SUMMARY_SCHEMA = 1
_NOT_DRAWN = ("given", "only value")
"""What a trial's `drawn_by` says of values that no sampler chose."""


def summarize(view: StudyView, best: FrozenTrial | None) -> dict[str, Any]:
    """Everything that `study_summary.json` holds; plain values. `problems` are the study's own."""
    attributes, counts = view.attributes, n_by_state(view)
    epochs, problems = _epochs(view)
    data, data_warnings = _data(view)
    drawn_by = _drawn_by(view)
    n_finished = counts["complete"] + counts["pruned"]
    front = [view.trials[trial.number] for trial in view.study.best_trials] if len(view.directions) > 1 else []
    return {
        "schema": SUMMARY_SCHEMA,
        "study_name": view.study.study_name,
        "written": utc(datetime.now()),
        "objectives": list(view.objectives),
        "directions": list(view.directions),
        "constraints": list(attributes.get("constraints") or ()),
        "n_trials": counts,
        "budget": attributes.get("n_trials"),
        "best_trial": None if best is None else _trial_facts(view, best),
        "pareto_set": [_trial_facts(view, trial) for trial in sorted(front, key=lambda trial: trial.number)],
        "sampler": redact(attributes.get("sampler")),
        "pruner": redact(attributes.get("pruner")),
        "space": redact(attributes.get("space")),
        "base_overrides": [redact_argument(str(word)) for word in attributes.get("base_overrides") or ()],
        "epochs": epochs,
        "share_pruned": counts["pruned"] / n_finished if n_finished else None,
        "failures": _failures(view),
        "drawn_by": drawn_by,
        "durations_seconds": _durations(view),
        "data": data,
        "warnings": [
            *data_warnings,
            *(attributes.get("warnings") or ()),
            *_sampler_warnings(attributes.get("sampler"), drawn_by["by_sampler"]),
            *_broken_constraints(view),
        ],
        "problems": [*view.problems, *problems],
    }


def states_in_words(counts: Mapping[str, int]) -> str:
    """`24 complete, 6 pruned`; `no trials`."""
    said = ", ".join(f"{n} {state}" for state, n in counts.items() if n and state != "total")
    return said or "no trials"


def no_winner(summary: Mapping[str, Any]) -> str:
    """Why there is no best trial."""
    if len(summary["directions"]) > 1:
        numbers = ", ".join(str(one["number"]) for one in summary["pareto_set"]) or "empty so far"
        return f"several objectives have no single winner; choose from the Pareto set (trials {numbers})"
    if summary["n_trials"]["complete"]:
        return "no complete trial keeps the study's constraints"
    return f"the study has no complete trial ({states_in_words(summary['n_trials'])})"


def n_by_state(view: StudyView) -> dict[str, int]:
    """How many trials there are, in total and in each state."""
    order = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING)
    return {"total": len(view.trials), **{state.name.lower(): len(view.of(state)) for state in order}}


def _trial_facts(view: StudyView, trial: FrozenTrial) -> dict[str, Any]:
    run = view.run_folder(trial.number)
    return {
        "number": trial.number,
        "values": dict(zip(view.objectives, trial.values or (), strict=False)),
        "constraints": dict(trial.constraints),
        "params": redact(trial.params),
        "seed": trial.user_attrs.get("seed"),
        "slot": trial.user_attrs.get("slot"),
        "name": trial.user_attrs.get("name"),
        "epochs": epochs_run(view, trial),
        "config_hash": view.records.get(trial.number, {}).get("config_hash"),
        "folder": str(run.path),
        "command": from_run_command(run) if run.config.is_file() else None,
    }


def _epochs(view: StudyView) -> tuple[dict[str, Any], list[str]]:
    """Epochs that finished trials ran, and what their pruned ones would have run more without pruning."""
    ran = {trial.number: epochs_run(view, trial) for trial in view.of(*FINISHED)}
    planned = {trial.number: planned_epochs(view, trial) for trial in view.of(TrialState.PRUNED)}
    unknown = sorted({n for n, epochs in ran.items() if epochs is None} | {n for n, e in planned.items() if e is None})
    lost = sum(epochs_run(view, trial) or 0 for trial in view.of(TrialState.FAIL))
    if unknown:
        shown = ", ".join(map(str, unknown[:10])) + (" and more" if len(unknown) > 10 else "")
        problem = f"epochs: of trials {shown} it is not known how far they ran or would have run"
        return {"run": None, "without_pruning": None, "saved": None, "share_saved": None, "in_failed": lost}, [problem]
    n_run = sum(epochs or 0 for epochs in ran.values())
    saved = sum((epochs or 0) - (ran[number] or 0) for number, epochs in planned.items())
    share = saved / (n_run + saved) if n_run + saved else None
    return {
        "run": n_run,
        "without_pruning": n_run + saved,
        "saved": saved,
        "share_saved": share,
        "in_failed": lost,
    }, []


def _failures(view: StudyView) -> dict[str, int]:
    """Failed trials by their reason; one that was cut off and run again counts as `interrupted`."""
    return dict(Counter(str(trial.user_attrs.get("reason", "unknown")) for trial in view.of(TrialState.FAIL)))


def _drawn_by(view: StudyView) -> dict[str, Any]:
    """How many values each sampler drew in all trials that did not fail, in total and by parameter."""
    by_parameter: dict[str, Counter[str]] = {}
    for trial in view.of(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING):
        for parameter, sampler in (trial.user_attrs.get("drawn_by") or {}).items():
            by_parameter.setdefault(parameter, Counter())[sampler] += 1
    total: Counter[str] = sum(by_parameter.values(), Counter())
    return {"by_sampler": dict(total), "by_parameter": {name: dict(found) for name, found in by_parameter.items()}}


def _broken_constraints(view: StudyView) -> list[str]:
    """How many complete trials cannot win, for all that they measured."""
    complete = view.of(TrialState.COMPLETE)
    n_broken = sum(not is_feasible(trial) for trial in complete)
    limits = ", ".join(view.attributes.get("constraints") or ())
    return [f"{n_broken} of {len(complete)} complete trials break a constraint ({limits})"] if n_broken else []


def _sampler_warnings(asked: Any, drew: Mapping[str, int]) -> list[str]:
    """Says where the sampler that was asked for drew none of the values that were drawn at all."""
    target = asked.get("_target_") if isinstance(asked, Mapping) else asked
    by_samplers = {name: n for name, n in drew.items() if name not in _NOT_DRAWN}
    if not target or not by_samplers or _plain(str(target)) in map(_plain, by_samplers):
        return []
    label = "CMA-ES" if _plain(str(target)) == "cmaes" else str(target).rpartition(".")[2]
    others = " and ".join(f"{name} ({n} values)" for name, n in by_samplers.items())
    return [
        f"{label} drew nothing, all came from {others}: it had not begun, or no parameter is of a kind that it draws"
    ]


def _plain(sampler: str) -> str:
    """`optuna.samplers.CmaEsSampler`, `CmaEsSampler` and `cmaes` are one."""
    return sampler.rpartition(".")[2].lower().removesuffix("sampler")


def _durations(view: StudyView) -> dict[str, Any]:
    finished = [s for s in map(seconds, view.of(*FINISHED)) if s is not None]
    complete = [s for s in map(seconds, view.of(TrialState.COMPLETE)) if s is not None]
    starts = [trial.datetime_start for trial in view.trials if trial.datetime_start]
    ends = [trial.datetime_complete for trial in view.trials if trial.datetime_complete]
    return {
        "first_start": utc(min(starts)) if starts else None,
        "last_end": utc(max(ends)) if ends else None,
        "from_first_start_to_last_end": (max(ends) - min(starts)).total_seconds() if starts and ends else None,
        "sum_of_finished_trials": sum(finished),
        "median_of_complete_trials": statistics.median(complete) if complete else None,
    }


def _data(view: StudyView) -> tuple[dict[str, Any] | None, list[str]]:
    """What the trials were measured on, by their records, and what is to be said about it."""
    finished = {trial.number for trial in view.of(*FINISHED)}
    found = {number: dict(record["data"]) for number, record in view.records.items() if number in finished}
    if not found:
        known = view.attributes.get("data")
        said = [] if known or not finished else ["no trial left a record, so what data they ran on is unknown"]
        return known, said + _synthetic([known] if known else [])
    data = found[max(found)]
    warnings = _synthetic(list(found.values()))
    kinds = Counter(f"{one['name']}, {one['source']}, fingerprint {one['fingerprint']}" for one in found.values())
    if len(kinds) > 1:
        groups = "; ".join(f"{n} trials on {kind}" for kind, n in kinds.most_common(4))
        more = f"; and {len(kinds) - 4} more" if len(kinds) > 4 else ""
        warnings.append(f"the trials ran on different data files or data settings: {groups}{more}")
    kept = ("name", "source", "fingerprint", "n", "n_clusters", "cluster", "notes")
    return {key: data.get(key) for key in kept}, warnings


def _synthetic(data: Sequence[Mapping[str, Any]]) -> list[str]:
    if not any(one.get("source") == "synthetic" for one in data):
        return []
    return ["SYNTHETIC: trials ran on a generated stand-in, which says nothing about the real data"]
