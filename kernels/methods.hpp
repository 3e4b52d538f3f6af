// The methods of decode attention: which tokens a step attends to, and what it reads to find out.
//
// S = context, d = d_head. "Traffic" is the share of dense attention's 2 S d elements that a step
// moves; SparQ (Ribar et al., ICML 2024) calls it compression.
#pragma once

#include <span>
#include <string_view>
#include <variant>
#include <vector>

namespace nearkv::kernels {

/// All tokens from first_token on. A first_token above 0 gives the state of one chunk, to be merged
/// with the others.
struct DenseOptions {
  int first_token = 0;
};

/// What SparQ and SparF select with.
struct SelectOptions {
  int r;             ///< channels of q used to estimate the scores, 1 .. d_head
  int k;             ///< tokens attended to exactly, >= 1; a k above the context means all tokens
  int local_window;  ///< of the k, so many are always the youngest tokens, 0 .. k
};

/// SparQ. For one query head:
///   1. i = the r largest |q_c|.
///   2. s_hat = softmax(q[i] . K[:, i]^T / sqrt(d |q[i]|_1 / |q|_1)).
///   3. j = the k largest of s_hat, the last local_window tokens first among them; alpha = sum of
///      s_hat[j].
///   4. s = softmax(q . K[j, :]^T / sqrt(d)); out = alpha s . V[j, :] + (1 - alpha) v_bar.
/// Ties go to the smaller index. The tokens are chosen by the products q[i] . K[:, i]^T themselves
/// (softmax and the temperature keep their order), accumulated in float in ascending channel order:
/// the selection is the same on every machine, whatever its exp. (Where the queries are FP16 values
/// the products are exact in float, so that a fused multiply-add changes nothing.) If q is all
/// zero, the temperature's ratio counts as 1.
///
/// Traffic (S r + 2 k d) / (2 S d), without SparQ's constant part: r = d / 8 with k = S / 16 is
/// exactly 1/8; with k = S / 8 it is 3/16.
struct SparqOptions : SelectOptions {};

/// SparF (InstInfer / InstAttention, arXiv 2409.04992): SparQ with both steps in whole flash pages.
/// Step 2 reads every channel page of a group that holds a channel of i, step 4 the K and V page of
/// every token group that holds a token of j; a filter drops the rest, so that the output is
/// SparQ's to the bit and only the traffic differs (TouchedPages).
struct SparfOptions : SelectOptions {};

/// H2O, "heavy hitters" (Zhang et al., NeurIPS 2023): of each KV head only some tokens are kept,
/// those with the largest attention probability summed over all queries so far and the youngest.
/// What was evicted is gone. See H2oHistory.
struct H2oOptions {
  int heavy;   ///< kept for their sum, >= 0
  int recent;  ///< kept because they are the youngest, >= 1
};

/// StreamingLLM (Xiao et al., ICLR 2024): the first tokens ("sinks") and a window of the youngest.
/// Keys stay at their positions in the text; the paper's shift of positions inside the cache
/// matters where a text grows beyond the model's context, which is not modelled.
struct StreamingOptions {
  int sinks;   ///< >= 0
  int window;  ///< >= 1
};

/// The youngest tokens alone.
struct WindowOptions {
  int window;  ///< >= 1
};

using Method = std::variant<DenseOptions, SparqOptions, SparfOptions, H2oOptions, StreamingOptions,
                            WindowOptions>;

/// "dense", "sparq", "sparf", "h2o", "streaming", "window".
[[nodiscard]] std::string_view name_of(const Method& method);

/// The options of SparQ or SparF; null for the other methods.
[[nodiscard]] const SelectOptions* select_options(const Method& method);

/// What H2O remembers of one KV head between the steps: the kept tokens and the attention
/// probability that each has received since it came, summed over the queries of all steps and of
/// the query heads that share the KV head.
///
/// A step at context c attends to the kept tokens and to token c - 1, adds what each received, and
/// then evicts, if more than heavy + recent are left, the one with the smallest sum that is not
/// among the `recent` youngest. Of equal sums the older token goes.
class H2oHistory {
 public:
  /// After a prefill: `mass` is what each of its tokens has received. Throws std::invalid_argument
  /// for options outside their range or a mass that is not finite and at least 0.
  H2oHistory(const H2oOptions& options, std::span<const float> mass);

  [[nodiscard]] const H2oOptions& options() const { return options_; }
  /// Tokens of the text so far; the next step's context is one more.
  [[nodiscard]] int context() const { return context_; }
  /// Kept tokens, ascending, and their sums.
  [[nodiscard]] std::span<const int> tokens() const { return tokens_; }
  [[nodiscard]] std::span<const float> mass() const { return mass_; }

  /// One step: `received` is what each kept token and then the new token received.
  void step(std::span<const float> received);

 private:
  void evict();

  H2oOptions options_;
  int context_;
  std::vector<int> tokens_;
  std::vector<float> mass_;
};

}  // namespace nearkv::kernels
