// The text of a suite's file: field lists, and the values that stand for absent fields.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/validation/suite.hpp"
#include "sim/core/fields.hpp"

namespace nearkv {

inline constexpr double kLargestTolerance = 10;  // of a relative error

/// A claim as the file has it.
struct ClaimText {
  std::string id;
  std::string text;
  RowRole role = RowRole::test;
  std::string source;
  std::string expression;
  std::string unit;
  std::string group;
  std::string why;
  double tolerance = 0;
  std::optional<double> value;
  std::optional<std::string> reference;
  std::optional<bool> holds;

  /// `document` is the claim in JSON: it says which of the optional fields are there.
  void fields(FieldVisitor& v, const nlohmann::json& document);
};

/// The fields of a suite's file but for its table of rows.
struct SuiteText {
  const nlohmann::json& document;  // as completed() gives it
  Suite& suite;
  std::vector<ClaimText> claims{};

  void fields(FieldVisitor& v);
};

/// Field lists know neither optional fields nor free ones. This gives the optional ones the values
/// that stand for their absence, and turns the free ones into texts: "set" of runs, with the values
/// of the suite's sets that they name, and "rows" of reasons. Throws ConfigError.
[[nodiscard]] nlohmann::json completed_suite(nlohmann::json document);

}  // namespace nearkv
