#include "sim/app/sweep/sweep_plan.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <stdexcept>
#include <utility>

#include <boost/random/sobol.hpp>
#include <fmt/format.h>

#include "models/systems/design_point.hpp"
#include "sim/app/axis_values.hpp"
#include "sim/app/point.hpp"
#include "sim/app/point_key.hpp"
#include "sim/app/uncertainty/constant_samples.hpp"
#include "sim/app/uncertainty/distributions.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/random.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

constexpr double kMostPoints = 100e6;
constexpr std::string_view kSeedPath = "/simulation/seed";

/// "/workload[kind=fixed]/batch" as "/workload/batch".
std::string without_kinds(std::string path) {
  for (std::size_t open = path.find('['); open != std::string::npos; open = path.find('[')) {
    path.erase(open, path.find(']', open) + 1 - open);
  }
  return path;
}

/// The type of the numbers at each path of a design point; "*" stands for positions in lists.
const std::map<std::string, NumberType>& number_types() {
  static const std::map<std::string, NumberType> types = [] {
    const std::map<std::string, NumberType> by_text{
        {"integer", NumberType::integer},   {"number", NumberType::real},
        {"duration", NumberType::duration}, {"size", NumberType::bytes},
        {"data rate", NumberType::rate},    {"compute rate", NumberType::flop_rate},
        {"power", NumberType::power},       {"energy", NumberType::energy}};
    std::map<std::string, NumberType> found;
    DesignPoint point;
    for (const FieldDescription& field :
         describe_fields([&point](FieldVisitor& v) { point.fields(v); })) {
      if (const auto type = by_text.find(field.type); type != by_text.end()) {
        found.emplace(without_kinds(field.path), type->second);
      }
    }
    return found;
  }();
  return types;
}

/// Divides where the unit is a negative power of ten: that is exact to the last digit.
double in_si_units(NumberType type, double base_units) {
  const double unit = si_units_of(type);
  return unit < 1 ? base_units / std::round(1 / unit) : base_units * unit;
}

double number_of(NumberType type, const json& written, const std::string& place) {
  try {
    return number_from_json(type, written);
  } catch (const std::invalid_argument& error) {
    throw ConfigError(fmt::format("{}: {}", place, error.what()));
  }
}

/// Where `probability` lies between two numbers, on a linear or a logarithmic scale.
double between(double from, double to, bool is_logarithmic, double share) {
  if (!is_logarithmic) {
    return from + (to - from) * share;
  }
  return portable_exp(portable_log(from) + (portable_log(to) - portable_log(from)) * share);
}

std::vector<double> sobol_probabilities(std::size_t dimensions, std::size_t dimension,
                                        std::size_t count) {
  boost::random::sobol engine(dimensions);
  const double cells = std::ldexp(1.0, 64);
  std::vector<double> probabilities;
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t d = 0; d < dimensions; ++d) {
      const auto drawn = static_cast<double>(engine());
      if (d == dimension) {
        // The middle of the cell of a sequence of 2^32 points: neither 0 nor 1.
        probabilities.push_back(std::min(drawn / cells + 0x1.0p-33, 1 - 0x1.0p-33));
      }
    }
  }
  return probabilities;
}

}  // namespace

SweepPlan::SweepPlan(Sweep sweep) : sweep_(std::move(sweep)) {
  try {
    add_axes();
    find_constants();
    add_columns();
    apply_conditions();
    check_points();
  } catch (const ConfigError& error) {
    throw ConfigError(prefix_lines(sweep_.file.string(), error.what()));
  }
}

void SweepPlan::add_axes() {
  std::vector<std::size_t> drawn;
  for (const std::vector<SweepAxis>& specs : sweep_.dimensions) {
    Dimension dimension;
    for (const SweepAxis& spec : specs) {
      const bool can_be_drawn =
          (spec.kind == AxisKind::range || spec.kind == AxisKind::interval) && spec.shares.empty();
      const std::size_t index = axes_.size();
      axes_.push_back(axis_of(spec));
      if (sweep_.sampling && can_be_drawn) {
        if (spec.count > 0 || spec.range.count > 0 || !spec.range.step.is_null()) {
          throw ConfigError(fmt::format(
              "{}: is drawn, as there is a \"sample\": leave its count or step out", spec.place));
        }
        if (specs.size() > 1) {
          throw ConfigError(
              fmt::format("{}: is drawn, and cannot move together with another axis", spec.place));
        }
        drawn.push_back(index);
        continue;
      }
      const std::size_t size =
          spec.kind == AxisKind::variants
              ? spec.variants.size()
              : std::max(axes_.back().listed.size(), axes_.back().drawn.size());
      if (!dimension.axes.empty() && size != dimension.size) {
        throw ConfigError(
            fmt::format("{}: has {} values and {} has {}; axes that move together "
                        "have equally many",
                        spec.place, size, specs.front().place, dimension.size));
      }
      dimension.size = size;
      dimension.axes.push_back(index);
      dimension.has_variants = dimension.has_variants || spec.kind == AxisKind::variants;
    }
    if (!dimension.axes.empty()) {
      dimensions_.push_back(std::move(dimension));
    }
  }
  if (sweep_.sampling) {
    if (drawn.empty()) {
      throw ConfigError("/sample: there is no axis with a range or an interval to draw");
    }
    draw(drawn);
    dimensions_.push_back({static_cast<std::size_t>(sweep_.sampling->count), drawn});
  }
  dimensions_.push_back({static_cast<std::size_t>(sweep_.repeats)});
  moves_seed_ = sweep_.repeats > 1 && std::any_of(axes_.begin(), axes_.end(), [](const Axis& axis) {
                  return axis.spec->path == kSeedPath;
                });
  double all = 1;
  for (const Dimension& dimension : dimensions_) {
    all *= static_cast<double>(dimension.size);
    all_ *= dimension.size;
  }
  if (all > kMostPoints) {
    throw ConfigError(fmt::format("/axes: make {:.3g} points; at most {:.0f} million are possible",
                                  all, kMostPoints / 1e6));
  }
}

SweepPlan::Axis SweepPlan::axis_of(const SweepAxis& spec) const {
  Axis axis{.spec = &spec};
  if (const auto type = number_types().find(draw_name(spec.path)); type != number_types().end()) {
    axis.type = type->second;
  }
  switch (spec.kind) {
    case AxisKind::values:
      axis.listed = spec.values;
      break;
    case AxisKind::range:
      if (!axis.type) {
        throw ConfigError(
            fmt::format("{}/range: {} is no number; give its \"values\"", spec.place, spec.path));
      }
      list_range(axis);
      break;
    case AxisKind::interval:
      for (int i = 0; i < spec.count; ++i) {
        constexpr double kLowest = 0.05;
        constexpr double kHighest = 0.95;
        axis.drawn.push_back(spec.count == 1
                                 ? 0.5  // NOLINT: the median
                                 : kLowest + (kHighest - kLowest) * i / (spec.count - 1));
      }
      if (!spec.shares.empty()) {
        axis.drawn = spec.shares;
      } else if (spec.count == 0 && !sweep_.sampling) {
        throw ConfigError(fmt::format("{}/interval/count: missing", spec.place));
      }
      break;
    case AxisKind::variants:
      for (const SweepVariant& variant : spec.variants) {
        axis.shown.emplace_back(variant.name);
      }
      break;
  }
  std::set<NamedValue> seen;
  for (std::size_t i = 0; i < axis.listed.size(); ++i) {
    const std::string place =
        spec.kind == AxisKind::values ? fmt::format("{}/values/{}", spec.place, i) : spec.place;
    axis.shown.push_back(axis.type ? NamedValue(in_si_units(
                                         *axis.type, number_of(*axis.type, axis.listed[i], place)))
                                   : NamedValue(axis_text(axis.listed[i])));
    if (!seen.insert(axis.shown.back()).second) {
      throw ConfigError(fmt::format("{}: {} is there twice; name each value once", place,
                                    axis_text(axis.listed[i])));
    }
  }
  return axis;
}

void SweepPlan::list_range(Axis& axis) const {
  const SweepRange& range = axis.spec->range;
  const std::string place = axis.spec->place + "/range";
  const double from = number_of(*axis.type, range.from, place + "/from");
  const double to = number_of(*axis.type, range.to, place + "/to");
  if (from >= to) {
    throw ConfigError(fmt::format("{}: {} is not below {}; a range goes upwards", place,
                                  axis_text(range.from), axis_text(range.to)));
  }
  if (range.is_logarithmic && from <= 0) {
    throw ConfigError(fmt::format("{}/from: {} has no logarithm; start above zero", place,
                                  axis_text(range.from)));
  }
  if (!axis.spec->shares.empty()) {
    axis.drawn = axis.spec->shares;
    place_in_range(axis);
    return;
  }
  if (sweep_.sampling) {
    return;
  }
  if (!range.step.is_null()) {
    const double step = number_of(*axis.type, range.step, place + "/step");
    if (step <= 0) {
      throw ConfigError(fmt::format("{}/step: {} is not above zero", place, axis_text(range.step)));
    }
    constexpr double kRounding = 1e-9;  // of 0.1 + 0.1 + ...
    const double count = std::floor((to - from) / step + kRounding) + 1;
    if (count > kMostPoints) {
      throw ConfigError(fmt::format("{}: has {:.3g} values", place, count));
    }
    for (double i = 0; i < count; ++i) {
      axis.listed.push_back(number_as_json(*axis.type, from + i * step));
    }
    return;
  }
  if (range.count == 0) {
    throw ConfigError(fmt::format("{}: must have a count of values or a step", place));
  }
  for (int i = 0; i < range.count; ++i) {
    const double share = range.count == 1 ? 0 : static_cast<double>(i) / (range.count - 1);
    const bool is_last = i > 0 && i == range.count - 1;
    const json value =
        number_as_json(*axis.type, is_last  ? to
                                   : i == 0 ? from
                                            : between(from, to, range.is_logarithmic, share));
    // Whole numbers that are close together are the same ones.
    if (axis.listed.empty() || axis.listed.back() != value) {
      axis.listed.push_back(value);
    }
  }
}

void SweepPlan::draw(const std::vector<std::size_t>& axes) {
  const SweepSampling& sampling = *sweep_.sampling;
  const auto count = static_cast<std::size_t>(sampling.count);
  const auto seed = static_cast<std::uint64_t>(sampling.seed);
  for (std::size_t d = 0; d < axes.size(); ++d) {
    Axis& axis = axes_[axes[d]];
    const std::string stream = "sweep" + draw_name(axis.spec->path);
    switch (sampling.method) {
      case SamplingMethod::random: {
        Rng random(seed, stream);
        for (std::size_t i = 0; i < count; ++i) {
          axis.drawn.push_back(std::max(random.uniform(), 0x1.0p-54));
        }
        break;
      }
      case SamplingMethod::latin_hypercube:
        axis.drawn = stratified_probabilities(seed, stream, count);
        break;
      case SamplingMethod::sobol:
        axis.drawn = sobol_probabilities(axes.size(), d, count);
        break;
    }
    if (axis.spec->kind == AxisKind::range) {
      place_in_range(axis);
    }
  }
}

void SweepPlan::place_in_range(Axis& axis) {
  const SweepRange& range = axis.spec->range;
  const double from = number_from_json(*axis.type, range.from);
  const double to = number_from_json(*axis.type, range.to);
  for (double& value : axis.drawn) {
    // Each whole number has an equal share.
    value = *axis.type == NumberType::integer && !range.is_logarithmic
                ? std::floor(between(from, to + 1, false, value))
                : between(from, to, range.is_logarithmic, value);
    value = number_from_json(*axis.type, number_as_json(*axis.type, value));
  }
}

void SweepPlan::add_columns() {
  for (const Axis& axis : axes_) {
    columns_.push_back({axis.spec->name,
                        axis.type ? std::string(si_unit_name(*axis.type)) : std::string(),
                        !axis.type.has_value()});
  }
  if (sweep_.repeats > 1) {
    columns_.push_back({"repeat", "1", false});
  }
}

void SweepPlan::find_constants() {
  bool has_intervals = false;
  for (const Axis& axis : axes_) {
    has_intervals = has_intervals || axis.spec->kind == AxisKind::interval;
  }
  Levels levels(dimensions_.size());
  for (std::size_t variant = 0; variant < variant_count(); ++variant) {
    std::size_t rest = variant;
    for (std::size_t d = dimensions_.size(); d-- > 0;) {
      if (dimensions_[d].has_variants) {
        levels[d] = rest % dimensions_[d].size;
        rest /= dimensions_[d].size;
      }
    }
    json config = variant_config(levels);
    std::vector<std::string> problems;
    for (const Axis& axis : axes_) {
      if (axis.spec->path.empty()) {
        continue;
      }
      try {
        // What is set does not matter: the path must exist.
        set_existing(config, axis.spec->path, axis.listed.empty() ? json(0) : axis.listed.front(),
                     "an axis names existing paths");
      } catch (const ConfigError& error) {
        problems.push_back(
            fmt::format("{}/path: {}{}", axis.spec->place, error.what(), variant_text(levels)));
      }
    }
    if (!problems.empty()) {
      throw ConfigError(problems);
    }
    constants_.emplace_back(axes_.size());
    if (!has_intervals) {
      continue;
    }
    DesignPoint point;
    const std::vector<ConstantUse> constants =
        read_fields(variant_config(levels), [&point](FieldVisitor& v) { point.fields(v); });
    for (std::size_t a = 0; a < axes_.size(); ++a) {
      const SweepAxis& spec = *axes_[a].spec;
      if (spec.kind != AxisKind::interval) {
        continue;
      }
      const auto found = std::find_if(constants.begin(), constants.end(),
                                      [&](const auto& use) { return use.path == spec.path; });
      if (found == constants.end() || !found->number || !found->number->interval) {
        throw ConfigError(fmt::format(
            "{}/interval: {} {}{}; give a range", spec.place, spec.path,
            found == constants.end() ? "is no constant" : "has no interval in the config",
            variant_text(levels)));
      }
      constants_.back()[a] = found->number;
    }
  }
}

void SweepPlan::apply_conditions() {
  if (sweep_.skip.empty()) {
    return;
  }
  std::vector<ValueName> names;
  for (const SweepColumn& column : columns_) {
    names.push_back({column.name, column.is_text});
  }
  std::vector<ValueExpression> conditions;
  for (std::size_t i = 0; i < sweep_.skip.size(); ++i) {
    try {
      conditions.emplace_back(sweep_.skip[i], names);
    } catch (const ConfigError& error) {
      throw ConfigError(fmt::format("/skip/{}: {}", i, error.what()));
    }
    if (!conditions.back().is_truth()) {
      throw ConfigError(fmt::format("/skip/{}: is a number; a condition compares some", i));
    }
  }
  std::vector<std::size_t> kept;
  for (std::size_t product = 0; product < all_; ++product) {
    const std::vector<NamedValue> values = values_at(levels_at(product));
    const bool is_skipped = std::any_of(
        conditions.begin(), conditions.end(),
        [&](const ValueExpression& condition) { return condition.holds(values).value_or(false); });
    if (!is_skipped) {
      kept.push_back(product);
    }
  }
  if (kept.empty()) {
    throw ConfigError(fmt::format("/skip: leaves none of the {} points", all_));
  }
  kept_ = std::move(kept);
}

void SweepPlan::check_points() const {
  std::vector<std::optional<std::size_t>> firsts(variant_count());
  std::size_t missing = firsts.size();
  for (std::size_t point = 0; point < size() && missing > 0; ++point) {
    std::optional<std::size_t>& first = firsts[variant_of(levels_of(point))];
    if (!first) {
      first = point;
      --missing;
    }
  }
  firsts.emplace_back(size() - 1);
  for (const std::optional<std::size_t>& point : firsts) {
    if (!point) {
      continue;  // all are left out
    }
    try {
      check_point(config(*point));
    } catch (const ConfigError& error) {
      throw ConfigError(prefix_lines(fmt::format("point {}", *point + 1), error.what()));
    }
  }
}

std::vector<NamedValue> SweepPlan::values(std::size_t point) const {
  return values_at(levels_of(point));
}

json SweepPlan::config(std::size_t point) const { return config_at(levels_of(point)); }

SweepPlan::Levels SweepPlan::levels_at(std::size_t product) const {
  Levels levels(dimensions_.size());
  for (std::size_t d = dimensions_.size(); d-- > 0;) {
    levels[d] = product % dimensions_[d].size;
    product /= dimensions_[d].size;
  }
  return levels;
}

SweepPlan::Levels SweepPlan::levels_of(std::size_t point) const {
  check(point < size(), "a sweep is asked for a point that it does not have");
  return levels_at(kept_ ? (*kept_)[point] : point);
}

std::size_t SweepPlan::variant_count() const {
  std::size_t count = 1;
  for (const Dimension& dimension : dimensions_) {
    count *= dimension.has_variants ? dimension.size : 1;
  }
  return count;
}

std::size_t SweepPlan::variant_of(const Levels& levels) const {
  std::size_t variant = 0;
  for (std::size_t d = 0; d < dimensions_.size(); ++d) {
    if (dimensions_[d].has_variants) {
      variant = variant * dimensions_[d].size + levels[d];
    }
  }
  return variant;
}

std::string SweepPlan::variant_text(const Levels& levels) const {
  std::vector<std::string> names;
  for (std::size_t d = 0; d < dimensions_.size(); ++d) {
    for (const std::size_t axis : dimensions_[d].axes) {
      if (axes_[axis].spec->kind == AxisKind::variants) {
        names.push_back(axes_[axis].spec->variants[levels[d]].name);
      }
    }
  }
  return names.empty() ? "" : fmt::format(" in the variant {}", fmt::join(names, ", "));
}

json SweepPlan::variant_config(const Levels& levels) const {
  json config = sweep_.point;
  for (std::size_t d = 0; d < dimensions_.size(); ++d) {
    for (const std::size_t axis : dimensions_[d].axes) {
      if (axes_[axis].spec->kind == AxisKind::variants) {
        merge_config(config, axes_[axis].spec->variants[levels[d]].point);
      }
    }
  }
  return config;
}

json SweepPlan::value_at(std::size_t axis, std::size_t level, const Levels& levels) const {
  return axes_[axis].listed.empty()
             ? number_as_json(*axes_[axis].type, number_at(axis, level, levels))
             : axes_[axis].listed[level];
}

void SweepPlan::set_axes(json& config, const Levels& levels, const ValueOfAxis& value) const {
  for (std::size_t d = 0; d < dimensions_.size(); ++d) {
    for (const std::size_t axis : dimensions_[d].axes) {
      const SweepAxis& spec = *axes_[axis].spec;
      if (spec.kind != AxisKind::variants) {
        set_existing(config, spec.path, value(axis, levels[d]), spec.place);
      }
    }
  }
}

json SweepPlan::config_at(const Levels& levels) const {
  json config = variant_config(levels);
  set_axes(config, levels,
           [&](std::size_t axis, std::size_t level) { return value_at(axis, level, levels); });
  if (sweep_.repeats > 1) {
    json& seed = config.at(json::json_pointer(std::string(kSeedPath)));
    seed = seed.get<std::int64_t>() + static_cast<std::int64_t>(levels.back());
  }
  return config;
}

const SweepPlan::KeyBytes& SweepPlan::key_bytes_of(const Levels& levels) const {
  constexpr std::size_t kMostKept = 64;
  const std::size_t variant = variant_of(levels);
  if (const auto known = key_bytes_.find(variant); known != key_bytes_.end()) {
    return known->second;
  }
  const auto mark = [](std::size_t slot) { return json(fmt::format("\x01slot {}\x02", slot)); };
  json config = variant_config(levels);
  set_axes(config, levels, [&](std::size_t axis, std::size_t) { return mark(axis); });
  KeyBytes parts;
  if (sweep_.repeats > 1) {
    json& seed = config.at(json::json_pointer(std::string(kSeedPath)));
    parts.seed = seed.get<std::int64_t>();
    seed = mark(axes_.size());
  }
  const std::string bytes = key_bytes(config);
  std::map<std::size_t, std::pair<std::size_t, std::size_t>> places;  // where, of which slot, size
  for (std::size_t slot = 0; slot <= axes_.size(); ++slot) {
    const std::string marked = key_bytes(mark(slot));
    if (const std::size_t at = bytes.find(marked); at != std::string::npos) {
      places[at] = {slot, marked.size()};
    }
  }
  std::size_t begin = 0;
  for (const auto& [at, slot] : places) {
    parts.pieces.push_back(bytes.substr(begin, at - begin));
    parts.slots.push_back(slot.first);
    begin = at + slot.second;
  }
  parts.pieces.push_back(bytes.substr(begin));
  if (key_bytes_.size() >= kMostKept) {
    key_bytes_.clear();
  }
  return key_bytes_.emplace(variant, std::move(parts)).first->second;
}

std::string SweepPlan::key(std::size_t point) const {
  const Levels levels = levels_of(point);
  if (moves_seed_) {
    return config_key(config_at(levels));
  }
  std::vector<std::size_t> level_of(axes_.size());
  for (std::size_t d = 0; d < dimensions_.size(); ++d) {
    for (const std::size_t axis : dimensions_[d].axes) {
      level_of[axis] = levels[d];
    }
  }
  const KeyBytes& parts = key_bytes_of(levels);
  std::string bytes = parts.pieces.front();
  for (std::size_t i = 0; i < parts.slots.size(); ++i) {
    const std::size_t slot = parts.slots[i];
    bytes +=
        key_bytes(slot == axes_.size() ? json(parts.seed + static_cast<std::int64_t>(levels.back()))
                                       : value_at(slot, level_of[slot], levels));
    bytes += parts.pieces[i + 1];
  }
  return key_of_bytes(bytes);
}

std::vector<NamedValue> SweepPlan::values_at(const Levels& levels) const {
  std::vector<NamedValue> values(columns_.size());
  for (std::size_t d = 0; d < dimensions_.size(); ++d) {
    for (const std::size_t a : dimensions_[d].axes) {
      const Axis& axis = axes_[a];
      values[a] = axis.shown.empty() ? in_si_units(*axis.type, number_at(a, levels[d], levels))
                                     : axis.shown[levels[d]];
    }
  }
  if (sweep_.repeats > 1) {
    values.back() = static_cast<double>(levels.back() + 1);
  }
  return values;
}

double SweepPlan::number_at(std::size_t axis, std::size_t level, const Levels& levels) const {
  const double drawn = axes_[axis].drawn[level];
  const std::optional<FieldNumber>& constant = constants_[variant_of(levels)][axis];
  if (!constant) {
    return drawn;
  }
  return number_from_json(constant->type,
                          number_as_json(constant->type, quantile_of(*constant, drawn)));
}

}  // namespace nearkv
