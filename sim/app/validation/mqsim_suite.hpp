// Operating points of MQSim, from validation/mqsim/points.json or a file of the user, on the
// models. MQSim's parameters are translated, nothing is fitted. The suite "mqsim" compares.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "models/ssd/block_ssd.hpp"
#include "sim/app/point.hpp"
#include "sim/app/validation/mqsim_workload.hpp"

namespace nearkv {

/// MQSim's parameters by name, as text.
class MqsimParameters {
 public:
  /// Of one point, over those that all share; `where` is their path in the file, for errors.
  MqsimParameters(const nlohmann::json& shared, const nlohmann::json& own, std::string where);

  // Each throws ConfigError for what is missing or of another kind.
  [[nodiscard]] const std::string& text(std::string_view section, std::string_view name) const;
  [[nodiscard]] double number(std::string_view section, std::string_view name) const;
  [[nodiscard]] std::int64_t integer(std::string_view section, std::string_view name) const;

  [[nodiscard]] const nlohmann::json& values() const { return values_; }
  [[nodiscard]] const std::string& where() const { return where_; }

  /// Throws a ConfigError about one of them.
  [[noreturn]] void fail(std::string_view section, std::string_view name,
                         const std::string& problem) const;

 private:
  nlohmann::json values_;
  std::string where_;
};

/// MQSim's constants that are no parameters, in ns and bytes.
class MqsimTiming {
 public:
  void add(const nlohmann::json& values, const std::string& where);
  /// Takes what is missing from another one.
  void complete(const MqsimTiming& other);

  [[nodiscard]] double number(const std::string& name) const;
  [[nodiscard]] SimDuration operator()(const std::string& name) const;
  [[nodiscard]] Bytes bytes(const std::string& name) const;
  [[nodiscard]] const std::map<std::string, double>& values() const { return values_; }

 private:
  std::map<std::string, double> values_;
};

/// What MQSim printed.
struct MqsimFigures {
  MqsimFigures(const nlohmann::json& values, const std::string& where);

  double mean_us = 0;
  double bandwidth_mbps = 0;
  double least_us = 0;
  std::optional<double> mean_read_us;  // where there were reads
  std::optional<double> mean_write_us;
};

struct MqsimPoint {
  std::string name;
  MqsimParameters parameters;
  MqsimFigures reference;
};

struct MqsimFile {
  std::string reference;  // what the figures are from
  MqsimTiming timing;
  std::vector<MqsimPoint> points;
};

/// Throws ConfigError that begins with the file's name.
[[nodiscard]] MqsimFile read_mqsim_file(const std::string& file);
[[nodiscard]] std::string shipped_mqsim_points();

/// Why the models do not cover a point; empty when they do.
[[nodiscard]] std::string reason_not_covered(const MqsimParameters& parameters);

[[nodiscard]] BlockSsdConfig mqsim_ssd(const MqsimParameters& parameters,
                                       const MqsimTiming& timing);
[[nodiscard]] MqsimWorkload mqsim_workload(const MqsimParameters& parameters);
/// MQSim's data cache; nothing when it is off.
[[nodiscard]] std::optional<MqsimCacheConfig> mqsim_cache(const MqsimParameters& parameters);
/// Free blocks of a plane below which MQSim collects.
[[nodiscard]] int mqsim_free_blocks(const BlockSsdConfig& config);
/// Brings a drive that was not used into the state in which MQSim starts with preconditioning.
void precondition_as_mqsim(BlockSsd& ssd, const MqsimParameters& parameters);

/// Simulates {"parameters": {...}, "timing_constants": {...}, "where": "/points/3"}; metrics as
/// MQSim calls its figures, and "collections". Throws ConfigError that begins with the path.
[[nodiscard]] RunRecord simulate_mqsim(const PreparedPoint& point);

}  // namespace nearkv
