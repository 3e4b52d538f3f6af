// nearkv sensitivity SPEC: an analysis of the Python package, with this program for its runs.
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include "sim/app/commands.hpp"
#include "sim/app/point.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/app/run_limits.hpp"
#include "sim/core/allowed_paths.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;

namespace {

struct SensitivityOptions {
  std::string spec;
  std::string out;
  std::string cache;
  bool has_cache = false;
  int jobs = available_cores();
  bool as_json = false;
  RunLimitOptions limits;
};

/// Becomes Python; returns only when that is not possible.
void run(const SensitivityOptions& options) {
  static_cast<void>(limits_of(options.limits));  // a wrong one is told now
  const fs::path spec = path_of_config(options.spec);
  static_cast<void>(load_json(spec));  // Python reads it less strictly, however large it is
  const fs::path home = shipped_configs().parent_path();
  const char* chosen = std::getenv("NEARKV_PYTHON");
  const std::string python = chosen != nullptr && *chosen != '\0' ? chosen : "/usr/bin/python3";
  std::vector<std::string> words{
      python,        "-B",          "-m",     "nearkv",
      "sensitivity", spec.string(), "--jobs", std::to_string(options.jobs)};
  if (!options.out.empty()) {
    words.insert(words.end(), {"--out", options.out});
  }
  if (options.has_cache) {
    words.insert(words.end(), {"--cache", options.cache});
  }
  const std::vector<std::string> limits = as_arguments(options.limits);
  words.insert(words.end(), limits.begin(), limits.end());
  if (options.as_json) {
    words.emplace_back("--json");
  }
  // It writes sweeps of the spec's systems elsewhere; these may name what the spec may.
  const std::vector<std::string> allowed = allowed_paths().options();
  words.insert(words.end(), allowed.begin(), allowed.end());
  setenv("NEARKV_BINARY", fs::read_symlink("/proc/self/exe").c_str(), 1);
  setenv("NEARKV_HOME", home.c_str(), 1);
  setenv("PYTHONPATH", (home / "plots").c_str(), 1);
  std::vector<char*> arguments;
  for (std::string& word : words) {
    arguments.push_back(word.data());
  }
  arguments.push_back(nullptr);
  execv(python.c_str(), arguments.data());
  throw ConfigError(
      fmt::format("{}: {}; install the Debian package python3, or name a Python in "
                  "NEARKV_PYTHON",
                  python, std::strerror(errno)));
}

}  // namespace

void add_sensitivity_command(CLI::App& command, int& /*exit_status*/) {
  auto options = std::make_shared<SensitivityOptions>();
  command
      .add_option("SPEC", options->spec,
                  "What is asked, a JSON file (plots/nearkv/sensitivity.py explains it)")
      ->required();
  command.add_option("--out", options->out,
                     "Folder for sweeps, table and picture (default: results/NAME)");
  command.add_option("--jobs", options->jobs, "Points at a time")
      ->check(CLI::Range(1, kMostJobs))
      ->capture_default_str();
  const CLI::Option* cache = command.add_option("--cache", options->cache,
                                                "Folder of results that sweeps share; empty: none");
  add_limit_options(command, options->limits);
  command.add_flag("--json", options->as_json, "Print the numbers as JSON");
  command.callback([options, cache] {
    options->has_cache = cache->count() > 0;
    run(*options);
  });
}

}  // namespace nearkv
