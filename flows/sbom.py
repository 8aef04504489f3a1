"""`make sbom`: what is installed, as a CycloneDX 1.5 document: name, version, licence, package URL, who needs whom.

Read from the packages' own metadata, so it lists what really runs here. The same environment gives the same bytes.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = "skiplayer-poc"


def document() -> dict[str, Any]:
    """Return the bill of materials of this Python environment."""
    found = {_norm(d.metadata["Name"]): d for d in importlib.metadata.distributions() if d.metadata["Name"]}
    parts = {name: _component(name, distribution) for name, distribution in sorted(found.items())}
    own = parts.pop(ROOT, {"type": "application", "name": ROOT, "bom-ref": ROOT})
    own = {**own, "type": "application", "bom-ref": ROOT}
    needs = []
    for name in sorted(found):
        needed = sorted(_ref(need, parts) for need in _needs(found[name]) if need in parts)
        needs.append({"ref": _ref(name, parts), "dependsOn": needed})
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": own},
        "components": list(parts.values()),
        "dependencies": needs,
    }


def _component(name: str, distribution: importlib.metadata.Distribution) -> dict[str, Any]:
    version, purl = distribution.version, f"pkg:pypi/{name}@{distribution.version.replace('+', '%2B')}"
    component: dict[str, Any] = {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}
    licence = _licence(distribution)
    if licence:
        component["licenses"] = [{"license": {"name": licence}}]
    return component


def _licence(distribution: importlib.metadata.Distribution) -> str:
    fields = distribution.metadata

    def first(name: str) -> str:
        return str((fields.get_all(name) or [""])[0])

    named = first("License-Expression")
    classified = [line.rpartition("::")[2].strip() for line in fields.get_all("Classifier") or ()
                  if line.startswith("License ::")]  # fmt: skip
    old = first("License").strip().splitlines()
    return str(named or ", ".join(classified) or (old[0][:80] if old else ""))


def _needs(distribution: importlib.metadata.Distribution) -> set[str]:
    names = (re.match(r"[A-Za-z0-9._-]+", line) for line in distribution.requires or ())
    return {_norm(name[0]) for name in names if name}


def _ref(name: str, parts: dict[str, Any]) -> str:
    return str(parts[name]["bom-ref"]) if name in parts else ROOT


def _norm(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(document(), ensure_ascii=False, indent=1) + "\n", "utf-8")
