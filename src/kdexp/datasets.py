"""The verb `data`: looks at a data set, makes its synthetic stand-in, or gets the public release."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from kdexp.building import build_dataset
from kdexp.display import Display
from kdexp.errors import ConfigError

log = logging.getLogger(__name__)

_MOST_COLUMNS = 6


def data_action(cfg: Mapping[str, Any]) -> None:
    """Does what `action` says. Raises DataError for what the files hold, ConfigError for what cannot be done."""
    dataset = build_dataset(cfg["dataset"])
    action, name = cfg["action"], cfg["dataset"]["name"]
    if action == "inspect":
        if cfg["root"] is not None:
            raise ConfigError("root: has no effect with action=inspect; the files are looked for under dataset.root")
        with Display() as display:
            dataset.setup(cfg["seed"], display.report)
        Console().print(_described(f"{name} ({dataset.source})", dataset.inspect()))
        return
    root = Path(cfg["root"] or cfg["dataset"]["root"])
    if not hasattr(dataset, action):
        raise ConfigError(f"action={action}: {name} has nothing to {action}")
    if root.is_dir() and any(root.iterdir()) and action == "generate":
        raise ConfigError(f"{root} is not empty, and a generated data set takes a folder of its own; give root=FOLDER")
    log.info("%s: %s into %s", name, action, root)
    with Display() as display:
        if action == "generate":
            dataset.generate(root, cfg["seed"], display.report)
        else:
            dataset.fetch(root, display.report)  # type: ignore[attr-defined]
    log.info("done; use it with dataset=%s dataset.root=%s", name, root)


def _described(title: str, facts: Mapping[str, Any]) -> Group:
    """Nested plain values as tables: a mapping of mappings is one table, a row each; the rest is a list."""
    parts: list[Any] = [Text(title, style="bold")]
    single = Table(show_header=False, box=None)
    for key, value in facts.items():
        if isinstance(value, list) and value and all(isinstance(item, str) and " " in item for item in value):
            parts.append(Group(Text(str(key)), *(Text(f"- {sentence}") for sentence in value)))
        elif not isinstance(value, Mapping):
            single.add_row(str(key), _short(value))
        elif value and all(isinstance(row, Mapping) for row in value.values()):
            parts.append(_table(str(key), value))
        else:
            inner = Table(title=str(key), title_justify="left", show_header=False)
            for name, one in value.items():
                inner.add_row(str(name), _short(one))
            parts.append(inner)
    return Group(*parts, single)


def _table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    if len(columns) > max(_MOST_COLUMNS, len(rows)):
        turned = {name: {row: values.get(name, "") for row, values in rows.items()} for name in columns}
        return _table(title, turned)
    table = Table(title=title, title_justify="left")
    for name in ["", *columns]:
        table.add_column(str(name).replace("_", " "), justify="left" if not name else "right")
    for name, row in rows.items():
        table.add_row(str(name), *(_short(row.get(column, "")) for column in columns))
    return table


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return str(value)
