#include "sim/app/validation/accuracy_record.hpp"

#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

RunRecord record_of(const PreparedPoint& point) {
  const json document = load_json(point.config.at("file").get<std::string>());
  RunRecord record;
  record.name = point.name;
  record.config = point.config;
  record.fidelity = "exact";
  for (const json& configuration : document.at("configurations")) {
    const std::string prefix = fmt::format("{}/{}/", configuration.at("method").get<std::string>(),
                                           configuration.at("ratio").get<double>());
    for (const auto& [field, value] : configuration.items()) {
      if (value.is_number() && field != "ratio") {
        record.outcome.metrics.add(prefix + field, value.get<double>(), "1",
                                   "As the result file has it.");
      }
    }
  }
  return record;
}

bool is_configuration(const json& configuration) {
  return configuration.is_object() && configuration.contains("method") &&
         configuration.at("method").is_string() && configuration.contains("ratio") &&
         configuration.at("ratio").is_number();
}

}  // namespace

PreparedPoint accuracy_point(const std::filesystem::path& file, const std::string& origin) {
  const json document = load_json(file);
  const bool is_list = document.is_object() && document.contains("configurations") &&
                       document.at("configurations").is_array();
  if (!is_list) {
    throw ConfigError(
        fmt::format("{}: /configurations: must be a list; a result file of "
                    "validation/accuracy has one",
                    file.string()));
  }
  const json& configurations = document.at("configurations");
  for (std::size_t i = 0; i < configurations.size(); ++i) {
    if (!is_configuration(configurations[i])) {
      throw ConfigError(
          fmt::format("{}: /configurations/{}: must have a method and a ratio", file.string(), i));
    }
  }
  return {.origin = origin,
          .name = file.stem().string(),
          .config = {{"file", std::filesystem::absolute(file).string()}},
          .run = record_of};
}

}  // namespace nearkv
