"""How well private data is found: precision and recall of each type on labelled sentences.

The sentences are JSON lines of ``text``, ``private`` (pairs of type and the words in the text) and, for names,
``names`` (the list that is given). A private part is found if one span of its type covers it whole; a span is right
if it touches a private part of its type.

The sentences of the test set were made by the author of the rules, so they show that the rules do what they are
meant to do, not how they fare on the text of another company: for that, label sentences of its own and give them
here. Of the set, 226 sentences were written before any rule was tried on them; at the first try 130 of 132 private
parts were found and 130 of 132 spans were right.

    python -m flows.corpus.private_report private_cases.jsonl
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.corpus.private import TYPES, find

__all__ = ["Score", "private_report", "score"]


@dataclass(frozen=True)
class Score:
    """Counts of one type: private parts, those found, spans reported, those that are right."""

    n_private: int
    n_found: int
    n_spans: int
    n_right: int

    @property
    def recall(self) -> float | None:
        """Share of the private parts that are found; None without private parts."""
        return self.n_found / self.n_private if self.n_private else None

    @property
    def precision(self) -> float | None:
        """Share of the reported spans that are right; None without spans."""
        return self.n_right / self.n_spans if self.n_spans else None


def score(cases: Iterable[Mapping[str, Any]]) -> dict[str, Score]:
    """Score of every type over labelled sentences."""
    counts: Counter[tuple[str, str]] = Counter()
    for case in cases:
        text = case["text"]
        private = []
        at = 0
        for kind, words in case["private"]:
            at = text.index(words, at)
            private.append((at, at + len(words), kind))
            at += len(words)
        spans = find(text, case.get("names", ()))
        for start, end, kind in private:
            counts[kind, "private"] += 1
            counts[kind, "found"] += any(s <= start and end <= e and k == kind for s, e, k in spans)
        for start, end, kind in spans:
            counts[kind, "spans"] += 1
            counts[kind, "right"] += any(s < end and start < e and k == kind for s, e, k in private)
    return {kind: Score(*(counts[kind, what] for what in ("private", "found", "spans", "right"))) for kind in TYPES}


def private_report(path: Path) -> str:
    """Table of precision and recall of each type on the sentences of a file."""
    cases = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [f"{'type':<16}{'private':>8}{'found':>7}{'recall':>8}{'spans':>7}{'right':>7}{'precision':>11}"]
    for kind, result in score(cases).items():
        recall, precision = ("-" if share is None else f"{share:.3f}" for share in (result.recall, result.precision))
        lines.append(
            f"{kind:<16}{result.n_private:>8}{result.n_found:>7}{recall:>8}{result.n_spans:>7}{result.n_right:>7}"
            f"{precision:>11}"
        )
    return "\n".join([*lines, f"{len(cases)} sentences"])


if __name__ == "__main__":
    sys.stdout.write(private_report(Path(sys.argv[1])) + "\n")
