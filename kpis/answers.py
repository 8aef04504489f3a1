"""Grading generated answers: text in, numbers out; and how far two answers, or k samples of one, agree."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from kpis.errors import StatisticsError
from kpis.records import ScorePair

_SPACE = re.compile(r"\s+")
_EDGES = " 。．.、,!?！？「」『』\"'“”‘’()（）"


def normalise_answer(text: str) -> str:
    """An answer without differences that no reader would call one.

    Full and half width are one (NFKC), case and runs of spaces do not count, and quotes and full stops around the
    answer go. Punctuation inside stays: 1.5 is not 15.

    Example:
        >>> normalise_answer(" 「ＡＢＣ  １２」。")
        'abc 12'
    """
    # folding case can leave characters that are not in normal form any more, so twice
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _SPACE.sub(" ", folded).strip(_EDGES)


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 when the normalised answer equals any reference, else 0.

    **Formula**: `max over references of [normalise(answer) = normalise(reference)]`.
    **Source**: SQuAD (Rajpurkar 2016) with the normalisation above; its articles a, an, the stay, as Japanese has none.
    **Direction**: higher is better.

    Raises:
        StatisticsError: without any reference.

    Example:
        >>> exact_match("１２ 時", ["12 時", "正午"])
        1.0
    """
    normalised = normalise_answer(answer)
    return float(any(normalised == normalise_answer(reference) for reference in _some(references)))


def char_f1(answer: str, references: Sequence[str]) -> float:
    """Overlap of characters, best over the references; partial credit where words have no spaces between them.

    **Formula**: `2 P R / (P + R)`, P and R the shares of the answer's and the reference's characters found in the
    other, as multisets, spaces left out; 1 for two empty texts, 0 if one is empty.
    **Source**: F1 of SQuAD over characters, as used for JSQuAD (JGLUE, Kurihara 2022).
    **Direction**: higher is better.

    Raises:
        StatisticsError: without any reference.

    Example:
        >>> round(char_f1("東京都", ["東京"]), 6)
        0.8
    """
    return max(_f1(_characters(answer), _characters(reference)) for reference in _some(references))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """Overlap of words, best over the references; partial credit where words stand apart.

    **Formula**: as `char_f1`, over the words of the normalised texts instead of their characters.
    **Source**: F1 of SQuAD (Rajpurkar 2016), with the normalisation above.
    **Direction**: higher is better.

    Raises:
        StatisticsError: without any reference.

    Example:
        >>> round(token_f1("server config, directory", ["server config"]), 6)
        0.4
    """
    return max(_f1(_words(answer), _words(reference)) for reference in _some(references))


def f1_of(language: str) -> str:
    """Metric that gives partial credit in a language: by words in English, by characters where none stand apart.

    Example:
        >>> f1_of("ja"), f1_of("en")
        ('char_f1', 'token_f1')
    """
    return "token_f1" if language == "en" else "char_f1"


def _some(references: Sequence[str]) -> Sequence[str]:
    if not references:
        raise StatisticsError("expected at least one reference answer, got none; an item without one is not graded")
    return references


def _characters(text: str) -> Counter[str]:
    return Counter(normalise_answer(text).replace(" ", ""))


def _words(text: str) -> Counter[str]:
    return Counter(normalise_answer(text).split())


def _f1(answer: Counter[str], reference: Counter[str]) -> float:
    total = answer.total() + reference.total()
    return 1.0 if total == 0 else 2.0 * (answer & reference).total() / total


def self_consistency(samples: Sequence[str]) -> float | None:
    """Share of pairs among k sampled answers to one question that agree.

    **Formula**: `sum over answers of n_a (n_a - 1) / (k (k - 1))` on normalised answers.
    **Source**: mean pairwise agreement, ours; k = 5 is usual.
    **Direction**: higher is steadier; information, as a model can be steadily wrong.
    **Undefined when**: fewer than two samples (None).

    Example:
        >>> self_consistency(["a", "A", "b", "a "])
        0.5
    """
    k = len(samples)
    if k < 2:
        return None
    counts = Counter(normalise_answer(sample) for sample in samples)
    return sum(n * (n - 1) for n in counts.values()) / (k * (k - 1))


METRICS = {"exact_match": exact_match, "char_f1": char_f1, "token_f1": token_f1}


def grade(
    item_id: str, cluster: str, slice_name: str, *, dense: str, skip: str, references: Sequence[str],
    language: str = "ja",
) -> dict[str, ScorePair]:  # fmt: skip
    """Both models' answers to one question, graded both ways: `exact_match`, and `char_f1` or for English `token_f1`.

    Example:
        >>> grade("q1", "d1", "ja", dense="東京", skip="東京都", references=["東京"])["exact_match"].skip_score
        0.0
    """
    same = normalise_answer(dense) == normalise_answer(skip)
    scores = {name: METRICS[name] for name in ("exact_match", f1_of(language))}
    return {
        name: ScorePair(item_id, cluster, slice_name, name, score(dense, references), score(skip, references), same)
        for name, score in scores.items()
    }
