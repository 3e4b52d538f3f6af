// Kind accuracy: what sparse attention costs in accuracy, by method and compression ratio.
//
//   "perplexity": "../../validation/accuracy/results/perplexity.json",
//   "tensors": "../../validation/accuracy/results/tensors.json",
//   "claims_about": "accuracy"
//
// The numbers were measured with the real kernels by validation/accuracy/perplexity.py (a whole
// model; hours) and tensors.py (captured tensors), are kept with model, text, command and versions,
// and are not measured again here. Files are relative to the figure's. "claims_about" is the run of
// the paper's suite that has the same numbers.
#pragma once

#include <memory>

#include "sim/app/figures/table_figure.hpp"

namespace nearkv {

/// Throws ConfigError.
[[nodiscard]] std::unique_ptr<Figure> make_accuracy_figure(const std::filesystem::path& file,
                                                           const Suite& paper);

}  // namespace nearkv
