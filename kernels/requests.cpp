#include "kernels/requests.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

#include "kernels/half.hpp"

namespace nearkv::kernels {

int checked_heads(const KvPages& pages, const AttentionRequest& request) {
  const auto d_head = static_cast<std::size_t>(pages.geometry().d_head());
  if (request.queries.empty() || request.queries.size() % d_head != 0) {
    throw std::invalid_argument("attention: queries has " + std::to_string(request.queries.size()) +
                                " values; must be a positive multiple of d_head, which is " +
                                std::to_string(d_head));
  }
  if (request.context < 1 || request.context > pages.tokens()) {
    throw std::invalid_argument("attention: context is " + std::to_string(request.context) +
                                "; must be 1 to the " + std::to_string(pages.tokens()) +
                                " appended tokens");
  }
  for (std::size_t i = 0; i < request.queries.size(); ++i) {
    if (!(std::fabs(request.queries[i]) <= half_max)) {
      throw std::invalid_argument("attention: query head " + std::to_string(i / d_head) +
                                  ", channel " + std::to_string(i % d_head) + " is " +
                                  std::to_string(request.queries[i]) +
                                  "; must be finite and at most 65504, the range of FP16");
    }
  }
  return static_cast<int>(request.queries.size() / d_head);
}

namespace {

struct Least {
  const char* name;
  int value;
  int least;
};

void require_at_least(const char* method, const Least& option) {
  if (option.value < option.least) {
    throw std::invalid_argument(std::string(method) + ": " + option.name + " is " +
                                std::to_string(option.value) + "; must be at least " +
                                std::to_string(option.least));
  }
}

void check_select(const KvPages& pages, const char* method, const SelectOptions& options) {
  const int d_head = pages.geometry().d_head();
  const std::string name(method);
  if (options.r < 1 || options.r > d_head) {
    throw std::invalid_argument(name + ": r is " + std::to_string(options.r) +
                                "; must be 1 to d_head, which is " + std::to_string(d_head));
  }
  require_at_least(method, {"k", options.k, 1});
  if (options.local_window < 0 || options.local_window > options.k) {
    throw std::invalid_argument(name + ": local_window is " + std::to_string(options.local_window) +
                                "; must be 0 to k, which is " + std::to_string(options.k));
  }
  if (!pages.has_channel_copy()) {
    throw std::invalid_argument(name +
                                ": the cache has no channel-indexed copy of K; make it with "
                                "KeyCopies::tokens_and_channels");
  }
}

void check_history(const AttentionRequest& request, const H2oOptions& options) {
  check_options(options);
  if (request.history == nullptr) {
    throw std::invalid_argument("h2o: history is missing; make an H2oHistory for each KV head");
  }
  if (request.history->context() + 1 != request.context) {
    throw std::invalid_argument("h2o: context is " + std::to_string(request.context) +
                                "; must be one more than the history's " +
                                std::to_string(request.history->context()) + " tokens");
  }
}

}  // namespace

void check_first_token(int context, const DenseOptions& options) {
  if (context < 1) {
    throw std::invalid_argument("attention: context is " + std::to_string(context) +
                                "; must be at least 1");
  }
  if (options.first_token < 0 || options.first_token >= context) {
    throw std::invalid_argument("attention: first_token is " + std::to_string(options.first_token) +
                                "; must be 0 to " + std::to_string(context - 1) +
                                ", below the context");
  }
}

void check_options(const H2oOptions& options) {
  require_at_least("h2o", {"heavy", options.heavy, 0});
  require_at_least("h2o", {"recent", options.recent, 1});
}

void check_method(const KvPages& pages, const AttentionRequest& request, const Method& method) {
  if (const SelectOptions* select = select_options(method)) {
    check_select(pages, name_of(method).data(), *select);
  } else if (const auto* dense = std::get_if<DenseOptions>(&method)) {
    check_first_token(request.context, *dense);
  } else if (const auto* h2o = std::get_if<H2oOptions>(&method)) {
    check_history(request, *h2o);
  } else if (const auto* streaming = std::get_if<StreamingOptions>(&method)) {
    require_at_least("streaming", {"sinks", streaming->sinks, 0});
    require_at_least("streaming", {"window", streaming->window, 1});
  } else if (const auto* window = std::get_if<WindowOptions>(&method)) {
    require_at_least("window", {"window", window->window, 1});
  }
}

std::vector<int> listed_tokens(const AttentionRequest& request, const Method& method) {
  std::vector<int> tokens;
  if (std::holds_alternative<H2oOptions>(method)) {
    tokens.assign(request.history->tokens().begin(), request.history->tokens().end());
    tokens.push_back(request.context - 1);
    return tokens;
  }
  StreamingOptions options{};
  if (const auto* streaming = std::get_if<StreamingOptions>(&method)) {
    options = *streaming;
  } else {
    options.window = std::get<WindowOptions>(method).window;
  }
  const int first = std::max(0, request.context - options.window);
  const int sinks = std::min(options.sinks, first);
  tokens.resize(static_cast<std::size_t>(sinks) + request.context - first);
  std::iota(tokens.begin(), tokens.begin() + sinks, 0);
  std::iota(tokens.begin() + sinks, tokens.end(), first);
  return tokens;
}

}  // namespace nearkv::kernels
