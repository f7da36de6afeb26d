"""What a confirmation is to train: the contenders, the student without distillation, and their seeds."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from kdexp.analysis.paired import MAX_SEEDS, least_p, seeds_for_a_verdict
from kdexp.analysis.study import find_study, ranked
from kdexp.analysis.trials_table import read_trials
from kdexp.check import check_config
from kdexp.errors import ConfigError, DataError, StudyError
from kdexp.provenance import config_hash
from kdexp.records import RunFolder, read_json
from kdexp.saved import load_saved, own_words, saved_choices, take_up
from kdexp.sweeps.grammar import written
from kdexp.sweeps.plan import wandb_settings
from kdexp.sweeps.view import trial_folder

log = logging.getLogger(__name__)
NO_KD = "no-KD"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One arm: a saved run's configuration and what is laid over it, whatever the seed."""

    name: str
    source: Path
    words: tuple[str, ...] = ()
    trial: int | None = None
    search_value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is to be trained. `fingerprint` is that of the data which the study ran on."""

    study: str
    folder: Path
    contenders: tuple[Recipe, ...]
    baseline: Recipe
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    fresh_teachers: bool
    wandb: Mapping[str, Any] | None
    fingerprint: str
    warnings: tuple[str, ...]

    @property
    def arms(self) -> tuple[Recipe, ...]:
        return (*self.contenders, self.baseline)

    @property
    def home(self) -> Path:
        return self.folder / "confirm"

    def words(self, recipe: Recipe, seed: int) -> list[str]:
        """What is laid over the saved configuration of an arm for one seed."""
        own = [*self.overrides, f"teacher.seed={seed}"] if self.fresh_teachers else list(self.overrides)
        if recipe is self.baseline:  # it has neither teacher nor distillation
            own = [word for word in own if not word.startswith(("teacher.", "distill."))]
        own += [f"logger.group={written(self.study)}", "logger.job_type=confirm"] if self.wandb is not None else []
        return [*recipe.words, f"seed={seed}", "figures=false", "with_no_kd=false", *own]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: an arm, a seed, its checked configuration and its folder."""

    arm: str
    seed: int
    config: dict[str, Any]
    folder: RunFolder


def make_plan(cfg: Mapping[str, Any]) -> Plan:
    """Reads the study and settles who competes. Raises ConfigError and StudyError for all that cannot be confirmed."""
    folder = find_study(Path(cfg["paths"]["output_root"]), cfg["study"])
    summary = read_json(folder / "study_summary.json")
    if len(summary["objectives"]) != 1:
        raise StudyError(
            f"{folder} has {len(summary['objectives'])} objectives and so no winner; choose one trial of its Pareto "
            "set and give it as contenders={name: RUN_DIR} to a study of one objective"
        )
    rows = read_trials(folder / "trials.csv")
    top = best_recipes(rows, summary, folder, cfg["top"])
    seeds = _fresh(cfg["seeds"], rows)
    winner = top[0]
    extra = [_named(name, given, winner) for name, given in (cfg["contenders"] or {}).items()]
    contenders = (*top, *extra)
    warnings = _warnings(summary, contenders, seeds, cfg)
    return Plan(
        study=str(summary["study_name"]),
        folder=folder,
        contenders=contenders,
        baseline=replace(winner, name=NO_KD, words=(*winner.words, "distill=none"), trial=None, search_value=None),
        seeds=seeds,
        overrides=tuple(cfg["overrides"]),
        fresh_teachers=cfg["teacher_seeds"] == "fresh",
        wandb=wandb_settings(load_saved(winner.source).logger),
        fingerprint=str(summary["data"]["fingerprint"]),
        warnings=tuple(warnings),
    )


def make_jobs(plan: Plan) -> list[Job]:
    """Every run, seed by seed, so that pairs are complete early. Raises ConfigError with every mistake of every arm."""
    jobs, problems = [], []
    for seed in plan.seeds:
        for recipe in plan.arms:
            try:
                config = composed(recipe.source, plan.words(recipe, seed))
            except ConfigError as error:
                problems += [f"{recipe.name}: {problem}" for problem in error.problems]
                continue
            name = f"{_NOT_IN_NAMES.sub('-', recipe.name)}_seed_{seed}_{config_hash(config)[:10]}"
            jobs.append(Job(arm=recipe.name, seed=seed, config=config, folder=RunFolder(plan.home / "runs" / name)))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return jobs


def composed(source: Path, words: Sequence[str]) -> dict[str, Any]:
    """A saved run's configuration with words laid over it, checked: what `train from_run=SOURCE WORDS` would run."""
    given = {word.partition("=")[0] for word in words}
    choices = [f"{group}={name}" for group, name in saved_choices(source).items() if group not in given]
    overrides = [*choices, f"from_run={written(str(source))}", *words]
    try:
        cfg = compose("train", overrides, return_hydra_config=True)
    except Exception as error:  # whatever Hydra makes of a word that does not compose
        raise ConfigError(" ".join(str(error).split())) from None
    with _hydra_config(cfg):
        with open_dict(cfg):
            cfg.pop("hydra")
        own = own_words(str(source), overrides)
        plain = check_config(take_up(cfg, overrides), overrides=own)
    return plain | {"from_run": None}


@contextmanager
def _hydra_config(cfg: Any) -> Iterator[None]:
    """The choices of a configuration are looked up here; the command's own come back afterwards."""
    hydra = HydraConfig.instance()
    before = hydra.cfg
    hydra.set_config(cfg)
    try:
        yield
    finally:
        hydra.cfg = before


def best_recipes(rows: Sequence[Mapping[str, str]], summary: Mapping[str, Any], folder: Path, top: int) -> list[Recipe]:
    """The study's best complete trials, the best first. Raises StudyError where there is none."""
    done = ranked(rows, summary)
    if not done:
        raise StudyError(f"{folder} has no finished trial to confirm: {len(rows)} trials, {len(done)} of them complete")
    objective = summary["objectives"][0]
    recipes = [
        Recipe(
            name=f"trial {row['number']}",
            source=trial_folder(folder, int(row["number"])).path,
            trial=int(row["number"]),
            search_value=float(row["value"]) if objective == "val/score" else None,
        )
        for row in done[:top]
    ]
    for recipe in recipes:
        if not RunFolder(recipe.source).config.is_file():
            raise DataError(f"{recipe.source} holds no config.yaml, so {recipe.name} cannot be trained again")
    return recipes


def _fresh(seeds: Sequence[int], rows: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
    problems = []
    twice = sorted({seed for seed in seeds if list(seeds).count(seed) > 1})
    used = {int(row["seed"]) for row in rows if row.get("seed")}
    taken = [seed for seed in dict.fromkeys(seeds) if seed in used]
    if twice:
        problems.append(f"seeds: {', '.join(map(str, twice))} is given twice")
    if taken:
        problems.append(
            f"seeds: trials of the study used {', '.join(map(str, taken))}, and the search chose by them; take others"
        )
    if len(set(seeds)) < 2:
        problems.append(
            f"seeds: one seed makes one pair, and nothing follows from it; give {seeds_for_a_verdict(1)} or more"
        )
    if len(seeds) > MAX_SEEDS:
        problems.append(f"seeds: at most {MAX_SEEDS}, the exact test goes through all patterns of signs")
    if problems:
        raise ConfigError(problems)
    return tuple(seeds)


def _named(name: str, given: str | Sequence[str], winner: Recipe) -> Recipe:
    """A contender of one's own: another run's configuration, or the winner's with overrides."""
    if not isinstance(given, str):
        return replace(winner, name=name, words=tuple(given), trial=None, search_value=None)
    if not RunFolder(Path(given)).config.is_file():
        raise ConfigError(f"contenders.{name}: {given} is no run folder, it holds no config.yaml")
    return Recipe(name=name, source=Path(given).resolve())


def _warnings(
    summary: Mapping[str, Any], contenders: Sequence[Recipe], seeds: Sequence[int], cfg: Mapping[str, Any]
) -> list[str]:
    sentences = []
    if summary["data"]["source"] == "synthetic":
        sentences.append("SYNTHETIC: a generated stand-in, which says nothing about the real data")
    finished = summary["n_trials"]["complete"] + summary["n_trials"]["pruned"]
    if summary["budget"] and finished < summary["budget"]:
        sentences.append(f"the study is not at its end: {finished} of {summary['budget']} trials")
    n_top = sum(recipe.trial is not None for recipe in contenders)
    if n_top < cfg["top"]:
        sentences.append(f"top={cfg['top']}: the study has {n_top} complete trials, all of them compete")
    least, enough = least_p(len(seeds), len(contenders)), seeds_for_a_verdict(len(contenders))
    if len(seeds) < enough:
        sentences.append(
            f"not enough seeds: {len(seeds)} seeds and {len(contenders)} contenders give no p below {least:.3g}, so "
            f"nothing can be called better; {enough} seeds could"
        )
    return sentences
