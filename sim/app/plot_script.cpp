#include "sim/app/plot_script.hpp"

#include <string_view>

#include <fmt/format.h>

#include "sim/app/exit_status.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;

namespace {

// Debian's own Python: its packages are the ones that the entry script installs.
constexpr std::string_view kPython = "/usr/bin/python3";
constexpr int kExitPackageMissing = 69;  // EX_UNAVAILABLE; plots/style.py ends with it

std::string last_line(std::string text) {
  text.erase(text.find_last_not_of('\n') + 1);
  const std::size_t start = text.rfind('\n');
  return start == std::string::npos ? text : text.substr(start + 1);
}

}  // namespace

PlotResult draw_figure(const std::string& name, const fs::path& csv, const fs::path& stem) {
  const fs::path script = shipped_configs().parent_path() / "plots" / (name + ".py");
  if (!fs::exists(script)) {
    return {};
  }
  if (!fs::exists(kPython)) {
    return {.files = {},
            .warning = fmt::format("no picture: {} is missing; install the Debian packages "
                                   "python3 and python3-matplotlib",
                                   kPython),
            .problem = {}};
  }
  const ChildResult result =
      run_program({std::string(kPython), "-B", script.string(), csv.string(), stem.string()});
  if (result.end == ChildEnd::finished && result.exit_status == kExitPackageMissing) {
    return {.files = {},
            .warning = fmt::format("no picture: {}", last_line(result.diagnostics)),
            .problem = {}};
  }
  if (result.end != ChildEnd::finished || result.exit_status != kExitOk) {
    return {.files = {},
            .warning = {},
            .problem = fmt::format(
                "{}: {}: {}", script.string(),
                result.end == ChildEnd::finished
                    ? fmt::format("failed with status {}", result.exit_status)
                    : result.output,
                result.diagnostics.empty() ? "it said nothing" : last_line(result.diagnostics))};
  }
  return {.files = {stem.string() + ".pdf", stem.string() + ".png"}, .warning = {}, .problem = {}};
}

}  // namespace nearkv
