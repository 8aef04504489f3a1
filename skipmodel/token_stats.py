"""Who skips what: skip rates by class of token, unit and position, and whether the router looks at the token at all.

Tokens are classed on several axes; each axis gives every token one class. `kind`: critical classes of the blocks.
`surface`: what the token looks like (`token_classes`). `frequency`: how often training text has it
(`frequency_classes`). Intervals come from a bootstrap over documents, since tokens of one document are alike.

Legend: L units, N blocks, T tokens in a block, V vocabulary, D documents, C classes of all axes, R resamples, P pairs.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipmodel.data import Blocks
from skipmodel.errors import DataError

SCHEMA_VERSION = 1
LEAST_DOCUMENTS = 5  # with fewer, a bootstrap over documents says nothing about noise

_ENGLISH = """
a an the this that these those i you he she it we they me him her us them my your his its our their who which what and
or but nor so if then than as because while although of in on at by for with from to into onto over under about between
through during before after not no do does did is are was were be been being have has had will would can could may
might shall should must there here when where how"""
_JAPANESE = "は が を に へ と で も の や か ね よ ば から まで より など ので のに では には とは への"
FUNCTION_WORDS = frozenset(_ENGLISH.split())
"""English articles, pronouns, conjunctions, prepositions, auxiliaries and negation."""
PARTICLES = frozenset(_JAPANESE.split())
"""Japanese particles that may be a token of their own."""
SURFACE = ("other", "special", "byte fragment", "space", "punctuation", "number", "function word", "particle",
           "identifier", "name")  # fmt: skip
FREQUENCY = ("frequent", "middle", "rare")

_WORD_STARTS = ("Ġ", "▁", " ")
_BYTE_PIECE = re.compile(r"<0x[89A-F][0-9A-F]>")
_IDENTIFIER = re.compile(r"_|[a-z][A-Z]|[A-Za-z][0-9]|[0-9][A-Za-z]|^[A-Z]{2,}$")

Floats = NDArray[np.float64]
_Axis = tuple[str, tuple[str, ...], Tensor]  # name, names of classes, class_NT


@dataclass(frozen=True)
class TokenClasses:
    """One axis: the class of every token id, an index into `names`."""

    axis: str
    names: tuple[str, ...]
    class_V: Tensor


def classify(axis: str, names: Sequence[str], class_of: Callable[[int], str], n_vocabulary: int) -> TokenClasses:
    """Return an axis of one's own: `class_of` gives one of the names for each token id."""
    number = {name: index for index, name in enumerate(names)}
    return TokenClasses(axis, tuple(names), torch.tensor([number[class_of(token)] for token in range(n_vocabulary)]))


def token_classes(tokenizer: Any, n_vocabulary: int) -> TokenClasses:
    """Give every token id one surface class, from the tokenizer alone.

    The first that holds: `special` (control tokens, unused rows of the vocabulary), `byte fragment` (part of a
    character, as Japanese often comes), `space`, `punctuation` (symbols too), `number` (digits with separators),
    `function word` (`FUNCTION_WORDS`, at the start of a word), `particle` (`PARTICLES`), `identifier` (underscore,
    inner capital, letters beside digits, or capitals alone), `name` (capitalised start of a word; the first word of a
    sentence looks the same), `other`.
    """
    pieces = [tokenizer.convert_ids_to_tokens(token) for token in range(min(n_vocabulary, len(tokenizer)))]
    pieces += [None] * (n_vocabulary - len(pieces))
    special = set(tokenizer.all_special_ids)
    marks_words = any(piece is not None and piece.startswith(_WORD_STARTS) for piece in pieces)

    def class_of(token: int) -> str:
        piece = pieces[token]
        if piece is None or token in special:
            return "special"
        text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        if "\ufffd" in text or _BYTE_PIECE.fullmatch(piece):
            return "byte fragment"
        return _surface(text.strip(), not marks_words or piece.startswith(_WORD_STARTS))

    return classify("surface", SURFACE, class_of, n_vocabulary)


def _surface(text: str, starts_word: bool) -> str:
    categories = {unicodedata.category(character)[0] for character in text}
    starts_word = starts_word or text[:1].isupper()
    rules = (
        ("space", not text),
        ("punctuation", categories <= {"P", "S"}),
        ("number", "N" in categories and categories <= {"N", "P", "S"}),
        ("function word", starts_word and text.lower() in FUNCTION_WORDS),
        ("particle", text in PARTICLES),
        ("identifier", _IDENTIFIER.search(text) is not None),
        ("name", len(text) > 1 and text.istitle()),
    )
    return next((name for name, holds in rules if holds), "other")


def token_counts(blocks: Blocks, n_vocabulary: int) -> Tensor:
    """Return how often each token id occurs, (V,)."""
    return torch.bincount(blocks.ids_NT[blocks.real_NT], minlength=n_vocabulary)


def frequency_classes(count_V: Tensor, frequent_share: float = 0.5, rare_share: float = 0.1) -> TokenClasses:
    """Class token ids by their counts in training text.

    `frequent`: the most frequent ids that together make up `frequent_share` of all tokens; `rare`: the last ones, that
    make up `rare_share`, and those never seen; `middle`: the rest.
    """
    order = count_V.argsort(descending=True, stable=True)
    before = (count_V[order].cumsum(0) - count_V[order]).double()  # tokens of all more frequent ids
    class_V, total = torch.empty_like(order), float(count_V.sum())
    class_V[order] = (before >= frequent_share * total).long() + (before >= (1.0 - rare_share) * total).long()
    return TokenClasses("frequency", FREQUENCY, class_V.masked_fill(count_V == 0, 2))


@dataclass(frozen=True)
class ClassRate:
    """Skip rate of one class, with its 95 % interval over documents; None with fewer than two documents."""

    axis: str
    name: str
    skip_rate: float
    low: float | None
    high: float | None
    n_tokens: int
    n_documents: int


@dataclass(frozen=True)
class Adaptivity:
    """Whether skip rates of classes differ by more than noise where the router was free to decide.

    **Formula**: difference d_c = rate of class c - rate of the rest of its axis; adaptive iff for some c
    |d_c| > q se_c, where se_c and q, the 95 % quantile of max_c |d*_c - d_c| / se_c, come from the bootstrap over
    documents. A router that ignores content is so called in about 5 % of samples, however many classes there are.
    **Source**: single-step max-t test (Westfall and Young, 1993).
    """

    is_content_adaptive: bool | None
    reason: str | None = None
    """Why there is no answer: `too_few_documents` or `too_few_classes`."""
    axis: str | None = None
    name: str | None = None
    """The class that stands out most against its noise."""
    difference: float | None = None
    noise: float | None = None
    """q se_c: the difference of this class that passes for chance."""


@dataclass(frozen=True)
class TokenStatistics:
    """Skip statistics, in shares of all layer executions.

    Privacy: holds ids of frequent tokens; their strings only where a decode function was given.
    """

    skip_rate: float
    n_tokens: int
    n_documents: int
    by_class: list[ClassRate]
    by_unit: list[dict[str, Any]]
    by_position: list[dict[str, Any]]
    most_skipped: list[dict[str, Any]]
    least_skipped: list[dict[str, Any]]
    adaptivity: Adaptivity

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}


def token_statistics(
    blocks: Blocks,
    execute_mask_LNT: Tensor,
    *,
    classes: Sequence[TokenClasses] = (),
    unit_work: Sequence[float] | None = None,
    n_layers: int | None = None,
    guarded_NT: Tensor | None = None,
    decode: Callable[[int], str] | None = None,
    n_listed: int = 10,
    min_count: int = 5,
    n_resamples: int = 1000,
    seed: int = 0,
) -> TokenStatistics:
    """Count who skips what.

    Args:
        blocks: Text that was scored.
        execute_mask_LNT: True = the unit ran; all units, as in `skipmodel.evaluate.BlockScores`.
        classes: Axes beside `kind`.
        unit_work: Share of a layer that each unit is; equal when absent.
        n_layers: A skip rate is the work skipped over this; over the work of all units when absent.
        guarded_NT: Where a guard decided, not the router: first positions, critical tokens. Rates include them; the
            lists of tokens and the answer about adaptivity do not.
        decode: Gives the string of a token id.
        n_listed: Length of the lists of most and least skipped tokens.
        min_count: Tokens that occur less often are not listed.
        n_resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        DataError: Mask or classes do not fit the blocks, or there is no token the router could decide on.
    """
    if execute_mask_LNT.shape[1:] != blocks.ids_NT.shape:
        raise DataError(
            f"token statistics: expected an execute mask (L, N, T) with N, T = {tuple(blocks.ids_NT.shape)}, got "
            f"{tuple(execute_mask_LNT.shape)}; score the same blocks"
        )
    n_ids = int(blocks.ids_NT.max()) + 1
    for axis in classes:
        if len(axis.class_V) < n_ids:
            raise DataError(
                f"token statistics: expected classes {axis.axis!r} for at least {n_ids} token ids, got "
                f"{len(axis.class_V)}; class the whole vocabulary of the model"
            )
    real_NT = blocks.real_NT
    free_NT = real_NT if guarded_NT is None else real_NT & ~guarded_NT
    if not bool(free_NT.any()):
        raise DataError("token statistics: expected tokens that no guard decides, got none; add text or drop guards")
    work_L = torch.tensor([1.0] * len(execute_mask_LNT) if unit_work is None else unit_work).double()
    skipped_NT = torch.einsum("lnt,l->nt", (~execute_mask_LNT).double(), work_L) / (n_layers or float(work_L.sum()))
    documents = {name: number for number, name in enumerate(dict.fromkeys(blocks.document_ids))}
    document_N, n_documents = torch.tensor([documents[name] for name in blocks.document_ids]), len(documents)
    draws_RD = np.random.default_rng(seed).multinomial(n_documents, [1 / n_documents] * n_documents, n_resamples)
    weight_RD = draws_RD.astype(np.float64)
    axes: list[_Axis] = [("kind", blocks.kinds, blocks.kind_NT)]
    axes += [(axis.axis, axis.names, axis.class_V[blocks.ids_NT]) for axis in classes]
    sums = [_sums(axis, skipped_NT, real_NT, document_N) for axis in axes]
    free_sums = [_sums(axis, skipped_NT, free_NT, document_N) for axis in axes]
    rate_L = (~execute_mask_LNT[:, real_NT]).double().mean(1).tolist()
    by_unit = [{"unit": unit, "skip_rate": rate} for unit, rate in enumerate(rate_L)]
    by_token = _token_rates(blocks.ids_NT[free_NT], skipped_NT[free_NT], min_count, decode)
    most, least = (
        sorted(by_token, key=lambda row: (sign * row["skip_rate"], -row["n"]))[:n_listed] for sign in (-1, 1)
    )
    return TokenStatistics(
        float(skipped_NT[real_NT].mean()), int(real_NT.sum()), n_documents,
        [row for axis, of_axis in zip(axes, sums, strict=True) for row in _class_rates(axis, *of_axis, weight_RD)],
        by_unit, _by_position(skipped_NT, real_NT), most, least, _adaptivity(axes, free_sums, weight_RD),
    )  # fmt: skip


def _sums(axis: _Axis, skipped_NT: Tensor, counts_NT: Tensor, document_N: Tensor) -> tuple[Floats, Floats]:
    """Skipped work and number of tokens, per document and class of one axis, (D, C)."""
    (_, names, class_NT), n_documents = axis, int(document_N.max()) + 1
    cell_P = (document_N[:, None] * len(names) + class_NT)[counts_NT]
    skip, n = (
        torch.bincount(cell_P, weights, n_documents * len(names)).double().view(n_documents, -1).numpy()
        for weights in (skipped_NT[counts_NT], None)
    )
    return skip, n


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)


def _class_rates(axis: _Axis, skip_DC: Floats, n_DC: Floats, weight_RD: Floats) -> list[ClassRate]:
    rate_C = _ratio(skip_DC.sum(0), n_DC.sum(0))
    rate_RC = _ratio(weight_RD @ skip_DC, weight_RD @ n_DC)
    rows = []
    for number, name in enumerate(axis[1]):
        n_documents = int((n_DC[:, number] > 0).sum())
        if n_documents:
            low, high = np.nanquantile(rate_RC[:, number], [0.025, 0.975]).tolist() if n_documents > 1 else (None, None)
            n_tokens = int(n_DC[:, number].sum())
            rows.append(ClassRate(axis[0], name, float(rate_C[number]), low, high, n_tokens, n_documents))
    return rows


def _adaptivity(axes: Sequence[_Axis], sums: Sequence[tuple[Floats, Floats]], weight_RD: Floats) -> Adaptivity:
    if weight_RD.shape[1] < LEAST_DOCUMENTS:
        return Adaptivity(None, "too_few_documents")
    labels, observed, resampled = [], [], []
    for (axis, names, _), (skip_DC, n_DC) in zip(axes, sums, strict=True):
        rest_skip_DC, rest_n_DC = skip_DC.sum(1, keepdims=True) - skip_DC, n_DC.sum(1, keepdims=True) - n_DC
        for number, name in enumerate(names):
            if min((n_DC[:, number] > 0).sum(), (rest_n_DC[:, number] > 0).sum()) < 2:
                continue
            parts = np.stack([m[:, number] for m in (skip_DC, n_DC, rest_skip_DC, rest_n_DC)], 1)
            of_class, all_, rest, all_rest = np.vstack([parts.sum(0), weight_RD @ parts]).T
            difference = _ratio(of_class, all_) - _ratio(rest, all_rest)
            labels.append((axis, name))
            observed.append(difference[0])
            resampled.append(difference[1:])
    if not labels:
        return Adaptivity(None, "too_few_classes")
    observed_C, off_RC = np.array(observed), np.nan_to_num(np.stack(resampled, 1) - np.array(observed))
    error_C = np.maximum(off_RC.std(0), 1e-9)  # without any noise, rounding still makes no difference
    quantile = float(np.quantile(np.max(np.abs(off_RC) / error_C, 1), 0.95))
    most = int(np.argmax(np.abs(observed_C) / error_C))
    noise = max(quantile, 1.0) * float(error_C[most])
    return Adaptivity(bool(abs(observed_C[most]) > noise), None, *labels[most], float(observed_C[most]), noise)


def _by_position(skipped_NT: Tensor, real_NT: Tensor) -> list[dict[str, Any]]:
    """Bins that grow fourfold: 0, 1-3, 4-15, 16-63, ..."""
    rows, n_positions = [], real_NT.shape[1]
    for first, end in itertools.pairwise([0, *(4**power for power in range(n_positions.bit_length()))]):
        inside = real_NT[:, first:end]
        if bool(inside.any()):
            rate, last = float(skipped_NT[:, first:end][inside].mean()), min(end, n_positions) - 1
            rows.append({"first": first, "last": last, "skip_rate": rate, "n_tokens": int(inside.sum())})
    return rows


def _token_rates(
    ids_P: Tensor, skipped_P: Tensor, min_count: int, decode: Callable[[int], str] | None
) -> list[dict[str, Any]]:
    """Skip rate per token id."""
    count_V = torch.bincount(ids_P)
    rate_V = torch.bincount(ids_P, skipped_P) / count_V.clamp_min(1)
    return [
        {"token_id": token, "n": int(count_V[token]), "skip_rate": float(rate_V[token])}
        | ({} if decode is None else {"token": decode(token)})
        for token in (count_V >= max(min_count, 1)).nonzero()[:, 0].tolist()
    ]


def passage_map(
    blocks: Blocks,
    execute_mask_LNT: Tensor,
    block: int,
    *,
    classes: Sequence[TokenClasses] = (),
    decode: Callable[[int], str] | None = None,
) -> dict[str, Any]:
    """Return which token of one block ran which unit, as plain data.

    `execute` has 0 or 1 per unit and token, `classes` a name per axis and token. Strings come with `decode` only; ids
    never, since they are the text.
    """
    n, ids_T = int(blocks.n_real_N[block]), blocks.ids_NT[block]
    named = {"kind": [blocks.kinds[index] for index in blocks.kind_NT[block, :n].tolist()]}
    named |= {axis.axis: [axis.names[index] for index in axis.class_V[ids_T[:n]].tolist()] for axis in classes}
    passage = {"block": block, "execute": execute_mask_LNT[:, block, :n].int().tolist(), "classes": named}
    return passage if decode is None else passage | {"tokens": [decode(token) for token in ids_T[:n].tolist()]}


def average_ranks(values_P: Tensor) -> Tensor:
    """Return ranks 1..P as float64; equal values share the mean of their ranks."""
    _, place_P, count_U = torch.unique(values_P, return_inverse=True, return_counts=True)
    return (count_U.cumsum(0) - (count_U - 1) / 2).double()[place_P]


def spearman(first_P: Tensor, second_P: Tensor) -> float | None:
    """Return the rank correlation of two samples, in [-1, 1].

    **Formula**: Pearson correlation of the ranks, ties averaged. **Undefined when** a sample is constant: None.
    """
    ranks_2P = torch.stack([average_ranks(first_P), average_ranks(second_P)])
    centred_2P = ranks_2P - (ranks_2P.shape[1] + 1) / 2
    scale = float(centred_2P.norm(dim=1).prod())
    return None if scale == 0.0 else max(-1.0, min(1.0, float(centred_2P.prod(0).sum()) / scale))


def auroc(score_P: Tensor, is_positive_P: Tensor) -> float | None:
    """Return the chance that a positive scores above a negative, ties counted half; in [0, 1].

    **Formula**: (sum of the positives' ranks - n (n + 1) / 2) / (n m), n positives, m negatives.
    **Undefined when** one of the two is missing: None.
    """
    n, m = int(is_positive_P.sum()), int((~is_positive_P).sum())
    if n == 0 or m == 0:
        return None
    return (float(average_ranks(score_P)[is_positive_P].sum()) - n * (n + 1) / 2) / (n * m)


def router_agreement(router_logit_LNT: Tensor, damage_LNT: Tensor, share: float = 0.1) -> dict[str, Any]:
    """Compare what the router thinks of executing with what a skip costs; both should be high together.

    Args:
        router_logit_LNT: Router logits of the routed units, less their threshold offsets.
        damage_LNT: Skip damage of the same units, as from `skipmodel.importance`; NaN does not count.
        share: Share of the most damaging pairs of token and unit that AUROC takes as those that must run.

    Returns:
        `spearman`, `auroc` and number of pairs `n`, over all pairs and for each unit in `units`; None if undefined.
    """

    def compare(logit: Tensor, damage: Tensor) -> dict[str, Any]:
        counts = damage.isfinite()
        logit_P, damage_P = logit[counts], damage[counts]
        must_run_P = average_ranks(damage_P) > (1.0 - share) * len(damage_P)
        return {"spearman": spearman(logit_P, damage_P), "auroc": auroc(logit_P, must_run_P), "n": len(damage_P)}

    per_unit = [compare(logit, damage) for logit, damage in zip(router_logit_LNT, damage_LNT, strict=True)]
    return compare(router_logit_LNT, damage_LNT) | {"units": per_unit}
