#include "sim/app/uncertainty/sample_options.hpp"

#include <CLI/CLI.hpp>

namespace nearkv {

void add_sample_options(CLI::App& command, SampleOptions& options) {
  constexpr int kFewest = 10;  // fewer say nothing about 5 and 95 %
  constexpr int kMost = 100'000;
  CLI::Option* samples =
      command
          .add_option("--samples", options.count,
                      "Repeat each run over so many samples of its fit and assumed constants that "
                      "have an interval, and print 90 % intervals")
          ->check(CLI::Range(kFewest, kMost));
  command.add_option("--seed", options.seed, "Seed of the samples")
      ->needs(samples)
      ->capture_default_str();
}

}  // namespace nearkv
