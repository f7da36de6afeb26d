"""The teacher LM-TAD (SIGSPATIAL 2024, public code `jonathankabala/LMTAD`): a GPT-2 style decoder over grid cells.

It learns to continue SOT, one cell per road, EOT, and knows no destination. Its signal for the student are its
probabilities of the cells in which the student's candidates lie.

Shape suffixes: B trips, P positions (decisions), K candidates, T tokens, D width, V vocabulary, M rows put together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor, nn

from kdexp.contracts import StudentOutput
from kdexp.errors import CacheError, ConfigError
from kdexp.records import fingerprint
from kdexp.systems.trajectories.grid import Grid

SharedCells = Literal["full", "split"]
_ROWS = 4096  # rows of logits over the vocabulary, or windows, held at a time


class Reading(NamedTuple):
    """How the signal is read; see `LmTad.read_with`."""

    window: int | None = None
    shared_cells: SharedCells = "split"
    keep_sot: bool = False


class LmTad(nn.Module):
    """Causal transformer over cells: learned positions, pre-norm, GELU, no biases, the output tied to the embedding.

    Inputs: `cells` (B, P + 1) int64, those of all roads of the trip, PAD after its end; `length` (B,), its decisions;
    `candidate_cells` (B, P, K) int64 and `candidate_mask` (B, P, K) bool. Output: `next_road` (B, P, K) float32, the
    log-probabilities of the candidates, 0 on padding; in training mode also aux `nll` (B,), the mean negative
    log-likelihood of the trip's tokens with EOT. It is trained on that, not on the tasks.

    `positions` is the greatest number of tokens. The grid is part of the state: weights of another are refused.
    """

    version = 1
    own_loss = "nll"
    answers = ("next_road",)

    def __init__(
        self,
        *,
        grid: Grid,
        width: Annotated[int, Ge(1)] = 768,
        layers: Annotated[int, Ge(1)] = 8,
        heads: Annotated[int, Ge(1)] = 12,
        positions: Annotated[int, Ge(2)] = 1024,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.2,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"teacher.model.heads: must divide the width, got {heads=} and {width=}")
        self.grid, self.heads, self.reading = grid, heads, Reading()
        self.cell = nn.Embedding(grid.vocabulary, width)
        self.position = nn.Embedding(positions, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads=heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                towards_residual = name.endswith("out.weight")
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * layers) if towards_residual else 0.02)

    def read_with(
        self, *, window: int | None = None, shared_cells: SharedCells = "split", keep_sot: bool = False
    ) -> None:
        """Sets how `next_road` is read in eval mode.

        `window` None: all tokens up to and including the current road's cell, SOT first. A number: the last so many of
        them, at positions from 0; SOT counts as one and is lost with the others, unless `keep_sot` holds it in the
        first place. Where m candidates of a step lie in one cell, each gets its whole probability (`full`) or the m-th
        part (`split`).
        """
        least = 2 if keep_sot else 1
        if window is not None and not least <= window <= self.position.num_embeddings:
            raise ConfigError(
                f"teacher.signal.window: must be null or {least} to {self.position.num_embeddings} tokens"
                f"{', one of them SOT (keep_sot)' if keep_sot else ''}, got {window}"
            )
        if keep_sot and window is None:
            raise ConfigError("teacher.signal.keep_sot: has no effect without a window, SOT is read anyway")
        if shared_cells not in ("full", "split"):
            raise ConfigError(f"teacher.signal.shared_cells: must be full or split, got {shared_cells!r}")
        self.reading = Reading(window, shared_cells, keep_sot)

    def forward(self, inputs: Mapping[str, Tensor]) -> StudentOutput:
        cells, length = inputs["cells"], inputs["length"]
        window = None if self.training else self.reading.window
        aux = {}
        if window is None:
            states_BTD = self._states(self._with_sot(cells))
            states_BPD = states_BTD[:, 1:-1]
            if self.training:  # elsewhere the logits over the vocabulary would cost more than all the rest
                aux["nll"] = self._nll(states_BTD, cells, length)
        else:
            states_BPD = self._window_states(cells, length, window)
        read = self._read(states_BPD, inputs["candidate_cells"], inputs["candidate_mask"])
        return StudentOutput(logits={"next_road": read}, aux=aux, masks={"next_road": inputs["candidate_mask"]})

    def nll(self, cells: Tensor, length: Tensor) -> Tensor:
        """The mean negative log-likelihood of each trip's tokens with EOT, (B,): the log-perplexity."""
        return self._nll(self._states(self._with_sot(cells)), cells, length)

    def _with_sot(self, cells: Tensor) -> Tensor:
        return F.pad(cells, (1, 0), value=self.grid.sot)

    def _states(self, tokens: Tensor) -> Tensor:
        """The last states (M, T, D) of rows of tokens (M, T); what is padded at the end changes nothing before it."""
        n_tokens = tokens.shape[1]
        if n_tokens > self.position.num_embeddings:
            raise ConfigError(
                f"teacher.model.positions: a trip of {n_tokens} tokens does not fit {self.position.num_embeddings}; "
                "raise it, or keep shorter trips"
            )
        states = self.dropout(self.cell(tokens) + self.position.weight[:n_tokens])
        for block in self.blocks:
            states = block(states)
        return self.norm(states)

    def _nll(self, states_BTD: Tensor, cells: Tensor, length: Tensor) -> Tensor:
        """A trip of L decisions has the tokens c_0 … c_L, EOT: L + 2 of them, each told by the state before it."""
        places = torch.arange(states_BTD.shape[1], device=cells.device)
        ends_BT = places == length[:, None] + 1
        tokens_BT = F.pad(cells, (0, 1), value=self.grid.pad).masked_fill(ends_BT, self.grid.eot)
        counted_BT = places <= length[:, None] + 1
        rows = zip(states_BTD[counted_BT].split(_ROWS), tokens_BT[counted_BT].split(_ROWS), strict=True)
        losses_M = torch.cat([F.cross_entropy(F.linear(s, self.cell.weight), t, reduction="none") for s, t in rows])
        trip_M = counted_BT.nonzero()[:, 0]
        return losses_M.new_zeros(len(cells)).index_add(0, trip_M, losses_M) / (length + 2)

    def _window_states(self, cells: Tensor, length: Tensor, window: int) -> Tensor:
        """The state after the last token of each step's window, (B, P, D); 0 after a trip's end."""
        n_steps = cells.shape[1] - 1
        step_P = torch.arange(n_steps, device=cells.device)
        newest_P = step_P + 1  # the current road's token: SOT is token 0
        oldest_P = (newest_P - window + 1).clamp(min=0)
        places_PT = oldest_P[:, None] + torch.arange(window, device=cells.device)
        if self.reading.keep_sot:
            places_PT[:, 0] = 0
        # A short window ends before its row does; what stands after it is not seen from its last token.
        tokens_BPT = self._with_sot(cells)[:, places_PT.clamp(max=newest_P[:, None])]
        real_BP = step_P < length[:, None]
        last_BP = (newest_P - oldest_P).expand_as(real_BP)
        rows = zip(tokens_BPT[real_BP].split(_ROWS), last_BP[real_BP].split(_ROWS), strict=True)
        states_MD = torch.cat([self._states(t)[torch.arange(len(t), device=t.device), last] for t, last in rows])
        return states_MD.new_zeros(*real_BP.shape, states_MD.shape[1]).masked_scatter(real_BP[..., None], states_MD)

    def _read(self, states_BPD: Tensor, candidate_cells: Tensor, mask_BPK: Tensor) -> Tensor:
        """Log-probabilities of the candidates, in float32 at least.

        A softmax over all cells would only add a constant that the softmax over the candidates cancels, so only the
        candidates' logits are computed.
        """
        with torch.autocast(states_BPD.device.type, enabled=False):
            wide = torch.promote_types(states_BPD.dtype, torch.float32)
            output_BPKD = F.embedding(candidate_cells, self.cell.weight).to(wide)
            logits_BPK = (output_BPKD @ states_BPD.to(wide)[..., None])[..., 0]
            if self.reading.shared_cells == "split":
                same_BPKK = (candidate_cells[..., :, None] == candidate_cells[..., None, :]) & mask_BPK[..., None, :]
                logits_BPK = logits_BPK - same_BPKK.sum(dim=-1).clamp(min=1).log()
            lowest = torch.finfo(wide).min
            return logits_BPK.masked_fill(~mask_BPK, lowest).log_softmax(dim=-1).masked_fill(~mask_BPK, 0.0)

    def description(self) -> dict[str, Any]:
        """What the weights mean and their shapes do not say: the grid, its cell of each road, the heads."""
        values = self.grid.as_dict()
        return {**values, "cell_of_road": fingerprint(values["cell_of_road"]), "heads": self.heads}

    def get_extra_state(self) -> Tensor:
        return torch.tensor(list(json.dumps(self.description()).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Raises CacheError where the weights were made for another grid, road map or number of heads."""
        check_description(json.loads(bytes(state.tolist())), self.description(), "these weights")


def check_description(theirs: Mapping[str, Any], ours: Mapping[str, Any], what: str) -> None:
    """Compares what two teachers say of their grids, as far as `theirs` goes. Raises CacheError naming the first
    difference."""
    for name, value in theirs.items():
        same = value == ours[name] or (isinstance(value, float) and math.isclose(value, ours[name], rel_tol=1e-9))
        if not same:
            way_out = (
                "set teacher.model.heads" if name == "heads" else "set dataset.grid as it was, or use its road map"
            )
            raise CacheError(f"{what} were made with {name} = {value}, here it is {ours[name]}; {way_out}")


class Block(nn.Module):
    """Pre-norm causal attention and a GELU feed-forward of four times the width, without biases: (M, T, D) -> same."""

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.feedforward_norm = nn.LayerNorm(width, bias=False)
        self.feedforward_in = nn.Linear(width, 4 * width, bias=False)
        self.feedforward_out = nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.dropout(self._attend(self.attention_norm(states)))
        hidden = F.gelu(self.feedforward_in(self.feedforward_norm(states)))
        return states + self.dropout(self.feedforward_out(hidden))

    def _attend(self, states: Tensor) -> Tensor:
        n, n_tokens, width = states.shape
        split = self.query_key_value(states).view(n, n_tokens, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        dropout = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        return self.attention_out(mixed.transpose(1, 2).reshape(n, n_tokens, width))
