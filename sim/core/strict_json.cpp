#include "sim/core/strict_json.hpp"

#include <set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

/// Goes through a document to know the path of every key, and stops at bad syntax. `where` begins
/// messages. (A callback of the parser that builds the values could do it as well, but takes time
/// that grows with the square of a list's length.)
class DuplicateKeyWatch final : public nlohmann::json_sax<json> {
 public:
  explicit DuplicateKeyWatch(std::string where) : where_(std::move(where)) {}

  bool null() override { return count_element(); }
  bool boolean(bool /*value*/) override { return count_element(); }
  bool number_integer(json::number_integer_t /*value*/) override { return count_element(); }
  bool number_unsigned(json::number_unsigned_t /*value*/) override { return count_element(); }
  bool number_float(json::number_float_t /*value*/, const std::string& /*text*/) override {
    return count_element();
  }
  bool string(std::string& value) override {
    count_element();
    check_length(value, "a text");
    return true;
  }
  bool binary(json::binary_t& /*value*/) override { return count_element(); }
  bool start_object(std::size_t /*size*/) override { return open(/*is_array=*/false); }
  bool start_array(std::size_t /*size*/) override { return open(/*is_array=*/true); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    see_key(name);
    return true;
  }
  bool parse_error(std::size_t /*at*/, const std::string& /*token*/,
                   const json::exception& /*problem*/) override {
    return false;
  }

 private:
  struct Frame {
    bool is_array = false;
    std::size_t elements = 0;
    std::string key;
    std::set<std::string> keys;
  };

  bool open(bool is_array) {
    count_element();
    if (frames_.size() >= kDeepestNesting) {
      throw ConfigError(fmt::format("{}: {}: nested deeper than {} levels; nothing needs that",
                                    where_, path(), kDeepestNesting));
    }
    frames_.push_back({.is_array = is_array, .elements = 0, .key = {}, .keys = {}});
    return true;
  }

  bool close() {
    frames_.pop_back();
    return true;
  }

  bool count_element() {
    if (++values_ > kMostValues) {
      throw ConfigError(fmt::format("{}: {}: more than {} values; nothing needs so many", where_,
                                    path(), kMostValues));
    }
    if (!frames_.empty() && frames_.back().is_array) {
      ++frames_.back().elements;
    }
    return true;
  }

  void check_length(const std::string& text, std::string_view what) const {
    if (text.size() > kLongestText) {
      throw ConfigError(fmt::format("{}: {}: {} of more than {} bytes; nothing needs that", where_,
                                    path(), what, kLongestText));
    }
  }

  void see_key(const std::string& key) {
    Frame& frame = frames_.back();
    frame.key = key;
    check_length(key, "a key");
    if (++keys_ > kMostKeys) {
      throw ConfigError(fmt::format("{}: {}: more than {} keys; nothing needs so many", where_,
                                    path(), kMostKeys));
    }
    if (!frame.keys.insert(key).second) {
      throw ConfigError(fmt::format("{}: {}: duplicate key; keep one of the two", where_, path()));
    }
  }

  std::string path() const {
    std::string text;
    for (const Frame& frame : frames_) {
      text += "/" + (frame.is_array ? std::to_string(frame.elements - 1) : printable(frame.key));
    }
    return text;
  }

  std::string where_;
  std::vector<Frame> frames_;
  std::size_t values_ = 0;
  std::size_t keys_ = 0;
};

}  // namespace

json parse_strict_json(std::string_view text, const std::string& where) {
  DuplicateKeyWatch watch(where);
  json::sax_parse(text, &watch);
  return json::parse(text);
}

}  // namespace nearkv
