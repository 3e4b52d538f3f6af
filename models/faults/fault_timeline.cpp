#include "models/faults/fault_timeline.hpp"

#include <cmath>
#include <fstream>
#include <stdexcept>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {
constexpr std::size_t kMostTimes = 1'000'000;  // not a constant: a limit of the input
}  // namespace

std::vector<SimDuration> read_fault_times(const std::string& file) {
  std::ifstream stream(file);
  if (!stream) {
    throw ConfigError(fmt::format("{}: cannot be read; a trace of faults has a duration a line",
                                  printable(file)));
  }
  std::vector<SimDuration> times;
  int number = 0;
  for (std::string line; std::getline(stream, line);) {
    ++number;
    line.erase(line.find_last_not_of(" \t\r") + 1);
    if (line.empty() || line.front() == '#') {
      continue;
    }
    const auto refuse = [&](const std::string& why) {
      throw ConfigError(fmt::format("{}:{}: {}", printable(file), number, why));
    };
    try {
      times.push_back(parse_duration(line));
    } catch (const std::exception& problem) {
      refuse(problem.what());
    }
    if (times.back() > kLatestFault) {
      refuse("is more than 20 days, longer than any run");
    }
    if (times.size() > kMostTimes) {
      refuse(fmt::format("a trace of more than {} faults", kMostTimes));
    }
  }
  return times;
}

FaultTimeline::FaultTimeline(const std::vector<FaultConfig>& faults, std::uint64_t seed)
    : faults_(faults) {
  for (int i = 0; i < static_cast<int>(faults_.size()); ++i) {
    intervals_.emplace_back(seed, fmt::format("faults/{}/times", i));
    const FaultTimes& when = faults_[static_cast<std::size_t>(i)].when;
    if (when.kind == FaultTimes::Kind::at) {
      events_.push({SimTime{when.time}, i, true});
    } else if (when.kind == FaultTimes::Kind::rate) {
      draw(i, SimTime{});
    } else {
      for (const SimDuration time : read_fault_times(when.file)) {
        events_.push({SimTime{time}, i, true});
      }
    }
  }
}

void FaultTimeline::draw(int fault, SimTime after) {
  constexpr double kPicoseconds = 1e12;  // unit: a second's
  const auto i = static_cast<std::size_t>(fault);
  const double mean = to_seconds(faults_[i].when.mean_interval);
  const double interval = -mean * portable_log(1 - intervals_[i].uniform());
  if (to_seconds(after) + interval < to_seconds(kLatestFault)) {
    events_.push({after + SimDuration{std::llround(interval * kPicoseconds)}, fault, true});
  }
}

FaultTimeline::Event FaultTimeline::take() {
  check(!events_.empty(), "a fault is taken where none is to come");
  const Event event = events_.top();
  events_.pop();
  const FaultConfig& fault = faults_[static_cast<std::size_t>(event.fault)];
  if (event.is_begin && fault.when.kind == FaultTimes::Kind::rate) {
    draw(event.fault, event.at);
  }
  if (event.is_begin && fault.lasts > SimDuration{}) {
    events_.push({event.at + fault.lasts, event.fault, false});
  }
  return event;
}

}  // namespace nearkv
