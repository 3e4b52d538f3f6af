"""The project's own linter: rules that the compiler and clang-tidy cannot know.

It prints `file:line: rule: what is wrong; what to do instead` for each finding and fails if there
is one. A line is exempt with a reason: `// tidy allows RULE: reason` on it or on the comment
above it. Numbers in models/ are exempt with `// unit: reason` or `// not a constant: reason`.

Usage: tidy_check.py [ROOT]   (else $NEARKV_SOURCE, else the tree that holds this file)
"""

import os
import re
import sys
from collections import namedtuple
from pathlib import Path

Finding = namedtuple("Finding", "path line rule what instead")

LAYERS = ("sim", "models", "kernels", "traces", "validation", "plots")
SKIPPED_FOLDERS = {"build", "results", "__pycache__"}
CPP_ENDINGS = {".hpp", ".cpp", ".h", ".cu", ".cuh"}
MAX_COLUMNS = 100

# Comments and literals; a quote after a digit is a separator (1'000), not a character.
COMMENT_OR_LITERAL = re.compile(
    r"//[^\n]*"
    r"|/\*.*?\*/"
    r'|(?<!\w)(?:u8|[uUL])?R"(?P<fence>[^(\s]*)\(.*?\)(?P=fence)"'
    r'|"(?:\\.|[^"\\\n])*"'
    r"|(?<!\w)'(?:\\.|[^'\\\n])*'",
    re.DOTALL,
)


def blank(text):
    """The same shape without the contents, so that lines and columns stay."""
    return re.sub(r"[^\n]", " ", text)


class SourceFile:
    """One file: its lines as written, and for C++ the same lines without comments and literals."""

    def __init__(self, root, path):
        self.path = path.relative_to(root).as_posix()
        self.name = path.name
        self.text = path.read_text(encoding="utf-8", errors="replace")
        self.lines = self.text.split("\n")
        self.is_cpp = path.suffix in CPP_ENDINGS
        self.is_header = path.suffix in {".hpp", ".h", ".cuh"}
        # x_test.cpp, x_bench.cpp and what they share: test_x.hpp
        self.is_test = bool(re.search(r"_(test|bench)\.(cpp|cu|py)$|^test_\w+\.hpp$", self.name))
        self.code = self.strip(self.text).split("\n") if self.is_cpp else self.lines

    @staticmethod
    def strip(text):
        def replace(match):
            found = match.group(0)
            if found.startswith("/"):
                return blank(found)
            return '"' + blank(found)[1:-1] + '"'

        return COMMENT_OR_LITERAL.sub(replace, text)

    def under(self, *folders):
        return any(self.path.startswith(folder + "/") for folder in folders)

    def includes(self):
        """(line number, "<" or a quote, the path) of each #include."""
        for number, line in enumerate(self.lines, 1):
            match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
            if match:
                yield number, match.group(1), match.group(2)

    def has_comment(self, number, pattern):
        """Whether a comment with the pattern is on the line or in the comment lines above it."""
        if re.search(pattern, self.lines[number - 1]):
            return True
        above = number - 2
        while above >= 0 and self.lines[above].lstrip().startswith(("//", "#")):
            if re.search(pattern, self.lines[above]):
                return True
            above -= 1
        return False

    def allows(self, number, rule):
        return self.has_comment(number, rf"(//|#) tidy allows {rule}: \S")


def source_files(root):
    found = []
    for layer in LAYERS:
        for path in (root / layer).rglob("*"):
            if path.is_file() and not SKIPPED_FOLDERS & set(path.relative_to(root).parts):
                if path.suffix in CPP_ENDINGS | {".py", ".sh", ".cmake"}:
                    found.append(path)
    found += [root / name for name in ("CMakeLists.txt", "nearkv", ".ci/run")]
    return [SourceFile(root, path) for path in sorted(found) if path.is_file()]


# -- Rules: each yields (line, what is wrong, what to do instead) -------------------------------


def may_include(file, included):
    """Who may include whom; `included` is a path of ours from the root."""
    if file.under("sim/app", "validation"):
        return True
    if file.is_test and included.startswith(("kernels/", "validation/")):
        return True
    if file.is_test and file.under("kernels") and included == "sim/core/random.hpp":
        return True
    if file.under("sim/core"):
        return included.startswith("sim/core/")
    if file.under("kernels"):
        return included.startswith("kernels/")
    if file.under("traces"):
        core = {f"sim/core/{name}.hpp" for name in ("units", "random", "check", "hash",
                                                     "strict_json")}
        return included in core or included.startswith("traces/")
    return included == "kernels/api.hpp" or included.startswith(("sim/core/", "traces/", "models/"))


def include_direction(file):
    for number, quote, included in file.includes():
        ours = included.split("/")[0] in LAYERS
        generated = included == "build_info.hpp" and file.under("sim/app")
        if ours and quote == "<":
            yield number, f"<{included}> is ours", "include it in quotes"
        elif ours and not may_include(file, included):
            layer = "/".join(file.path.split("/")[: 2 if file.under("sim") else 1])
            yield (
                number,
                f"{layer} must not include {included}",
                "move what is needed down a layer or pass it in (who may include whom: tidy_check)",
            )
        elif not ours and quote == '"' and not generated:
            yield (
                number,
                f'"{included}" is not a path from the repository root',
                "write ours as layer/.../name.hpp and libraries in <>",
            )


def simgrid_one_file(file):
    if file.path == "sim/core/engine.cpp":
        return
    for number, _, included in file.includes():
        if included.startswith(("simgrid/", "xbt/")) or included in ("simgrid.h", "xbt.h"):
            yield number, f"SimGrid's {included} outside sim/core/engine.cpp", (
                "use sim/core/engine.hpp"
            )


def json_in_config(file):
    if file.under("sim/core", "sim/app", "traces", "validation"):
        return
    for number, _, included in file.includes():
        if included.startswith("nlohmann/"):
            yield number, "JSON outside configs, records and traces", (
                "declare fields and let sim/core read and write them"
            )


def cuda_in_kernels(file):
    if file.under("kernels/cuda"):
        return
    pattern = r"(cuda|cublas|cub/|cute/|cutlass/|thrust/|mma\.h|nvml\.h|cooperative_groups)"
    for number, _, included in file.includes():
        if re.match(pattern, included):
            yield number, f"CUDA's {included} outside kernels/cuda", (
                "call it through kernels/api.hpp"
            )


NUMBER = re.compile(
    r"(?<![\w.])"
    r"(?P<digits>0[xX][\da-fA-F']+|0[bB][01']+|(?:\d[\d']*\.?[\d']*|\.\d[\d']*)(?:[eE][+-]?\d+)?)"
    r"(?P<suffix>[A-Za-z_]\w*)?"
)
PLAIN_SUFFIXES = {"", "u", "l", "ul", "lu", "ll", "ull", "llu", "z", "uz", "zu", "f"}
FREE_INTEGERS = set(range(11)) | {16, 32, 64}
FREE_REALS = {0.0, 0.5, 1.0, 2.0}


def is_free_number(match):
    digits, suffix = match.group("digits").replace("'", ""), match.group("suffix") or ""
    if digits[:2].lower() in ("0x", "0b"):
        value, is_real = int(digits, 0), False
    else:
        is_real = any(mark in digits for mark in ".eE") or suffix.lower() == "f"
        value = float(digits) if is_real else int(digits)
    if suffix.lower() not in PLAIN_SUFFIXES:
        return value in (0, 1)  # a quantity with a unit, such as 50us
    return value in (FREE_REALS if is_real else FREE_INTEGERS)


def constexpr_statements(file):
    """(first, last) line of each constexpr variable, so that one comment covers a table."""
    for first, line in enumerate(file.code, 1):
        start = line.find("constexpr")
        if start < 0:
            continue
        depth, last = 0, first
        rest = [line[start:]] + file.code[first : first + 200]
        for offset, code in enumerate(rest):
            depth += sum(code.count(c) for c in "({[") - sum(code.count(c) for c in ")}]")
            if depth == 0 and ";" in code:
                last = first + offset
                break
        head = " ".join(rest[: last - first + 1]).split("=")[0]
        if "(" not in head:
            yield first, last


def field_lists(file):
    """(first, last) line of each fields(FieldVisitor&): its numbers are the accepted ranges."""
    for first, line in enumerate(file.code, 1):
        if re.search(r"\bfields\s*\(\s*FieldVisitor\b", line):
            depth = 0
            for last, code in enumerate(file.code[first - 1 :], first):
                depth += code.count("{") - code.count("}")
                if depth == 0 and ("}" in code or ";" in code):
                    yield first, last
                    break


def magic_number(file):
    if not file.under("models") or file.is_test:
        return
    reason = r"// (unit|not a constant): \S"
    exempt = set()
    for first, last in field_lists(file):
        exempt.update(range(first, last + 1))
    for first, last in constexpr_statements(file):
        if any(file.has_comment(line, reason) for line in range(first, last + 1)):
            exempt.update(range(first, last + 1))
    for number, code in enumerate(file.code, 1):
        if re.match(r"\s*#\s*(?!define)", code) or number in exempt:
            continue
        for match in NUMBER.finditer(code):
            if not is_free_number(match) and not file.has_comment(number, reason):
                yield number, f"magic number {match.group(0)}", (
                    "read it from a config with its source, or explain it with "
                    "'// unit: ...' or '// not a constant: ...'"
                )


RNG = "draw from a named stream Rng{seed, path}"
CLOCK = "use SimTime (wall clocks belong to sim/app and benchmarks)"
PARSE = "use std::from_chars or the parsers of sim/core/units.hpp"
RUN = "call run_program() of sim/app/process_pool.hpp with the words"
PRINT = "return the value or a string; sim/app prints"


def never(_):
    return False


def clock_users(file):
    return file.under("sim/app") or "_bench." in file.name


def printers(file):
    return file.is_test or not file.under("models", "sim/core", "kernels", "traces")


def starters(file):
    return file.path in ("sim/app/process_pool.cpp", "sim/app/sensitivity_command.cpp")


# rule, pattern, the files that may, what it is, what to do instead
BANNED = [
    ("random", r"(?<![\w.>:])(?:std::)?s?rand\s*\(", never, "rand()", RNG),
    ("random", r"\brandom_device\b", never, "std::random_device", RNG),
    ("random", r"\b(?:mt19937|minstd_rand|default_random_engine|ranlux)\w*", never,
     "a generator of the standard library", RNG),
    ("random", r"\bstd::\w+_distribution\b", never,
     "a distribution whose numbers differ between standard libraries", RNG),
    ("wall-clock", r"\b(?:system|steady|high_resolution)_clock\b", clock_users,
     "a wall clock", CLOCK),
    ("wall-clock", r"\b(?:gettimeofday|clock_gettime|(?:local|gm)time(?:_r)?|std::clock)\s*\("
     r"|(?<![\w.>])time\s*\(\s*(?:nullptr|NULL|0)\s*\)", clock_users, "a wall clock", CLOCK),
    ("assert", r"(?<!\w)assert\s*\(", never, "assert() vanishes in release builds",
     "use check(), which is always compiled in"),
    ("print", r"(?<!\w)(?:v?f?printf|puts|putchar|fmt::print)\s*\(|\bstd::(?:cout|cerr|clog)\b",
     printers, "printing from a library", PRINT),
    ("locale-parse", r"(?<![\w.>])(?:std::)?(?:ato[ifl]l?|strto(?:d|f|ld|l|ll|ul|ull)|"
     r"sto(?:i|l|ll|ul|ull|f|d|ld)|sscanf)\s*\(", never,
     "a parser that depends on the locale or ignores errors", PARSE),
    ("exit", r"(?<![\w.>:])(?:std::)?(?:exit|quick_exit|_Exit)\s*\(",
     lambda file: file.path == "sim/app/main.cpp", "leaving the process from the middle",
     "throw ConfigError or call check(); only main() ends the program"),
    ("shell", r"(?<![\w.>])(?:std::|::)?(?:system|popen|wordexp)\s*\(", never,
     "a shell, in which a text of a config would be a command", RUN),
    ("shell", r"\b(?:exec[lv]p?e?|posix_spawnp?)\s*\(", starters, "a program that is started here",
     RUN),
    ("exit", r"(?<![\w.>:])(?:::)?_exit\s*\(",
     lambda file: file.under("sim/app") or file.is_test, "leaving the process from the middle",
     "throw ConfigError or call check(); only a forked child may use _exit()"),
]


def banned(rule):
    def find(file):
        for _, pattern, is_free, what, instead in (entry for entry in BANNED if entry[0] == rule):
            if is_free(file):
                continue
            for number, code in enumerate(file.code, 1):
                if re.search(pattern, code):
                    yield number, what, instead

    return find


UNORDERED = re.compile(r"unordered_(?:multi)?(?:map|set)\s*<")


def unordered_names(text):
    """Names of the variables, members and parameters declared as unordered containers."""
    names = set()
    for match in UNORDERED.finditer(text):
        depth, end = 1, match.end()
        while end < len(text) and depth > 0:
            depth += {"<": 1, ">": -1}.get(text[end], 0)
            end += 1
        declared = re.match(r"[\s&*]*(\w+)\s*[;={(,)]", text[end:])
        if declared:
            names.add(declared.group(1))
    return names


def unordered_iteration(file):
    text = "\n".join(file.code)
    for sibling in file.siblings:
        text += "\n".join(sibling.code)
    names = unordered_names(text)
    if not names:
        return
    any_name = "|".join(sorted(names))
    loop = re.compile(
        rf"for\s*\([^;)]*:\s*(?:\w+(?:\.|->))*(?:{any_name})\s*\)"
        rf"|\b(?:{any_name})\s*\.\s*c?begin\s*\("
    )
    for number, code in enumerate(file.code, 1):
        if loop.search(code):
            yield number, "iteration over an unordered container: the order differs by machine", (
                "use std::map, or copy into a vector and sort"
            )


STORED = re.compile(r"\s*(?:(?:static|inline|extern|thread_local)\s+)+([\w:<>,\s*&]+?)[\s*&]+\w+\s*"
                    r"(?:\[[^\]]*\]\s*)?(?:=|\{|;)")
AT_NAMESPACE = re.compile(r"([A-Za-z_][\w:<>,\s*&]*?)[\s*&]+\w+\s*(?:\[[^\]]*\]\s*)?(?:=|\{|;)")
INSTANCE = re.compile(r"\bstatic\s+[\w:<>]+\s*[&*]\s*(?:get_)?(?:instance|singleton)\s*\(")
NOT_A_VARIABLE = re.compile(
    r"\b(?:const|constexpr|consteval|using|typedef|namespace|class|struct|enum|union|template|"
    r"return|friend|operator|concept|requires|static_assert|public|private|protected|goto|case|"
    r"else|do|throw|co_return|delete|new)\b"
)


def mutable_global(file):
    if not file.is_cpp:
        return
    for number, code in enumerate(file.code, 1):
        # Our style does not indent in namespaces, so a variable in column 1 is a global.
        match = STORED.match(code) or AT_NAMESPACE.match(code)
        if match and not NOT_A_VARIABLE.search(match.group(0)):
            yield number, "state that outlives its owner (a mutable global or static)", (
                "make it a member of what owns it, or const"
            )
        elif INSTANCE.search(code):
            yield number, "a singleton", "build the object in sim/app and pass it by reference"


def using_namespace(file):
    for number, code in enumerate(file.code, 1):
        if file.is_header and re.search(r"\busing\s+namespace\b", code):
            yield number, "'using namespace' in a header leaks into every includer", (
                "write the names out, or put it into the .cpp file"
            )


def pragma_once(file):
    if file.is_header and not any(line.strip() == "#pragma once" for line in file.code):
        yield 1, "a header without '#pragma once'", "put '#pragma once' before its includes"


def line_length(file):
    for number, line in enumerate(file.lines, 1):
        if len(line) > MAX_COLUMNS:
            yield number, f"{len(line)} columns", f"break the line at {MAX_COLUMNS}"


# Written in two parts so that this file passes its own rule.
UNFINISHED = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b")


def unfinished(file):
    for number, line in enumerate(file.lines, 1):
        if UNFINISHED.search(line):
            yield number, "a note that something is unfinished", "finish it, or open an issue"


def plots_read_files(file):
    # The Python package, which runs the program, and worked examples of it lie beside the plots.
    if (not file.under("plots") or not file.path.endswith(".py") or file.under("plots/nearkv")
            or file.under("plots/notebooks")):
        return
    imports = re.compile(r"\s*(?:import|from)\s+(sim|models|kernels|traces|validation)\b")
    runs = re.compile(r"\bnearkv\.(run|sweep)\(")
    programs = re.compile(r"\s*(?:import|from)\s+(subprocess|ctypes|cffi)\b|\bos\.(system|popen)\b")
    for number, line in enumerate(file.lines, 1):
        if imports.match(line) or (not file.is_test
                                   and (programs.search(line) or runs.search(line))):
            yield number, "a plot that runs code of the simulator", (
                "read result files only; what needs computing belongs in the result"
            )


RULES = {
    "include-direction": include_direction,
    "simgrid-one-file": simgrid_one_file,
    "json-in-config": json_in_config,
    "cuda-in-kernels": cuda_in_kernels,
    "magic-number": magic_number,
    **{name: banned(name) for name in dict.fromkeys(entry[0] for entry in BANNED)},
    "unordered-iteration": unordered_iteration,
    "mutable-global": mutable_global,
    "using-namespace": using_namespace,
    "pragma-once": pragma_once,
    "line-length": line_length,
    "unfinished": unfinished,
    "plots-read-files": plots_read_files,
}
ALSO_FOR_SCRIPTS = {"line-length", "unfinished", "plots-read-files"}


def pair_siblings(files):
    """x.cpp sees the members that x.hpp declares, and x_test.cpp those of x.hpp."""
    headers = {file.path[: -len(".hpp")]: file for file in files if file.path.endswith(".hpp")}
    for file in files:
        stem = re.sub(r"(_test|_bench)?\.\w+$", "", file.path)
        header = headers.get(stem)
        file.siblings = [header] if header and header is not file else []


def findings(root):
    files = source_files(root)
    pair_siblings(files)
    found = []
    for file in files:
        for rule, find in RULES.items():
            if not file.is_cpp and rule not in ALSO_FOR_SCRIPTS:
                continue
            for number, what, instead in find(file):
                if not file.allows(number, rule):
                    found.append(Finding(file.path, number, rule, what, instead))
    return found, len(files)


def main():
    here = Path(__file__).resolve().parents[2]
    root = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("NEARKV_SOURCE", here))
    found, file_count = findings(root.resolve())
    for finding in found:
        print("{}:{}: {}: {}; {}".format(*finding))
    print(f"{file_count} files, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
