// SparQ's and SparF's selection (steps 1 to 3 of methods.hpp) on the CPU. Internal to kernels/cpu.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/api.hpp"

namespace nearkv::kernels::cpu {

/// Finds the largest of some scores; keeps its buffers.
class LargestFinder {
 public:
  /// Sets `indices` to those of the `count` largest scores, ascending; ties go to the smaller
  /// index, -0 equals +0. No NaN.
  void find(std::span<const float> scores, int count, std::vector<int>& indices);

 private:
  [[nodiscard]] float likely_bound(std::span<const float> scores, std::size_t count);
  [[nodiscard]] float nth_value(std::size_t n);

  std::vector<std::int32_t> found_;
  std::vector<float> values_;
};

/// Selects for one query head after another; keeps its buffers between heads.
class Selector {
 public:
  Selector(const KvPages& pages, int context, const SelectOptions& options);

  /// Steps 1 to 3 for one head, without alpha; the results below are those of the last call.
  void select(std::span<const float> query);

  [[nodiscard]] const HeadSelection& selection() const { return selection_; }
  /// The share of s_hat that the selected tokens hold, 1 if they are all tokens; once a selection.
  [[nodiscard]] float alpha(std::span<const float> query);

 private:
  void score_tokens(std::span<const float> query);
  void choose_tokens();

  const KvPages& pages_;
  int context_;
  SelectOptions options_;
  HeadSelection selection_;
  LargestFinder largest_;
  std::vector<float> magnitudes_;
  std::vector<float> scores_;  // of every token: q[i] . K[:, i]^T, not divided by the temperature
};

}  // namespace nearkv::kernels::cpu
