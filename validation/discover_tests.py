"""Writes the ctest list of a doctest program: one test, so one process, a test case.

CMake runs this after linking the program. doctest's own CMake module does the same, but breaks on
names such as "uniform in [0, 1)", because it keeps the names in CMake lists.

Usage: discover_tests.py PROGRAM OUTPUT.cmake SECONDS [NAME=VALUE...]

A case that takes more SECONDS hangs; NAME=VALUE are the environment of the tests.
"""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree


def quoted(text):
    """A CMake bracket argument: nothing inside has a meaning for CMake."""
    return f"[==[{text}]==]"


def exact_filter(name):
    """doctest splits filters at commas unless they are escaped."""
    return name.replace("\\", "\\\\").replace(",", "\\,")


def test_cases(program):
    listing = subprocess.run(
        [program, "--list-test-cases", "--reporters=xml"], check=True, capture_output=True
    ).stdout
    places = {}
    for case in ElementTree.fromstring(listing).iter("TestCase"):
        name, place = case.get("name"), f"{case.get('filename')}:{case.get('line')}"
        if case.get("skipped") == "true":
            continue
        if name in places:
            sys.exit(f'{place}: the test case "{name}" exists at {places[name]} too; rename one')
        places[name] = place
    return list(places)


def main():
    program, output, seconds, *environment = sys.argv[1:]
    lines = []
    for name in test_cases(program):
        command = [program, "--case-sensitive", f"--test-case={exact_filter(name)}"]
        lines.append(f"add_test({' '.join(map(quoted, [name, *command]))})")
        lines.append(
            f"set_tests_properties({quoted(name)} PROPERTIES TIMEOUT {seconds}"
            f" ENVIRONMENT {quoted(';'.join(environment))}"
            # doctest ends well when no case has the name asked for; a test must not.
            f" FAIL_REGULAR_EXPRESSION {quoted('test cases: +0 ')})"
        )
    with open(output, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


main()
