// Counts are int in the kernels' interfaces; containers and pointers want std::size_t.
#pragma once

#include <cstddef>

namespace nearkv::kernels {

/// Of a count that is not negative.
constexpr std::size_t size(int count) { return static_cast<std::size_t>(count); }

}  // namespace nearkv::kernels
