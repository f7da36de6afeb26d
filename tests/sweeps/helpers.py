"""A sweep's own configuration, as Hydra hands it to the sweeper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from kdexp.errors import ConfigError
from kdexp.sweeps import plugin
from kdexp.sweeps.space import Space
from support import ROOT

CONF = ROOT / "conf"


@contextmanager
def swept(*words: str, search_path: Path | None = None) -> Iterator[tuple[DictConfig, HydraContext]]:
    """The configuration that a sweep with these words starts from, and what composes its jobs."""
    plugin.register()
    GlobalHydra.instance().clear()
    path = [f"hydra.searchpath=[file://{search_path}]"] if search_path else []
    with initialize_config_dir(str(CONF)):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("train", [*path, *words], run_mode=RunMode.MULTIRUN)
        yield config, HydraContext(config_loader=loader, callbacks=Callbacks())


def vetted(params: Mapping[str, Any], *words: str, active_when: Mapping[str, Any] | None = None, **more: Any) -> Space:
    """The space of these parameters and command-line words, every value composed and checked."""
    fixed = [word for word in words if not any(sign in word for sign in ("(", ","))]
    with swept("hydra/sweeper=optuna", *fixed) as (config, context):
        settings = {"params": params, "active_when": active_when, **more}
        return Space.from_config(settings, config, context, words)


def refused(params: Mapping[str, Any], *words: str, **more: Any) -> list[str]:
    """What is said against a space; a space that passes fails the test."""
    try:
        vetted(params, *words, **more)
    except ConfigError as error:
        return error.problems
    raise AssertionError(f"nothing was refused in {params} {words} {more}")
