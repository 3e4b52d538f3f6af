// Threads that share the items of a loop.
#pragma once

#include <functional>

namespace nearkv::kernels {

/// Calls work(i) for each i of 0 .. count - 1, on `threads` threads at most, the caller's included;
/// items are taken in order. The first exception of an item is thrown here, after all threads have
/// stopped. threads >= 1.
void for_each_item(std::size_t count, int threads, const std::function<void(std::size_t)>& work);

}  // namespace nearkv::kernels
