"""Lossless mode: the skip model drafts, the same weights with everything executed verify in one pass.

Both use one K/V cache. A draft is written behind what is verified and then forgotten; the verifying pass writes the
dense keys and values over it. So every accepted token has seen dense keys and values only, and the answer is the
dense model's: token for token when greedy, in distribution when sampling (`skipmodel.serve.sampling`).

Legend: K drafted tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from skipmodel.engine.executor import Engine, Routing
from skipmodel.engine.rows import Slot
from skipmodel.serve.sampling import Sampler, draw, probabilities


@dataclass
class Draft:
    """What one request has drafted, and how much it drafts next.

    The number adapts to acceptance alone, never to time or load: what a seed answers must not depend on either. It
    rises by one when all was right and falls to one above what was right otherwise.
    """

    most: int
    size: int = 2
    tokens: list[int] = field(default_factory=list)
    probs: list[Tensor] = field(default_factory=list)
    n_drafted: int = 0
    n_accepted: int = 0
    n_passes: int = 0
    n_skipped: int = 0

    def settle(self, n_right: int) -> None:
        """Take in how many of the drafted tokens were right, and forget them."""
        self.n_drafted += len(self.tokens)
        self.n_accepted += n_right
        self.n_passes += 1
        self.size = min(self.most, self.size + 1) if n_right == len(self.tokens) else max(1, n_right + 1)
        self.size = min(self.size, self.most)
        self.tokens, self.probs = [], []


@torch.inference_mode()
def make_draft(
    engine: Engine, slot: Slot, last: int, routing: Routing, sampler: Sampler, draft: Draft, room: int
) -> None:  # fmt: skip
    """Draft up to `draft.size` tokens behind the last one; the slot is left as it was.

    Args:
        engine: Decodes step by step, so that a draft does not depend on what else runs.
        slot: Keys and values of all tokens before the last one.
        last: The newest token, not yet fed.
        routing: How the draft skips.
        sampler: Of the request.
        draft: Takes the tokens.
        room: Most tokens that can be of use.
    """
    length, token = slot.length, last
    for _ in range(min(draft.size, room)):
        logits, n_skipped = engine.step(torch.tensor([[token]], device=engine.device), slot, routing)
        draft.n_skipped += n_skipped
        if sampler.is_greedy:
            token = int(logits[0].argmax())
        else:
            draft.probs.append(probabilities(logits[0], sampler.temperature, sampler.top_p))
            token = draw(draft.probs[-1], sampler.uniform())
        draft.tokens.append(token)
    slot.rewind(length)
