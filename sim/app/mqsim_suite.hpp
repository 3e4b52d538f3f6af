// The validation suite "mqsim": operating points of MQSim against the models, from
// validation/mqsim/points.json. MQSim's parameters are translated, nothing is fitted.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "models/ssd/block_ssd.hpp"
#include "sim/app/mqsim_workload.hpp"

namespace nearkv {

/// One figure of one point.
struct ValidationResult {
  std::string point;
  std::string figure;  // "mean response"
  std::string unit;
  double reference;
  double simulated;
  double tolerance;  // of the relative error

  [[nodiscard]] double error() const { return simulated / reference - 1; }
  [[nodiscard]] bool passes() const;
};

struct NotCovered {
  std::string point;
  std::string reason;
};

struct ValidationReport {
  std::string suite;
  std::string reference;  // what the figures are from
  std::vector<ValidationResult> results;
  std::vector<NotCovered> not_covered;

  [[nodiscard]] bool passes() const;
};

/// MQSim's parameters by name, as text.
class MqsimParameters {
 public:
  /// Of one point, over those that all share. Throws ConfigError.
  MqsimParameters(const nlohmann::json& shared, const nlohmann::json& own);

  [[nodiscard]] const std::string& text(std::string_view section, std::string_view name) const;
  [[nodiscard]] double number(std::string_view section, std::string_view name) const;
  [[nodiscard]] std::int64_t integer(std::string_view section, std::string_view name) const;

 private:
  nlohmann::json values_;
};

/// Why the models do not cover a point; empty when they do.
[[nodiscard]] std::string reason_not_covered(const MqsimParameters& parameters);

[[nodiscard]] BlockSsdConfig mqsim_ssd(const MqsimParameters& parameters,
                                       const nlohmann::json& timing);
[[nodiscard]] MqsimWorkload mqsim_workload(const MqsimParameters& parameters);

/// Runs all points of the file. Throws ConfigError for a file that is not as it should be.
[[nodiscard]] ValidationReport run_mqsim_suite(const std::string& file);

}  // namespace nearkv
