// Files of points of MQSim, in two forms. Ours (validation/mqsim/points.json):
//   provenance {tool, commit}, timing_constants, shared_parameters, points [{name, parameters,
//   reference {figures}}]; a point has the shared parameters and its own.
// And a list of complete points: tool (text), timing_constants (some), points [{name,
//   all_parameters, figures}]; the constants that it lacks are those of the shipped file.
#include <charconv>
#include <cmath>
#include <optional>
#include <system_error>

#include <fmt/format.h>

#include "sim/app/validation/mqsim_suite.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace {

const nlohmann::json& member(const nlohmann::json& object, const std::string& name,
                             const std::string& where) {
  if (!object.is_object() || !object.contains(name)) {
    throw ConfigError(fmt::format("{}/{}: is missing", where, name));
  }
  return object.at(name);
}

std::string text_in(const nlohmann::json& object, const std::string& name,
                    const std::string& where) {
  const nlohmann::json& value = member(object, name, where);
  if (!value.is_string()) {
    throw ConfigError(fmt::format("{}/{}: must be a text", where, name));
  }
  return value.get<std::string>();
}

const nlohmann::json& list_in(const nlohmann::json& object, const std::string& name,
                              const std::string& where) {
  const nlohmann::json& value = member(object, name, where);
  if (!value.is_array()) {
    throw ConfigError(fmt::format("{}/{}: must be a list", where, name));
  }
  return value;
}

MqsimPoint point_of(const nlohmann::json& suite, const nlohmann::json& point,
                    const std::string& where) {
  const std::string name = text_in(point, "name", where);
  if (point.contains("all_parameters")) {
    const std::string path = where + "/all_parameters";
    return {name, MqsimParameters(nlohmann::json::object(), point.at("all_parameters"), path),
            MqsimFigures(point, where)};
  }
  const std::string path = where + "/parameters";
  return {name,
          MqsimParameters(member(suite, "shared_parameters", ""),
                          member(point, "parameters", where), path),
          MqsimFigures(member(point, "reference", where), where + "/reference")};
}

MqsimFile read_points(const nlohmann::json& suite) {
  MqsimFile result;
  if (suite.contains("provenance")) {
    const nlohmann::json& provenance = suite.at("provenance");
    result.reference = fmt::format("{} at commit {}", text_in(provenance, "tool", "/provenance"),
                                   text_in(provenance, "commit", "/provenance"));
  } else {
    result.reference = text_in(suite, "tool", "");
  }
  result.timing.add(member(suite, "timing_constants", ""), "/timing_constants");
  const nlohmann::json& points = list_in(suite, "points", "");
  for (std::size_t i = 0; i < points.size(); ++i) {
    result.points.push_back(point_of(suite, points[i], fmt::format("/points/{}", i)));
  }
  return result;
}

}  // namespace

// -- Parts of a file ----------------------------------------------------------------------------

MqsimParameters::MqsimParameters(const nlohmann::json& shared, const nlohmann::json& own,
                                 std::string where)
    : values_(shared), where_(std::move(where)) {
  if (!shared.is_object() || !own.is_object()) {
    throw ConfigError(fmt::format("{}: must be an object of sections", where_));
  }
  values_.merge_patch(own);
}

const std::string& MqsimParameters::text(std::string_view section, std::string_view name) const {
  const std::string where = fmt::format("{}/{}", where_, section);
  const nlohmann::json& value =
      member(member(values_, std::string(section), where_), std::string(name), where);
  if (!value.is_string()) {
    throw ConfigError(fmt::format("{}/{}: must be a text", where, name));
  }
  return value.get_ref<const std::string&>();
}

double MqsimParameters::number(std::string_view section, std::string_view name) const {
  const std::string& value = text(section, name);
  double number = 0;
  const char* const end = value.data() + value.size();
  const auto [rest, error] = std::from_chars(value.data(), end, number);
  if (error != std::errc{} || rest != end || !std::isfinite(number) || number < 0) {
    fail(section, name, fmt::format("{} is no number that is not negative", in_quotes(value)));
  }
  return number;
}

std::int64_t MqsimParameters::integer(std::string_view section, std::string_view name) const {
  const double value = number(section, name);
  const double most = 1e15;  // not a constant: whole numbers are exact far beyond
  if (value != std::floor(value) || value > most) {
    fail(section, name, "must be whole, and at most 10^15");
  }
  return static_cast<std::int64_t>(value);
}

void MqsimParameters::fail(std::string_view section, std::string_view name,
                           const std::string& problem) const {
  throw ConfigError(fmt::format("{}/{}/{}: {}", where_, section, name, problem));
}

void MqsimTiming::add(const nlohmann::json& values, const std::string& where) {
  if (!values.is_object()) {
    throw ConfigError(fmt::format("{}: must be an object", where));
  }
  for (const auto& [name, value] : values.items()) {
    if (value.is_string()) {
      continue;  // a comment
    }
    if (!value.is_number() || value.get<double>() < 0) {
      throw ConfigError(fmt::format("{}/{}: must be a number that is not negative", where, name));
    }
    values_[name] = value.get<double>();
  }
}

void MqsimTiming::complete(const MqsimTiming& other) {
  values_.insert(other.values_.begin(), other.values_.end());
}

double MqsimTiming::number(const std::string& name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) {
    throw ConfigError(fmt::format("/timing_constants/{}: is missing", name));
  }
  return found->second;
}

MqsimFigures::MqsimFigures(const nlohmann::json& values, const std::string& where) {
  const auto read = [&](const char* name, bool is_needed) -> std::optional<double> {
    if (!is_needed && (!values.is_object() || !values.contains(name))) {
      return std::nullopt;
    }
    const nlohmann::json& value = member(values, name, where);
    if (!value.is_number()) {
      throw ConfigError(fmt::format("{}/{}: must be a number", where, name));
    }
    const double number = value.get<double>();
    return number != 0 || is_needed ? std::optional{number} : std::nullopt;
  };
  mean_us = *read("mean_response_us", true);
  bandwidth_mbps = *read("bandwidth_MBps", true);
  least_us = *read("min_us", true);
  mean_read_us = read("mean_read_us", false);
  mean_write_us = read("mean_write_us", false);
}

std::string shipped_mqsim_points() {
  return (shipped_configs().parent_path() / "validation" / "mqsim" / "points.json").string();
}

MqsimFile read_mqsim_file(const std::string& file) {
  const nlohmann::json suite = load_json(file);
  try {
    MqsimFile result = read_points(suite);
    if (!suite.contains("provenance")) {
      MqsimTiming shipped;
      shipped.add(member(load_json(shipped_mqsim_points()), "timing_constants", ""), "");
      result.timing.complete(shipped);
    }
    return result;
  } catch (const ConfigError& error) {
    throw ConfigError(fmt::format("{}: {}", file, error.what()));
  }
}

}  // namespace nearkv
