// Loading: strict JSON, extends, overrides.
#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <utility>

#include <fmt/format.h>

#include "sim/core/allowed_paths.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/strict_json.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::size_t kMostFiles = 10'000;  // of one config, a file counts each time it is named
constexpr std::string_view kShippedPrefix = "nearkv:";

/// "file:3:1", for the byte at `at`; lines and columns (in bytes) count from 1.
std::string place_in(const std::string& file, std::string_view text, std::size_t at) {
  const std::string_view before = text.substr(0, at);
  const std::size_t last_break = before.rfind('\n');
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t column = last_break == std::string_view::npos ? at : at - last_break - 1;
  return fmt::format("{}:{}:{}", file, line, column + 1);
}

/// The first byte of the token that went wrong; the parser names the last byte that it read.
std::size_t token_start(std::string_view text, std::size_t last, bool in_literal) {
  if (text[last] == '"' && last > 0) {
    std::size_t start = text.rfind('"', last - 1);
    while (start != std::string_view::npos && start > 0 && text[start - 1] == '\\') {
      start = text.rfind('"', start - 1);
    }
    return start == std::string_view::npos ? last : start;
  }
  const auto is_word = [&](std::size_t i) {
    const auto c = static_cast<unsigned char>(text[i]);
    return std::isalnum(c) != 0 || c == '.' || c == '+' || c == '-' || c == '_';
  };
  const bool is_behind_word = in_literal && !is_word(last) && last > 0 && is_word(last - 1);
  std::size_t start = is_behind_word ? last - 1 : last;
  while (is_word(start) && start > 0 && is_word(start - 1)) {
    --start;
  }
  return start;
}

/// What is wrong at `at`, for somebody who has not read the grammar of JSON. `parser_says` is the
/// JSON library's message.
std::string explain_syntax(std::string_view text, std::size_t at, std::string_view parser_says) {
  const auto says = [&](std::string_view part) {
    return parser_says.find(part) != std::string_view::npos;
  };
  if (says("unexpected end of input") || at >= text.size()) {
    return "the JSON ends too early; is the file cut off?";
  }
  if (says("expected end of input")) {
    return "text after the end of the JSON object; remove it";
  }
  const char c = text[at];
  const std::size_t previous = text.substr(0, at).find_last_not_of(" \t\r\n");
  const char before = previous == std::string_view::npos ? '\0' : text[previous];
  if ((c == '}' || c == ']') && before == ',') {
    return fmt::format("a comma before '{}'; remove the comma", c);
  }
  if (says("UTF-8")) {
    return "the text is not UTF-8; save the file as UTF-8";
  }
  if (says("control character")) {
    return "a line break or tab inside a string; end the string with '\"', or write \\n or \\t";
  }
  if (c == '/' || c == '#') {
    return "JSON has no comments; use a key \"comment\"";
  }
  if (c == '\'') {
    return "a single quote; JSON strings are in double quotes";
  }
  if (says("expected '}'") || says("expected ']'")) {
    return fmt::format("unexpected '{}'; a ',' is missing before it, or a closing '{}'",
                       printable(text.substr(at, 1)), says("expected '}'") ? '}' : ']');
  }
  if (says("parsing object key")) {
    return "a key in double quotes was expected";
  }
  if (says("expected ':'") || says("object separator")) {
    return "a ':' was expected between key and value";
  }
  if (says("invalid string")) {
    return "an invalid escape in a string; JSON knows \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX";
  }
  return "a value was expected: a string in double quotes, a number, true, false, null, [...] or "
         "{...}";
}

std::string syntax_error_line(const std::string& file, const std::string& text,
                              const json::parse_error& error) {
  const std::size_t last = std::min(error.byte == 0 ? 0 : error.byte - 1, text.size());
  const std::string_view says = error.what();
  const bool in_literal = says.find("invalid literal") != std::string_view::npos;
  const std::size_t at = last < text.size() ? token_start(text, last, in_literal) : last;
  return place_in(file, text, at) + ": " + explain_syntax(text, at, says);
}

/// The library throws out_of_range with "... number overflow parsing '1e999'".
std::string overflow_line(const std::string& file, const std::string& text,
                          const json::out_of_range& error) {
  const std::string_view what = error.what();
  const std::size_t open = what.find('\'');
  const std::string_view number =
      open == std::string_view::npos ? "" : what.substr(open + 1, what.size() - open - 2);
  const std::size_t at = text.find(number);
  return fmt::format("{}: the number {} is too large", place_in(file, text, at), printable(number));
}

bool is_sourced_constant(const json& node) { return node.is_object() && node.contains("value"); }

// While a config is resolved, {"extends": true} marks the objects that had an "extends".
bool has_own_base(const json& node) { return node.is_object() && node.contains("extends"); }

/// The keys of one kind mean nothing to another.
bool is_of_another_kind(const json& base, const json& overlay) {
  return base.contains("kind") && overlay.contains("kind") && base["kind"] != overlay["kind"];
}

void merge_over(json& base, const json& overlay);

void merge_members(json& base, const json& overlay) {
  for (const auto& [key, value] : overlay.items()) {
    if (base.contains(key)) {
      merge_over(base[key], value);
    } else {
      base[key] = value;
    }
  }
}

void merge_over(json& base, const json& overlay) {
  if (!base.is_object() || !overlay.is_object() || is_sourced_constant(base) ||
      is_sourced_constant(overlay) || has_own_base(overlay) || is_of_another_kind(base, overlay)) {
    base = overlay;
    return;
  }
  merge_members(base, overlay);
}

void remove_marks(json& node) {
  if (node.is_object()) {
    node.erase("extends");
  }
  if (node.is_structured()) {
    for (json& child : node) {
      remove_marks(child);
    }
  }
}

class Resolver {
 public:
  explicit Resolver(const Translator& translate) : translate_(translate) {}

  json resolve_file(const fs::path& file) {
    std::error_code error;
    fs::path canonical = fs::weakly_canonical(file, error);
    canonical = error ? file : canonical;
    if (const auto seen = std::find(open_.begin(), open_.end(), canonical); seen != open_.end()) {
      std::string chain;
      for (auto it = seen; it != open_.end(); ++it) {
        chain += printable(it->filename().string()) + " -> ";
      }
      throw ConfigError(fmt::format("{}: \"extends\" forms a cycle ({}{}); remove one of the links",
                                    printable(file.string()), chain,
                                    printable(canonical.filename().string())));
    }
    if (open_.size() >= kDeepestNesting || ++files_ > kMostFiles) {
      throw ConfigError(
          fmt::format("{}: too many files by \"extends\" (at most {} in a chain, {} "
                      "in all)",
                      printable(file.string()), kDeepestNesting, kMostFiles));
    }
    const bool is_extended = !open_.empty();
    if (const auto known = extended_.find(file); is_extended && known != extended_.end()) {
      files_ += known->second.files - 1;
      return known->second.config;
    }
    const std::size_t files_before = files_ - 1;
    json document = load_json(file);
    if (translate_ && is_extended) {
      document = translate_(std::move(document), file);
    }
    open_.push_back(canonical);
    json resolved = resolve(document, file, "");
    open_.pop_back();
    resolved.erase("extends");
    if (is_extended) {
      extended_[file] = {resolved, files_ - files_before};
    }
    return resolved;
  }

 private:
  json resolve(const json& node, const fs::path& file, const std::string& path) {
    if (node.is_array()) {
      json list = json::array();
      for (std::size_t i = 0; i < node.size(); ++i) {
        list.push_back(resolve(node[i], file, path + "/" + std::to_string(i)));
      }
      return list;
    }
    if (!node.is_object()) {
      return node;
    }
    json result = json::object();
    for (const std::string& base : bases_of(node, file, path)) {
      merge_members(result, resolve_file(locate(base, file, path)));
    }
    for (const auto& [key, value] : node.items()) {
      if (key == "extends" || key == "comment") {
        continue;
      }
      const json child = resolve(value, file, path + "/" + printable(key));
      if (result.contains(key)) {
        merge_over(result[key], child);
      } else {
        result[key] = child;
      }
    }
    if (node.contains("extends")) {
      result["extends"] = true;
    }
    return result;
  }

  static std::vector<std::string> bases_of(const json& node, const fs::path& file,
                                           const std::string& path) {
    if (!node.contains("extends")) {
      return {};
    }
    const json& extends = node["extends"];
    const json list = extends.is_array() ? extends : json::array({extends});
    std::vector<std::string> bases;
    for (const json& base : list) {
      if (!base.is_string() || base.get_ref<const std::string&>().empty()) {
        throw ConfigError(fmt::format(
            "{}: {}/extends: must be a file name or a list of file names, such as \"base.json\"",
            printable(file.string()), path));
      }
      bases.push_back(base.get<std::string>());
    }
    return bases;
  }

  static fs::path locate(const std::string& base, const fs::path& file, const std::string& path) {
    const bool is_shipped = base.starts_with(kShippedPrefix);
    const fs::path folder = is_shipped ? shipped_configs() : file.parent_path();
    fs::path found =
        (folder / (is_shipped ? base.substr(kShippedPrefix.size()) : base)).lexically_normal();
    allowed_paths().check(found, base,
                          fmt::format("{}: {}/extends", printable(file.string()), path));
    std::error_code error;
    if (!fs::exists(found, error)) {
      throw ConfigError(fmt::format(
          "{}: {}/extends: there is no file {}; paths are relative to the folder of this file, and "
          "\"nearkv:\" stands for the shipped configs",
          printable(file.string()), path, in_quotes(base)));
    }
    return found;
  }

  const Translator& translate_;
  struct Extended {
    json config;
    std::size_t files = 0;  // that it consists of
  };

  std::vector<fs::path> open_;
  std::map<fs::path, Extended> extended_;  // so far, by the name that leads to their own bases
  std::size_t files_ = 0;
};

std::vector<std::string> split_path(std::string_view path) {
  std::vector<std::string> parts;
  std::string part;
  for (const char c : path) {
    if (c != '/') {
      part += c;
    } else if (!part.empty() || !parts.empty()) {
      parts.push_back(std::exchange(part, {}));
    }
  }
  parts.push_back(part);
  return parts;
}

/// `part` as an index into a list, or the list's size when it is none.
std::size_t index_in(const json& list, const std::string& part) {
  std::size_t index = 0;
  const char* end = part.data() + part.size();
  const auto parsed = std::from_chars(part.data(), end, index);
  return parsed.ec == std::errc{} && parsed.ptr == end ? index : list.size();
}

std::string hint_for_missing(const json& node, const std::string& part, const std::string& parent) {
  if (!node.is_object()) {
    return fmt::format("; {} is a plain value", parent);
  }
  if (is_sourced_constant(node)) {
    return fmt::format("; {} is a constant: set {} itself", parent, parent);
  }
  std::vector<std::string> names;
  for (const auto& [key, value] : node.items()) {
    names.push_back(printable(key));
  }
  if (names.empty()) {
    return "";
  }
  const std::string nearest = nearest_name(part, names);
  return nearest.empty() ? fmt::format("; there are: {}", fmt::join(names, ", "))
                         : fmt::format("; did you mean \"{}\"?", nearest);
}

/// The child of `node` called `part`; throws with the nearest name.
json& existing_child(json& node, const std::string& part, const std::string& parent,
                     std::string_view origin) {
  const std::string path = parent + "/" + printable(part);
  if (node.is_array()) {
    const std::size_t index = index_in(node, part);
    if (index >= node.size()) {
      throw ConfigError(fmt::format("{}: no such element; the list has {}, counted from 0 ({})",
                                    path, node.size(), origin));
    }
    return node[index];
  }
  if (node.is_object() && node.contains(part)) {
    return node[part];
  }
  throw ConfigError(
      fmt::format("{}: no such path{} ({})", path, hint_for_missing(node, part, parent), origin));
}

}  // namespace

fs::path shipped_configs() {
  if (const char* home = std::getenv("NEARKV_HOME"); home != nullptr && *home != '\0') {
    return fs::path(home) / "configs";
  }
  // Started without the entry script: look upwards from the executable (build/release/nearkv).
  std::error_code ignored;
  for (fs::path folder = fs::read_symlink("/proc/self/exe", ignored).parent_path();
       folder.has_relative_path(); folder = folder.parent_path()) {
    if (fs::is_directory(folder / "configs" / "platforms", ignored)) {
      return folder / "configs";
    }
  }
  throw ConfigError(
      "NEARKV_HOME: not set, and there is no configs folder above the executable; "
      "set it to the folder that holds configs/");
}

json load_json(const fs::path& file) {
  const std::string name = printable(file.string());
  std::error_code error;
  const fs::file_status status = fs::status(file, error);
  if (status.type() == fs::file_type::not_found) {
    throw ConfigError(fmt::format("{}: no such file; name a JSON file", name));
  }
  if (status.type() != fs::file_type::regular) {
    throw ConfigError(
        fmt::format("{}: {}; name a JSON file", name, error ? error.message() : "is not a file"));
  }
  if (const std::uintmax_t size = fs::file_size(file, error); !error && size > kLargestJson) {
    throw ConfigError(fmt::format("{}: has {} MiB; a config has {} at most", name, size >> 20,
                                  kLargestJson >> 20));
  }
  std::ifstream stream(file, std::ios::binary);
  std::ostringstream buffer;
  buffer << stream.rdbuf();
  const std::string text = buffer.str();
  if (!stream.is_open()) {
    throw ConfigError(fmt::format("{}: cannot be read; is it readable for you?", name));
  }
  if (std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isspace(c) != 0; })) {
    throw ConfigError(fmt::format("{}: the file is empty; a JSON object was expected", name));
  }
  json document;
  try {
    document = parse_strict_json(text, name);
  } catch (const json::parse_error& syntax) {
    throw ConfigError(syntax_error_line(name, text, syntax));
  } catch (const json::out_of_range& overflow) {
    throw ConfigError(overflow_line(name, text, overflow));
  }
  if (!document.is_object()) {
    throw ConfigError(fmt::format("{}: a JSON object {{...}} was expected (found: {})", name,
                                  document.type_name()));
  }
  return document;
}

json load_config(const fs::path& file, const Translator& translate) {
  json config = Resolver(translate).resolve_file(file);
  remove_marks(config);
  return config;
}

void set_existing(json& config, std::string_view path, const json& value, std::string_view origin) {
  json* node = &config;
  std::string parent;
  for (const std::string& part : split_path(path)) {
    if (part == "value" && is_sourced_constant(*node)) {
      break;  // a value that is set has another source, too
    }
    node = &existing_child(*node, part, parent, origin);
    parent += "/" + printable(part);
  }
  if (is_sourced_constant(*node) && !is_sourced_constant(value)) {
    *node = {{"value", value}, {"source", "override"}, {"citation", origin}};
  } else {
    *node = value;
  }
}

namespace {

/// JSON, or else a string: --set t_read=30us needs no quotes.
json value_of_override(const std::string& where, std::string_view text) {
  try {
    return parse_strict_json(text, where);
  } catch (const json::exception&) {
    json string = std::string(text);
    try {
      static_cast<void>(string.dump());
    } catch (const json::type_error&) {
      throw ConfigError(fmt::format("{}: the value is not UTF-8", where));
    }
    return string;
  }
}

}  // namespace

void merge_config(json& base, const json& overlay) { merge_over(base, overlay); }

void apply_override(json& config, std::string_view assignment) {
  const std::size_t equals = assignment.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    throw ConfigError(fmt::format("--set {}: write path=value, as in --set workload/batch=64",
                                  printable(assignment)));
  }
  const std::string_view path = assignment.substr(0, equals);
  const std::string where = fmt::format("--set {}", printable(path));
  const json value = value_of_override(where, assignment.substr(equals + 1));
  allowed_paths().allow_named_in(value);
  set_existing(config, path, value, "--set");
}

std::string nearest_name(std::string_view word, const std::vector<std::string>& names) {
  const auto same = [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) ==
           std::tolower(static_cast<unsigned char>(b));
  };
  constexpr std::size_t kLongestWord = 100;  // a longer one is no misspelt name
  std::string best;
  std::size_t best_distance = 1 + word.size() / 3;  // further away it is another word
  if (word.empty() || word.size() > kLongestWord) {
    return best;
  }
  for (const std::string& name : names) {
    std::vector<std::size_t> row(name.size() + 1);
    for (std::size_t j = 0; j <= name.size(); ++j) {
      row[j] = j;
    }
    for (std::size_t i = 1; i <= word.size(); ++i) {
      std::size_t diagonal = std::exchange(row[0], i);
      for (std::size_t j = 1; j <= name.size(); ++j) {
        const std::size_t substitute = diagonal + (same(word[i - 1], name[j - 1]) ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
      }
    }
    if (row.back() <= best_distance && (best.empty() || row.back() < best_distance)) {
      best = name;
      best_distance = row.back();
    }
  }
  return best;
}

}  // namespace nearkv
