// Runs of design points with samples of their uncertain constants, and the 90 % intervals of what
// they found.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sim/app/point.hpp"
#include "sim/app/record_view.hpp"
#include "sim/app/uncertainty/constant_samples.hpp"

namespace nearkv {

/// What a sample came to.
struct SampleResult {
  std::string status;   // of its record; "refused" where a drawn value breaks a rule of the config
  std::string why_not;  // why it did not run: "out of memory (VRAM)"; empty when it ran
  std::optional<RecordView> record;  // without config, constants and docs; none where refused

  [[nodiscard]] bool ran() const { return why_not.empty(); }
};

/// A point with its samples. Without samples (count 0) only the nominal outcome is there.
struct SampledOutcome {
  PointOutcome nominal;  // its record has the intervals, under "samples"
  std::vector<SampleResult> samples;
  std::string table;  // CSV, a row a sample: its number, status, drawn constants, metrics
};

/// Runs each point, and each of its samples, in child processes. A sample that does not fit or
/// breaks a rule is a result; one that fails otherwise, or is ended by a limit, is the failure of
/// its point, which has no record then.
[[nodiscard]] std::vector<SampledOutcome> run_sampled(const std::vector<PreparedPoint>& points,
                                                      const SampleOptions& samples,
                                                      const RunPointsOptions& options);

[[nodiscard]] std::vector<PointOutcome> nominal_outcomes(
    const std::vector<SampledOutcome>& outcomes);

/// 5th to 95th percentile, linear between the two nearest. `values` is not empty.
[[nodiscard]] Range interval_of(std::vector<double> values);

}  // namespace nearkv
