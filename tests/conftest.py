"""Fixtures that all tests share: real data where it is, and the command as a user types it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdexp.cli import main
from support import OUTSIDE, CommandLine, Finished


@pytest.fixture(scope="session")
def real_medpix() -> Path:
    """The real MedPix files."""
    root = Path(os.environ.get("KDEXP_DATA", "")) / "medpix"
    if not os.environ.get("KDEXP_DATA") or not root.is_dir():
        pytest.skip("set KDEXP_DATA to a folder that holds medpix/ to run the tests on real data")
    return root


@pytest.fixture
def kdexp(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


@pytest.fixture(scope="session")
def run_main() -> Callable[..., Finished]:
    """`kdexp` with these words in this folder, inside this process: quick, since torch is imported once.

    `{outside}` in a word stands for the configs of the small system outside the package.
    """

    def run(cwd: Path, *words: str, **environment: str) -> Finished:
        out, err = io.StringIO(), io.StringIO()
        variables = {"KDEXP_TRUSTED_PACKAGES": "rings", "COLUMNS": "200"} | environment
        filled = [word.replace("{outside}", str(OUTSIDE / "conf")) for word in words]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "argv", ["kdexp", *filled])
            patch.syspath_prepend(str(OUTSIDE))
            for name in [name for name in os.environ if name.startswith(("KDEXP_", "WANDB_"))]:
                patch.delenv(name)
            for name, value in variables.items():
                patch.setenv(name, value)
            code: object = 0
            handlers = logging.getLogger().handlers[:]
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    main()
                except SystemExit as ended:
                    code = ended.code or 0
                finally:
                    logging.getLogger().handlers[:] = handlers
        return Finished(int(str(code)), out.getvalue(), err.getvalue())

    return run
