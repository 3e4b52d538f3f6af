// Copies caches of kernels/ to the device as a batch with scattered pages, for tests.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kernels/cuda/decode_attention.hpp"
#include "kernels/cuda/device_array.hpp"
#include "kernels/test_cache.hpp"

namespace nearkv::kernels::testing {

using cuda::DeviceArray;

/// Page images of all heads, each page at a random place of its pool.
class HostPools {
 public:
  /// `heads`: [sequence][KV head]; `contexts` of the sequences.
  HostPools(const std::vector<KvPages>& heads, const std::vector<int>& contexts, int kv_heads) {
    const PageGeometry& geometry = heads.front().geometry();
    const int longest = *std::max_element(contexts.begin(), contexts.end());
    token_groups = (longest + geometry.tokens_per_group() - 1) / geometry.tokens_per_group();
    channel_chunks =
        (longest + geometry.tokens_per_channel_page() - 1) / geometry.tokens_per_channel_page();
    const auto elements = static_cast<std::size_t>(geometry.page_elements());
    const auto shuffled = [](std::size_t count, unsigned seed) {
      std::vector<std::int32_t> order(count);
      std::iota(order.begin(), order.end(), 0);
      Rng stream = test_stream(seed);
      for (std::size_t i = count; i > 1; --i) {
        std::swap(order[i - 1], order[stream.below(i)]);
      }
      return order;
    };
    token_table = shuffled(heads.size() * static_cast<std::size_t>(token_groups), 11);
    channel_table = shuffled(heads.size() * static_cast<std::size_t>(channel_chunks) *
                                 static_cast<std::size_t>(geometry.channel_groups()),
                             12);
    k.resize(token_table.size() * elements);
    v.resize(k.size());
    channels.resize(channel_table.size() * elements);
    std::size_t token_page = 0;
    std::size_t channel_page = 0;
    const auto put = [elements](std::vector<std::uint16_t>& pool, std::int32_t place,
                                std::span<const std::byte> page) {
      std::memcpy(pool.data() + static_cast<std::size_t>(place) * elements, page.data(),
                  page.size());
    };
    for (std::size_t h = 0; h < heads.size(); ++h) {
      const KvPages& pages = heads[h];
      const int context = contexts[h / static_cast<std::size_t>(kv_heads)];
      for (int group = 0; group < token_groups; ++group, ++token_page) {
        if (group * geometry.tokens_per_group() < context) {
          put(k, token_table[token_page], pages.k_page(group));
          put(v, token_table[token_page], pages.v_page(group));
        }
      }
      for (int chunk = 0; chunk < channel_chunks; ++chunk) {
        for (int group = 0; group < geometry.channel_groups(); ++group, ++channel_page) {
          if (chunk * geometry.tokens_per_channel_page() < context) {
            put(channels, channel_table[channel_page], pages.channel_page(group, chunk));
          }
        }
      }
      const std::vector<float> mean = pages.v_bar(context);
      v_bar.insert(v_bar.end(), mean.begin(), mean.end());
    }
  }

  std::vector<std::uint16_t> k, v, channels;
  std::vector<std::int32_t> token_table, channel_table;
  std::vector<float> v_bar;
  int token_groups = 0;
  int channel_chunks = 0;
};

/// A batch on the device with random queries.
class DeviceBatch {
 public:
  DeviceBatch(const std::vector<KvPages>& heads, const std::vector<int>& contexts,
              const cuda::BatchShape& batch_shape)
      : shape(batch_shape),
        queries(random_queries(static_cast<int>(shape.query_heads()),
                               heads.front().geometry().d_head(), 77)),
        pools_(heads, contexts, shape.kv_heads),
        k_(pools_.k),
        v_(pools_.v),
        channels_(pools_.channels),
        token_table_(pools_.token_table),
        channel_table_(pools_.channel_table),
        v_bar_(pools_.v_bar),
        contexts_(std::vector<std::int32_t>(contexts.begin(), contexts.end())),
        queries_(queries),
        output_(std::vector<float>(queries.size(), -1.0F)),
        state_out_(std::vector<float>(queries.size(), -1.0F)),
        max_(std::vector<float>(shape.query_heads())),
        sum_(std::vector<float>(shape.query_heads())),
        alpha_(std::vector<float>(shape.query_heads())),
        selected_channels_(std::vector<std::int32_t>(queries.size(), -1)) {}

  [[nodiscard]] cuda::BatchTensors tensors() const {
    return {.kv = {.k_pages = k_.data(),
                   .v_pages = v_.data(),
                   .channel_pages = channels_.data(),
                   .token_table = token_table_.data(),
                   .channel_table = channel_table_.data(),
                   .v_bar = v_bar_.data(),
                   .token_groups = pools_.token_groups,
                   .channel_chunks = pools_.channel_chunks},
            .contexts = contexts_.data(),
            .queries = queries_.data(),
            .output = output_.data(),
            .max = max_.data(),
            .sum = sum_.data(),
            .state_out = state_out_.data(),
            .channels = selected_channels_.data(),
            .alpha = alpha_.data(),
            .h2o = {}};
  }
  /// The state of one query head; the memory is read anew.
  [[nodiscard]] AttentionState state(std::size_t head) const {
    const auto d = static_cast<std::ptrdiff_t>(queries.size() / shape.query_heads());
    const std::vector<float> out = state_out_.values();
    const auto first = out.begin() + static_cast<std::ptrdiff_t>(head) * d;
    return {max_.values()[head], sum_.values()[head], {first, first + d}};
  }
  [[nodiscard]] std::vector<float> alpha() const { return alpha_.values(); }
  [[nodiscard]] std::vector<std::int32_t> channels() const { return selected_channels_.values(); }
  [[nodiscard]] std::vector<float> output() const { return output_.values(); }

  [[nodiscard]] std::vector<std::uint16_t> k_pool() const { return k_.values(); }
  [[nodiscard]] std::vector<std::uint16_t> v_pool() const { return v_.values(); }
  [[nodiscard]] std::vector<std::int32_t> token_table() const { return token_table_.values(); }

  cuda::BatchShape shape;
  std::vector<float> queries;

 private:
  HostPools pools_;
  DeviceArray<std::uint16_t> k_, v_, channels_;
  DeviceArray<std::int32_t> token_table_, channel_table_;
  DeviceArray<float> v_bar_;
  DeviceArray<std::int32_t> contexts_;
  DeviceArray<float> queries_, output_, state_out_, max_, sum_, alpha_;
  DeviceArray<std::int32_t> selected_channels_;
};

}  // namespace nearkv::kernels::testing
