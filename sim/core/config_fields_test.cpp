#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

using namespace nearkv;
using namespace std::chrono_literals;
using nlohmann::json;

namespace {

// A design point with every kind of field.

enum class Policy { fifo, data_out_first };

struct Flash {
  int channels = 0;
  SimDuration t_read{};
  Bytes page{};
  Rate channel_rate{};
  Policy policy = Policy::fifo;

  void fields(FieldVisitor& v) {
    v.parameter("channels", channels, "Channels.", {1, 64});
    v.constant("t_read", t_read, "Array time of a read.", range_of(1_ps, 10ms));
    v.parameter("page", page, "User data of a page.", range_of(512_B, 64_KiB));
    v.constant("channel_rate", channel_rate, "Bus rate.", range_of(1_MBps, 10'000_MBps));
    v.one_of("policy", policy, {"fifo", "data_out_first"}, "Order of the bus.");
  }
};

enum class Kind { plain, sparse };

struct System {
  Kind kind = Kind::plain;
  std::int64_t keep = 0;
  double ratio = 0;

  void fields(FieldVisitor& v) {
    auto index = static_cast<std::size_t>(kind);
    v.variant({"kind", "What runs."}, {"plain", "sparse"}, index,
              [this](std::size_t chosen, FieldVisitor& inner) {
                if (chosen == 1) {
                  inner.parameter("keep", keep, "Tokens kept.", at_least(1));
                  inner.parameter("ratio", ratio, "Share kept.", {0, 1});
                }
              });
    kind = static_cast<Kind>(index);
  }
};

struct Point {
  std::string name;
  int batch = 0;
  std::int64_t seed = 0;
  bool verbose = false;
  FlopRate peak{};
  std::vector<std::int64_t> steps;
  std::vector<Flash> flash;
  System system;
  Power draw{};
  Energy page_read{};

  void fields(FieldVisitor& v) {
    v.parameter("name", name, "Name of the point.");
    v.parameter("batch", batch, "Sequences.", at_least(1));
    v.parameter("seed", seed, "Seed of all streams.");
    v.parameter("verbose", verbose, "Whether to say more.");
    v.constant("peak", peak, "Peak rate.", range_of(FlopRate{1}, FlopRate{1'000'000'000'000'000}));
    v.parameter("steps", steps, "Steps to sample.", {0, 100});
    v.list_of("flash", flash, "Flash arrays.", {1, 4});
    v.group("system", system, "The inference system.");
    v.constant("draw", draw, "Power of the machine.", range_of(1_W, 2000_W));
    v.constant("page_read", page_read, "Energy of a page.", at_least(0));
    v.require(batch >= 2 || name != "pair", "batch", "must be at least 2 for the name \"pair\"");
    v.require([this] { return 1024 % batch == 0; }, "batch", "must divide 1024");
  }
};

FieldLister fields_of(Point& point) {
  return [&point](FieldVisitor& v) { point.fields(v); };
}

json good_point() {
  return json::parse(R"({
    "name": "p", "batch": 64, "seed": 42, "verbose": false,
    "peak": {"value": "150TFLOP/s", "source": "datasheet", "citation": "page 1"},
    "steps": [1, 50, 100],
    "flash": [{
      "channels": 8, "page": "16KiB", "policy": "data_out_first",
      "t_read": {"value": "50us", "source": "assumed", "citation": "typical TLC"},
      "channel_rate": {"value": "1.4GB/s", "source": "paper", "citation": "table 2"}}],
    "system": {"kind": "sparse", "keep": 128, "ratio": 0.125},
    "draw": {"value": "1.5kW", "source": "assumed", "citation": "a server"},
    "page_read": {"value": "60uJ", "source": "assumed", "citation": "typical TLC"}})");
}

/// The problems of a config, one a line, or "".
std::string problems(const json& config) {
  Point point;
  try {
    read_fields(config, fields_of(point));
    return "";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

/// The same for the good point with one value set (null removes it).
std::string problems_with(const std::string& path, const std::string& value) {
  json config = good_point();
  config[json::json_pointer(path)] = json::parse(value);
  return problems(config);
}

std::string problems_without(const std::string& parent, const std::string& key) {
  json config = good_point();
  config[json::json_pointer(parent)].erase(key);
  return problems(config);
}

// A validator for the part of JSON Schema that the export uses; it refuses what it does not know.
class SchemaCheck {
 public:
  static bool accepts(const json& schema, const json& value) {
    std::vector<std::string> evaluated;
    return matches(schema, value, evaluated);
  }

 private:
  static bool has_type(const std::string& type, const json& value) {
    if (type == "object") return value.is_object();
    if (type == "array") return value.is_array();
    if (type == "string") return value.is_string();
    if (type == "boolean") return value.is_boolean();
    if (type == "integer") return value.is_number_integer();
    REQUIRE(type == "number");
    return value.is_number();
  }

  /// `evaluated` gets the names of the properties that a subschema of this object has looked at.
  static bool matches(const json& schema, const json& value, std::vector<std::string>& evaluated) {
    bool good = true;
    std::vector<std::string> own;
    for (const auto& [word, rule] : schema.items()) {
      good = good && keyword(word, rule, value, own);
    }
    if (schema.contains("if")) {
      std::vector<std::string> seen;
      if (matches(schema["if"], value, seen)) {
        good = good && matches(schema["then"], value, seen);
        own.insert(own.end(), seen.begin(), seen.end());
      }
    }
    for (const char* closing : {"unevaluatedProperties", "additionalProperties"}) {
      if (schema.contains(closing) && value.is_object()) {
        REQUIRE(schema[closing] == false);
        for (const auto& [key, child] : value.items()) {
          good = good && std::find(own.begin(), own.end(), key) != own.end();
        }
      }
    }
    evaluated.insert(evaluated.end(), own.begin(), own.end());
    return good;
  }

  static bool keyword(const std::string& word, const json& rule, const json& value,
                      std::vector<std::string>& own) {
    if (word == "type") return has_type(rule, value);
    if (word == "enum") return std::find(rule.begin(), rule.end(), value) != rule.end();
    if (word == "const") return value == rule;
    if (word == "properties") return properties(rule, value, own);
    if (word == "allOf") {
      return std::all_of(rule.begin(), rule.end(),
                         [&](const json& part) { return matches(part, value, own); });
    }
    if (word == "anyOf") {
      return std::any_of(rule.begin(), rule.end(),
                         [&](const json& part) { return matches(part, value, own); });
    }
    if (word == "required") {
      return !value.is_object() || std::all_of(rule.begin(), rule.end(), [&](const json& key) {
        return value.contains(key.get<std::string>());
      });
    }
    if (word == "items") {
      return !value.is_array() || std::all_of(value.begin(), value.end(), [&](const json& item) {
        return accepts(rule, item);
      });
    }
    return limit(word, rule, value);
  }

  static bool properties(const json& rule, const json& value, std::vector<std::string>& own) {
    bool good = true;
    for (const auto& [key, part] : rule.items()) {
      if (value.is_object() && value.contains(key)) {
        own.push_back(key);
        good = good && accepts(part, value[key]);
      }
    }
    return good;
  }

  static bool limit(const std::string& word, const json& rule, const json& value) {
    if (word == "minimum") return !value.is_number() || value >= rule;
    if (word == "maximum") return !value.is_number() || value <= rule;
    if (word == "minItems") return !value.is_array() || value.size() >= rule.get<std::size_t>();
    if (word == "maxItems") return !value.is_array() || value.size() <= rule.get<std::size_t>();
    if (word == "minLength") return !value.is_string() || value.get<std::string>().size() >= rule;
    if (word == "pattern") {
      return !value.is_string() ||
             std::regex_search(value.get<std::string>(), std::regex(rule.get<std::string>()));
    }
    const std::vector<std::string> without_effect{
        "description",         "title", "$schema", "if", "then", "unevaluatedProperties",
        "additionalProperties"};
    INFO("the keyword ", word);
    REQUIRE(std::find(without_effect.begin(), without_effect.end(), word) != without_effect.end());
    return true;
  }
};

json schema() {
  Point point;
  return schema_of(fields_of(point), "Point");
}

}  // namespace

// -- Reading ------------------------------------------------------------------------------------

TEST_CASE("config fields: a complete config fills the struct") {
  Point point;
  const std::vector<ConstantUse> constants = read_fields(good_point(), fields_of(point));
  CHECK(point.name == "p");
  CHECK(point.batch == 64);
  CHECK(point.seed == 42);
  CHECK_FALSE(point.verbose);
  CHECK(point.peak == FlopRate{150'000'000'000'000});
  CHECK(point.steps == std::vector<std::int64_t>{1, 50, 100});
  REQUIRE(point.flash.size() == 1);
  CHECK(point.flash[0].channels == 8);
  CHECK(point.flash[0].t_read == 50us);
  CHECK(point.flash[0].page == 16_KiB);
  CHECK(point.flash[0].channel_rate == 1400_MBps);
  CHECK(point.flash[0].policy == Policy::data_out_first);
  CHECK(point.system.kind == Kind::sparse);
  CHECK(point.system.keep == 128);
  CHECK(point.system.ratio == 0.125);
  CHECK(point.draw == 1500_W);
  CHECK(point.page_read == 60_uJ);
  REQUIRE(constants.size() == 5);
  CHECK(constants[0].path == "/peak");
  CHECK(constants[0].value == "150TFLOP/s");
  CHECK(constants[0].source == "datasheet");
  CHECK(constants[1].path == "/flash/0/t_read");
  CHECK(constants[1].source == "assumed");
  CHECK(constants[1].citation == "typical TLC");
}

TEST_CASE("config fields: comments mean nothing, parameters may carry a source") {
  json config = good_point();
  config["comment"] = "of the point";
  config["flash"][0]["comment"] = "of the array";
  config["flash"][0]["t_read"]["comment"] = "of the constant";
  config["batch"] = json::parse(R"({"value": 32, "source": "paper", "citation": "section 6"})");
  config["steps"] = json::parse(R"({"value": [1], "source": "paper", "citation": "figure 2"})");
  config["flash"][0]["policy"] =
      json::parse(R"({"value": "fifo", "source": "paper", "citation": "section 5"})");
  Point point;
  const auto constants = read_fields(config, fields_of(point));
  CHECK(point.batch == 32);
  CHECK(point.steps == std::vector<std::int64_t>{1});
  CHECK(point.flash[0].policy == Policy::fifo);
  CHECK(constants.size() == 8);
  CHECK(constants[0].path == "/batch");
  CHECK(constants[0].value == "32");
  CHECK(SchemaCheck::accepts(schema(), config));
}

TEST_CASE("config fields: wrong types say what was found and what would be right") {
  CHECK(problems_with("/name", "5") == "/name: is 5 (number); must be a string in double quotes");
  CHECK(problems_with("/batch", "\"64\"") ==
        "/batch: is \"64\" (string); must be a whole number, without point or exponent");
  CHECK(problems_with("/batch", "64.0") ==
        "/batch: is 64.0 (number); must be a whole number, without point or exponent");
  CHECK(problems_with("/batch", "null") ==
        "/batch: is null; must be a whole number, without point or exponent");
  CHECK(problems_with("/verbose", "0") == "/verbose: is 0 (number); must be true or false");
  CHECK(problems_with("/system/ratio", "\"half\"") ==
        "/system/ratio: is \"half\" (string); must be a number");
  CHECK(problems_with("/steps", "5") == "/steps: is 5 (number); must be a list of whole numbers");
  CHECK(problems_with("/steps", "[1, \"2\"]") ==
        "/steps/1: is \"2\" (string); must be a whole number, without point or exponent");
  CHECK(problems_with("/flash", "{}") == "/flash: is {} (object); must be a list of objects");
  CHECK(problems_with("/flash/0", "7") == "/flash/0: is 7 (number); must be an object");
  CHECK(problems_with("/system", "[]") == "/system: is [] (array); must be an object");
  CHECK(problems_with("/flash/0/page", "4096") ==
        "/flash/0/page: is 4096 (number); must be a size such as \"4KiB\", with its unit");
  CHECK(problems_with("/flash/0/t_read/value", "50") ==
        "/flash/0/t_read: is 50 (number); must be a duration such as \"50us\", with its unit");
  CHECK(
      problems_with("/flash/0/page", "{\"a\": 1}")
          .starts_with("/flash/0/page: is {\"a\":1} (object); must be a plain value; a value wi"));
  CHECK(problems(json::array()) == "/: is [] (array); must be an object");
  // A long value is cut, and stays on one line.
  const std::string message = problems_with("/batch", '"' + std::string(10'000, 'x') + "\\n\"");
  CHECK(message.size() < 200);
  CHECK(message.find('\n') == std::string::npos);
}

TEST_CASE("config fields: quantities say what their units are") {
  CHECK(problems_with("/flash/0/page", "\"16KIB\"") ==
        "/flash/0/page: \"16KIB\" has the unknown unit \"KIB\"; write a size such as \"4KiB\" "
        "(units: B, KB, MB, GB, TB, KiB, MiB, GiB, TiB)");
  CHECK(problems_with("/flash/0/t_read/value", "\"50\"")
            .starts_with("/flash/0/t_read: \"50\" has no unit; write a duration such as \"50us\""));
  CHECK(problems_with("/draw/value", "1500") ==
        "/draw: is 1500 (number); must be a power such as \"300W\", with its unit");
  CHECK(problems_with("/draw/value", "\"3kW\"") == "/draw: 3kW is out of range; must be 1W to 2kW");
  CHECK(problems_with("/page_read/value", "\"60uj\"") ==
        "/page_read: \"60uj\" has the unknown unit \"uj\"; write an energy such as \"60uJ\" "
        "(units: pJ, nJ, uJ, mJ, J)");
  CHECK(
      problems_with("/peak/value", "\"1.5\"").starts_with("/peak: \"1.5\" has no unit; write a c"));
}

TEST_CASE("config fields: ranges are inclusive and named in the unit of the field") {
  CHECK(problems_with("/flash/0/channels", "1").empty());
  CHECK(problems_with("/flash/0/channels", "64").empty());
  CHECK(problems_with("/flash/0/channels", "0") ==
        "/flash/0/channels: 0 is out of range; must be 1 to 64");
  CHECK(problems_with("/flash/0/channels", "65") ==
        "/flash/0/channels: 65 is out of range; must be 1 to 64");
  CHECK(problems_with("/batch", "0") == "/batch: 0 is out of range; must be at least 1");
  CHECK(problems_with("/batch", "2147483648") ==
        "/batch: 2147483648 is out of range; must be at most 2147483647");
  CHECK(problems_with("/batch", "18446744073709551615") ==
        "/batch: 18446744073709551615 is out of range; must be at most 9223372036854775807");
  CHECK(problems_with("/seed", "9223372036854775807").empty());
  CHECK(problems_with("/seed", "9223372036854775808") ==
        "/seed: 9223372036854775808 is out of range; must be at most 9223372036854775807");
  CHECK(problems_with("/seed", "-9223372036854775808").empty());
  CHECK(problems_with("/system/ratio", "1.5") ==
        "/system/ratio: 1.5 is out of range; must be 0 to 1");
  CHECK(problems_with("/steps", "[0, 101]") == "/steps/1: 101 is out of range; must be 0 to 100");
  CHECK(problems_with("/flash/0/t_read/value", "\"0ps\"") ==
        "/flash/0/t_read: 0ps is out of range; must be 1ps to 10ms");
  CHECK(problems_with("/flash/0/t_read/value", "\"10.000000001ms\"")
            .ends_with("is out of range; must be 1ps to 10ms"));
  CHECK(problems_with("/flash/0/page", "\"511B\"") ==
        "/flash/0/page: 511B is out of range; must be 512B to 64KiB");
  CHECK(problems_with("/flash", "[]") == "/flash: has 0 elements; must have 1 to 4");
}

TEST_CASE("config fields: limits at the end of the number range do not overflow") {
  struct Wide {
    SimDuration any{};
    void fields(FieldVisitor& v) {
      v.parameter("any", any, "Anything.", range_of(1_ps, SimDuration::max()));
    }
  };
  Wide wide;
  const FieldLister lister = [&wide](FieldVisitor& v) { wide.fields(v); };
  CHECK_THROWS_WITH_AS(read_fields({{"any", "0ps"}}, lister),
                       "/any: 0ps is out of range; must be 1ps to 9223372036854775807ps",
                       ConfigError);
  read_fields({{"any", "9223372036854775807ps"}}, lister);
  CHECK(wide.any == SimDuration::max());
}

TEST_CASE("config fields: a constant needs its source") {
  CHECK(problems_with("/flash/0/t_read", "\"50us\"") ==
        "/flash/0/t_read: a constant needs its source; write {\"value\": \"50us\", \"source\": "
        "\"assumed\", \"citation\": \"why\"} (sources: datasheet, measured, paper, fit, assumed, "
        "override)");
  CHECK(problems_with("/peak/source", "\"guess\"") ==
        "/peak/source: is \"guess\"; must be one of datasheet, measured, paper, fit, assumed, "
        "override");
  CHECK(problems_with("/peak/source", "3").starts_with("/peak/source: is 3; must be one of data"));
  CHECK(problems_with("/peak/citation", "\"\"") ==
        "/peak/citation: is \"\"; must be a text that says where the value came from");
  CHECK(problems_with("/peak/sauce", "\"fit\"") ==
        "/peak/sauce: unknown key; a value with a source has \"value\", \"source\" and "
        "\"citation\"");
  CHECK(problems_without("/peak", "citation") ==
        "/peak/citation: missing; a value with a source has \"value\", \"source\" and "
        "\"citation\"");
  CHECK(problems_without("/peak", "value").starts_with("/peak/value: missing; a value with a sou"));
}

TEST_CASE("config fields: a constant may carry the interval that holds its true value") {
  json config = good_point();
  config["flash"][0]["t_read"]["interval"] = {"20us", "0.09ms"};
  config["batch"] = json::parse(
      R"({"value": 32, "source": "assumed", "citation": "usual", "interval": [32, 64]})");
  Point point;
  const std::vector<ConstantUse> constants = read_fields(config, fields_of(point));
  CHECK(point.flash[0].t_read == 50us);
  CHECK(point.batch == 32);
  const auto of = [&constants](std::string_view path) {
    return *std::find_if(constants.begin(), constants.end(),
                         [path](const ConstantUse& use) { return use.path == path; });
  };
  const ConstantUse t_read = of("/flash/0/t_read");
  CHECK(t_read.interval == "20us to 90us");
  CHECK(t_read.number->type == NumberType::duration);
  CHECK(t_read.number->value == 50e6);
  CHECK(t_read.number->range.highest == 1e10);
  CHECK(t_read.number->interval->lowest == 20e6);
  CHECK(t_read.number->interval->highest == 90e6);
  CHECK(of("/batch").interval == "32 to 64");
  CHECK(of("/draw").interval.empty());
  CHECK(of("/draw").number->value == 1.5e9);
  CHECK_FALSE(of("/draw").number->interval.has_value());
}

TEST_CASE("config fields: what is no interval") {
  const auto with = [](const std::string& interval) {
    return problems_with("/flash/0/t_read/interval", interval);
  };
  CHECK(with(R"(["30us", "60us"])").empty());
  CHECK(with(R"("30us")") ==
        "/flash/0/t_read/interval: is \"30us\" (string); must be a list of two values, the ends of "
        "the 90 % interval around the value");
  CHECK(with(R"(["30us"])").starts_with("/flash/0/t_read/interval: is [\"30us\"] (array); must"));
  CHECK(with(R"(["30us", 60])") ==
        "/flash/0/t_read/interval/1: is 60 (number); must be a duration such as \"50us\", with its "
        "unit");
  CHECK(with(R"(["30us", "1s"])") ==
        "/flash/0/t_read/interval/1: 1s is out of range; must be 1ps to 10ms");
  CHECK(with(R"(["60us", "70us"])") ==
        "/flash/0/t_read/interval: 60us to 70us does not hold the value, 50us; must be a list of "
        "two values, the ends of the 90 % interval around the value");
  CHECK(with(R"(["60us", "40us"])") ==
        "/flash/0/t_read/interval: is 60us to 40us; the lower end comes first and must be below "
        "the other");
  CHECK(problems_with("/name", R"({"value": "p", "source": "assumed", "citation": "a name",
                                   "interval": ["a", "z"]})") ==
        "/name/interval: only a number has an interval; remove it");
}

TEST_CASE("config fields: numbers by type are written as configs write them") {
  const auto written = [](NumberType type, double value) {
    const json json_value = number_as_json(type, value);
    CHECK(number_from_json(type, json_value) == std::round(value));
    return json_value;
  };
  CHECK(written(NumberType::duration, 50e6) == "50us");
  CHECK(written(NumberType::bytes, 4096.4) == "4KiB");
  CHECK(written(NumberType::rate, 1.4e9) == "1.4GB/s");
  CHECK(written(NumberType::flop_rate, 12.7e9) == "12.7GFLOP/s");
  CHECK(written(NumberType::power, 300e6) == "300W");
  CHECK(written(NumberType::energy, 60e6) == "60uJ");
  CHECK(written(NumberType::integer, 7.6) == 8);
  CHECK(number_as_json(NumberType::real, 0.123) == 0.123);
  CHECK(si_units_of(NumberType::power) * 300e6 == doctest::Approx(300));
  CHECK(si_unit_name(NumberType::duration) == "s");
  CHECK_THROWS_AS(static_cast<void>(number_from_json(NumberType::duration, "50")),
                  std::invalid_argument);
}

TEST_CASE("config fields: unknown keys come with the nearest name, missing keys with their doc") {
  CHECK(problems_with("/flash/0/colour", "1") ==
        "/flash/0/colour: unknown key; known here: channel_rate, channels, page, policy, t_read");
  CHECK(problems_with("/flash/0/pages", "1") ==
        "/flash/0/pages: unknown key; did you mean \"page\"?");
  CHECK(problems_with("/extends", "\"x.json\"").starts_with("/extends: unknown key; "));
  CHECK(problems_without("", "batch") == "/batch: missing; add it (Sequences)");
  CHECK(problems_without("", "flash") == "/flash: missing; add it (Flash arrays)");
  CHECK(problems_without("/system", "keep") == "/system/keep: missing; add it (Tokens kept)");
  // One problem, not two: the misspelt key is the missing one.
  json config = good_point();
  config["flash"][0].erase("channels");
  config["flash"][0]["chanels"] = 8;
  CHECK(problems(config) == "/flash/0/chanels: unknown key; did you mean \"channels\"?");
  // The guess prefers what is missing to what is there.
  config = good_point();
  config["flash"][0].erase("page");
  config["flash"][0]["pag"] = "4KiB";
  CHECK(problems(config) == "/flash/0/pag: unknown key; did you mean \"page\"?");
  config = good_point();
  config["a\nb"] = 1;
  CHECK(problems(config).starts_with("/a\\nb: unknown key; "));
}

TEST_CASE("config fields: each quantity has an upper limit") {
  struct Machine {
    SimDuration latency{};
    Bytes memory{};
    Rate bandwidth{};
    FlopRate compute{};
    Power power{};

    void fields(FieldVisitor& v) {
      v.parameter("latency", latency, "a duration");
      v.parameter("memory", memory, "a size", at_least(1));
      v.parameter("bandwidth", bandwidth, "a rate", at_least(1));
      v.parameter("compute", compute, "a rate");
      v.parameter("power", power, "a power", at_least(0));
    }
  };
  Machine machine;
  const auto fields = [&machine](FieldVisitor& v) { machine.fields(v); };
  static_cast<void>(read_fields(json::parse(R"({"latency": "24h", "memory": "1024TiB",
    "bandwidth": "1000000TB/s", "compute": "1000000TFLOP/s", "power": "1000000W"})"),
                                fields));
  std::string refused;
  try {
    static_cast<void>(read_fields(json::parse(R"({"latency": "25h", "memory": "1025TiB",
      "bandwidth": "1000001TB/s", "compute": "1000001TFLOP/s", "power": "1000001W"})"),
                                  fields));
  } catch (const ConfigError& error) {
    refused = error.what();
  }
  CHECK(refused ==
        "/latency: 25h is out of range; must be 0ps to 24h\n"
        "/memory: 1025TiB is out of range; must be 1B to 1024TiB\n"
        "/bandwidth: 1000001TB/s is out of range; must be 1B/s to 1000000TB/s\n"
        "/compute: 1000001TFLOP/s is out of range; must be 0FLOP/s to 1000PFLOP/s\n"
        "/power: 1000001W is out of range; must be 0uW to 1000kW");
}

TEST_CASE("config fields: a hundred problems are told") {
  json config = good_point();
  for (int i = 0; i < 100; ++i) {
    config[fmt::format("key{}", i)] = 1;
  }
  const std::string hundred = problems(config);
  CHECK(std::ranges::count(hundred, '\n') == 99);
  config["key_more"] = 1;
  CHECK(problems(config) == hundred + "\nthere are more problems than these");
}

TEST_CASE("config fields: names that are no choice") {
  CHECK(problems_with("/flash/0/policy", "\"fiffo\"") ==
        "/flash/0/policy: is \"fiffo\"; must be one of fifo, data_out_first; did you mean "
        "\"fifo\"?");
  CHECK(problems_with("/flash/0/policy", "\"random\"") ==
        "/flash/0/policy: is \"random\"; must be one of fifo, data_out_first");
  CHECK(problems_with("/flash/0/policy", "1") ==
        "/flash/0/policy: is 1 (number); must be one of fifo, data_out_first");
}

TEST_CASE("config fields: the kind of a variant decides which fields there are") {
  json config = good_point();
  config["system"] = {{"kind", "plain"}};
  CHECK(problems(config).empty());
  config["system"] = {{"kind", "plain"}, {"keep", 1}};
  CHECK(problems(config) == "/system/keep: unknown key; known here: kind");
  config["system"] = {{"kind", "sparse"}, {"keep", 1}};
  CHECK(problems(config) == "/system/ratio: missing; add it (Share kept)");
  // Without a kind nothing can be said of the other fields.
  config["system"] = {{"keep", 1}};
  CHECK(problems(config) == "/system/kind: missing; add it (What runs)");
  config["system"] = {{"kind", "spars"}, {"keep", 1}};
  CHECK(problems(config) ==
        "/system/kind: is \"spars\"; must be one of plain, sparse; did you mean \"sparse\"?");
}

TEST_CASE("config fields: rules over several fields come after the fields themselves") {
  CHECK(problems_with("/batch", "3") == "/batch: must divide 1024");
  json config = good_point();
  config["name"] = "pair";
  config["batch"] = 1;
  CHECK(problems(config) == "/batch: must be at least 2 for the name \"pair\"");
  // A rule that would divide by the zero of an unread field is not asked.
  CHECK(problems_with("/batch", "0") == "/batch: 0 is out of range; must be at least 1");
  CHECK(problems_without("", "batch") == "/batch: missing; add it (Sequences)");
  config.erase("batch");
  CHECK(problems(config) == "/batch: missing; add it (Sequences)");
}

TEST_CASE("config fields: all problems are reported together, in the order of the fields") {
  json config = good_point();
  config.erase("name");
  config["batch"] = 0;
  config["flash"][0]["page"] = "16";
  config["flash"][0]["t_read"] = "50us";
  config["flash"].push_back(1);
  config["system"]["kind"] = "dense";
  config["speed"] = 9;
  const std::string message = problems(config);
  std::vector<std::string> paths;
  std::istringstream lines(message);
  for (std::string line; std::getline(lines, line);) {
    paths.push_back(line.substr(0, line.find(": ")));
  }
  CHECK(paths == std::vector<std::string>{"/batch", "/flash/0/t_read", "/flash/0/page", "/flash/1",
                                          "/system/kind", "/speed", "/name"});
}

TEST_CASE("config fields: a field that is listed twice is our bug") {
  std::int64_t value = 0;
  CHECK_THROWS_WITH_AS(read_fields({{"a", 1}},
                                   [&](FieldVisitor& v) {
                                     v.parameter("a", value, "Once.");
                                     v.parameter("a", value, "Twice.");
                                   }),
                       doctest::Contains("the field /a is listed twice"), CheckFailure);
}

// -- Schema and reference -----------------------------------------------------------------------

TEST_CASE("config fields: a good config fits the schema") {
  CHECK(SchemaCheck::accepts(schema(), good_point()));
  json config = good_point();
  config["system"] = {{"kind", "plain"}};
  CHECK(SchemaCheck::accepts(schema(), config));
  CHECK(schema()["title"] == "Point");
  CHECK(schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema");
  CHECK(schema()["properties"]["batch"]["description"] == "Sequences.");
}

// What the schema knows it refuses as the reader does; ranges of quantities only the reader knows.
TEST_CASE("config fields: reader and schema refuse the same") {
  struct Case {
    const char* path;
    const char* value;
  };
  for (const Case& bad : std::vector<Case>{
           {"/name", "5"},
           {"/batch", "0"},
           {"/batch", "1.5"},
           {"/batch", "\"1\""},
           {"/batch", "4294967296"},
           {"/verbose", "1"},
           {"/steps", "[1, \"2\"]"},
           {"/steps", "[101]"},
           {"/steps", "7"},
           {"/speed", "1"},
           {"/flash", "[]"},
           {"/flash", "{}"},
           {"/flash/0", "1"},
           {"/flash/0/colour", "1"},
           {"/flash/0/page", "\"16\""},
           {"/flash/0/page", "\"16kiB\""},
           {"/flash/0/page", "\"-16KiB\""},
           {"/flash/0/page", "\"16 KiB\""},
           {"/flash/0/t_read", "\"50us\""},
           {"/flash/0/t_read/value", "\"50\""},
           {"/flash/0/t_read/value", "\"50.us\""},
           {"/flash/0/channel_rate/value", "\"1GB\""},
           {"/flash/0/t_read/source", "\"guess\""},
           {"/flash/0/t_read/citation", "\"\""},
           {"/flash/0/t_read/extra", "1"},
           {"/flash/0/t_read/interval", "\"40us\""},
           {"/flash/0/t_read/interval", R"(["40us"])"},
           {"/flash/0/t_read/interval", R"(["40us", "60us", "70us"])"},
           {"/flash/0/t_read/interval", R"(["40us", 60])"},
           {"/flash/0/policy", "\"random\""},
           {"/peak/value", "\"1TFLOPS\""},
           {"/draw/value", "\"300\""},
           {"/draw/value", "\"1MW\""},
           {"/page_read/value", "\"1kJ\""},
           {"/system/kind", "\"dense\""},
           {"/system/kind", "\"plain\""},
           {"/system/ratio", "2"},
           {"/system/extra", "2"},
       }) {
    INFO(bad.path, " = ", bad.value);
    json config = good_point();
    config[json::json_pointer(bad.path)] = json::parse(bad.value);
    CHECK_FALSE(problems(config).empty());
    CHECK_FALSE(SchemaCheck::accepts(schema(), config));
  }
  for (const char* key : {"name", "batch", "seed", "verbose", "peak", "steps", "flash", "system"}) {
    json config = good_point();
    config.erase(key);
    CHECK_FALSE(problems(config).empty());
    CHECK_FALSE(SchemaCheck::accepts(schema(), config));
  }
  for (const char* key : {"kind", "keep", "ratio"}) {
    json config = good_point();
    config["system"].erase(key);
    CHECK_FALSE(problems(config).empty());
    CHECK_FALSE(SchemaCheck::accepts(schema(), config));
  }
}

TEST_CASE("config fields: the reference names every field with type, range and kind") {
  Point point;
  const std::vector<FieldDescription> fields = describe_fields(fields_of(point));
  const auto find = [&](const std::string& path) {
    const auto found = std::find_if(fields.begin(), fields.end(),
                                    [&](const FieldDescription& f) { return f.path == path; });
    REQUIRE(found != fields.end());
    return *found;
  };
  CHECK(fields.size() == 18);
  CHECK(find("/batch").type == "integer");
  CHECK(find("/batch").range == "at least 1");
  CHECK(find("/batch").kind == FieldKind::parameter);
  CHECK(find("/batch").doc == "Sequences.");
  CHECK(find("/seed").range.empty());
  CHECK(find("/flash").range == "1 to 4 elements");
  CHECK(find("/flash/*/t_read").type == "duration");
  CHECK(find("/flash/*/t_read").range == "1ps to 10ms");
  CHECK(find("/flash/*/t_read").kind == FieldKind::constant);
  CHECK(find("/flash/*/page").range == "512B to 64KiB");
  CHECK(find("/flash/*/policy").range == "fifo, data_out_first");
  CHECK(find("/peak").type == "compute rate");
  CHECK(find("/draw").type == "power");
  CHECK(find("/draw").range == "1W to 2kW");
  CHECK(find("/page_read").type == "energy");
  CHECK(find("/steps").type == "list of integers");
  CHECK(find("/system[kind=sparse]/keep").range == "at least 1");
}
