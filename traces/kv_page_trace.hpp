// KV page traces: which flash pages decode attention read, head by head. A text format of ours.
//
// The first line is a JSON object, the header: "format": "nearkv-kv-pages", "version": 1, and the
// members of KvTraceHeader by their names. Then one record a line, header.records of them, for one
// attend command (the query heads that share one KV head of one sequence in one layer) each:
//     step layer sequence kv_head context attended stream...
//     7 0 2 5 1024 64 c:0-15,18 kv:0,4-7
// step, layer, sequence and KV head count from 0 and ascend in this order; context is the number of
// tokens that the step sees, attended the number of those whose K and V it uses, for each query
// head. A stream is its name and the pages that were read of it, as ascending numbers and ranges:
//     c   channel-indexed K. Page = token chunk x channel groups + channel group, so that numbers
//         do not change when the stream grows; a chunk is the tokens of a page of one group.
//     k   K by token groups, v   V by token groups. Page = token group. kv: both, the same pages.
// A stream that is missing was not read. Only pages that are full at this context are on flash, so
// that others are an error. Every line ends with a line feed (CR LF is read too).
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "traces/text_lines.hpp"

namespace nearkv::traces {

struct KvTraceHeader {
  std::string model;            // name, for people
  std::string attention;        // "dense" or "sparf"
  int estimate_channels = 0;    // r of sparf; 0 for dense
  int d_head = 0;               // channels of a head
  int page_size = 0;            // bytes
  int tokens_per_group = 0;     // floor(page_size / (2 d_head)): FP16 rows
  int channels_per_group = 0;   // of the channel-indexed copy
  int layers = 0;               // of the model
  int kv_heads = 0;             // a layer
  int queries_per_kv_head = 0;  // query heads that share one
  int sequences = 0;            // of the batch
  int steps = 0;                // decode steps
  int longest_context = 0;      // of all records
  std::int64_t records = 0;

  [[nodiscard]] int channel_groups() const { return d_head / channels_per_group; }
  [[nodiscard]] int tokens_per_channel_page() const { return page_size / 2 / channels_per_group; }
  /// Pages of a stream that are full at a context.
  [[nodiscard]] int token_pages(int context) const { return context / tokens_per_group; }
  [[nodiscard]] int channel_pages(int context) const {
    return context / tokens_per_channel_page() * channel_groups();
  }

  bool operator==(const KvTraceHeader&) const = default;
};

struct KvTraceRecord {
  int step = 0;
  int layer = 0;
  int sequence = 0;
  int kv_head = 0;
  int context = 0;
  int attended = 0;
  std::vector<int> channel_pages;
  std::vector<int> key_pages;
  std::vector<int> value_pages;

  bool operator==(const KvTraceRecord&) const = default;
};

/// What is wrong with a header, as "member: what"; empty when nothing is.
[[nodiscard]] std::string problem_of(const KvTraceHeader& header);

class KvTraceReader {
 public:
  /// Throws ConfigError when the file cannot be read or its header is wrong.
  explicit KvTraceReader(const std::string& file);

  [[nodiscard]] const KvTraceHeader& header() const { return header_; }

  /// The next record; false after header().records of them. Throws ConfigError for what is wrong,
  /// and when the file has fewer records or more.
  bool next(KvTraceRecord& record);

  [[nodiscard]] std::int64_t records() const { return records_; }

 private:
  void read_header(std::string_view line);
  void read_place(Words& words, KvTraceRecord& record) const;
  void read_streams(Words& words, KvTraceRecord& record) const;
  void read_pages(std::string_view stream, std::string_view text, int end,
                  std::vector<int>& pages) const;

  TextLines lines_;
  KvTraceHeader header_;
  std::int64_t records_ = 0;
  std::int64_t last_place_ = -1;
};

/// Writes to a file beside `file`, which gets its name in finish(): no reader sees half a trace.
class KvTraceWriter {
 public:
  /// Throws ConfigError when the file cannot be written. check()s the header.
  KvTraceWriter(const std::string& file, const KvTraceHeader& header);
  /// Removes what was written unless it is finished.
  ~KvTraceWriter();
  KvTraceWriter(const KvTraceWriter&) = delete;
  KvTraceWriter& operator=(const KvTraceWriter&) = delete;

  void add(const KvTraceRecord& record);
  /// check()s that there were header.records of them.
  void finish();

 private:
  struct Closer {
    void operator()(std::FILE* stream) const { std::fclose(stream); }
  };

  void write();

  std::string file_;
  std::string temporary_;
  std::unique_ptr<std::FILE, Closer> stream_;
  std::string text_;  // of a line, to be written
  std::int64_t expected_;
  std::int64_t records_ = 0;
};

}  // namespace nearkv::traces
