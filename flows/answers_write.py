"""Writing answers with the engine: one prompt is read once, and answered greedily and by drawing.

Prompt and answer run under one routing, one token of one sequence at a time, as a user would get them: critical
spans of the prompt and guarded sequences of the answer execute every layer, classes of the prompt have their margins.

Legend: T tokens, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from skipmodel.engine.executor import Routing
    from skipmodel.engine.masked import AnyEngine
    from skipmodel.guards import TokenSequences

    Pick = Callable[[torch.Tensor, int], int]
    """Logits (V,) and how many tokens are written -> the next token."""


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt with its guards; margins and forced positions count only where a routing is given."""

    ids: Sequence[int]
    forced: Sequence[bool]
    margins: Sequence[float]


@dataclass(frozen=True)
class Answer:
    """What was written: its tokens, an ending one included, and whether the model ended it."""

    ids: tuple[int, ...]
    ended: bool


class Endings:
    """Tells which tokens end an answer: end of text, or any token with a line break, as answers are one line.

    Args:
        tokenizer: Of the model.
        end_ids: Tokens that end a text.
    """

    def __init__(self, tokenizer: Any, end_ids: Sequence[int]) -> None:
        self.tokenizer, self.end_ids = tokenizer, frozenset(end_ids)
        self._breaks: Callable[[int], bool] = functools.cache(lambda token: "\n" in tokenizer.decode([token]))

    def __contains__(self, token: int) -> bool:
        return token in self.end_ids or self._breaks(token)

    def text(self, answer: Answer) -> str:
        """Return the answer as text: its first line, without end-of-text tokens and the half character of a cut."""
        ids = [token for token in answer.ids if token not in self.end_ids]
        return str(self.tokenizer.decode(ids)).split("\n", 1)[0].rstrip("\N{REPLACEMENT CHARACTER}").strip()


def greedy(logits_V: torch.Tensor, position: int) -> int:
    """Return the most likely token."""
    return int(logits_V.argmax())


def drawn(uniforms: Sequence[float], temperature: float) -> Pick:
    """Return a pick that draws by given numbers in [0, 1): both models get the same ones, so that luck is shared."""

    def pick(logits_V: torch.Tensor, position: int) -> int:
        import torch

        below_V = (logits_V.double().cpu() / temperature).softmax(-1).cumsum(-1)
        at = torch.searchsorted(below_V, uniforms[position] * float(below_V[-1]), right=True)
        return min(int(at), len(below_V) - 1)

    return pick


def write(
    engine: AnyEngine,
    prompt: Prompt,
    routing: Routing | None,
    picks: Sequence[Pick],
    *,
    endings: Endings,
    max_tokens: int,
    finder: TokenSequences | None = None,
) -> list[Answer]:
    """Answer one prompt once per pick.

    Args:
        engine: Executes the model.
        prompt: Read once for all answers.
        routing: None runs densely, without guards.
        picks: How the next token is chosen, one answer each.
        endings: What ends an answer.
        max_tokens: Limit.
        finder: Finds guarded sequences in the answer as it is written.
    """
    import torch

    n_prompt = len(prompt.ids)
    ids_1T = torch.tensor([list(prompt.ids)], device=engine.device)
    cache = engine.new_cache(1, n_prompt + max_tokens)
    guards: dict[str, Any] = {}
    if routing is not None:
        guards["forced_BT"] = torch.tensor([list(prompt.forced)], device=engine.device)
        if any(prompt.margins):
            guards["margin_BT"] = torch.tensor([list(prompt.margins)], device=engine.device)
    out = engine.hidden(ids_1T, routing, cache=cache, **guards)
    first_V = engine.logits(out.hidden_BTD[:, -1])[0]
    node = 0
    for token in prompt.ids if finder is not None else ():
        node = finder.step(node, token)  # type: ignore[union-attr]
    answers = []
    for pick in picks:
        cache.rewind(n_prompt)
        answers.append(_continue(engine, cache, routing, pick, first_V, endings, max_tokens, finder, node))
    return answers


def _continue(
    engine: AnyEngine, cache: Any, routing: Routing | None, pick: Pick, logits_V: torch.Tensor, endings: Endings,
    max_tokens: int, finder: TokenSequences | None, node: int,
) -> Answer:  # fmt: skip
    import torch

    made = [pick(logits_V, 0)]
    while made[-1] not in endings and len(made) < max_tokens:
        is_guarded = False
        if finder is not None and routing is not None:
            node = finder.step(node, made[-1])
            is_guarded = finder.holds(node)
        token = torch.tensor([[made[-1]]], device=engine.device)
        logits_1V, _ = engine.step(token, cache, routing, forced=is_guarded)
        made.append(pick(logits_1V[0], len(made)))
    return Answer(tuple(made), made[-1] in endings)


def first_difference(one: Answer, other: Answer) -> int | None:
    """Return how many tokens are the same before the first other one; None when all are.

    Example:
        >>> first_difference(Answer((5, 6), True), Answer((5, 7, 6), True))
        1
    """
    if one.ids == other.ids:
        return None
    same = zip(one.ids, other.ids, strict=False)
    return next((i for i, (a, b) in enumerate(same) if a != b), min(len(one.ids), len(other.ids)))
