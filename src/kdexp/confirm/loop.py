"""What `confirm study=NAME` does: settle who competes, train in pairs of seeds, judge, and leave the verdict."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from kdexp.analysis.forest import draw_forest
from kdexp.analysis.report import write_study_report
from kdexp.analysis.verdict import Arm, Rules, judge
from kdexp.analysis.verdict_table import render_verdict
from kdexp.building import open_dataset
from kdexp.confirm.plan import Job, Plan, make_jobs, make_plan
from kdexp.confirm.runs import is_done, work
from kdexp.confirm.tuned import tuned_baseline
from kdexp.contracts import SPLITS, Dataset
from kdexp.display import Display
from kdexp.errors import DataError
from kdexp.provenance import command_line, git_state, versions
from kdexp.records import read_json, write_json
from kdexp.saved import flat
from kdexp.sweeps.leader import is_worker, run_workers
from kdexp.sweeps.wandb_study import log_verdict

log = logging.getLogger(__name__)
VERDICT = "verdict.json"


def confirm(cfg: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any] | None:
    """Runs or continues a confirmation and returns its verdict; None in a worker.

    Raises KdexpError for what cannot be confirmed, RunFailed where runs broke; finished runs stay either way.
    """
    plan = make_plan(cfg)
    if not is_worker():
        for sentence in plan.warnings:
            log.warning("%s", sentence)
    if cfg["no_kd"] == "tuned":
        plan = tuned_baseline(plan, cfg)
    jobs = make_jobs(plan)
    if is_worker():
        work(jobs)
        return None
    _check_data(plan, jobs[0])
    _train_all(plan, jobs, cfg["n_workers"])
    return _conclude(plan, jobs, cfg, words)


def _train_all(plan: Plan, jobs: Sequence[Job], n_workers: int) -> None:
    n_open = sum(not is_done(job) for job in jobs)
    arms = ", ".join(arm.name for arm in plan.arms)
    log.info("%d runs (%s; %d seeds), %d of them to train, in %s", len(jobs), arms, len(plan.seeds), n_open, plan.home)
    if not n_open:
        return
    with _watched(plan, jobs):
        if n_workers == 1:
            work(jobs)
        else:
            run_workers("confirm", plan.home / "workers", n_workers, lambda: False)


def _check_data(plan: Plan, job: Job) -> None:
    """The data are still those of the study, of every contender, and no cluster lies in two splits."""
    with Display() as display:
        dataset = open_dataset(job.config["dataset"], job.config["data"]["seed"], display.report)
    if dataset.fingerprint != plan.fingerprint:
        raise DataError(
            f"the data that {dataset.name} reads now are not those of the study {plan.study} (fingerprint "
            f"{dataset.fingerprint}, the study's is {plan.fingerprint}); a winner is confirmed on the data it won on"
        )
    for arm in plan.arms:
        record = arm.source / "run.json"
        if not record.exists():
            continue
        own = read_json(record)["data"]["fingerprint"]
        if own != plan.fingerprint:
            raise DataError(
                f"{arm.name}: {arm.source} was trained on other data or splits than the study {plan.study} "
                f"(fingerprint {own}, the study's is {plan.fingerprint})"
            )
    refuse_shared_clusters(dataset)


def refuse_shared_clusters(dataset: Dataset) -> None:
    """Raises DataError where samples of one cluster lie in two splits: the test split would not be fresh then."""
    members = {split: set(map(str, dataset.split(split).clusters)) for split in SPLITS}
    for number, one in enumerate(SPLITS):
        for other in SPLITS[number + 1 :]:
            shared = sorted(members[one] & members[other])
            if shared:
                few = ", ".join(shared[:3]) + (f" and {len(shared) - 3} more" if len(shared) > 3 else "")
                raise DataError(
                    f"{dataset.name}: the {dataset.cluster}s {few} lie in both {one} and {other}; an interval over "
                    f"{dataset.cluster}s needs splits that share none"
                )


def _conclude(plan: Plan, jobs: Sequence[Job], cfg: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    interval = cfg["interval"]
    rules = Rules(
        level=interval["level"],
        margin=cfg["margin"],
        n_resamples=interval["n_resamples"],
        resample_seed=interval["seed"],
    )
    folders = {(job.arm, job.seed): job.folder.path for job in jobs}
    arms = [
        Arm(
            name=recipe.name,
            folders={seed: folders[recipe.name, seed] for seed in plan.seeds},
            trial=recipe.trial,
            search_value=recipe.search_value,
        )
        for recipe in plan.arms
    ]
    verdict = judge(arms[:-1], arms[-1], rules)
    verdict |= _circumstances(plan, jobs, cfg, words)
    path = plan.home / VERDICT
    verdict["earlier"] = _earlier(path, verdict)
    if verdict["earlier"]:
        verdict["warnings"].append(
            "an earlier verdict was reached with other seeds or rules (see `earlier`); p is not corrected for looking "
            "twice"
        )
    write_json(path, verdict)
    draw_forest(verdict, plan.home)
    report = write_study_report(plan.folder)
    render_verdict(verdict, Console())
    log.info("verdict: %s", path)
    log.info("report: %s", report)
    if plan.wandb is not None:
        log_verdict(plan.folder, verdict, **plan.wandb)
    return verdict


def _circumstances(plan: Plan, jobs: Sequence[Job], cfg: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """What the verdict depends on beside the numbers."""
    first = {job.arm: job.config for job in jobs if job.seed == plan.seeds[0]}
    teachers = sorted(
        {
            str(teacher["fingerprint"])
            for job in jobs
            if (teacher := read_json(job.folder.record)["teacher"]) is not None
        }
    )
    if plan.fresh_teachers:
        condition = "each seed has a teacher of its own"
    else:
        seed = jobs[0].config["teacher"]["seed"]
        condition = f"conditional on this teacher (seed {seed}): with another one the answer may differ"
    return {
        "study": plan.study,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(("confirm", *words)),
        "no_kd": cfg["no_kd"],
        "overrides": list(plan.overrides),
        "teachers": teachers,
        "condition": condition,
        "no_kd_differs_in": _differing(first[plan.contenders[0].name], first[plan.baseline.name]),
        "runs": {
            arm.name: {str(job.seed): str(job.folder.path) for job in jobs if job.arm == arm.name} for arm in plan.arms
        },
        "warnings": list(plan.warnings),
        "versions": versions(),
        "git": git_state(),
    }


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys in which two configurations differ, beside those that only name what was chosen."""
    before, after = flat(one), flat(other)
    keys = [key for key in {**before, **after} if key.split(".")[0] != "choices"]
    return [key for key in keys if before.get(key) != after.get(key)]


def _earlier(path: Path, verdict: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Verdicts that were reached before this one by other seeds or rules: who reads this one should know of them."""
    if not path.exists():
        return []
    old = read_json(path)
    ways = ("seeds", "margin", "level", "overrides", "no_kd", "condition")
    named = [contender["name"] for contender in verdict["contenders"]]
    is_same = all(old.get(way) == verdict[way] for way in ways) and named == [c["name"] for c in old["contenders"]]
    if is_same:
        return list(old["earlier"])
    facts = {way: old.get(way) for way in ("written", *ways)}
    said = {contender["name"]: contender["sentence"] for contender in old["contenders"]}
    return [*old["earlier"], facts | {"verdicts": said}]


@contextmanager
def _watched(plan: Plan, jobs: Sequence[Job]) -> Iterator[None]:
    """Shows how far the runs are, where there is a terminal."""
    console = Console()
    if not console.is_terminal:
        yield
        return
    started, n_before = time.monotonic(), sum(map(is_done, jobs))

    def table() -> Table:
        return _progress_table(plan, jobs, time.monotonic() - started, n_before)

    with Live(get_renderable=table, console=console, refresh_per_second=1, transient=True):
        yield


def _progress_table(plan: Plan, jobs: Sequence[Job], seconds: float, n_before: int) -> Table:
    n_done = sum(map(is_done, jobs))
    made = Table(title=f"confirm {plan.study}: {n_done} of {len(jobs)} runs", title_justify="left")
    made.add_column("arm")
    made.add_column("done", justify="right")
    for arm in plan.arms:
        done = sum(is_done(job) for job in jobs if job.arm == arm.name)
        made.add_row(arm.name, f"{done} of {len(plan.seeds)}")
    if n_done > n_before:
        minutes = seconds / (n_done - n_before) * (len(jobs) - n_done) / 60
        made.caption = f"about {minutes:.0f} min left"
    return made
