#include "models/gpu/gpu.hpp"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "sim/core/random.hpp"

namespace nearkv {

using namespace std::chrono_literals;

namespace {

constexpr std::array<std::string_view, Gpu::kOperatorKinds> kKindNames{
    "gemm", "attention", "norm", "elementwise", "softmax", "strided"};

// Limits that keep every achieved rate above zero, where a time would be infinite.
Range fraction_range() {
  constexpr double kSmallest = 1e-3;  // not a constant: a limit of the input
  return {kSmallest, 1};
}
Range rate_range() { return at_least(static_cast<double>((1_MBps).per_second())); }

}  // namespace

void GemmPoint::fields(FieldVisitor& v) {
  v.parameter("rows", rows, "Rows (tokens) of the GEMM.", at_least(1));
  v.constant("fraction", fraction, "Achieved fraction of tensor_peak at this number of rows.",
             fraction_range());
}

void GpuPowerConfig::fields(FieldVisitor& v) {
  v.constant("idle", idle, "Power between operators, with a context and raised clocks.",
             at_least(0));
  v.constant("active", active, "Power while an operator runs, in all.", at_least(0));
  v.require(idle <= active, "active",
            fmt::format("must be at least the idle power, {}", format_exact(idle)));
}

void GpuConfig::fields(FieldVisitor& v) {
  v.parameter("name", name, "Name of the GPU in tables and records.");
  v.constant("memory_capacity", memory_capacity, "GPU memory.", at_least(1));
  v.constant("reserved_memory", reserved_memory,
             "GPU memory that the CUDA context and libraries hold from the start.", at_least(0));
  v.constant("memory_bandwidth", memory_bandwidth, "Peak bandwidth of the GPU memory.",
             rate_range());
  v.constant("tensor_peak", tensor_peak, "Peak rate of the tensor cores, FP16, dense.",
             rate_range());
  v.list_of("gemm_peak_fractions", gemm_peak_fractions,
            "Fractions of tensor_peak that compute-bound GEMMs reach, by rows; linear in log(rows) "
            "between the points, constant outside.");
  v.constant("attention_peak_fraction", attention_peak_fraction,
             "Fraction of tensor_peak that compute-bound attention (prefill) reaches.",
             fraction_range());
  v.constant("gemm_memory_fraction", gemm_memory_fraction,
             "Fraction of memory_bandwidth that weight-bound GEMMs and GEMVs reach.",
             fraction_range());
  v.constant("attention_memory_fraction", attention_memory_fraction,
             "Fraction of memory_bandwidth that attention over a KV cache (decode) reaches.",
             fraction_range());
  v.constant("norm_memory_fraction", norm_memory_fraction,
             "Fraction of memory_bandwidth that a layer norm reaches, counting one read and one "
             "write of its input.",
             fraction_range());
  v.constant("elementwise_memory_fraction", elementwise_memory_fraction,
             "Fraction of memory_bandwidth that elementwise operators reach.", fraction_range());
  v.constant(
      "softmax_memory_fraction", softmax_memory_fraction,
      "Fraction of memory_bandwidth that a softmax over a score matrix reaches, counting one "
      "read and one write.",
      fraction_range());
  v.constant("strided_memory_fraction", strided_memory_fraction,
             "Fraction of memory_bandwidth that transposing copies and masks reach (eager code).",
             fraction_range());
  v.constant("kernel_launch", kernel_launch, "Time that a kernel adds before it computes.",
             range_of(0_ps, 1s));
  v.constant("copy_engines", copy_engines, "DMA engines; copies that can run at a time.",
             at_least(1));
  v.group("power", power, "Power states.");
  v.constant("price_usd", price_usd, "Purchase price in US dollars.", at_least(0));

  v.require(!gemm_peak_fractions.empty(), "gemm_peak_fractions",
            "is empty; give one point or more");
  for (std::size_t i = 1; i < gemm_peak_fractions.size(); ++i) {
    v.require(gemm_peak_fractions[i - 1].rows < gemm_peak_fractions[i].rows,
              fmt::format("gemm_peak_fractions/{}/rows", i), "must be above the rows before it");
  }
  v.require(reserved_memory <= memory_capacity, "reserved_memory",
            fmt::format("must fit into memory_capacity ({})", format_exact(memory_capacity)));
}

double GpuConfig::gemm_fraction(std::int64_t rows) const {
  check(rows > 0 && !gemm_peak_fractions.empty(), "a GEMM without rows, or a GPU without points");
  const auto above = std::find_if(gemm_peak_fractions.begin(), gemm_peak_fractions.end(),
                                  [rows](const GemmPoint& point) { return point.rows >= rows; });
  if (above == gemm_peak_fractions.end()) {
    return gemm_peak_fractions.back().fraction;
  }
  if (above == gemm_peak_fractions.begin() || above->rows == rows) {
    return above->fraction;
  }
  const GemmPoint& below = *(above - 1);
  const auto ratio_log = [](std::int64_t a, std::int64_t b) {
    return portable_log(static_cast<double>(a) / static_cast<double>(b));
  };
  const double position = ratio_log(rows, below.rows) / ratio_log(above->rows, below.rows);
  return below.fraction + position * (above->fraction - below.fraction);
}

Gpu::Gpu(const GpuConfig& config, const std::string& memory_name)
    : config_(config), memory_(memory_name, config.memory_capacity) {
  if (config_.reserved_memory > Bytes{}) {
    memory_.allocate("CUDA context", config_.reserved_memory);
  }
}

double Gpu::memory_fraction(OperatorKind kind) const {
  switch (kind) {
    case OperatorKind::gemm:
      return config_.gemm_memory_fraction;
    case OperatorKind::attention:
      return config_.attention_memory_fraction;
    case OperatorKind::norm:
      return config_.norm_memory_fraction;
    case OperatorKind::elementwise:
      return config_.elementwise_memory_fraction;
    case OperatorKind::softmax:
      return config_.softmax_memory_fraction;
    case OperatorKind::strided:
      return config_.strided_memory_fraction;
  }
  check(false, "an unknown kind of operator");
  return 0;
}

double Gpu::peak_fraction(const OperatorWork& work) const {
  check(work.kind == OperatorKind::gemm || work.kind == OperatorKind::attention,
        "tensor work in an operator that has no matrix product");
  return work.kind == OperatorKind::gemm ? config_.gemm_fraction(work.size.m)
                                         : config_.attention_peak_fraction;
}

SimDuration Gpu::time_of(const OperatorWork& work) const {
  const Rate bandwidth = scaled(config_.memory_bandwidth, memory_fraction(work.kind));
  SimDuration time = time_for(work.bytes, bandwidth);
  if (work.flops > Flops{}) {
    time = std::max(time, time_for(work.flops, scaled(config_.tensor_peak,
                                                      peak_fraction(work) * compute_speed_)));
  }
  return time + work.kernels * config_.kernel_launch;
}

SimDuration Gpu::time_of(std::span<const OperatorWork> operators) const {
  SimDuration sum{};
  for (const OperatorWork& work : operators) {
    sum += time_of(work);
  }
  return sum;
}

SimDuration Gpu::time_of(std::span<const OperatorWork> operators, SimDuration kernel_issue,
                         SimDuration ahead) const {
  SimDuration issued = -ahead;
  SimDuration done{};
  for (const OperatorWork& work : operators) {
    issued += work.kernels * kernel_issue;
    done = std::max(done, issued) + time_of(work);
  }
  return done;
}

Grant Gpu::probe(SimTime now, std::span<const OperatorWork> operators) const {
  return compute_.probe(now, time_of(operators));
}

Grant Gpu::issue(SimTime now, std::span<const OperatorWork> operators, SimDuration kernel_issue,
                 SimDuration ahead) {
  for (const OperatorWork& work : operators) {
    const SimDuration time = time_of(work);
    counters_.busy[static_cast<std::size_t>(work.kind)] += time;
    counters_.flops += work.flops.count();
    counters_.bytes += work.bytes;
    counters_.kernels += work.kernels;
  }
  return compute_.issue(now, time_of(operators, kernel_issue, ahead));
}

void Gpu::set_compute_speed(double speed) {
  check(speed > 0 && speed <= 1, "a GPU of no speed, or a faster one");
  compute_speed_ = speed;
}

void Gpu::add(const Counters& work) {
  for (std::size_t kind = 0; kind < kOperatorKinds; ++kind) {
    counters_.busy[kind] += work.busy[kind];
  }
  counters_.flops += work.flops;
  counters_.bytes += work.bytes;
  counters_.kernels += work.kernels;
}

void Gpu::report(Metrics& metrics, const std::string& prefix, SimDuration elapsed) const {
  SimDuration busy{};
  for (const SimDuration time : counters_.busy) {
    busy += time;
  }
  const double share = elapsed > SimDuration{} ? to_seconds(busy) / to_seconds(elapsed) : 0;
  metrics.add(prefix + "/utilization", share, "1", "Share of the run in which the GPU computed.");
  metrics.add(prefix + "/busy", to_seconds(busy), "s", "Time in which the GPU computed.");
  for (std::size_t kind = 0; kind < kOperatorKinds; ++kind) {
    metrics.add(fmt::format("{}/busy_{}", prefix, kKindNames[kind]),
                to_seconds(counters_.busy[kind]), "s",
                fmt::format("Time of {} operators.", kKindNames[kind]));
  }
  metrics.add(prefix + "/flops", static_cast<double>(counters_.flops), "FLOP",
              "Operations of matrix products.");
  metrics.add(prefix + "/memory_traffic", static_cast<double>(counters_.bytes.count()), "B",
              "Bytes that operators read and wrote in GPU memory.");
  metrics.add(prefix + "/kernels", static_cast<double>(counters_.kernels), "1",
              "Kernels launched.");
  metrics.add(prefix + "/memory_high_water", static_cast<double>(memory_.high_water().count()), "B",
              "Most GPU memory held at a time, reserved memory included.");
  metrics.add(prefix + "/memory_capacity", static_cast<double>(memory_.capacity().count()), "B",
              "GPU memory.");
}

}  // namespace nearkv
