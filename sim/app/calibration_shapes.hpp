// The operators that nearkv calibrate times, with the work that the models count for them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace nearkv {

struct ProjectionShape {
  int columns;  // [rows x depth] x [depth x columns]
  int depth;
};
/// The projections of OPT and Llama at hidden size h: h -> 3 h (q, k, v), h -> h (output),
/// h -> 4 h and 4 h -> h (feed-forward network).
[[nodiscard]] std::vector<ProjectionShape> projections(int hidden);

/// Bytes and FLOP of a GEMM with elements of `element_bytes`, added to its parameters.
[[nodiscard]] nlohmann::json gemm_parameters(int rows, const ProjectionShape& shape,
                                             int element_bytes);

/// A batch of equal sequences with a query each; MHA.
struct DecodePoint {
  int batch;
  int heads;
  int d_head;
  int context;
  int compression = 0;  // 0: dense; c: SparF with 1/c of the traffic

  // SparF: half of the traffic for the estimate, half for the tokens, so that
  // (S r + 2 k d_head) / (2 S d_head) = 1 / c.
  [[nodiscard]] int r() const { return d_head / compression; }
  [[nodiscard]] int k() const { return context / compression >= 2 ? context / compression / 2 : 1; }
  [[nodiscard]] nlohmann::json parameters() const;
};
/// The compressions of a point: dense, then 1/1 to 1/16.
[[nodiscard]] std::vector<DecodePoint> with_compressions(const DecodePoint& dense);

struct PrefillPoint {
  int batch;
  int heads;
  int d_head;
  int tokens;

  /// `part` is "scores", "softmax", "values" or "all"; counted as the models' unfused attention.
  [[nodiscard]] nlohmann::json parameters(const std::string& part, int element_bytes) const;
};

}  // namespace nearkv
