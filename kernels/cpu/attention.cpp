#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/api.hpp"
#include "kernels/cpu/selection.hpp"
#include "kernels/exp.hpp"
#include "kernels/half.hpp"
#include "kernels/requests.hpp"

namespace nearkv::kernels::cpu {
namespace {

std::size_t size(int value) { return static_cast<std::size_t>(value); }

/// Independent sums that a compiler may keep in vector registers; their fixed number makes the
/// order of additions, and so the result, the same on every machine.
constexpr std::size_t lanes = 16;

float dot(std::span<const float> query, const std::uint16_t* row) {
  std::array<float, lanes> sums{};
  std::size_t c = 0;
  for (; c + lanes <= query.size(); c += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      sums[lane] += query[c + lane] * finite_half_to_float(row[c + lane]);
    }
  }
  for (std::size_t lane = 0; c < query.size(); ++c, ++lane) {
    sums[lane] += query[c] * finite_half_to_float(row[c]);
  }
  for (std::size_t width = lanes / 2; width > 0; width /= 2) {
    for (std::size_t lane = 0; lane < width; ++lane) {
      sums[lane] += sums[lane + width];
    }
  }
  return sums[0];
}

/// out += weight * row.
void accumulate(std::span<float> out, float weight, const std::uint16_t* row) {
  std::size_t c = 0;
  for (; c + lanes <= out.size(); c += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      out[c + lane] += weight * finite_half_to_float(row[c + lane]);
    }
  }
  for (; c < out.size(); ++c) {
    out[c] += weight * finite_half_to_float(row[c]);
  }
}

/// Calls visit(i, K or V row of tokens[i]) for ascending tokens; divides once a token group instead
/// of once a row.
template <typename RowOf, typename Visit>
void for_each_row(const PageGeometry& geometry, std::span<const int> tokens, RowOf row_of,
                  Visit visit) {
  const int group_tokens = geometry.tokens_per_group();
  int group_start = 0;
  int group_end = 0;
  const std::uint16_t* first_row = nullptr;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= group_end) {
      group_start = tokens[i] - tokens[i] % group_tokens;
      group_end = group_start + group_tokens;
      first_row = row_of(group_start);
    }
    visit(i, first_row + size(tokens[i] - group_start) * size(geometry.d_head()));
  }
}

/// Exact attention of one head to some tokens, ascending and at least one.
AttentionState attend(const KvPages& pages, std::span<const float> query,
                      std::span<const int> tokens, std::vector<float>& weights) {
  const PageGeometry& geometry = pages.geometry();
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(query.size())));
  weights.resize(tokens.size());
  AttentionState state = AttentionState::neutral(geometry.d_head());
  for_each_row(
      geometry, tokens, [&](int token) { return pages.k_row(token); },
      [&](std::size_t i, const std::uint16_t* row) {
        weights[i] = dot(query, row) * scale;
        state.max = std::max(state.max, weights[i]);
      });
  double sum = 0.0;
  for (float& weight : weights) {
    weight = exp_nonpositive(weight - state.max);
    sum += static_cast<double>(weight);
  }
  state.sum = static_cast<float>(sum);
  for_each_row(
      geometry, tokens, [&](int token) { return pages.v_row(token); },
      [&](std::size_t i, const std::uint16_t* row) { accumulate(state.out, weights[i], row); });
  return state;
}

double l1_norm(std::span<const float> query) {
  double sum = 0.0;
  for (const float q : query) {
    sum += std::fabs(static_cast<double>(q));
  }
  return sum;
}

/// alpha: the share of s_hat that the selected tokens hold, 1 to the bit if they are all tokens.
float selected_mass(std::span<const float> query, std::span<const float> scores,
                    const HeadSelection& selection, std::vector<float>& weights) {
  const double all = l1_norm(query);
  double selected_channels = 0.0;
  for (const int channel : selection.channels) {
    selected_channels += std::fabs(static_cast<double>(query[size(channel)]));
  }
  const double ratio = all > 0.0 ? selected_channels / all : 1.0;
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(query.size()) * ratio));
  const float max = *std::max_element(scores.begin(), scores.end());
  weights.resize(scores.size());
  double total = 0.0;
  for (std::size_t t = 0; t < scores.size(); ++t) {
    weights[t] = exp_nonpositive((scores[t] - max) * scale);
    total += static_cast<double>(weights[t]);
  }
  double selected = 0.0;
  for (const int token : selection.tokens) {
    selected += static_cast<double>(weights[size(token)]);
  }
  return static_cast<float>(selected / total);
}

std::span<const float> query_of(const KvPages& pages, const AttentionRequest& request, int head) {
  const std::size_t d_head = size(pages.geometry().d_head());
  return request.queries.subspan(size(head) * d_head, d_head);
}

}  // namespace

AttentionResult dense_attention(const KvPages& pages, const AttentionRequest& request,
                                const DenseOptions& options) {
  const int heads = checked_heads(pages, request);
  AttentionResult result;
  result.touched = dense_pages(pages.geometry(), request.context, options);
  std::vector<int> tokens(size(request.context - options.first_token));
  std::iota(tokens.begin(), tokens.end(), options.first_token);
  std::vector<float> weights;
  for (int head = 0; head < heads; ++head) {
    result.states.push_back(attend(pages, query_of(pages, request, head), tokens, weights));
    const std::vector<float> output = finish(result.states.back());
    result.output.insert(result.output.end(), output.begin(), output.end());
    result.alpha.push_back(1.0F);
    if (request.want_selection) result.heads.push_back({{}, tokens});
  }
  return result;
}

AttentionResult sparf_attention(const KvPages& pages, const AttentionRequest& request,
                                const SparfOptions& options) {
  const int heads = checked_heads(pages, request);
  check_options(pages, options);
  AttentionResult result;
  const std::vector<float> v_bar = pages.v_bar(request.context);
  Selector selector(pages, request, options);
  std::vector<float> weights;
  for (int head = 0; head < heads; ++head) {
    const std::span<const float> query = query_of(pages, request, head);
    selector.select(query);
    const HeadSelection& selection = selector.selection();
    const float alpha = selected_mass(query, selector.scores(), selection, weights);
    result.states.push_back(attend(pages, query, selection.tokens, weights));
    const std::vector<float> exact = finish(result.states.back());
    for (std::size_t c = 0; c < exact.size(); ++c) {
      result.output.push_back(alpha * exact[c] + (1.0F - alpha) * v_bar[c]);
    }
    result.alpha.push_back(alpha);
    if (request.want_selection) result.heads.push_back(selection);
  }
  result.touched = selector.touched();
  return result;
}

SelectionResult sparf_select(const KvPages& pages, const AttentionRequest& request,
                             const SparfOptions& options) {
  const int heads = checked_heads(pages, request);
  check_options(pages, options);
  SelectionResult result;
  Selector selector(pages, request, options);
  for (int head = 0; head < heads; ++head) {
    selector.select(query_of(pages, request, head));
    if (request.want_selection) result.heads.push_back(selector.selection());
  }
  result.touched = selector.touched();
  return result;
}

}  // namespace nearkv::kernels::cpu
