#include "traces/fio_log.hpp"

#include <array>
#include <utility>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv::traces {

namespace {

using namespace std::chrono_literals;

constexpr std::string_view kVersion3 = "fio version 3 iolog";
constexpr std::string_view kVersion2 = "fio version 2 iolog";
constexpr std::size_t kMostFiles = 100'000;

}  // namespace

FioLogReader::FioLogReader(const std::string& file, const BlockTraceOptions& options)
    : lines_(file), clock_(1us), options_(options) {
  std::string_view line;
  lines_.next(line);
  if (line != kVersion3 && line != kVersion2) {
    lines_.fail(fmt::format("is {}; the first line of a log of fio is \"{}\" (or version 2)",
                            in_quotes(line), kVersion3));
  }
  version_ = line == kVersion3 ? 3 : 2;
}

FioLogReader::Action FioLogReader::action_of(std::string_view word) const {
  constexpr std::array<std::pair<std::string_view, Action>, 9> kActions{{
      {"read", Action::read},
      {"write", Action::write},
      {"trim", Action::trim},
      {"sync", Action::sync},
      {"datasync", Action::sync},
      {"wait", Action::wait},
      {"add", Action::add},
      {"open", Action::open},
      {"close", Action::close},
  }};
  for (const auto& [name, action] : kActions) {
    if (name == word) {
      return action;
    }
  }
  if (word.empty()) {
    lines_.fail(fmt::format("expected {}file, action, offset and length; the line ends too early",
                            version_ == 3 ? "time, " : ""));
  }
  lines_.fail(fmt::format(
      "action: is {}; must be read, write, trim, sync, datasync, wait, add, open or close",
      in_quotes(word)));
}

bool FioLogReader::is_known(std::string_view file) {
  if (last_file_ != nullptr && *last_file_ == file) {
    return true;
  }
  const auto found = files_.find(file);
  last_file_ = found != files_.end() ? &*found : nullptr;
  return last_file_ != nullptr;
}

bool FioLogReader::next(BlockRecord& record) {
  std::string_view line;
  while (lines_.next(line)) {
    if (lines_.is_cut()) {
      lines_.fail("the last line does not end");
    }
    Words words(line);
    if (words.at_end()) {
      continue;
    }
    std::int64_t time = 0;
    if (version_ == 3 && !words.number(time)) {
      lines_.fail(fmt::format("time: must be whole microseconds; is {}", in_quotes(words.word())));
    }
    const std::string_view file = words.word();
    const Action action = action_of(words.word());
    if (action == Action::add) {
      if (files_.emplace(file).second && files_.size() > kMostFiles) {
        lines_.fail(fmt::format("a log of more than {} files", kMostFiles));
      }
      continue;
    }
    if (!is_known(file)) {
      lines_.fail(fmt::format("file {} was not added before; a line \"{}{} add\" was expected",
                              in_quotes(file), version_ == 3 ? "0 " : "", printable(file)));
    }
    if (action == Action::open || action == Action::close) {
      continue;
    }
    if (action == Action::sync || action == Action::wait) {
      ++(action == Action::sync ? syncs_ : waits_);
      continue;
    }
    std::int64_t first = 0;
    std::int64_t size = 0;
    if (!words.number(first) || !words.number(size) || !words.at_end()) {
      lines_.fail(fmt::format("offset and length: two numbers of bytes were expected; is {}",
                              in_quotes(line)));
    }
    if (!options_.device.empty() && options_.device != file) {
      ++left_out_;
      continue;
    }
    record.at = version_ == 3 ? clock_.at(time, lines_) : SimDuration{0};
    record.kind = action == Action::read    ? AccessKind::read
                  : action == Action::write ? AccessKind::write
                                            : AccessKind::trim;
    record.first = Bytes{first};
    record.size = Bytes{size};
    check_extent(record.first, record.size, options_.capacity, lines_);
    ++requests_;
    return true;
  }
  if (requests_ == 0) {
    lines_.fail_file(left_out_ == 0 ? "has no request"
                                    : fmt::format("has no request of file {} (but {} of others)",
                                                  in_quotes(options_.device), left_out_));
  }
  return false;
}

}  // namespace nearkv::traces
