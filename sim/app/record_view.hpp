// Reads a run record again: what the commands print, compare and export comes from records alone,
// so that it can be made from stored ones too.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/core/config.hpp"
#include "sim/core/metrics.hpp"

namespace nearkv {

/// A value and the largest error that sampling can have caused, in the same unit.
struct Bounded {
  double value = 0;
  double lowest = 0;
  double highest = 0;

  [[nodiscard]] bool is_exact() const { return lowest == highest; }
  /// The larger distance to an end.
  [[nodiscard]] double bound() const { return std::max(highest - value, value - lowest); }
};

class RecordView {
 public:
  /// Takes RunRecord::to_json. Throws ConfigError for what is no record of this format.
  explicit RecordView(nlohmann::json record);

  [[nodiscard]] std::string name() const;
  [[nodiscard]] bool is_ok() const;
  [[nodiscard]] std::string status() const;
  /// What overflowed ("VRAM"), or empty.
  [[nodiscard]] std::string overflowed_memory() const;
  /// "out of memory (VRAM)" or the status; empty when it ran.
  [[nodiscard]] std::string why_not_run() const;
  [[nodiscard]] std::string status_detail() const;

  [[nodiscard]] const std::vector<Metric>& metrics() const { return metrics_; }
  [[nodiscard]] std::optional<double> metric(std::string_view name) const;
  /// The metrics below "utilization/", their names without it.
  [[nodiscard]] std::vector<Metric> metrics_below(std::string_view prefix) const;
  /// A metric with its sampling error; exact where decode_time has none or has no part in it.
  [[nodiscard]] std::optional<Bounded> bounded(std::string_view name) const;

  /// 90 % of the samples of the uncertain constants gave a result between these; nothing where
  /// there are no samples.
  [[nodiscard]] std::optional<Range> interval(std::string_view name) const;
  /// The record's "samples"; null without.
  [[nodiscard]] const nlohmann::json& samples() const;

  [[nodiscard]] std::vector<std::string> notes() const;
  /// Constants of a source that the record lists (assumed, fit, override).
  [[nodiscard]] std::vector<ConstantUse> constants(std::string_view source) const;
  [[nodiscard]] const nlohmann::json& json() const { return record_; }
  [[nodiscard]] const nlohmann::json& config() const { return record_.at("config"); }

 private:
  nlohmann::json record_;
  std::vector<Metric> metrics_;
  std::map<std::string, Range, std::less<>> intervals_;
};

}  // namespace nearkv
