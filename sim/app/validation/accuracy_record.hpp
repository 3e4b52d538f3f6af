// Accuracy of attention methods as a record: a result file of validation/accuracy, which real
// kernels and a real model produced, so that claims about accuracy are expressions like the others.
#pragma once

#include <filesystem>
#include <string>

#include "sim/app/point.hpp"

namespace nearkv {

/// What runs as {"accuracy": FILE}: its record has a metric "METHOD/RATIO/FIELD" for each number of
/// each configuration in the file ("sparf/0.125/perplexity"). `origin` is for messages. Throws
/// ConfigError for what is no such file.
[[nodiscard]] PreparedPoint accuracy_point(const std::filesystem::path& file,
                                           const std::string& origin);

}  // namespace nearkv
