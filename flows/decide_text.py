"""What `skip-poc decide` prints: verdict, deviations, what differs and why, and what a controller asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flows.decide import Decision
from flows.errors import PocError
from flows.store import write_json
from kpis.rivals import better_choice
from reports.messages import Catalog

N_SHOWN = 20
"""Other differences printed one by one; all of them are in decision.json."""


def text(decision: Decision) -> str:
    """Return the lines to print."""
    catalog = Catalog("en")
    old, new = decision.stored["verdict"], decision.result["verdict"]
    lines = [f"run {decision.run_id}, computed again from its records in {decision.seconds:.1f} s"]
    if old == new:
        lines.append(f"verdict: {_verdict(new)}, as stored")
    else:
        lines += [f"verdict: {_verdict(new)}", f"  stored: {_verdict(old)}"]
    lines += [f"  {catalog.family('reason', code)}" for code in new["reasons"]]
    lines += _deviations(decision) + _differences(decision, catalog) + _choice(decision, catalog)
    return "\n".join(lines + _money(decision))


def write(decision: Decision, folder: Path) -> list[Path]:
    """Write decision.json, and the recomputed result.json for `skip-poc report`, into a folder of its own.

    Raises:
        PocError: The folder holds a run: its stored result must stand.
    """
    if (folder / "run.json").exists():
        raise PocError("the folder of a run is not written over", where=str(folder),
                       todo="give --out another folder")  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "decision.json", folder / "result.json"]
    write_json(paths[0], decision.to_json())
    write_json(paths[1], decision.result)
    return paths


def _verdict(verdict: dict[str, Any]) -> str:
    return f"{verdict['code']} ({', '.join(verdict['reasons'])})"


def _deviations(decision: Decision) -> list[str]:
    if not decision.deviations:
        return ["deviations from the registered plan: none"]
    return ["deviations from the registered plan:", *(f"  {deviation}" for deviation in decision.deviations)]


def _differences(decision: Decision, catalog: Catalog) -> list[str]:
    """Gates first, by id; then the rest by address."""
    why = [f"  because: {catalog.family('reason', code)} [{code}]" for code in decision.causes]
    if not decision.differences:
        return ["figures: all as stored", *why]
    gates = []
    for index, gate in enumerate(decision.result["gates"]):
        inside = f"/gates/{index}/"
        changed = [d for d in decision.differences if d.path.startswith(inside)]
        parts = [f"{d.path.removeprefix(inside)} {_shown(d.stored)} -> {_shown(d.recomputed)}" for d in changed]
        if parts:
            gates.append(f"  {gate['id']}: {', '.join(parts)}")
    others = [d for d in decision.differences if not d.path.startswith(("/gates", "/verdict"))]
    lines = [f"figures: {len(decision.differences)} differ from the stored result", *gates]
    lines += [f"  {d.path}: {_shown(d.stored)} -> {_shown(d.recomputed)}" for d in others[:N_SHOWN]]
    if len(others) > N_SHOWN:
        lines.append(f"  and {len(others) - N_SHOWN} more; --out keeps them all")
    return lines + why


def _choice(decision: Decision, catalog: Catalog) -> list[str]:
    lines = []
    if decision.choice_conflict:
        lines.append(
            "setting: these limits would choose another threshold, which was never confirmed; the confirmed one is "
            "judged. A new run would open the test split again"
        )
    choice = better_choice(decision.result["verdict"]["code"], decision.rivals)
    lines.append(f"better choice: {choice or 'open, the evidence is not enough'}")
    for row in decision.rivals:
        name = catalog.family("control", row["name"])
        lines.append(f"  {name}: {row['state']}; {catalog.family('reason', row['reason'])}")
    return lines


def _money(decision: Decision) -> list[str]:
    """Costs with currency, tax and the date of the exchange rate, always."""
    money = decision.economics
    currency, price = money["currency"], money["price"]
    rate = f"{currency['fx_jpy_per_usd']:g} yen per dollar of {currency['fx_date']}"
    rate += ", a placeholder" if currency["fx_is_placeholder"] else ""
    dated = f"{'of' if price['is_dated'] else 'read on'} {price['as_of']}, {price['stale']}"
    lines = [f"monthly cost in yen, without / with {currency['tax_rate']:.0%} tax (price {dated}; {rate}):"]
    for side, amount in money["monthly_jpy"].items():
        lines.append(f"  {side}: {amount['untaxed']:,.0f} / {amount['taxed']:,.0f}")
    even = money["break_even"]["skip"]
    beyond = "" if even["is_reachable"] else ", more than its machines can serve"
    lines.append(f"  cheaper than the API above {even['requests_per_month']:,.0f} requests a month{beyond}")
    roi = money["roi"]
    if roi["p50"] is not None:
        lines.append(f"  return over the horizon: {roi['p50']:+.0%} (P10 {roi['p10']:+.0%}, P90 {roi['p90']:+.0%})")
    hours = money["tuning"]
    lines.append(f"  machine hours of this PoC: {hours['measured_machine_hours']:.2f} ({hours['jpy']:,.0f} yen)")
    return lines


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
