#include "sim/app/point.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <sstream>

#include <fmt/format.h>
#include <unistd.h>

#include "build_info.hpp"
#include "models/llm/huggingface_config.hpp"
#include "models/systems/design_point.hpp"
#include "models/systems/run.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/core/allowed_paths.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

fs::path path_of(const std::string& file) {
  if (file.starts_with(kShippedPrefix)) {
    return shipped_configs() / file.substr(kShippedPrefix.size());
  }
  return file;
}

fs::path path_of_config(const std::string& file) {
  fs::path path = path_of(file);
  allowed_paths().allow_for_config(path);
  return path;
}

PreparedPoint prepare_point(const fs::path& file, const std::vector<std::string>& overrides) {
  PreparedPoint point{
      .origin = file.string(), .name = {}, .config = load_config(file, translate_huggingface)};
  for (const std::string& assignment : overrides) {
    apply_override(point.config, assignment);
  }
  point.name = check_point(point.config);
  return point;
}

std::string check_point(const json& config) {
  DesignPoint point;
  read_fields(config, [&point](FieldVisitor& v) { point.fields(v); });
  if (!is_file_name(point.name)) {
    throw ConfigError(
        fmt::format("/name: \"{}\" names files; use letters, digits, '.', '_' and "
                    "'-', and start with a letter or digit",
                    point.name));
  }
  return point.name;
}

const json& plain_value(const json& field) {
  return field.is_object() && field.contains("value") ? field.at("value") : field;
}

std::string prefix_lines(const std::string& prefix, const std::string& lines) {
  std::istringstream stream(lines);
  std::string prefixed;
  for (std::string line; std::getline(stream, line);) {
    prefixed += (prefixed.empty() ? "" : "\n") + prefix + ": " + line;
  }
  return prefixed;
}

namespace {

/// The record of a design point before it runs.
RunRecord record_of(const PreparedPoint& prepared, DesignPoint& point) {
  RunRecord record;
  record.constants = read_fields(prepared.config, [&point](FieldVisitor& v) { point.fields(v); });
  record.name = prepared.name;
  record.config = prepared.config;
  record.seed = point.simulation.seed;
  record.fidelity = plain_value(prepared.config.at("simulation").at("fidelity"));
  return record;
}

/// What is left of a point that a limit ended.
void take_stopped(const PreparedPoint& prepared, const RunLimits& limits, PointOutcome& outcome) {
  RunRecord record;
  record.name = prepared.name;
  record.config = prepared.config;
  try {
    if (DesignPoint point; prepared.run == nullptr) {
      record = record_of(prepared, point);
    }
  } catch (const ConfigError& error) {  // it was about to say so
    outcome.end = ChildEnd::user_error;
    outcome.problem = prefix_lines(prepared.origin, error.what());
    return;
  }
  record.outcome.status = RunStatus::stopped;
  record.outcome.status_detail = stopped_detail(outcome.end, limits);
  outcome.problem = prefix_lines(prepared.origin, record.outcome.status_detail);
  outcome.record_text = json_text(record.to_json(build_info::kVersion));
}

}  // namespace

RunRecord simulate(const PreparedPoint& prepared) {
  DesignPoint point;
  RunRecord record = record_of(prepared, point);
  record.outcome = run_design_point(point);
  for (const Metric& metric : record.outcome.metrics.all()) {
    check(std::isfinite(metric.value), fmt::format("metric {} is no number", metric.name));
  }
  return record;
}

std::vector<PointOutcome> run_points(const std::vector<PreparedPoint>& points,
                                     const RunPointsOptions& options) {
  std::vector<PointOutcome> outcomes(points.size());
  Progress progress(options.label, points.size(), options.progress);
  constexpr char kSeparator = '\f';  // JSON text has none
  const auto work = [&points](std::size_t i) {
    const PreparedPoint& point = points[i];
    const RunRecord record = point.run != nullptr ? point.run(point) : simulate(point);
    return json_text(record.to_json(build_info::kVersion)) + kSeparator +
           record.outcome.requests_table;
  };
  const auto done = [&](std::size_t i, ChildResult result) {
    if (!result.diagnostics.empty()) {
      result.diagnostics.erase(result.diagnostics.find_last_not_of('\n') + 1);
      progress.say(prefix_lines(points[i].origin, result.diagnostics));
    }
    PointOutcome& outcome = outcomes[i];
    outcome.end = result.end;
    outcome.use = result.use;
    if (result.end == ChildEnd::finished) {
      const std::size_t separator = result.output.find(kSeparator);
      outcome.record_text = result.output.substr(0, separator);
      outcome.requests = result.output.substr(separator + 1);
    } else if (is_stopped(result.end)) {
      take_stopped(points[i], options.limits, outcome);
    } else {
      outcome.problem = prefix_lines(points[i].origin, result.output);
    }
    if (options.done) {
      options.done(i, outcome);
    }
    progress.advance();
  };
  run_in_processes(points.size(),
                   {options.jobs, [&progress] { progress.tick(); }, options.limits.child}, work,
                   done);
  return outcomes;
}

int report_problems(const std::vector<PointOutcome>& outcomes) {
  int status = kExitOk;
  for (const PointOutcome& outcome : outcomes) {
    if (outcome.has_finished()) {
      continue;
    }
    fmt::print(stderr, "{}\n", outcome.problem);
    const bool is_users = outcome.end == ChildEnd::user_error;
    status = std::max(status, is_users                  ? kExitUserError
                              : is_stopped(outcome.end) ? kExitPointsFailed
                                                        : kExitInternalError);
  }
  return status;
}

bool is_file_name(std::string_view name) {
  const auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
  return !name.empty() && is_word(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return is_word(c) || c == '.' || c == '_' || c == '-'; });
}

void check_output_folder(const fs::path& folder, std::string_view option) {
  fs::path existing = folder;
  std::error_code ignored;
  while (!fs::exists(existing, ignored) && existing.has_relative_path()) {
    existing = existing.has_parent_path() ? existing.parent_path() : ".";
  }
  const std::string culprit = existing == folder ? "" : existing.string() + " ";
  if (!fs::is_directory(existing, ignored)) {
    throw ConfigError(fmt::format("{}: {}is no folder; name another one with {}", folder.string(),
                                  culprit, option));
  }
  if (access(existing.c_str(), W_OK | X_OK) != 0) {
    throw ConfigError(fmt::format("{}: {}is not writable; name another folder with {}",
                                  folder.string(), culprit, option));
  }
}

std::string json_text(const json& document) {
  constexpr int kIndent = 2;
  return document.dump(kIndent) + "\n";
}

json use_as_json(const ResourceUse& use) {
  return {{"wall_seconds", use.wall_seconds},
          {"processor_seconds", use.processor_seconds},
          {"peak_memory_bytes", use.peak_memory_bytes}};
}

json build_as_json() {
  return {{"version", build_info::kVersion},
          {"compiler", build_info::kCompiler},
          {"build_type", build_info::kBuildType},
          {"sanitizers", build_info::kSanitizers},
          {"simgrid", build_info::kSimgridVersion}};
}

}  // namespace nearkv
