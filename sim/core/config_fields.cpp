// The reader of field lists.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/config_numbers.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

constexpr double kHighestInt = std::numeric_limits<int>::max();
constexpr std::size_t kMostProblems = 100;  // more help nobody, and may be a million

/// "Decoder layers." as "Decoder layers", to go into a sentence.
std::string_view without_full_stop(std::string_view doc) {
  return doc.ends_with('.') ? doc.substr(0, doc.size() - 1) : doc;
}

class JsonReader final : public FieldVisitor {
 public:
  JsonReader(const json& node, std::string path, std::vector<std::string>& problems,
             std::vector<ConstantUse>& constants)
      : node_(node), path_(std::move(path)), problems_(problems), constants_(constants) {}

  void integer(const FieldInfo& info, std::int64_t& value) override { number(info, value); }
  void real(const FieldInfo& info, double& value) override { number(info, value); }
  void boolean(const FieldInfo& info, bool& value) override {
    if (const json* found = scalar(info)) {
      if (!found->is_boolean()) {
        wrong_type(info, *found, "true or false");
      } else {
        value = found->get<bool>();
      }
    }
  }

  void text(const FieldInfo& info, std::string& value) override {
    if (const json* found = scalar(info)) {
      if (!found->is_string()) {
        wrong_type(info, *found, "a string in double quotes");
      } else {
        value = found->get<std::string>();
      }
    }
  }

  void choice(const FieldInfo& info, const std::vector<std::string_view>& names,
              std::size_t& index) override {
    if (const json* found = scalar(info)) {
      static_cast<void>(choose(info, *found, names, index));
    }
  }

  void duration(const FieldInfo& info, SimDuration& value) override { number(info, value); }
  void bytes(const FieldInfo& info, Bytes& value) override { number(info, value); }
  void rate(const FieldInfo& info, Rate& value) override { number(info, value); }
  void flop_rate(const FieldInfo& info, FlopRate& value) override { number(info, value); }
  void power(const FieldInfo& info, Power& value) override { number(info, value); }
  void energy(const FieldInfo& info, Energy& value) override { number(info, value); }

  void object(const FieldInfo& info, const std::function<void(FieldVisitor&)>& visit) override {
    if (const json* found = member(info)) {
      read_object(*found, path_of(info.name), visit);
    }
  }

  void list(const FieldInfo& info, const ListAccess& access) override {
    const json* found = member(info);
    if (found == nullptr) {
      return;
    }
    if (!found->is_array()) {
      wrong_type(info, *found, "a list of objects");
      return;
    }
    const auto length = static_cast<double>(found->size());
    if (length < info.range.lowest || length > info.range.highest) {
      problem(path_of(info.name), fmt::format("has {} elements; must have {}", found->size(),
                                              range_text(info.range, plain_number)));
      return;
    }
    access.resize(found->size());
    for (std::size_t i = 0; i < found->size(); ++i) {
      read_object((*found)[i], fmt::format("{}/{}", path_of(info.name), i),
                  [&](FieldVisitor& v) { access.visit(i, v); });
    }
  }

  void integers(const FieldInfo& info, std::vector<std::int64_t>& values) override {
    const json* found = scalar(info);
    if (found == nullptr) {
      return;
    }
    if (!found->is_array()) {
      wrong_type(info, *found, "a list of whole numbers");
      return;
    }
    values.assign(found->size(), 0);
    for (std::size_t i = 0; i < found->size(); ++i) {
      const std::string path = fmt::format("{}/{}", path_of(info.name), i);
      values[i] = read_number<std::int64_t>(info, path, (*found)[i]).value_or(values[i]);
    }
  }

  void variant(const FieldInfo& info, const std::vector<std::string_view>& names,
               std::size_t& index,
               const std::function<void(std::size_t, FieldVisitor&)>& visit) override {
    const json* found = member(info);
    if (found != nullptr && choose(info, *found, names, index)) {
      visit(index, *this);
    } else {
      fields_are_known_ = false;
    }
  }

  [[nodiscard]] bool checks_rules() const override {
    return problems_.size() == problems_at_start_ && missing_.empty();
  }

  void require(bool holds, std::string_view field, const std::string& message) override {
    if (!holds && checks_rules()) {
      problem(path_of(field), message);
    }
  }

  /// Reads one object with all its rules; reports unknown and missing keys.
  void read_all(const std::function<void(FieldVisitor&)>& visit) {
    problems_at_start_ = problems_.size();
    visit(*this);
    const std::set<std::string> explained =
        fields_are_known_ ? report_unknown_keys() : std::set<std::string>{};
    for (const std::string& name : missing_) {
      if (!explained.contains(name)) {
        problem(path_of(name), fmt::format("missing; add it ({})", docs_.at(name)));
      }
    }
  }

 private:
  /// Returns the missing names that an unknown key seems to be meant for.
  std::set<std::string> report_unknown_keys() {
    std::set<std::string> explained;
    std::vector<std::string> known;
    for (const auto& [name, doc] : docs_) {
      known.push_back(name);
    }
    for (const auto& [key, value] : node_.items()) {
      if (docs_.contains(key) || key == "comment") {
        continue;
      }
      // A missing name is the better guess than one that is there already.
      std::string nearest = nearest_name(key, missing_);
      nearest = nearest.empty() ? nearest_name(key, known) : nearest;
      explained.insert(nearest);
      problem(path_of(printable(key)),
              nearest.empty() ? fmt::format("unknown key; known here: {}", fmt::join(known, ", "))
                              : fmt::format("unknown key; did you mean \"{}\"?", nearest));
    }
    return explained;
  }

  std::string path_of(std::string_view name) const { return fmt::format("{}/{}", path_, name); }

  void problem(const std::string& path, const std::string& message) {
    if (problems_.size() == kMostProblems) {
      problems_.emplace_back("there are more problems than these");
      throw ConfigError(problems_);
    }
    problems_.push_back(path + ": " + message);
  }
  void wrong_type(const FieldInfo& info, const json& found, std::string_view wanted) {
    problem(path_of(info.name), fmt::format("is {}; must be {}", type_phrase(found), wanted));
  }

  const json* member(const FieldInfo& info) {
    const std::string name(info.name);
    check(docs_.emplace(name, without_full_stop(info.doc)).second,
          fmt::format("the field {} is listed twice", path_of(name)));
    const auto found = node_.find(name);
    if (found == node_.end()) {
      missing_.push_back(name);
      return nullptr;
    }
    return &*found;
  }

  enum class Interval { allowed, refused };

  /// The value of a scalar field, taken out of its source object if it has one. Only numbers have
  /// an interval.
  const json* scalar(const FieldInfo& info, Interval interval = Interval::refused) {
    const json* found = member(info);
    if (found == nullptr) {
      return nullptr;
    }
    if (found->is_object()) {
      return sourced(info, *found, interval);
    }
    if (info.kind == FieldKind::constant) {
      problem(path_of(info.name),
              fmt::format("a constant needs its source; write {{\"value\": {}, \"source\": "
                          "\"assumed\", \"citation\": \"why\"}} (sources: {})",
                          printable(found->dump()), fmt::join(kConstantSources, ", ")));
      return nullptr;
    }
    return found;
  }

  const json* sourced(const FieldInfo& info, const json& object, Interval interval) {
    constexpr std::string_view kWanted =
        "a value with a source has \"value\", \"source\" and \"citation\"";
    constexpr std::array<std::string_view, 5> kKeys{"value", "source", "citation", "interval",
                                                    "comment"};
    const std::string path = path_of(info.name);
    const std::size_t problems_before = problems_.size();
    if (!object.contains("value") && !object.contains("source")) {
      wrong_type(info, object, fmt::format("a plain value; {}", kWanted));
      return nullptr;
    }
    for (const auto& [key, value] : object.items()) {
      if (key == "interval" && interval == Interval::refused) {
        problem(path + "/interval", "only a number has an interval; remove it");
      } else if (std::find(kKeys.begin(), kKeys.end(), key) == kKeys.end()) {
        problem(path + "/" + printable(key), fmt::format("unknown key; {}", kWanted));
      }
    }
    for (const char* key : {"value", "source", "citation"}) {
      if (!object.contains(key)) {
        problem(path + "/" + key, fmt::format("missing; {}", kWanted));
      }
    }
    const json& source = object.value("source", json("assumed"));
    if (!source.is_string() || std::find(kConstantSources.begin(), kConstantSources.end(),
                                         source.get<std::string>()) == kConstantSources.end()) {
      problem(path + "/source", fmt::format("is {}; must be one of {}", printable(source.dump()),
                                            fmt::join(kConstantSources, ", ")));
    }
    const json& citation = object.value("citation", json("none"));
    if (!citation.is_string() || citation.get<std::string>().empty()) {
      problem(path + "/citation",
              fmt::format("is {}; must be a text that says where the value came from",
                          printable(citation.dump())));
    }
    if (problems_.size() != problems_before) {
      return nullptr;
    }
    const json& value = object["value"];
    constants_.push_back({path, value.is_string() ? value.get<std::string>() : value.dump(),
                          source.get<std::string>(), citation.get<std::string>()});
    return &value;
  }

  /// Reads a numeric field, with its interval if it has one.
  template <class Number>
  void number(const FieldInfo& info, Number& value) {
    const std::size_t constants_before = constants_.size();
    const json* found = scalar(info, Interval::allowed);
    if (found == nullptr) {
      return;
    }
    const std::optional<Number> read = read_number<Number>(info, path_of(info.name), *found);
    if (!read.has_value()) {
      return;
    }
    value = *read;
    if (constants_.size() > constants_before) {
      constants_.back().number = FieldNumber{
          .type = number_type<Number>(),
          .value = base_units(*read),
          .range = info.range,
          .interval = {},
      };
      read_interval<Number>(info, *read);
    }
  }

  /// Nothing after a problem.
  template <class Number>
  std::optional<Number> read_number(const FieldInfo& info, const std::string& path,
                                    const json& found) {
    try {
      const auto read = number_from<Number>(found);
      if (in_range(info, path, base_units(read), limit_text_of(number_type<Number>()))) {
        return read;
      }
    } catch (const std::invalid_argument& error) {
      problem(path, error.what());
    }
    return std::nullopt;
  }

  /// Adds the interval of a sourced constant to its use.
  template <class Number>
  void read_interval(const FieldInfo& info, Number value) {
    const json& object = node_.at(std::string(info.name));
    if (!object.contains("interval")) {
      return;
    }
    const std::string path = path_of(info.name) + "/interval";
    const json& ends = object.at("interval");
    constexpr std::string_view kWanted =
        "a list of two values, the ends of the 90 % interval around the value";
    if (!ends.is_array() || ends.size() != 2) {
      problem(path, fmt::format("is {}; must be {}", type_phrase(ends), kWanted));
      return;
    }
    const auto lowest = read_number<Number>(info, path + "/0", ends[0]);
    const auto highest = read_number<Number>(info, path + "/1", ends[1]);
    if (!lowest || !highest) {
      return;
    }
    const LimitText text = limit_text_of(number_type<Number>());
    const Range interval{base_units(*lowest), base_units(*highest)};
    const double inside = base_units(value);
    if (interval.lowest >= interval.highest) {
      problem(path,
              fmt::format("is {} to {}; the lower end comes first and must be below the other",
                          text(interval.lowest), text(interval.highest)));
    } else if (inside < interval.lowest || inside > interval.highest) {
      problem(path,
              fmt::format("{} to {} does not hold the value, {}; must be {}", text(interval.lowest),
                          text(interval.highest), text(inside), kWanted));
    } else {
      ConstantUse& use = constants_.back();
      use.number->interval = interval;
      use.interval = fmt::format("{} to {}", text(interval.lowest), text(interval.highest));
    }
  }

  bool in_range(const FieldInfo& info, const std::string& path, double value,
                const LimitText& text) {
    if (value >= info.range.lowest && value <= info.range.highest) {
      return true;
    }
    std::string limits = range_text(info.range, text);
    if (limits.empty() || (value > info.range.highest && info.range.highest == kHighestInt)) {
      limits = value > info.range.highest ? fmt::format("at most {}", text(info.range.highest))
                                          : fmt::format("at least {}", text(info.range.lowest));
    }
    problem(path, fmt::format("{} is out of range; must be {}", text(value), limits));
    return false;
  }

  /// Sets `index` to that of the name `found`; false after a problem.
  bool choose(const FieldInfo& info, const json& found, const std::vector<std::string_view>& names,
              std::size_t& index) {
    if (!found.is_string()) {
      wrong_type(info, found, fmt::format("one of {}", fmt::join(names, ", ")));
      return false;
    }
    const auto name = found.get<std::string>();
    const auto match = std::find(names.begin(), names.end(), name);
    if (match == names.end()) {
      const std::string nearest = nearest_name(name, {names.begin(), names.end()});
      problem(path_of(info.name),
              fmt::format("is {}; must be one of {}{}", in_quotes(name), fmt::join(names, ", "),
                          nearest.empty() ? "" : fmt::format("; did you mean \"{}\"?", nearest)));
      return false;
    }
    index = static_cast<std::size_t>(match - names.begin());
    return true;
  }

  void read_object(const json& node, const std::string& path,
                   const std::function<void(FieldVisitor&)>& visit) {
    if (!node.is_object()) {
      problem(path, fmt::format("is {}; must be an object", type_phrase(node)));
      return;
    }
    JsonReader(node, path, problems_, constants_).read_all(visit);
  }

  const json& node_;
  std::string path_;
  std::vector<std::string>& problems_;
  std::vector<ConstantUse>& constants_;
  std::vector<std::string> missing_;
  std::map<std::string, std::string> docs_;  // of the fields listed so far, by name
  std::size_t problems_at_start_ = 0;
  bool fields_are_known_ = true;  // false when a variant's kind could not be read
};

}  // namespace

std::vector<ConstantUse> read_fields(const json& config, const FieldLister& fields) {
  std::vector<std::string> problems;
  std::vector<ConstantUse> constants;
  if (!config.is_object()) {
    throw ConfigError(fmt::format("/: is {}; must be an object", type_phrase(config)));
  }
  JsonReader(config, "", problems, constants).read_all(fields);
  if (!problems.empty()) {
    throw ConfigError(problems);
  }
  return constants;
}

}  // namespace nearkv
