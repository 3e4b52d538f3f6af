// KV page traces: which flash pages decode attention read, head by head. A format of ours, made by
// `nearkv record`; this comment and page_set_code.hpp say all that a reader or writer must know.
//
// A file is two lines of text and then binary records. Line 1 is a JSON object, the header:
// "format": "nearkv-kv-pages", "version": 2, the members of KvTraceHeader by their names,
// "method_hash" and "records_hash". Line 2 is the hash of line 1, its line feed included. All
// hashes are FNV-1a with 64 bits (sim/core/random.hpp) as 16 lowercase hexadecimal digits:
//     method_hash    of {"method":...,"options":{...}}, the members of the header without blanks,
//                    options in the order of their names
//     records_hash   of the length and body of all records, in their order
// The source's own hash (source_hash) is any text, made by whoever wrote the trace.
//
// A record is one attend command: the query heads that share one KV head of one sequence in one
// layer, in one decode step. header.records of them follow line 2, and nothing behind them:
//     length   number: bytes of the body
//     body     as below
//     check    2 bytes, the lower first: with h the hash of the length and body of all records so
//              far, the exclusive or of the four 16-bit parts of h
// Every single damaged byte is found: it changes h for good, or one of the checks alone. A body is
//     flags     a byte, see the bits below
//     place     bit 0: number of places that were left out; without it none were. The place of a
//               record is ((step x layers + layer) x sequences + sequence) x kv_heads + kv_head,
//               all from 0; places ascend, and the first record comes after place -1
//     context   bit 1: signed number to be added to the context of the record before (0 at first),
//               without it they are equal: the tokens that the step sees
//     attended  bit 2: likewise; tokens whose K and V each query head uses
//     channel-indexed K   bit 3: a set of pages, without it none. Page = token chunk x channel
//               groups + channel group, so that numbers do not change when the stream grows; a
//               chunk is the tokens of a page of one group. With bit 4 it is a set of channel
//               groups instead, whose pages of all chunks were read
//     K         set of pages by token groups. Page = token group
//     V         bit 5: likewise; without it, the pages are those of K
// Numbers and sets: page_set_code.hpp. The set "before" is that of the same layer, sequence and KV
// head in its last record in the file, with bit 4 the channel groups of its chunk 0; none at first.
// Only pages that are full at this context are on flash, so that others are an error.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "sim/core/random.hpp"

namespace nearkv::traces {

struct KvTraceHeader {
  std::string model;        // name, for people
  std::string source_kind;  // "captured", "synthetic" or "made" (by a script, as a fixture)
  std::string source;       // name of the file or config
  std::string source_hash;  // of the tensors, or of what they are generated from
  std::string method;       // one of kv_trace_methods()
  std::map<std::string, double> options;  // of the method, as it was asked for
  int estimate_channels = 0;              // r of sparq and sparf; 0 for others
  int d_head = 0;                         // channels of a head
  int page_size = 0;                      // bytes
  int tokens_per_group = 0;               // floor(page_size / (2 d_head)): FP16 rows
  int channels_per_group = 0;             // of the channel-indexed copy
  int layers = 0;                         // of the model
  int kv_heads = 0;                       // a layer
  int queries_per_kv_head = 0;            // query heads that share one
  int sequences = 0;                      // of the batch
  int steps = 0;                          // decode steps
  int longest_context = 0;                // of all records
  std::int64_t records = 0;

  [[nodiscard]] int channel_groups() const { return d_head / channels_per_group; }
  [[nodiscard]] int tokens_per_channel_page() const { return page_size / 2 / channels_per_group; }
  /// Pages of a stream that are full at a context.
  [[nodiscard]] int token_pages(int context) const { return context / tokens_per_group; }
  [[nodiscard]] int channel_pages(int context) const {
    return context / tokens_per_channel_page() * channel_groups();
  }
  /// Whether K is there twice, by tokens and by channels.
  [[nodiscard]] bool has_channel_copy() const { return estimate_channels > 0; }

  bool operator==(const KvTraceHeader&) const = default;
};

struct KvTraceRecord {
  int step = 0;
  int layer = 0;
  int sequence = 0;
  int kv_head = 0;
  int context = 0;
  int attended = 0;
  std::vector<int> channel_pages{};
  std::vector<int> key_pages{};
  std::vector<int> value_pages{};

  bool operator==(const KvTraceRecord&) const = default;
};

inline constexpr std::array<std::string_view, 6> kKvTraceMethods{"dense", "sparq",     "sparf",
                                                                 "h2o",   "streaming", "window"};

/// What is wrong with a header, as "member: what"; empty when nothing is.
[[nodiscard]] std::string problem_of(const KvTraceHeader& header);

/// What both sides of the format know of the records so far.
class KvTraceState {
 public:
  explicit KvTraceState(const KvTraceHeader& header) : header_(header), hash_(fnv1a64("")) {}

  [[nodiscard]] std::string body_of(const KvTraceRecord& record);
  /// Throws std::invalid_argument that says what is wrong.
  void read_body(std::string_view body, KvTraceRecord& record);

  /// Takes the length and body of a record into the hash and returns the record's check.
  std::uint16_t fold(std::string_view bytes);
  [[nodiscard]] std::uint64_t hash() const { return hash_; }

 private:
  struct Pages {
    std::vector<int> channel;
    std::vector<int> key;
    std::vector<int> value;
  };

  [[nodiscard]] std::int64_t place_of(const KvTraceRecord& record) const;
  [[nodiscard]] Pages& last_pages_of(std::int64_t place);
  void keep(std::int64_t place, const KvTraceRecord& record);

  const KvTraceHeader& header_;
  std::uint64_t hash_;
  std::int64_t place_ = -1;
  int context_ = 0;
  int attended_ = 0;
  std::unordered_map<std::int64_t, Pages> last_;  // by place in a step; never iterated
};

struct FileCloser {
  void operator()(std::FILE* stream) const { std::fclose(stream); }
};

class KvTraceReader {
 public:
  /// Throws ConfigError when the file cannot be read or its header is wrong.
  explicit KvTraceReader(const std::string& file);
  KvTraceReader(const KvTraceReader&) = delete;
  KvTraceReader& operator=(const KvTraceReader&) = delete;

  [[nodiscard]] const KvTraceHeader& header() const { return header_; }
  /// The hash of all records, which names the trace.
  [[nodiscard]] const std::string& records_hash() const { return records_hash_; }

  /// The next record; false after header().records of them. Throws ConfigError, which names the
  /// record and its first byte, for what is wrong or missing; and behind the last one for the hash
  /// of all and for what follows it.
  bool next(KvTraceRecord& record);

  [[nodiscard]] std::int64_t records() const { return records_; }

 private:
  [[nodiscard]] std::string read_line();
  void read_header(std::string_view line);
  void read_length_and_body();
  char take_byte();
  void check_end();
  [[noreturn]] void fail(std::string_view what) const;       // of the file
  [[noreturn]] void fail_line(std::string_view what) const;  // of the header
  [[noreturn]] void fail_record(std::string_view what) const;

  std::string name_;
  std::unique_ptr<std::FILE, FileCloser> stream_;
  KvTraceHeader header_;
  std::string records_hash_;
  KvTraceState state_;
  std::string bytes_;              // length and body of the record at hand
  std::size_t body_ = 0;           // where in them the body begins
  std::int64_t at_ = 0;            // in the file
  std::int64_t record_begin_ = 0;  // likewise
  std::int64_t records_ = 0;
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

  /// check()s that records come in their order with pages that are on flash.
  void add(const KvTraceRecord& record);
  /// check()s that there were header.records of them.
  void finish();

  [[nodiscard]] std::int64_t bytes() const { return bytes_; }

 private:
  void write(std::string_view bytes);
  void write_header();
  [[noreturn]] void fail(const std::string& why) const;

  std::string file_;
  std::string temporary_;
  std::unique_ptr<std::FILE, FileCloser> stream_;
  KvTraceHeader header_;
  KvTraceState state_;
  std::int64_t records_ = 0;
  std::int64_t bytes_ = 0;
};

}  // namespace nearkv::traces
