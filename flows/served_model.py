"""The checkpoint as MLflow serves it. Copied into the model beside `skipmodel`, so that it loads without this product.

Input: a table with a column `prompt`. Output: one text per row. Parameters: max_new_tokens, threshold.
Imports nothing of mlflow and nothing of flows.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import Any

SERVING = "serving.json"
"""Beside the checkpoint: the threshold that was confirmed, or 0 - dense - where none was."""


class Served:
    """Continues prompts greedily, with the guards of the checkpoint, at the confirmed threshold."""

    def __init__(self, folder: Path) -> None:
        from skipmodel import __main__ as command

        self.folder = folder
        self.threshold = float(json.loads((folder / SERVING).read_text("utf-8"))["threshold"])
        self._command = command
        command._load = functools.cache(command._load)  # the weights are read once, not for every request

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[str]:
        """Return one continuation per prompt.

        Args:
            model_input: Table with a column `prompt`, or a list of prompts.
            params: max_new_tokens (default 64), threshold (default the confirmed one; a negative one means that too).
        """
        options = params or {}
        threshold = float(options.get("threshold", -1.0))
        arguments = {
            "model": self.folder, "threshold": self.threshold if threshold < 0 else threshold, "level": None,
            "tokens": int(options.get("max_new_tokens", 64)), "guards": None, "no_guards": False,
        }  # fmt: skip
        prompts = model_input["prompt"] if hasattr(model_input, "columns") else model_input
        return [
            str(self._command.generate(argparse.Namespace(**arguments, prompt=str(prompt)))["text"])
            for prompt in prompts
        ]


def _load_pyfunc(path: str) -> Served:
    """Load the model; the name is MLflow's."""
    return Served(Path(path))
