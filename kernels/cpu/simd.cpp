#include "kernels/cpu/simd.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <string_view>
#include <type_traits>

// Scalable vectors cannot be array elements, which the fixed order of sums needs: such machines run
// the fixed-width set that they also have (NEON). Sets without a fused multiply-add would round
// otherwise: machines that have no better one run the plain code.
#define HWY_DISABLED_TARGETS \
  (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV | HWY_SSSE3 | HWY_SSE4)

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

HWY_INLINE Vector load_halves(const std::uint16_t* at) {
  const hn::Rebind<std::uint16_t, F> bits;
  const hn::Rebind<hwy::float16_t, F> half;
  return hn::PromoteTo(F(), hn::BitCast(half, hn::LoadU(bits, at)));
}

HWY_INLINE Vector load(const float* at) { return hn::LoadU(F(), at); }
HWY_INLINE Vector load(const std::uint16_t* at) { return load_halves(at); }

/// a * b + c, rounded once.
template <typename V>
HWY_INLINE V multiply_add(V a, V b, V c) {
#if HWY_TARGET == HWY_SCALAR
  return V(std::fma(a.raw, b.raw, c.raw));
#else
  return hn::MulAdd(a, b, c);
#endif
}

HWY_INLINE float multiply_add(float a, float b, float c) {
  const hn::CappedTag<float, 1> d;
  return hn::GetLane(multiply_add(hn::Set(d, a), hn::Set(d, b), hn::Set(d, c)));
}

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

/// Calls work with d / 16 as a constant for the usual head sizes, so that its loops have no ends to
/// look for; 0 stands for any other.
template <typename Work>
HWY_INLINE void with_blocks(std::size_t d, Work work) {
  switch (d) {
    case 64:
      return work(std::integral_constant<std::size_t, 4>());
    case 80:
      return work(std::integral_constant<std::size_t, 5>());
    case 128:
      return work(std::integral_constant<std::size_t, 8>());
    default:
      return work(std::integral_constant<std::size_t, 0>());
  }
}

/// Query heads that use a row while it is in registers.
constexpr std::size_t heads_at_once = 4;

/// Calls work(first head, constant number of heads) for all heads.
template <typename Work>
HWY_INLINE void for_head_blocks(std::size_t heads, Work work) {
  std::size_t head = 0;
  for (; head + heads_at_once <= heads; head += heads_at_once) {
    work(head, std::integral_constant<std::size_t, heads_at_once>());
  }
  for (; head + 2 <= heads; head += 2) {
    work(head, std::integral_constant<std::size_t, 2>());
  }
  if (head < heads) work(head, std::integral_constant<std::size_t, 1>());
}

/// The dot products of kHeads queries with the rows; d = kBlocks * 16 if kBlocks is not 0. Row
/// after row: memory is read in order, and the processor overlaps the chains of sums by itself
/// (several rows at a time took 1.5 times as long from DRAM).
template <std::size_t kBlocks, std::size_t kHeads, typename T>
HWY_INLINE void dot_rows(const float* queries, std::size_t width, const T* const* rows,
                         std::size_t count, float scale, float* logits, std::size_t stride) {
  HWY_ALIGN float fours[kHeads][most_rows * 4];
  const std::size_t end = kBlocks != 0 ? kBlocks * sum_lanes : width;
  for (std::size_t r = 0; r < count; ++r) {
    const T* row = rows[r];
    Vector sums[kHeads][parts];
    for (auto& of_head : sums) {
      for (Vector& sum : of_head) {
        sum = hn::Zero(F());
      }
    }
    for (std::size_t c = 0; c < end; c += sum_lanes) {
      for (std::size_t p = 0; p < parts; ++p) {
        const std::size_t at = c + p * lanes;
        const Vector value = load(row + at);
        for (std::size_t head = 0; head < kHeads; ++head) {
          sums[head][p] = multiply_add(load(queries + head * width + at), value, sums[head][p]);
        }
      }
    }
    for (std::size_t head = 0; head < kHeads; ++head) {
      fold_to_4(sums[head], fours[head] + r * 4);
    }
  }
  for (std::size_t head = 0; head < kHeads; ++head) {
    fold_to_1(fours[head], count, scale, logits + head * stride);
  }
}

template <typename T>
HWY_INLINE void score_tile(const RowTile& tile, const T* const* rows, const float* queries,
                           float scale, float* logits, std::size_t stride) {
  const std::size_t width = padded(tile.d);
  with_blocks(width, [&](auto blocks) {
    for_head_blocks(tile.heads, [&](std::size_t head, auto heads) {
      dot_rows<decltype(blocks)::value, decltype(heads)::value>(
          queries + head * width, width, rows, tile.count, scale, logits + head * stride, stride);
    });
  });
}

/// The rows of a tile as floats, padded with zeros.
class FloatRows {
 public:
  explicit FloatRows(const RowTile& tile) : memory_(tile.count * padded(tile.d)) {
    const std::size_t width = padded(tile.d);
    for (std::size_t r = 0; r < tile.count; ++r) {
      float* row = memory_.data() + r * width;
      std::size_t c = 0;
      for (; c + lanes <= tile.d; c += lanes) {
        hn::StoreU(load_halves(tile.rows[r] + c), F(), row + c);
      }
      for (; c < tile.d; ++c) {
        row[c] = finite_half_to_float(tile.rows[r][c]);
      }
      rows_[r] = row;
    }
  }
  [[nodiscard]] const float* const* rows() const { return rows_.data(); }

 private:
  std::vector<float> memory_;
  std::array<const float*, most_rows> rows_{};
};

/// Rows that do not end with a vector are widened apart, with zeros behind them.
bool needs_floats(const RowTile& tile) { return tile.d % sum_lanes != 0; }

void score_rows(const RowTile& tile, const float* queries, float scale, float* logits,
                std::size_t stride) {
  if (needs_floats(tile)) {
    const FloatRows floats(tile);
    score_tile(tile, floats.rows(), queries, scale, logits, stride);
  } else {
    score_tile(tile, tile.rows, queries, scale, logits, stride);
  }
}

/// out[first .. first + kVectors * lanes) of kHeads heads += sum of weights[r] * row.
template <std::size_t kVectors, std::size_t kHeads, typename T>
HWY_INLINE void accumulate_block(const T* const* rows, std::size_t count, std::size_t first,
                                 const float* weights, std::size_t stride, float* out,
                                 std::size_t width) {
  Vector sums[kHeads][kVectors];
  for (std::size_t head = 0; head < kHeads; ++head) {
    for (std::size_t i = 0; i < kVectors; ++i) {
      sums[head][i] = load(out + head * width + first + i * lanes);
    }
  }
  for (std::size_t r = 0; r < count; ++r) {
    const T* row = rows[r] + first;
    Vector values[kVectors];
    for (std::size_t i = 0; i < kVectors; ++i) {
      values[i] = load(row + i * lanes);
    }
    for (std::size_t head = 0; head < kHeads; ++head) {
      const Vector weight = hn::Set(F(), weights[head * stride + r]);
      for (std::size_t i = 0; i < kVectors; ++i) {
        sums[head][i] = multiply_add(weight, values[i], sums[head][i]);
      }
    }
  }
  for (std::size_t head = 0; head < kHeads; ++head) {
    for (std::size_t i = 0; i < kVectors; ++i) {
      hn::StoreU(sums[head][i], F(), out + head * width + first + i * lanes);
    }
  }
}

template <typename T>
HWY_INLINE void accumulate_tile(const RowTile& tile, const T* const* rows, const float* weights,
                                std::size_t stride, float* out) {
  const std::size_t width = padded(tile.d);
  for_head_blocks(tile.heads, [&](std::size_t head, auto heads) {
    constexpr std::size_t kHeads = decltype(heads)::value;
    constexpr std::size_t kVectors = kHeads == 1 ? 8 : kHeads == 2 ? 4 : lanes == 16 ? 4 : 2;
    const float* of_heads = weights + head * stride;
    float* out_of_heads = out + head * width;
    std::size_t c = 0;
    for (; c + kVectors * lanes <= width; c += kVectors * lanes) {
      accumulate_block<kVectors, kHeads>(rows, tile.count, c, of_heads, stride, out_of_heads,
                                         width);
    }
    for (; c < width; c += lanes) {
      accumulate_block<1, kHeads>(rows, tile.count, c, of_heads, stride, out_of_heads, width);
    }
  });
}

void accumulate_rows(const RowTile& tile, const float* weights, std::size_t stride, float* out) {
  if (needs_floats(tile)) {
    const FloatRows floats(tile);
    accumulate_tile(tile, floats.rows(), weights, stride, out);
  } else {
    accumulate_tile(tile, tile.rows, weights, stride, out);
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
  for (Vector& sum : sums) {
    sum = hn::Zero(d);
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
  constexpr std::size_t line = 64 / sizeof(std::uint16_t);
  Vector sums[kVectors];
  for (Vector& sum : sums) {
    sum = hn::Zero(F());
  }
  for (std::size_t channel = 0; channel < tile.queries.size(); ++channel) {
    const Vector q = hn::Set(F(), tile.queries[channel]);
    const std::uint16_t* k = tile.channels[channel] + t;
    for (std::size_t i = 0; i < kVectors; ++i) {
      sums[i] = multiply_add(q, load_halves(k + i * lanes), sums[i]);
    }
    for (std::size_t i = 0; i < kVectors * lanes; i += line) {
      __builtin_prefetch(k + tile.next_tile + i, /*rw=*/0, /*locality=*/2);
    }
  }
  for (std::size_t i = 0; i < kVectors; ++i) {
    hn::StoreU(sums[i], F(), scores + t + i * lanes);
  }
}

void score_channels(const ChannelTile& tile, float* scores) {
  constexpr std::size_t at_once = lanes == sum_lanes ? 16 : 8;  // so many sums fit in registers
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
      const float k = finite_half_to_float(tile.channels[channel][t]);
      sum = multiply_add(tile.queries[channel], k, sum);
    }
    scores[t] = sum;
  }
}

/// Few scores pass: their bits are taken one by one. (Compressing stores took twice as long.)
std::size_t indices_from(std::span<const float> scores, float bound, std::int32_t* out) {
  const F d;
  std::size_t found = 0;
  std::size_t i = 0;
  for (; i + lanes <= scores.size(); i += lanes) {
    std::array<std::uint8_t, 8> bytes{};
    hn::StoreMaskBits(d, hn::Ge(load(scores.data() + i), hn::Set(d, bound)), bytes.data());
    for (auto bits = std::bit_cast<std::uint64_t>(bytes); bits != 0; bits &= bits - 1) {
      out[found++] = static_cast<std::int32_t>(i) + std::countr_zero(bits);
    }
  }
  for (; i < scores.size(); ++i) {
    if (scores[i] >= bound) out[found++] = static_cast<std::int32_t>(i);
  }
  return found;
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
HWY_EXPORT(indices_from);
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
std::size_t indices_from(std::span<const float> scores, float bound, std::int32_t* out) {
  return HWY_DYNAMIC_DISPATCH(indices_from)(scores, bound, out);
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
