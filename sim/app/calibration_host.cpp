// The host's part of sim/app/calibration_measure.hpp.
#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <system_error>
#include <vector>

#include <fmt/format.h>

#include "kernels/cpu/host_probe.hpp"
#include "sim/app/calibration_measure.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;
namespace host = kernels::cpu;

namespace {

constexpr std::size_t kMebibyte = std::size_t{1} << 20;

/// Bytes of a buffer that the caches hold little of, but at most an eighth of the memory.
std::size_t beyond_caches(const CalibrationPlan& plan) {
  constexpr std::size_t kCaches = 4;
  constexpr std::size_t kLeast = 512 * kMebibyte;
  constexpr std::size_t kMemoryShare = 8;
  const host::HostProperties properties = host::host_properties();
  const std::size_t wanted =
      plan.is_quick ? kLeast / 2 : std::max(kLeast, kCaches * properties.last_level_cache);
  return std::min(wanted, properties.memory / kMemoryShare) / kMebibyte * kMebibyte;
}

std::vector<int> one_and_all(int cores) {
  return cores > 1 ? std::vector<int>{1, cores} : std::vector<int>{1};
}

void measure_memory(Measurements& measurements, const CalibrationPlan& plan) {
  const std::size_t bytes = beyond_caches(plan);
  for (const int threads : one_and_all(host::host_properties().cores)) {
    host::ThreadTeam team(threads);
    host::MemoryProbe memory(team, bytes);
    const auto row = [&](std::size_t moved) {
      return json{{"threads", threads}, {"bytes", moved}};
    };
    measurements.add("memory_read", row(bytes),
                     time_on_host([&] { memory.read(); }, plan.repeats()));
    const std::uint64_t words = bytes / sizeof(std::uint64_t);
    check(memory.checksum() == words * (words - 1) / 2, "a read of memory left something out");
    measurements.add("memory_copy", row(2 * bytes),
                     time_on_host([&] { memory.copy(); }, plan.repeats()));
  }
}

/// Spread of a time that `parts` parts share.
TimeSpread shared(TimeSpread spread, double parts) {
  return {spread.median / parts, spread.p10 / parts, spread.p90 / parts, spread.runs};
}

void measure_first_touch(Measurements& measurements, const CalibrationPlan& plan) {
  host::FirstTouchProbe probe(64 * kMebibyte);
  measurements.add("first_touch", {{"bytes", host::host_properties().page_bytes}},
                   shared(time_on_host([&] { probe.run(); }, plan.repeats()),
                          static_cast<double>(probe.pages())));
}

ConfigError disk_error(const std::string& folder, const std::string& problem) {
  return ConfigError(fmt::format(
      "--disk-path: {}: {}; name a folder on a disk where files can be written and which supports "
      "O_DIRECT",
      printable(folder), problem));
}

void measure_disk(Measurements& measurements, const CalibrationPlan& plan) {
  const std::size_t file_bytes = (plan.is_quick ? 128U : 1024U) * kMebibyte;
  constexpr int kMostThreads = 8;
  RepeatPlan repeats = plan.repeats();
  repeats.warm_ups = 0;  // the first run made the file
  const int cores = std::min(kMostThreads, host::host_properties().cores);
  for (const int threads : one_and_all(cores)) {
    host::ThreadTeam team(threads);
    constexpr std::size_t kBlock = kMebibyte;
    host::DirectFileProbe file(team, plan.disk_path,
                               {.file_bytes = file_bytes, .block_bytes = kBlock});
    const json row{{"threads", threads},
                   {"block_bytes", kBlock},
                   {"access", "O_DIRECT"},
                   {"bytes", file_bytes}};
    measurements.add("disk_write", row, time_on_host([&] { file.write(); }, repeats));
    measurements.add("disk_read", row, time_on_host([&] { file.read(); }, repeats));
    check(file.mismatches() == 0, "the disk gave back what was not written");
  }
  host::MappedFileProbe mapped(plan.disk_path, 64 * kMebibyte);
  measurements.add("mapped_page", {{"bytes", host::host_properties().page_bytes}},
                   shared(time_on_host([&] { mapped.run(); }, plan.repeats()),
                          static_cast<double>(mapped.pages())));
}

}  // namespace

RepeatPlan CalibrationPlan::repeats() const {
  RepeatPlan plan;
  if (is_quick) {
    plan.warm_ups = 1;
    plan.least_runs = 3;
    plan.most_seconds = 0.05;
  }
  return plan;
}

void check_disk_path(const CalibrationPlan& plan) {
  if (plan.disk_path.empty()) {
    return;
  }
  try {
    host::ThreadTeam team(1);
    constexpr std::size_t kOnePage = 4096;
    host::DirectFileProbe file(team, plan.disk_path,
                               {.file_bytes = kOnePage, .block_bytes = kOnePage});
    file.write();
  } catch (const std::system_error& error) {
    throw disk_error(plan.disk_path, error.code().message());
  }
}

std::string host_name() {
  const host::HostProperties properties = host::host_properties();
  return properties.cpu_model.empty() ? "unknown CPU" : properties.cpu_model;
}

void describe_host(Measurements& measurements) {
  const host::HostProperties properties = host::host_properties();
  json& environment = measurements.environment;
  environment["cpu"] = host_name();
  environment["cores"] = properties.cores;
  environment["cpu_megahertz"] = properties.megahertz;
  environment["host_memory_bytes"] = properties.memory;
  environment["last_level_cache_bytes"] = properties.last_level_cache;
  environment["system"] = properties.kernel;
  environment["eigen"] = host::eigen_version();
}

void measure_host(Measurements& measurements, const CalibrationPlan& plan) {
  const host::HostProperties properties = host::host_properties();
  measurements.add_stated("cores", "1", properties.cores);
  measurements.add_stated("host_memory", "B", static_cast<double>(properties.memory));
  measurements.add_stated("page_size", "B", static_cast<double>(properties.page_bytes));
  plan.say("memory of the host");
  measure_memory(measurements, plan);
  measure_first_touch(measurements, plan);
  if (!plan.disk_path.empty()) {
    plan.say("disk");
    try {
      measure_disk(measurements, plan);
    } catch (const std::system_error& error) {
      throw disk_error(plan.disk_path, error.what());
    }
  }
}

}  // namespace nearkv
