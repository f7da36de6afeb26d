"""What a study with schedules for temperature and α shows, and what it does not: tables, recommendations, files.

    analysis = analyse(read_study(folder), sampling); write(analysis, folder)

Every sentence is filled from a computed value or left out.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdexp.analysis.compared import Sampling
from kdexp.analysis.schedules_advice import recommend, trade_off, winners_table
from kdexp.analysis.schedules_figures import draw
from kdexp.analysis.schedules_groups import (
    correlations_table,
    interaction_table,
    levels_table,
    pairs_table,
    ranges_table,
    strategies_table,
)
from kdexp.analysis.schedules_page import ANALYSIS, FOLDER, SCHEMA, SUMMARY, summary_text
from kdexp.analysis.schedules_reading import ScheduledStudy, make_frame
from kdexp.analysis.schedules_sentences import cautions, effects, head, noise, ranges, references
from kdexp.analysis.schedules_tables import (
    FACTORS,
    Table,
    counts_table,
    distribution_table,
    quartile_table,
    runs_table,
    top_table,
)
from kdexp.analysis.study_time import study_time
from kdexp.records import read_json, write_json, written_whole


def analyse(study: ScheduledStudy, sampling: Sampling, *, chosen_on: str = "val") -> dict[str, Any]:
    """The whole analysis as plain values. `chosen_on="test"` lets test choose, and the analysis says so."""
    frame = make_frame(study, chosen_on)
    tables = [
        winners_table(frame, study.no_kd),
        correlations_table(frame, sampling),
        *(levels_table(frame, factor, sampling.level) for factor in FACTORS),
        strategies_table(frame),
        *(ranges_table(frame, factor) for factor in FACTORS),
        *(interaction_table(frame, metric) for metric in frame.metrics),
        pairs_table(frame),
        distribution_table(frame),
        quartile_table(frame),
        counts_table(frame),
        top_table(frame, study.no_kd),
        runs_table(frame, study.no_kd),
    ]
    time, stages = study_time(study.folder)
    trade = trade_off(frame)
    first = study.first
    return {
        "schema": SCHEMA,
        "study": study.name,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": {**first.data, "score": list(first.run.record["score"])},
        "options": {group: name for group, name in first.settings.choices.items() if group.startswith("dataset")},
        "metrics": [{"key": m.key, "label": m.label, "digits": m.digits, "sign": m.sign} for m in frame.metrics],
        "split": frame.split,
        "chosen_on": chosen_on,
        "weight_key": study.weight_key,
        "counts": dict(study.counts),
        "sampling": {"n_resamples": sampling.n_resamples, "level": sampling.level, "seed": sampling.seed},
        "head": head(study, frame),
        "cautions": cautions(study, frame),
        "ranges": [*references(study, frame), *ranges(study, frame), *noise(frame, sampling)],
        "effects": effects(frame, {one["name"]: one for one in tables}),
        "time": time,
        "tables": [one for one in (*tables, stages) if one["rows"]],
        "recommendations": recommend(frame, sampling, study.name, study.objective),
        "trade_off": None if trade is None else trade["sentence"],
        "confirmation": _confirmation(study.folder),
    }


def write(analysis: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes `schedules/` in a study's folder: the text, a CSV per table, the figures, and last the whole as JSON."""
    home = folder / FOLDER
    text = home / SUMMARY
    with written_whole(text) as temporary:
        temporary.write_text(summary_text(analysis), encoding="utf-8")
    paths = [text, *(_write_csv(one, home / f"{one['name']}.csv") for one in analysis["tables"])]
    paths.append(_write_csv(_recommendations_table(analysis), home / "recommendations.csv"))
    paths += draw(analysis, home)
    write_json(home / ANALYSIS, analysis)
    return [*paths, home / ANALYSIS]


def _confirmation(folder: Path) -> list[str]:
    """What `confirm` found on fresh seeds, where it was run."""
    path = folder / "confirm" / "verdict.json"
    return [str(one["sentence"]) for one in read_json(path)["contenders"]] if path.exists() else []


def _recommendations_table(analysis: Mapping[str, Any]) -> Table:
    rows = []
    for one in analysis["recommendations"]:
        found, needed = one["evidence"] or {}, one["seeds_to_show"] or {}
        plain = {
            key: one[key] for key in ("scenario", "name", "strategy", "settings", "verdict", "against", "n_compared")
        }
        plain |= {
            key: found.get(key) for key in ("metric", "split", "difference", "low", "high", "interval_of", "n_seeds")
        }
        rows.append(plain | {"p_holm": one["p_holm"], "seeds_to_show": needed.get("seeds"), "command": one["command"]})
    return {"name": "recommendations", "title": "Recommendations", "columns": [], "rows": rows, "notes": []}


def _write_csv(one: Table, path: Path) -> Path:
    """Every key of the rows, in full precision; an absent value is empty."""
    columns = list(dict.fromkeys(key for row in one["rows"] for key in row))
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(columns)
        lines.writerows([["" if row.get(name) is None else row[name] for name in columns] for row in one["rows"]])
    return path
