#include "kernels/cpu/simd.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "kernels/api.hpp"
#include "kernels/exp.hpp"
#include "kernels/half.hpp"
#include "kernels/test_cache.hpp"

using namespace nearkv::kernels;

namespace {

/// Runs body(name) for each instruction set of this machine; afterwards the best one is chosen.
template <typename Body>
void for_each_instruction_set(Body body) {
  for (const char* name : cpu::instruction_sets()) {
    CAPTURE(name);
    cpu::use_instruction_set(name);
    body(name);
  }
  cpu::use_instruction_set("");
}

/// The dot product in the order that simd.hpp states, element by element.
float dot_as_stated(const float* query, const std::uint16_t* row, std::size_t d) {
  float sums[cpu::sum_lanes] = {};
  for (std::size_t c = 0; c < d; ++c) {
    float& sum = sums[c % cpu::sum_lanes];
    sum = std::fma(query[c], half_to_float(row[c]), sum);
  }
  for (std::size_t width = cpu::sum_lanes / 2; width > 0; width /= 2) {
    for (std::size_t i = 0; i < width; ++i)
      sums[i] += sums[i + width];
  }
  return sums[0];
}

}  // namespace

TEST_CASE("simd: a machine has the plain code and names each instruction set once") {
  const std::vector<const char*> sets = cpu::instruction_sets();
  REQUIRE(!sets.empty());
  CHECK(std::any_of(sets.begin(), sets.end(),
                    [](std::string_view name) { return name == "SCALAR" || name == "EMU128"; }));
}

TEST_CASE("simd: sums have the stated order on every instruction set, to the bit") {
  for (const std::size_t d : {4U, 16U, 24U, 64U, 80U, 128U, 256U}) {
    for (const std::size_t heads : {1U, 2U, 3U, 4U, 7U}) {
      CAPTURE(d);
      CAPTURE(heads);
      nearkv::Rng stream = testing::test_stream(static_cast<unsigned>(d + heads));
      const std::size_t width = cpu::padded(d);
      std::vector<float> queries(heads * width, 0.0F);
      std::vector<std::vector<std::uint16_t>> rows(13);
      for (std::size_t head = 0; head < heads; ++head) {
        const std::vector<float> row = testing::random_row(stream, static_cast<int>(d));
        std::copy(row.begin(), row.end(), queries.data() + head * width);
      }
      std::vector<const std::uint16_t*> pointers;
      for (auto& row : rows) {
        for (const float value : testing::random_row(stream, static_cast<int>(d)))
          row.push_back(float_to_half(value));
        pointers.push_back(row.data());
      }
      const std::size_t stride = cpu::padded(rows.size());
      const cpu::RowTile tile{pointers.data(), rows.size(), d, heads};
      for_each_instruction_set([&](const char*) {
        std::vector<float> logits(heads * stride);
        cpu::score_rows(tile, queries.data(), 0.25F, logits.data(), stride);
        std::vector<float> out(heads * width, 0.5F);
        cpu::accumulate_rows(tile, logits.data(), stride, out.data());
        for (std::size_t head = 0; head < heads; ++head) {
          for (std::size_t r = 0; r < rows.size(); ++r) {
            REQUIRE(logits[head * stride + r] ==
                    dot_as_stated(queries.data() + head * width, pointers[r], d) * 0.25F);
          }
          for (std::size_t c = 0; c < d; ++c) {
            float sum = 0.5F;
            for (std::size_t r = 0; r < rows.size(); ++r)
              sum = std::fma(logits[head * stride + r], half_to_float(rows[r][c]), sum);
            REQUIRE(out[head * width + c] == sum);
          }
        }
      });
    }
  }
}

TEST_CASE("simd: weights are those of exp_nonpositive, their sum has the stated order") {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  nearkv::Rng stream = testing::test_stream(9);
  std::vector<float> logits = testing::random_row(stream, 64);
  logits[5] = -infinity;
  logits[40] = -200.0F;
  for_each_instruction_set([&](const char*) {
    const float max = cpu::largest_of(logits);
    CHECK(max == *std::max_element(logits.begin(), logits.end()));
    std::vector<float> weights = logits;
    const float sum = cpu::weigh(weights, max, 0.5F);
    float sums[cpu::sum_lanes] = {};
    for (std::size_t i = 0; i < logits.size(); ++i) {
      REQUIRE(weights[i] == exp_nonpositive((logits[i] - max) * 0.5F));
      sums[i % cpu::sum_lanes] += weights[i];
    }
    for (std::size_t width = cpu::sum_lanes / 2; width > 0; width /= 2) {
      for (std::size_t i = 0; i < width; ++i)
        sums[i] += sums[i + width];
    }
    CHECK(sum == sums[0]);
  });
}

TEST_CASE("simd: scores of channels are sums in ascending channel order, for any count of tokens") {
  nearkv::Rng stream = testing::test_stream(10);
  for (const std::size_t tokens : {1U, 15U, 16U, 17U, 100U, 512U, 700U}) {
    std::vector<std::vector<std::uint16_t>> channels(5);
    std::vector<const std::uint16_t*> pointers;
    for (auto& channel : channels) {
      for (const float value : testing::random_row(stream, static_cast<int>(tokens)))
        channel.push_back(float_to_half(value));
      pointers.push_back(channel.data());
    }
    const std::vector<float> queries = testing::random_row(stream, 5);
    for_each_instruction_set([&](const char*) {
      std::vector<float> scores(tokens);
      cpu::score_channels({queries, pointers.data(), tokens, 0}, scores.data());
      for (std::size_t t = 0; t < tokens; ++t) {
        float sum = 0.0F;
        for (std::size_t i = 0; i < 5; ++i)
          sum = std::fma(queries[i], half_to_float(channels[i][t]), sum);
        REQUIRE(scores[t] == sum);
      }
    });
  }
}

TEST_CASE("simd: indices of scores from a bound on, -0 as +0") {
  const std::vector<float> scores{1, -0.0F, 0,  -1,    2,  3, -5, 0.5F, 0, 0,
                                  7, -2,    -3, 0.25F, -9, 4, 1,  1,    0, 6};
  for_each_instruction_set([&](const char*) {
    for (const float bound : {0.0F, -0.0F, 1.0F, 7.0F, 8.0F, -9.0F}) {
      std::vector<std::int32_t> found(scores.size());
      found.resize(cpu::indices_from(scores, bound, found.data()));
      std::vector<std::int32_t> expected;
      for (std::size_t i = 0; i < scores.size(); ++i) {
        if (scores[i] >= bound) expected.push_back(static_cast<std::int32_t>(i));
      }
      CHECK(found == expected);
    }
  });
}

TEST_CASE("simd: attention is equal to the bit on every instruction set and with any threads") {
  for (const int d_head : {64, 80, 128}) {
    const KvPages pages = testing::random_cache({d_head, 4096, 4}, 9000, 31);
    const std::vector<float> queries = testing::random_queries(3, d_head, 32);
    const std::vector<AttentionCall> calls{
        {&pages, {queries, 9000, true}}, {&pages, {queries, 17, true}}, {&pages, {queries, 4097}}};
    for (const Method& method :
         {Method{DenseOptions{}}, Method{SparqOptions{8, 500, 100}}, Method{SparfOptions{8, 40, 4}},
          Method{StreamingOptions{4, 300}}, Method{WindowOptions{5000}}}) {
      CAPTURE(name_of(method));
      std::vector<AttentionResult> first;
      for_each_instruction_set([&](const char*) {
        for (const int threads : {1, 2, 5}) {
          std::vector<AttentionResult> results = cpu::attend_batch(calls, method, threads);
          if (first.empty()) first = results;
          for (std::size_t i = 0; i < calls.size(); ++i) {
            REQUIRE(results[i].output == first[i].output);
            REQUIRE(results[i].alpha == first[i].alpha);
            REQUIRE(results[i].heads == first[i].heads);
            REQUIRE(results[i].touched == first[i].touched);
            REQUIRE(results[i].states[2].sum == first[i].states[2].sum);
          }
        }
      });
    }
  }
}
