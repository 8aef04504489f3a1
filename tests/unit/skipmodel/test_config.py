from typing import Any

import pytest

from skipmodel.config import ModelConfig, SkipTuneConfig, SweepConfig, from_json, to_json
from skipmodel.errors import ConfigError


def test_json_round_trip() -> None:
    """Settings survive JSON unchanged, tuples included."""
    config = ModelConfig(sweep=SweepConfig(target_skip_rates=(0.1, 0.3)), seed=7)

    assert from_json(to_json(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"skip": {"path_rnak": 3}}, "model.skip has no setting path_rnak"),
        ({"skip": {"path": "mlp"}}, "model.skip.path must be one of linear, identity"),
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
