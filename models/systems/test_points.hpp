// For tests: shipped design points with overrides, shrunk ones, and runs in a process of their own.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "models/systems/design_point.hpp"
#include "models/systems/run.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

using Overrides = std::vector<std::string>;

inline const std::vector<std::string>& all_systems() {
  static const std::vector<std::string> names{"deepspeed", "flexgen", "insti_dense", "insti_sparf"};
  return names;
}

inline DesignPoint read_point(const std::string& file, const Overrides& overrides) {
  auto config = load_config(shipped_configs() / "design_points" / file);
  for (const std::string& assignment : overrides) {
    apply_override(config, assignment);
  }
  DesignPoint point;
  read_fields(config, [&point](FieldVisitor& v) { point.fields(v); });
  return point;
}

/// The shipped point of a system (OPT-13B on one A6000), with "path=value" overrides.
inline DesignPoint shipped_point(const std::string& system, const Overrides& overrides = {}) {
  return read_point(system + "_opt13b_a6000.json", overrides);
}

/// The same with 3 layers, 2 sequences, 96 + 9 tokens, 4 synthetic heads and nothing sampled, or if
/// sampled, with up to 24 steps. What is calibrated has a fixed value here.
inline DesignPoint small_point(const std::string& system, const Overrides& overrides = {}) {
  Overrides all{"model/layers=3",
                "workload/batch=2",
                "workload/prompt_tokens=96",
                "workload/output_tokens=9",
                "simulation/fidelity=reuse",
                "simulation/sampling_tolerance=0.005",
                "simulation/most_sampled_steps=24",
                "simulation/seed=1",
                "host/file_system/hit_per_page=6.65us"};
  if (system == "deepspeed") {
    all.emplace_back("system/kv_footprint=2.42");
  }
  if (system.starts_with("insti")) {
    all.emplace_back("csd/0/flash/read_command/bus=950ns");
  }
  if (system == "insti_sparf") {
    all.emplace_back("system/kv_source/heads=4");
    all.emplace_back("system/kv_source/queries=2");
  }
  all.insert(all.end(), overrides.begin(), overrides.end());
  return shipped_point(system, all);
}

inline Overrides operator+(Overrides a, const Overrides& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// What a run gave, as far as it can differ between two of them.
struct RunResult {
  RunStatus status = RunStatus::ok;
  std::string detail;
  std::uint64_t digest = 0;
  std::int64_t wakeups = 0;
  std::map<std::string, double> metrics;

  [[nodiscard]] double at(const std::string& name) const {
    const auto found = metrics.find(name);
    check(found != metrics.end(), "no metric " + name);
    return found->second;
  }
};

inline RunResult result_of(const RunOutcome& outcome) {
  RunResult result{outcome.status, outcome.status_detail, outcome.digest, outcome.wakeups, {}};
  for (const Metric& metric : outcome.metrics.all()) {
    result.metrics[metric.name] = metric.value;
  }
  return result;
}

/// A run in a child process: SimGrid's clock never goes back in a process, so that a second run may
/// differ by a picosecond from the first.
inline RunResult run_alone(const DesignPoint& point) {
  std::cout.flush();  // else the child prints it too
  std::array<int, 2> ends{};
  REQUIRE(pipe(ends.data()) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  const auto send = [&](const void* data, std::size_t size) {
    check(write(ends[1], data, size) == static_cast<ssize_t>(size), "a pipe was cut");
  };
  const auto send_text = [&](const std::string& text) {
    const std::size_t size = text.size();
    send(&size, sizeof size);
    send(text.data(), size);
  };
  if (child == 0) {
    int exit_status = 1;
    try {
      const RunResult result = result_of(run_design_point(point));
      send(&result.status, sizeof result.status);
      send(&result.digest, sizeof result.digest);
      send(&result.wakeups, sizeof result.wakeups);
      send_text(result.detail);
      for (const auto& [name, value] : result.metrics) {
        send_text(name);
        send(&value, sizeof value);
      }
      exit_status = 0;
    } catch (const std::exception& error) {
      send_text(error.what());
    }
    _exit(exit_status);
  }
  close(ends[1]);
  std::string received;
  std::array<char, 4096> buffer{};
  for (ssize_t size = 0; (size = read(ends[0], buffer.data(), buffer.size())) > 0;) {
    received.append(buffer.data(), static_cast<std::size_t>(size));
  }
  close(ends[0]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  INFO("the run said: ", received);
  REQUIRE(status == 0);

  RunResult result;
  std::size_t taken = 0;
  const auto take = [&](void* data, std::size_t size) {
    REQUIRE(taken + size <= received.size());
    std::memcpy(data, received.data() + taken, size);
    taken += size;
  };
  const auto take_text = [&] {
    std::size_t size = 0;
    take(&size, sizeof size);
    std::string text(size, ' ');
    take(text.data(), size);
    return text;
  };
  take(&result.status, sizeof result.status);
  take(&result.digest, sizeof result.digest);
  take(&result.wakeups, sizeof result.wakeups);
  result.detail = take_text();
  while (taken < received.size()) {
    const std::string name = take_text();
    take(&result.metrics[name], sizeof(double));
  }
  return result;
}

}  // namespace nearkv
