"""Which routed unit each token of the example passages skipped, at every measured setting, for the report's map.

The passages are text of the validation split. Their words leave the run folder only when the settings ask for it,
and then with private parts blacked out once more (`flows.corpus.private` masked them at ingest already).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flows import evaluation
from flows.corpus import private
from flows.workbench import Workbench

PASSAGE_TOKENS = 64
BLACKED_OUT = "■"
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


def token_map(bench: Workbench) -> dict[str, Any] | None:
    """Return the `token_map` block of result.json; None when the settings ask for no passages.

    The passages are those of `flows.evaluation.passages`; each measured setting is run on them once.
    """
    from skipmodel.data import sample
    from skipmodel.evaluate import score_blocks

    report, model = bench.settings.report, bench.settings.model
    if report.n_passages == 0:
        return None
    blocks = sample(bench.blocks("validation", PASSAGE_TOKENS), PASSAGE_TOKENS * report.n_passages, model.seed + 2)
    blocks = blocks.take(range(min(report.n_passages, len(blocks))))
    routed = list(bench.engine.routed_units)
    skipped_PRNT = []
    for point in evaluation.sweep_points(bench):
        logit = point["threshold_logit"]
        routing = None if logit is None else bench.engine.routing(logit)
        scores = score_blocks(
            bench.engine, blocks, routing, force_critical=model.skip.force_critical, margins=model.skip.class_margins
        )
        skipped_PRNT.append((~scores.execute_mask_LNT[routed]).tolist())
    n_parts = bench.engine.n_units // bench.engine.n_layers
    language = {document.document_id: document.language for document in bench.documents["validation"]}
    passages = []
    for row, name in enumerate(blocks.document_ids):
        n = int(blocks.n_real_N[row])
        ids_T = blocks.ids_NT[row, :n].tolist()
        skipped_PTR = [
            [[bool(unit[row][token]) for unit in skipped_RNT] for token in range(n)] for skipped_RNT in skipped_PRNT
        ]
        passages.append(
            {
                "id": f"P{row + 1}",
                "language": language[name],
                "n_tokens": n,
                "tokens": masked(pieces(ids_T, bench.tokenizer.decode)) if report.include_samples else None,
                "classes": [blocks.kinds[kind] for kind in blocks.kind_NT[row, :n].tolist()],
                "critical": blocks.critical_NT[row, :n].tolist(),
                "n_skipped": [[sum(units) for units in tokens] for tokens in skipped_PTR],
                "masks": [" ".join(map(bit_mask, tokens)) for tokens in skipped_PTR],
            }
        )
    return {
        "points": list(range(len(skipped_PRNT))),
        "unit_layers": [unit // n_parts for unit in routed],
        "passages": passages,
    }


def bit_mask(units_R: Sequence[bool]) -> str:
    """Return flags as one hexadecimal number; bit k is entry k."""
    return f"{sum(1 << index for index, is_set in enumerate(units_R) if is_set):x}"


def pieces(ids: Sequence[int], decode: Callable[[list[int]], str]) -> list[str]:
    """Return the text that each token adds.

    Token by token, a character that takes several tokens would be shown as several broken ones; here the token
    that completes it carries it, and those before carry nothing.
    """
    found, start, shown = [], 0, ""
    for end in range(1, len(ids) + 1):
        text = decode(list(ids[start:end]))
        if text.endswith(_UNFINISHED) and end < len(ids):
            found.append("")
            continue
        found.append(text.removeprefix(shown) if text.startswith(shown) else text)
        # one token of context keeps the space that some tokenizers drop at the start of a text
        start, shown = end - 1, decode([ids[end - 1]])
    return found


def masked(tokens: Sequence[str]) -> list[str]:
    """Return the tokens with every letter of a private part (address, number, key, ...) blacked out."""
    text = "".join(tokens)
    hidden = bytearray(len(text))
    for start, end, _ in private.find(text):
        hidden[start:end] = b"\x01" * (end - start)
    found, place = [], 0
    for token in tokens:
        letters = (
            BLACKED_OUT if hidden[place + offset] and not letter.isspace() else letter
            for offset, letter in enumerate(token)
        )
        found.append("".join(letters))
        place += len(token)
    return found
