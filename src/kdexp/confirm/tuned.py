"""A fairer opponent: the best of a search without distillation, as long as the study that found the winner."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose

from kdexp.analysis.trials_table import read_trials
from kdexp.confirm.plan import NO_KD, Plan, best_recipes
from kdexp.distill.objective import none
from kdexp.errors import StudyError
from kdexp.records import REDACTED, read_json
from kdexp.sweeps.leader import is_worker

log = logging.getLogger(__name__)
_OF_DISTILLATION = ("distill", "schedule@distill", "teacher")


def tuned_baseline(plan: Plan, cfg: Mapping[str, Any]) -> Plan:
    """The plan with the best of the no-KD study for a baseline; runs that study first, or what is left of it.

    Raises StudyError where the study cannot be run or has no finished trial.
    """
    name = f"{plan.study}_no_kd"
    folder = plan.folder.parent / name
    summary = read_json(plan.folder / "study_summary.json")
    budget = int(summary["budget"])
    if not _is_finished(folder, budget):
        if is_worker():
            raise StudyError(f"the no-KD study {name} is not finished; give the confirm command again")
        _search(summary, name, budget, cfg)
    best = best_recipes(read_trials(folder / "trials.csv"), read_json(folder / "study_summary.json"), folder, 1)[0]
    return replace(plan, baseline=replace(best, name=f"tuned {NO_KD}", trial=None, search_value=None))


def _is_finished(folder: Path, budget: int) -> bool:
    if not (folder / "study_summary.json").exists():
        return False
    counts = read_json(folder / "study_summary.json")["n_trials"]
    return int(counts["complete"] + counts["pruned"]) >= budget


def _search(summary: Mapping[str, Any], name: str, budget: int, cfg: Mapping[str, Any]) -> None:
    words = no_kd_words(summary, name, budget, cfg["n_workers"])
    directory = _config_directory(sys.argv[1:])
    log.info("no-KD study first: %s, %d trials without distillation", name, budget)
    done = subprocess.run([sys.executable, "-m", "kdexp", "train", "-m", *directory, *words])
    if done.returncode:
        raise StudyError(f"the no-KD study {name} ended with exit code {done.returncode}; its words are above")


def no_kd_words(summary: Mapping[str, Any], name: str, budget: int, n_workers: int) -> list[str]:
    """The study's own command without distillation: no teacher, and none of the parameters that only move those."""
    given = [str(word) for word in summary["base_overrides"]]
    hidden = [word for word in given if REDACTED in word]
    if hidden:
        raise StudyError(f"no_kd=tuned: the study's command held a secret ({hidden[0]}), so it cannot be given again")
    ours = ("hydra.sweeper.study_name", "hydra.sweeper.n_trials", "hydra.sweeper.n_workers", "hydra.sweeper.without")
    kept = [word for word in given if not _is_of_distillation(_key(word)) and _key(word) not in ours]
    idle = [key for key in (summary["space"] or {}).get("parameters", {}) if _is_of_distillation(key)]
    quoted = ",".join(f"'{key}'" for key in idle)
    words = [
        *kept,
        "distill=none",
        f"hydra.sweeper.study_name={name}",
        f"hydra.sweeper.n_trials={budget}",
        f"hydra.sweeper.n_workers={n_workers}",
        f"hydra.sweeper.without=[{quoted}]",
    ]
    return [*words, *_nulls(words)]


def _nulls(words: Sequence[str]) -> list[str]:
    """Settings of another preset that the search file sets: without distillation they have no meaning."""
    composed = compose("train", list(words), return_hydra_config=True).distill
    known = {"_target_", *inspect.signature(none).parameters}
    return [f"distill.{key}=null" for key, value in composed.items() if key not in known and value is not None]


def _config_directory(arguments: Sequence[str]) -> list[str]:
    """`-cd DIR` of this command, for configs of one's own."""
    for place, word in enumerate(arguments[:-1]):
        if word in ("-cd", "--config-dir"):
            return [word, arguments[place + 1]]
    return []


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _is_of_distillation(key: str) -> bool:
    """Whether a key only moves the loss or the teacher: `distill.weights.kl`, `student/fusion@teacher.model.fusion`."""
    package = key.partition("@")[2]
    return any(key == one or key.startswith(f"{one}.") for one in _OF_DISTILLATION) or package.startswith(
        ("teacher", "distill")
    )
