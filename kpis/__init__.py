"""KPI formulas, statistics, cost and the decision rule: pure arithmetic on records."""
