#include "sim/core/record.hpp"

#include <cerrno>
#include <fstream>
#include <map>
#include <system_error>

#include <fmt/format.h>
#include <unistd.h>

#include "sim/core/check.hpp"
#include "sim/core/hash.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

constexpr int kRecordFormat = 1;

json constants_to_json(const std::vector<ConstantUse>& constants) {
  json listed{{"assumed", json::array()}, {"fit", json::array()}, {"override", json::array()}};
  std::map<std::string, int> counts;
  for (const ConstantUse& constant : constants) {
    ++counts[constant.source];
    if (listed.contains(constant.source)) {
      json entry{
          {"path", constant.path}, {"value", constant.value}, {"citation", constant.citation}};
      if (!constant.interval.empty()) {
        entry["interval"] = constant.interval;
      }
      listed[constant.source].push_back(std::move(entry));
    }
  }
  listed["count_by_source"] = counts;
  return listed;
}

}  // namespace

json RunRecord::to_json(std::string_view program_version) const {
  json metric_list = json::array();
  for (const Metric& metric : outcome.metrics.all()) {
    metric_list.push_back({{"name", metric.name},
                           {"value", metric.value},
                           {"unit", metric.unit},
                           {"doc", metric.doc}});
  }
  return {
      {"record_format", kRecordFormat},
      {"program", {{"name", "nearkv"}, {"version", program_version}}},
      {"name", name},
      {"status", name_of(outcome.status)},
      {"status_detail", outcome.status_detail},
      {"seed", seed},
      {"fidelity", fidelity},
      {"config_hash", content_hash(config.dump())},
      {"digest", fmt::format("{:016x}", outcome.digest)},
      {"wakeups", outcome.wakeups},
      {"metrics", metric_list},
      {"notes", outcome.notes},
      {"constants", constants_to_json(constants)},
      {"config", config},
  };
}

void write_file_atomically(const std::filesystem::path& file, std::string_view text) {
  namespace fs = std::filesystem;
  const fs::path temporary = fmt::format("{}.part{}", file.string(), getpid());
  std::error_code error;
  const auto refuse = [&](std::string_view why) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw ConfigError(
        fmt::format("{}: cannot be written ({}); name a file in a folder that is "
                    "writable and has room",
                    printable(file.string()), why));
  };
  if (file.has_parent_path()) {
    fs::create_directories(file.parent_path(), error);
    if (error) {
      refuse(error.message());
    }
  }
  errno = 0;
  std::ofstream stream(temporary, std::ios::binary);
  stream.write(text.data(), static_cast<std::streamsize>(text.size()));
  stream.close();
  if (!stream) {
    refuse(std::generic_category().message(errno));
  }
  fs::rename(temporary, file, error);
  if (error) {
    refuse(error.message());
  }
}

}  // namespace nearkv
