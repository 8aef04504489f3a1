"""Damage to finished and half-finished stages is found, set aside and made good."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from flows import intact
from flows.store import Store, read_json, write_json

CODE = ("flows/errors.py",)


def _compute(folder: Path) -> None:
    write_json(folder / "rows.json", {"value": 1})
    (folder / "deep").mkdir(exist_ok=True)
    (folder / "deep" / "weights.bin").write_bytes(bytes(range(256)))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path: Path) -> None:
    content = path.read_bytes()
    at = content.find(b'"value": 1') + 9 if path.name == "rows.json" else content.rfind(b"0")
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


@pytest.mark.parametrize("harm", [_cut, _flip, os.remove])
@pytest.mark.parametrize("name", ["rows.json", "deep/weights.bin", "stage.json"])
def test_a_damaged_stage_is_set_aside_and_computed_again(tmp_path, harm, name):
    """Whatever file is cut, changed or gone: the stage is not taken, the damage is told, the new one is whole."""
    told = []
    store = Store(tmp_path, on_damage=lambda stage, what: told.append((stage, what)))
    first = store.run("tune", {}, CODE, _compute)
    harm(first.path / name)

    assert store.find("tune", {}, CODE) is None
    again = store.run("tune", {}, CODE, _compute)

    assert not again.reused
    assert intact.damage(again.path) is None
    assert [stage for stage, _ in told] == ["tune"]
    assert Path(name).name in told[0][1]
    assert len(list((tmp_path / ".damaged").iterdir())) == 1


def test_the_order_of_a_stage_survives_its_repair(tmp_path):
    """A confirmation computed again from damage is still the same opening: number and time are kept."""
    store = Store(tmp_path)
    first = store.run("confirm", {"a": 1}, CODE, _compute)
    store.run("confirm", {"a": 2}, CODE, _compute)
    before = read_json(first.path / "stage.json")
    _flip(first.path / "rows.json")

    after = read_json(store.run("confirm", {"a": 1}, CODE, _compute).path / "stage.json")

    assert (after["sequence"], after["created_at"]) == (before["sequence"], before["created_at"]) != (2, "")


def test_a_large_file_is_hashed_again_only_when_it_was_touched(tmp_path, monkeypatch):
    """Weights cost seconds to hash; one that was neither resized nor touched is believed."""
    monkeypatch.setattr(intact, "ALWAYS_HASHED_BELOW_BYTES", 10)
    path = Store(tmp_path).run("tune", {}, CODE, _compute).path / "deep" / "weights.bin"
    stat = path.stat()
    hashed = []
    monkeypatch.setattr(intact, "sha256_file", lambda file: hashed.append(file) or "")

    assert intact.damage(path.parents[1]) is None
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert "weights.bin" in str(intact.damage(path.parents[1]))
    assert hashed == [path]


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.0, 1.0, exclude_max=True))
def test_cut_weights_are_never_taken_for_whole(tmp_path_factory, share):
    """Cut anywhere, a safetensors file of an interrupted stage is removed; a whole one stays."""
    folder = tmp_path_factory.mktemp("partial")
    save_file({"a": torch.arange(12.0), "b": torch.ones(3, 3)}, folder / "whole.safetensors", {"notes": "x"})
    content = (folder / "whole.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(content[: int(share * len(content))])
    (folder / "half.json").write_text(json.dumps({"a": [1, 2]})[:-1], "ascii")

    assert intact.mend(folder) == ["cut.safetensors", "half.json"]
    assert (folder / "whole.safetensors").read_bytes() == content


def test_memory_and_order_of_a_stage_are_recorded(tmp_path):
    """The record holds the peak of memory, MLflow's curves of the machine, and a number that only rises."""
    store = Store(tmp_path)
    records = [read_json(store.run("tune", {"i": i}, CODE, _compute).path / "stage.json") for i in range(3)]

    assert [record["sequence"] for record in records] == [1, 2, 3]
    assert all(record["peak_memory_mib"] > 1 for record in records)
    assert len(records[0]["system"]["at_s"]) == len(records[0]["system"]["system/cpu_utilization_percentage"]) >= 1
