// Random caches and queries for the tests and benchmarks of kernels/.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/api.hpp"
#include "kernels/half.hpp"
#include "sim/core/random.hpp"

namespace nearkv::kernels::testing {

inline Rng test_stream(unsigned seed) { return {seed, "kernels/test"}; }

/// Standard normal.
inline std::vector<float> random_row(Rng& stream, int count) {
  std::vector<float> row(static_cast<std::size_t>(count));
  stream.normals(row);
  return row;
}

inline KvPages random_cache(const PageGeometrySpec& spec, int tokens, unsigned seed) {
  Rng stream = test_stream(seed);
  KvPages pages{PageGeometry(spec)};
  pages.reserve(tokens);
  for (int token = 0; token < tokens; ++token) {
    const std::vector<float> k = random_row(stream, spec.d_head);
    pages.append(k, random_row(stream, spec.d_head));
  }
  return pages;
}

/// FP16 values, as a CSD gets them over its link.
inline std::vector<float> random_queries(int heads, int d_head, unsigned seed) {
  Rng stream = test_stream(seed);
  std::vector<float> queries = random_row(stream, heads * d_head);
  for (float& value : queries)
    value = half_to_float(float_to_half(value));
  return queries;
}

}  // namespace nearkv::kernels::testing
