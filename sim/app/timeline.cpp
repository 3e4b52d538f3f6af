#include "sim/app/timeline.hpp"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "build_info.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/hash.hpp"
#include "sim/core/trace_events.hpp"

namespace nearkv {

namespace {

constexpr int kServingPasses = 8;  // not a constant: a few, with a prefill and decoding

std::optional<int> number_in(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool is_whole = error == std::errc{} && end == text.data() + text.size();
  return is_whole && value >= 0 ? std::optional(value) : std::nullopt;
}

bool serves(const DesignPoint& point) {
  return dynamic_cast<const ServingSystem*>(point.system.get()) != nullptr;
}

/// What a reader must know about what is shown.
std::vector<std::string> notes_of(const DesignPoint& point, const RecordedPart& part,
                                  const ActivityLog& log) {
  std::vector<std::string> notes;
  if (point.simulation.fidelity == Fidelity::sampled) {
    notes.emplace_back(
        "the run samples decode steps; the part shown here was simulated whole, every page, in a "
        "run of its own");
  }
  if (!part.prefill && part.first >= 2 && !serves(point)) {
    notes.push_back(fmt::format(
        "decode steps before {} were not simulated; the machine was brought into the state in "
        "which they leave it",
        part.first - 1));
  }
  if (!point.workload.is_fixed() && !serves(point)) {
    notes.emplace_back("the first batch of the workload");
  }
  if (!point.csd.empty()) {
    notes.emplace_back(
        "flash channels and dies: a slice is what was asked together (a block of heads), with its "
        "pages and the busy time in it, not a page");
  }
  if (log.merged_gap() > SimDuration{}) {
    notes.push_back(fmt::format(
        "{} services are shown as fewer slices: equal ones of one track less than {} apart are one "
        "slice, which counts them and keeps their busy time",
        log.services(), format_short(log.merged_gap())));
  }
  if (log.waits_left_out() > 0) {
    notes.push_back(fmt::format("{} waits of threads are left out", log.waits_left_out()));
  }
  return notes;
}

std::string record_trace(const PreparedPoint& prepared, const RecordedPart& part,
                         std::string& summary) {
  const DesignPoint point = design_point_of(prepared);
  ActivityLog log({.most_spans = kMostTimelineSpans});
  const RunOutcome outcome = record_design_point(point, part, log);
  if (outcome.status != RunStatus::ok) {
    summary = fmt::format("no timeline: the run is {}", name_of(outcome.status));
    return "";
  }
  TraceNotes notes{.values = {{"name", prepared.name},
                              {"system", point.system_kind},
                              {"program", fmt::format("nearkv {}", build_info::kVersion)},
                              {"config_hash", content_hash(prepared.config.dump())},
                              {"shown", log.windows().size() == 1
                                            ? log.windows().front().name
                                            : fmt::format("{} to {}", log.windows().front().name,
                                                          log.windows().back().name)}},
                   .notes = notes_of(point, part, log)};
  summary = fmt::format("{}, {}", notes.values.back().second,
                        format_short(log.windows().back().end - log.windows().front().begin));
  for (const std::string& note : notes.notes) {
    summary += "\n  note: " + note;
  }
  return trace_events(log, notes);
}

}  // namespace

RecordedPart recorded_part(const std::string& text, const DesignPoint& point,
                           const std::string& option) {
  RecordedPart part{.chosen_by = fmt::format("{} {}", option, text)};
  if (text.empty()) {
    const int steps = point.workload.is_fixed() ? point.workload.output_tokens - 1 : 1;
    part.chosen_by = option;
    part.first = serves(point) ? 0 : steps / 2;
    part.last = serves(point) ? kServingPasses : part.first + 1;
    return part;
  }
  if (text == "prefill") {
    if (serves(point)) {
      throw ConfigError(
          fmt::format("{}: {} has no prefill of its own; its first passes are those of prompts",
                      part.chosen_by, point.system_kind));
    }
    part.prefill = true;
    return part;
  }
  const std::size_t colon = text.find(':');
  const auto first = number_in(std::string_view(text).substr(0, colon));
  const auto last = colon == std::string::npos
                        ? std::nullopt
                        : number_in(std::string_view(text).substr(colon + 1));
  if (!first || !last || *first >= *last) {
    throw ConfigError(
        fmt::format("{}: must be A:B with A below B (steps A to B - 1, counted from 0), or prefill",
                    part.chosen_by));
  }
  part.first = *first;
  part.last = *last;
  const int steps = point.workload.output_tokens - 1;
  if (point.workload.is_fixed() && !serves(point) && part.last > steps) {
    throw ConfigError(
        fmt::format("{}: there are {} decode steps, 0 to {}", part.chosen_by, steps, steps - 1));
  }
  return part;
}

DesignPoint design_point_of(const PreparedPoint& prepared) {
  DesignPoint point;
  read_fields(prepared.config, [&point](FieldVisitor& v) { point.fields(v); });
  return point;
}

void check_timeline(const TimelineOptions& options, const PreparedPoint& prepared) {
  static_cast<void>(recorded_part(options.steps, design_point_of(prepared), "--timeline-steps"));
  const std::filesystem::path folder =
      options.file.has_parent_path() ? options.file.parent_path() : ".";
  check_output_folder(folder, "--timeline");
  if (std::filesystem::is_directory(options.file)) {
    throw ConfigError(
        fmt::format("--timeline {}: is a folder; name a file", options.file.string()));
  }
}

TimelineOutcome write_timeline(const TimelineOptions& options, const PreparedPoint& prepared,
                               const RunLimits& limits) {
  const RecordedPart part =
      recorded_part(options.steps, design_point_of(prepared), "--timeline-steps");
  constexpr char kSeparator = '\f';  // JSON text has none
  const auto work = [&](std::size_t /*index*/) {
    std::string summary;
    const std::string trace = record_trace(prepared, part, summary);
    return summary + kSeparator + trace;
  };
  ChildResult result;
  run_in_processes(1, {1, {}, limits.child}, work,
                   [&](std::size_t /*index*/, ChildResult done) { result = std::move(done); });
  if (result.end == ChildEnd::user_error) {
    throw ConfigError(result.output);
  }
  if (is_stopped(result.end)) {
    return {"no timeline: " + stopped_detail(result.end, limits), true};
  }
  check(result.end == ChildEnd::finished, "the timeline: " + result.output);
  const std::size_t separator = result.output.find(kSeparator);
  std::string summary = result.output.substr(0, separator);
  const std::string trace = result.output.substr(separator + 1);
  if (trace.empty()) {
    return {std::move(summary)};
  }
  write_file_atomically(options.file, trace);
  return {fmt::format("timeline: {}: {}", options.file.string(), summary)};
}

}  // namespace nearkv
