// Request traces: when requests to a language model arrived, and how many tokens they had. One
// request a line; the file may be compressed by gzip. Formats, by what the file begins with:
//     azure           CSV: arrived_at [s], num_prefill_tokens, num_decode_tokens (the Azure traces
//                     as Vidur, Agrawal et al., MLSys 2024, has them)
//     azure_original  CSV: TIMESTAMP (2023-11-16 18:17:03.9799600), ContextTokens, GeneratedTokens
//                     (AzurePublicDataset, LLM inference 2023 and 2024)
//     burstgpt        CSV: Timestamp [s], Model, Request tokens, Response tokens, Total tokens,
//                     Log Type (Wang et al., arXiv 2401.17644). A row with 0 tokens of either kind
//                     is a request that failed: it is left out and counted
//     arxiv           CSV: num_prefill_tokens, num_decode_tokens, num_total_tokens, pd_ratio (the
//                     arXiv summaries as Vidur has them); no arrivals
//     mooncake        JSON, an object a line: timestamp [ms], input_length, output_length, hash_ids
//                     (Qin et al., FAST 2025). The hashes of prefixes are not used
// Columns may come in any order and there may be more of them; fields have no quotes. Line ends may
// be CR LF, empty lines are skipped, the last line may have no end. A prompt and an output have 1
// to 2^20 tokens. Arrivals are in order; they are kept to the nanosecond.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/core/units.hpp"
#include "traces/text_lines.hpp"

namespace nearkv::traces {

inline constexpr int kMostRequestTokens = 1 << 20;  // of a prompt, and of an output

struct RequestRecord {
  SimDuration at{};  // since the first request that is used; 0 without arrivals
  int prompt_tokens = 0;
  int output_tokens = 0;  // the first of them comes from prefill

  bool operator==(const RequestRecord&) const = default;
};

enum class RequestFormat : std::uint8_t { azure, azure_original, burstgpt, arxiv, mooncake };
inline constexpr std::array<std::string_view, 5> kRequestFormats{"azure", "azure_original",
                                                                 "burstgpt", "arxiv", "mooncake"};
[[nodiscard]] constexpr std::string_view name_of(RequestFormat format) {
  return kRequestFormats[static_cast<std::size_t>(format)];
}
[[nodiscard]] constexpr bool has_arrivals(RequestFormat format) {
  return format != RequestFormat::arxiv;
}

struct RequestTraceOptions {
  std::optional<RequestFormat> format{};  // else by what the file begins with
  std::int64_t first = 0;                 // requests that are skipped
  double time_scale = 1;                  // of the arrivals: 0.5 is twice as fast
};

class RequestTraceReader {
 public:
  /// Throws ConfigError when the file cannot be read or its header is of no format.
  RequestTraceReader(const std::string& file, const RequestTraceOptions& options);
  RequestTraceReader(const RequestTraceReader&) = delete;
  RequestTraceReader& operator=(const RequestTraceReader&) = delete;

  [[nodiscard]] RequestFormat format() const { return format_; }

  /// The next request; false at the end. Throws ConfigError "file:line: column: ..." for what is
  /// wrong, and at the end if there was none.
  bool next(RequestRecord& record);

  /// Rows of requests that failed, so far; they are not among those that are skipped.
  [[nodiscard]] std::int64_t failed() const { return failed_; }

 private:
  /// Arrival in nanoseconds of whatever origin, and the text that says so.
  struct Arrival {
    std::int64_t nanoseconds = 0;
    std::string_view text;
  };

  void read_header();
  bool read_row(std::string_view line, RequestRecord& record, Arrival& arrival);
  void read_object(std::string_view line, RequestRecord& record, Arrival& arrival);
  [[nodiscard]] Arrival arrival_of(std::string_view text) const;
  [[nodiscard]] SimDuration since_first(const Arrival& arrival);

  TextLines lines_;
  double time_scale_;
  std::int64_t to_skip_;
  bool has_format_;  // the caller named it
  RequestFormat format_ = RequestFormat::azure;
  std::vector<std::string_view> fields_;  // of the row at hand
  std::size_t columns_ = 0;               // of the header
  std::array<std::size_t, 3> column_{};   // arrival, prompt, output
  std::string first_line_;                // of JSON lines, until it is read
  std::optional<std::int64_t> first_arrival_;
  std::int64_t last_arrival_ = INT64_MIN;
  std::string last_arrival_text_;
  std::string text_;           // of a number that came as JSON
  std::int64_t requests_ = 0;  // those that were skipped too
  std::int64_t failed_ = 0;
  bool is_used_ = false;  // one of them
};

}  // namespace nearkv::traces
