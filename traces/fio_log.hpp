// I/O logs of fio (write_iolog), versions 3 and 2. The first line says which ("fio version 3
// iolog"); then
//     version 3:  time [us]   file   add | open | close
//                 time [us]   file   read | write | trim | sync | datasync | wait   offset   length
//     version 2:  the same without the time; a wait's offset is a time
// Offsets of all files are taken as offsets on the drive, as fio's replay_redirect does, unless one
// file is chosen. A sync and a wait have no effect: the first as drives here have no flush command,
// the second since version 3 has times instead (fio ignores it there too). Version 2 has no times,
// so that it fits a closed loop only. Line ends may be CR LF; the last line must have one, as a log
// that is cut in the middle of a number could not be told from a whole one.
#pragma once

#include <functional>
#include <set>
#include <string>

#include "traces/block_record.hpp"
#include "traces/text_lines.hpp"

namespace nearkv::traces {

class FioLogReader {
 public:
  /// Throws ConfigError when the file cannot be read or its first line is no fio log's.
  FioLogReader(const std::string& file, const BlockTraceOptions& options);
  FioLogReader(const FioLogReader&) = delete;
  FioLogReader& operator=(const FioLogReader&) = delete;

  [[nodiscard]] bool has_times() const { return version_ == 3; }

  /// The next request; false at the end. Throws ConfigError for what is wrong, and at the end if
  /// there was none. Without times record.at is 0.
  bool next(BlockRecord& record);

  [[nodiscard]] std::int64_t requests() const { return requests_; }
  /// Requests of other files, which were left out.
  [[nodiscard]] std::int64_t left_out() const { return left_out_; }
  /// Lines with a sync and with a wait.
  [[nodiscard]] std::int64_t syncs() const { return syncs_; }
  [[nodiscard]] std::int64_t waits() const { return waits_; }

 private:
  enum class Action { read, write, trim, sync, wait, add, open, close };

  [[nodiscard]] Action action_of(std::string_view word) const;
  [[nodiscard]] bool is_known(std::string_view file);

  TextLines lines_;
  TraceClock clock_;
  BlockTraceOptions options_;
  int version_ = 0;
  std::set<std::string, std::less<>> files_;  // added so far
  const std::string* last_file_ = nullptr;    // of these: the one that was asked for last
  std::int64_t requests_ = 0;
  std::int64_t left_out_ = 0;
  std::int64_t syncs_ = 0;
  std::int64_t waits_ = 0;
};

}  // namespace nearkv::traces
