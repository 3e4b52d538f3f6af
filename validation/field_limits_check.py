"""A design point with one number at the end of its range runs to an end, or is refused in words.

Usage: field_limits_check.py [FIELDS [SEED]]     (of all shipped points; 0: all of them)
The ends of a range are those that the message names when the number lies far outside of it. No run
may fail, take over a minute or 4 GiB, or have a metric that is no finite number; one that would
simulate too long is refused. Needs NEARKV_BINARY and NEARKV_HOME.
"""

import collections
import concurrent.futures
import copy
import json
import math
import os
import random
import re
import sys
import tempfile
from pathlib import Path

from random_points_check import run_point, shipped_points

QUANTITY = re.compile(r"^-?[0-9.]+([A-Za-z/]+)$")
LIMITS = re.compile(r"must be (?:(?P<least>\S+) to (?P<most>\S+)|at least (?P<lower>\S+)|"
                    r"at most (?P<upper>\S+))$", re.MULTILINE)
SMALLEST_UNITS = {"s": "ps", "min": "ps", "h": "ps", "B": "B", "W": "uW", "J": "pJ"}
SMALL = {"batch": 2, "prompt_tokens": 40, "output_tokens": 3}
MOST_NUMBERS = ("9223372036854775807", "0")


def numbers(node, path=()):
    """(path, value) of each number and quantity of a config."""
    if isinstance(node, dict):
        if {"value", "source", "citation"} <= node.keys():
            yield from numbers(node["value"], (*path, "value"))
            return
        for key, value in node.items():
            yield from numbers(value, (*path, key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from numbers(value, (*path, i))
    elif not isinstance(node, bool) and (not isinstance(node, str) or QUANTITY.match(node)):
        yield path, node


def with_value(point, path, value):
    changed = copy.deepcopy(point)
    node = changed
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    if path[-1] == "value":
        node.pop("interval", None)
    return changed


def outside(value):
    """Values beyond both ends of any range."""
    if not isinstance(value, str):
        return (2 ** 63 - 1, -2 ** 63) if isinstance(value, int) else (1e300, -1e300)
    unit = QUANTITY.match(value)[1]
    plain = unit.lstrip("munpkKMGT").lstrip("i") or unit
    smallest = SMALLEST_UNITS.get(plain, plain)
    return tuple(number + smallest for number in MOST_NUMBERS)


def as_written(text, value):
    """A limit of a message, as a config has it."""
    return text if isinstance(value, str) else json.loads(text)


def problem_of(outcome, said):
    if outcome in ("failed", "too slow"):
        return said
    if outcome == "refused":
        return ""
    odd = [metric["name"] for metric in json.loads(said)["metrics"]
           if metric["value"] is None or not math.isfinite(metric["value"])]
    return f"metrics are no finite numbers: {', '.join(odd[:5])}" if odd else ""


def problems_of(job):
    """({outcome: number}, lines) of one field."""
    point, path, value, name, folder = job
    outcomes = collections.Counter()
    problems = []
    tried = set()

    def attempt(tried_value):
        if tried_value in tried:
            return ""
        tried.add(tried_value)
        outcome, said = run_point(with_value(point, path, tried_value), f"{name}_{len(tried)}",
                                  folder)
        outcomes[outcome] += 1
        problem = problem_of(outcome, said)
        if problem:
            place = "/".join(map(str, path))
            problems.append(f"{point['name']} /{place} = {tried_value}: {problem}")
        return said if outcome == "refused" else ""

    for far in outside(value):
        limits = LIMITS.search(attempt(far))
        for limit in limits.groups() if limits else ():
            if limit is not None:
                attempt(as_written(limit.rstrip(",;"), value))
    return outcomes, problems


def main():
    count, seed = (int(word) for word in (sys.argv[1:] + ["60", "1"][len(sys.argv) - 1:]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fields = []
        for point in shipped_points(folder):
            point["workload"] |= {key: SMALL[key] for key in SMALL if key in point["workload"]}
            point["model"]["layers"] = min(point["model"]["layers"], 4)
            fields += [(point, path, value) for path, value in numbers(point)]
        if count > 0:
            fields = random.Random(seed).sample(fields, count)
        outcomes = collections.Counter()
        problems = []
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for found, lines in pool.map(problems_of, ((*field, i, folder)
                                                       for i, field in enumerate(fields))):
                outcomes += found
                problems += lines
    print(f"{len(fields)} fields at their limits: "
          + ", ".join(f"{number} {what}" for what, number in outcomes.most_common()))
    print(*problems, sep="\n")
    assert not problems
    assert outcomes["refused"] > 0 and outcomes["ok"] > 0, "no limits are found"


if __name__ == "__main__":
    sys.exit(main())
