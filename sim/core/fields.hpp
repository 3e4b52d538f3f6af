// The declarative field list. A config struct lists its fields once, in a member
//   void fields(FieldVisitor& v);
// and that one list gives parsing, ranges, error messages, the JSON schema, `nearkv describe` and
// the reference page. There are no defaults: every listed field must be present in the resolved
// design point. fields() also runs on structs that nobody has filled (for the schema, and after a
// problem), so that it must not compute with the values; rules that do are passed as functions.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "sim/core/units.hpp"

namespace nearkv {

/// Design parameters are chosen (a channel count); constants came from somewhere (tR) and carry
/// a source in the config: {"value": "50us", "source": "datasheet", "citation": "..."}.
enum class FieldKind { parameter, constant };

/// Inclusive limits of a number, in the field's base unit (picoseconds, bytes, bytes a second,
/// microwatts), or of the length of a list of objects.
struct Range {
  double lowest = std::numeric_limits<double>::lowest();
  double highest = std::numeric_limits<double>::max();
};

struct FieldInfo {
  std::string_view name;  // unique in its object; not "extends" or "comment"
  std::string_view doc;   // one sentence or phrase
  FieldKind kind = FieldKind::parameter;
  Range range{};
};

/// Upper limits of fields that give none: beyond all hardware, and so low that what a run adds and
/// multiplies stays within 64 bits.
inline constexpr SimDuration kLongestDuration = std::chrono::hours(24);  // unit: hours, a day
inline constexpr Bytes kLargestSize{std::int64_t{1} << 50};
inline constexpr Rate kHighestRate{1'000'000'000'000'000'000};
inline constexpr FlopRate kHighestFlopRate{1'000'000'000'000'000'000};
inline constexpr Power kHighestPower{1'000'000'000'000};

/// Access to a list of objects without knowing their type.
struct ListAccess {
  std::function<void(std::size_t)> resize;
  std::function<void(std::size_t, class FieldVisitor&)> visit;
  /// Visits one element that is not in the list: for schema and reference page.
  std::function<void(class FieldVisitor&)> visit_example;
};

/// Receives a struct's fields, one call a field. Readers fill the values, describers print them.
class FieldVisitor {
 public:
  FieldVisitor() = default;
  FieldVisitor(const FieldVisitor&) = delete;
  FieldVisitor& operator=(const FieldVisitor&) = delete;
  virtual ~FieldVisitor() = default;

  virtual void integer(const FieldInfo& info, std::int64_t& value) = 0;
  virtual void real(const FieldInfo& info, double& value) = 0;
  virtual void boolean(const FieldInfo& info, bool& value) = 0;
  virtual void text(const FieldInfo& info, std::string& value) = 0;
  /// `index` into `names`; the config holds the name.
  virtual void choice(const FieldInfo& info, const std::vector<std::string_view>& names,
                      std::size_t& index) = 0;
  virtual void duration(const FieldInfo& info, SimDuration& value) = 0;
  virtual void bytes(const FieldInfo& info, Bytes& value) = 0;
  virtual void rate(const FieldInfo& info, Rate& value) = 0;
  virtual void flop_rate(const FieldInfo& info, FlopRate& value) = 0;
  virtual void power(const FieldInfo& info, Power& value) = 0;
  virtual void energy(const FieldInfo& info, Energy& value) = 0;
  virtual void object(const FieldInfo& info, const std::function<void(FieldVisitor&)>& visit) = 0;
  virtual void list(const FieldInfo& info, const ListAccess& access) = 0;
  /// A list of plain integers; the range is that of each.
  virtual void integers(const FieldInfo& info, std::vector<std::int64_t>& values) = 0;

  /// Fields of the current object that depend on the name in the text field `info.name`.
  /// Readers visit the fields of the chosen kind, describers those of all kinds.
  virtual void variant(const FieldInfo& info, const std::vector<std::string_view>& names,
                       std::size_t& index,
                       const std::function<void(std::size_t, FieldVisitor&)>& visit) = 0;

  /// Whether require() looks at its rule: only after all fields so far were read without a problem.
  [[nodiscard]] virtual bool checks_rules() const = 0;

  /// A rule over several fields of the current object; reported with the path of `field` when
  /// `holds` is false. Describers ignore it.
  virtual void require(bool holds, std::string_view field, const std::string& message) = 0;

  // -- What config structs call.

  /// The same with a rule that may compute with the fields (divide by one): called only when they
  /// all were read.
  template <std::predicate Rule>
  void require(Rule holds, std::string_view field, const std::string& message) {
    if (checks_rules()) {
      require(static_cast<bool>(holds()), field, message);
    }
  }

  template <class T>
  void parameter(std::string_view name, T& value, std::string_view doc, Range range = {}) {
    any(FieldInfo{name, doc, FieldKind::parameter, range}, value);
  }
  template <class T>
  void constant(std::string_view name, T& value, std::string_view doc, Range range = {}) {
    any(FieldInfo{name, doc, FieldKind::constant, range}, value);
  }
  /// A choice of an enum class whose values are 0, 1, 2, ... in the order of `names`.
  template <class E>
  void one_of(std::string_view name, E& value, const std::vector<std::string_view>& names,
              std::string_view doc) {
    auto index = static_cast<std::size_t>(value);
    choice(FieldInfo{name, doc}, names, index);
    value = static_cast<E>(index);
  }
  template <class T>
  void group(std::string_view name, T& value, std::string_view doc) {
    object(FieldInfo{name, doc}, [&value](FieldVisitor& v) { value.fields(v); });
  }
  template <class T>
  void list_of(std::string_view name, std::vector<T>& values, std::string_view doc,
               Range length = {}) {
    list(FieldInfo{name, doc, FieldKind::parameter, length},
         ListAccess{
             [&values](std::size_t size) { values.resize(size); },
             [&values](std::size_t i, FieldVisitor& v) { values[i].fields(v); },
             [](FieldVisitor& v) {
               T example;
               example.fields(v);
             },
         });
  }

 private:
  /// With the type's limits, where the field gives none of its own.
  static FieldInfo limited(FieldInfo info, std::int64_t highest) {
    const Range none;
    if (info.range.highest == none.highest) {
      info.range.highest = static_cast<double>(highest);
    }
    if (info.range.lowest == none.lowest) {
      info.range.lowest = 0;
    }
    return info;
  }

  template <class T>
  void any(const FieldInfo& info, T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      boolean(info, value);
    } else if constexpr (std::is_same_v<T, int>) {
      FieldInfo bounded = info;
      bounded.range.lowest = std::max<double>(info.range.lowest, std::numeric_limits<int>::min());
      bounded.range.highest = std::min<double>(info.range.highest, std::numeric_limits<int>::max());
      std::int64_t wide = value;
      integer(bounded, wide);
      value = static_cast<int>(wide);
    } else if constexpr (std::is_same_v<T, std::int64_t>) {
      integer(info, value);
    } else if constexpr (std::is_same_v<T, double>) {
      real(info, value);
    } else if constexpr (std::is_same_v<T, std::string>) {
      text(info, value);
    } else if constexpr (std::is_same_v<T, SimDuration>) {
      duration(limited(info, kLongestDuration.count()), value);
    } else if constexpr (std::is_same_v<T, Bytes>) {
      bytes(limited(info, kLargestSize.count()), value);
    } else if constexpr (std::is_same_v<T, Rate>) {
      rate(limited(info, kHighestRate.per_second()), value);
    } else if constexpr (std::is_same_v<T, FlopRate>) {
      flop_rate(limited(info, kHighestFlopRate.per_second()), value);
    } else if constexpr (std::is_same_v<T, Power>) {
      power(limited(info, kHighestPower.count()), value);
    } else if constexpr (std::is_same_v<T, Energy>) {
      energy(info, value);
    } else {
      static_assert(std::is_same_v<T, std::vector<std::int64_t>>, "no such field type");
      integers(info, value);
    }
  }
};

/// Range of a quantity from its own type: range_of(1_ps, 10ms).
template <class Tag>
[[nodiscard]] constexpr Range range_of(Amount<Tag> lowest, Amount<Tag> highest) {
  return {static_cast<double>(lowest.count()), static_cast<double>(highest.count())};
}
template <class Tag>
[[nodiscard]] constexpr Range range_of(AmountRate<Tag> lowest, AmountRate<Tag> highest) {
  return {static_cast<double>(lowest.per_second()), static_cast<double>(highest.per_second())};
}
[[nodiscard]] constexpr Range range_of(SimDuration lowest, SimDuration highest) {
  return {static_cast<double>(lowest.count()), static_cast<double>(highest.count())};
}
[[nodiscard]] constexpr Range at_least(double lowest) {
  return {lowest, std::numeric_limits<double>::max()};
}

}  // namespace nearkv
