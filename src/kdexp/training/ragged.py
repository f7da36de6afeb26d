"""What a teacher says about the candidates that are there, without the padding: flat numbers and where each begins.

Shape suffixes: N samples, S positions of all samples, E candidates of all positions; B, P, K as in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from kdexp.errors import CacheError


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """`entries` (E,) by sample, position and candidate; `counts` int32 (S,), how many candidates a position has; and
    by sample, int64 (N,): its first entry, its first position, and how many positions it has."""

    entries: Tensor
    counts: Tensor
    first_entry: Tensor
    first_position: Tensor
    n_positions: Tensor

    def __len__(self) -> int:
        return len(self.n_positions)

    def parts(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def rows(self, index_B: Tensor, target_Bx: Tensor) -> Tensor:
        """(B, P, K) float32 of these samples, or (B, K) where their targets are (B,); 0 on padding.

        P is that of the targets, K the largest number of candidates among these samples.
        """
        has_positions = target_Bx.ndim == 2
        n_B, slots_P = self.n_positions[index_B], torch.arange(target_Bx.shape[1] if has_positions else 1)
        if int(n_B.max()) > len(slots_P):
            raise CacheError(
                f"the stored teacher outputs have {int(n_B.max())} positions where the batch has {len(slots_P)}: they "
                "belong to other samples; remove the teacher's folder outputs and run again"
            )
        there_BP = slots_P < n_B[:, None]
        position_BP = (self.first_position[index_B, None] + slots_P).where(there_BP, 0)
        counts_BP = self.counts[position_BP].long().where(there_BP, 0)
        first_BP = self.first_entry[index_B, None] + counts_BP.cumsum(1) - counts_BP
        slots_K = torch.arange(int(counts_BP.max()))
        real_BPK = slots_K < counts_BP[..., None]
        values_BPK = torch.zeros(real_BPK.shape)
        values_BPK[real_BPK] = self.entries[(first_BP[..., None] + slots_K)[real_BPK]].float()
        return values_BPK if has_positions else values_BPK.squeeze(1)


def packed(task: str, values: Tensor, mask: Tensor) -> Ragged:
    """The real candidates of a batch, values and mask (B, K) or (B, P, K), on the CPU.

    Raises CacheError where padding lies before a real candidate: then it could not be put back.
    """
    values_BPK, mask_BPK = (t.detach().cpu().reshape(len(t), -1, t.shape[-1]) for t in (values, mask))
    counts_BP = mask_BPK.sum(dim=-1)
    if not torch.equal(mask_BPK, torch.arange(mask_BPK.shape[-1]) < counts_BP[..., None]):
        raise CacheError(
            f"task {task}: padding lies between the candidates of a sample, so the teacher's outputs cannot be stored; "
            "put real candidates first, or use teacher.cache=off"
        )
    slots_P = torch.arange(1, counts_BP.shape[1] + 1)
    n_positions_B = (slots_P * (counts_BP > 0)).amax(dim=1)
    n_entries_B = counts_BP.sum(dim=1)
    return Ragged(
        entries=values_BPK[mask_BPK],
        counts=counts_BP[slots_P <= n_positions_B[:, None]].int(),
        first_entry=n_entries_B.cumsum(0) - n_entries_B,
        first_position=n_positions_B.cumsum(0) - n_positions_B,
        n_positions=n_positions_B,
    )


def joined(pieces: Sequence[Ragged], index_N: Tensor) -> Ragged:
    """Pieces put together; sample `index_N[i]` is the i-th of all pieces' samples."""
    by_name = {name: torch.cat([piece.parts()[name] for piece in pieces]) for name in pieces[0].parts()}
    for name, total in (("first_entry", "entries"), ("first_position", "counts")):
        sizes = torch.tensor([len(piece.parts()[total]) for piece in pieces])
        by_name[name] += (sizes.cumsum(0) - sizes).repeat_interleave(torch.tensor([len(piece) for piece in pieces]))
    order_N = index_N.argsort()
    return Ragged(**{n: t if n in ("entries", "counts") else t[order_N] for n, t in by_name.items()})
