from typing import Any

import pytest

from skipmodel.config import ModelConfig, SkipConfig, SkipTuneConfig, SweepConfig
from skipmodel.config_json import from_json, to_json
from skipmodel.errors import ConfigError


def test_json_round_trip() -> None:
    """Settings survive JSON unchanged, tuples included."""
    skip = SkipConfig(unit="sublayers", router="bottleneck", path="adapter", kv="drop", class_margins={"number": 0.5})
    config = ModelConfig(skip=skip, sweep=SweepConfig(target_skip_rates=(0.1, 0.3)), seed=7)

    assert from_json(to_json(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"skip": {"path_rnak": 3}}, "model.skip has no setting path_rnak"),
        ({"skip": {"path": "mlp"}}, "model.skip.path must be one of linear, identity, adapter"),
        ({"skip": {"unit": "head"}}, "model.skip.unit must be one of layer, attention, ffn, sublayers"),
        ({"skip": {"router": "mlp"}}, "model.skip.router must be one of calibrated, bottleneck, linear"),
        (
            {"skip": {"kv": "drop", "unit": "ffn"}},
            "model.skip.kv must be project with model.skip.unit: ffn.*got 'drop'",
        ),
        ({"skip": {"router_width": 0}}, "model.skip.router_width must be at least 2"),
        ({"skip": {"class_margins": {"number": "high"}}}, "model.skip.class_margins"),
        ({"skip_tune": {"accumulate": 3}}, "model.skip_tune.accumulate must be a divisor of batch_blocks 4, got 3"),
        ({"skip_tune": {"lora_rank": -1}}, "model.skip_tune.lora_rank must be 0 or more"),
        ({"skip_tune": {"density": "local"}}, "model.skip_tune.density must be one of global, per_layer"),
        ({"skip_tune": {"loss_positions": 0.0}}, r"model.skip_tune.loss_positions must be within \(0, 1\]"),
        ({"skip_tune": {"router_share": 1.1}}, r"model.skip_tune.router_share must be within \[0, 1\]"),
        ({"skip_tune": {"checkpoint_steps": 0}}, "model.skip_tune.checkpoint_steps must be at least 1"),
        ({"dense_tune": {"checkpoint_steps": 0}}, "model.dense_tune.checkpoint_steps must be at least 1"),
        ({"block_tokens": "256"}, "model.block_tokens must be of type int"),
        ({"block_tokens": True}, "model.block_tokens must be of type int"),
        ({"sweep": {"target_skip_rates": 0.2}}, "model.sweep.target_skip_rates must be a list"),
        ({"sweep": {"target_skip_rates": [0.2, 0.1]}}, "rising"),
        ({"skip_tune": {"target_skip_rate": 1.0}}, r"within \(0, 1\)"),
        ({"dense_tune": []}, "model.dense_tune must be an object"),
    ],
)
def test_wrong_values_are_refused_with_their_path(values: dict[str, Any], message: str) -> None:
    """A typo, a wrong type or a value out of range names the setting and what is allowed."""
    with pytest.raises(ConfigError, match=message):
        from_json(values)


def test_whole_numbers_serve_as_floats() -> None:
    """YAML's `1` is a valid value of a float setting."""
    assert from_json({"skip_tune": {"temperature": 1}}).skip_tune == SkipTuneConfig(temperature=1.0)
