#include "kernels/workers.hpp"

#include <atomic>
#include <stdexcept>
#include <vector>

#include <doctest/doctest.h>

using nearkv::kernels::for_each_item;

TEST_CASE("workers: each item once, with fewer and more threads than items") {
  for (const int threads : {1, 2, 8}) {
    for (const std::size_t count : {0U, 1U, 3U, 1000U}) {
      std::vector<std::atomic<int>> calls(count);
      for_each_item(count, threads, [&](std::size_t i) { ++calls[i]; });
      for (const std::atomic<int>& times : calls)
        REQUIRE(times == 1);
    }
  }
}

TEST_CASE("workers: the exception of an item arrives; alone, no item follows it") {
  for (const int threads : {1, 4}) {
    std::atomic<int> done{0};
    CHECK_THROWS_WITH_AS(for_each_item(100'000, threads,
                                       [&](std::size_t i) {
                                         if (i == 3) throw std::runtime_error("item 3");
                                         ++done;
                                       }),
                         "item 3", std::runtime_error);
    if (threads == 1) CHECK(done == 3);
  }
  CHECK_THROWS_WITH_AS(for_each_item(1, 0, [](std::size_t) {}), "threads: is 0; must be at least 1",
                       std::invalid_argument);
}
