"""What a report was made with, and how to make it again."""

import re
import sys
from pathlib import Path

from report_html import code, details, element, link, plural, table

def package_versions(entry_script):
    """(package, what it is for, version) of the packages that the entry script installs."""
    try:
        script = Path(entry_script).read_text(encoding="utf-8")
        known = Path("/var/lib/dpkg/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    listed = re.search(r"^run_packages=\(\n(.*?)^\)", script, re.DOTALL | re.MULTILINE)
    versions = dict(re.findall(r"^Package: (\S+)\n(?:.+\n)*?Version: (\S+)$", known, re.MULTILINE))
    return [[name, purpose, versions.get(name, "not installed")] for name, purpose in
            re.findall(r'"([^":]+):([^"]+)"', listed.group(1) if listed else "")]


def build_text(build):
    parts = [f"nearkv {build.get('version', '?')}", build.get("compiler", ""),
             build.get("build_type", ""), f"SimGrid {build.get('simgrid', '?')}"]
    if build.get("sanitizers"):
        parts.append(f"sanitizers {build['sanitizers']}")
    return ", ".join(part for part in parts if part)


def machine_text(machine):
    if not machine:
        return "not recorded"
    memory = machine.get("memory_bytes")
    parts = [machine.get("processor"), plural(machine.get("cores", 0), "core"),
             f"{memory / 2**30:.0f} GiB" if memory else None, machine.get("system")]
    return ", ".join(part for part in parts if part)


def effort(figure):
    uses = [point["use"] for point in figure.wall.get("points", [])]
    if not uses:
        return ["", "", ""]
    return [str(len(uses)), f"{sum(use['processor_seconds'] for use in uses):.1f} s",
            f"{max(use['peak_memory_bytes'] for use in uses) / 2**20:.0f} MiB"]


def environment_section(figures, data):
    rows = [[link(figure.name, figure.name), build_text(figure.wall.get("build", {})),
             machine_text(figure.wall.get("machine")), *effort(figure)] for figure in figures]
    packages = package_versions(data["entry_script"])
    return element(
        "section",
        element("h2", "Environment"),
        element("p", "Equal configs and an equal program give equal numbers, on any machine and "
                     "with any number of workers. What was used here: ",
                build_text(data["build"]), "; Python ", sys.version.split()[0], "."),
        details("Build, machine and effort of each figure",
                table(["figure", "build", "machine", " points", " processor time", " most memory"],
                      rows, caption="From the sidecar files NAME.wall.json")),
        details("Debian packages", table(["package", "for", "version"], packages,
                                         caption="Packages of the entry script"))
        if packages else None,
        id="environment")


def reproduce_section(data):
    names = "" if data["all_figures"] else " " + " ".join(one["name"] for one in data["figures"])
    quick = " --quick" if data["quick"] else ""
    commands = [(f"./nearkv report{names}{quick}", "this page; makes the figures that are missing"),
                (f"./nearkv figure NAME{quick}", "one figure: table, claims, records, picture"),
                ("./nearkv validate", "the validation"),
                ("./nearkv figure NAME --samples 32",
                 "with intervals from the uncertainty of the constants"),
                ("./nearkv run POINT.json --set PATH=VALUE", "any design point, changed")]
    return element("section", element("h2", "Make it again"),
                   table(["command", "what it does"],
                         [[code(command), what] for command, what in commands]), id="reproduce")
