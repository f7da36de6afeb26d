"""Where a result comes from: versions, the state of the code, the command, the hash of the configuration."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kdexp
from kdexp.records import fingerprint, redact_argument

_PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "omegaconf", "optuna", "numpy", "wandb")
_NOT_HASHED = ("paths", "logger", "figures", "resume", "from_run", "choices")


def config_hash(cfg: Mapping[str, Any]) -> str:
    """A hash of everything that can change a result: the same on another machine with the data elsewhere."""
    paths = cfg["paths"]

    def neutral(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: neutral(inner) for key, inner in value.items()}
        if isinstance(value, str):
            for name, root in paths.items():
                if value == root or value.startswith(f"{root.rstrip('/')}/"):
                    return f"<{name}>{value[len(root.rstrip('/')) :]}"
        return value

    return fingerprint({key: neutral(value) for key, value in cfg.items() if key not in _NOT_HASHED})


def versions() -> dict[str, str]:
    """Of Python, kdexp and the packages that compute."""
    return {"python": platform.python_version(), "kdexp": kdexp.__version__} | {
        name: version(name) for name in _PACKAGES
    }


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout that the code runs from and whether it was changed; None outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    tracked = git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))
    commit = git("rev-parse", "HEAD") if tracked else None
    return {"commit": commit, "changed": bool(git("status", "--porcelain", "--untracked-files=no"))} if commit else None


def command_line(words: Sequence[str]) -> str:
    """The command as typed, without secrets."""
    return " ".join(["kdexp", *map(redact_argument, words)])
