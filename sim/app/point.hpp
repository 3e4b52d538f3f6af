// A design point on its way from JSON file to run record.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/process_pool.hpp"
#include "sim/app/progress.hpp"
#include "sim/app/run_limits.hpp"
#include "sim/core/record.hpp"

namespace nearkv {

/// A resolved and checked design point, or another thing to simulate that has a config.
struct PreparedPoint {
  std::string origin;     // for messages: the file, or the figure and where in it
  std::string name;       // of its record and its files
  nlohmann::json config;  // resolved
  RunRecord (*run)(const PreparedPoint&) = nullptr;  // what simulates it; nullptr: simulate()
};

/// Begins the name of a file below the shipped configs.
inline constexpr std::string_view kShippedPrefix = "nearkv:";

/// Where a file given on the command line lies: "nearkv:models/x.json" is below the shipped
/// configs.
[[nodiscard]] std::filesystem::path path_of(const std::string& file);

/// The same of a config, which may name files from now on (sim/core/allowed_paths.hpp).
[[nodiscard]] std::filesystem::path path_of_config(const std::string& file);

/// Reads a file, applies "path=value" overrides and checks the result. Throws ConfigError.
[[nodiscard]] PreparedPoint prepare_point(const std::filesystem::path& file,
                                          const std::vector<std::string>& overrides);

/// Reads `config` as a design point and returns its name. Throws ConfigError.
std::string check_point(const nlohmann::json& config);

/// The value of a field, out of its sourced constant where it is in one.
[[nodiscard]] const nlohmann::json& plain_value(const nlohmann::json& field);

/// Puts "origin: " before each line of an error message.
[[nodiscard]] std::string prefix_lines(const std::string& prefix, const std::string& lines);

/// Runs a design point in this process. At most one call at a time.
[[nodiscard]] RunRecord simulate(const PreparedPoint& prepared);

/// A point that ran, or the reason why it did not.
struct PointOutcome {
  ChildEnd end = ChildEnd::crashed;
  std::string record_text;  // the record's file, when finished; of status stopped at a limit
  std::string requests{};   // CSV of the requests; empty for a fixed batch
  std::string problem;      // else one line a problem, each with the point's origin
  ResourceUse use;

  [[nodiscard]] bool has_record() const { return !record_text.empty(); }
  /// Whether it ran to its end, so that its record is a result.
  [[nodiscard]] bool has_finished() const { return end == ChildEnd::finished; }
};

struct RunPointsOptions {
  int jobs = 1;
  std::string label;  // of the progress
  Progress::Style progress = Progress::Style::silent;
  std::function<void(std::size_t, const PointOutcome&)>
      done{};          // called as each ends; may be empty
  RunLimits limits{};  // of each point
};

/// Runs the points in child processes. Outcomes are in the order of the points, and their bytes
/// do not depend on the number of jobs. Throws Interrupted.
[[nodiscard]] std::vector<PointOutcome> run_points(const std::vector<PreparedPoint>& points,
                                                   const RunPointsOptions& options);

/// Prints the problems of the outcomes that did not finish, and returns the exit status that they
/// mean.
int report_problems(const std::vector<PointOutcome>& outcomes);

/// Whether a record or a figure may be called so: it becomes a file name.
[[nodiscard]] bool is_file_name(std::string_view name);

/// Throws ConfigError when files below `folder` cannot be written; `option` is what names it.
/// Creates nothing.
void check_output_folder(const std::filesystem::path& folder, std::string_view option = "--out");

/// The text of a JSON output file.
[[nodiscard]] std::string json_text(const nlohmann::json& document);

/// Wall time, processor time and memory of a run, and the build that took them: the sidecar file
/// of a record.
[[nodiscard]] nlohmann::json use_as_json(const ResourceUse& use);
[[nodiscard]] nlohmann::json build_as_json();

}  // namespace nearkv
