// Lines of a large text file, read in blocks: never more than one block and one line in memory,
// also where the file is compressed.
// Problems are ConfigError "file:line: what was expected; what was found".
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct gzFile_s;  // zlib's

namespace nearkv::traces {

/// What becomes of a file that gzip has compressed.
enum class Compressed : std::uint8_t { refused, read };

class TextLines {
 public:
  /// `file` is opened as the user named it. Throws ConfigError when it cannot be, or is empty.
  explicit TextLines(const std::string& file, Compressed compressed = Compressed::refused);

  /// The next line without its end, which is LF or CR LF; false at the end of the file. The view is
  /// valid until the next call. Throws ConfigError for what is no text.
  bool next(std::string_view& line);

  /// Of the line that next() gave last, from 1.
  [[nodiscard]] std::int64_t number() const { return number_; }
  /// Whether that line is the last of the file and has no line end.
  [[nodiscard]] bool is_cut() const { return is_cut_; }

  /// Throws ConfigError "file:line: what", with "the file seems to be cut off" where is_cut().
  [[noreturn]] void fail(std::string_view what) const;
  /// "file: what", for the file as a whole.
  [[noreturn]] void fail_file(std::string_view what) const;

 private:
  struct Closer {
    void operator()(gzFile_s* stream) const;
  };

  bool refill();
  [[noreturn]] void fail_reading() const;

  std::string name_;
  std::unique_ptr<gzFile_s, Closer> stream_;
  std::vector<char> block_;
  std::size_t at_ = 0;   // of the next line in the block
  std::size_t end_ = 0;  // of what was read into the block
  std::int64_t number_ = 0;
  bool is_cut_ = false;
};

/// Words of a line, separated by blanks and tabs.
class Words {
 public:
  explicit Words(std::string_view line) : at_(line.data()), end_(at_ + line.size()) {}

  /// A whole number >= 0 that fits and ends where the word does; false, and nothing is taken, if
  /// there is none.
  bool number(std::int64_t& value);
  /// Empty at the end of the line.
  [[nodiscard]] std::string_view word();
  [[nodiscard]] bool at_end() {
    skip_blanks();
    return at_ == end_;
  }

 private:
  [[nodiscard]] static bool is_blank(char c) { return c == ' ' || c == '\t'; }
  void skip_blanks() {
    while (at_ != end_ && is_blank(*at_)) {
      ++at_;
    }
  }

  const char* at_;
  const char* end_;
};

}  // namespace nearkv::traces
