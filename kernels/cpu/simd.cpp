#include "kernels/cpu/simd.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <string_view>

// Scalable vectors cannot be array elements, which the fixed order of sums needs: such machines run
// the fixed-width set that they also have (NEON).
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/half.hpp"

HWY_BEFORE_NAMESPACE();
namespace nearkv::kernels::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using F = hn::CappedTag<float, sum_lanes>;
constexpr std::size_t lanes = hn::MaxLanes(F());
constexpr std::size_t parts = sum_lanes / lanes;  // vectors that hold the partial sums
using Vector = hn::Vec<F>;

/// Rows whose sums run side by side, enough to hide the latency of an addition.
constexpr std::size_t rows_at_once = lanes == sum_lanes ? 8 : 4;
/// Vectors of `out` that stay in registers while rows pass.
constexpr std::size_t out_at_once = 8;

HWY_INLINE Vector load_halves(const std::uint16_t* at) {
  const hn::Rebind<std::uint16_t, F> bits;
  const hn::Rebind<hwy::float16_t, F> half;
  return hn::PromoteTo(F(), hn::BitCast(half, hn::LoadU(bits, at)));
}

HWY_INLINE Vector load(const float* at) { return hn::LoadU(F(), at); }
HWY_INLINE Vector load(const std::uint16_t* at) { return load_halves(at); }

/// Stores 4 sums of what were 16: i, i + 8, i + 4 and i + 12 have come together.
template <std::size_t kParts>
HWY_INLINE void fold_to_4(const Vector (&sums)[kParts], float* four) {
  if constexpr (kParts == sum_lanes / 4) {
    const auto low = hn::Add(sums[0], sums[2]);
    hn::StoreU(hn::Add(low, hn::Add(sums[1], sums[3])), F(), four);
#if HWY_TARGET != HWY_SCALAR
  } else if constexpr (kParts == sum_lanes / 8) {
    const hn::Half<F> half;
    const auto eight = hn::Add(sums[0], sums[1]);
    hn::StoreU(hn::Add(hn::LowerHalf(half, eight), hn::UpperHalf(half, eight)), half, four);
  } else if constexpr (kParts == 1) {
    const hn::Half<F> half;
    const hn::Half<hn::Half<F>> quarter;
    const auto eight = hn::Add(hn::LowerHalf(half, sums[0]), hn::UpperHalf(half, sums[0]));
    hn::StoreU(hn::Add(hn::LowerHalf(quarter, eight), hn::UpperHalf(quarter, eight)), quarter,
               four);
#endif
  } else {
    float all[sum_lanes];
    for (std::size_t p = 0; p < kParts; ++p) {
      hn::StoreU(sums[p], F(), all + p * lanes);
    }
    for (std::size_t i = 0; i < 4; ++i) {
      four[i] = (all[i] + all[i + 8]) + (all[i + 4] + all[i + 12]);
    }
  }
}

/// The end of the tree, for groups of four.
HWY_INLINE void fold_to_1(const float* fours, std::size_t count, float scale, float* sums) {
  for (std::size_t r = 0; r < count; ++r) {
    const float* four = fours + r * 4;
    sums[r] = ((four[0] + four[2]) + (four[1] + four[3])) * scale;
  }
}

/// The dot products of `query` with rows_at_once rows.
template <typename T>
HWY_INLINE void dot_rows(const float* query, const T* const* rows, std::size_t d, float scale,
                         float* logits) {
  Vector sums[rows_at_once][parts];
  for (std::size_t r = 0; r < rows_at_once; ++r) {
    for (std::size_t p = 0; p < parts; ++p) {
      sums[r][p] = hn::Zero(F());
    }
  }
  for (std::size_t c = 0; c < d; c += sum_lanes) {
    for (std::size_t p = 0; p < parts; ++p) {
      const Vector q = load(query + c + p * lanes);
      for (std::size_t r = 0; r < rows_at_once; ++r) {
        sums[r][p] = hn::Add(sums[r][p], hn::Mul(q, load(rows[r] + c + p * lanes)));
      }
    }
  }
  HWY_ALIGN float folded[rows_at_once * 4];
  for (std::size_t r = 0; r < rows_at_once; ++r) {
    fold_to_4(sums[r], folded + r * 4);
  }
  fold_to_1(folded, rows_at_once, scale, logits);
}

/// All rows of a tile for one query; the last rows may stand in for missing ones.
template <typename T>
HWY_INLINE void dot_tile(const float* query, const T* const* rows, std::size_t count, std::size_t d,
                         float scale, float* logits) {
  std::size_t r = 0;
  for (; r + rows_at_once <= count; r += rows_at_once) {
    dot_rows(query, rows + r, d, scale, logits + r);
  }
  if (r == count) return;
  std::array<const T*, rows_at_once> last;
  std::array<float, rows_at_once> sums;
  for (std::size_t i = 0; i < rows_at_once; ++i) {
    last[i] = rows[std::min(r + i, count - 1)];
  }
  dot_rows(query, last.data(), d, scale, sums.data());
  std::copy_n(sums.begin(), count - r, logits + r);
}

/// The rows of a tile as floats, padded with zeros.
class FloatRows {
 public:
  FloatRows(const RowTile& tile, std::vector<float>& memory) {
    const std::size_t width = padded(tile.d);
    memory.resize(most_rows * width);
    for (std::size_t r = 0; r < tile.count; ++r) {
      float* row = memory.data() + r * width;
      std::size_t c = 0;
      for (; c + lanes <= tile.d; c += lanes) {
        hn::StoreU(load_halves(tile.rows[r] + c), F(), row + c);
      }
      for (; c < tile.d; ++c) {
        row[c] = finite_half_to_float(tile.rows[r][c]);
      }
      std::fill(row + tile.d, row + width, 0.0F);
      rows_[r] = row;
    }
  }
  [[nodiscard]] const float* const* rows() const { return rows_.data(); }

 private:
  std::array<const float*, most_rows> rows_;
};

/// Rows are widened once for several queries; for one they are widened where they are used.
bool needs_floats(const RowTile& tile) { return tile.heads > 1 || tile.d % sum_lanes != 0; }

std::vector<float>& scratch() {
  thread_local std::vector<float> memory;
  return memory;
}

void score_rows(const RowTile& tile, const float* queries, float scale, float* logits,
                std::size_t stride) {
  if (!needs_floats(tile)) {
    dot_tile(queries, tile.rows, tile.count, tile.d, scale, logits);
    return;
  }
  const FloatRows floats(tile, scratch());
  const std::size_t width = padded(tile.d);
  for (std::size_t head = 0; head < tile.heads; ++head) {
    dot_tile(queries + head * width, floats.rows(), tile.count, width, scale,
             logits + head * stride);
  }
}

/// out[0 .. kVectors * lanes) += sum of weights[r] * row.
template <std::size_t kVectors, typename T>
HWY_INLINE void accumulate_block(const T* const* rows, std::size_t count, std::size_t first,
                                 const float* weights, float* out) {
  Vector sums[kVectors];
  for (std::size_t i = 0; i < kVectors; ++i) {
    sums[i] = load(out + first + i * lanes);
  }
  for (std::size_t r = 0; r < count; ++r) {
    const Vector weight = hn::Set(F(), weights[r]);
    const T* row = rows[r] + first;
    for (std::size_t i = 0; i < kVectors; ++i) {
      sums[i] = hn::Add(sums[i], hn::Mul(weight, load(row + i * lanes)));
    }
  }
  for (std::size_t i = 0; i < kVectors; ++i) {
    hn::StoreU(sums[i], F(), out + first + i * lanes);
  }
}

template <typename T>
HWY_INLINE void accumulate_tile(const T* const* rows, std::size_t count, std::size_t d,
                                const float* weights, float* out) {
  std::size_t c = 0;
  for (; c + out_at_once * lanes <= d; c += out_at_once * lanes) {
    accumulate_block<out_at_once>(rows, count, c, weights, out);
  }
  for (; c < d; c += lanes) {
    accumulate_block<1>(rows, count, c, weights, out);
  }
}

void accumulate_rows(const RowTile& tile, const float* weights, std::size_t stride, float* out) {
  if (!needs_floats(tile)) {
    accumulate_tile(tile.rows, tile.count, tile.d, weights, out);
    return;
  }
  const FloatRows floats(tile, scratch());
  const std::size_t width = padded(tile.d);
  for (std::size_t head = 0; head < tile.heads; ++head) {
    accumulate_tile(floats.rows(), tile.count, width, weights + head * stride, out + head * width);
  }
}

float largest_of(std::span<const float> logits) {
  Vector largest = load(logits.data());
  for (std::size_t i = lanes; i < logits.size(); i += lanes) {
    largest = hn::Max(largest, load(logits.data() + i));
  }
  return hn::GetLane(hn::MaxOfLanes(F(), largest));
}

/// exp_nonpositive of kernels/exp.hpp, operation by operation.
HWY_INLINE Vector exp_of(Vector x) {
  const F d;
  const hn::RebindToUnsigned<F> du;
  const auto is_tiny = hn::Lt(x, hn::Set(d, -87.0F));
  const Vector clamped = hn::IfThenElse(is_tiny, hn::Set(d, -87.0F), x);
  const Vector shifted = hn::Add(hn::Mul(clamped, hn::Set(d, 1.44269504F)), hn::Set(d, 0x1.8p23F));
  const Vector n = hn::Sub(shifted, hn::Set(d, 0x1.8p23F));
  const Vector r = hn::Sub(hn::Sub(clamped, hn::Mul(n, hn::Set(d, 0.693359375F))),
                           hn::Mul(n, hn::Set(d, -2.12194440e-4F)));
  Vector p = hn::Set(d, 1.9875691500e-4F);
  for (const float coefficient :
       {1.3981999507e-3F, 8.3334519073e-3F, 4.1665795894e-2F, 1.6666665459e-1F, 5.0000001201e-1F}) {
    p = hn::Add(hn::Mul(p, r), hn::Set(d, coefficient));
  }
  const Vector mantissa = hn::Add(hn::Add(hn::Mul(p, hn::Mul(r, r)), r), hn::Set(d, 1.0F));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(du, shifted));
  const Vector result = hn::BitCast(d, hn::Add(hn::BitCast(du, mantissa), exponent));
  return hn::IfThenElse(is_tiny, hn::Zero(d), result);
}

float weigh(std::span<float> logits, float max, float scale) {
  const F d;
  Vector sums[parts];
  for (std::size_t p = 0; p < parts; ++p) {
    sums[p] = hn::Zero(d);
  }
  for (std::size_t i = 0; i < logits.size(); i += sum_lanes) {
    for (std::size_t p = 0; p < parts; ++p) {
      float* at = logits.data() + i + p * lanes;
      const Vector x = hn::Mul(hn::Sub(load(at), hn::Set(d, max)), hn::Set(d, scale));
      const Vector weight = exp_of(x);
      hn::StoreU(weight, d, at);
      sums[p] = hn::Add(sums[p], weight);
    }
  }
  HWY_ALIGN float four[4];
  fold_to_4(sums, four);
  float sum = 0.0F;
  fold_to_1(four, 1, 1.0F, &sum);
  return sum;
}

/// kVectors vectors of scores from token `t` on.
template <std::size_t kVectors>
HWY_INLINE void score_tokens(const ChannelTile& tile, std::size_t t, float* scores) {
  Vector sums[kVectors];
  for (std::size_t i = 0; i < kVectors; ++i) {
    sums[i] = hn::Zero(F());
  }
  for (std::size_t channel = 0; channel < tile.queries.size(); ++channel) {
    const Vector q = hn::Set(F(), tile.queries[channel]);
    const std::uint16_t* k = tile.channels[channel] + t;
    for (std::size_t i = 0; i < kVectors; ++i) {
      sums[i] = hn::Add(sums[i], hn::Mul(q, load_halves(k + i * lanes)));
    }
  }
  for (std::size_t i = 0; i < kVectors; ++i) {
    hn::StoreU(sums[i], F(), scores + t + i * lanes);
  }
}

void score_channels(const ChannelTile& tile, float* scores) {
  constexpr std::size_t at_once = 4;
  std::size_t t = 0;
  for (; t + at_once * lanes <= tile.tokens; t += at_once * lanes) {
    score_tokens<at_once>(tile, t, scores);
  }
  for (; t + lanes <= tile.tokens; t += lanes) {
    score_tokens<1>(tile, t, scores);
  }
  for (; t < tile.tokens; ++t) {
    float sum = 0.0F;
    for (std::size_t channel = 0; channel < tile.queries.size(); ++channel) {
      sum += tile.queries[channel] * finite_half_to_float(tile.channels[channel][t]);
    }
    scores[t] = sum;
  }
}

std::int32_t ordered_key(float score) {
  const auto bits = std::bit_cast<std::int32_t>(score + 0.0F);  // -0 becomes +0
  return bits ^ ((bits >> 31) & std::numeric_limits<std::int32_t>::max());
}

void ordered_keys(std::span<const float> scores, std::int32_t* keys) {
  const F d;
  const hn::RebindToSigned<F> di;
  const auto magnitude = hn::Set(di, std::numeric_limits<std::int32_t>::max());
  std::size_t i = 0;
  for (; i + lanes <= scores.size(); i += lanes) {
    const auto bits = hn::BitCast(di, hn::Add(load(scores.data() + i), hn::Zero(d)));
    hn::StoreU(hn::Xor(bits, hn::And(hn::ShiftRight<31>(bits), magnitude)), di, keys + i);
  }
  for (; i < scores.size(); ++i) {
    keys[i] = ordered_key(scores[i]);
  }
}

void indices_above(std::span<const std::int32_t> keys, std::int32_t bound,
                   std::vector<int>& indices) {
  const hn::RebindToSigned<F> di;
  const std::size_t before = indices.size();
  indices.resize(before + keys.size() + lanes);  // stores may run over the end
  int* out = indices.data() + before;
  std::size_t found = 0;
  std::size_t i = 0;
  for (; i + lanes <= keys.size(); i += lanes) {
    const auto is_above = hn::Gt(hn::LoadU(di, keys.data() + i), hn::Set(di, bound));
    found += hn::CompressStore(hn::Iota(di, static_cast<int>(i)), is_above, di, out + found);
  }
  for (; i < keys.size(); ++i) {
    if (keys[i] > bound) out[found++] = static_cast<int>(i);
  }
  indices.resize(before + found);
}

std::uint64_t read_words(std::span<const std::uint64_t> words) {
  using U = hn::CappedTag<std::uint64_t, sum_lanes / 2>;
  constexpr std::size_t width = hn::MaxLanes(U());
  constexpr std::size_t at_once = 8;
  hn::Vec<U> sums[at_once];
  for (auto& sum : sums) {
    sum = hn::Zero(U());
  }
  std::size_t i = 0;
  for (; i + at_once * width <= words.size(); i += at_once * width) {
    for (std::size_t k = 0; k < at_once; ++k) {
      sums[k] = hn::Add(sums[k], hn::LoadU(U(), words.data() + i + k * width));
    }
  }
  std::uint64_t total = 0;
  for (; i < words.size(); ++i) {
    total += words[i];
  }
  for (std::size_t k = 1; k < at_once; ++k) {
    sums[0] = hn::Add(sums[0], sums[k]);
  }
  return total + hn::GetLane(hn::SumOfLanes(U(), sums[0]));
}

}  // namespace
}  // namespace nearkv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace nearkv::kernels::cpu {

HWY_EXPORT(score_rows);
HWY_EXPORT(accumulate_rows);
HWY_EXPORT(largest_of);
HWY_EXPORT(weigh);
HWY_EXPORT(score_channels);
HWY_EXPORT(ordered_keys);
HWY_EXPORT(indices_above);
HWY_EXPORT(read_words);

void score_rows(const RowTile& tile, const float* queries, float scale, float* logits,
                std::size_t stride) {
  HWY_DYNAMIC_DISPATCH(score_rows)(tile, queries, scale, logits, stride);
}
void accumulate_rows(const RowTile& tile, const float* weights, std::size_t stride, float* out) {
  HWY_DYNAMIC_DISPATCH(accumulate_rows)(tile, weights, stride, out);
}
float largest_of(std::span<const float> logits) { return HWY_DYNAMIC_DISPATCH(largest_of)(logits); }
float weigh(std::span<float> logits, float max, float scale) {
  return HWY_DYNAMIC_DISPATCH(weigh)(logits, max, scale);
}
void score_channels(const ChannelTile& tile, float* scores) {
  HWY_DYNAMIC_DISPATCH(score_channels)(tile, scores);
}
void ordered_keys(std::span<const float> scores, std::int32_t* keys) {
  HWY_DYNAMIC_DISPATCH(ordered_keys)(scores, keys);
}
void indices_above(std::span<const std::int32_t> keys, std::int32_t bound,
                   std::vector<int>& indices) {
  HWY_DYNAMIC_DISPATCH(indices_above)(keys, bound, indices);
}
std::uint64_t read_words(std::span<const std::uint64_t> words) {
  return HWY_DYNAMIC_DISPATCH(read_words)(words);
}

std::vector<const char*> instruction_sets() {
  std::vector<const char*> names;
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    names.push_back(hwy::TargetName(target));
  }
  return names;
}

void use_instruction_set(const char* name) {
  hwy::SetSupportedTargetsForTest(0);
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (std::string_view(hwy::TargetName(target)) == name) {
      hwy::SetSupportedTargetsForTest(target);
      break;
    }
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace nearkv::kernels::cpu

#endif  // HWY_ONCE
