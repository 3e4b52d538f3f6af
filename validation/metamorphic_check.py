"""Rules that hold for every design point: twice the time, twice the same, nothing lost.

Time: with all durations doubled and all rates halved, every time doubles, every rate halves and
every count stays. "Doubles" to a ten-thousandth of it or a thousand roundings: ends of transfers
are whole picoseconds. Same: a second run gives the same record, byte for byte. Order: ports and
switches of the PCIe tree in another order change no metric, and drives whose switches change places
none but the switches'. Unused: a CSD that the system does not use changes nothing but what it
costs. Nothing lost: bytes that enter links leave them, and flash pages of CSDs are all accounted
for (metamorphic_rules.py). Every second point has its CSDs below a tree of switches.

Usage: metamorphic_check.py [POINTS [SEED]]
The shipped points, and random ones until POINTS of them ran: some three a second and core.
Needs NEARKV_BINARY and NEARKV_HOME.
"""

import concurrent.futures
import functools
import json
import os
import random
import re
import sys
import tempfile
from pathlib import Path

from metamorphic_rules import (below_switches, changes, link_imbalances, page_imbalances,
                               with_an_unused_drive, with_ports_in_another_order,
                               with_switches_renamed)
from random_points import RandomPoints
from random_points_check import CONFIGS, run_point, shipped_points

QUANTITY = re.compile(r"^([0-9.]+(?:e-?[0-9]+)?)([A-Za-z/]+)$")
TIMES = {"ps", "ns", "us", "ms", "s", "min", "h"}
DATA_RATES = {"B/s": 1, "KB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9, "TB/s": 1e12}
RATES_WITHOUT_UNIT = ("mega_transfers", "argtopk_rate")
PLAIN = ("name", "citation", "source", "comment", "kind")
# How a metric goes with time; those that are not here (energy, price) have parts that do not.
EXPONENTS = {"s": 1, "token/s": -1, "request/s": -1, "B/s": -1, "1/s": -1, "B": 0, "1": 0,
             "token": 0, "request": 0, "page": 0}
RELATIVE = 1e-4  # an engine of a drive rounds each of many nanoseconds
ROUNDINGS = 1e-9  # seconds


def slowed(value, factor):
    """The point with durations times `factor` and rates over it; rates are made even before."""
    if isinstance(value, list):
        return [slowed(element, factor) for element in value]
    if isinstance(value, dict):
        changed = {key: element if key in PLAIN else slowed(element, factor)
                   for key, element in value.items() if key != "interval"}
        for key in RATES_WITHOUT_UNIT:
            if key in changed:
                rate = int(changed[key]["value"]) // 2 * 2 // factor
                changed[key] = {**changed[key], "value": rate}
        return changed
    quantity = QUANTITY.match(value) if isinstance(value, str) else None
    if not quantity:
        return value
    number, unit = float(quantity[1]), quantity[2]
    if unit in TIMES:
        return f"{number * factor:.6f}{unit}"
    if unit in DATA_RATES:
        return f"{max(1, round(number * DATA_RATES[unit] / 2)) * 2 // factor}B/s"
    return f"{number / factor:.9f}{unit}" if unit.endswith("/s") else value


def differences(record, slow):
    """Metrics that did not go with time as they must."""
    after = {metric["name"]: metric["value"] for metric in slow["metrics"]}
    assert after.keys() == {metric["name"] for metric in record["metrics"]}, "other metrics"
    for metric in record["metrics"]:
        exponent = EXPONENTS.get(metric["unit"])
        # A bound is made of the few longest of many tiny parts.
        if exponent is None or "bound" in metric["name"] or "cost" in metric["name"]:
            continue
        expected = metric["value"] * 2.0 ** exponent
        found = after[metric["name"]]
        slack = RELATIVE * abs(expected) + (ROUNDINGS if metric["unit"] in ("s", "1") else 0)
        if abs(found - expected) > slack:
            yield f"{metric['name']}: {found} {metric['unit']} instead of {expected}"


def variants(point, number, spare):
    """(what it is, a point that must run as this one does, what tells whether it did)."""
    yield "slowed down", slowed(point, 2), differences
    yield ("ports in another order", with_ports_in_another_order(point, random.Random(number)),
           changes)
    renamed, old_names = with_switches_renamed(point, random.Random(number))
    yield "switches change places", renamed, functools.partial(changes, old_names=old_names)
    yield "an unused drive", with_an_unused_drive(point, spare), changes


def problems_of(job):
    """Lines; None where the point does not run."""
    point, number, folder, spare = job
    point = slowed(below_switches(point) if number % 2 else point, 1)
    outcome, said = run_point(point, f"{number}_a", folder)
    if outcome != "ok":
        return None
    record = json.loads(said)
    problems = [*link_imbalances(record), *page_imbalances(record)]
    if run_point(point, f"{number}_a", folder) != (outcome, said):
        problems.append("a second run differs")
    for what, variant, compare in variants(point, number, spare):
        if variant is None:
            continue
        variant_outcome, variant_said = run_point(variant, f"{number}_b", folder)
        if variant_outcome != "ok":
            problems.append(f"{what}: {variant_outcome}: {variant_said}")
        else:
            problems += [f"{what}: {text}" for text in compare(record, json.loads(variant_said))]
    return [f"point {number}: {text}" for text in problems]


def main():
    count, seed = (int(word) for word in (sys.argv[1:] + ["12", "1"][len(sys.argv) - 1:]))
    schema = json.loads((CONFIGS / "schema/design_point.schema.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shipped = shipped_points(folder)
        models = [json.loads(file.read_text(encoding="utf-8"))
                  for file in sorted((CONFIGS / "models").glob("*.json"))]
        drawn = RandomPoints(schema, shipped, models, seed)
        spare = next(point["csd"][0] for point in shipped if point["csd"])
        tried = ran = 0
        problems = []
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            batch = shipped
            while batch:
                for result in pool.map(problems_of, ((point, tried + i, folder, spare)
                                                     for i, point in enumerate(batch))):
                    ran += result is not None
                    problems += result or []
                tried += len(batch)
                batch = [drawn.draw() for _ in range(min(500, len(shipped) + count - ran))]
                assert ran > 0.2 * tried, "hardly any point runs"
    print(f"{ran} of {tried} points run: {len(problems)} differences")
    print(*problems[:20], sep="\n")
    assert not problems


if __name__ == "__main__":
    sys.exit(main())
