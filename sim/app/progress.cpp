#include "sim/app/progress.hpp"

#include <cmath>
#include <utility>

#include <fmt/format.h>
#include <unistd.h>

namespace nearkv {

namespace {

constexpr std::size_t kBarWidth = 30;
constexpr std::size_t kMostLines = 10;
constexpr double kQuietSeconds = 0.5;  // what is done sooner needs no bar

std::string time_left(std::size_t done, std::size_t total, double elapsed_seconds) {
  if (done == 0) {
    return "";
  }
  const double left =
      elapsed_seconds / static_cast<double>(done) * static_cast<double>(total - done);
  return fmt::format("{} left", rough_duration(left));
}

}  // namespace

std::string rough_duration(double seconds) {
  constexpr long kMinute = 60;
  constexpr long kHour = 3600;
  const long whole = std::lround(std::ceil(seconds));
  if (whole < kMinute) {
    return fmt::format("{} s", whole);
  }
  if (whole < kHour) {
    return fmt::format("{} min {} s", whole / kMinute, whole % kMinute);
  }
  return fmt::format("{} h {} min", whole / kHour, whole % kHour / kMinute);
}

std::string progress_bar(const std::string& label, std::size_t done, std::size_t total,
                         double elapsed_seconds) {
  const std::size_t filled = total == 0 ? kBarWidth : kBarWidth * done / total;
  return fmt::format("{}  [{}{}]  {} of {}  {}", label, std::string(filled, '#'),
                     std::string(kBarWidth - filled, '.'), done, total,
                     time_left(done, total, elapsed_seconds));
}

Progress::Progress(std::string label, std::size_t total, Style style, std::FILE* stream)
    : label_(std::move(label)),
      total_(total),
      style_(style),
      stream_(stream),
      started_(std::chrono::steady_clock::now()) {}

Progress::~Progress() { erase(); }

Progress::Style Progress::style_for(std::FILE* stream) {
  return isatty(fileno(stream)) == 1 ? Style::terminal : Style::lines;
}

void Progress::advance() {
  ++done_;
  if (style_ == Style::terminal) {
    draw();
  } else if (style_ == Style::lines) {
    const std::size_t lines_due = total_ < kMostLines ? done_ : done_ * kMostLines / total_;
    if (lines_due > lines_shown_) {
      lines_shown_ = lines_due;
      fmt::print(stream_, "{}: {} of {} points, {}\n", label_, done_, total_,
                 time_left(done_, total_, elapsed()));
    }
  }
}

void Progress::tick() {
  if (style_ == Style::terminal) {
    draw();
  }
}

void Progress::say(const std::string& line) {
  erase();
  fmt::print(stream_, "{}\n", line);
}

double Progress::elapsed() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
}

void Progress::draw() {
  const double seconds = elapsed();
  if (seconds < kQuietSeconds) {
    return;
  }
  // To the first column, the bar, and erase what an earlier bar left to the right of it.
  fmt::print(stream_, "\r{}\x1b[K", progress_bar(label_, done_, total_, seconds));
  std::fflush(stream_);
  is_drawn_ = true;
}

void Progress::erase() {
  if (std::exchange(is_drawn_, false)) {
    fmt::print(stream_, "\r\x1b[K");
    std::fflush(stream_);
  }
}

}  // namespace nearkv
