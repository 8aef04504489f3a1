"""Options of `python -m skipmodel lossless`. Loads without torch."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the measurement can be told."""
    parser.add_argument("--model", type=Path, required=True, help="folder of a SkipLayer checkpoint")
    parser.add_argument("--documents", type=Path, help="documents.jsonl; prompts are of its validation split")
    parser.add_argument("--threshold", type=float, default=0.5, help="of the draft")
    parser.add_argument("--drafts", type=_whole, default=(1, 2, 4), help="numbers of drafted tokens")
    parser.add_argument("--prompts", type=int, default=6, help="answers per number")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=48, help="length of every answer")
    parser.add_argument("--batching", choices=("lanes", "rows"), default="lanes", help="how a pass verifies")


def _whole(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers separated by commas, got {text!r}") from None
