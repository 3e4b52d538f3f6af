// Runs of a suite that are no simulations: numbers of a measurement that is kept in a file, so that
// claims can be about them.
//
//   "accuracy": {"numbers": "accuracy/results/perplexity.json",
//                "list": "configurations", "named_by": ["method", "ratio"]}
//
// Each number of each entry of the list is a metric, named by the entry's values of `named_by` and
// its own key: accuracy."sparf 0.125 perplexity". The file is relative to the suite's.
#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include "sim/app/point.hpp"
#include "sim/core/fields.hpp"

namespace nearkv {

[[nodiscard]] bool is_of_stored_numbers(const nlohmann::json& run);
void stored_numbers_fields(FieldVisitor& v);

/// `run` as completed_suite() gives it. Throws ConfigError that begins with the path in the run.
[[nodiscard]] PreparedPoint stored_numbers(const nlohmann::json& run,
                                           const std::filesystem::path& suite_folder,
                                           const std::string& name);

}  // namespace nearkv
