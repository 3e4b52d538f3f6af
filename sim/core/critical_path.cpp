#include "sim/core/critical_path.hpp"

#include <algorithm>
#include <cctype>
#include <map>
#include <tuple>

#include "sim/core/check.hpp"

namespace nearkv {

std::vector<PathShare> critical_path(const ActivityLog& log, const ActivityLog::Window& window) {
  using Words = std::tuple<ActivityLog::Text, ActivityLog::Text, ActivityLog::Text, Activity>;
  std::map<Words, SimDuration> sums;
  SimDuration before_recording{};
  SimTime at = window.end;
  // What happens in no phase (inside a drive) is part of the phase that waits for it.
  ActivityLog::Text phase = ActivityLog::kNoPhase;
  for (ActivityLog::Cause cause = window.last; at > window.begin;) {
    const ActivityLog::CauseNode& node = log.node(cause);
    check(node.at == at, "a chain of causes with a gap");
    phase = node.phase == ActivityLog::kNoPhase ? phase : node.phase;
    const auto pieces = log.pieces(node);
    for (auto piece = pieces.rbegin(); piece != pieces.rend() && at > window.begin; ++piece) {
      const SimDuration time = std::min(piece->time, at - window.begin);
      sums[{phase, piece->resource, piece->what, piece->activity}] += time;
      at -= time;
    }
    if (node.before == ActivityLog::kNoCause) {
      before_recording += std::max(at - window.begin, SimDuration{0});
      break;
    }
    cause = node.before;
  }
  std::vector<PathShare> shares;
  for (const auto& [words, time] : sums) {
    const auto& [phase_of, resource, what, activity] = words;
    shares.push_back({phase_of == ActivityLog::kNoPhase ? "" : log.text(phase_of),
                      log.text(resource), log.text(what), activity, time});
  }
  if (before_recording > SimDuration{}) {
    shares.push_back({"", "before the recording", "", Activity::waiting, before_recording});
  }
  std::sort(shares.begin(), shares.end(), [](const PathShare& a, const PathShare& b) {
    return std::tie(b.time, a.phase, a.resource, a.what, a.activity) <
           std::tie(a.time, b.phase, b.resource, b.what, b.activity);
  });
  return shares;
}

std::string family_of(const std::string& resource) {
  std::string family;
  for (std::size_t begin = 0; begin <= resource.size();) {
    const std::size_t end = std::min(resource.find('/', begin), resource.size());
    const std::string part = resource.substr(begin, end - begin);
    const bool is_number =
        !part.empty() &&
        std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
    if (!is_number) {
      family += (family.empty() ? "" : "/") + part;
    }
    begin = end + 1;
  }
  return family;
}

}  // namespace nearkv
