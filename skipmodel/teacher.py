"""The dense tuned teacher: final hidden states of the base without skipping, kept where a block comes again.

A hidden state is a hundred times smaller than its vocabulary logits, so whole runs of blocks fit in memory; the
logits are made again from it, at the positions that count.

Legend: B sequences, T tokens, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from skipmodel.model import SkipLayerForCausalLM


class Teacher:
    """Dense hidden states of blocks; computed once per block when told to keep them.

    Args:
        model: Its base is the teacher.
        keep: Keep hidden states: several epochs, or several trainings on the same blocks.
        capacity_bytes: No more than this is kept.
    """

    def __init__(self, model: SkipLayerForCausalLM, *, keep: bool, capacity_bytes: int = 4 << 30) -> None:
        self.model, self.keep, self.room = model, keep, capacity_bytes
        self.kept: dict[bytes, Tensor] = {}
        self.n_computed = 0

    @torch.no_grad()
    def hidden(self, ids_BT: Tensor, compute: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return final hidden states, (B, T, D).

        Args:
            ids_BT: Token ids of blocks.
            compute: Makes those that are not kept; by default the dense pass of the model. A training whose LoRA
                changes the model passes one that switches it off.
        """
        keys = [hashlib.blake2b(row.cpu().numpy().tobytes(), digest_size=16).digest() for row in ids_BT]
        missing = [i for i, key in enumerate(keys) if key not in self.kept]
        made: dict[int, Tensor] = {}
        if missing:
            made_BTD = (compute or self._dense)(ids_BT[missing])
            self.n_computed += len(missing)
            for i, row_TD in zip(missing, made_BTD, strict=True):
                made[i] = row_TD
                if self.keep and self.room >= row_TD.nbytes:
                    self.room -= row_TD.nbytes
                    self.kept[keys[i]] = row_TD.cpu().clone()
        return torch.stack([made[i] if i in made else self.kept[key].to(ids_BT.device) for i, key in enumerate(keys)])

    def _dense(self, ids_BT: Tensor) -> Tensor:
        return dense_hidden(self.model, ids_BT)


@torch.no_grad()
def dense_hidden(model: SkipLayerForCausalLM, ids_BT: Tensor) -> Tensor:
    """Return the final hidden states of the model with everything executed, (B, T, D)."""
    with model.routing("dense"):
        positions = model.begin_pass(ids_BT, None, None, None)
        hidden: Tensor = model.lm.base_model(
            input_ids=ids_BT, position_ids=positions, use_cache=False
        ).last_hidden_state
    return hidden
