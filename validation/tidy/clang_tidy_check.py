"""clang-tidy 14 on every source file that is not a test, with the commands of the build.

A file that passed is not checked again until it, a header of ours that it includes, .clang-tidy or
its compile command changes; the marks lie in the build folder.

Most of the time goes into headers. Files that are compiled alike are therefore checked several at a
time, included by one file. Where that finds something, or names of two files collide, each half is
checked; what counts is found in a file by itself.
"""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from llvm_tool import find_tool

LAYERS = ("sim/", "models/", "kernels/", "traces/")
WORKERS = 2
MOST_TOGETHER = 24
# Of several files at a time: they count as headers, including them is meant, and
# what one has at its left margin is nothing to the others.
TOGETHER = [
    "--extra-arg=-Wno-shadow",
    f"--header-filter=/({'|'.join(layer.rstrip('/') for layer in LAYERS)})/[^.]*\\.[hc]pp$",
    "--checks=-bugprone-suspicious-include",
]
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


def flags_of(entry):
    """What the compiler is told beside the names of the file's own inputs and outputs."""
    words, flags = iter(shlex.split(entry["command"])[1:]), []
    for word in words:
        if word in ("-o", "-MF", "-MT", "-c"):
            next(words)
        elif word != "-MD":
            flags.append(word)
    return tuple(flags)


def local_names(path):
    """Of what a file declares at the left margin, functions with their parameters."""
    text = path.read_text(encoding="utf-8")
    types = re.findall(r"^(?:struct|class|enum class|using) (\w+)(?= [={:])", text, re.MULTILINE)
    constants = re.findall(r"^(?:const|inline)[\w:<>&*, ]* (\w+)(?: =|[{\[])", text, re.MULTILINE)
    functions = re.findall(r"^(?!return)\w[\w:<>&*, ]*? (\w+\([^)]*)", text, re.MULTILINE)
    return set(types + constants + functions)


def groups_of(root, todo):
    """Lists of at most MOST_TOGETHER files with equal flags and no common names."""
    groups = []  # [flags, names, jobs]
    for job in todo:
        names = local_names(root / job.path)
        for group in groups:
            if group[0] == job.flags and len(group[2]) < MOST_TOGETHER and not names & group[1]:
                group[1].update(names)
                group[2].append(job)
                break
        else:
            groups.append([job.flags, names, [job]])
    return sorted((jobs for _, _, jobs in groups), key=len, reverse=True)


class Job(NamedTuple):
    path: str
    flags: tuple
    mark: Path


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
                    todo.append(Job(path, flags_of(entry), mark))
    for old in set(marks.iterdir()) - current:
        old.unlink()

    def run(arguments):
        command = [clang_tidy, "--quiet", *EXTRA_ARGUMENTS, *arguments]
        return subprocess.run(command, cwd=root, capture_output=True, text=True)

    def check(group):
        """(job, its result or None if it passed) of each job."""
        if len(group) == 1:
            result = run(["-p", build, group[0].path])
            return [(group[0], result if result.returncode else None)]
        with tempfile.NamedTemporaryFile("w", suffix=".cpp", dir=build) as together:
            together.writelines(f'#include "{root / job.path}"\n' for job in group)
            together.flush()
            if run([*TOGETHER, together.name, "--", *group[0].flags]).returncode == 0:
                return [(job, None) for job in group]
        middle = len(group) // 2
        return check(group[:middle]) + check(group[middle:])

    failed, printed = 0, set()
    with ThreadPoolExecutor(WORKERS) as pool:
        for checked in pool.map(check, groups_of(root, todo)):
            for job, result in checked:
                if result is None:
                    job.mark.touch()
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
