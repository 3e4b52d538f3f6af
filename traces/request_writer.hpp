// Writes request traces in the formats of request_trace.hpp.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "traces/request_trace.hpp"

namespace nearkv::traces {

/// Writes to a file beside `file`, which gets its name in finish(): no reader sees half a trace. A
/// file whose name ends in .gz is compressed. Equal requests give equal bytes. What the format
/// wants and a request has not: pd_ratio is the ratio of its lengths, hash_ids are new ones for
/// each 512 tokens of its prompt, a model is "any", the first TIMESTAMP is midnight, 1 January
/// 2000.
class RequestTraceWriter {
 public:
  /// Throws ConfigError when the file cannot be written.
  RequestTraceWriter(const std::string& file, RequestFormat format);
  /// Removes what was written unless it is finished.
  ~RequestTraceWriter();
  RequestTraceWriter(const RequestTraceWriter&) = delete;
  RequestTraceWriter& operator=(const RequestTraceWriter&) = delete;

  /// check()s order and lengths. Arrivals are cut to nanoseconds.
  void add(const RequestRecord& record);
  void finish();

 private:
  struct Closer {
    void operator()(gzFile_s* stream) const;
  };

  void write(std::string_view text);
  [[nodiscard]] std::string line_of(const RequestRecord& record);
  [[noreturn]] void fail(const std::string& why) const;

  std::string file_;
  std::string temporary_;
  std::unique_ptr<gzFile_s, Closer> stream_;
  RequestFormat format_;
  SimDuration last_{};
  std::int64_t blocks_ = 0;  // that got a hash
};

}  // namespace nearkv::traces
