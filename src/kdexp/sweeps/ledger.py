"""Who does what in a study: slots, budget, owners, retries. Every step here happens under the study's lock.

A slot is a place in the budget, 0 to n_trials - 1. It is held by the one trial in it that has not failed; a trial that
was cut off is run again in its slot with the same parameters, one that failed leaves its slot to a new draw. Where
every combination is tried once, another draw is no answer: a failed one is run again when the command is next started.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

SLOT, OWNER, RETRY_OF, REASON, ERROR, NAME = "slot", "owner", "retry_of", "reason", "error", "name"
INTERRUPTED = "interrupted"
IsWhole = Callable[[Mapping[str, Any]], bool]
"""Whether these are all the parameters of a trial, so that it was not cut off while it was drawn."""


@dataclass(frozen=True)
class Standing:
    """Where a study stands, counted over all its trials."""

    finished: int
    running: int
    waiting: int
    failed: int
    pruned: int


def standing(trials: Sequence[FrozenTrial]) -> Standing:
    """COMPLETE and PRUNED are finished; FAIL is not."""
    count = {state: sum(trial.state == state for trial in trials) for state in TrialState}
    return Standing(
        finished=count[TrialState.COMPLETE] + count[TrialState.PRUNED],
        running=count[TrialState.RUNNING],
        waiting=count[TrialState.WAITING],
        failed=count[TrialState.FAIL],
        pruned=count[TrialState.PRUNED],
    )


def free_slot(trials: Sequence[FrozenTrial], n_trials: int, spent: Collection[int] = ()) -> int | None:
    """The first slot that no living or finished trial holds and that is not spent; None where there is none."""
    held = {trial.user_attrs.get(SLOT) for trial in trials if trial.state != TrialState.FAIL}
    return next((slot for slot in range(n_trials) if slot not in held and slot not in spent), None)


def next_slot(trials: Sequence[FrozenTrial], n_trials: int, spent: Collection[int] = ()) -> int | None:
    """Where the next trial belongs: those in line come first, in the order in which Optuna takes them."""
    waiting = [trial.user_attrs[SLOT] for trial in trials if trial.state == TrialState.WAITING]
    return waiting[0] if waiting else free_slot(trials, n_trials, spent)


def spent_slots(trials: Sequence[FrozenTrial], is_whole: IsWhole = bool) -> set[int]:
    """Slots whose trial failed by itself and that no other trial holds."""
    held = {trial.user_attrs.get(SLOT) for trial in trials if trial.state != TrialState.FAIL}
    return {t.user_attrs[SLOT] for t in trials if _failed_itself(t) and is_whole(t.params)} - held


def failures_in_slot(trials: Sequence[FrozenTrial], slot: int) -> int:
    """How many draws of this slot failed by themselves."""
    return sum(trial.user_attrs.get(SLOT) == slot and _failed_itself(trial) for trial in trials)


def consecutive_failures(trials: Sequence[FrozenTrial], since: int = 0) -> int:
    """How many of the trials that ended last failed by themselves, one after the other; counted from a trial number
    on, so that a command that is given again has its own count."""
    ended = [t for t in trials[since:] if t.state.is_finished() and t.user_attrs.get(REASON) != INTERRUPTED]
    ended.sort(key=lambda trial: (trial.datetime_complete is None, trial.datetime_complete, trial.number))
    n = 0
    for trial in reversed(ended):
        if trial.state != TrialState.FAIL:
            break
        n += 1
    return n


def me() -> str:
    """This process: host, number and start time, so that a number used again is not taken for it."""
    return f"{socket.gethostname()}:{os.getpid()}:{_start_of(os.getpid())}"


def is_gone(owner: str) -> bool:
    """Whether an owner on this host is certainly dead; of another host's this cannot be told (heartbeats tell)."""
    host, pid, start = owner.rsplit(":", 2)
    return host == socket.gethostname() and _start_of(int(pid)) != start


def bury_the_dead(study: optuna.Study, idle: str | None = None) -> list[int]:
    """Fails the RUNNING trials whose owner is gone or silent; returns their numbers. `idle` is an owner that lives and
    has no trial at work: one in its name was cut off while it was drawn, when the storage went away."""
    storage = study._storage
    stale = set(storage._get_stale_trial_ids(study._study_id)) if hasattr(storage, "_get_stale_trial_ids") else set()
    buried = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get(OWNER)
        if trial._trial_id in stale or owner in (None, idle) or is_gone(owner):
            storage.set_trial_user_attr(trial._trial_id, REASON, INTERRUPTED)
            storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
            buried.append(trial.number)
    return buried


def queue_retries(study: optuna.Study, max_retries: int, is_whole: IsWhole = bool) -> None:
    """Puts each interrupted trial that has no successor back in line, in its slot, as it was drawn. One that was cut
    off while it was drawn leaves its slot to be drawn anew.

    What is owed is read from the study, so a kill between burying a trial and queueing it again loses nothing.
    """
    trials = study.get_trials(deepcopy=False)
    succeeded = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    by_number = {trial.number: trial for trial in trials}
    for trial in trials:
        if trial.state != TrialState.FAIL or trial.user_attrs.get(REASON) != INTERRUPTED or trial.number in succeeded:
            continue
        if trial.params and is_whole(trial.params) and _n_tries(trial, by_number) <= max_retries:
            _put_in_line(study, trial)


def queue_failed(study: optuna.Study, is_whole: IsWhole = bool) -> None:
    """Puts the last trial of each spent slot back in line, as it was drawn."""
    trials = study.get_trials(deepcopy=False)
    last = {t.user_attrs.get(SLOT): t for t in trials if _failed_itself(t) and is_whole(t.params)}
    for slot in sorted(spent_slots(trials, is_whole)):
        _put_in_line(study, last[slot])


def _put_in_line(study: optuna.Study, trial: FrozenTrial) -> None:
    kept = {key: value for key, value in trial.user_attrs.items() if key not in (OWNER, REASON, ERROR)}
    state = {key: value for key, value in trial.system_attrs.items() if not key.startswith("constraints:")}
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=kept | {RETRY_OF: trial.number},
            system_attrs={**state, "fixed_params": trial.params},
        )
    )


def _failed_itself(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and trial.user_attrs.get(REASON) != INTERRUPTED


def _n_tries(trial: FrozenTrial, by_number: dict[int, FrozenTrial]) -> int:
    n = 1
    while (earlier := trial.user_attrs.get(RETRY_OF)) is not None:
        trial, n = by_number[earlier], n + 1
    return n


def _start_of(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty where it runs no more."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stream:  # noqa: PTH123
            fields = stream.read().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # a zombie is dead and waits to be counted
    except (OSError, IndexError):
        return ""
