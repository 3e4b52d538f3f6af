"""Rules of metamorphic_check.py that need no time: what a record must balance, and changes of a
point that must change nothing.

From a record alone follows, for each phase: what enters a switch leaves it; what one root port
sends to others, others get; host memory carries what comes to the host and what goes from it; what
GPUs send each other over a network of their own, they get; every page of a CSD is free, valid,
stranded or bad. SSDs time their links themselves, so their bytes are not in these sums. What is
asked of a drive and what memories were given and gave back is not in a record: the simulator
check()s it.
"""

import collections
import copy
import re

LINK_BYTES = re.compile(
    r"((?:prefill_|decode_)?traffic)/pcie/(.+)/(up|down|peer_up|peer_down|gpu_link/in|gpu_link/out)"
    r"/bytes")
SWITCH = re.compile(r"(.*/pcie/)([^/]+)")
HOST_MEMORY = "{}/pcie/host_memory/bytes"
MOST_GPUS = 64
ROUNDINGS = 1e-9  # sums of interpolated steps are no whole bytes
# What a part costs that lies idle, which is not nothing.
OF_PARTS = re.compile(r"energy|average_power|system_price|cost|high_water|kv_ftl|endurance")


def metrics_of(record):
    return {metric["name"]: metric["value"] for metric in record["metrics"]}


# -- Balances -----------------------------------------------------------------------------------


def port_of(ports, device):
    """Where a device is attached."""
    for port in ports:
        served = port["device"]
        if (device.startswith(served[:-1]) if served.endswith("/*") else
                device == served or device.startswith(served + "/")):
            return port["attach"]
    raise AssertionError(f"{device} has no port")


def unequal(what, one, other):
    """A line if the two differ by more than roundings."""
    if abs(one - other) > ROUNDINGS * max(one, other) + 1e-3:
        yield f"{what}: {one:.6f} against {other:.6f}"


def link_imbalances(record):
    metrics = metrics_of(record)
    pcie = record["config"]["pcie"]
    carried = collections.defaultdict(lambda: collections.defaultdict(float))
    for name, value in metrics.items():
        link = LINK_BYTES.fullmatch(name)
        if link:
            carried[link[1], link[2]][link[3]] += value
    parent = {switch["name"]: switch["attach"] for switch in pcie["switches"]}
    for phase in sorted({phase for phase, _ in carried}):
        below = collections.defaultdict(collections.Counter)  # of what hangs on it
        for (of_phase, vertex), directions in carried.items():
            if of_phase == phase:
                attach = parent[vertex] if vertex in parent else port_of(pcie["ports"], vertex)
                below[attach].update(directions)
                yield from unequal(f"{phase}/{vertex}: more peer traffic than traffic",
                                   max(directions["up"], directions["peer_up"]), directions["up"])
        for vertex, sums in sorted(below.items()):
            if vertex != "root":
                own = carried[phase, vertex]
                yield from unequal(f"{phase}: {vertex} forwards other bytes than it gets",
                                   sums["up"] + own["down"], sums["down"] + own["up"])
        root = below["root"]
        if not record["config"]["ssd"]:  # else one end may be a drive whose link is not counted
            yield from unequal(f"{phase}: root ports send and get", root["peer_up"],
                               root["peer_down"])
        if HOST_MEMORY.format(phase) in metrics:
            memory = metrics[HOST_MEMORY.format(phase)]
            links = root["up"] + root["down"] - root["peer_up"] - root["peer_down"]
            # What passes the host's memory between an SSD and a GPU is counted on one link only.
            yield from unequal(f"{phase}: host memory and the links of the host",
                               min(memory, links) if record["config"]["ssd"] else memory, links)
        sent = sum(sums["gpu_link/out"] for sums in below.values())
        got = sum(sums["gpu_link/in"] for sums in below.values())
        yield from unequal(f"{phase}: GPUs send and get", sent, got)


def page_imbalances(record):
    metrics = metrics_of(record)
    for csd in record["config"]["csd"]:
        for drive in range(csd["count"]):
            counted = [metrics.get(f"kv_ftl/csd/{drive}/{kind}_pages", 0)
                       for kind in ("free", "valid", "stranded", "bad")]
            yield from unequal(f"csd/{drive}: flash pages", sum(counted), pages_of(csd["flash"]))


def pages_of(flash):
    total = 1
    for key in ("channels", "chips_per_channel", "dies_per_chip", "planes_per_die",
                "blocks_per_plane", "pages_per_block"):
        value = flash[key]
        total *= value["value"] if isinstance(value, dict) else value
    return total


# -- Changes that change nothing ----------------------------------------------------------------


def devices_of(point):
    gpus = [f"gpu/{i}" for i in range(MOST_GPUS)]
    return gpus + [f"{kind}/{i}" for kind in ("ssd", "csd") for group in point[kind]
                   for i in range(group["count"])]


def with_ports_in_another_order(point, generator):
    """The same tree: a port for each device instead of one for all of a kind, in any order."""
    changed = copy.deepcopy(point)
    ports = []
    for port in changed["pcie"]["ports"]:
        served = port["device"]
        if served.endswith("/*"):
            ports += [{**port, "device": device} for device in devices_of(point)
                      if device.startswith(served[:-1])]
        else:
            ports.append(port)
    generator.shuffle(ports)
    generator.shuffle(changed["pcie"]["switches"])
    changed["pcie"]["ports"] = ports
    return changed


def below_switches(point):
    """The CSDs below two leaf switches of one switch, where the tree has none."""
    changed = copy.deepcopy(point)
    ports = changed["pcie"]["ports"]
    if changed["pcie"]["switches"] or not changed["csd"]:
        return changed
    drives = next(port for port in ports if port["device"].startswith("csd/"))
    changed["pcie"]["switches"] = [
        {"name": name, "attach": attach, "link": drives["link"]}
        for name, attach in (("trunk", "root"), ("leaf0", "trunk"), ("leaf1", "trunk"))]
    changed["pcie"]["ports"] = [
        *(port for port in ports if not port["device"].startswith("csd/")),
        *({**drives, "device": f"csd/{i}", "attach": f"leaf{i % 2}"}
          for i in range(changed["csd"][0]["count"]))]
    return changed


def with_switches_renamed(point, generator):
    """Each switch has the name of another, so that drives change places; old names by new ones."""
    changed = copy.deepcopy(point)
    pcie = changed["pcie"]
    names = [switch["name"] for switch in pcie["switches"]]
    new_names = dict(zip(names, generator.sample(names, len(names)), strict=True))
    for vertex in pcie["switches"] + pcie["ports"]:
        vertex["attach"] = new_names.get(vertex["attach"], vertex["attach"])
        if "name" in vertex:
            vertex["name"] = new_names[vertex["name"]]
    return changed, {new: old for old, new in new_names.items()}


def with_an_unused_drive(point, spare):
    """A CSD where the system uses none, with a port of its own; None where CSDs are used."""
    if point["csd"]:
        return None
    changed = copy.deepcopy(point)
    changed["csd"] = [{**spare, "count": 1}]
    if not any(port["device"].startswith("csd/") for port in changed["pcie"]["ports"]):
        changed["pcie"]["ports"].append({**changed["pcie"]["ports"][0], "device": "csd/*"})
    return changed


def changes(record, other, old_names=None):
    """Metrics that are not the same, but for what an idle part costs."""
    before = metrics_of(record)
    after = {SWITCH.sub(lambda link: link[1] + (old_names or {}).get(link[2], link[2]), name): value
             for name, value in metrics_of(other).items()}
    for name, value in before.items():
        if name not in after:
            yield f"{name} is gone"
        elif after[name] != value and not OF_PARTS.match(name):
            yield f"{name}: {after[name]} instead of {value}"
