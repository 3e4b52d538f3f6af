// Progress of a number of equal tasks, on stderr: a bar with the time left on a terminal, else a
// plain line now and then.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <string>

namespace nearkv {

/// "fig14  [#########...........]  13 of 28  12 s left".
[[nodiscard]] std::string progress_bar(const std::string& label, std::size_t done,
                                       std::size_t total, double elapsed_seconds);

/// "12 s", "3 min 20 s", "2 h 5 min".
[[nodiscard]] std::string rough_duration(double seconds);

class Progress {
 public:
  enum class Style { terminal, lines, silent };

  Progress(std::string label, std::size_t total, Style style, std::FILE* stream = stderr);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// A bar where `stream` is a terminal, else lines.
  [[nodiscard]] static Style style_for(std::FILE* stream);

  void advance();
  /// Redraws the bar, so that the time left goes on.
  void tick();
  /// Prints a line above the bar.
  void say(const std::string& line);

 private:
  [[nodiscard]] double elapsed() const;
  void draw();
  void erase();

  std::string label_;
  std::size_t total_;
  Style style_;
  std::FILE* stream_;
  std::chrono::steady_clock::time_point started_;
  std::size_t done_ = 0;
  std::size_t lines_shown_ = 0;
  bool is_drawn_ = false;
};

}  // namespace nearkv
