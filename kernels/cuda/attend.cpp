#include "kernels/cuda/attend.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include <cuda_runtime_api.h>

#include "kernels/cuda/decode_attention.hpp"
#include "kernels/cuda/device_array.hpp"
#include "kernels/requests.hpp"
#include "kernels/touched_pages.hpp"

namespace nearkv::kernels::cuda {
namespace {

PageGeometry device_geometry(int d_head) {
  constexpr int page_bytes = 4096;
  constexpr int channels_per_group = 4;
  for (const int size : {64, 80, 128}) {
    if (d_head <= size) return PageGeometry({size, page_bytes, channels_per_group});
  }
  throw std::invalid_argument("d_head: must be at most 128 on a CUDA device, is " +
                              std::to_string(d_head));
}

/// The pages of one KV head in device order: page p of the tables is page p of the pools.
struct HostImage {
  HostImage(const KvPages& pages, const PageGeometry& geometry, int context)
      : token_groups((context + geometry.tokens_per_group() - 1) / geometry.tokens_per_group()),
        channel_chunks((context + geometry.tokens_per_channel_page() - 1) /
                       geometry.tokens_per_channel_page()),
        k(elements(geometry, token_groups)),
        v(k.size()),
        channels(elements(geometry, channel_chunks * geometry.channel_groups())),
        v_bar(pages.v_bar(context)) {
    const int d = pages.geometry().d_head();
    const auto page = static_cast<std::size_t>(geometry.page_elements());
    for (int token = 0; token < context; ++token) {
      const int group = token / geometry.tokens_per_group();
      const std::size_t row = static_cast<std::size_t>(group) * page +
                              static_cast<std::size_t>(token % geometry.tokens_per_group()) *
                                  static_cast<std::size_t>(geometry.d_head());
      std::copy_n(pages.k_row(token), d, k.begin() + static_cast<std::ptrdiff_t>(row));
      std::copy_n(pages.v_row(token), d, v.begin() + static_cast<std::ptrdiff_t>(row));
      const int chunk = token / geometry.tokens_per_channel_page();
      for (int c = 0; c < d; ++c) {
        const int of_channel =
            chunk * geometry.channel_groups() + c / geometry.channels_per_group();
        const int in_page = c % geometry.channels_per_group() * geometry.tokens_per_channel_page() +
                            token % geometry.tokens_per_channel_page();
        channels[static_cast<std::size_t>(of_channel) * page + static_cast<std::size_t>(in_page)] =
            pages.k_row(token)[c];
      }
    }
    v_bar.resize(static_cast<std::size_t>(geometry.d_head()));
  }

  static std::size_t elements(const PageGeometry& geometry, int pages) {
    return static_cast<std::size_t>(geometry.page_elements()) * static_cast<std::size_t>(pages);
  }

  int token_groups;
  int channel_chunks;
  std::vector<std::uint16_t> k, v, channels;
  std::vector<float> v_bar;
};

std::vector<std::int32_t> numbers(std::size_t count) {
  std::vector<std::int32_t> values(count);
  std::iota(values.begin(), values.end(), 0);
  return values;
}

/// `rows` of `from` values become rows of `to`: cut, or filled with zeros.
std::vector<float> resized(std::span<const float> values, std::size_t from, std::size_t to) {
  std::vector<float> rows(values.size() / from * to);
  for (std::size_t row = 0; row * from < values.size(); ++row) {
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(row * from), std::min(from, to),
                rows.begin() + static_cast<std::ptrdiff_t>(row * to));
  }
  return rows;
}

/// One step of one KV head on the device.
class Step {
 public:
  Step(const KvPages& pages, const AttentionRequest& request, int heads)
      : d_(static_cast<std::size_t>(pages.geometry().d_head())),
        geometry_(device_geometry(pages.geometry().d_head())),
        padded_(static_cast<std::size_t>(geometry_.d_head())),
        shape_{1, 1, heads, request.context},
        image_(pages, geometry_, request.context),
        k_(image_.k),
        v_(image_.v),
        channel_pages_(image_.channels),
        token_table_(numbers(static_cast<std::size_t>(image_.token_groups))),
        channel_table_(numbers(static_cast<std::size_t>(image_.channel_chunks) *
                               static_cast<std::size_t>(geometry_.channel_groups()))),
        v_bar_(image_.v_bar),
        context_({request.context}),
        queries_(resized(request.queries, d_, padded_)),
        output_(std::vector<float>(heads * padded_)),
        state_out_(std::vector<float>(heads * padded_)),
        max_(std::vector<float>(static_cast<std::size_t>(heads))),
        sum_(std::vector<float>(static_cast<std::size_t>(heads))),
        alpha_(std::vector<float>(static_cast<std::size_t>(heads), 1.0F)),
        channels_(std::vector<std::int32_t>(heads * padded_)),
        tokens_(std::vector<std::int32_t>(static_cast<std::size_t>(heads) *
                                          static_cast<std::size_t>(request.context))) {}

  void run(const Method& method, const H2oState& history) {
    DecodeAttention attention(
        geometry_, shape_,
        {.selects = true, .most_kept = history.stride, .channels = static_cast<int>(d_)});
    attention.attend(shape_,
                     {.kv = {.k_pages = k_.data(),
                             .v_pages = v_.data(),
                             .channel_pages = channel_pages_.data(),
                             .token_table = token_table_.data(),
                             .channel_table = channel_table_.data(),
                             .v_bar = v_bar_.data(),
                             .token_groups = image_.token_groups,
                             .channel_chunks = image_.channel_chunks},
                      .contexts = context_.data(),
                      .queries = queries_.data(),
                      .output = output_.data(),
                      .max = max_.data(),
                      .sum = sum_.data(),
                      .state_out = state_out_.data(),
                      .channels = channels_.data(),
                      .tokens = tokens_.data(),
                      .alpha = alpha_.data(),
                      .h2o = history},
                     method, nullptr);
    require(cudaDeviceSynchronize(), "attention");
  }

  [[nodiscard]] AttentionResult result() const {
    AttentionResult result;
    result.output = resized(output_.values(), padded_, d_);
    result.alpha = alpha_.values();
    const std::vector<float> max = max_.values();
    const std::vector<float> sum = sum_.values();
    const std::vector<float> out = resized(state_out_.values(), padded_, d_);
    for (std::size_t head = 0; head < max.size(); ++head) {
      const auto first = out.begin() + static_cast<std::ptrdiff_t>(head * d_);
      result.states.push_back(
          {max[head], sum[head], {first, first + static_cast<std::ptrdiff_t>(d_)}});
    }
    return result;
  }
  /// What SparQ or SparF selected.
  [[nodiscard]] std::vector<HeadSelection> selection(const SelectOptions& options) const {
    const std::vector<std::int32_t> channels = channels_.values();
    const std::vector<std::int32_t> tokens = tokens_.values();
    const int count = std::min(options.k, shape_.longest_context);
    std::vector<HeadSelection> heads;
    for (int head = 0; head < shape_.queries_per_kv_head; ++head) {
      const auto channel = channels.begin() + head * static_cast<std::ptrdiff_t>(padded_);
      const auto token = tokens.begin() + static_cast<std::ptrdiff_t>(head) * count;
      heads.push_back({{channel, channel + options.r}, {token, token + count}});
    }
    return heads;
  }

 private:
  std::size_t d_;
  PageGeometry geometry_;
  std::size_t padded_;
  BatchShape shape_;
  HostImage image_;
  DeviceArray<std::uint16_t> k_, v_, channel_pages_;
  DeviceArray<std::int32_t> token_table_, channel_table_;
  DeviceArray<float> v_bar_;
  DeviceArray<std::int32_t> context_;
  DeviceArray<float> queries_, output_, state_out_, max_, sum_, alpha_;
  DeviceArray<std::int32_t> channels_, tokens_;
};

/// H2O: the history travels to the device and what was received travels back.
void run_h2o(Step& step, const Method& method, H2oHistory& history) {
  std::vector<std::int32_t> tokens(history.tokens().begin(), history.tokens().end());
  std::vector<float> mass(history.mass().begin(), history.mass().end());
  const auto kept = static_cast<std::int32_t>(tokens.size());
  const auto& options = std::get<H2oOptions>(method);
  const int stride = std::max(options.heavy + options.recent, kept) + 1;
  tokens.resize(static_cast<std::size_t>(stride));
  mass.resize(static_cast<std::size_t>(stride));
  const DeviceArray<std::int32_t> device_tokens(tokens);
  const DeviceArray<float> device_mass(mass);
  const DeviceArray<float> received(mass);
  const DeviceArray<std::int32_t> counts({kept});
  step.run(method, {.tokens = device_tokens.data(),
                    .mass = device_mass.data(),
                    .counts = counts.data(),
                    .received = received.data(),
                    .stride = stride});
  std::vector<float> of_tokens = received.values();
  of_tokens.resize(static_cast<std::size_t>(kept) + 1);
  history.step(of_tokens);
}

}  // namespace

bool is_available() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

AttentionResult attend(const KvPages& pages, const AttentionRequest& request,
                       const Method& method) {
  const int heads = checked_heads(pages, request);
  check_method(pages, request, method);
  Step step(pages, request, heads);
  std::vector<HeadSelection> selections(static_cast<std::size_t>(heads));
  if (const auto* dense = std::get_if<DenseOptions>(&method)) {
    std::vector<int> tokens(static_cast<std::size_t>(request.context - dense->first_token));
    std::iota(tokens.begin(), tokens.end(), dense->first_token);
    std::fill(selections.begin(), selections.end(), HeadSelection{{}, tokens});
  } else if (select_options(method) == nullptr) {
    std::fill(selections.begin(), selections.end(),
              HeadSelection{{}, listed_tokens(request, method)});
  }
  if (std::holds_alternative<H2oOptions>(method)) {
    run_h2o(step, method, *request.history);
  } else {
    step.run(method, {});
  }
  if (const SelectOptions* options = select_options(method)) {
    selections = step.selection(*options);
  }
  AttentionResult result = step.result();
  PageCollector collector(pages.geometry(), request.context);
  for (const HeadSelection& head : selections) {
    collector.add_channels(head.channels);
    collector.add_tokens(head.tokens);
  }
  result.touched = collector.touched();
  if (request.want_selection) {
    result.heads = std::move(selections);
  }
  return result;
}

}  // namespace nearkv::kernels::cuda
