"""transformers, imported where it is needed and kept quiet."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdexp.errors import ConfigError


@contextmanager
def transformers(extra: str) -> Iterator[Any]:
    """The library, within the block without progress bars and remarks on weights that an encoder has no place for.

    Raises ConfigError naming the extra of ours that brings it, where it is absent.
    """
    try:
        library = importlib.import_module("transformers")
    except ImportError:
        raise ConfigError(f"transformers is not installed; pip install 'kdexp[{extra}]'") from None
    logging = library.utils.logging
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield library
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
