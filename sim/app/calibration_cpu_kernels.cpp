// GEMM and attention of sim/app/calibration_measure.hpp on the processor.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include <fmt/format.h>

#include "kernels/api.hpp"
#include "kernels/cpu/host_probe.hpp"
#include "sim/app/calibration_measure.hpp"
#include "sim/app/calibration_shapes.hpp"
#include "sim/core/check.hpp"
#include "sim/core/random.hpp"

namespace nearkv {

using nlohmann::json;
namespace host = kernels::cpu;

namespace {

constexpr int kFloatBytes = 4;
constexpr int kHeads = 8;  // enough for as many threads; larger models only repeat them
constexpr int kHeadSize = 128;

/// More than the processor's caches hold; a quick try is content with less.
std::size_t cache_bytes(const CalibrationPlan& plan) {
  constexpr std::size_t kCaches = 4;
  constexpr std::size_t kLeast = std::size_t{64} << 20;
  constexpr std::size_t kMost = std::size_t{512} << 20;  // virtual machines state odd caches
  return plan.is_quick
             ? kLeast
             : std::clamp(kCaches * host::host_properties().last_level_cache, kLeast, kMost);
}

void measure_gemms(Measurements& measurements, const CalibrationPlan& plan) {
  host::ThreadTeam team(host::host_properties().cores);
  const std::vector<int> hidden_sizes =
      plan.is_quick ? std::vector<int>{1024} : std::vector<int>{1024, 2048};
  const std::vector<int> rows =
      plan.is_quick ? std::vector<int>{1, 16} : std::vector<int>{1, 4, 16, 64, 256};
  for (const int hidden : hidden_sizes) {
    for (const ProjectionShape& shape : projections(hidden)) {
      for (const int m : rows) {
        host::GemmProbe gemm(team, {m, shape.columns, shape.depth}, cache_bytes(plan));
        json row = gemm_parameters(m, shape, kFloatBytes);
        row["library"] = "Eigen " + host::eigen_version();
        row["threads"] = team.size();
        measurements.add("gemm", row, time_on_host([&] { gemm.run(); }, plan.repeats()));
      }
    }
  }
}

/// Batches of caches of random values, so many that they fill `least_bytes`, attended in turn.
class DecodeBatches {
 public:
  DecodeBatches(const DecodePoint& point, std::size_t least_bytes) : point_(point) {
    constexpr kernels::PageGeometrySpec kPages{kHeadSize, 4096, 4};
    const std::size_t bytes = point.parameters().at("bytes");
    const std::size_t batches = (least_bytes + bytes - 1) / bytes;
    const auto heads = static_cast<std::size_t>(point.batch) * kHeads;
    for (std::size_t i = 0; i < batches * heads; ++i) {
      caches_.emplace_back(kernels::PageGeometry(kPages));
      fill(caches_.back(), i);
    }
    queries_ = std::vector<float>(rows_.begin(), rows_.begin() + kHeadSize);
    for (std::size_t batch = 0; batch < batches; ++batch) {
      calls_.emplace_back();
      for (std::size_t head = 0; head < heads; ++head) {
        calls_.back().push_back(
            {&caches_[batch * heads + head], {.queries = queries_, .context = point.context}});
      }
    }
  }

  void attend(const kernels::Method& method, int threads) {
    const std::vector<kernels::AttentionCall>& calls = calls_[turn_++ % calls_.size()];
    const std::vector<kernels::AttentionResult> results =
        host::attend_batch(calls, method, threads);
    checksum_ += results.back().output.front();
  }
  [[nodiscard]] float checksum() const { return checksum_; }

 private:
  /// Normal values; caches begin at different places of one long row.
  void fill(kernels::KvPages& pages, std::size_t cache) {
    constexpr std::size_t kRows = 4093;  // prime, so that caches differ
    if (rows_.empty()) {
      rows_.resize((kRows + 1) * kHeadSize);
      Rng stream(1, "calibration/decode_attention");
      stream.normals(rows_);
    }
    const auto row = [this](std::size_t index) {
      return std::span<const float>(rows_).subspan(index % kRows * kHeadSize, kHeadSize);
    };
    pages.reserve(point_.context);
    for (std::size_t token = 0; token < static_cast<std::size_t>(point_.context); ++token) {
      pages.append(row(17 * cache + token), row(17 * cache + 2 * token + 1));
    }
  }

  DecodePoint point_;
  std::vector<float> rows_;
  std::vector<float> queries_;
  std::deque<kernels::KvPages> caches_;
  std::vector<std::vector<kernels::AttentionCall>> calls_;
  std::size_t turn_ = 0;
  float checksum_ = 0;
};

void measure_decode(Measurements& measurements, const CalibrationPlan& plan) {
  const int threads = host::host_properties().cores;
  const std::vector<int> contexts =
      plan.is_quick ? std::vector<int>{1024} : std::vector<int>{512, 2048, 8192};
  for (const int batch : {1, 4}) {
    for (const int context : contexts) {
      const DecodePoint dense{
          .batch = batch, .heads = kHeads, .d_head = kHeadSize, .context = context};
      DecodeBatches batches(dense, cache_bytes(plan));
      for (const DecodePoint& point : with_compressions(dense)) {
        kernels::Method method = kernels::DenseOptions{};
        if (point.compression > 0) {
          method = kernels::SparfOptions{{.r = point.r(), .k = point.k(), .local_window = 0}};
        }
        json row = point.parameters();
        row["threads"] = threads;
        measurements.add("decode_attention", row,
                         time_on_host([&] { batches.attend(method, threads); }, plan.repeats()));
        check(std::isfinite(batches.checksum()), "attention gave what is no number");
      }
    }
  }
}

void measure_prefill(Measurements& measurements, const CalibrationPlan& plan) {
  host::ThreadTeam team(host::host_properties().cores);
  const std::vector<int> lengths =
      plan.is_quick ? std::vector<int>{256} : std::vector<int>{256, 1024};
  for (const int tokens : lengths) {
    const PrefillPoint point{.batch = 1, .heads = kHeads, .d_head = kHeadSize, .tokens = tokens};
    host::PrefillProbe prefill(team, {kHeads, kHeadSize, tokens});
    json row = point.parameters("all", kFloatBytes);
    row["kernel"] = "unfused: FP32 by Eigen " + host::eigen_version();
    row["threads"] = team.size();
    measurements.add("prefill_attention", row,
                     time_on_host([&] { prefill.run(); }, plan.repeats()));
  }
}

}  // namespace

void measure_cpu_kernels(Measurements& measurements, const CalibrationPlan& plan) {
  plan.say("GEMM");
  measure_gemms(measurements, plan);
  plan.say("decode attention");
  measure_decode(measurements, plan);
  plan.say("prefill attention");
  measure_prefill(measurements, plan);
}

}  // namespace nearkv
