// Deliberately naive: whole matrices in double, one line of code a formula, no code shared with the
// other implementations but the argument checks and the page image's own row access.
#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "kernels/api.hpp"
#include "kernels/half.hpp"
#include "kernels/requests.hpp"

namespace nearkv::kernels::reference {
namespace {

using Eigen::ArrayXi;
using Eigen::MatrixXd;
using Eigen::VectorXd;

constexpr double infinity = std::numeric_limits<double>::infinity();

/// K or V of tokens 0 .. `context` - 1, read from the token pages byte by byte.
template <typename PageOf>
MatrixXd matrix(const KvPages& pages, int context, PageOf page_of) {
  const PageGeometry& geometry = pages.geometry();
  MatrixXd rows(context, geometry.d_head());
  for (int token = 0; token < context; ++token) {
    const std::span<const std::byte> page = page_of(token / geometry.tokens_per_group());
    for (int c = 0; c < geometry.d_head(); ++c) {
      const int element = token % geometry.tokens_per_group() * geometry.d_head() + c;
      const auto at = static_cast<std::size_t>(element) * PageGeometry::element_bytes;
      const unsigned bits =
          std::to_integer<unsigned>(page[at]) | std::to_integer<unsigned>(page[at + 1]) << 8;
      rows(token, c) = static_cast<double>(half_to_float(static_cast<std::uint16_t>(bits)));
    }
  }
  return rows;
}

MatrixXd k_matrix(const KvPages& pages, int context) {
  return matrix(pages, context, [&](int group) { return pages.k_page(group); });
}

MatrixXd v_matrix(const KvPages& pages, int context) {
  return matrix(pages, context, [&](int group) { return pages.v_page(group); });
}

VectorXd query_of(const KvPages& pages, const AttentionRequest& request, int head) {
  const int d_head = pages.geometry().d_head();
  VectorXd query(d_head);
  for (int c = 0; c < d_head; ++c) {
    query[c] = static_cast<double>(request.queries[static_cast<std::size_t>(head) * d_head + c]);
  }
  return query;
}

ArrayXi largest(const VectorXd& scores, int count) {
  std::vector<int> order(static_cast<std::size_t>(scores.size()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores[a] > scores[b]; });
  order.resize(std::min(order.size(), static_cast<std::size_t>(count)));
  std::sort(order.begin(), order.end());
  return Eigen::Map<const ArrayXi>(order.data(), static_cast<Eigen::Index>(order.size()));
}

/// softmax(logits) . V; the unnormalised state is added to the result, the probabilities of the
/// tokens to `received`.
VectorXd attend_rows(const VectorXd& logits, const MatrixXd& v, AttentionResult& result,
                     VectorXd& received) {
  const double max = logits.maxCoeff();
  const VectorXd weights = (logits.array() - max).exp();
  received += weights / weights.sum();
  const VectorXd out = v.transpose() * weights;
  AttentionState state{static_cast<float>(max), static_cast<float>(weights.sum()), {}};
  for (const double value : out) {
    state.out.push_back(static_cast<float>(value));
  }
  result.states.push_back(state);
  return out / weights.sum();
}

void append_output(const VectorXd& output, AttentionResult& result) {
  for (const double value : output) {
    result.output.push_back(static_cast<float>(value));
  }
}

std::vector<std::uint32_t> ascending(const std::set<std::uint32_t>& values) {
  return {values.begin(), values.end()};
}

/// Straight from the definition of the layouts.
TouchedPages pages_of(const PageGeometry& geometry, int context,
                      const std::vector<HeadSelection>& heads) {
  TouchedPages touched;
  touched.context = context;
  const int chunks = geometry.flushed_channel_chunks(context);
  std::set<std::uint32_t> channel_pages;
  std::set<std::uint32_t> token_pages;
  std::set<int> buffered_channel_groups;
  std::set<int> buffered_tokens;
  std::set<int> channels;
  std::set<int> tokens;
  for (const HeadSelection& head : heads) {
    channels.insert(head.channels.begin(), head.channels.end());
    tokens.insert(head.tokens.begin(), head.tokens.end());
    for (const int channel : head.channels) {
      const int group = channel / geometry.channels_per_group();
      for (int token = 0; token < context; ++token) {
        const int chunk = token / geometry.tokens_per_channel_page();
        if (chunk < chunks) {
          channel_pages.insert(
              static_cast<std::uint32_t>(chunk * geometry.channel_groups() + group));
        } else {
          buffered_channel_groups.insert(group);
        }
      }
    }
    for (const int token : head.tokens) {
      const int group = token / geometry.tokens_per_group();
      if (group < geometry.flushed_token_groups(context)) {
        token_pages.insert(static_cast<std::uint32_t>(group));
      } else {
        buffered_tokens.insert(token);
      }
    }
  }
  touched.channel_k = ascending(channel_pages);
  touched.token_k = ascending(token_pages);
  touched.token_v = touched.token_k;
  touched.buffered_channel_groups = static_cast<int>(buffered_channel_groups.size());
  touched.buffered_tokens = static_cast<int>(buffered_tokens.size());
  touched.distinct_channels = static_cast<int>(channels.size());
  touched.distinct_tokens = static_cast<int>(tokens.size());
  return touched;
}

/// The argument of step 2's softmax.
VectorXd approximate_logits(const MatrixXd& k, const VectorXd& query, const ArrayXi& channels) {
  const VectorXd query_i = query(channels);
  const double all = query.lpNorm<1>();
  const double ratio = all > 0.0 ? query_i.lpNorm<1>() / all : 1.0;
  return k(Eigen::all, channels) * query_i / std::sqrt(static_cast<double>(query.size()) * ratio);
}

VectorXd softmax(const VectorXd& logits) {
  const VectorXd weights = (logits.array() - logits.maxCoeff()).exp();
  return weights / weights.sum();
}

struct Matrices {
  MatrixXd k;
  MatrixXd v;
};

VectorXd exact_logits(const MatrixXd& k, const VectorXd& query) {
  return k * query / std::sqrt(static_cast<double>(query.size()));
}

/// SparQ and SparF, one query head.
void attend_selected(const Matrices& m, const VectorXd& query, const SelectOptions& options,
                     AttentionResult& result) {
  const ArrayXi i = largest(query.cwiseAbs(), options.r);
  VectorXd masked = approximate_logits(m.k, query, i);
  const VectorXd s_hat = softmax(masked);
  const auto context = static_cast<int>(m.k.rows());
  masked.tail(std::min(options.local_window, context)).setConstant(infinity);
  const ArrayXi j = largest(masked, options.k);
  const double alpha = s_hat(j).sum();
  VectorXd received = VectorXd::Zero(j.size());
  const VectorXd exact =
      attend_rows(exact_logits(m.k(j, Eigen::all), query), m.v(j, Eigen::all), result, received);
  const VectorXd v_bar = m.v.colwise().mean();
  append_output(alpha * exact + (1.0 - alpha) * v_bar, result);
  result.alpha.push_back(static_cast<float>(alpha));
  result.heads.push_back({{i.begin(), i.end()}, {j.begin(), j.end()}});
}

/// The tokens of the methods that need no scores.
std::vector<int> tokens_of(const AttentionRequest& request, const Method& method) {
  std::vector<int> tokens;
  for (int token = 0; token < request.context; ++token) {
    const int from_end = request.context - token;
    bool is_taken = false;
    if (const auto* dense = std::get_if<DenseOptions>(&method)) {
      is_taken = token >= dense->first_token;
    } else if (const auto* window = std::get_if<WindowOptions>(&method)) {
      is_taken = from_end <= window->window;
    } else if (const auto* streaming = std::get_if<StreamingOptions>(&method)) {
      is_taken = token < streaming->sinks || from_end <= streaming->window;
    } else {
      const std::span<const int> kept = request.history->tokens();
      is_taken = from_end == 1 || std::find(kept.begin(), kept.end(), token) != kept.end();
    }
    if (is_taken) tokens.push_back(token);
  }
  return tokens;
}

}  // namespace

AttentionResult attend(const KvPages& pages, const AttentionRequest& request,
                       const Method& method) {
  const int heads = checked_heads(pages, request);
  check_method(pages, request, method);
  AttentionResult result;
  const Matrices m{k_matrix(pages, request.context), v_matrix(pages, request.context)};
  if (const SelectOptions* options = select_options(method)) {
    for (int head = 0; head < heads; ++head) {
      attend_selected(m, query_of(pages, request, head), *options, result);
    }
  } else {
    const std::vector<int> tokens = tokens_of(request, method);
    VectorXd received = VectorXd::Zero(static_cast<Eigen::Index>(tokens.size()));
    for (int head = 0; head < heads; ++head) {
      const VectorXd logits = exact_logits(m.k(tokens, Eigen::all), query_of(pages, request, head));
      append_output(attend_rows(logits, m.v(tokens, Eigen::all), result, received), result);
      result.alpha.push_back(1.0F);
      result.heads.push_back({{}, tokens});
    }
    if (std::holds_alternative<H2oOptions>(method)) {
      request.history->step(std::vector<float>(received.begin(), received.end()));
    }
  }
  result.touched = pages_of(pages.geometry(), request.context, result.heads);
  if (!request.want_selection) result.heads.clear();
  return result;
}

}  // namespace nearkv::kernels::reference
