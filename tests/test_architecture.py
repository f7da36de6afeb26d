"""Imports point one way, the shell of the program stays light, and importing does nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from support import ROOT

PACKAGE = ROOT / "src" / "kdexp"

# From the command line down. A module may import from lower lines and, in a package, from its own package; never from
# a neighbour on its line. A new module gets its place here first.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("verbs",),
    ("composing",),
    ("confirm",),
    ("datasets", "sweeps"),
    ("reporting",),
    ("evaluate",),
    ("analysis",),
    ("experiment",),
    ("stages",),
    ("connecting",),
    ("measuring", "building", "folders", "provenance"),
    ("training", "check"),
    ("effect",),
    ("distill", "systems"),
    ("bootstrap",),
    ("predictions", "ranking"),
    ("saved", "config", "display", "trust"),
    ("records",),
    ("contracts", "errors", "seeds", "__init__"),
)

# These know less than their line would let them.
ONLY = {
    "analysis": {"bootstrap", "contracts", "errors", "predictions", "records", "ranking"},
    "distill": {"contracts", "errors"},
    "systems": {"contracts", "errors", "records", "seeds"},
    "bootstrap": {"contracts", "errors", "predictions", "ranking"},
    "ranking": set(),
    "records": {"errors"},
    "contracts": set(),
}

# What is heavy or belongs to one side of the house, and who may import it.
OUTSIDE = {
    "hydra": {"cli", "verbs", "composing", "confirm", "sweeps", "building"},
    "omegaconf": {"cli", "verbs", "composing", "confirm", "sweeps", "check", "saved", "evaluate"},
    "pytorch_lightning": {"training", "building", "stages", "experiment"},
    "torchmetrics": {"training"},
    "wandb": {"training", "sweeps"},
    "matplotlib": {"analysis", "sweeps"},
    "optuna": {"sweeps"},
    "optuna_dashboard": {"sweeps"},
    "wandb_workspaces": {"sweeps"},
    "pydantic": {"check"},
    "mpmath": {"analysis"},
    "h5py": {"systems"},
    "tokenizers": {"systems"},
    "huggingface_hub": {"systems"},
}


@dataclass(frozen=True)
class Import:
    """One import statement: who, whom, and whether it happens on importing the module."""

    module: str
    target: str
    at_once: bool

    def __str__(self) -> str:
        return f"{self.module} imports {self.target}"


def module_name(path: Path) -> str:
    """`training.fit` for src/kdexp/training/fit.py, `training` for a package's __init__, `__init__` for our own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


@cache
def imports(module: str) -> list[Import]:
    """Every import of the module, those inside functions and under TYPE_CHECKING too."""
    return [Import(module, name, at_once) for node, at_once in _walk(tree(module), True) for name in _named(node)]


def _walk(node: ast.AST, at_once: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield child, at_once
        yield from _walk(child, at_once and not inside and not for_types)


def _named(node: ast.AST) -> list[str]:
    """The full names that a statement imports: of `from kdexp.a import b`, the module kdexp.a.b if there is one."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    assert node.level == 0 and node.module, "imports are absolute"
    inner = [f"{node.module}.{alias.name}" for alias in node.names]
    return [name if name.removeprefix("kdexp.") in FILES else node.module for name in inner]


def ours(module: str) -> list[Import]:
    """The imports of our own modules, by their names below kdexp; `__init__` for kdexp itself."""
    found = [one for one in imports(module) if one.target.split(".")[0] == "kdexp"]
    return [Import(module, one.target.partition(".")[2] or "__init__", one.at_once) for one in found]


def part(module: str) -> str:
    return module.split(".")[0]


LEVEL = {name: len(LAYERS) - number for number, layer in enumerate(LAYERS) for name in layer}


def test_every_module_has_its_place() -> None:
    assert len(FILES) >= 50
    assert {"cli", "verbs", "experiment", "training.fit", "distill.objective", "systems.sources"} <= set(FILES)
    assert {part(module) for module in FILES} <= set(LEVEL)


def test_imports_are_seen() -> None:
    """The walk finds imports at the top, inside functions and for types; else the other tests would hold of nothing."""
    assert Import("training.fit", "training.loader", True) in ours("training.fit")
    assert Import("cli", "verbs", False) in ours("cli")
    assert Import("contracts", "torch", False) in imports("contracts")
    assert sum(len(ours(module)) for module in FILES) >= 150


@pytest.mark.parametrize("module", FILES)
def test_imports_point_down(module: str) -> None:
    wrong = [
        str(one)
        for one in ours(module)
        if part(one.target) != part(module) and LEVEL[part(one.target)] >= LEVEL[part(module)]
    ]
    assert wrong == []


@pytest.mark.parametrize("name", ONLY)
def test_some_know_less_than_their_layer_would_let_them(name: str) -> None:
    modules = [module for module in FILES if part(module) == name]
    assert modules
    wrong = [str(one) for module in modules for one in ours(module) if part(one.target) not in {name, *ONLY[name]}]
    assert wrong == []


def test_no_two_modules_need_each_other() -> None:
    graph = {module: {one.target for one in ours(module)} for module in FILES}
    done: set[str] = set()
    while ready := [module for module in graph if module not in done and graph[module] - {module} <= done]:
        done.update(ready)
    assert sorted(set(graph) - done) == []


SYSTEMS = {module.split(".")[1] for module in FILES if module.count(".") == 2 and part(module) == "systems"}


def system(module: str) -> str | None:
    """The system that a module belongs to; None for all others, also for what systems share."""
    names = module.split(".")
    return names[1] if names[0] == "systems" and len(names) > 1 and names[1] in SYSTEMS else None


def test_a_system_is_imported_by_no_one_and_imports_no_other() -> None:
    assert {"multimodal"} <= SYSTEMS
    wrong = [str(one) for module in FILES for one in ours(module) if system(one.target) not in (None, system(module))]
    assert wrong == []


def test_systems_are_named_by_configs_only() -> None:
    wrong = [str(one) for module in FILES for one in ours(module) if part(one.target) == "systems" != part(module)]
    assert wrong == []


@pytest.mark.parametrize("package", OUTSIDE)
def test_what_belongs_to_one_side_is_imported_there_only(package: str) -> None:
    users = {part(module) for module in FILES for one in imports(module) if one.target.split(".")[0] == package}
    assert users <= OUTSIDE[package]
    # An entry that no one uses has outlived its module.
    assert users or package == "optuna"


@pytest.mark.parametrize("module", FILES)
def test_a_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(tree(module))


def test_print_belongs_to_the_command_line() -> None:
    calls = {
        module
        for module in FILES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert calls <= {"cli"}


def test_nothing_is_unpickled() -> None:
    """No pickle from data folders, and no checkpoint that could run code."""
    for module in FILES:
        for node in ast.walk(tree(module)):
            if not isinstance(node, ast.Call):
                continue
            called, arguments = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert called not in ("pickle.load", "pickle.loads", "eval", "exec", "yaml.load", "joblib.load"), module
            if called == "torch.load":
                assert arguments.get("weights_only") == "True", module
            if called == "np.load":
                assert arguments.get("allow_pickle") == "False", module


def run(code: str, *words: str, cwd: Path) -> str:
    """Runs code in a fresh interpreter and returns what it wrote; its working directory stays empty."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KDEXP_", "COMP_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *words],
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert list(cwd.iterdir()) == []
    return done.stdout


HEAVY = ("torch", "pytorch_lightning", "torchmetrics", "wandb", "optuna", "matplotlib", "transformers")
LIGHT_MAIN = f"""
import sys
sys.argv[0] = "kdexp"
from kdexp import cli
try:
    cli.main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("HEAVY", [name for name in {HEAVY} if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("words", "shows"),
    [
        (["--help"], "train a teacher"),
        (["train", "--help"], "kdexp train"),
        (["data", "--help"], "kdexp data"),
        (["--cfg", "job"], "max_epochs: 10"),
        (["train", "--cfg", "job", "--resolve"], "output_root: outputs"),
        (["check", "trainer.max_epochs=3", "--cfg", "job"], "max_epochs: 3"),
        (["evaluate", "--cfg", "job"], "split: test"),
        (["report", "--help"], "kdexp report"),
        (["report", "a", "b", "--cfg", "job"], "- a"),
        (["train", "--info", "defaults"], "dataset/medpix"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_configurations_are_shown_without_the_heavy_libraries(
    words: list[str], shows: str, tmp_path: Path
) -> None:
    out = run(LIGHT_MAIN, *words, cwd=tmp_path)
    assert shows in out
    assert out.rstrip().endswith("HEAVY []")


def test_the_analysis_runs_without_torch(tmp_path: Path) -> None:
    modules = [f"kdexp.{module}" for module in FILES if part(module) in ("analysis", "bootstrap", "predictions")]
    assert {"kdexp.analysis.figures", "kdexp.analysis.table"} <= set(modules)
    code = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
    code += 'print([name for name in ("torch", "pytorch_lightning", "hydra", "optuna") if name in sys.modules])'
    assert run(code, cwd=tmp_path).strip() == "[]"


def test_the_records_need_the_standard_library_only(tmp_path: Path) -> None:
    code = "import sys\nbefore = set(sys.modules)\nimport kdexp.records, kdexp.errors, kdexp.contracts, kdexp.seeds\n"
    code += "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
    code += "print(sorted(new - set(sys.stdlib_module_names) - {'kdexp'}))"
    assert run(code, cwd=tmp_path).strip() == "[]"
