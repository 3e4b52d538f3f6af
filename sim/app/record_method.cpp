#include "sim/app/record_method.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <string_view>

#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "traces/kv_page_trace.hpp"

namespace nearkv {

namespace {

constexpr std::string_view kDefaultRatio = "1/8";  // the paper's
constexpr double kLocalWindowShare = 0.25;         // SparQ: a local window of k / 4
constexpr double kHeavyShare = 0.5;                // H2O: half of the budget each
constexpr int kSinks = 4;                          // StreamingLLM

/// "1/8", "0.125" or "1"; 0 for what is none.
double number_of(std::string_view text) {
  std::array<double, 2> parts{0, 1};
  const char* at = text.data();
  const char* const end = at + text.size();
  for (double& part : parts) {
    const auto [rest, error] = std::from_chars(at, end, part);
    if (error != std::errc{}) {
      return 0;
    }
    at = rest;
    if (at == end || *at != '/') {
      break;
    }
    ++at;
  }
  const double value = parts[0] / parts[1];
  return at == end && text.back() != '/' && std::isfinite(value) ? value : 0;
}

double share_of(std::string_view option, double share) {
  if (!(share > 0 && share <= 1)) {
    throw ConfigError(fmt::format("{}: is {}; must be above 0 and at most 1", option, share));
  }
  return share;
}

double ratio_of(const RecordMethodOptions& options) {
  const std::string text = options.ratio.value_or(std::string(kDefaultRatio));
  const double ratio = number_of(text);
  if (!(ratio > 0 && ratio <= 1)) {
    throw ConfigError(fmt::format(
        "--ratio: is {}; must be above 0 and at most 1, such as 1/8 or 0.125", in_quotes(text)));
  }
  return ratio;
}

/// Options that are not the method's.
void refuse_others(const RecordMethodOptions& options) {
  const std::string& method = options.method;
  const bool two_steps = method == "sparq" || method == "sparf";
  const auto refuse = [&](const char* option, bool is_given, bool is_own, const char* owner) {
    if (is_given && !is_own) {
      throw ConfigError(
          fmt::format("{}: is for {}; --method is {}", option, owner, in_quotes(method)));
    }
  };
  refuse("--ratio", options.ratio.has_value(), method != "dense", "all methods but dense");
  refuse("--r", options.r.has_value(), two_steps, "sparq and sparf");
  refuse("--k-share", options.k_share.has_value(), two_steps, "sparq and sparf");
  refuse("--window-share", options.window_share.has_value(), two_steps, "sparq and sparf");
  refuse("--heavy-share", options.heavy_share.has_value(), method == "h2o", "h2o");
  refuse("--sinks", options.sinks.has_value(), method == "streaming", "streaming");
}

int rounded(double tokens) { return std::max(1, static_cast<int>(std::lround(tokens))); }

}  // namespace

RecordMethod::RecordMethod(const RecordMethodOptions& options, int d_head)
    : name_(options.method), d_head_(d_head) {
  const auto& names = traces::kKvTraceMethods;
  if (std::find(names.begin(), names.end(), name_) == names.end()) {
    throw ConfigError(fmt::format("--method: is {}; must be one of {}", in_quotes(name_),
                                  fmt::join(names, ", ")));
  }
  refuse_others(options);
  if (is_dense()) {
    return;
  }
  const double ratio = ratio_of(options);
  if (name_ == "sparq" || name_ == "sparf") {
    set_two_step(options, ratio);
    return;
  }
  tokens_share_ = ratio;
  if (has_history()) {
    heavy_share_ = options.heavy_share.value_or(kHeavyShare);
    if (!(heavy_share_ >= 0 && heavy_share_ < 1)) {
      throw ConfigError(
          fmt::format("--heavy-share: is {}; must be at least 0 and below 1", heavy_share_));
    }
  } else if (name_ == "streaming") {
    sinks_ = options.sinks.value_or(kSinks);
    if (sinks_ < 0) {
      throw ConfigError(fmt::format("--sinks: is {}; must be at least 0", sinks_));
    }
  }
}

void RecordMethod::set_two_step(const RecordMethodOptions& options, double ratio) {
  r_ = options.r.value_or(rounded(d_head_ * ratio));
  if (r_ < 1 || r_ > d_head_) {
    throw ConfigError(
        fmt::format("--r: is {}; must be 1 to the {} channels of a head", r_, d_head_));
  }
  if (options.ratio.has_value() && options.r.has_value() && options.k_share.has_value()) {
    throw ConfigError("--ratio: follows from --r and --k-share; leave one of the three out");
  }
  const double first_step = r_ / (2.0 * d_head_);
  if (!options.k_share.has_value() && ratio <= first_step) {
    throw ConfigError(
        fmt::format("--ratio: is {}, but r = {} of {} channels alone move {} of dense attention's "
                    "elements; choose a larger ratio or a smaller --r",
                    ratio, r_, d_head_, first_step));
  }
  tokens_share_ = share_of("--k-share", options.k_share.value_or(ratio - first_step));
  window_share_ = options.window_share.value_or(kLocalWindowShare);
  if (!(window_share_ >= 0 && window_share_ <= 1)) {
    throw ConfigError(fmt::format("--window-share: is {}; must be 0 to 1", window_share_));
  }
}

double RecordMethod::traffic() const { return r_ / (2.0 * d_head_) + tokens_share_; }

kernels::Method RecordMethod::at(int context, int first_context) const {
  if (is_dense()) {
    return kernels::DenseOptions{};
  }
  const int tokens = rounded(tokens_share_ * (has_history() ? first_context : context));
  if (name_ == "sparq" || name_ == "sparf") {
    const auto window = static_cast<int>(std::lround(window_share_ * tokens));
    return name_ == "sparq" ? kernels::Method(kernels::SparqOptions{{r_, tokens, window}})
                            : kernels::Method(kernels::SparfOptions{{r_, tokens, window}});
  }
  if (has_history()) {
    const auto heavy = static_cast<int>(std::lround(heavy_share_ * tokens));
    return kernels::H2oOptions{.heavy = heavy, .recent = std::max(1, tokens - heavy)};
  }
  if (name_ == "streaming") {
    return kernels::StreamingOptions{.sinks = sinks_, .window = std::max(1, tokens - sinks_)};
  }
  return kernels::WindowOptions{.window = tokens};
}

std::map<std::string, double> RecordMethod::options() const {
  if (is_dense()) {
    return {};
  }
  if (r_ > 0) {
    return {{"r", r_}, {"k_share", tokens_share_}, {"local_window_share", window_share_}};
  }
  std::map<std::string, double> all{{"tokens_share", tokens_share_}};
  if (has_history()) {
    all["heavy_share"] = heavy_share_;
  } else if (name_ == "streaming") {
    all["sinks"] = sinks_;
  }
  return all;
}

std::string RecordMethod::text() const {
  if (is_dense()) {
    return "dense";
  }
  if (r_ > 0) {
    return fmt::format("{}, r = {} of {} channels, k = {} S, of them {} the youngest", name_, r_,
                       d_head_, tokens_share_, window_share_);
  }
  const std::string tokens = fmt::format("{}, {} S tokens", name_, tokens_share_);
  if (has_history()) {
    return fmt::format("{} of the first S, of them {} heavy hitters", tokens, heavy_share_);
  }
  return name_ == "streaming" ? fmt::format("{}, of them {} sinks", tokens, sinks_) : tokens;
}

}  // namespace nearkv
