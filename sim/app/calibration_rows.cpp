#include "sim/app/calibration_rows.hpp"

#include <array>
#include <cctype>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

constexpr int kFormat = 1;

[[noreturn]] void refuse(const std::string& origin, const std::string& path,
                         const std::string& problem) {
  throw ConfigError(fmt::format("{}: {}: {}", printable(origin), path, problem));
}

const json& member(const json& object, const char* name, const std::string& origin,
                   const std::string& path) {
  if (!object.is_object() || !object.contains(name)) {
    refuse(origin, path, fmt::format("misses \"{}\"", name));
  }
  return object.at(name);
}

std::string text_in(const json& object, const char* name, const std::string& origin,
                    const std::string& path) {
  const json& value = member(object, name, origin, path);
  if (!value.is_string()) {
    refuse(origin, path + "/" + name, "must be a text");
  }
  return value.get<std::string>();
}

double number_in(const json& object, const char* name, const std::string& origin,
                 const std::string& path) {
  const json& value = member(object, name, origin, path);
  if (!value.is_number() || !std::isfinite(value.get<double>()) || value.get<double>() <= 0) {
    refuse(origin, path + "/" + name, "must be a number above 0");
  }
  return value.get<double>();
}

CalibrationRow parse_row(const json& row, const std::string& origin, const std::string& path) {
  constexpr std::array kKeys{"what", "parameters", "unit", "median", "p10", "p90", "runs"};
  CalibrationRow parsed;
  parsed.what = text_in(row, "what", origin, path);
  parsed.unit = text_in(row, "unit", origin, path);
  parsed.spread = {.median = number_in(row, "median", origin, path),
                   .p10 = number_in(row, "p10", origin, path),
                   .p90 = number_in(row, "p90", origin, path),
                   .runs = 0};
  if (const json& runs = member(row, "runs", origin, path); !runs.is_number_integer() ||
                                                            runs.get<std::int64_t>() < 1 ||
                                                            runs.get<std::int64_t>() > 1'000'000) {
    refuse(origin, path + "/runs", "must be an integer in 1 .. 1000000");
  } else {
    parsed.spread.runs = runs.get<int>();
  }
  if (parsed.spread.p10 > parsed.spread.median || parsed.spread.median > parsed.spread.p90) {
    refuse(origin, path, "must have p10 <= median <= p90");
  }
  parsed.parameters = member(row, "parameters", origin, path);
  if (!parsed.parameters.is_object()) {
    refuse(origin, path + "/parameters", "must be an object");
  }
  for (const auto& [name, value] : parsed.parameters.items()) {
    if (!value.is_number_integer() && !value.is_string()) {
      refuse(origin, path + "/parameters/" + name, "must be an integer or a text");
    }
  }
  for (const auto& [name, value] : row.items()) {
    if (std::find(kKeys.begin(), kKeys.end(), name) == kKeys.end()) {
      refuse(origin, path + "/" + name,
             fmt::format("unknown key; there are: {}", fmt::join(kKeys, ", ")));
    }
  }
  return parsed;
}

/// So many digits as a repetition could confirm, so that files stay readable.
double rounded(double value) {
  constexpr int kDigits = 6;
  if (value == 0 || std::floor(value) == value) {
    return value;
  }
  return json::parse(fmt::format("{:.{}g}", value, kDigits)).get<double>();
}

}  // namespace

std::int64_t CalibrationRow::number(std::string_view name) const {
  check(has(name) && parameters.at(std::string(name)).is_number_integer(),
        "a row without a parameter that its kind has");
  return parameters.at(std::string(name)).get<std::int64_t>();
}

bool CalibrationRow::is(std::string_view name, std::string_view text) const {
  return has(name) && parameters.at(std::string(name)) == text;
}

void Measurements::add(std::string what, json parameters, const TimeSpread& seconds) {
  rows.push_back({.what = std::move(what),
                  .parameters = std::move(parameters),
                  .unit = "s",
                  .spread = {rounded(seconds.median), rounded(seconds.p10), rounded(seconds.p90),
                             seconds.runs}});
}

void Measurements::add_stated(std::string what, std::string unit, double value) {
  rows.push_back({.what = std::move(what),
                  .parameters = json::object(),
                  .unit = std::move(unit),
                  .spread = {value, value, value, 1}});
}

std::vector<const CalibrationRow*> Measurements::select(std::string_view what,
                                                        const Filter& filter) const {
  std::vector<const CalibrationRow*> found;
  for (const CalibrationRow& row : rows) {
    if (row.what == what && filter(row)) {
      found.push_back(&row);
    }
  }
  return found;
}

std::vector<const CalibrationRow*> Measurements::select(std::string_view what) const {
  return select(what, [](const CalibrationRow&) { return true; });
}

std::string measurements_text(const Measurements& measurements) {
  constexpr int kIndent = 2;
  std::string text = fmt::format("{{\n  \"calibration_format\": {},\n  \"environment\": ", kFormat);
  for (const char c : measurements.environment.dump(kIndent)) {
    text += c;
    if (c == '\n') {
      text += "  ";
    }
  }
  text += ",\n  \"rows\": [";
  for (std::size_t i = 0; i < measurements.rows.size(); ++i) {
    const CalibrationRow& row = measurements.rows[i];
    const json value{{"what", row.what},       {"parameters", row.parameters},
                     {"unit", row.unit},       {"median", row.spread.median},
                     {"p10", row.spread.p10},  {"p90", row.spread.p90},
                     {"runs", row.spread.runs}};
    text += fmt::format("{}\n    {}", i == 0 ? "" : ",", value.dump());
  }
  return text + "\n  ]\n}\n";
}

Measurements parse_measurements(const json& document, const std::string& origin) {
  Measurements measurements;
  if (const json& format = member(document, "calibration_format", origin, "/"); format != kFormat) {
    refuse(origin, "/calibration_format", fmt::format("must be {}", kFormat));
  }
  measurements.environment = member(document, "environment", origin, "/");
  if (!measurements.environment.is_object()) {
    refuse(origin, "/environment", "must be an object");
  }
  static_cast<void>(text_in(measurements.environment, "device", origin, "/environment"));
  const json& rows = member(document, "rows", origin, "/");
  if (!rows.is_array()) {
    refuse(origin, "/rows", "must be a list");
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    measurements.rows.push_back(parse_row(rows[i], origin, fmt::format("/rows/{}", i)));
  }
  return measurements;
}

std::string device_file_name(std::string_view device) {
  std::string plain(device.substr(0, device.find('@')));
  for (const std::string_view mark : {"(R)", "(TM)", "(tm)", " CPU", " Processor"}) {
    for (std::size_t at = plain.find(mark); at != std::string::npos; at = plain.find(mark)) {
      plain.replace(at, mark.size(), " ");
    }
  }
  std::string name;
  for (const unsigned char c : plain) {
    if (std::isalnum(c) != 0) {
      name += static_cast<char>(std::tolower(c));
    } else if (!name.empty() && name.back() != '_') {
      name += '_';
    }
  }
  while (!name.empty() && name.back() == '_') {
    name.pop_back();
  }
  return name.empty() ? "device" : name;
}

}  // namespace nearkv
