#include "sim/app/validation/stored_numbers.hpp"

#include <vector>

#include <fmt/format.h>

#include "sim/core/allowed_paths.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace {

using nlohmann::json;

RunRecord record_of_numbers(const PreparedPoint& point) {
  RunRecord record;
  record.name = point.name;
  record.config = point.config;
  record.fidelity = "exact";
  for (const auto& [name, value] : point.config.at("numbers").items()) {
    record.outcome.metrics.add(name, value.get<double>(), "1", "Measured, and kept in a file.");
  }
  return record;
}

/// "sparf 0.125".
std::string name_of(const json& entry, const std::vector<std::string>& named_by,
                    const std::string& path) {
  std::string name;
  for (const std::string& key : named_by) {
    if (!entry.is_object() || !entry.contains(key) || entry.at(key).is_structured()) {
      throw ConfigError(fmt::format("/named_by: {} has no \"{}\" to be named by", path, key));
    }
    const json& value = entry.at(key);
    name +=
        (name.empty() ? "" : " ") + (value.is_string() ? value.get<std::string>() : value.dump());
  }
  return name;
}

std::vector<std::string> names_in(const json& run) {
  const json names = json::parse(run.at("named_by").get<std::string>(), nullptr, false);
  std::vector<std::string> keys;
  for (const json& name : names.is_array() ? names : json::array()) {
    if (name.is_string()) {
      keys.push_back(name.get<std::string>());
    }
  }
  if (keys.empty() || keys.size() != names.size()) {
    throw ConfigError("/named_by: must be a list of at least one key of the entries");
  }
  return keys;
}

}  // namespace

bool is_of_stored_numbers(const json& run) { return run.is_object() && run.contains("numbers"); }

void stored_numbers_fields(FieldVisitor& v) {
  std::string ignored;
  v.parameter("numbers", ignored, "a file with measured numbers, relative to the suite's");
  v.parameter("list", ignored, "the list in the file whose entries have the numbers");
  v.parameter("named_by", ignored, "keys of an entry whose values name its numbers");
}

PreparedPoint stored_numbers(const json& run, const std::filesystem::path& suite_folder,
                             const std::string& name) {
  const std::vector<std::string> named_by = names_in(run);
  const std::filesystem::path file = suite_folder / run.at("numbers").get<std::string>();
  const std::string list = run.at("list");
  allowed_paths().check(file, run.at("numbers").get<std::string>(), "/numbers");
  json stored;
  try {
    stored = load_config(file);
  } catch (const ConfigError& error) {
    throw ConfigError(prefix_lines("/numbers", error.what()));
  }
  if (!stored.is_object() || !stored.contains(list) || !stored.at(list).is_array()) {
    throw ConfigError(fmt::format("/list: {} has no list \"{}\"", file.string(), list));
  }
  json numbers = json::object();
  for (std::size_t i = 0; i < stored.at(list).size(); ++i) {
    const json& entry = stored.at(list).at(i);
    const std::string first =
        name_of(entry, named_by, fmt::format("{}: /{}/{}", file.string(), list, i));
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_number()) {
        continue;
      }
      if (!numbers.emplace(first + " " + key, value).second) {
        throw ConfigError(fmt::format("/named_by: two entries are \"{}\"", first));
      }
    }
  }
  return {.origin = file.string(),
          .name = name,
          .config = {{"numbers", std::move(numbers)}},
          .run = record_of_numbers};
}

}  // namespace nearkv
