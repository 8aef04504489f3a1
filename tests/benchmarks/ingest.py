"""`make bench-ingest`: speed and memory of the ingest on 10, 100 and 1,000 MB of mixed text that it makes itself.

    make bench-ingest                                all three sizes
    make bench-ingest ARGS="--sizes 10"              some sizes only. [MB]

Plain text and HTML, Japanese and English, with near-duplicates, footers and made-up personal data; nothing is taken
from an earlier run. A JSON file goes to `tests/benchmarks/history/`, and the same document, in one line, to the end of
stdout: per size the speed of each process, the speed per second of processor time, which other work on the machine
lengthens less, and the largest memory of all processes together, memory that they share counted twice.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.__main__ import HISTORY, ROOT, cpu_name, is_dirty

MB = 10**6
SIZES = (10, 100, 1000)
DOCUMENT_BYTES = (5_000, 80_000)
NEAR_COPIES = 0.05
"""Share of the documents that repeat another one with a few changes."""
SAMPLING_S = 0.2
KANJI = "設定接続証明書部品番号温度圧力検査手順確認記録保守点検工程品質管理装置電源回路信号制御設計図面製造出荷在庫"
KANA = "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん"


def _vocabulary(draw: random.Random) -> tuple[list[str], list[str]]:
    english = ["".join(draw.choices("etaoinshrdlucmfwypvbgk", k=draw.randint(2, 10))) for _ in range(8000)]
    japanese = [
        "".join(draw.choices(KANJI, k=draw.randint(1, 4))) + "".join(draw.choices(KANA, k=draw.randint(1, 3)))
        for _ in range(8000)
    ]
    return english, japanese


def _sentences(draw: random.Random, words: list[str], japanese: bool, n_bytes: int) -> list[str]:
    sentences: list[str] = []
    size = 0
    while size < n_bytes:
        chosen = draw.choices(words, k=draw.randint(6, 24))
        if draw.random() < 0.05:
            chosen.append(draw.choice(("03-1234-5678", "taro@example.com", "12.5 mm", "E1234", "2026-04-01", "不可")))
        sentence = "".join(chosen) + "。" if japanese else " ".join(chosen).capitalize() + "."
        sentences.append(sentence)
        size += len(sentence.encode())
    return sentences


def _as_html(sentences: list[str]) -> str:
    body = "\n".join(f"<p class='text'>{sentence}</p>" for sentence in sentences)
    menu = "<nav><ul><li><a href='/'>Home</a></li><li><a href='/help'>Help</a></li></ul></nav>"
    return f"<!doctype html><html><head><title>{sentences[0][:40]}</title></head><body>{menu}{body}</body></html>"


def documents() -> Iterator[tuple[str, str]]:
    """Yield names and texts without end, always the same ones."""
    draw = random.Random(0)
    english, japanese = _vocabulary(draw)
    last: list[str] = []
    number = 0
    while True:
        is_japanese = draw.random() < 0.5
        if last and draw.random() < NEAR_COPIES:
            sentences = [sentence for sentence in last if draw.random() > 0.02] or last
        else:
            words = japanese if is_japanese else english
            sentences = _sentences(draw, words, is_japanese, draw.randint(*DOCUMENT_BYTES))
        last = sentences
        is_html = draw.random() < 0.5
        name = f"{number // 1000:04d}/{number:07d}.{'html' if is_html else 'txt'}"
        lines = [" ".join(sentences[start : start + 4]) for start in range(0, len(sentences), 4)]
        yield name, _as_html(sentences) if is_html else "\n".join([*lines, "Confidential - internal use only"]) + "\n"
        number += 1


def grow(folder: Path, source: Iterator[tuple[str, str]], have: int, want: int) -> int:
    """Write documents until the folder holds `want` bytes, and return how many it holds."""
    while have < want:
        name, text = next(source)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        have += path.write_bytes(text.encode())
    return have


def _tree(process: psutil.Process) -> tuple[float, float]:
    """Return resident memory in bytes and processor time in seconds of a process and all below it."""
    memory = seconds = 0.0
    for member in (process, *process.children(recursive=True)):
        try:
            memory += member.memory_info().rss
            times = member.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
        except psutil.Error:  # it ended in between
            continue
    return memory, seconds


def measure(corpus: Path, n_bytes: int, n_workers: int) -> dict[str, Any]:
    """Ingest a folder in a process of its own and return what it took.

    Raises:
        SystemExit: The ingest failed; its own message stands above.
    """
    with tempfile.TemporaryDirectory(prefix="skip-poc-bench-") as out:
        command = [sys.executable, "-m", "tests.benchmarks.ingest", "--one", str(corpus), out, str(n_workers)]
        started = time.perf_counter()
        process = psutil.Popen(command, cwd=ROOT, stdout=sys.stderr)
        peak = cpu_s = 0.0
        while process.poll() is None:
            memory, seconds = _tree(process)
            peak, cpu_s = max(peak, memory), max(cpu_s, seconds)
            time.sleep(SAMPLING_S)
        wall_s = time.perf_counter() - started
        if process.returncode != 0:
            raise SystemExit(process.returncode)
        totals = json.loads((Path(out) / "manifest.json").read_text("utf-8"))["totals"]
    return {
        "mb": round(n_bytes / MB, 1),
        "n_documents": sum(totals["n_documents"].values()),
        "wall_s": round(wall_s, 2),
        "mb_per_s_per_core": round(n_bytes / MB / wall_s / n_workers, 3),
        "mb_per_cpu_s": round(n_bytes / MB / cpu_s, 3),
        "peak_mb": round(peak / MB),
    }


def _ingest(corpus: str, out: str, n_workers: str) -> int:
    from flows.ingest import ingest

    ingest(
        Path(corpus), None, Path(out), validation_share=0.15, test_share=0.15, seed=0, min_characters=200,
        n_workers=int(n_workers),
    )  # fmt: skip
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all sizes and print one JSON object."""
    from flows.runtime import usable_cores

    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ingest", description="Time the ingest.")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="sizes of the corpus in MB, rising")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes; default: the cores")
    parser.add_argument("--one", nargs=3, metavar=("CORPUS", "OUT", "WORKERS"), help=argparse.SUPPRESS)
    parser.add_argument("--history", type=Path, default=HISTORY, help="folder of the JSON file")
    arguments = parser.parse_args(argv)
    if arguments.one is not None:
        return _ingest(*arguments.one)
    rows = {}
    load_before = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory(prefix="skip-poc-bench-") as folder:
        source, have = documents(), 0
        for size in sorted(arguments.sizes):
            have = grow(Path(folder), source, have, size * MB)
            rows[str(size)] = measure(Path(folder), have, arguments.workers)
            sys.stderr.write(f"{size} MB: {rows[str(size)]}\n")
    document = {
        "schema_version": 1,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "is_dirty": is_dirty(),
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "load_average_1min": load_before},
        "n_workers": arguments.workers,
        "mb_per_s_per_core": {size: row["mb_per_s_per_core"] for size, row in rows.items()},
        "mb_per_cpu_s": {size: row["mb_per_cpu_s"] for size, row in rows.items()},
        "peak_mb": {size: row["peak_mb"] for size, row in rows.items()},
        "sizes": rows,
    }
    arguments.history.mkdir(parents=True, exist_ok=True)
    path = arguments.history / f"ingest_{document['date']}_{(document['commit'] or 'nocommit')[:10]}_cpu.json"
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    sys.stderr.write(f"history: {path}\n")
    sys.stdout.write(json.dumps(document) + "\n")
    return 0


def _commit() -> str | None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    raise SystemExit(main())
