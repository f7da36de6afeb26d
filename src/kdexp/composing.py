"""What is wrong with a command that Hydra could not compose, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from kdexp.errors import ConfigError


def composition_problems(verb: str, arguments: Sequence[str], error: Exception, conf: Path) -> list[str]:
    """All that is wrong with a command that Hydra could not compose, not only its first mistake.

    Each override is tried on top of those that compose; what does compose is then checked as usual.
    """
    from hydra import compose, initialize_config_dir
    from hydra._internal.utils import get_args_parser
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    options = get_args_parser().parse_intermixed_args(list(arguments))
    directory = Path(options.config_path or conf).resolve()
    own = [f"hydra.searchpath=[file://{Path(options.config_dir).resolve()}]"] if options.config_dir else []
    problems: list[str] = []
    accepted: list[str] = own
    cfg = None
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(directory)):
        for word in [None, *options.overrides]:
            try:
                words = [*accepted, word] if word else accepted
                cfg = compose(options.config_name or verb, words, return_hydra_config=True)
            except Exception as failure:
                said = _in_place_of_null(str(word)) if is_null_group(failure) else _one_line(failure)
                problems.append(said + _nested_group(str(word)))
                continue
            accepted += [word] if word else []
        if not problems or cfg is None:
            return [_one_line(error)]
        HydraConfig.instance().set_config(cfg)
        if verb in ("train", "check"):
            problems += _mistakes(cfg, accepted)
    return problems


def is_null_group(error: Exception) -> bool:
    """Whether Hydra refuses a group that is set to null; it raises a bare ValueError."""
    return isinstance(error, ValueError) and str(error).startswith("Config group override must be")


def _in_place_of_null(word: str) -> str:
    from hydra.core.global_hydra import GlobalHydra

    group = word.partition("=")[0].lstrip("+")
    options = GlobalHydra.instance().config_loader().get_group_options(group.partition("@")[0])
    return f"{word}: null is no option of a group; there are: {', '.join(options)}"


def _nested_group(word: str) -> str:
    """The groups of that name inside another, where the word names none: `view` is `dataset/view`."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.object_type import ObjectType

    name, loader = word.partition("=")[0].lstrip("+~"), GlobalHydra.instance().config_loader()
    if not name.isidentifier() or loader.get_group_options(name):
        return ""
    outer = loader.get_group_options("", ObjectType.GROUP)
    found = [f"{group}/{name}" for group in outer if loader.get_group_options(f"{group}/{name}")]
    return f"; the group of that name is {' or '.join(found)}" if found else ""


def _mistakes(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    from omegaconf import open_dict

    from kdexp.check import check_config

    with open_dict(cfg):
        cfg.pop("hydra", None)
        cfg.pop("list_trials", None)  # see _check
    try:
        check_config(cfg, overrides=overrides)
    except ConfigError as error:
        return error.problems
    return []


def _one_line(error: BaseException) -> str:
    """Hydra's message in one line, with the cause's where it has one; for a missing option, what to add."""
    from hydra.errors import MissingConfigException

    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        sentence = f"{group}={name}: there is no such {group}; there are: {', '.join(error.options)}"
        if group in ("dataset", "teacher", "student"):
            files = ", ".join(f"{part}/{name}.yaml" for part in ("dataset", "teacher", "student"))
            sentence += f". A data set of your own brings {files}, in a folder given with -cd"
        if group == "hydra/launcher":
            sentence += ". pip install 'kdexp[launchers]' brings joblib and submitit, 'kdexp[ray]' brings ray"
        return sentence
    texts = [str(error)] + ([str(error.__cause__)] if error.__cause__ is not None else [])
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    noise = ("set the environment variable", "full_key:", "object_type=", "see full stack", "reference_type")
    return " ".join(dict.fromkeys(line for line in lines if not line.lower().startswith(noise)))
