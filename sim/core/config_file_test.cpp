#include <cstdlib>
#include <filesystem>
#include <string>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/test_folder.hpp"

using namespace nearkv;
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// A folder of config files; messages name files without it.
class Files : public TestFolder {
 public:
  [[nodiscard]] fs::path path(const std::string& name) const { return TestFolder::path() / name; }
  [[nodiscard]] json config(const std::string& name) const { return load_config(path(name)); }

  /// The message of loading `name`, without the folder; "" when it loads.
  [[nodiscard]] std::string refusal(const std::string& name) const {
    try {
      static_cast<void>(load_config(path(name)));
      return "";
    } catch (const ConfigError& error) {
      return without_folder(error.what());
    }
  }
  /// The same for a file with this text.
  [[nodiscard]] std::string refusal_of(const std::string& text) const {
    write("point.json", text);
    return refusal("point.json");
  }

 private:
  [[nodiscard]] std::string without_folder(std::string text) const {
    const std::string folder = TestFolder::path().string() + "/";
    for (std::size_t at = text.find(folder); at != std::string::npos; at = text.find(folder)) {
      text.erase(at, folder.size());
    }
    return text;
  }
};

std::string override_refusal(json config, const std::string& assignment) {
  try {
    apply_override(config, assignment);
    return "";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

json overridden(json config, const std::string& assignment) {
  apply_override(config, assignment);
  return config;
}

}  // namespace

// -- Strict JSON --------------------------------------------------------------------------------

TEST_CASE("config: a file that is too large, or has too many values, is refused at once") {
  const Files files;
  const std::string large(33 << 20, ' ');
  CHECK(files.refusal_of(large) == "point.json: has 33 MiB; a config has 32 at most");
  std::string many = "{\"x\": [0";
  for (int i = 1; i < 1'500'000; ++i) {
    many += ",0";
  }
  CHECK(files.refusal_of(many + "]}") ==
        "point.json: /x/1499997: more than 1500000 values; nothing needs so many");
  std::string keys = "{\"k\": 0";
  for (int i = 0; i < 250'000; ++i) {
    keys += fmt::format(",\"{}\": 0", i);
  }
  CHECK(files.refusal_of(keys + "}") ==
        "point.json: /249999: more than 250000 keys; nothing needs so many");
  const std::string text(1 << 20, 'x');
  CHECK(files.refusal_of("{\"x\": \"" + text + "\"}").empty());
  CHECK(files.refusal_of("{\"x\": [\"" + text + "x\"]}") ==
        "point.json: /x/0: a text of more than 1048576 bytes; nothing needs that");
  CHECK(files.refusal_of("{\"" + text + "x\": 0}")
            .ends_with("...: a key of more than 1048576 bytes; nothing needs that"));
}

TEST_CASE("config file: broken JSON is named by line and column, in words") {
  const Files files;
  CHECK(files.refusal_of("") == "point.json: the file is empty; a JSON object was expected");
  CHECK(files.refusal_of(" \n\t\n") == "point.json: the file is empty; a JSON object was expected");
  const std::string cut_off = ": the JSON ends too early; is the file cut off?";
  CHECK(files.refusal_of("{") == "point.json:1:2" + cut_off);
  CHECK(files.refusal_of("{\"a\":") == "point.json:1:6" + cut_off);
  CHECK(files.refusal_of("{\n  \"a\": [1, 2\n") == "point.json:3:1" + cut_off);
  CHECK(files.refusal_of("{\"a\": \"b") == "point.json:1:9" + cut_off);
  CHECK(files.refusal_of("{\"a\": 1,}") == "point.json:1:9: a comma before '}'; remove the comma");
  CHECK(files.refusal_of("{\"a\": [1,\n]}") ==
        "point.json:2:1: a comma before ']'; remove the comma");
  CHECK(files.refusal_of("{\n\"a\": 1\n\"b\": 2}") ==
        "point.json:3:1: unexpected '\"'; a ',' is missing before it, or a closing '}'");
  CHECK(files.refusal_of("{\"a\": [1 2]}") ==
        "point.json:1:10: unexpected '2'; a ',' is missing before it, or a closing ']'");
  CHECK(files.refusal_of("{\"a\" 1}") ==
        "point.json:1:6: a ':' was expected between key and value");
  CHECK(files.refusal_of("{a: 1}") == "point.json:1:2: a key in double quotes was expected");
  CHECK(files.refusal_of("{'a': 1}") ==
        "point.json:1:2: a single quote; JSON strings are in double quotes");
  CHECK(files.refusal_of("// first\n{}") ==
        "point.json:1:1: JSON has no comments; use a key \"comment\"");
  CHECK(files.refusal_of("{\"a\": 1} {}") ==
        "point.json:1:10: text after the end of the JSON object; remove it");
  CHECK(files.refusal_of("{\"a\": tru}") ==
        "point.json:1:7: a value was expected: a string in double quotes, a number, true, false, "
        "null, [...] or {...}");
  CHECK(
      files.refusal_of("{\"a\": \"x\ny\"}").starts_with("point.json:1:9: a line break or tab in"));
  CHECK(files.refusal_of("{\"a\": \"\\q\"}").starts_with("point.json:1:9: an invalid escape in a"));
  CHECK(files.refusal_of("{\"a\": \"\xff\"}") ==
        "point.json:1:8: the text is not UTF-8; save the file as UTF-8");
  CHECK(files.refusal_of("{\n\"a\": 1e999}") == "point.json:2:6: the number 1e999 is too large");
}

TEST_CASE("config file: every truncation of a file is reported, with its place") {
  const Files files;
  const std::string whole = R"({"batch": 64, "csd": [{"t_read": "50us", "on": true}]})";
  CHECK(files.refusal_of(whole).empty());
  for (std::size_t size = 1; size < whole.size(); ++size) {
    const std::string message = files.refusal_of(whole.substr(0, size));
    REQUIRE(message.starts_with("point.json:1:"));
    REQUIRE(message.find('\n') == std::string::npos);
  }
}

TEST_CASE("config file: the outermost value must be an object in a file") {
  const Files files;
  const std::string wanted = "point.json: a JSON object {...} was expected (found: ";
  CHECK(files.refusal_of("[1]") == wanted + "array)");
  CHECK(files.refusal_of("5") == wanted + "number)");
  CHECK(files.refusal_of("null") == wanted + "null)");
  CHECK(files.refusal("none.json") == "none.json: no such file; name a JSON file");
  fs::create_directory(files.path("folder"));
  CHECK(files.refusal("folder") == "folder: is not a file; name a JSON file");
  CHECK(files.refusal(std::string(5000, 'x')).ends_with("File name too long; name a JSON file"));
}

TEST_CASE("config file: duplicate keys are refused with their path") {
  const Files files;
  const std::string rule = ": duplicate key; keep one of the two";
  CHECK(files.refusal_of(R"({"a": 1, "a": 1})") == "point.json: /a" + rule);
  CHECK(files.refusal_of(R"({"csd": [{"k": 1}, {"f": {"x": 1, "y": 2, "x": 3}}]})") ==
        "point.json: /csd/1/f/x" + rule);
  CHECK(files.refusal_of(R"({"m": [[0], [1, {"k": 1, "k": 2}]]})") ==
        "point.json: /m/1/1/k" + rule);
  CHECK(files.refusal_of(R"({"comment": "x", "comment": "y"})") == "point.json: /comment" + rule);
  CHECK(files.refusal_of(R"({"a\nb": 1, "a\nb": 2})") == R"(point.json: /a\nb)" + rule);
  CHECK(files.refusal_of(R"({"a": {"k": 1}, "b": {"k": 1}, "c": [{"k": 1}, {"k": 1}]})").empty());
}

TEST_CASE("config file: nesting is limited, to the level") {
  const Files files;
  const auto nested = [](int levels) {
    std::string text;
    for (int i = 1; i < levels; ++i) {
      text += "{\"k\":";
    }
    return text + "{}" + std::string(static_cast<std::size_t>(levels - 1), '}');
  };
  CHECK(files.refusal_of(nested(64)).empty());
  CHECK(files.refusal_of(nested(65))
            .ends_with("/k/k: nested deeper than 64 levels; nothing needs that"));
  CHECK(files.refusal_of("{\"k\":" + std::string(1'000'000, '[')).find("nested deeper than 64") !=
        std::string::npos);
}

// -- Extends ------------------------------------------------------------------------------------

TEST_CASE("config file: extends merges objects key by key and replaces the rest") {
  const Files files;
  files.write("base.json", R"({
    "comment": "dropped", "kept": 1, "changed": 2,
    "object": {"kept": 3, "changed": 4, "comment": "dropped", "deeper": {"a": 1, "b": 2}},
    "list": [1, 2, {"x": 1}],
    "constant": {"value": "50us", "source": "datasheet", "citation": "page 1"},
    "becomes_object": 1, "becomes_plain": {"a": 1}})");
  files.write("point.json", R"({
    "extends": "base.json", "changed": 20, "new": 30,
    "object": {"changed": 40, "new": 50, "deeper": {"b": 20}},
    "list": [{"y": 2}],
    "constant": {"value": "60us", "source": "assumed"},
    "becomes_object": {"a": 1}, "becomes_plain": 1})");
  CHECK(files.config("point.json") == json::parse(R"({
    "kept": 1, "changed": 20, "new": 30,
    "object": {"kept": 3, "changed": 40, "new": 50, "deeper": {"a": 1, "b": 20}},
    "list": [{"y": 2}],
    "constant": {"value": "60us", "source": "assumed"},
    "becomes_object": {"a": 1}, "becomes_plain": 1})"));
}

TEST_CASE("config file: an object of another kind replaces, unless it extends the very object") {
  const Files files;
  files.write("base.json",
              R"({"work": {"kind": "fixed", "batch": 4, "part": {"kind": "a", "x": 1}}})");
  files.write("other.json", R"({"extends": "base.json", "work": {"kind": "drawn", "n": 3}})");
  CHECK(files.config("other.json") == json::parse(R"({"work": {"kind": "drawn", "n": 3}})"));
  files.write("inner.json",
              R"({"extends": "base.json", "work": {"batch": 5, "part": {"kind": "b", "y": 2}}})");
  CHECK(files.config("inner.json") ==
        json::parse(R"({"work": {"kind": "fixed", "batch": 5, "part": {"kind": "b", "y": 2}}})"));
  files.write("same.json", R"({"extends": "base.json", "work": {"kind": "fixed", "n": 3}})");
  CHECK(files.config("same.json").at("work").at("batch") == 4);
  files.write("system.json", R"({"kind": "a", "x": 1})");
  files.write("derived.json", R"({"extends": "system.json", "kind": "b"})");
  CHECK(files.config("derived.json") == json::parse(R"({"kind": "b", "x": 1})"));
}

TEST_CASE("config file: several bases are merged in their order") {
  const Files files;
  files.write("a.json", R"({"x": 1, "y": 1, "o": {"p": 1, "q": 1}})");
  files.write("b.json", R"({"y": 2, "z": 2, "o": {"q": 2}})");
  files.write("point.json", R"({"extends": ["a.json", "b.json"], "z": 3})");
  CHECK(files.config("point.json") ==
        json::parse(R"({"x": 1, "y": 2, "z": 3, "o": {"p": 1, "q": 2}})"));
  files.write("none.json", R"({"extends": [], "z": 3})");
  CHECK(files.config("none.json") == json::parse(R"({"z": 3})"));
  // A base that extends another is still merged over the one before it.
  files.write("c.json", R"({"extends": "b.json", "z": 9})");
  files.write("chain.json", R"({"extends": ["a.json", "c.json"]})");
  CHECK(files.config("chain.json") ==
        json::parse(R"({"x": 1, "y": 2, "z": 9, "o": {"p": 1, "q": 2}})"));
}

TEST_CASE("config file: any object may extend, also in lists, relative to its own file") {
  const Files files;
  files.write("parts/flash.json", R"({"channels": 8, "page": "4KiB"})");
  files.write("parts/csd.json", R"({"flash": {"extends": "flash.json", "page": "16KiB"}, "n": 1})");
  files.write("point.json", R"({"csd": [{"extends": "parts/csd.json", "n": 2},
                                        {"extends": "parts/csd.json"}]})");
  CHECK(files.config("point.json") == json::parse(R"({"csd": [
    {"flash": {"channels": 8, "page": "16KiB"}, "n": 2},
    {"flash": {"channels": 8, "page": "16KiB"}, "n": 1}]})"));
}

TEST_CASE("config file: an object with an extends of its own replaces, at any depth") {
  const Files files;
  files.write("base.json", R"({"csd": {"flash": {"old": 1, "channels": 4}, "cores": 2}})");
  files.write("flash.json", R"({"channels": 8})");
  files.write("point.json", R"({"extends": "base.json",
    "csd": {"flash": {"extends": "flash.json", "planes": 2}}})");
  const json expected =
      json::parse(R"({"csd": {"flash": {"channels": 8, "planes": 2}, "cores": 2}})");
  CHECK(files.config("point.json") == expected);
  // The same when it comes in by a second base.
  files.write("overlay.json", R"({"csd": {"flash": {"extends": "flash.json", "planes": 2}}})");
  files.write("two.json", R"({"extends": ["base.json", "overlay.json"]})");
  CHECK(files.config("two.json") == expected);
  // Keys beside it, without an extends of their own, merge over what came in.
  files.write("three.json", R"({"extends": "two.json", "csd": {"flash": {"planes": 4}}})");
  CHECK(files.config("three.json")["csd"]["flash"] ==
        json::parse(R"({"channels": 8, "planes": 4})"));
}

TEST_CASE("config file: a resolved config loads again to the same") {
  const Files files;
  files.write("base.json", R"({"a": {"value": 1, "source": "fit", "citation": "x"}, "l": [{}]})");
  files.write("point.json", R"({"extends": "base.json", "b": {"extends": "base.json"}})");
  const json resolved = files.config("point.json");
  files.write("resolved.json", resolved.dump());
  CHECK(files.config("resolved.json") == resolved);
  CHECK(resolved.dump().find("extends") == std::string::npos);
}

TEST_CASE("config file: cycles are refused, diamonds are not") {
  const Files files;
  files.write("a.json", R"({"extends": "b.json"})");
  files.write("b.json", R"({"part": {"extends": "sub/../c.json"}})");
  files.write("c.json", R"({"list": [{"extends": "a.json"}]})");
  fs::create_directory(files.path("sub"));
  CHECK(files.refusal("a.json") ==
        "a.json: \"extends\" forms a cycle (a.json -> b.json -> c.json -> a.json); remove one of "
        "the links");
  files.write("self.json", R"({"extends": "self.json"})");
  CHECK(files.refusal("self.json") ==
        "self.json: \"extends\" forms a cycle (self.json -> self.json); remove one of the links");
  files.write("root.json", R"({"x": 1})");
  files.write("left.json", R"({"extends": "root.json", "l": 1})");
  files.write("right.json", R"({"extends": "root.json", "r": 1})");
  files.write("diamond.json", R"({"extends": ["left.json", "right.json"]})");
  CHECK(files.config("diamond.json") == json::parse(R"({"x": 1, "l": 1, "r": 1})"));
}

TEST_CASE("config file: extends has limits") {
  const Files files;
  for (int i = 0; i < 40; ++i) {  // each names the next twice: 2^40 files
    const std::string next = std::to_string(i + 1) + ".json";
    files.write(std::to_string(i) + ".json",
                R"({"extends": [")" + next + R"(", ")" + next + "\"]}");
  }
  files.write("40.json", "{}");
  CHECK(files.refusal("0.json").ends_with(
      "too many files by \"extends\" (at most 64 in a chain, 10000 in all)"));
  for (int i = 0; i < 70; ++i) {
    files.write("c" + std::to_string(i) + ".json",
                R"({"extends": "c)" + std::to_string(i + 1) + R"(.json"})");
  }
  CHECK(files.refusal("c0.json") ==
        "c64.json: too many files by \"extends\" (at most 64 in a chain, 10000 in all)");
}

TEST_CASE("config file: a base that does not exist or is no name") {
  const Files files;
  const std::string help =
      "; paths are relative to the folder of this file, and \"nearkv:\" stands for the shipped "
      "configs";
  CHECK(files.refusal_of(R"({"csd": [{"extends": "cds.json"}]})") ==
        "point.json: /csd/0/extends: there is no file \"cds.json\"" + help);
  CHECK(files.refusal_of(R"({"extends": 5})") ==
        "point.json: /extends: must be a file name or a list of file names, such as \"base.json\"");
  CHECK(
      files.refusal_of(R"({"extends": ["a.json", {}]})").starts_with("point.json: /extends: must"));
  CHECK(
      files.refusal_of(R"({"a": {"extends": ""}})").starts_with("point.json: /a/extends: must be"));
  // A broken base is named itself.
  files.write("broken.json", "{\"a\": 1,}");
  CHECK(files.refusal_of(R"({"extends": "broken.json"})").starts_with("broken.json:1:9: a comma"));
}

TEST_CASE("config file: nearkv: is the folder of shipped configs") {
  const Files files;
  files.write("home/configs/platforms/x.json", R"({"x": 1})");
  files.write("point.json", R"({"extends": "nearkv:platforms/x.json"})");
  files.write("missing.json", R"({"extends": "nearkv:platforms/y.json"})");
  const char* before = std::getenv("NEARKV_HOME");
  const std::string saved = before == nullptr ? "" : before;
  setenv("NEARKV_HOME", files.path("home").c_str(), 1);
  CHECK(shipped_configs() == files.path("home/configs"));
  CHECK(files.config("point.json") == json::parse(R"({"x": 1})"));
  CHECK(files.refusal("missing.json")
            .starts_with("missing.json: /extends: there is no file \"nearkv:platforms/y.json\";"));
  if (before == nullptr) {
    unsetenv("NEARKV_HOME");
  } else {
    setenv("NEARKV_HOME", saved.c_str(), 1);
  }
}

// -- Overrides ----------------------------------------------------------------------------------

namespace {

const char* const kPoint = R"({
  "name": "p", "workload": {"batch": 64, "steps": [1, 2]},
  "csd": [{"flash": {"channels": 8,
    "t_read": {"value": "50us", "source": "datasheet", "citation": "page 9"}}}]})";

}  // namespace

TEST_CASE("override: sets what exists, as JSON or else as a string") {
  const json point = json::parse(kPoint);
  CHECK(overridden(point, "workload/batch=128")["workload"]["batch"] == 128);
  CHECK(overridden(point, "/workload/batch=128")["workload"]["batch"] == 128);
  CHECK(overridden(point, "workload/steps=[3]")["workload"]["steps"] == json::array({3}));
  CHECK(overridden(point, "workload/steps/1=7")["workload"]["steps"] == json::array({1, 7}));
  CHECK(overridden(point, "name=big one")["name"] == "big one");
  CHECK(overridden(point, "name=\"7\"")["name"] == "7");
  CHECK(overridden(point, "name=a=b")["name"] == "a=b");
  CHECK(overridden(point, "name=")["name"] == "");
  CHECK(overridden(point, "csd/0/flash/channels=true")["csd"][0]["flash"]["channels"] == true);
  CHECK(overridden(point, "workload/batch=1e999")["workload"]["batch"] == "1e999");
}

TEST_CASE("override: a constant that is set says so") {
  const json point = json::parse(kPoint);
  const json set = json::parse(R"({"value": "30us", "source": "override", "citation": "--set"})");
  CHECK(overridden(point, "csd/0/flash/t_read=30us")["csd"][0]["flash"]["t_read"] == set);
  // Also by its inner value: the old source did not say 30 us.
  CHECK(overridden(point, "csd/0/flash/t_read/value=30us")["csd"][0]["flash"]["t_read"] == set);
  const std::string sourced = R"({"value":"40us","source":"measured","citation":"our drive"})";
  CHECK(overridden(point, "csd/0/flash/t_read=" + sourced)["csd"][0]["flash"]["t_read"] ==
        json::parse(sourced));
  json by_axis = point;
  set_existing(by_axis, "/csd/0/flash/t_read", "20us", "sweep");
  CHECK(by_axis["csd"][0]["flash"]["t_read"]["citation"] == "sweep");
}

TEST_CASE("override: a path that does not exist is refused with the nearest name") {
  const json point = json::parse(kPoint);
  CHECK(override_refusal(point, "csd/0/flash/chanels=4") ==
        "/csd/0/flash/chanels: no such path; did you mean \"channels\"? (--set)");
  CHECK(override_refusal(point, "workload/Batch=4") ==
        "/workload/Batch: no such path; did you mean \"batch\"? (--set)");
  CHECK(override_refusal(point, "workload/zzz=4") ==
        "/workload/zzz: no such path; there are: batch, steps (--set)");
  CHECK(override_refusal(point, "csd/1/flash=4") ==
        "/csd/1: no such element; the list has 1, counted from 0 (--set)");
  CHECK(override_refusal(point, "csd/-1=4").starts_with("/csd/-1: no such element;"));
  CHECK(override_refusal(point, "csd/99999999999999999999=4").find("no such element") !=
        std::string::npos);
  CHECK(override_refusal(point, "name/first=4") ==
        "/name/first: no such path; /name is a plain value (--set)");
  CHECK(override_refusal(point, "csd/0/flash/t_read/valu=4") ==
        "/csd/0/flash/t_read/valu: no such path; /csd/0/flash/t_read is a constant: set "
        "/csd/0/flash/t_read itself (--set)");
  CHECK(override_refusal(point, "workload//batch=4").starts_with("/workload/: no such path;"));
  CHECK(override_refusal(point, "/=4").starts_with("/: no such path; there are: csd, name, work"));
  json unchanged = point;
  CHECK_THROWS_AS(apply_override(unchanged, "workload/size=1"), ConfigError);
  CHECK(unchanged == point);
}

TEST_CASE("override: what is no assignment") {
  const json point = json::parse(kPoint);
  const std::string wanted = ": write path=value, as in --set workload/batch=64";
  CHECK(override_refusal(point, "workload/batch") == "--set workload/batch" + wanted);
  CHECK(override_refusal(point, "=5") == "--set =5" + wanted);
  CHECK(override_refusal(point, "") == "--set " + wanted);
  CHECK(override_refusal(point, R"(workload={"a": 1, "a": 2})") ==
        "--set workload: /a: duplicate key; keep one of the two");
  CHECK(override_refusal(point, "name=\xff\xfe") == "--set name: the value is not UTF-8");
}

TEST_CASE("nearest name: by edit distance, whatever the case, and only when it is near") {
  const std::vector<std::string> names{"channels", "dies", "planes", "t_read", "t_program"};
  CHECK(nearest_name("chanels", names) == "channels");
  CHECK(nearest_name("CHANNELS", names) == "channels");
  CHECK(nearest_name("tread", names) == "t_read");
  CHECK(nearest_name("die", names) == "dies");
  CHECK(nearest_name("dpies", names) == "dies");
  CHECK(nearest_name("bandwidth", names).empty());
  CHECK(nearest_name("x", names).empty());
  CHECK(nearest_name("", names).empty());
  CHECK(nearest_name("channels", {}).empty());
  CHECK(nearest_name(std::string(100'000, 'x'), names).empty());
}

TEST_CASE("config file: a translator sees the files that are extended, and not the first") {
  const Files files;
  files.write("point.json", R"({"foreign": 1, "model": {"extends": "deep/config.json", "b": 3}})");
  files.write("deep/config.json", R"({"foreign": 2, "extends": "base.json"})");
  files.write("deep/base.json", R"({"c": 4, "b": 2})");
  const auto translate = [](json document, const fs::path& file) {
    return document.contains("foreign")
               ? json{{"a", document["foreign"]}, {"b", file.filename().string()}, {"c", 0}}
               : document;
  };
  CHECK(load_config(files.path("point.json"), translate) ==
        json{{"foreign", 1}, {"model", {{"a", 2}, {"b", 3}, {"c", 0}}}});
  CHECK(files.config("point.json") ==
        json{{"foreign", 1}, {"model", {{"foreign", 2}, {"b", 3}, {"c", 4}}}});
}
