#include "traces/kv_page_trace.hpp"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <stdexcept>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "sim/core/check.hpp"
#include "sim/core/random.hpp"
#include "sim/core/units.hpp"
#include "traces/page_set_code.hpp"

namespace nearkv::traces {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::string_view kFormat = "nearkv-kv-pages";
constexpr int kVersion = 2;

struct TextMember {
  const char* name;
  std::string KvTraceHeader::*value;
};
constexpr std::array kTexts{
    TextMember{"model", &KvTraceHeader::model},
    TextMember{"source_kind", &KvTraceHeader::source_kind},
    TextMember{"source", &KvTraceHeader::source},
    TextMember{"source_hash", &KvTraceHeader::source_hash},
    TextMember{"method", &KvTraceHeader::method},
};
struct IntegerMember {
  const char* name;
  int KvTraceHeader::*value;
  int lowest;
};
constexpr std::array kIntegers{
    IntegerMember{"estimate_channels", &KvTraceHeader::estimate_channels, 0},
    IntegerMember{"d_head", &KvTraceHeader::d_head, 1},
    IntegerMember{"page_size", &KvTraceHeader::page_size, 2},
    IntegerMember{"tokens_per_group", &KvTraceHeader::tokens_per_group, 1},
    IntegerMember{"channels_per_group", &KvTraceHeader::channels_per_group, 1},
    IntegerMember{"layers", &KvTraceHeader::layers, 1},
    IntegerMember{"kv_heads", &KvTraceHeader::kv_heads, 1},
    IntegerMember{"queries_per_kv_head", &KvTraceHeader::queries_per_kv_head, 1},
    IntegerMember{"sequences", &KvTraceHeader::sequences, 1},
    IntegerMember{"steps", &KvTraceHeader::steps, 1},
    IntegerMember{"longest_context", &KvTraceHeader::longest_context, 1},
};
constexpr int kMost = 1 << 30;                               // of each
constexpr std::int64_t kMostPlaces = std::int64_t{1} << 60;  // steps x layers x sequences x heads
constexpr std::size_t kMostLine = std::size_t{1} << 20;      // bytes, of the header
constexpr std::uint64_t kMostBody = std::uint64_t{1} << 26;  // bytes
constexpr int kByteBits = 8;

// Flags of a record.
constexpr std::uint8_t kPlace = 0x01;
constexpr std::uint8_t kContext = 0x02;
constexpr std::uint8_t kAttended = 0x04;
constexpr std::uint8_t kChannels = 0x08;
constexpr std::uint8_t kByGroups = 0x10;
constexpr std::uint8_t kValues = 0x20;
constexpr std::uint8_t kAllFlags = kPlace | kContext | kAttended | kChannels | kByGroups | kValues;

std::string hash_text(std::uint64_t hash) { return fmt::format("{:016x}", hash); }

std::string method_hash(const KvTraceHeader& header) {
  const ordered_json method{{"method", header.method}, {"options", header.options}};
  return hash_text(fnv1a64(method.dump(-1, ' ', false, json::error_handler_t::replace)));
}

std::string header_line(const KvTraceHeader& header, const std::string& records_hash) {
  ordered_json object{{"format", kFormat}, {"version", kVersion}};
  for (const TextMember& member : kTexts) {
    object[member.name] = header.*member.value;
  }
  object["options"] = header.options;
  object["method_hash"] = method_hash(header);
  for (const IntegerMember& member : kIntegers) {
    object[member.name] = header.*member.value;
  }
  object["records"] = header.records;
  object["records_hash"] = records_hash;
  // Names of files may be no UTF-8.
  return object.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

bool ascends_below(const std::vector<int>& pages, int end) {
  return std::adjacent_find(pages.begin(), pages.end(), std::greater_equal<>()) == pages.end() &&
         (pages.empty() || (pages.front() >= 0 && pages.back() < end));
}

/// The pages of chunk 0, which are channel groups.
std::vector<int> groups_of(const std::vector<int>& pages, int groups) {
  return {pages.begin(), std::lower_bound(pages.begin(), pages.end(), groups)};
}

std::vector<int> in_all_chunks(const std::vector<int>& groups, int channel_groups, int pages) {
  std::vector<int> all;
  all.reserve(groups.size() * static_cast<std::size_t>(pages / channel_groups));
  for (int chunk = 0; chunk < pages; chunk += channel_groups) {
    for (const int group : groups) {
      all.push_back(chunk + group);
    }
  }
  return all;
}

}  // namespace

std::string problem_of(const KvTraceHeader& header) {
  for (const IntegerMember& member : kIntegers) {
    const int value = header.*member.value;
    if (value < member.lowest || value > kMost) {
      return fmt::format("{}: {} is out of range; must be {} to {}", member.name, value,
                         member.lowest, kMost);
    }
  }
  if (std::find(kKvTraceMethods.begin(), kKvTraceMethods.end(), header.method) ==
      kKvTraceMethods.end()) {
    return fmt::format("method: is {}; must be one of {}", in_quotes(header.method),
                       fmt::join(kKvTraceMethods, ", "));
  }
  const bool estimates = header.method == "sparq" || header.method == "sparf";
  if (estimates != header.has_channel_copy() || header.estimate_channels > header.d_head) {
    return fmt::format(
        "estimate_channels: is {}; must be 1 to d_head for sparq and sparf, 0 for others",
        header.estimate_channels);
  }
  if (header.page_size / 2 / header.d_head != header.tokens_per_group) {
    return fmt::format("tokens_per_group: is {}, but a page of {} bytes holds {} rows of {} halves",
                       header.tokens_per_group, header.page_size,
                       header.page_size / 2 / header.d_head, header.d_head);
  }
  if (header.d_head % header.channels_per_group != 0 || header.tokens_per_channel_page() < 1) {
    return fmt::format("channels_per_group: is {}; must divide d_head {} and fit in a page",
                       header.channels_per_group, header.d_head);
  }
  const auto heads = std::int64_t{header.sequences} * header.kv_heads;
  const Int128 places = Int128{header.steps} * header.layers * heads;
  if (header.records < 1 || header.records > places || places > kMostPlaces) {
    return fmt::format("records: is {}; must be 1 to steps x layers x sequences x kv_heads, {:g}",
                       header.records, static_cast<double>(std::min<Int128>(places, kMostPlaces)));
  }
  return "";
}

// -- Records ----------------------------------------------------------------------------------

std::int64_t KvTraceState::place_of(const KvTraceRecord& record) const {
  return ((std::int64_t{record.step} * header_.layers + record.layer) * header_.sequences +
          record.sequence) *
             header_.kv_heads +
         record.kv_head;
}

KvTraceState::Pages& KvTraceState::last_pages_of(std::int64_t place) {
  return last_[place % (std::int64_t{header_.layers} * header_.sequences * header_.kv_heads)];
}

void KvTraceState::keep(std::int64_t place, const KvTraceRecord& record) {
  place_ = place;
  context_ = record.context;
  attended_ = record.attended;
  last_pages_of(place) = {record.channel_pages, record.key_pages, record.value_pages};
}

std::uint16_t KvTraceState::fold(std::string_view bytes) {
  hash_ = fnv1a64(bytes, hash_);
  constexpr int kPart = 16;
  std::uint64_t parts = 0;
  for (std::uint64_t rest = hash_; rest != 0; rest >>= kPart) {
    parts ^= rest;
  }
  return static_cast<std::uint16_t>(parts);
}

std::string KvTraceState::body_of(const KvTraceRecord& record) {
  const std::int64_t place = place_of(record);
  check(place > place_, "KV page trace: records that do not ascend");
  check(record.context >= 1 && record.context <= header_.longest_context && record.attended >= 0 &&
            record.attended <= record.context,
        "KV page trace: a context or number of attended tokens out of range");
  const int channel_pages = header_.channel_pages(record.context);
  const int token_pages = header_.token_pages(record.context);
  check(ascends_below(record.channel_pages, channel_pages) &&
            ascends_below(record.key_pages, token_pages) &&
            ascends_below(record.value_pages, token_pages),
        "KV page trace: pages that do not ascend or are not on flash");
  check(record.channel_pages.empty() || header_.has_channel_copy(),
        "KV page trace: channel pages of a method without them");

  const int all_groups = header_.channel_groups();
  const std::vector<int> groups = groups_of(record.channel_pages, all_groups);
  const bool has_channels = !record.channel_pages.empty();
  const bool by_groups =
      has_channels && in_all_chunks(groups, all_groups, channel_pages) == record.channel_pages;
  const bool has_values = record.value_pages != record.key_pages;
  const auto flag = [](bool is_set, std::uint8_t bit) { return is_set ? bit : std::uint8_t{0}; };
  const int flags = flag(place > place_ + 1, kPlace) | flag(record.context != context_, kContext) |
                    flag(record.attended != attended_, kAttended) | flag(has_channels, kChannels) |
                    flag(by_groups, kByGroups) | flag(has_values, kValues);
  std::string body(1, static_cast<char>(flags));
  if ((flags & kPlace) != 0) {
    append_number(body, static_cast<std::uint64_t>(place - place_ - 1));
  }
  if ((flags & kContext) != 0) {
    append_signed(body, record.context - context_);
  }
  if ((flags & kAttended) != 0) {
    append_signed(body, record.attended - attended_);
  }
  const Pages& last = last_pages_of(place);
  if (by_groups) {
    append_page_set(body, groups, all_groups, groups_of(last.channel, all_groups));
  } else if (has_channels) {
    append_page_set(body, record.channel_pages, channel_pages, last.channel);
  }
  append_page_set(body, record.key_pages, token_pages, last.key);
  if (has_values) {
    append_page_set(body, record.value_pages, token_pages, last.value);
  }
  keep(place, record);
  return body;
}

void KvTraceState::read_body(std::string_view body, KvTraceRecord& record) {
  ByteReader bytes(body);
  const auto require = [](bool holds, const std::string& what) {
    if (!holds) {
      throw std::invalid_argument(what);
    }
  };
  const std::uint8_t flags = bytes.byte();
  require((flags & ~kAllFlags) == 0, fmt::format("{} is no flags byte of a record", flags));
  const std::int64_t heads = std::int64_t{header_.sequences} * header_.kv_heads;
  const std::int64_t places = std::int64_t{header_.steps} * header_.layers * heads;
  const std::uint64_t left_out = (flags & kPlace) != 0 ? bytes.number() : 0;
  require(left_out < static_cast<std::uint64_t>(places - place_ - 1),
          "place: is behind the last KV head of the last step");
  const std::int64_t place = place_ + 1 + static_cast<std::int64_t>(left_out);
  record.kv_head = static_cast<int>(place % header_.kv_heads);
  record.sequence = static_cast<int>(place / header_.kv_heads % header_.sequences);
  record.layer = static_cast<int>(place / heads % header_.layers);
  record.step = static_cast<int>(place / heads / header_.layers);

  const auto change = [&](std::uint8_t flag, int before, int lowest, int highest,
                          const char* name) {
    const std::int64_t by = (flags & flag) != 0 ? bytes.signed_number() : 0;
    require(by >= lowest - before && by <= highest - before,
            fmt::format("{}: must be {} to {}; the one before was {}, and it changes by {}", name,
                        lowest, highest, before, by));
    return before + static_cast<int>(by);
  };
  record.context = change(kContext, context_, 1, header_.longest_context, "context");
  record.attended = change(kAttended, attended_, 0, record.context, "attended");

  const Pages& last = last_pages_of(place);
  const int channel_pages = header_.channel_pages(record.context);
  const int token_pages = header_.token_pages(record.context);
  const int all_groups = header_.channel_groups();
  const auto page_set = [&bytes](const char* stream, int end, const std::vector<int>& before) {
    try {
      return read_page_set(bytes, end, before);
    } catch (const std::invalid_argument& wrong) {
      throw std::invalid_argument(fmt::format("{}: {}", stream, wrong.what()));
    }
  };
  record.channel_pages.clear();
  require((flags & kChannels) == 0 || header_.has_channel_copy(),
          "has channel pages, but its method reads none");
  if ((flags & kChannels) != 0 && (flags & kByGroups) != 0) {
    const std::vector<int> chosen =
        page_set("channel groups", all_groups, groups_of(last.channel, all_groups));
    record.channel_pages = in_all_chunks(chosen, all_groups, channel_pages);
  } else if ((flags & kChannels) != 0) {
    record.channel_pages = page_set("channel pages", channel_pages, last.channel);
  }
  record.key_pages = page_set("K", token_pages, last.key);
  record.value_pages =
      (flags & kValues) != 0 ? page_set("V", token_pages, last.value) : record.key_pages;
  require(bytes.at_end(), fmt::format("{} bytes are left over", body.size() - bytes.at()));
  keep(place, record);
}

// -- Reading ----------------------------------------------------------------------------------

KvTraceReader::KvTraceReader(const std::string& file) : name_(printable(file)), state_(header_) {
  errno = 0;
  stream_.reset(std::fopen(file.c_str(), "rb"));
  if (stream_ == nullptr) {
    fail(errno == ENOENT
             ? "no such file; name a KV page trace"
             : fmt::format("cannot be opened ({})", std::generic_category().message(errno)));
  }
  const std::string line = read_line();
  if (line.empty()) {
    fail("the file is empty; a KV page trace was expected");
  }
  read_header(line);
  const std::string found = read_line();
  if (const std::string expected = hash_text(fnv1a64(line)) + "\n"; found != expected) {
    throw ConfigError(
        fmt::format("{}:2: is {}, but the hash of line 1 is {}; the header was damaged or edited",
                    name_, in_quotes(found.substr(0, found.find('\n'))),
                    in_quotes(expected.substr(0, expected.size() - 1))));
  }
}

/// With its line feed, if there is one.
std::string KvTraceReader::read_line() {
  std::string line;
  for (int byte = 0; line.size() < kMostLine && (line.empty() || line.back() != '\n') &&
                     (byte = std::fgetc(stream_.get())) != EOF;) {
    line += static_cast<char>(byte);
  }
  at_ += static_cast<std::int64_t>(line.size());
  return line;
}

void KvTraceReader::read_header(std::string_view line) {
  const json object = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object() || object.value("format", json()) != kFormat) {
    fail_line(fmt::format("is {}; a JSON object with \"format\": \"{}\" was expected",
                          in_quotes(line.substr(0, line.find('\n'))), kFormat));
  }
  if (object.value("version", json()) != kVersion) {
    fail_line(
        fmt::format("version: is {}; this program reads version {}: make a new trace with "
                    "nearkv record",
                    printable(object.value("version", json()).dump()), kVersion));
  }
  const auto member = [&](const char* name, const char* kind, auto is_right) -> const json& {
    if (!object.contains(name)) {
      fail_line(fmt::format("{}: is missing in the header", name));
    }
    const json& value = object.at(name);
    if (!is_right(value)) {
      fail_line(fmt::format("{}: is {}; must be {}", name, printable(value.dump()), kind));
    }
    return value;
  };
  const auto is_text = [](const json& value) { return value.is_string(); };
  const auto is_integer = [](const json& value) { return value.is_number_integer(); };
  const auto is_options = [](const json& value) {
    return value.is_object() && std::all_of(value.begin(), value.end(),
                                            [](const json& option) { return option.is_number(); });
  };
  for (const TextMember& text : kTexts) {
    header_.*text.value = member(text.name, "a string", is_text).get<std::string>();
  }
  header_.options =
      member("options", "an object of numbers", is_options).get<std::map<std::string, double>>();
  for (const IntegerMember& integer : kIntegers) {
    const auto value = member(integer.name, "a whole number", is_integer).get<std::int64_t>();
    header_.*integer.value = static_cast<int>(std::clamp<std::int64_t>(value, -1, kMost + 1));
  }
  header_.records = member("records", "a whole number", is_integer).get<std::int64_t>();
  records_hash_ = member("records_hash", "a string", is_text).get<std::string>();
  if (const std::string problem = problem_of(header_); !problem.empty()) {
    fail_line(problem);
  }
  const std::string hash = member("method_hash", "a string", is_text).get<std::string>();
  if (hash != method_hash(header_)) {
    fail_line(fmt::format("method_hash: is {}, but that of the method and its options is \"{}\"",
                          in_quotes(hash), method_hash(header_)));
  }
}

bool KvTraceReader::next(KvTraceRecord& record) {
  record_begin_ = at_;
  if (records_ == header_.records) {
    check_end();
    return false;
  }
  read_length_and_body();
  const std::uint16_t expected = state_.fold(bytes_);
  const auto low = static_cast<std::uint8_t>(take_byte());
  const auto high = static_cast<std::uint8_t>(take_byte());
  if (const int found = low | high << kByteBits; found != expected) {
    fail_record(
        fmt::format("is damaged: its check is {:04x}, but its bytes give {:04x}", found, expected));
  }
  try {
    state_.read_body(std::string_view(bytes_).substr(body_), record);
  } catch (const std::invalid_argument& wrong) {
    fail_record(wrong.what());
  }
  ++records_;
  return true;
}

void KvTraceReader::read_length_and_body() {
  bytes_.clear();
  std::uint64_t length = 0;
  try {
    do {
      bytes_ += take_byte();
    } while ((static_cast<std::uint8_t>(bytes_.back()) >> (kByteBits - 1)) != 0);
    length = ByteReader(bytes_).number();
  } catch (const std::invalid_argument& wrong) {
    fail_record(fmt::format("length: {}", wrong.what()));
  }
  if (length > kMostBody) {
    fail_record(fmt::format("length: is {} bytes; must be at most {}", length, kMostBody));
  }
  body_ = bytes_.size();
  while (bytes_.size() < body_ + length) {
    bytes_ += take_byte();
  }
}

char KvTraceReader::take_byte() {
  errno = 0;
  const int byte = std::fgetc(stream_.get());
  if (byte == EOF) {
    if (std::ferror(stream_.get()) != 0) {
      fail(fmt::format("cannot be read ({})", std::generic_category().message(errno)));
    }
    fail_record(
        fmt::format("the file ends in it after {} bytes, but the header says {} records; "
                    "it seems to be cut off",
                    at_, header_.records));
  }
  ++at_;
  return static_cast<char>(byte);
}

void KvTraceReader::check_end() {
  if (const std::string hash = hash_text(state_.hash()); hash != records_hash_) {
    fail(fmt::format("records_hash: is {}, but that of the records is \"{}\"",
                     in_quotes(records_hash_), hash));
  }
  if (std::fgetc(stream_.get()) != EOF) {
    fail(fmt::format("goes on behind the last of {} records, at byte {}", header_.records, at_));
  }
}

void KvTraceReader::fail(std::string_view what) const {
  throw ConfigError(fmt::format("{}: {}", name_, what));
}

void KvTraceReader::fail_line(std::string_view what) const {
  throw ConfigError(fmt::format("{}:1: {}", name_, what));
}

void KvTraceReader::fail_record(std::string_view what) const {
  fail(fmt::format("record {}, at byte {}: {}", records_ + 1, record_begin_, what));
}

// -- Writing ----------------------------------------------------------------------------------

KvTraceWriter::KvTraceWriter(const std::string& file, const KvTraceHeader& header)
    : file_(file),
      temporary_(fmt::format("{}.part{}", file, getpid())),
      header_(header),
      state_(header_) {
  const std::string problem = problem_of(header);
  check(problem.empty(), problem);
  errno = 0;
  stream_.reset(std::fopen(temporary_.c_str(), "wb"));
  if (stream_ == nullptr) {
    throw ConfigError(
        fmt::format("{}: cannot be written ({}); name a file in a folder that is writable",
                    printable(file), std::generic_category().message(errno)));
  }
  write_header();  // of the right length; its hashes come in finish()
}

KvTraceWriter::~KvTraceWriter() {
  if (stream_ != nullptr) {
    std::error_code ignored;
    std::filesystem::remove(temporary_, ignored);
  }
}

void KvTraceWriter::add(const KvTraceRecord& record) {
  const std::string body = state_.body_of(record);
  std::string bytes;
  append_number(bytes, body.size());
  bytes += body;
  const std::uint16_t record_check = state_.fold(bytes);
  bytes += static_cast<char>(record_check);
  bytes += static_cast<char>(record_check >> kByteBits);
  write(bytes);
  ++records_;
}

void KvTraceWriter::write_header() {
  const std::string line = header_line(header_, hash_text(state_.hash()));
  write(line);
  write(hash_text(fnv1a64(line)) + "\n");
}

void KvTraceWriter::write(std::string_view bytes) {
  errno = 0;
  if (std::fwrite(bytes.data(), 1, bytes.size(), stream_.get()) != bytes.size()) {
    fail(std::generic_category().message(errno));
  }
  bytes_ += static_cast<std::int64_t>(bytes.size());
}

void KvTraceWriter::finish() {
  check(records_ == header_.records,
        "a KV page trace with another number of records than its header");
  errno = 0;
  const std::int64_t bytes = bytes_;
  if (std::fseek(stream_.get(), 0, SEEK_SET) != 0) {
    fail(std::generic_category().message(errno));
  }
  write_header();
  bytes_ = bytes;
  if (std::fflush(stream_.get()) != 0) {
    fail(std::generic_category().message(errno));
  }
  stream_.reset();
  std::error_code error;
  std::filesystem::rename(temporary_, file_, error);
  if (error) {
    std::error_code ignored;
    std::filesystem::remove(temporary_, ignored);
    fail(error.message());
  }
}

void KvTraceWriter::fail(const std::string& why) const {
  throw ConfigError(
      fmt::format("{}: cannot be written ({}); is there room?", printable(file_), why));
}

}  // namespace nearkv::traces
