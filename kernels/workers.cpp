#include "kernels/workers.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace nearkv::kernels {

void for_each_item(std::size_t count, int threads, const std::function<void(std::size_t)>& work) {
  if (threads < 1) {
    throw std::invalid_argument("threads: is " + std::to_string(threads) + "; must be at least 1");
  }
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::exception_ptr problem;
  const auto run = [&] {
    try {
      for (std::size_t i = next++; i < count; i = next++) {
        work(i);
      }
    } catch (...) {
      next = count;
      const std::lock_guard lock(mutex);
      if (!problem) problem = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> helpers;
    for (std::size_t i = 1; i < std::min(static_cast<std::size_t>(threads), count); ++i) {
      helpers.emplace_back(run);
    }
    run();
  }
  if (problem) std::rethrow_exception(problem);
}

}  // namespace nearkv::kernels
