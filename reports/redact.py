"""Taking in-house words out of a result before its report leaves the company."""

import copy
from typing import Any

WITHHELD = "—"
TEXT_KEYS = frozenset({"tokens", "answer_samples"})
"""Keys whose value is text of documents, wherever they stand; their place takes null."""


def redact(result: dict[str, Any]) -> dict[str, Any]:
    """A copy without text of documents, names of slices and the address of the tracking server.

    Numbers, verdict, hashes and the title of the PoC stay: without them the report would say nothing.

    Args:
        result: parsed result.json; not changed.
    """
    shown = copy.deepcopy(result)
    _withhold_text(shown)
    names: dict[str, str] = {}
    for part in ("confirmation", "detail"):
        for row in (shown.get(part) or {}).get("slices") or ():
            # The same slice keeps one name in both tables.
            row["name"] = names.setdefault(row["name"], f"{len(names) + 1}")
    shown["run"]["mlflow"]["tracking_uri"] = WITHHELD
    return shown


def _withhold_text(node: Any) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in TEXT_KEYS and isinstance(value, list):
                node[key] = None
            else:
                _withhold_text(value)
    elif isinstance(node, list):
        for value in node:
            _withhold_text(value)
