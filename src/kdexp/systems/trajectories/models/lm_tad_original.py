"""Takes over a teacher that LM-TAD's own code trained: its checkpoint becomes a state dict for `teacher.checkpoint`.

    from kdexp.systems.trajectories.models.lm_tad_original import import_original

    settings = import_original(Path("original.pt"), Path("teacher.pt"), grid=dataset.model_arguments()["grid"])

Then `teacher.checkpoint=teacher.pt`, with `settings` under `teacher.model`.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdexp.errors import CacheError
from kdexp.records import written_whole
from kdexp.systems.trajectories.grid import Grid
from kdexp.systems.trajectories.models.lm_tad import LmTad, check_description

GRID_KEYS = ("min_lat", "min_lon", "size_degrees", "downsample", "n_rows", "n_columns")
_SETTINGS = {"n_embd": "width", "n_layer": "layers", "n_head": "heads", "block_size": "positions"}
_NAMES = (
    (r"^_orig_mod\.", ""),
    (r"^transformer\.wte\.", "cell."),
    (r"^transformer\.wpe\.", "position."),
    (r"^transformer\.ln_f\.", "norm."),
    (r"^transformer\.h\.", "blocks."),
    (r"\.ln_1\.", ".attention_norm."),
    (r"\.attn\.c_attn\.", ".query_key_value."),
    (r"\.attn\.c_proj\.", ".attention_out."),
    (r"\.ln_2\.", ".feedforward_norm."),
    (r"\.mlp\.c_fc\.", ".feedforward_in."),
    (r"\.mlp\.c_proj\.", ".feedforward_out."),
)


def import_original(
    path: Path, destination: Path, *, grid: Grid, original_grid: Mapping[str, float] | None = None
) -> dict[str, int]:
    """Writes the weights of an original checkpoint, a dict with `state_dict` and a plain `model_config`, as a state
    dict of `LmTad` on this grid; returns the settings of `teacher.model` that fit it.

    The grid that the checkpoint was trained on is what it says under `grid` and under `dataset_config.grip_size`, and
    what `original_grid` says (see GRID_KEYS); it must be complete and equal `grid`. Raises CacheError where the file is
    torn, holds code, lacks something, or was made on another grid.
    """
    content = _read(path)
    config = _mapping(content, "model_config", path)
    _check_grid({**_stated(content), **(original_grid or {})}, grid, path)
    _check_config(config, grid, path)
    settings = {ours: int(config[theirs]) for theirs, ours in _SETTINGS.items()}
    model = LmTad(grid=grid, **settings)
    state = _renamed(_mapping(content, "state_dict", path), path)
    try:
        model.load_state_dict({**state, "_extra_state": model.get_extra_state()})
    except RuntimeError as error:
        reason = [*str(error).splitlines()[1:], str(error)][0].strip()
        raise CacheError(f"{path}: its weights do not fit its own model_config: {reason}") from None
    with written_whole(destination) as temporary:
        torch.save({"state_dict": model.state_dict()}, temporary)
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise CacheError(f"{path} does not exist") from None
    except pickle.UnpicklingError:
        raise CacheError(
            f"{path} holds more than tensors and plain values and could run code, so it is not opened; in the "
            "environment that made it, save {'state_dict': ..., 'model_config': vars(model_config)} and use that"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CacheError(f"{path} is torn or no checkpoint ({reason}); get it anew") from None


def _mapping(content: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    if not isinstance(content.get(key), Mapping):
        raise CacheError(f"{path} is no original LM-TAD checkpoint: it has no {key} of plain values")
    return content[key]


def _stated(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the checkpoint itself says of its grid."""
    stated = dict(content.get("grid") or {})
    size = (content.get("dataset_config") or {}).get("grip_size")
    return stated if size is None else {**stated, "n_rows": size[0], "n_columns": size[1]}


def _check_grid(stated: Mapping[str, Any], grid: Grid, path: Path) -> None:
    missing = [key for key in GRID_KEYS if key not in stated]
    if missing:
        raise CacheError(f"{path} does not say on which grid it was trained; give original_grid {', '.join(missing)}")
    ours = grid.as_dict()
    unknown = [key for key in stated if key not in ours]
    if unknown:
        raise CacheError(f"{path}: a grid has no {', '.join(unknown)}; it has {', '.join(GRID_KEYS)}")
    check_description(stated, ours, f"{path}: its weights")


def _check_config(config: Mapping[str, Any], grid: Grid, path: Path) -> None:
    missing = [key for key in (*_SETTINGS, "vocab_size") if key not in config]
    if missing:
        raise CacheError(f"{path}: its model_config lacks {', '.join(missing)}")
    if config["vocab_size"] != grid.vocabulary:
        raise CacheError(
            f"{path} knows {config['vocab_size']} tokens, the last of them SOT, but this grid of {grid.n_rows} x "
            f"{grid.n_columns} cells has {grid.vocabulary}; set dataset.grid as it was"
        )
    unlike = [key for key in ("bias", "integer_poe") if config.get(key)]
    if unlike:
        raise CacheError(f"{path} has {unlike[0]} set in its model_config; only a model without it can be taken over")


def _renamed(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights under our names, without the causal masks and the second name of the tied embedding."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, ours in _NAMES:
            name = re.sub(pattern, ours, name)
        if not name.endswith(".attn.bias"):
            renamed[name] = tensor
    output = renamed.pop("lm_head.weight", None)
    if output is not None and not torch.equal(output, renamed.setdefault("cell.weight", output)):
        raise CacheError(f"{path}: its output is not tied to its embedding, so it cannot be taken over")
    return renamed
