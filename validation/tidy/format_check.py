"""Every C++ file is as clang-format 14 and .clang-format make it."""

import os
import subprocess
import sys
from pathlib import Path

import tidy_check
from llvm_tool import find_tool


def main():
    root = Path(os.environ.get("NEARKV_SOURCE", Path(__file__).resolve().parents[2]))
    clang_format = find_tool("clang-format")
    files = [file.path for file in tidy_check.source_files(root) if file.is_cpp]
    wrong = []
    for path in files:
        command = [clang_format, "--dry-run", "-Werror", "--ferror-limit=1", path]
        result = subprocess.run(command, cwd=root, capture_output=True, text=True)
        if result.returncode != 0:
            wrong.append(path)
            print(result.stderr.split("\n")[0])
    if wrong:
        print("Format them with:\n  clang-format -i " + " ".join(wrong))
    print(f"{len(files)} files, {len(wrong)} to format")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
