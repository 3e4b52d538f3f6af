"""clang-tidy 14 on every source file that is not a test, with the commands of the build.

A file that passed is not checked again until it, a header of ours that it includes, .clang-tidy or
its compile command changes; the marks lie in the build folder.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llvm_tool import find_tool

LAYERS = ("sim/", "models/", "kernels/", "traces/")
WORKERS = 2
EXTRA_ARGUMENTS = [
    "--extra-arg=-Wno-unknown-warning-option",
    f"--extra-arg=-include{Path(__file__).with_name('source_location_for_clang_14.hpp')}",
]


def own_files(root, path, seen):
    """The file and all headers of ours that it includes, directly or not."""
    if path not in seen and (root / path).is_file():
        seen.add(path)
        text = (root / path).read_text(encoding="utf-8")
        for included in re.findall(r'^\s*#\s*include\s*"([^"]+)"', text, re.MULTILINE):
            own_files(root, included, seen)
    return seen


def mark_of(root, entry, path, clang_tidy):
    """A name that changes with everything that the result depends on."""
    digest = hashlib.sha256()
    digest.update(f"{clang_tidy} {entry['command']}".encode())
    for name in [".clang-tidy", *sorted(own_files(root, path, set()))]:
        digest.update(name.encode() + b"\0" + (root / name).read_bytes())
    return digest.hexdigest()


def main():
    root = Path(os.environ.get("NEARKV_SOURCE", Path(__file__).resolve().parents[2]))
    build = Path(os.environ.get("NEARKV_BUILD", root / "build/release"))
    clang_tidy = find_tool("clang-tidy")
    marks = build / "clang_tidy_passed"
    marks.mkdir(exist_ok=True)

    todo, current = [], set()
    for entry in json.loads((build / "compile_commands.json").read_text(encoding="utf-8")):
        path = os.path.relpath(entry["file"], root)
        if path.startswith(LAYERS) and not re.search(r"_(test|bench)\.\w+$", path):
            if path.endswith(".cpp"):
                mark = marks / mark_of(root, entry, path, clang_tidy)
                current.add(mark)
                if not mark.exists():
                    todo.append((path, mark))
    for old in set(marks.iterdir()) - current:
        old.unlink()

    command = [clang_tidy, "-p", build, "--quiet", *EXTRA_ARGUMENTS]

    def run(job):
        return subprocess.run([*command, job[0]], cwd=root, capture_output=True, text=True)

    failed, printed = 0, set()
    with ThreadPoolExecutor(WORKERS) as pool:
        for (_, mark), result in zip(todo, pool.map(run, todo)):
            if result.returncode == 0:
                mark.touch()
                continue
            failed += 1
            # A finding in a header comes with every file that includes it.
            for block in re.split(r"\n(?=/\S+:\d+:\d+: (?:error|warning))", result.stdout):
                if block not in printed:
                    print(block, flush=True)
                printed.add(block)
    print(f"{len(current)} files, {len(todo)} new or changed, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
