import pytest

from kpis.energy import GRID_FACTORS, EnergyPairs, energy, joule_per_token, kg_co2e, monthly_kwh
from kpis.errors import RecordError, StatisticsError


def test_energy_by_hand() -> None:
    """Two runs of 100 tokens at 300 J and 200 J: 3 and 2 J per token; a million tokens of 3.6 J are one kWh."""
    pairs = EnergyPairs((290.0, 310.0), (200.0, 200.0), 100, "meter of a test")
    shown = energy(pairs, 1.8e6, pue=2.0)

    assert shown["joule_per_token"] == {"dense": pytest.approx(3.0), "skip": pytest.approx(2.0)}
    assert shown["kwh_per_month"] == {"dense": pytest.approx(3.0), "skip": pytest.approx(2.0)}
    assert shown["kg_co2e_per_month"]["dense"] == pytest.approx(3.0 * 0.4854)
    assert (shown["reason"], shown["factor_year"], shown["meter"]) == (None, 2023, "meter of a test")
    assert monthly_kwh(3.6, 1e6) == pytest.approx(1.0)
    assert kg_co2e(100.0, 0.45) == pytest.approx(45.0)


def test_nothing_metered_is_none_with_a_reason() -> None:
    """Without a meter no figure is made up, but the factor and its source are told."""
    shown = energy(None, 1e6)

    assert shown["reason"] == "energy_not_measured"
    assert shown["joule_per_token"] == {"dense": None, "skip": None}
    assert shown["factor_source"] == GRID_FACTORS["japan"].source


def test_impossible_readings_are_refused() -> None:
    """A zero reading, unpaired readings, no tokens and a site that uses less than its machines are errors."""
    with pytest.raises(RecordError, match="has not counted"):
        EnergyPairs((1.0,), (0.0,), 10, "m")
    with pytest.raises(RecordError, match="measure both models in turn"):
        EnergyPairs((1.0, 2.0), (1.0,), 10, "m")
    with pytest.raises(StatisticsError, match="no reading"):
        joule_per_token(0.0, 10)
    with pytest.raises(StatisticsError, match="PUE"):
        monthly_kwh(1.0, 1.0, 0.9)
    with pytest.raises(StatisticsError, match="0 or more"):
        kg_co2e(-1.0)
