"""Where a run's epochs go besides its own `metrics.jsonl`: nowhere, Weights & Biases, or TensorBoard.

`conf/logger/*.yaml` name the three builders. The caller adds `run_dir`, `config` (resolved; secrets are taken out here
once more) and `source`, then calls `log_metrics(values, step=epoch)` after each epoch, `finalize(status)` at the end,
and `close_logger(logger)` in a `finally`: W&B hands an unfinished run to the next one in the process.
"""

from __future__ import annotations

import json
import logging
import netrc
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pytorch_lightning.loggers.logger import Logger

from kdexp.errors import ConfigError
from kdexp.records import redact

if TYPE_CHECKING:
    import wandb
    from torch.utils.tensorboard import SummaryWriter

_log = logging.getLogger(__name__)

Source = Literal["real", "synthetic"]
WandbMode = Literal["auto", "online", "offline"]
_ENDED_WELL = {"success": True, "done": True, "pruned": True, "failed": False, "aborted": False}


class RunLogger(Logger):
    """A Lightning logger that knows whether it is closed; `finalize` may be called more than once."""

    def __init__(self, name: str, version: str) -> None:
        super().__init__()
        self._name, self._version, self.closed = name, version, False

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._version

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the configuration was handed over, redacted, when the logger was built."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds one epoch; `step` is its number. Raises RuntimeError when the logger is closed."""
        if self.closed:
            raise RuntimeError(f"the logger of {self._name} is closed; build one for each run")
        if step is None:
            raise ValueError("log_metrics needs step=, the epoch's number")
        self._write(metrics, step)

    def finalize(self, status: str) -> None:
        """Closes with `success`, `done` or `pruned` as a good end, `failed` or `aborted` as a bad one."""
        if status not in _ENDED_WELL:
            raise ValueError(f"status must be one of {', '.join(_ENDED_WELL)}, got {status=}")
        if not self.closed:
            self.closed = True
            self._close(status)

    def _write(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Nothing is written; loggers that write say how."""

    def _close(self, status: str) -> None:
        """Nothing is open; loggers that hold something let it go."""


class WandbLogger(RunLogger):
    """One W&B run. Lightning's own logger passes an argument that wandb 0.31 warns about and keeps one run for all."""

    def __init__(self, run: wandb.Run) -> None:
        super().__init__(run.name or run.id, run.id)
        self._run = run
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")
        run.define_metric("val/score", step_metric="epoch", summary="max,last")

    @property
    def experiment(self) -> wandb.Run:
        return self._run

    def _write(self, metrics: Mapping[str, float], epoch: int) -> None:
        self._run.log({**metrics, "epoch": epoch})

    def _close(self, status: str) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if _ENDED_WELL[status] else 1)


class TensorBoardLogger(RunLogger):
    """One TensorBoard event file."""

    def __init__(self, writer: SummaryWriter, name: str) -> None:
        super().__init__(name, str(writer.log_dir))
        self._writer = writer

    @property
    def experiment(self) -> SummaryWriter:
        return self._writer

    def _write(self, metrics: Mapping[str, float], epoch: int) -> None:
        for name, value in metrics.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def _close(self, status: str) -> None:
        self._writer.add_text("status", status)
        self._writer.close()


def no_logger(*, run_dir: Path | str, config: Mapping[str, Any], source: Source) -> Logger:
    """Writes nothing; the run's own `metrics.jsonl` holds every epoch."""
    return RunLogger("none", "")


def wandb_logger(
    *,
    run_dir: Path | str,
    config: Mapping[str, Any],
    source: Source,
    project: str = "kdexp",
    entity: str | None = None,
    mode: WandbMode = "auto",
    group: str | None = None,
    job_type: str | None = None,
    name: str | None = None,
    tags: list[str] | None = None,
    run_id: str | None = None,
) -> Logger:
    """A W&B run with its files under `run_dir/wandb` and epochs as steps.

    A `run_id` that the project has already is gone on with; by default the run is a new one.
    `auto` follows WANDB_MODE where it is set, goes online where a key is found, and otherwise works offline and says
    so. Nothing about the machine, the command line or the repository is sent. The file is whole a moment after
    `finalize` returns: wandb's own process writes it.
    """
    import wandb

    run_dir = Path(run_dir)
    chosen = _wandb_mode(mode, run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=project,
        entity=entity,
        id=run_id,
        resume=None if run_id is None else "allow",
        mode=chosen,
        group=group,
        job_type=job_type,
        name=name or run_dir.name,
        tags=[*(tags or ()), *(["SYNTHETIC"] if source == "synthetic" else ())],
        config={"data_source": source, **redact(config)},
        dir=run_dir,
        reinit="create_new",
        save_code=False,
        settings=wandb.Settings(
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            disable_git=True,
            console="off",
            host="",
            silent=chosen != "online",
        ),
    )
    if chosen == "online":
        _log.info("Weights & Biases: %s", run.url)
    return WandbLogger(run)


def tensorboard_logger(
    *, run_dir: Path | str, config: Mapping[str, Any], source: Source, name: str | None = None
) -> Logger:
    """An event file under `run_dir/tensorboard`, with the configuration as text.

    Raises ConfigError where the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "logger=tensorboard needs the package tensorboard; install it with pip install 'kdexp[tensorboard]'"
        ) from None
    run_dir = Path(run_dir)
    writer = SummaryWriter(log_dir=str(run_dir / "tensorboard"))
    text = json.dumps(redact(config), indent=2, ensure_ascii=False, default=str)
    writer.add_text("config", "\n".join("    " + line for line in text.splitlines()))
    writer.add_text("data_source", "SYNTHETIC" if source == "synthetic" else source)
    return TensorBoardLogger(writer, name or run_dir.name)


def close_logger(logger: Logger | None) -> None:
    """Closes a logger that is still open, as failed; for a `finally`. One that was finalized stays as it is."""
    if isinstance(logger, RunLogger) or logger is not None:
        logger.finalize("failed")


def _wandb_mode(mode: WandbMode, run_dir: Path) -> Literal["online", "offline", "disabled", "shared"]:
    if mode != "auto":
        return mode
    asked = os.environ.get("WANDB_MODE", "")
    if asked in ("online", "offline", "disabled", "shared"):
        return asked  # type: ignore[return-value]
    if asked:
        raise ConfigError(f"WANDB_MODE={asked} is not one of online, offline, disabled, shared")
    if has_wandb_key():
        return "online"
    _log.warning(
        "Weights & Biases works offline: no key in WANDB_API_KEY or netrc. Send the run later with: wandb sync %s",
        run_dir / "wandb" / "offline-run-*",
    )
    return "offline"


def has_wandb_key() -> bool:
    """Whether wandb would find a key in the environment or in the netrc file; the key itself is not kept."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    if not path.exists():
        return False
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    try:
        found = netrc.netrc(path).authenticators(host)
    except netrc.NetrcParseError as error:
        raise ConfigError(f"{path} cannot be read ({error.msg}); set logger.mode=offline or mend it") from None
    return bool(found and found[2])
