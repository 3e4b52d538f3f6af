#include "traces/request_writer.hpp"

#include <cerrno>
#include <filesystem>
#include <system_error>

#include <fmt/format.h>
#include <unistd.h>
#include <zlib.h>

#include "sim/core/check.hpp"
#include "traces/request_time.hpp"

namespace nearkv::traces {

namespace {

constexpr std::int64_t kTokensPerHash = 512;                       // Mooncake's block
constexpr std::int64_t kFirstTimestamp = 946'684'800'000'000'000;  // 2000-01-01, ns after 1970

std::string_view header_of(RequestFormat format) {
  switch (format) {
    case RequestFormat::azure:
      return "arrived_at,num_prefill_tokens,num_decode_tokens\n";
    case RequestFormat::azure_original:
      return "TIMESTAMP,ContextTokens,GeneratedTokens\n";
    case RequestFormat::burstgpt:
      return "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n";
    case RequestFormat::arxiv:
      return "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n";
    default:
      return "";
  }
}

}  // namespace

void RequestTraceWriter::Closer::operator()(gzFile_s* stream) const { gzclose_w(stream); }

RequestTraceWriter::RequestTraceWriter(const std::string& file, RequestFormat format)
    : file_(file), temporary_(fmt::format("{}.part{}", file, getpid())), format_(format) {
  errno = 0;
  stream_.reset(gzopen(temporary_.c_str(), file.ends_with(".gz") ? "wb" : "wbT"));
  if (stream_ == nullptr) {
    throw ConfigError(
        fmt::format("{}: cannot be written ({}); name a file in a folder that is writable",
                    printable(file), std::generic_category().message(errno)));
  }
  write(header_of(format));
}

RequestTraceWriter::~RequestTraceWriter() {
  if (stream_ != nullptr) {
    stream_.reset();
    std::error_code ignored;
    std::filesystem::remove(temporary_, ignored);
  }
}

std::string RequestTraceWriter::line_of(const RequestRecord& record) {
  const std::int64_t nanoseconds =
      std::chrono::duration_cast<std::chrono::nanoseconds>(record.at).count();
  const int prompt = record.prompt_tokens;
  const int output = record.output_tokens;
  switch (format_) {
    case RequestFormat::azure:
      return fmt::format("{},{},{}\n", decimal_of(nanoseconds, kPlacesOfSecond), prompt, output);
    case RequestFormat::azure_original:
      return fmt::format("{},{},{}\n", date_of(kFirstTimestamp + nanoseconds), prompt, output);
    case RequestFormat::burstgpt:
      return fmt::format("{},any,{},{},{},API log\n", decimal_of(nanoseconds, kPlacesOfSecond),
                         prompt, output, prompt + output);
    case RequestFormat::arxiv:
      return fmt::format("{},{},{},{}\n", prompt, output, prompt + output,
                         static_cast<double>(prompt) / output);
    default:
      break;
  }
  std::string hashes;
  for (std::int64_t tokens = 0; tokens < prompt; tokens += kTokensPerHash) {
    hashes += fmt::format("{}{}", tokens > 0 ? ", " : "", blocks_++);
  }
  return fmt::format(
      "{{\"timestamp\": {}, \"input_length\": {}, \"output_length\": {}, \"hash_ids\": [{}]}}\n",
      decimal_of(nanoseconds, kPlacesOfMillisecond), prompt, output, hashes);
}

void RequestTraceWriter::add(const RequestRecord& record) {
  const auto is_length = [](int tokens) { return tokens >= 1 && tokens <= kMostRequestTokens; };
  check(record.at >= last_, "a request trace that is not in order of arrival");
  check(is_length(record.prompt_tokens) && is_length(record.output_tokens),
        "a request of no tokens or too many");
  last_ = record.at;
  write(line_of(record));
}

void RequestTraceWriter::write(std::string_view text) {
  errno = 0;
  const int written = gzwrite(stream_.get(), text.data(), static_cast<unsigned>(text.size()));
  if (written != static_cast<int>(text.size())) {
    fail(std::generic_category().message(errno));
  }
}

void RequestTraceWriter::finish() {
  errno = 0;
  const int closed = gzclose_w(stream_.release());
  std::error_code error;
  if (closed == Z_OK) {
    std::filesystem::rename(temporary_, file_, error);
  }
  if (closed != Z_OK || error) {
    std::error_code ignored;
    std::filesystem::remove(temporary_, ignored);
    fail(error ? error.message() : std::generic_category().message(errno));
  }
}

void RequestTraceWriter::fail(const std::string& why) const {
  throw ConfigError(
      fmt::format("{}: cannot be written ({}); is there room?", printable(file_), why));
}

}  // namespace nearkv::traces
