"""The command line: takes the verb off, leaves the rest to Hydra, and turns errors into sentences and exit codes.

Nothing heavy is imported here: `--help` and `--cfg` answer without torch, Lightning, wandb or Optuna.
Exit codes: 0 done, 1 failed, 2 bad input.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

VERBS = {
    "train": "train a teacher, distil it into a student, evaluate both (the default verb)",
    "evaluate": "a finished run on one split: run=RUN_DIR split=test",
    "data": "look at, make or get a data set: action=inspect | generate | fetch",
    "check": "list every mistake in a training configuration, run nothing",
    "confirm": "is a study's winner really better than no distillation? study=NAME",
    "report": "finished runs compared: runs=GLOB, or a study's trials: study=NAME",
    "dashboard": "a study in the browser, or its W&B workspace: study=NAME target=optuna | wandb",
}
_OPTIONS_WITH_VALUE = {
    "--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd", "--package", "-p", "--cfg", "-c",
    "--experimental-rerun",
}  # fmt: skip
_OPTIONS_THAT_SHOW = {"--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help", "--shell-completion", "-sc"}


def main() -> None:
    """The console script `kdexp` and `python -m kdexp`."""
    arguments = sys.argv[1:]
    if _is_completion(arguments):
        verb, rest = _completed_verb(), arguments
    else:
        verb, rest = split_verb(arguments)
    if verb is None and {"--help", "-h"} & set(rest):
        sys.stdout.write(help_text())
        return
    verb = verb or "train"
    if verb not in VERBS:
        _stop(2, f"unknown verb {verb!r}; there are: {', '.join(VERBS)}")
    if verb == "train":
        rest = _with_saved_choices(rest)
    if verb == "confirm":
        rest = [_with_quoted_overrides(word) for word in rest]
    if verb == "report":
        rest = _with_runs(rest)
    sys.argv = [sys.argv[0], *_with_study_name(_with_multirun(rest, verb))]
    _run_hydra(verb)


def split_verb(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The first bare word and everything else; options keep their values."""
    for position in _bare_words(arguments):
        return arguments[position], [*arguments[:position], *arguments[position + 1 :]]
    return None, list(arguments)


def _bare_words(arguments: Sequence[str]) -> Iterator[int]:
    """Where the words stand that are no options, no values of options and no overrides."""
    skip = False
    for position, word in enumerate(arguments):
        if skip:
            skip = False
        elif word in _OPTIONS_WITH_VALUE:
            skip = True
        elif "=" not in word and not word.startswith(("-", "+", "~")):
            yield position


def help_text() -> str:
    """What `--help` prints without a verb."""
    width = max(map(len, VERBS))
    lines = [f"  {verb.ljust(width)}  {line}" for verb, line in VERBS.items()]
    return "\n".join(
        [
            "kdexp [VERB] [KEY=VALUE ...] [OPTION ...]",
            "",
            *lines,
            "",
            "kdexp VERB --help lists the verb's groups and settings; --cfg job shows the composed configuration,",
            "-m runs several values (seed=1,2,3), -cn and -cd take configurations of your own.",
            "Example: python -m kdexp train dataset=medpix with_no_kd=true",
            "",
        ]
    )


def config_directory() -> Path:
    """The checkout's `conf/` where there is one, else the copy inside the installed package."""
    package = Path(__file__).resolve().parent
    checkout = package.parents[1] / "conf"
    is_checkout = package.parent.name == "src" and (checkout / "train.yaml").is_file()
    return checkout if is_checkout else package / "conf"


def _with_multirun(arguments: list[str], verb: str = "train") -> list[str]:
    """Adds `--multirun` to a search that trains; drops it where only something is shown, since Hydra refuses both."""
    multirun = {"-m", "--multirun"}
    if {"--help", "-h"} & set(arguments):
        arguments = ["hydra/job_logging=none", "hydra/hydra_logging=none", *arguments]  # help needs no log handlers
    if _OPTIONS_THAT_SHOW & set(arguments):
        return [word for word in arguments if word not in multirun]
    is_search = any(word.startswith("hparams_search=") and word != "hparams_search=null" for word in arguments)
    is_new = verb == "train" and is_search and not multirun & set(arguments)
    return [*arguments, "--multirun"] if is_new else arguments


def _with_study_name(arguments: list[str]) -> list[str]:
    """A search put together, `hparams_search=[medpix_tpe,tune/loss]`, is a study of its own: `medpix_tpe+loss`."""
    if any(word.startswith("hydra.sweeper.study_name=") for word in arguments):
        return arguments
    for word in arguments:
        key, _, value = word.partition("=")
        if key == "hparams_search" and value.startswith("["):
            name = "+".join(part.strip().rpartition("/")[2] for part in value.strip("[]").split(","))
            return [*arguments, f"hydra.sweeper.study_name={name}"]
    return arguments


def _with_quoted_overrides(word: str) -> str:
    """`overrides=[trainer.max_epochs=25]` for Hydra, whose grammar wants quotes around an item with an equals sign."""
    if word.partition("=")[0] not in ("overrides", "contenders") or set(word) & set("'\""):
        return word
    return re.sub(r"(?<=[\[,])\s*([^\[\]{},=]+=[^\[\]{},]*)", r"'\1'", word)


def _with_runs(arguments: list[str]) -> list[str]:
    """For `report`: one `runs=` with all folders and globs, quoted for Hydra, whatever the shell made of them.

    `runs=out/*` in quotes, `runs=out/{a,b}` (two words by then) and bare folders (`out/*` spelt out) come to the same.
    """
    bare = set(_bare_words(arguments))
    is_run = [n in bare or word.startswith("runs=") for n, word in enumerate(arguments)]
    items = [word.removeprefix("runs=") for word, mine in zip(arguments, is_run, strict=True) if mine]
    rest = [word for word, mine in zip(arguments, is_run, strict=True) if not mine]
    if not items:
        return rest
    if len(items) == 1 and (items[0] in ("", "null") or items[0].startswith(("[", "'", '"'))):
        return [*rest, f"runs={items[0]}"]
    return [*rest, f"runs=[{','.join(_quoted(_unquoted(item)) for item in items)}]"]


def _with_saved_choices(arguments: list[str]) -> list[str]:
    """For `resume=` and `from_run=`: the saved run's group choices come first, and `resume` works in its folder."""
    for word in arguments:
        key, _, value = word.partition("=")
        if key in ("resume", "from_run") and value not in ("", "null"):
            from kdexp.errors import KdexpError
            from kdexp.saved import saved_choices

            try:
                choices = saved_choices(Path(_unquoted(value)))
            except KdexpError as error:
                _stop(2, str(error))
            given = {other.partition("=")[0] for other in arguments}
            words = [f"{group}={name}" for group, name in choices.items() if group not in given]
            folder = [f"hydra.run.dir={value}"] if key == "resume" else []
            return [*words, *folder, *arguments]
    return arguments


def _quoted(value: str) -> str:
    """A value in quotes for Hydra, to which a backslash is one unless a quote follows."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), value) + "'"


def _unquoted(value: str) -> str:
    """A value as Hydra will read it, where it is in quotes: a folder's name may hold commas, brackets, equals signs."""
    if value[:1] not in ("'", '"'):
        return value
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return str(OverridesParser.create().parse_override(f"path={value}").value())
    except HydraException:
        return value


def _run_hydra(verb: str) -> None:
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from kdexp import verbs
    from kdexp.composing import composition_problems, is_null_group
    from kdexp.errors import KdexpError
    from kdexp.sweeps.plugin import register
    from kdexp.trust import execution_whitelist

    register()

    full_error = os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # raise here instead of Hydra's own exit
    run = hydra.main(config_path=str(config_directory()), config_name=verb, execution_whitelist=execution_whitelist())(
        getattr(verbs, verb)
    )
    try:
        run()
    except (HydraException, OmegaConfBaseException) as error:
        _stop(2, *composition_problems(verb, sys.argv[1:], error, config_directory()))
    except KdexpError as error:
        _stop(2, *str(error).split("\n"))
    except ValueError as error:
        if not is_null_group(error):
            raise
        _stop(2, *composition_problems(verb, sys.argv[1:], error, config_directory()))
    except KeyboardInterrupt as error:
        _stop(1, str(error) or "interrupted")
    finally:
        if full_error == "1":
            os.environ.pop("HYDRA_FULL_ERROR", None)


def _stop(code: int, *sentences: str) -> NoReturn:
    for sentence in sentences:
        sys.stderr.write(f"error: {sentence}\n")
    sys.exit(code)


def _is_completion(arguments: Sequence[str]) -> bool:
    return bool({"-sc", "--shell-completion"} & set(arguments)) and any(w.startswith("query=") for w in arguments)


def _completed_verb() -> str | None:
    """For a press of Tab: prints the verbs that the first word may become, and hides a whole verb from Hydra."""
    program, _, typed = os.environ.get("COMP_LINE", "").partition(" ")
    first, space, rest = typed.lstrip().partition(" ")
    for verb in VERBS:
        if not space and verb.startswith(first):
            print(verb)
    if first not in VERBS:
        return None
    os.environ["COMP_LINE"] = f"{program} {rest}"
    os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    return first
