// nearkv figure, for other commands that need its files: nearkv report makes those that are
// missing.
#pragma once

#include <string>
#include <vector>

#include "sim/app/process_pool.hpp"
#include "sim/app/run_limits.hpp"
#include "sim/app/uncertainty/sample_options.hpp"

namespace nearkv {

/// What goes to stdout; progress and problems go to stderr always.
enum class FigurePrint { text, json, nothing };

struct FigureOptions {
  std::vector<std::string> names;
  std::string out = "results";
  int jobs = available_cores();
  bool quick = false;
  FigurePrint print = FigurePrint::text;
  SampleOptions samples;
  RunLimitOptions limits;
};

/// Runs figures together and writes their files; the exit status. Throws ConfigError.
[[nodiscard]] int run_figures(const FigureOptions& options);

}  // namespace nearkv
