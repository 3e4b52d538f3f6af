#include "traces/text_lines.hpp"

#include <cerrno>
#include <charconv>
#include <cstring>
#include <system_error>

#include <fmt/format.h>
#include <zlib.h>

#include "sim/core/check.hpp"

namespace nearkv::traces {

namespace {

constexpr std::size_t kBlock = std::size_t{1} << 20;  // and the longest line

}  // namespace

void TextLines::Closer::operator()(gzFile_s* stream) const { gzclose_r(stream); }

TextLines::TextLines(const std::string& file, Compressed compressed)
    : name_(printable(file)), block_(kBlock) {
  errno = 0;
  stream_.reset(gzopen(file.c_str(), "rb"));  // reads files that are not compressed as they are
  if (stream_ == nullptr) {
    if (errno == ENOENT) {
      fail_file("no such file; name a trace or a workload");
    }
    fail_file(fmt::format("cannot be opened ({})", std::generic_category().message(errno)));
  }
  if (compressed == Compressed::refused && gzdirect(stream_.get()) == 0) {
    fail_file("is compressed; replay what gzip -dc makes of it");
  }
  if (!refill()) {
    fail_file("the file is empty; a trace was expected");
  }
}

void TextLines::fail(std::string_view what) const {
  throw ConfigError(fmt::format("{}:{}: {}{}", name_, number_, what,
                                is_cut_ ? "; the file seems to be cut off here" : ""));
}

void TextLines::fail_file(std::string_view what) const {
  throw ConfigError(fmt::format("{}: {}", name_, what));
}

void TextLines::fail_reading() const {
  int error = Z_OK;
  const std::string_view message = gzerror(stream_.get(), &error);
  if (error == Z_ERRNO) {
    fail_file(fmt::format("cannot be read ({})", std::generic_category().message(errno)));
  }
  if (error == Z_BUF_ERROR) {
    fail_file("the compressed file is cut off; take a whole one");
  }
  const std::size_t behind_file = message.rfind(": ");
  fail_file(fmt::format(
      "the compressed file is damaged ({})",
      behind_file == std::string_view::npos ? message : message.substr(behind_file + 2)));
}

/// Moves what is left to the front and reads behind it; false at the end of the file.
bool TextLines::refill() {
  std::memmove(block_.data(), block_.data() + at_, end_ - at_);
  end_ -= at_;
  at_ = 0;
  const int read =
      gzread(stream_.get(), block_.data() + end_, static_cast<unsigned>(block_.size() - end_));
  const std::size_t got = read > 0 ? static_cast<std::size_t>(read) : 0;
  int error = Z_OK;
  gzerror(stream_.get(), &error);
  if (read < 0 || (read == 0 && error != Z_OK && error != Z_STREAM_END)) {
    fail_reading();
  }
  if (std::memchr(block_.data() + end_, '\0', got) != nullptr) {
    fail_file("is a binary file; a trace is text");
  }
  end_ += got;
  return got > 0;
}

bool TextLines::next(std::string_view& line) {
  const void* found = std::memchr(block_.data() + at_, '\n', end_ - at_);
  while (found == nullptr) {
    if (end_ - at_ == block_.size()) {
      fail_file(fmt::format("line {} has more than {} bytes; a trace is text in short lines",
                            number_ + 1, kBlock));
    }
    const std::size_t searched = end_ - at_;
    if (!refill()) {
      if (end_ == at_) {
        return false;
      }
      is_cut_ = true;
      break;
    }
    found = std::memchr(block_.data() + at_ + searched, '\n', end_ - at_ - searched);
  }
  ++number_;
  const char* const first = block_.data() + at_;
  const char* const stop =
      found == nullptr ? block_.data() + end_ : static_cast<const char*>(found);
  at_ = static_cast<std::size_t>(stop - block_.data()) + (found == nullptr ? 0 : 1);
  line = {first, static_cast<std::size_t>(stop - first)};
  if (line.ends_with('\r')) {
    line.remove_suffix(1);
  }
  return true;
}

bool Words::number(std::int64_t& value) {
  skip_blanks();
  std::uint64_t read = 0;
  const auto [rest, error] = std::from_chars(at_, end_, read);
  if (error != std::errc{} || (rest != end_ && !is_blank(*rest)) || (read >> 63U) != 0) {
    return false;
  }
  at_ = rest;
  value = static_cast<std::int64_t>(read);
  return true;
}

std::string_view Words::word() {
  skip_blanks();
  const char* const first = at_;
  while (at_ != end_ && !is_blank(*at_)) {
    ++at_;
  }
  return {first, static_cast<std::size_t>(at_ - first)};
}

}  // namespace nearkv::traces
