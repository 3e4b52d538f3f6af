#include "kernels/cpu/selection.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "kernels/cpu/simd.hpp"

namespace nearkv::kernels::cpu {
namespace {

std::size_t size(int value) { return static_cast<std::size_t>(value); }

/// Keys fall into bins by sign, exponent and 3 bits of the mantissa: few are left in one bin.
constexpr int bin_shift = 20;
constexpr std::size_t bins = std::size_t{1} << (32 - bin_shift);

std::size_t bin_of(std::int32_t key) {
  return static_cast<std::size_t>((key >> bin_shift) + static_cast<std::int32_t>(bins / 2));
}

/// Weights are summed in float over pieces of this size, and the pieces in double.
constexpr std::size_t mass_piece = 1024;

double l1_norm(std::span<const float> query) {
  double sum = 0.0;
  for (const float q : query) {
    sum += std::fabs(static_cast<double>(q));
  }
  return sum;
}

/// 1 / sqrt(d |q[i]|_1 / |q|_1).
float score_scale(std::span<const float> query, std::span<const int> channels) {
  const double all = l1_norm(query);
  double selected = 0.0;
  for (const int channel : channels) {
    selected += std::fabs(static_cast<double>(query[size(channel)]));
  }
  const double ratio = all > 0.0 ? selected / all : 1.0;
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(query.size()) * ratio));
}

}  // namespace

/// The count-th largest key. count >= 1.
std::int32_t LargestFinder::threshold(std::size_t count) {
  histogram_.assign(bins, 0);
  for (const std::int32_t key : keys_) {
    ++histogram_[bin_of(key)];
  }
  std::size_t bin = bins - 1;
  std::size_t left = count;
  while (histogram_[bin] < left) {
    left -= histogram_[bin--];
  }
  candidates_.clear();
  candidates_.reserve(histogram_[bin]);
  for (const std::int32_t key : keys_) {
    if (bin_of(key) == bin) candidates_.push_back(key);
  }
  const auto at = candidates_.begin() + static_cast<std::ptrdiff_t>(left - 1);
  std::nth_element(candidates_.begin(), at, candidates_.end(), std::greater<>());
  return *at;
}

void LargestFinder::find(std::span<const float> scores, int count, std::vector<int>& indices) {
  indices.clear();
  if (count <= 0) return;
  keys_.resize(scores.size());
  ordered_keys(scores, keys_.data());
  const std::int32_t least = threshold(size(count));
  indices_above(keys_, least - 1, indices);
  // Mostly the threshold is one key alone. Else its ties beyond the count go, from the end.
  if (indices.size() == size(count)) return;
  std::size_t surplus = indices.size() - size(count);
  for (std::size_t i = indices.size(); surplus > 0; --i) {
    if (keys_[size(indices[i - 1])] == least) {
      indices.erase(indices.begin() + static_cast<std::ptrdiff_t>(i - 1));
      --surplus;
    }
  }
}

Selector::Selector(const KvPages& pages, int context, const SelectOptions& options)
    : pages_(pages),
      context_(context),
      options_(options),
      magnitudes_(size(pages.geometry().d_head())),
      scores_(padded(size(context)), -std::numeric_limits<float>::infinity()) {}

void Selector::select(std::span<const float> query) {
  std::transform(query.begin(), query.end(), magnitudes_.begin(),
                 [](float q) { return std::fabs(q); });
  largest_.find(magnitudes_, options_.r, selection_.channels);
  score_tokens(query);
  choose_tokens();
}

void Selector::score_tokens(std::span<const float> query) {
  const int chunk_tokens = pages_.geometry().tokens_per_channel_page();
  std::vector<float> queries;
  std::vector<const std::uint16_t*> channels(selection_.channels.size());
  for (const int channel : selection_.channels) {
    queries.push_back(query[size(channel)]);
  }
  for (int first = 0, chunk = 0; first < context_; first += chunk_tokens, ++chunk) {
    std::transform(selection_.channels.begin(), selection_.channels.end(), channels.begin(),
                   [&](int channel) { return pages_.k_channel(channel, chunk); });
    const std::size_t count = size(std::min(chunk_tokens, context_ - first));
    score_channels({queries, channels.data(), count}, scores_.data() + first);
  }
}

void Selector::choose_tokens() {
  std::vector<int>& tokens = selection_.tokens;
  if (options_.k >= context_) {
    tokens.resize(size(context_));
    std::iota(tokens.begin(), tokens.end(), 0);
    return;
  }
  const int window_start = context_ - options_.local_window;
  largest_.find(std::span(scores_).first(size(window_start)), options_.k - options_.local_window,
                tokens);
  for (int token = window_start; token < context_; ++token) {
    tokens.push_back(token);
  }
}

float Selector::alpha(std::span<const float> query) {
  if (selection_.tokens.size() == size(context_)) return 1.0F;
  const float scale = score_scale(query, selection_.channels);
  const float max = largest_of(scores_);
  // The selected scores are put aside and weighed again: cheaper than keeping all weights apart.
  std::vector<float> selected(padded(selection_.tokens.size()),
                              -std::numeric_limits<float>::infinity());
  std::transform(selection_.tokens.begin(), selection_.tokens.end(), selected.begin(),
                 [&](int token) { return scores_[size(token)]; });
  const auto mass = [&](std::span<float> scores) {
    double sum = 0.0;
    for (std::size_t i = 0; i < scores.size(); i += mass_piece) {
      const std::size_t count = std::min(mass_piece, scores.size() - i);
      sum += static_cast<double>(weigh(scores.subspan(i, count), max, scale));
    }
    return sum;
  };
  const double kept = mass(selected);
  const double all = mass(scores_);
  std::fill(scores_.begin() + context_, scores_.end(), -std::numeric_limits<float>::infinity());
  return static_cast<float>(kept / all);
}

}  // namespace nearkv::kernels::cpu
