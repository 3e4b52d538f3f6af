"""Finds the LLVM 14 tools of Debian 12: other versions format and warn differently."""

import re
import shutil
import subprocess
import sys

VERSION = "14"
SKIPPED = 77


def find_tool(name):
    """The path of the tool; without it the check is skipped."""
    for candidate in (f"{name}-{VERSION}", name):
        path = shutil.which(candidate)
        if path:
            text = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
            version = re.search(r"version (\d+)\.", text)
            if version and version.group(1) == VERSION:
                return path
    print(f"skipped: {name} {VERSION} is not installed (apt-get install {name}-{VERSION})")
    sys.exit(SKIPPED)
