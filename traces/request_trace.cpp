#include "traces/request_trace.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <set>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "sim/core/check.hpp"
#include "traces/request_time.hpp"

namespace nearkv::traces {

namespace {

using nlohmann::json;

constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

/// Names of what is read: arrival (none: ""), prompt, output.
struct Columns {
  RequestFormat format;
  std::array<std::string_view, 3> names;

  [[nodiscard]] std::vector<std::string_view> wanted() const {
    return {names.begin() + (names.front().empty() ? 1 : 0), names.end()};
  }
};

/// As long as their header is not ambiguous, the first that fits is taken.
constexpr std::array<Columns, 4> kCsvColumns{{
    {RequestFormat::azure, {"arrived_at", "num_prefill_tokens", "num_decode_tokens"}},
    {RequestFormat::azure_original, {"TIMESTAMP", "ContextTokens", "GeneratedTokens"}},
    {RequestFormat::burstgpt, {"Timestamp", "Request tokens", "Response tokens"}},
    {RequestFormat::arxiv, {"", "num_prefill_tokens", "num_decode_tokens"}},
}};
constexpr Columns kMooncake{RequestFormat::mooncake,
                            {"timestamp", "input_length", "output_length"}};

const Columns& columns_of(RequestFormat format) {
  const auto* const found = std::ranges::find(kCsvColumns, format, &Columns::format);
  return found == kCsvColumns.end() ? kMooncake : *found;
}

std::string_view without_blanks(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t");
  return first == std::string_view::npos
             ? std::string_view{}
             : text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

void split(std::string_view line, std::vector<std::string_view>& fields) {
  fields.clear();
  while (true) {
    const std::size_t comma = line.find(',');
    fields.push_back(without_blanks(line.substr(0, comma)));
    if (comma == std::string_view::npos) {
      return;
    }
    line.remove_prefix(comma + 1);
  }
}

std::size_t missing(const Columns& columns, const std::vector<std::string_view>& header) {
  const auto wanted = columns.wanted();
  return static_cast<std::size_t>(std::ranges::count_if(wanted, [&](std::string_view name) {
    return std::ranges::find(header, name) == header.end();
  }));
}

/// The format of which the header misses least; none when it has nothing of any.
const Columns* nearest_columns(const std::vector<std::string_view>& header) {
  const Columns* nearest = nullptr;
  for (const Columns& columns : kCsvColumns) {
    const bool has_some = missing(columns, header) < columns.wanted().size();
    if (has_some && (nearest == nullptr || missing(columns, header) < missing(*nearest, header))) {
      nearest = &columns;
    }
  }
  return nearest;
}

std::string list_of_formats() {
  std::vector<std::string> all;
  for (const Columns& columns : kCsvColumns) {
    all.push_back(
        fmt::format("{} ({})", name_of(columns.format), fmt::join(columns.wanted(), ",")));
  }
  return fmt::format("{}, or JSON lines ({}: {})", fmt::join(all, ", "),
                     name_of(RequestFormat::mooncake), fmt::join(kMooncake.names, ","));
}

/// A whole number of tokens from `fewest`, or the message.
int tokens_of(std::string_view text, int fewest, std::string_view column, const TextLines& lines) {
  int tokens = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), tokens);
  if (error != std::errc{} || rest != text.data() + text.size() || tokens < fewest ||
      tokens > kMostRequestTokens) {
    lines.fail(fmt::format("{}: is {}; must be a whole number from {} to {}", column,
                           in_quotes(text), fewest, kMostRequestTokens));
  }
  return tokens;
}

/// An object without the lists in it; discarded when the text is none. `duplicate` gets a key that
/// is there twice.
json parse_object(std::string_view line, std::string& duplicate) {
  std::set<std::string> keys;
  const auto keep = [&](int depth, json::parse_event_t event, const json& parsed) {
    if (event == json::parse_event_t::key && depth == 1 &&
        !keys.insert(parsed.get_ref<const std::string&>()).second) {
      duplicate = parsed.get_ref<const std::string&>();
    }
    return event != json::parse_event_t::array_start;
  };
  return json::parse(line, keep, false);
}

}  // namespace

RequestTraceReader::RequestTraceReader(const std::string& file, const RequestTraceOptions& options)
    : lines_(file, Compressed::read),
      time_scale_(options.time_scale),
      to_skip_(options.first),
      has_format_(options.format.has_value()) {
  format_ = options.format.value_or(RequestFormat::mooncake);
  read_header();
}

void RequestTraceReader::read_header() {
  std::string_view line;
  do {
    if (!lines_.next(line)) {
      lines_.fail_file("has no request");
    }
    if (lines_.number() == 1 && line.starts_with(kByteOrderMark)) {
      line.remove_prefix(kByteOrderMark.size());
    }
  } while (without_blanks(line).empty());
  if (without_blanks(line).starts_with('{') && (!has_format_ || format_ == kMooncake.format)) {
    format_ = kMooncake.format;
    first_line_ = line;
    return;
  }
  split(line, fields_);
  const Columns* const nearest = has_format_ ? &columns_of(format_) : nearest_columns(fields_);
  if (nearest == nullptr || nearest->format == kMooncake.format) {
    lines_.fail(fmt::format("is {}; a request trace begins with the names of its columns: {}",
                            in_quotes(line), list_of_formats()));
  }
  format_ = nearest->format;
  columns_ = fields_.size();
  for (std::size_t i = 0; i < column_.size(); ++i) {
    const std::string_view name = nearest->names[i];
    const auto found = std::ranges::find(fields_, name);
    if (name.empty()) {
      continue;
    }
    if (found == fields_.end()) {
      lines_.fail(fmt::format("column {} is missing; {} has {}", in_quotes(name), name_of(format_),
                              fmt::join(nearest->wanted(), ",")));
    }
    if (std::find(found + 1, fields_.end(), name) != fields_.end()) {
      lines_.fail(fmt::format("column {} is there twice; keep one of the two", in_quotes(name)));
    }
    column_[i] = static_cast<std::size_t>(found - fields_.begin());
  }
}

RequestTraceReader::Arrival RequestTraceReader::arrival_of(std::string_view text) const {
  std::optional<std::int64_t> time;
  std::string_view unit = "a number of seconds >= 0, such as 12.5";
  if (format_ == RequestFormat::azure_original) {
    time = nanoseconds_of_date(text);
    unit = "a date such as 2023-11-16 18:17:03.9799600";
  } else if (format_ == RequestFormat::mooncake) {
    time = nanoseconds_of(text, kPlacesOfMillisecond);
    unit = "a number of milliseconds >= 0";
  } else {
    time = nanoseconds_of(text, kPlacesOfSecond);
  }
  if (!time.has_value()) {
    lines_.fail(fmt::format("{}: is {}; must be {}", columns_of(format_).names.front(),
                            in_quotes(text), unit));
  }
  return {*time, text};
}

/// False for a request that failed.
bool RequestTraceReader::read_row(std::string_view line, RequestRecord& record, Arrival& arrival) {
  split(line, fields_);
  if (fields_.size() != columns_) {
    lines_.fail(fmt::format("has {} columns; the header has {}", fields_.size(), columns_));
  }
  const auto& names = columns_of(format_).names;
  const int fewest = format_ == RequestFormat::burstgpt ? 0 : 1;
  if (has_arrivals(format_)) {
    arrival = arrival_of(fields_[column_[0]]);
  }
  record.prompt_tokens = tokens_of(fields_[column_[1]], fewest, names[1], lines_);
  record.output_tokens = tokens_of(fields_[column_[2]], fewest, names[2], lines_);
  return record.prompt_tokens > 0 && record.output_tokens > 0;
}

void RequestTraceReader::read_object(std::string_view line, RequestRecord& record,
                                     Arrival& arrival) {
  std::string duplicate;
  const json object = parse_object(line, duplicate);
  if (!object.is_object()) {
    lines_.fail(fmt::format(
        "is {}; an object such as {{\"timestamp\": 0, \"input_length\": 6755, \"output_length\": "
        "500, \"hash_ids\": []}} was expected",
        in_quotes(line)));
  }
  if (!duplicate.empty()) {
    lines_.fail(fmt::format("{}: is there twice; keep one of the two", printable(duplicate)));
  }
  const auto value_of = [&](std::string_view name) {
    const auto found = object.find(name);
    if (found == object.end()) {
      lines_.fail(fmt::format("{}: is missing; a line has {} and hash_ids", name,
                              fmt::join(kMooncake.names, ", ")));
    }
    return found->is_number() ? found->dump() : "no number";
  };
  record.prompt_tokens = tokens_of(value_of(kMooncake.names[1]), 1, kMooncake.names[1], lines_);
  record.output_tokens = tokens_of(value_of(kMooncake.names[2]), 1, kMooncake.names[2], lines_);
  text_ = value_of(kMooncake.names[0]);
  arrival = arrival_of(text_);
}

SimDuration RequestTraceReader::since_first(const Arrival& arrival) {
  const std::string_view column = columns_of(format_).names.front();
  if (arrival.nanoseconds < last_arrival_) {
    lines_.fail(
        fmt::format("{}: is {}, before the {} of an earlier request; must be in order of arrival",
                    column, in_quotes(arrival.text), in_quotes(last_arrival_text_)));
  }
  last_arrival_ = arrival.nanoseconds;
  last_arrival_text_ = arrival.text;
  if (to_skip_ > 0) {
    return SimDuration{};
  }
  const std::int64_t first = first_arrival_.value_or(arrival.nanoseconds);
  first_arrival_ = first;
  constexpr std::int64_t kPicoseconds = 1000;
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max() / 2;
  const std::int64_t since = arrival.nanoseconds - first;
  const double scaled = static_cast<double>(since) * kPicoseconds * time_scale_;
  if (scaled >= static_cast<double>(kMost)) {
    lines_.fail(fmt::format(
        "{}: is {}, more than 53 days after the first request; use fewer requests or a time scale",
        column, in_quotes(arrival.text)));
  }
  return SimDuration{time_scale_ == 1 ? since * kPicoseconds : std::llround(scaled)};
}

bool RequestTraceReader::next(RequestRecord& record) {
  std::string_view line;
  while (!first_line_.empty() || lines_.next(line)) {
    const std::string first_line = std::exchange(first_line_, {});
    if (!first_line.empty()) {
      line = first_line;
    }
    if (without_blanks(line).empty()) {
      continue;
    }
    Arrival arrival;
    if (format_ == RequestFormat::mooncake) {
      read_object(line, record, arrival);
    } else if (!read_row(line, record, arrival)) {
      ++failed_;
      continue;
    }
    record.at = has_arrivals(format_) ? since_first(arrival) : SimDuration{};
    ++requests_;
    if (to_skip_ > 0) {
      --to_skip_;
      continue;
    }
    is_used_ = true;
    return true;
  }
  if (!is_used_) {
    if (requests_ > 0) {
      lines_.fail_file(
          fmt::format("has {} requests only, and all of them were to be skipped", requests_));
    }
    lines_.fail_file(failed_ == 0 ? "has no request"
                                  : fmt::format("has no request but {} that failed", failed_));
  }
  return false;
}

}  // namespace nearkv::traces
