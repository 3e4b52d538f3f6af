#include "sim/app/explain.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <string_view>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "sim/app/process_pool.hpp"
#include "sim/app/table.hpp"
#include "sim/app/timeline.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

constexpr double kLeastShown = 0.0005;  // not a constant: of the step; less is listed together
constexpr std::size_t kMostResources = 8;

std::string_view name_of(Activity activity) {
  return activity == Activity::working ? "working" : "waiting";
}

double share_of(SimDuration part, SimDuration whole) {
  return whole == SimDuration{} ? 0 : to_seconds(part) / to_seconds(whole);
}

std::string percent(SimDuration part, SimDuration whole) {
  constexpr double kPercent = 100;  // unit: of a whole
  return fmt::format("{:.1f} %", share_of(part, whole) * kPercent);
}

std::string phase_name(const PathShare& share) {
  return share.phase.empty() ? "outside of phases" : share.phase;
}

json shares_as_json(const std::vector<PathShare>& shares) {
  json list = json::array();
  for (const PathShare& share : shares) {
    list.push_back({{"phase", share.phase},
                    {"resource", share.resource},
                    {"what", share.what},
                    {"activity", name_of(share.activity)},
                    {"ps", share.time.count()}});
  }
  return list;
}

std::string record_path(const PreparedPoint& prepared, const RecordedPart& part) {
  const DesignPoint point = design_point_of(prepared);
  ActivityLog log({.most_spans = kMostTimelineSpans});
  const RunOutcome outcome = record_design_point(point, part, log);
  if (outcome.status != RunStatus::ok) {
    throw ConfigError(
        fmt::format("/workload: there is no step to explain: {}", outcome.status_detail));
  }
  const ActivityLog::Window& window = log.windows().back();
  return json{{"name", window.name},
              {"ps", (window.end - window.begin).count()},
              {"shares", shares_as_json(critical_path(log, window))}}
      .dump();
}

/// Phases in the order of their times, with their shares.
std::vector<std::pair<std::string, std::vector<PathShare>>> by_phase(const StepPath& path) {
  std::map<std::string, std::vector<PathShare>> phases;
  std::map<std::string, SimDuration> sums;
  for (const PathShare& share : path.shares) {
    phases[phase_name(share)].push_back(share);
    sums[phase_name(share)] += share.time;
  }
  std::vector<std::pair<std::string, std::vector<PathShare>>> sorted(phases.begin(), phases.end());
  std::stable_sort(sorted.begin(), sorted.end(), [&](const auto& a, const auto& b) {
    return sums.at(a.first) > sums.at(b.first);
  });
  return sorted;
}

std::string tree_text(const StepPath& path) {
  using Align = TextTable::Align;
  TextTable table({{"step, phase, what", Align::left},
                   {"resource", Align::left},
                   {"", Align::left},
                   {"time", Align::right},
                   {"share", Align::right}});
  table.row({path.name, "", "", format_short(path.time), percent(path.time, path.time)});
  for (const auto& [phase, shares] : by_phase(path)) {
    SimDuration sum{};
    for (const PathShare& share : shares) {
      sum += share.time;
    }
    table.row({"  " + phase, "", "", format_short(sum), percent(sum, path.time)});
    SimDuration rest{};
    int left_out = 0;
    for (const PathShare& share : shares) {
      if (share_of(share.time, path.time) < kLeastShown) {
        rest += share.time;
        ++left_out;
        continue;
      }
      table.row({"    " + share.what, share.resource, std::string(name_of(share.activity)),
                 format_short(share.time), percent(share.time, path.time)});
    }
    if (left_out > 0) {
      table.row({fmt::format("    others ({})", left_out), "", "", format_short(rest),
                 percent(rest, path.time)});
    }
  }
  return table.text();
}

std::string speed_up(SimDuration from, SimDuration to) {
  return fmt::format("{:.3f}x", to_seconds(from) / to_seconds(to));
}

std::string resources_text(const StepPath& path) {
  using Align = TextTable::Align;
  TextTable table({{"resource", Align::left},
                   {"on the critical path", Align::right},
                   {"", Align::right},
                   {"if twice as fast, at most", Align::right}});
  std::size_t shown = 0;
  for (const ResourceShare& share : resource_shares(path)) {
    if (share_of(share.time, path.time) < kLeastShown || shown == kMostResources) {
      break;
    }
    ++shown;
    table.row({share.family, format_short(share.time), percent(share.time, path.time),
               is_known_resource(share.family)
                   ? speed_up(path.time, predicted_time(path, share.family))
                   : "-"});
  }
  return table.text();
}

std::string confirmation_text(const StepPath& path, const Confirmation& twice) {
  std::string text =
      fmt::format("{} twice as fast: predicted {} ({}), simulated {} ({})\n", twice.family,
                  format_short(twice.predicted), speed_up(path.time, twice.predicted),
                  format_short(twice.simulated), speed_up(path.time, twice.simulated));
  for (const ChangedConstant& change : twice.changes) {
    text += fmt::format("  {}: {} -> {}\n", change.path, change.from, change.to);
  }
  return text;
}

}  // namespace

StepPath path_of_step(const PreparedPoint& prepared, const RecordedPart& part) {
  ChildResult result;
  run_in_processes(
      1, {1, {}}, [&](std::size_t /*index*/) { return record_path(prepared, part); },
      [&](std::size_t /*index*/, ChildResult done) { result = std::move(done); });
  if (result.end == ChildEnd::user_error) {
    throw ConfigError(result.output);
  }
  check(result.end == ChildEnd::finished, "the recorded run: " + result.output);
  const json found = json::parse(result.output);
  StepPath path{found.at("name"), SimDuration{found.at("ps").get<std::int64_t>()}, {}};
  for (const json& share : found.at("shares")) {
    path.shares.push_back(
        {share.at("phase"), share.at("resource"), share.at("what"),
         share.at("activity") == name_of(Activity::working) ? Activity::working : Activity::waiting,
         SimDuration{share.at("ps").get<std::int64_t>()}});
  }
  return path;
}

std::vector<ResourceShare> resource_shares(const StepPath& path) {
  std::map<std::string, SimDuration> sums;
  for (const PathShare& share : path.shares) {
    sums[family_of(share.resource)] += share.time;
  }
  std::vector<ResourceShare> shares;
  for (const auto& [family, time] : sums) {
    shares.push_back({family, time});
  }
  std::stable_sort(shares.begin(), shares.end(),
                   [](const ResourceShare& a, const ResourceShare& b) { return a.time > b.time; });
  return shares;
}

SimDuration predicted_time(const StepPath& path, const std::string& family) {
  SimDuration time = path.time;
  for (const ResourceShare& share : resource_shares(path)) {
    time -= share.family == family ? share.time / 2 : SimDuration{};
  }
  return time;
}

std::string explanation_text(const Explanation& explanation) {
  const StepPath& path = explanation.path;
  std::string text =
      fmt::format("{} ({}): {} takes {}\n\n{}\n{}", explanation.name, explanation.system, path.name,
                  format_short(path.time), tree_text(path), resources_text(path));
  if (explanation.twice) {
    text += "\n" + confirmation_text(path, *explanation.twice);
  }
  return text;
}

json explanation_json(const Explanation& explanation) {
  const StepPath& path = explanation.path;
  json resources = json::array();
  for (const ResourceShare& share : resource_shares(path)) {
    json entry{{"resource", share.family},
               {"ps", share.time.count()},
               {"share", share_of(share.time, path.time)}};
    if (is_known_resource(share.family)) {
      entry["predicted_speedup"] =
          to_seconds(path.time) / to_seconds(predicted_time(path, share.family));
    }
    resources.push_back(std::move(entry));
  }
  json document{{"name", explanation.name},
                {"system", explanation.system},
                {"config_hash", explanation.config_hash},
                {"shown", path.name},
                {"ps", path.time.count()},
                {"critical_path", shares_as_json(path.shares)},
                {"resources", resources}};
  if (explanation.twice) {
    const Confirmation& twice = *explanation.twice;
    json changes = json::array();
    for (const ChangedConstant& change : twice.changes) {
      changes.push_back({{"path", change.path}, {"from", change.from}, {"to", change.to}});
    }
    document["twice_as_fast"] = {
        {"resource", twice.family},
        {"predicted_ps", twice.predicted.count()},
        {"predicted_speedup", to_seconds(path.time) / to_seconds(twice.predicted)},
        {"simulated_ps", twice.simulated.count()},
        {"simulated_speedup", to_seconds(path.time) / to_seconds(twice.simulated)},
        {"changes", changes}};
  }
  return document;
}

}  // namespace nearkv
