// The methods of `nearkv record`, and how one ratio sets the parameters of each.
//
// With S the context and d the channels of a head, the ratio is the share that a step moves of
// dense attention's 2 S d elements, as SparQ (Ribar et al., ICML 2024) counts them: S r + 2 k d of
// SparQ and SparF, 2 k d of the others.
//     sparq, sparf   r = round(d ratio), at least 1; k = S (ratio - r / (2 d)), which is S ratio /
//     2
//                    where d ratio is whole: both steps move half of it. At ratio 1 all channels
//                    and half of the tokens, as much as dense attention moves. The local window is
//                    k / 4 (SparQ)
//     h2o            heavy + recent = S ratio with S the first recorded context, half each (Zhang
//                    et al., NeurIPS 2023): the number of kept tokens does not grow
//     streaming      sinks + window = S ratio, 4 sinks (Xiao et al., ICLR 2024)
//     window         window = S ratio
// Numbers of tokens are rounded to the nearest and at least 1. All methods read the same
// append-only pages: what H2O or a window keeps stays where it was appended, among what is no
// longer wanted.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "kernels/methods.hpp"

namespace nearkv {

/// As given on the command line; what is missing follows from the ratio and the papers.
struct RecordMethodOptions {
  std::string method = "sparf";
  std::optional<std::string> ratio;  // "1/8" or "0.125"
  std::optional<int> r;
  std::optional<double> k_share;       // k / S of sparq and sparf
  std::optional<double> window_share;  // local window / k of sparq and sparf
  std::optional<double> heavy_share;   // of the tokens that h2o keeps
  std::optional<int> sinks;            // of streaming
};

class RecordMethod {
 public:
  /// Throws ConfigError that names the option.
  RecordMethod(const RecordMethodOptions& options, int d_head);

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] bool is_dense() const { return name_ == "dense"; }
  [[nodiscard]] bool has_history() const { return name_ == "h2o"; }
  /// r of SparQ and SparF, else 0.
  [[nodiscard]] int estimate_channels() const { return r_; }
  /// Share of dense attention's elements.
  [[nodiscard]] double traffic() const;

  [[nodiscard]] kernels::Method at(int context, int first_context) const;

  /// For the header of a trace: r, k_share and local_window_share; or tokens_share and heavy_share
  /// or sinks.
  [[nodiscard]] std::map<std::string, double> options() const;
  /// "sparf, r = 16 of 128 channels, k = 0.0625 S, of them the youngest 0.25".
  [[nodiscard]] std::string text() const;

 private:
  void set_two_step(const RecordMethodOptions& options, double ratio);

  std::string name_;
  int d_head_;
  int r_ = 0;
  double tokens_share_ = 1;  // k / S, or the budget's share
  double window_share_ = 0;
  double heavy_share_ = 0;
  int sinks_ = 0;
};

}  // namespace nearkv
