// For tests: reads a trace file back and checks what every trace must keep.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "sim/core/check.hpp"

namespace nearkv {

/// A trace as a viewer sees it; times in ps.
struct ReadTrace {
  struct Slice {
    std::string name;
    std::int64_t begin;
    std::int64_t end;
    nlohmann::json arguments;
  };
  std::map<std::string, std::vector<Slice>> tracks;         // by name
  std::map<std::string, std::vector<double>> counters;      // values by name
  std::map<std::int64_t, std::vector<std::string>> arrows;  // tracks that each passes
  nlohmann::json other;

  /// Busy time of all lanes of a resource.
  [[nodiscard]] std::int64_t busy(const std::string& resource) const {
    std::int64_t sum = 0;
    for (const auto& [name, slices] : tracks) {
      if (name != resource && !name.starts_with(resource + " #")) {
        continue;
      }
      for (const Slice& slice : slices) {
        sum += slice.arguments.contains("busy_us")
                   ? slice.arguments.at("busy_us").get<std::int64_t>()
                   : slice.end - slice.begin;
      }
    }
    return sum;
  }
  [[nodiscard]] std::int64_t sum_of(const std::string& resource, const char* argument) const {
    std::int64_t sum = 0;
    for (const auto& [name, slices] : tracks) {
      for (const Slice& slice : slices) {
        const bool is_of = name == resource || name.starts_with(resource + " #");
        sum += is_of ? slice.arguments.value(argument, std::int64_t{0}) : 0;
      }
    }
    return sum;
  }
};

/// Decimal microseconds with six decimals make whole picoseconds: "12.000345" without its point.
inline std::string with_whole_times(std::string text) {
  for (const std::string key : {"\"ts\":", "\"busy_us\":"}) {
    for (std::size_t at = text.find(key); at != std::string::npos; at = text.find(key, at + 1)) {
      const std::size_t point = text.find('.', at);
      REQUIRE(point != std::string::npos);
      text.erase(point, 1);
      // JSON has no leading zeros.
      const std::size_t begin = at + key.size();
      const std::size_t end = text.find_first_not_of("0123456789", begin);
      REQUIRE(end - point == 6);
      std::size_t first = begin;
      while (first + 1 < end && text[first] == '0') {
        ++first;
      }
      text.erase(begin, first - begin);
    }
  }
  return text;
}

/// Checks: times of a track do not go back, slices nest, every slice ends, arrows have both ends
/// within slices.
inline ReadTrace read_trace(const std::string& text) {
  const nlohmann::json document = nlohmann::json::parse(with_whole_times(text));
  ReadTrace trace;
  trace.other = document.at("otherData");
  std::map<std::pair<int, int>, std::string> names;
  std::map<std::pair<int, int>, std::vector<ReadTrace::Slice>> open;
  std::map<std::pair<int, int>, std::int64_t> latest;
  std::map<std::int64_t, std::string> phases;  // of arrows
  for (const nlohmann::json& event : document.at("traceEvents")) {
    const std::string phase = event.at("ph");
    if (phase == "M") {
      if (event.at("name") == "thread_name") {
        names[{event.at("pid"), event.at("tid")}] = event.at("args").at("name");
      }
      continue;
    }
    if (phase == "C") {
      for (const auto& [unit, value] : event.at("args").items()) {
        trace.counters[event.at("name")].push_back(value);
      }
      continue;
    }
    const std::pair<int, int> track{event.at("pid"), event.at("tid")};
    const std::int64_t at = event.at("ts");
    CHECK(at >= latest[track]);
    latest[track] = at;
    std::vector<ReadTrace::Slice>& stack = open[track];
    if (phase == "B") {
      stack.push_back({event.at("name"), at, at, event.value("args", nlohmann::json::object())});
    } else if (phase == "E") {
      REQUIRE(!stack.empty());
      stack.back().end = at;
      trace.tracks[names.at(track)].push_back(stack.back());
      stack.pop_back();
    } else {
      REQUIRE((phase == "s" || phase == "t" || phase == "f"));
      CHECK(!stack.empty());  // an arrow binds to a slice
      trace.arrows[event.at("id")].push_back(names.at(track));
      phases[event.at("id")] += phase;
    }
  }
  for (const auto& [track, slices] : open) {
    CHECK(slices.empty());
  }
  for (const auto& [id, of_arrow] : phases) {
    CHECK(std::count(of_arrow.begin(), of_arrow.end(), 's') == 1);
    CHECK(std::count(of_arrow.begin(), of_arrow.end(), 'f') == 1);
  }
  return trace;
}

}  // namespace nearkv
