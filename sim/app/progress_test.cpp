#include "sim/app/progress.hpp"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include <doctest/doctest.h>

namespace nearkv {

namespace {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

/// What a progress of `total` steps writes.
std::string all_steps(std::size_t total, Progress::Style style) {
  const std::unique_ptr<std::FILE, CloseFile> file(std::tmpfile());
  {
    Progress progress("work", total, style, file.get());
    for (std::size_t i = 0; i < total; ++i) {
      progress.advance();
    }
  }
  std::string text(static_cast<std::size_t>(std::ftell(file.get())), '\0');
  std::rewind(file.get());
  CHECK(std::fread(text.data(), 1, text.size(), file.get()) == text.size());
  return text;
}

}  // namespace

TEST_CASE("a progress bar shows the share that is done and the time left") {
  CHECK(progress_bar("fig", 0, 4, 0) == "fig  [..............................]  0 of 4  ");
  CHECK(progress_bar("fig", 1, 4, 2) == "fig  [#######.......................]  1 of 4  6 s left");
  CHECK(progress_bar("fig", 4, 4, 9) == "fig  [##############################]  4 of 4  0 s left");
}

TEST_CASE("durations are rough and rounded up") {
  CHECK(rough_duration(0) == "0 s");
  CHECK(rough_duration(11.2) == "12 s");
  CHECK(rough_duration(200) == "3 min 20 s");
  CHECK(rough_duration(7500) == "2 h 5 min");
}

TEST_CASE("progress in a file is at most ten plain lines") {
  const std::string few = all_steps(3, Progress::Style::lines);
  CHECK(few ==
        "work: 1 of 3 points, 1 s left\nwork: 2 of 3 points, 1 s left\n"
        "work: 3 of 3 points, 0 s left\n");
  const std::string many = all_steps(1000, Progress::Style::lines);
  CHECK(std::count(many.begin(), many.end(), '\n') == 10);
  CHECK(many.find('\r') == std::string::npos);
  CHECK(all_steps(5, Progress::Style::silent).empty());
}

TEST_CASE("a bar that is done sooner than half a second is not drawn") {
  CHECK(all_steps(3, Progress::Style::terminal).empty());
}

}  // namespace nearkv
