"""The wheel works by itself, from any working directory, as `kdexp` and as `python -m kdexp`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

pytestmark = pytest.mark.slow


def run(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KDEXP_", "PYTHON"))}
    return subprocess.run(list(words), cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built and unpacked into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = run(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT), cwd=folder)
    assert built.returncode == 0, built.stderr
    wheel = next(folder.glob("*.whl"))
    target = folder / "site"
    done = run(*pip, "install", "-q", "--no-deps", "--target", str(target), str(wheel), cwd=folder)
    assert done.returncode == 0, done.stderr
    return target


def test_the_wheel_brings_every_config(installed):
    ours = {str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*.yaml")}
    theirs = {
        str(path.relative_to(installed / "kdexp" / "conf")) for path in (installed / "kdexp" / "conf").rglob("*.yaml")
    }
    assert ours == theirs
    assert len(ours) > 20


@pytest.mark.parametrize("how", ["module", "script"])
def test_the_wheel_runs_from_any_directory(installed, tmp_path, how):
    command = [sys.executable, "-m", "kdexp"] if how == "module" else [sys.executable, str(installed / "bin" / "kdexp")]
    words = ["train", "dataset.source=synthetic", "dataset.generator.preset=small", "trainer.max_epochs=1"]
    done = run(*command, *words, "hydra.run.dir=run", cwd=tmp_path, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "run.json").exists()
    where = run(sys.executable, "-c", "import kdexp; print(kdexp.__file__)", cwd=tmp_path, PYTHONPATH=str(installed))
    assert where.stdout.strip().startswith(str(installed))


def test_the_editable_install_reads_the_checkout(tmp_path):
    script = Path(sys.executable).with_name("kdexp")
    if not script.exists():
        pytest.skip("kdexp is not installed in this environment")
    done = run(str(script), "check", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    code = "from kdexp.cli import config_directory; print(config_directory())"
    shown = run(sys.executable, "-c", code, cwd=tmp_path)
    assert shown.stdout.strip() == str(ROOT / "conf")
