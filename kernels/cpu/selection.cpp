#include "kernels/cpu/selection.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>

#include "kernels/half.hpp"

namespace nearkv::kernels::cpu {
namespace {

std::size_t size(int value) { return static_cast<std::size_t>(value); }

/// An unsigned number with the order of the float.
std::uint32_t ordered_key(float score) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(score + 0.0F);  // -0 becomes +0
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

}  // namespace

void largest(std::span<const float> scores, int count, std::vector<std::uint32_t>& keys,
             std::vector<int>& indices) {
  indices.clear();
  if (count <= 0) return;
  keys.resize(scores.size());
  std::transform(scores.begin(), scores.end(), keys.begin(), ordered_key);
  // The smallest selected key, then one pass in index order: ascending, and ties settle themselves.
  const auto last = keys.begin() + (count - 1);
  std::nth_element(keys.begin(), last, keys.end(), std::greater<>());
  const std::uint32_t threshold = *last;
  auto equal_left = std::count(keys.begin(), last + 1, threshold);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const std::uint32_t key = ordered_key(scores[i]);
    if (key > threshold || (key == threshold && equal_left-- > 0)) {
      indices.push_back(static_cast<int>(i));
    }
  }
}

Selector::Selector(const KvPages& pages, const AttentionRequest& request,
                   const SparfOptions& options)
    : pages_(pages),
      context_(request.context),
      options_(options),
      magnitudes_(size(pages.geometry().d_head())),
      scores_(size(request.context)),
      read_channel_groups_(size(pages.geometry().channel_groups()), 0),
      read_tokens_(size(request.context), 0) {}

void Selector::select(std::span<const float> query) {
  std::transform(query.begin(), query.end(), magnitudes_.begin(),
                 [](float q) { return std::fabs(q); });
  largest(magnitudes_, options_.r, keys_, selection_.channels);
  score_tokens(query);
  choose_tokens();
  for (const int channel : selection_.channels) {
    read_channel_groups_[size(channel / pages_.geometry().channels_per_group())] = 1;
  }
  for (const int token : selection_.tokens) {
    read_tokens_[size(token)] = 1;
  }
}

void Selector::score_tokens(std::span<const float> query) {
  const int chunk_tokens = pages_.geometry().tokens_per_channel_page();
  std::fill(scores_.begin(), scores_.end(), 0.0F);
  for (int first = 0, chunk = 0; first < context_; first += chunk_tokens, ++chunk) {
    const int count = std::min(chunk_tokens, context_ - first);
    float* score = scores_.data() + first;
    for (const int channel : selection_.channels) {
      const float q = query[size(channel)];
      const std::uint16_t* k = pages_.k_channel(channel, chunk);
      for (int t = 0; t < count; ++t) {
        score[t] += q * finite_half_to_float(k[t]);
      }
    }
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
  largest(std::span(scores_).first(size(window_start)), options_.k - options_.local_window, keys_,
          tokens);
  for (int token = window_start; token < context_; ++token) {
    tokens.push_back(token);
  }
}

TouchedPages Selector::touched() const {
  const PageGeometry& geometry = pages_.geometry();
  TouchedPages touched;
  touched.context = context_;
  touched.pages_per_channel_group = geometry.flushed_channel_chunks(context_);
  const bool channels_buffered = geometry.buffered_channel_tokens(context_) > 0;
  for (int group = 0; group < geometry.channel_groups(); ++group) {
    if (read_channel_groups_[size(group)] == 0) continue;
    for (int chunk = 0; chunk < touched.pages_per_channel_group; ++chunk) {
      touched.channel_k.push_back(
          static_cast<std::uint32_t>(group * touched.pages_per_channel_group + chunk));
    }
    touched.buffered_channel_groups += channels_buffered ? 1 : 0;
  }
  const int group_tokens = geometry.tokens_per_group();
  const int flushed = geometry.flushed_token_groups(context_);
  for (int group = 0; group < flushed; ++group) {
    const auto first = read_tokens_.begin() + group * group_tokens;
    if (std::find(first, first + group_tokens, 1) != first + group_tokens) {
      touched.token_k.push_back(static_cast<std::uint32_t>(group));
    }
  }
  touched.token_v = touched.token_k;
  touched.buffered_tokens = static_cast<int>(
      std::count(read_tokens_.begin() + flushed * group_tokens, read_tokens_.end(), 1));
  return touched;
}

}  // namespace nearkv::kernels::cpu
