"""Which packages a configuration may name. The whitelist is the boundary: a config from a stranger runs no code."""

from __future__ import annotations

import os

TRUST_VARIABLE = "KDEXP_TRUSTED_PACKAGES"
_BUILT_IN_TRUST = ("kdexp.systems", "kdexp.distill", "kdexp.training", "torch.optim", "torch.nn")


def trusted_packages() -> tuple[str, ...]:
    """The packages whose classes a config may name: ours, and those listed in KDEXP_TRUSTED_PACKAGES (by commas)."""
    own = [name.strip() for name in os.environ.get(TRUST_VARIABLE, "").split(",")]
    return _BUILT_IN_TRUST + tuple(name for name in own if name)


def execution_whitelist() -> tuple[str, ...]:
    """The same, as Hydra's `execution_whitelist` wants it."""
    return (*(f"{name}.*" for name in trusted_packages()), "rich.logging.RichHandler")
