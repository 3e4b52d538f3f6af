// SparF's selection (steps 1 to 3 of api.hpp) on the CPU. Internal to kernels/cpu.
#pragma once

#include <span>
#include <vector>

#include "kernels/api.hpp"

namespace nearkv::kernels::cpu {

/// The indices of the `count` largest scores, ascending; ties go to the smaller index, -0 equals
/// +0. count <= scores.size(); no NaN. `keys` is scratch.
void largest(std::span<const float> scores, int count, std::vector<std::uint32_t>& keys,
             std::vector<int>& indices);

/// Selects for one query head after another; keeps its buffers between heads.
class Selector {
 public:
  Selector(const KvPages& pages, const AttentionRequest& request, const SparfOptions& options);

  /// Steps 1 to 3 for one head; the results below are those of the last call.
  void select(std::span<const float> query);

  [[nodiscard]] const HeadSelection& selection() const { return selection_; }
  /// q[i] . K[:, i]^T of every token: not divided by the temperature.
  [[nodiscard]] std::span<const float> scores() const { return scores_; }

  /// The union of the pages of all heads since construction.
  [[nodiscard]] TouchedPages touched() const;

 private:
  void score_tokens(std::span<const float> query);
  void choose_tokens();

  const KvPages& pages_;
  int context_;
  SparfOptions options_;
  HeadSelection selection_;
  std::vector<float> magnitudes_;
  std::vector<float> scores_;
  std::vector<std::uint32_t> keys_;
  std::vector<char> read_channel_groups_;
  std::vector<char> read_tokens_;
};

}  // namespace nearkv::kernels::cpu
