#include "kernels/touched_pages.hpp"

#include <algorithm>

#include "kernels/requests.hpp"
#include "kernels/size.hpp"

namespace nearkv::kernels {
namespace {}  // namespace

TouchedPages dense_pages(const PageGeometry& geometry, int context, const DenseOptions& options) {
  check_first_token(context, options);
  TouchedPages touched;
  touched.context = context;
  const int flushed = geometry.flushed_token_groups(context);
  for (int group = options.first_token / geometry.tokens_per_group(); group < flushed; ++group) {
    touched.token_k.push_back(static_cast<std::uint32_t>(group));
  }
  touched.token_v = touched.token_k;
  const int first_buffered = flushed * geometry.tokens_per_group();
  touched.buffered_tokens = context - std::max(first_buffered, options.first_token);
  touched.distinct_tokens = context - options.first_token;
  return touched;
}

PageCollector::PageCollector(const PageGeometry& geometry, int context)
    : geometry_(geometry),
      context_(context),
      channels_(size(geometry.d_head()), 0),
      tokens_(size(context), 0),
      token_groups_(size(context / geometry.tokens_per_group() + 1), 0) {}

void PageCollector::add_channels(std::span<const int> channels) {
  for (const int channel : channels) {
    channels_[size(channel)] = 1;
  }
}

void PageCollector::add_tokens(std::span<const int> tokens) {
  const int group_tokens = geometry_.tokens_per_group();
  int group_end = 0;
  for (const int token : tokens) {
    distinct_tokens_ += tokens_[size(token)] == 0 ? 1 : 0;
    tokens_[size(token)] = 1;
    if (token < group_end) continue;
    const int group = token / group_tokens;
    token_groups_[size(group)] = 1;
    group_end = (group + 1) * group_tokens;
  }
}

TouchedPages PageCollector::touched() const {
  TouchedPages touched;
  touched.context = context_;
  touched.distinct_channels = static_cast<int>(std::count(channels_.begin(), channels_.end(), 1));
  touched.distinct_tokens = distinct_tokens_;

  std::vector<int> channel_groups;
  for (int group = 0; group < geometry_.channel_groups(); ++group) {
    const auto first = channels_.begin() + group * geometry_.channels_per_group();
    const auto end = first + geometry_.channels_per_group();
    if (std::find(first, end, 1) != end) channel_groups.push_back(group);
  }
  for (int chunk = 0; chunk < geometry_.flushed_channel_chunks(context_); ++chunk) {
    for (const int group : channel_groups) {
      touched.channel_k.push_back(
          static_cast<std::uint32_t>(chunk * geometry_.channel_groups() + group));
    }
  }
  const bool channels_buffered = geometry_.buffered_channel_tokens(context_) > 0;
  touched.buffered_channel_groups = channels_buffered ? static_cast<int>(channel_groups.size()) : 0;

  const int flushed = geometry_.flushed_token_groups(context_);
  for (int group = 0; group < flushed; ++group) {
    if (token_groups_[size(group)] != 0) {
      touched.token_k.push_back(static_cast<std::uint32_t>(group));
    }
  }
  touched.token_v = touched.token_k;
  const auto buffered = tokens_.begin() + std::ptrdiff_t{flushed} * geometry_.tokens_per_group();
  touched.buffered_tokens = static_cast<int>(std::count(buffered, tokens_.end(), 1));
  return touched;
}

}  // namespace nearkv::kernels
