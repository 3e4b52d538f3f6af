#include "traces/kv_page_trace.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <limits>
#include <system_error>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "sim/core/check.hpp"
#include "sim/core/units.hpp"

namespace nearkv::traces {

namespace {

using nlohmann::json;

constexpr std::string_view kFormat = "nearkv-kv-pages";
constexpr int kVersion = 1;

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

json header_json(const KvTraceHeader& header) {
  json object{{"format", kFormat},
              {"version", kVersion},
              {"model", header.model},
              {"attention", header.attention},
              {"records", header.records}};
  for (const IntegerMember& member : kIntegers) {
    object[member.name] = header.*member.value;
  }
  return object;
}

void append_pages(std::string& text, std::string_view stream, const std::vector<int>& pages) {
  if (pages.empty()) {
    return;
  }
  text += ' ';
  text += stream;
  text += ':';
  for (std::size_t i = 0; i < pages.size();) {
    std::size_t last = i;
    while (last + 1 < pages.size() && pages[last + 1] == pages[last] + 1) {
      ++last;
    }
    fmt::format_to(std::back_inserter(text), "{}{}", i == 0 ? "" : ",", pages[i]);
    if (last > i) {
      fmt::format_to(std::back_inserter(text), "-{}", pages[last]);
    }
    i = last + 1;
  }
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
  if (header.attention != "dense" && header.attention != "sparf") {
    return fmt::format("attention: is {}; must be \"dense\" or \"sparf\"",
                       in_quotes(header.attention));
  }
  if ((header.attention == "sparf") != (header.estimate_channels > 0) ||
      header.estimate_channels > header.d_head) {
    return fmt::format("estimate_channels: is {}; must be 0 for dense, 1 to d_head for sparf",
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

// -- Reading ----------------------------------------------------------------------------------

KvTraceReader::KvTraceReader(const std::string& file) : lines_(file) {
  std::string_view line;
  lines_.next(line);
  if (lines_.is_cut()) {
    lines_.fail("a header and records were expected");
  }
  read_header(line);
}

void KvTraceReader::read_header(std::string_view line) {
  const json object = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object() || object.value("format", json()) != kFormat) {
    lines_.fail(fmt::format("is {}; a JSON object with \"format\": \"{}\" was expected",
                            in_quotes(line), kFormat));
  }
  if (object.value("version", json()) != kVersion) {
    lines_.fail(fmt::format("version: is {}; this program reads version {}",
                            printable(object.value("version", json()).dump()), kVersion));
  }
  const auto member = [&](const char* name, bool is_text) -> const json& {
    if (!object.contains(name)) {
      lines_.fail(fmt::format("{}: is missing in the header", name));
    }
    const json& value = object.at(name);
    if (is_text ? !value.is_string() : !value.is_number_integer()) {
      lines_.fail(fmt::format("{}: is {}; must be {}", name, printable(value.dump()),
                              is_text ? "a string" : "a whole number"));
    }
    return value;
  };
  header_.model = member("model", true).get<std::string>();
  header_.attention = member("attention", true).get<std::string>();
  header_.records = member("records", false).get<std::int64_t>();
  for (const IntegerMember& integer : kIntegers) {
    const auto value = member(integer.name, false).get<std::int64_t>();
    header_.*integer.value = static_cast<int>(std::clamp<std::int64_t>(value, -1, kMost + 1));
  }
  if (const std::string problem = problem_of(header_); !problem.empty()) {
    lines_.fail(problem);
  }
}

bool KvTraceReader::next(KvTraceRecord& record) {
  std::string_view line;
  const bool has_line = lines_.next(line);
  if (records_ == header_.records) {
    if (has_line) {
      lines_.fail(fmt::format("is one line too many; the header says {} records", records_));
    }
    return false;
  }
  if (!has_line) {
    lines_.fail_file(fmt::format("has {} records, but its header says {}; it seems to be cut off",
                                 records_, header_.records));
  }
  if (lines_.is_cut()) {
    lines_.fail("the last line does not end");
  }
  Words words(line);
  read_place(words, record);
  const std::int64_t sequences = header_.sequences;
  const std::int64_t place =
      ((std::int64_t{record.step} * header_.layers + record.layer) * sequences + record.sequence) *
          header_.kv_heads +
      record.kv_head;
  if (place <= last_place_) {
    lines_.fail("is out of order; records ascend by step, layer, sequence and KV head");
  }
  last_place_ = place;
  read_streams(words, record);
  ++records_;
  return true;
}

void KvTraceReader::read_place(Words& words, KvTraceRecord& record) const {
  struct Field {
    const char* name;
    int* value;
    std::int64_t lowest;
    std::int64_t highest;
  };
  const std::array<Field, 6> fields{
      Field{"step", &record.step, 0, header_.steps - 1},
      Field{"layer", &record.layer, 0, header_.layers - 1},
      Field{"sequence", &record.sequence, 0, header_.sequences - 1},
      Field{"kv_head", &record.kv_head, 0, header_.kv_heads - 1},
      Field{"context", &record.context, 1, header_.longest_context},
      Field{"attended", &record.attended, 0, header_.longest_context},
  };
  for (const Field& field : fields) {
    std::int64_t value = 0;
    Words copy = words;
    if (!words.number(value) || value < field.lowest || value > field.highest) {
      const std::string_view found = copy.word();
      lines_.fail(fmt::format(
          "{}: must be {} to {}; {}", field.name, field.lowest, field.highest,
          found.empty() ? "the line ends before it" : fmt::format("is {}", in_quotes(found))));
    }
    *field.value = static_cast<int>(value);
  }
  if (record.attended > record.context) {
    lines_.fail(fmt::format("attended: is {}, more than the context of {} tokens", record.attended,
                            record.context));
  }
}

void KvTraceReader::read_streams(Words& words, KvTraceRecord& record) const {
  record.channel_pages.clear();
  record.key_pages.clear();
  record.value_pages.clear();
  const int token_pages = header_.token_pages(record.context);
  while (!words.at_end()) {
    const std::string_view word = words.word();
    const std::size_t colon = word.find(':');
    const std::string_view stream = word.substr(0, colon);
    const std::string_view text =
        colon == std::string_view::npos ? std::string_view{} : word.substr(colon + 1);
    if (stream == "c") {
      read_pages(stream, text, header_.channel_pages(record.context), record.channel_pages);
    } else if (stream == "k") {
      read_pages(stream, text, token_pages, record.key_pages);
    } else if (stream == "v") {
      read_pages(stream, text, token_pages, record.value_pages);
    } else if (stream == "kv" && record.value_pages.empty()) {
      read_pages(stream, text, token_pages, record.key_pages);
      record.value_pages = record.key_pages;
    } else {
      lines_.fail(fmt::format("is {}; a stream such as c:0-15,18 was expected, of c, k, v and kv",
                              in_quotes(word)));
    }
  }
}

void KvTraceReader::read_pages(std::string_view stream, std::string_view text, int end,
                               std::vector<int>& pages) const {
  const char* at = text.data();
  const char* const stop = at + text.size();
  const auto refuse = [&](const char* what) {
    lines_.fail(fmt::format("{}:{}: {}; ascending numbers and ranges were expected, as 0-15,18",
                            stream, printable(text), what));
  };
  if (!pages.empty()) {
    refuse("the stream is there twice");
  }
  const auto number = [&](int& value) {
    const auto [rest, error] = std::from_chars(at, stop, value);
    if (error != std::errc{} || value < 0) {
      refuse("a page number is missing or too large");
    }
    at = rest;
  };
  while (true) {
    int first = 0;
    number(first);
    int last = first;
    if (at != stop && *at == '-') {
      ++at;
      number(last);
    }
    if (last < first || (!pages.empty() && first <= pages.back())) {
      refuse("the pages do not ascend");
    }
    if (last >= end) {
      lines_.fail(fmt::format("{}: page {} is not on flash at this context, which fills {}", stream,
                              last, end));
    }
    for (int page = first; page <= last; ++page) {
      pages.push_back(page);
    }
    if (at == stop) {
      return;
    }
    if (*at != ',') {
      refuse("a comma is missing");
    }
    ++at;
  }
}

// -- Writing ----------------------------------------------------------------------------------

KvTraceWriter::KvTraceWriter(const std::string& file, const KvTraceHeader& header)
    : file_(file), temporary_(fmt::format("{}.part{}", file, getpid())), expected_(header.records) {
  const std::string problem = problem_of(header);
  check(problem.empty(), problem);
  errno = 0;
  stream_.reset(std::fopen(temporary_.c_str(), "wb"));
  if (stream_ == nullptr) {
    throw ConfigError(
        fmt::format("{}: cannot be written ({}); name a file in a folder that is "
                    "writable",
                    printable(file), std::generic_category().message(errno)));
  }
  text_ = header_json(header).dump();
  write();
}

KvTraceWriter::~KvTraceWriter() {
  if (stream_ != nullptr) {
    std::error_code ignored;
    std::filesystem::remove(temporary_, ignored);
  }
}

void KvTraceWriter::add(const KvTraceRecord& record) {
  text_.clear();
  fmt::format_to(std::back_inserter(text_), "{} {} {} {} {} {}", record.step, record.layer,
                 record.sequence, record.kv_head, record.context, record.attended);
  append_pages(text_, "c", record.channel_pages);
  if (record.key_pages == record.value_pages) {
    append_pages(text_, "kv", record.key_pages);
  } else {
    append_pages(text_, "k", record.key_pages);
    append_pages(text_, "v", record.value_pages);
  }
  write();
  ++records_;
}

void KvTraceWriter::write() {
  text_ += '\n';
  errno = 0;
  if (std::fwrite(text_.data(), 1, text_.size(), stream_.get()) != text_.size()) {
    throw ConfigError(fmt::format("{}: cannot be written ({}); is there room?", printable(file_),
                                  std::generic_category().message(errno)));
  }
}

void KvTraceWriter::finish() {
  check(records_ == expected_, "a KV page trace with another number of records than its header");
  errno = 0;
  if (std::fflush(stream_.get()) != 0) {
    throw ConfigError(fmt::format("{}: cannot be written ({}); is there room?", printable(file_),
                                  std::generic_category().message(errno)));
  }
  stream_.reset();
  std::error_code error;
  std::filesystem::rename(temporary_, file_, error);
  if (error) {
    std::error_code ignored;
    std::filesystem::remove(temporary_, ignored);
    throw ConfigError(fmt::format("{}: cannot be written ({})", printable(file_), error.message()));
  }
}

}  // namespace nearkv::traces
