"""Random design points, drawn from the schema: a shipped point of which many values changed.

    points = RandomPoints(json_schema, [resolved design point, ...], [model, ...], seed)
    point = points.draw()

Every number may move within its range by a factor between 1/8 and 8, every choice may become
another one, and every third point has faults. The workload stays small, so that a run takes a
moment. What the points violate are rules between fields, which no schema knows: those are refused
by name.
"""

import copy
import math
import random
import re

QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]+)?)([A-Za-z/].*)$")
BYTES = re.compile(r"^([KMGT]?)(i?)B(/s)?$")
FACTOR = 8
LARGEST = {"/workload/batch": 64, "/workload/prompt_tokens": 512, "/workload/output_tokens": 48,
           "/csd/*/count": 8, "/ssd/*/count": 8}
# What names something, makes a constant one, or hangs together with its neighbours by rules.
FIXED = {"name", "citation", "source", "comment", "interval", "kind", "generation", "policy",
         "cell", "cluster_pages", "dirty_background_ratio", "dirty_ratio", "readahead_window",
         "page_size"}
# Flash that is scheduled in these ways knows none of the rest.
SIMPLE_POLICIES = ("fifo", "first_gap")
UNKNOWN_TO_THEM = {"transfer_step", "array_spread", "read_priority", "multi_plane", "read_retry",
                   "suspend"}
LANES = (1, 2, 4, 8, 16)


def schemas_of(schema, value):
    """All schemas that speak of this value: alternatives, conditions that hold."""
    yield schema
    for part in schema.get("allOf", []) + schema.get("anyOf", []):
        condition = part.get("if")
        if condition is None:
            yield from schemas_of(part, value)
        elif isinstance(value, dict) and all(
                value.get(key) == rule.get("const")
                for key, rule in condition["properties"].items()):
            yield from schemas_of(part.get("then", {}), value)


def child_schemas(schemas, value, key):
    for schema in schemas:
        for part in schemas_of(schema, value):
            if isinstance(value, list) and "items" in part:
                yield part["items"]
            elif key in part.get("properties", {}):
                yield part["properties"][key]


def quantity_text(number, unit, factor):
    """`number` times a factor; bytes stay whole, and sizes stay powers of two if they were."""
    size = BYTES.match(unit)
    if not size:
        return f"{number * factor:.3f}{unit}"
    scale = (1024 if size[2] else 1000) ** " KMGT".index(size[1] or " ")
    if not size[3]:
        factor = 2.0 ** round(math.log2(factor))
    return f"{max(1, round(number * scale * factor))}B{size[3] or ''}"


def plain(value):
    """A constant without its source."""
    return value["value"] if isinstance(value, dict) else value


class RandomPoints:
    def __init__(self, schema, seeds, models, seed):
        self.schema = schema
        self.seeds = seeds
        self.models = models
        self.random = random.Random(seed)

    def draw(self):
        point = copy.deepcopy(self.random.choice(self.seeds))
        # Sizes of a model hang together: another model, or fewer layers of it.
        model = point.pop("model")
        if self.random.random() < 0.7:
            model = copy.deepcopy(self.random.choice(self.models))
        model["layers"] = self.random.randint(1, model["layers"])
        share = self.random.choice((0.02, 0.1, 0.4))  # of the values that change
        point = {**self.changed(point, [self.schema], "", share), "model": model}
        if self.random.random() < 1 / 3:
            point["faults"] = [self.fault(point) for _ in range(self.random.randint(1, 3))]
        return point

    def fault(self, point):
        """Of something that is there and can have it."""
        drives = {f"{kind}/{i}": drive for kind in ("ssd", "csd") for drive in point[kind]
                  for i in range(drive["count"])}
        device = self.random.choice([*drives, "gpu/0"])
        lasts = self.random.choice(("0s", "1us", "3ms", "2s"))
        kinds = {
            "thermal_throttling": {"device": device, "speed": self.random.uniform(0.1, 1),
                                   "lasts": lasts},
            "link_degraded": {"link": device, "generation": 3, "lanes": 1, "lasts": lasts}}
        if point["ssd"]:
            kinds["host_memory_pressure"] = {
                "size": self.random.choice(("64MiB", "8GiB", "64GiB")), "lasts": lasts}
        if drives:
            device = self.random.choice(list(drives))
            flash = drives[device]["flash"]
            channel = self.random.randrange(plain(flash["channels"]))
            die = self.random.randrange(plain(flash["chips_per_channel"])
                                        * plain(flash["dies_per_chip"]))
            kinds |= {
                "die_failure": {"device": device, "channel": channel, "die": die},
                "channel_failure": {"device": device, "channel": channel},
                "drive_failure": {"device": device, "notice": "10ms"},
                "uncorrectable_pages": {"device": device, "pages": self.random.randint(1, 100)},
                "read_retries": {"device": device, "further_reads": self.random.randint(1, 5),
                                 "lasts": lasts},
                "controller_stall": {"device": device, "lasts": "3ms"}}
        kind = self.random.choice(list(kinds))
        shortest = -2 if kind == "controller_stall" else -3
        when = self.random.choice((
            {"kind": "at", "time": f"{10 ** self.random.uniform(-4, 2):.6f}s"},
            {"kind": "rate", "mean_interval": f"{10 ** self.random.uniform(shortest, 2):.6f}s"}))
        return {"kind": kind, **kinds[kind], "when": when}

    def changed(self, value, schemas, path, share):
        schemas = list(schemas)
        if isinstance(value, dict):
            if {"value", "source", "citation"} <= value.keys():
                moved = self.changed(value["value"], child_schemas(schemas, value, "value"), path,
                                     share)
                return value if moved == value["value"] else {
                    "value": moved, "source": "assumed", "citation": "a random point"}
            fixed = (FIXED | UNKNOWN_TO_THEM if value.get("policy") in SIMPLE_POLICIES else FIXED)
            return {key: value[key] if key in fixed else
                    self.changed(value[key], child_schemas(schemas, value, key), f"{path}/{key}",
                                 share)
                    for key in value}
        if isinstance(value, list):
            return [self.changed(element, child_schemas(schemas, value, i), f"{path}/*", share)
                    for i, element in enumerate(value)]
        if path in LARGEST and isinstance(value, int) and value > LARGEST[path]:
            value = LARGEST[path]
        parts = [part for schema in schemas for part in schemas_of(schema, value)]
        return self.scalar(value, parts, path) if self.random.random() < share else value

    def scalar(self, value, parts, path):
        if path.endswith("/lanes"):
            return self.random.choice(LANES)
        choices = [choice for part in parts for choice in part.get("enum", [])]
        if choices:
            return self.random.choice(choices)
        if isinstance(value, bool):
            return self.random.random() < 0.5
        factor = math.exp(self.random.uniform(-1, 1) * math.log(FACTOR))
        if isinstance(value, str):
            quantity = QUANTITY.match(value)
            if not quantity:
                return value
            return quantity_text(float(quantity[1]), quantity[2], factor)
        low = max((part["minimum"] for part in parts if "minimum" in part), default=0)
        high = min((part["maximum"] for part in parts if "maximum" in part), default=math.inf)
        high = min(high, LARGEST.get(path, math.inf))
        moved = (value or 1) * factor
        return type(value)(min(max(round(moved) if isinstance(value, int) else moved, low), high))
