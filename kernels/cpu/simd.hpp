// The inner loops of the CPU kernels, each compiled for every instruction set that Highway knows
// here and chosen at run time. Internal to kernels/cpu.
//
// Every sum has one order on all instruction sets: 16 partial sums, element i in sum i mod 16,
// added up as a tree (i and i + 8, then + 4, + 2, + 1), and every product of K or V is added with
// one rounding (fused). Results are therefore equal to the bit on every machine.
//
// Sizes in elements. `d` is a head's channels; float rows of a head (queries, out) have padded(d)
// elements, the last ones zero. Logits and weights have padded(count) elements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace nearkv::kernels::cpu {

inline constexpr std::size_t sum_lanes = 16;

[[nodiscard]] constexpr std::size_t padded(std::size_t count) {
  return (count + sum_lanes - 1) / sum_lanes * sum_lanes;
}

/// Up to so many rows at a time, whose FP16 values may be kept as floats in a first-level cache.
inline constexpr std::size_t most_rows = 16;

/// Some FP16 rows of K or V, wherever they are; at most most_rows.
struct RowTile {
  const std::uint16_t* const* rows;
  std::size_t count;
  std::size_t d;
  std::size_t heads;  // query heads that use them
};

/// logits[head * stride + row] = scale * (query of the head . row).
void score_rows(const RowTile& tile, const float* queries, float scale, float* logits,
                std::size_t stride);

/// out of each head += weights[head * stride + row] * row, in the order of the rows.
void accumulate_rows(const RowTile& tile, const float* weights, std::size_t stride, float* out);

/// The largest of padded(count) logits.
[[nodiscard]] float largest_of(std::span<const float> logits);

/// Replaces each logit by e^((logit - max) * scale), as exp_nonpositive does; returns their sum.
[[nodiscard]] float weigh(std::span<float> logits, float max, float scale);

/// scores[t] = sum of queries[i] * channels[i][t] for ascending i.
struct ChannelTile {
  std::span<const float> queries;        // of the selected channels
  const std::uint16_t* const* channels;  // as many; FP16 values of `tokens` tokens each
  std::size_t tokens;
  std::size_t next_tile;  // halves from here to what is scored next: fetched meanwhile
};
void score_channels(const ChannelTile& tile, float* scores);

/// The indices of all scores of at least `bound`, ascending; `out` has room for scores.size() of
/// them. Returns how many there are.
std::size_t indices_from(std::span<const float> scores, float bound, std::int32_t* out);

/// Plain sum of 8-byte words, to measure what the memory delivers.
[[nodiscard]] std::uint64_t read_words(std::span<const std::uint64_t> words);

/// Names of the instruction sets that can run here, best first; `use` makes one the chosen one, for
/// tests, and an empty name the best again.
[[nodiscard]] std::vector<const char*> instruction_sets();
void use_instruction_set(const char* name);

}  // namespace nearkv::kernels::cpu
