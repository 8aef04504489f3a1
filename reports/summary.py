"""The first screen as Markdown, for a ticket, a chat or an e-mail."""

import re
from typing import Any

from reports.messages import Catalog
from reports.result import validate
from reports.view import ReportView, build_view
from reports.view_conclusion import Tile

_MARKUP = re.compile(r"([\\`*_\[\]<>#|~])")


def render_summary(result: dict[str, Any], language: str) -> str:
    """Verdict, reason, evidence, five figures and next actions of a result as Markdown.

    Text from outside cannot add markup: every character that Markdown reads is escaped.

    Raises:
        ReportError: the result does not follow the contract, or the language is unknown.
    """
    validate(result)
    catalog = Catalog(language)
    return "\n".join(_lines(build_view(result, catalog), catalog)) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is; line breaks become spaces."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _lines(view: ReportView, catalog: Catalog) -> list[str]:
    t, c = catalog.text, view.conclusion
    word = t("verdict.qualified", word=c.word, qualifier=c.qualifier) if c.qualifier else c.word
    lines = [f"# {escaped(c.title.text)}", "", f"**{t('conclusion.verdict')}: {c.icon} {escaped(word)}**", ""]
    lines += [escaped(c.reason), "", f"{escaped(t('conclusion.evidence'))} {escaped(c.evidence.word)}", ""]
    if c.banner:
        lines += [f"> **{escaped(c.banner.title)}** {escaped(c.banner.text)}", ""]
    columns = ("kpi", "measured", "interval", "limit", "state")
    lines += ["| " + " | ".join(escaped(t(f"column.{name}")) for name in columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_row(tile)) + " |" for tile in c.tiles]
    lines += ["", f"## {escaped(t('conclusion.next_actions'))}", ""]
    actions = [f"{number}. {escaped(action)}" for number, action in enumerate(c.actions, 1)]
    lines += [*(actions or [escaped(t("conclusion.no_actions"))]), "", escaped(c.who_and_when), ""]
    return [*lines, f"{escaped(view.marker)} / {escaped(view.footer)}"]


def _row(tile: Tile) -> tuple[str, ...]:
    interval = "—" if tile.interval is None else tile.interval.text
    value = tile.value.text if tile.extra is None else f"{tile.value.text} ({tile.extra.text})"
    cells = (f"{tile.gate_id.text} {tile.title}", value, interval, tile.limit.text)
    return (*map(escaped, cells), f"{tile.state.icon} {escaped(tile.state.word)}")
