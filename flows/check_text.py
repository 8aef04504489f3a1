"""What `skip-poc check` tells a person: what a run would read, and what it would take."""

from __future__ import annotations

from collections import Counter

from flows.check import Findings, Read
from flows.settings import Settings


def describe(found: Findings, settings: Settings) -> list[str]:
    """Return the lines that tell a person what a run would read, and what it would take."""
    lines = []
    if found.read is not None:
        lines += _describe_corpus(found.read)
    lines.append(f"glossary: {len(found.terms)} terms, questions: {len(found.questions)}")
    lines.append(
        f"test questions: {found.n_items} of {found.needed_items} that the margin {settings.gates.quality_margin:g} "
        f"takes (error {settings.gates.alpha:g}, power {settings.gates.power:g}, "
        f"{settings.gates.planning_flip_rate:.0%} of the answers flip)"
    )
    lines.append(f"base model: {settings.model.base.source}, profile: {settings.profile}")
    lines.append(_describe_effort(found))
    return lines


def _describe_corpus(read: Read) -> list[str]:
    corpus = read.corpus
    lines = [f"corpus: {len(corpus.rows)} documents, {len(corpus.rejected)} files left out"]
    if read.share < 1:
        lines[0] += f" (of a sample: {read.share:.0%} of the files of {read.n_bytes / 1e6:.0f} MB)"
    size, kinds, private = Counter[str](), Counter[str](), Counter[str]()
    for row in corpus.rows:
        size[row.language] += row.n_characters
        kinds[row.media_type] += 1
        private.update(row.private)
    total = max(size.total(), 1)
    languages = ", ".join(f"{name} {n / total:.0%}" for name, n in sorted(size.items()))
    lines.append(f"  {size.total()} characters, {languages or 'none'}; {_counted(kinds)}")
    lines.append(f"  masked: {_counted(private)}")
    for reason, n in Counter(entry.reason for entry in corpus.rejected).most_common():
        first = next(entry for entry in corpus.rejected if entry.reason == reason)
        lines.append(f"  left out, {reason}: {n}, such as {first.source!a} ({first.detail})")
    return lines


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.most_common()) or "none"


def _describe_effort(found: Findings) -> str:
    hours, disk = found.effort.hours, found.effort.disk_gb
    if hours is None or disk is None:
        return "time and disk: not known, the base model is not on this machine"
    reading = 0.0 if found.read is None else found.read.ingest_s / 3600
    minutes = (hours + reading) * 60
    took = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"
    return (
        f"time: about {took}; disk: about {disk:.1f} GB, {found.free_gb:.0f} GB are free (a factor of two either way)"
    )
