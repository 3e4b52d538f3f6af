#include "sim/app/figures/time_shares.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

namespace nearkv {

namespace {

constexpr std::string_view kGpuCompute = "gpu_compute";

bool is_kv_phase(const Metric& phase) { return phase.name.starts_with("kv_"); }

bool is_attention_elsewhere(const Metric& phase) {
  return phase.name == "csd_attention" || phase.name == "cpu_attention";
}

/// Takes at most `time` out of the phases of a kind, and returns what is left of it.
double take_out(std::vector<Metric>& phases, double time, bool (*is_of_kind)(const Metric&)) {
  for (Metric& phase : phases) {
    if (is_of_kind(phase)) {
      const double taken = std::min(phase.value, time);
      phase.value -= taken;
      time -= taken;
    }
  }
  return time;
}

/// GPU operators by kind; the parts add up to `compute`.
std::vector<Metric> operators(const RecordView& record, const Metric& compute) {
  const double busy = record.metric("utilization/gpu/0/compute").value_or(0);
  const std::optional<double> gemm = record.metric("utilization/gpu/0/gemm");
  const std::optional<double> attention = record.metric("utilization/gpu/0/attention");
  if (busy <= 0 || !gemm || !attention) {
    return {compute};
  }
  const double weights = compute.value * *gemm / busy;
  const double kv = compute.value * *attention / busy;
  return {{"weights", weights, "s", "GEMMs, which read the weights"},
          {"gpu_attention", kv, "s", "attention on KV in VRAM"},
          {"gpu_other", std::max(0.0, compute.value - weights - kv), "s", "other GPU operators"}};
}

}  // namespace

std::vector<Metric> time_shares(const RecordView& record) {
  std::vector<Metric> phases = record.metrics_below("decode/phase/");
  double whole = 0;
  for (const Metric& phase : phases) {
    whole += phase.value;
  }
  if (whole <= 0) {
    return {};
  }
  const double kv_access = record.metric("kv_access_share").value_or(0) * whole;
  const double rest =
      take_out(phases, take_out(phases, kv_access, is_kv_phase), is_attention_elsewhere);
  std::vector<Metric> shares{{"kv_access", kv_access - rest, "s", "KV on its way"}};
  for (const Metric& phase : phases) {
    const std::vector<Metric> parts =
        phase.name == kGpuCompute ? operators(record, phase) : std::vector{phase};
    shares.insert(shares.end(), parts.begin(), parts.end());
  }
  for (Metric& share : shares) {
    share = {"share/" + share.name, share.value / whole, "1", share.doc};
  }
  // What KV access took whole is no part of its own any more.
  const auto is_taken = [](const Metric& share) {
    constexpr double kRounding = 1e-9;
    return share.name.starts_with("share/kv_") && share.name != "share/kv_access" &&
           share.value < kRounding;
  };
  shares.erase(std::remove_if(shares.begin(), shares.end(), is_taken), shares.end());
  return shares;
}

}  // namespace nearkv
