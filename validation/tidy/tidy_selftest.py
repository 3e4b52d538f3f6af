"""Shows that each rule of tidy_check.py finds what it is for, and nothing in what is allowed."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import tidy_check

# rule, path, content, line of the finding
BROKEN = [
    ("include-direction", "sim/core/a.cpp", '#include "models/gpu/gpu.hpp"\n', 1),
    ("include-direction", "kernels/cpu/a.cpp", '\n#include "sim/core/units.hpp"\n', 2),
    ("include-direction", "kernels/cpu/a_test.cpp", '#include "sim/core/units.hpp"\n', 1),
    ("include-direction", "traces/a.cpp", '#include "sim/core/engine.hpp"\n', 1),
    ("include-direction", "traces/a_test.cpp", '#include "models/kv/layout.hpp"\n', 1),
    ("include-direction", "models/gpu/a.cpp", '#include "kernels/reference/dense.hpp"\n', 1),
    ("include-direction", "models/gpu/a.cpp", '#include "sim/app/run.hpp"\n', 1),
    ("include-direction", "models/gpu/a.cpp", "#include <sim/core/units.hpp>\n", 1),
    ("include-direction", "models/gpu/a.cpp", '#include "gpu.hpp"\n', 1),
    ("include-direction", "models/gpu/a.cpp", '#include "build_info.hpp"\n', 1),
    ("simgrid-one-file", "sim/core/other.cpp", "#include <simgrid/s4u.hpp>\n", 1),
    ("simgrid-one-file", "models/gpu/gpu_test.cpp", "#include <xbt/log.h>\n", 1),
    ("json-in-config", "models/gpu/a.cpp", "#include <nlohmann/json.hpp>\n", 1),
    ("cuda-in-kernels", "kernels/cpu/a.cpp", "#include <cuda_runtime.h>\n", 1),
    ("magic-number", "models/gpu/a.cpp", "const double x = 0.85 * y;\n", 1),
    ("magic-number", "models/gpu/a.cpp", "  int x = 11;\n", 1),
    ("magic-number", "models/gpu/a.cpp", "  int x = 128;\n", 1),
    ("magic-number", "models/gpu/a.cpp", "  auto x = 0x1F;\n", 1),
    ("magic-number", "models/gpu/a.cpp", "  auto x = 1e-9;\n", 1),
    ("magic-number", "models/gpu/a.cpp", "  auto x = 1'000;\n", 1),
    ("magic-number", "models/gpu/a.cpp", "  auto x = 50us;\n", 1),
    ("magic-number", "models/gpu/a.hpp", "#pragma once\nconstexpr Bytes kPage = 4_KiB;\n", 2),
    ("magic-number", "models/gpu/a.cpp", "  auto x = 3.5f;  // unit:\n", 1),
    (
        "magic-number",
        "models/gpu/a.cpp",
        "void A::fields(FieldVisitor& v) {\n  v.parameter(x, {1, 99});\n}\n  int x = 99;\n",
        4,
    ),
    ("random", "models/gpu/a.cpp", "  int x = rand();\n", 1),
    ("random", "sim/core/a.cpp", "  int x = std::rand ();\n", 1),
    ("random", "kernels/a_test.cpp", "  std::mt19937_64 generator{1};\n", 1),
    ("random", "traces/a.cpp", "  auto seed = std::random_device{}();\n", 1),
    ("random", "traces/a.cpp", "  std::normal_distribution<double> normal;\n", 1),
    ("wall-clock", "models/gpu/a.cpp", "  auto t = std::chrono::steady_clock::now();\n", 1),
    ("wall-clock", "sim/core/a_test.cpp", "using Clock = std::chrono::system_clock;\n", 1),
    ("wall-clock", "traces/a.cpp", "  auto t = std::time(nullptr);\n", 1),
    ("assert", "sim/core/a.cpp", "  assert(x > 0);\n", 1),
    ("print", "models/gpu/a.cpp", '  std::cout << "x";\n', 1),
    ("print", "sim/core/a.cpp", '  printf("x");\n', 1),
    ("print", "traces/a.cpp", '  fmt::print("x");\n', 1),
    ("locale-parse", "sim/core/a.cpp", "  int x = atoi(text);\n", 1),
    ("locale-parse", "sim/app/a.cpp", "  double x = std::strtod(text, nullptr);\n", 1),
    ("locale-parse", "sim/app/a.cpp", "  double x = std::stod(text);\n", 1),
    ("exit", "sim/app/a.cpp", "  std::exit(2);\n", 1),
    ("exit", "models/gpu/a.cpp", "  _exit(2);\n", 1),
    ("shell", "sim/app/a.cpp", "  std::system(text.c_str());\n", 1),
    ("shell", "sim/app/a_test.cpp", '  FILE* out = popen(text, "r");\n', 1),
    ("shell", "sim/app/a.cpp", '  execlp("sh", "sh", "-c", text);\n', 1),
    (
        "unordered-iteration",
        "models/gpu/a.cpp",
        "std::unordered_map<int, std::vector<int>> const* pages = p;\n"
        "void f(const std::unordered_set<int>& dies) {\n"
        "  for (const int die : dies) {\n",
        3,
    ),
    (
        "unordered-iteration",
        "models/gpu/a.cpp",
        "  std::unordered_map<int, int> pages;\n  auto first = pages.begin();\n",
        2,
    ),
    ("mutable-global", "sim/core/a.cpp", "int counter = 0;\n", 1),
    ("mutable-global", "sim/core/a.cpp", "std::vector<int> pages{1};\n", 1),
    ("mutable-global", "sim/core/a.cpp", "  static int calls = 0;\n", 1),
    ("mutable-global", "sim/core/a.hpp", "#pragma once\ninline Engine* engine = nullptr;\n", 2),
    ("mutable-global", "sim/core/a.hpp", "#pragma once\n  static Engine& instance();\n", 2),
    ("using-namespace", "sim/core/a.hpp", "#pragma once\nusing namespace std;\n", 2),
    ("pragma-once", "sim/core/a.hpp", "// #pragma once\nstruct A {};\n", 1),
    ("line-length", "sim/core/a.cpp", "// " + 98 * "x" + "\n", 1),
    ("line-length", "plots/a.py", "# " + 99 * "x" + "\n", 1),
    ("unfinished", "sim/core/a.cpp", "// TO" "DO: write this\n", 1),
    ("unfinished", "plots/a.py", "# FIX" "ME later\n", 1),
    ("plots-read-files", "plots/a.py", "from models import gpu\n", 1),
    ("plots-read-files", "plots/a.py", "import subprocess\n", 1),
    ("plots-read-files", "plots/a.py", "import nearkv\n\nnearkv.sweep('a.json')\n", 3),
]

# path, content: allowed, however close to a rule
CLEAN = [
    ("plots/nearkv/program.py", "import subprocess\n"),
    ("plots/nearkv_test.py", "import nearkv\nnearkv.run({})\n"),
    ("plots/a.py", "import nearkv\nnearkv.read('folder')\n"),
    ("plots/notebooks/a.py", "import nearkv\nnearkv.run({})\n"),
    ("sim/core/engine.cpp", '#include <simgrid/s4u.hpp>\n#include "sim/core/units.hpp"\n'),
    ("sim/app/main.cpp", '#include "models/gpu/gpu.hpp"\n#include "build_info.hpp"\nexit(2);\n'),
    ("sim/app/process_pool.cpp", "  execv(words.front(), words.data());\n"),
    ("sim/app/a.cpp", "  make_system(x); point.system(x); throw std::system_error(code);\n"),
    ("sim/app/sweep.cpp", "_exit(0);\n  auto t = std::chrono::steady_clock::now();\n"),
    ("sim/core/config.cpp", "#include <nlohmann/json.hpp>\n"),
    ("kernels/cuda/a.cu", '#include <cuda_runtime.h>\n#include "kernels/api.hpp"\n'),
    ("kernels/cpu/a_test.cpp", '#include "sim/core/random.hpp"\n#include "validation/a.hpp"\n'),
    ("kernels/cpu/a_bench.cpp", "  auto t = std::chrono::steady_clock::now();\n"),
    ("kernels/test_a.hpp", '#pragma once\n#include "sim/core/random.hpp"\n'),
    ("traces/a.cpp", '#include "sim/core/random.hpp"\n#include "traces/page.hpp"\n'),
    ("models/gpu/a.cpp", '#include "kernels/api.hpp"\n#include "models/llm/shape.hpp"\n'),
    ("models/gpu/a_test.cpp", '#include "kernels/cpu/dense.hpp"\n  auto t = 75us;\n'),
    (
        "models/gpu/numbers.cpp",
        "#include <cstdint>\n"
        "  double x = x_2 * 0.5 + 2.0 + 1.0F + 10 + 64U + 0_B + 1_ps;  // 75 in a comment\n"
        "// unit: picoseconds in a second\n"
        "constexpr double kScale = 1e12;\n"
        "constexpr int kBits = 8 * 128;  // not a constant: the width of a word in the test\n"
        "constexpr std::array<int, 3> kTable = {\n"
        "    11,\n"
        "    // not a constant: indices of a permutation\n"
        "    12, 13};\n"
        "  std::string text = \"75 pages\"; char c = '7'; std::int64_t y = float32_of(x);\n",
    ),
    (
        "sim/core/words.cpp",
        "static_assert(sizeof(int) == 4);\n"
        "static const std::vector<int> kPages = {1};\n"
        "  static constexpr int kDies = 4;\n"
        "static int twice(int x);\n"
        "std::string describe(int x) {\n"
        "inline namespace literals {\n"
        "  auto end = app.exit(error); auto s = fmt::format(text); snprintf(a, b, c);\n"
        "  std::operand(x); grand(); my_assert(x); custom_atoi(x);\n"
        "  std::unordered_map<int, int> cache; auto hit = cache.find(1);\n"
        "  for (const int die : dies) {}\n"
        "using namespace std::chrono_literals;\n",
    ),
    (
        "sim/core/reasons.cpp",
        "// tidy allows mutable-global: SimGrid keeps the pointer\n"
        "  static int calls = 0;\n"
        "  printf(\"x\");  // tidy allows print: the last words before the process ends\n",
    ),
    ("sim/core/raw.cpp", '  auto s = R"(assert(rand()) std::cout)";  /* exit(1)\n assert(1) */\n'),
    ("plots/fig.py", "import json\nimport matplotlib\n"),
    ("plots/fig_test.py", "import subprocess\n"),
    ("models/gpu/long.md", 200 * "x" + "\n"),
    ("sim/core/wide.cpp", "// " + 97 * "\u00b5" + "\n"),
]

MESSAGE = re.compile(r"[\w./]+:\d+: [a-z-]+: [^;]+; .+")


def tree(files):
    folder = tempfile.TemporaryDirectory(prefix="tidy_selftest_")
    for path, content in files:
        file = Path(folder.name, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    return folder


def run(root):
    command = [sys.executable, "-B", tidy_check.__file__, root]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def problems():
    for rule in tidy_check.RULES:
        if rule not in {entry[0] for entry in BROKEN}:
            yield f"{rule}: no fixture breaks this rule"
    for rule, path, content, line in BROKEN:
        with tree([(path, content)]) as root:
            result = run(root)
        found = [text for text in result.stdout.splitlines() if MESSAGE.fullmatch(text)]
        expected = f"{path}:{line}: {rule}: "
        if result.returncode != 1 or len(found) != 1 or not found[0].startswith(expected):
            yield f"{expected}expected alone for {content!r}, got:\n{result.stdout}{result.stderr}"
    with tree(CLEAN) as root:
        result = run(root)
    if result.returncode != 0:
        yield f"findings in a clean tree:\n{result.stdout}{result.stderr}"


def main():
    found = list(problems())
    for problem in found:
        print(problem)
    print(f"{len(BROKEN)} broken and {len(CLEAN)} clean files, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
