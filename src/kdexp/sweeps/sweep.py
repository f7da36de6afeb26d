"""One process at work on a study: ask, run, tell, until the study holds its budget of finished trials."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import optuna
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from kdexp.errors import ConfigError, StudyError
from kdexp.records import read_json, redact, redact_argument
from kdexp.sweeps import ledger
from kdexp.sweeps.enqueue import KEY, n_listed, queued_trials
from kdexp.sweeps.grammar import plain_value, written
from kdexp.sweeps.leader import stop_if_orphaned
from kdexp.sweeps.limits import KEY as CONSTRAINTS
from kdexp.sweeps.limits import is_feasible, measured
from kdexp.sweeps.outcomes import Outcome, outcome_of
from kdexp.sweeps.plan import Plan
from kdexp.sweeps.samplers import drawn_by, make_sampler, sampler_warnings
from kdexp.sweeps.space import Space
from kdexp.sweeps.storage import STORAGE_ERRORS, patiently, study_lock
from kdexp.sweeps.trial import COMMAND, VARIABLE, Pruned
from kdexp.sweeps.vetting import Check, vet_queue

log = logging.getLogger(__name__)
_BEGUN = "n_trials_when_begun"
_POLL_SECONDS = 0.5
"""How long a worker waits before it looks again whether another's trial has ended."""


@dataclass
class Sweep:
    """A study that this process works on."""

    plan: Plan
    space: Space
    launcher: Launcher
    storage: RDBStorage
    study: optuna.Study
    deadline: float
    has_no_other: bool = False
    """Whether a failed trial's place stays empty, since nothing else can be drawn in it."""
    interrupted: bool = False

    def lock(self) -> Any:
        return study_lock(self.storage, self.plan.url, self.plan.study_name)

    def prepare(self, config: DictConfig, arguments: list[str], check: Check) -> None:
        """Writes down what the study is, and puts trials that are named beforehand in line, each once."""
        with self.lock():
            self.study.set_user_attr("base_overrides", [str(redact(word)) for word in arguments])
            self.study.set_user_attr(COMMAND, [redact_argument(word) for word in sys.argv[1:]])
            plain = OmegaConf.to_container(config, resolve=False)
            assert isinstance(plain, dict)
            plain.pop("hydra", None)
            self.study.set_user_attr("config", redact(plain))
            self.study.set_user_attr("sampler", self.plan.sampler.get("_target_"))
            self.study.set_user_attr("pruner", self.plan.pruner.get("_target_"))
            if self.plan.enqueue:
                self._enqueue(check)
            sentences = sampler_warnings(self.plan.sampler, self.space)
            self.study.set_user_attr("warnings", sentences)
            self.study.set_user_attr("n_trials", self.plan.n_trials)
            if self.has_no_other:
                ledger.queue_failed(self.study, self._is_whole)
            self.study.set_user_attr(_BEGUN, len(self.study.get_trials(deepcopy=False)))
        for sentence in sentences:
            log.warning("%s", sentence)

    def _enqueue(self, check: Check) -> None:
        """A list is put in line as far as the budget goes, the rest of it when the budget has grown; the best of
        another study once. Raises ConfigError for what no run could take, StudyError for a list that changed."""
        trials = self.study.get_trials(deepcopy=False)
        there = {trial.user_attrs.get(ledger.NAME) for trial in trials}
        if there - {None} and not n_listed(self.plan.enqueue):
            return
        queue = queued_trials(self.plan.enqueue, self.space, self.plan.folder.parent)[: self.plan.n_trials]
        waiting = {slot: trial for slot, trial in enumerate(queue) if trial.name not in there}
        problems = vet_queue(self.space, {trial.name: trial.params for trial in waiting.values()}, check)
        if problems:
            raise ConfigError(problems)
        if set(waiting) & {trial.user_attrs.get(ledger.SLOT) for trial in trials}:
            raise StudyError(
                f"{KEY}: the list is another one than when {self.plan.study_name} began; give the study a name of its "
                "own, hydra.sweeper.study_name=..."
            )
        for slot, (name, params) in waiting.items():
            self.study.enqueue_trial(params, user_attrs={ledger.SLOT: slot, ledger.NAME: name})

    def work(self) -> None:
        """Takes trials until the budget is covered, the time is up, or too many fail in a row."""
        while not self.interrupted:
            trial = patiently("taking a trial", self._take)
            if trial is None:
                if patiently("counting the trials", self._is_covered):
                    return
                stop_if_orphaned()
                time.sleep(_POLL_SECONDS)
                continue
            self._run(trial)

    def _is_covered(self) -> bool:
        """Nothing is left to do: the budget is finished, or the time is up and nothing can start any more."""
        trials = self.study.get_trials(deepcopy=False)
        covered = ledger.standing(trials).finished + len(self._spent(trials))
        return covered >= self.plan.n_trials or time.monotonic() > self.deadline

    @property
    def n_left_out(self) -> int:
        """How many combinations failed, where nothing else can be drawn in their place."""
        return len(self._spent(self.study.get_trials(deepcopy=False)))

    def _spent(self, trials: list[FrozenTrial]) -> set[int]:
        return ledger.spent_slots(trials, self._is_whole) if self.has_no_other else set()

    def _is_whole(self, params: Mapping[str, Any]) -> bool:
        return not self.space.missing(params)

    def _take(self) -> Trial | None:
        """The next trial, drawn; None where all slots are held. One worker at a time."""
        with self.lock():
            ledger.bury_the_dead(self.study, idle=ledger.me())
            ledger.queue_retries(self.study, self.plan.max_retries, self._is_whole)
            trials = self.study.get_trials(deepcopy=False)
            since = int(self.study.user_attrs.get(_BEGUN, 0))
            if ledger.consecutive_failures(trials, since) >= self.plan.max_consecutive_failures:
                raise StudyError(_failing(trials, self.plan))
            if time.monotonic() > self.deadline:
                return None
            slot = ledger.next_slot(trials, self.plan.n_trials, self._spent(trials))
            return None if slot is None else self._draw(trials, slot)

    def _draw(self, trials: list[FrozenTrial], slot: int) -> Trial:
        failures = ledger.failures_in_slot(trials, slot)
        sampler = make_sampler(self.plan.sampler, slot=slot, space=self.space, n_failures=failures)
        self.study.sampler = sampler
        with warnings.catch_warnings():
            # Optuna expects its own loop to beat for a trial; ours does (see _heartbeat).
            warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed")
            trial = self.study.ask()
        for key, value in ((ledger.OWNER, ledger.me()), (ledger.SLOT, slot), ("seed", self.plan.seed_of(slot))):
            trial.set_user_attr(key, value)
        self.storage.record_heartbeat(trial._trial_id)
        try:
            self.space.suggest(trial)
        except STORAGE_ERRORS:
            raise
        except Exception as error:
            self._fail(trial, "error", f"drawing its parameters: {error}")
            raise
        if (swept := self._swept_seed(trial)) is not None:
            trial.set_user_attr("seed", swept)
        trial.set_user_attr("drawn_by", drawn_by(sampler, self.study, self.storage.get_trial(trial._trial_id)))
        return trial

    def _swept_seed(self, trial: Trial) -> Any:
        """The seed where the search says it itself, as a parameter or for all trials; None where the slot gives it."""
        if "seed" in trial.params:
            return self.space.words.means("seed", trial.params["seed"])
        fixed = self.space.words.fixed.get("seed")
        return None if fixed is None else plain_value(fixed)

    def _run(self, trial: Trial) -> None:
        """Runs the job and tells the study how it ended: a crash is FAIL, a stop an interruption, to be run again."""
        try:
            with self._heartbeat(trial._trial_id):
                outcome = self._launch(trial)
        except KeyboardInterrupt:
            self.interrupted = True
            outcome = None
        if self.interrupted and not isinstance(outcome, (Pruned, tuple)):
            patiently("giving a trial back", lambda: self._fail(trial, ledger.INTERRUPTED, "stopped"))
            return
        patiently("telling the study", lambda: self._tell(trial, outcome))
        patiently("looking for the best", self._retain)

    def _launch(self, trial: Trial) -> Outcome:
        """How the job ended. A launcher raises where it has no answer: its process was killed, its time was up."""
        try:
            (done,) = self.launcher.launch([self._words(trial)], initial_job_idx=trial.number)
        except Exception as error:
            return f"the launcher has no answer: {type(error).__name__}: {error}"
        return outcome_of(done, len(self.plan.directions))

    def _words(self, trial: Trial) -> list[str]:
        folder = self.plan.trial_folder(trial.number).path
        words = self.space.overrides(trial.params)
        given = {word.partition("=")[0].lstrip("+") for word in words}
        words += [f"seed={trial.user_attrs['seed']}"] if "seed" not in given else []
        words += ["figures=false"] if "figures" not in given else []
        if self.plan.wandb is not None:
            words += [f"logger.group={written(self.plan.study_name)}", "logger.job_type=trial"]
        return [
            *words,
            f"hydra.sweep.dir={written(str(folder.parent))}",
            f"hydra.sweep.subdir={folder.name}",
            f"hydra.job.env_set.{VARIABLE}={written(f'{trial._trial_id} {self.plan.study_name}')}",
        ]

    @contextmanager
    def _heartbeat(self, trial_id: int) -> Iterator[None]:
        """Tells other hosts that this worker lives, and ends it where the process that leads it is gone."""
        ended = threading.Event()

        def beat() -> None:
            last = time.monotonic()
            while not ended.wait(1.0):
                stop_if_orphaned()
                if time.monotonic() - last >= self.plan.heartbeat_seconds:
                    with suppress(*STORAGE_ERRORS):  # the next beat comes in a second
                        self.storage.record_heartbeat(trial_id)
                        last = time.monotonic()

        thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(timeout=5)

    def _tell(self, trial: Trial, outcome: Outcome) -> None:
        try:
            if self.plan.constraints and isinstance(outcome, (Pruned, tuple)):
                outcome = self._constrained(trial, outcome)
            if isinstance(outcome, Pruned):
                self.study.tell(trial, state=TrialState.PRUNED)
            elif isinstance(outcome, tuple):
                self.study.tell(trial, list(outcome))
            else:
                self._fail(trial, "error", str(outcome))
                log.warning("trial %d failed: %s", trial.number, outcome)
        except (UpdateFinishedTrialError, ValueError) as error:
            log.warning("trial %d was ended by another worker meanwhile: %s", trial.number, error)

    def _constrained(self, trial: Trial, outcome: Outcome) -> Outcome:
        """Records how the trial stands to each limit; in words what it did not measure."""
        values = measured(read_json(self.plan.trial_folder(trial.number).record))
        unknown = [limit.name for limit in self.plan.constraints if limit.name not in values]
        if unknown:
            return f"{CONSTRAINTS}: the trial measured no {', '.join(unknown)}; there are: {', '.join(values)}"
        known = trial.constraints  # some, where the storage went away at the first try
        for limit in self.plan.constraints:
            if str(limit) not in known:
                trial.set_constraint(str(limit), limit.violation(values[limit.name]))
        return outcome

    def _fail(self, trial: Trial, reason: str, error: str) -> None:
        try:
            trial.set_user_attr(ledger.REASON, reason)
            trial.set_user_attr("error", str(redact(error))[:4000])
            self.study.tell(trial, state=TrialState.FAIL)
        except (UpdateFinishedTrialError, ValueError):
            log.warning("trial %d was ended by another worker meanwhile", trial.number)

    def _retain(self) -> None:
        """Only the study's best trials keep their checkpoints."""
        if len(self.plan.directions) == 1:
            best = {trial.number for trial in self.ranked()[: self.plan.keep_checkpoints]}
        else:
            best = {trial.number for trial in self.study.best_trials}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.is_finished() and trial.number not in best:
                shutil.rmtree(self.plan.trial_folder(trial.number).last_checkpoint.parent, ignore_errors=True)

    def ranked(self) -> list[FrozenTrial]:
        """The complete trials that keep all constraints, the best first; for a study of one objective."""
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        sign = -1 if self.plan.directions[0] == "maximize" else 1
        return sorted(filter(is_feasible, done), key=lambda trial: sign * float(trial.value or 0.0))


def _failing(trials: list[FrozenTrial], plan: Plan) -> str:
    last = next((t for t in reversed(trials) if t.user_attrs.get("error")), None)
    why = f"; the last: {last.user_attrs['error']}" if last is not None else ""
    return (
        f"{plan.max_consecutive_failures} trials in a row failed, so the study stops{why}. Mend it and give the same "
        "command again; hydra.sweeper.max_consecutive_failures=N lets more of them fail"
    )
