// --samples and --seed, which several commands have.
#pragma once

#include "sim/app/uncertainty/constant_samples.hpp"

namespace CLI {  // NOLINT(readability-identifier-naming): CLI11's
class App;
}

namespace nearkv {

void add_sample_options(CLI::App& command, SampleOptions& options);

}  // namespace nearkv
