"""Rules that hold for every design point: twice the time, twice the same, nothing lost.

Time: with all durations doubled and all rates halved, every time doubles, every rate halves and
every count stays. "Doubles" to a ten-thousandth of it or a thousand roundings: ends of transfers
are whole picoseconds. A point that a picosecond changes as much, as two things meet there, is only
counted. Same: a second run gives the same record, byte for byte. Order: ports and
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
PICOSECONDS = {"ps": 1, "ns": 1e3, "us": 1e6, "ms": 1e9, "s": 1e12, "min": 60e12, "h": 3600e12}
DATA_RATES = {"B/s": 1, "KB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9, "TB/s": 1e12}
RATES_WITHOUT_UNIT = ("mega_transfers", "argtopk_rate")
PLAIN = ("name", "citation", "source", "comment", "kind")
# How a metric goes with time; those that are not here (energy, price) have parts that do not.
EXPONENTS = {"s": 1, "token/s": -1, "request/s": -1, "B/s": -1, "1/s": -1, "B": 0, "1": 0,
             "token": 0, "request": 0, "page": 0}
RELATIVE = 1e-4  # an engine of a drive rounds each of many nanoseconds
ROUNDINGS = {"s": 1e-9, "1": 1e-8}  # a use of a hundred-millionth is one of a few nanoseconds


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
    if unit in PICOSECONDS:
        return f"{number * factor:.6f}{unit}"
    if unit in DATA_RATES:
        return f"{max(1, round(number * DATA_RATES[unit] / 2)) * 2 // factor}B/s"
    return f"{number / factor:.9f}{unit}" if unit.endswith("/s") else value


def nudged(value):
    """The point with all durations of a microsecond or more a picosecond longer."""
    if isinstance(value, list):
        return [nudged(element) for element in value]
    if isinstance(value, dict):
        return {key: element if key in PLAIN else nudged(element)
                for key, element in value.items() if key != "interval"}
    quantity = QUANTITY.match(value) if isinstance(value, str) else None
    if not quantity or quantity[2] not in PICOSECONDS:
        return value
    picoseconds = round(float(quantity[1]) * PICOSECONDS[quantity[2]])
    return f"{picoseconds + 1}ps" if picoseconds >= PICOSECONDS["us"] else value


def is_sensitive(point, record, name, folder):
    """Whether a picosecond changes what happens: two things meet, and another one comes first."""
    outcome, said = run_point(nudged(point), name, folder)
    return outcome == "ok" and any(differences(record, json.loads(said), factor=1))


def differences(record, slow, factor=2):
    """Metrics that did not go with time as they must."""
    after = {metric["name"]: metric["value"] for metric in slow["metrics"]}
    assert after.keys() == {metric["name"] for metric in record["metrics"]}, "other metrics"
    for metric in record["metrics"]:
        exponent = EXPONENTS.get(metric["unit"])
        # A bound is made of the few longest of many tiny parts.
        if exponent is None or "bound" in metric["name"] or "cost" in metric["name"]:
            continue
        expected = metric["value"] * float(factor) ** exponent
        found = after[metric["name"]]
        slack = RELATIVE * abs(expected) + ROUNDINGS.get(metric["unit"], 0)
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
    """Lines of a point and whether a picosecond changes it; None where the point does not run."""
    point, number, folder, spare = job
    point = slowed(below_switches(point) if number % 2 else point, 1)
    outcome, said = run_point(point, f"{number}_a", folder)
    if outcome in ("failed", "too slow"):
        return [f"point {number}: {outcome}: {said}"], False
    if outcome != "ok":
        return None
    record = json.loads(said)
    sensitive = False
    problems = [*link_imbalances(record), *page_imbalances(record)]
    if run_point(point, f"{number}_a", folder) != (outcome, said):
        problems.append("a second run differs")
    for what, variant, compare in variants(point, number, spare):
        if variant is None:
            continue
        variant_outcome, variant_said = run_point(variant, f"{number}_b", folder)
        if variant_outcome != "ok":
            problems.append(f"{what}: {variant_outcome}: {variant_said}")
            continue
        found = [f"{what}: {text}" for text in compare(record, json.loads(variant_said))]
        if found and compare is differences and is_sensitive(point, record, f"{number}_b", folder):
            sensitive = True
        else:
            problems += found
    return [f"point {number}: {text}" for text in problems], sensitive


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
        tried = ran = sensitive = different = 0
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            batch = shipped
            while batch:
                for result in pool.map(problems_of, ((point, tried + i, folder, spare)
                                                     for i, point in enumerate(batch))):
                    if result is None:
                        continue
                    problems, is_one = result
                    ran += 1
                    sensitive += is_one
                    different += len(problems)
                    print(*problems[:3], sep="\n", end="\n" if problems else "", flush=True)
                tried += len(batch)
                batch = [drawn.draw() for _ in range(min(500, len(shipped) + count - ran))]
                assert ran > 0.2 * tried, "hardly any point runs"
    print(f"{ran} of {tried} points run: {different} differences; of {sensitive}, a picosecond "
          "changes more than a ten-thousandth")
    assert different == 0
    assert sensitive <= ran // 100


if __name__ == "__main__":
    sys.exit(main())
