// The points of a sweep, made one at a time from their number: a plan of millions is small.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/expression/value_expression.hpp"
#include "sim/app/sweep/sweep_file.hpp"
#include "sim/core/config_numbers.hpp"

namespace nearkv {

/// A column of the sweep's table: an axis, or the number of the repeat.
struct SweepColumn {
  std::string name;
  std::string unit;  // SI; "1" for plain numbers, empty for texts
  bool is_text = false;
};

class SweepPlan {
 public:
  /// Checks that every axis names a path of each variant's point, that its values are of the
  /// path's type, and that the first point of each variant and the last of all are design points.
  /// Throws ConfigError whose lines start with the file.
  explicit SweepPlan(Sweep sweep);
  // Its axes point into its sweep: moving keeps them where they are, copying would not.
  SweepPlan(const SweepPlan&) = delete;
  SweepPlan& operator=(const SweepPlan&) = delete;
  SweepPlan(SweepPlan&&) = default;
  SweepPlan& operator=(SweepPlan&&) = default;
  ~SweepPlan() = default;

  [[nodiscard]] const Sweep& sweep() const { return sweep_; }
  [[nodiscard]] std::size_t size() const { return kept_ ? kept_->size() : all_; }
  /// Left out by conditions.
  [[nodiscard]] std::size_t skipped() const { return all_ - size(); }

  [[nodiscard]] const std::vector<SweepColumn>& columns() const { return columns_; }
  /// Of the columns.
  [[nodiscard]] std::vector<NamedValue> values(std::size_t point) const;
  /// The resolved design point; its rules are not checked.
  [[nodiscard]] nlohmann::json config(std::size_t point) const;
  /// config_key() of it, but much faster.
  [[nodiscard]] std::string key(std::size_t point) const;

 private:
  /// What an axis goes through: `listed` values as configs write them, or `drawn` ones in base
  /// units, or, of an interval, probabilities in `drawn`. Nothing of variants.
  struct Axis {
    const SweepAxis* spec;
    std::optional<NumberType> type{};  // nothing for texts, choices and variants
    std::vector<nlohmann::json> listed{};
    std::vector<double> drawn{};
    std::vector<NamedValue> shown{};  // of `listed` and the variants, in SI units
  };
  /// Axes that move together.
  struct Dimension {
    std::size_t size = 1;
    std::vector<std::size_t> axes{};
    bool has_variants = false;
  };
  using Levels = std::vector<std::size_t>;  // one a dimension
  /// The bytes that a key is made of, cut where the values of axes (and the seed of repeats) are:
  /// piece, slot, piece, slot, ..., piece.
  struct KeyBytes {
    std::vector<std::string> pieces;
    std::vector<std::size_t> slots;  // axes; their number stands for the seed
    std::int64_t seed = 0;           // of the first repeat
  };
  using Constants = std::vector<std::optional<FieldNumber>>;  // one an axis: those of intervals

  void add_axes();
  [[nodiscard]] Axis axis_of(const SweepAxis& spec) const;
  void list_range(Axis& axis) const;
  void draw(const std::vector<std::size_t>& axes);
  /// Shares of the range become its values.
  static void place_in_range(Axis& axis);
  void add_columns();
  void find_constants();
  void apply_conditions();
  void check_points() const;

  [[nodiscard]] Levels levels_at(std::size_t product) const;
  [[nodiscard]] Levels levels_of(std::size_t point) const;
  [[nodiscard]] std::size_t variant_count() const;
  [[nodiscard]] std::size_t variant_of(const Levels& levels) const;
  [[nodiscard]] std::string variant_text(const Levels& levels) const;
  [[nodiscard]] nlohmann::json variant_config(const Levels& levels) const;
  [[nodiscard]] nlohmann::json config_at(const Levels& levels) const;
  using ValueOfAxis = std::function<nlohmann::json(std::size_t axis, std::size_t level)>;

  /// What an axis sets; not of variants.
  [[nodiscard]] nlohmann::json value_at(std::size_t axis, std::size_t level,
                                        const Levels& levels) const;
  void set_axes(nlohmann::json& config, const Levels& levels, const ValueOfAxis& value) const;
  [[nodiscard]] const KeyBytes& key_bytes_of(const Levels& levels) const;
  [[nodiscard]] std::vector<NamedValue> values_at(const Levels& levels) const;
  /// Of an axis that is not listed, in base units.
  [[nodiscard]] double number_at(std::size_t axis, std::size_t level, const Levels& levels) const;

  Sweep sweep_;
  std::vector<Axis> axes_;
  std::vector<Dimension> dimensions_;  // the last one is the repeats
  std::vector<SweepColumn> columns_;
  std::vector<Constants> constants_;  // by variant
  std::size_t all_ = 1;
  std::optional<std::vector<std::size_t>> kept_;  // where there are conditions
  bool moves_seed_ = false;                       // an axis does, and repeats count up from there
  mutable std::map<std::size_t, KeyBytes> key_bytes_;  // of the variants that were asked for last
};

}  // namespace nearkv
