#include "models/systems/parallelism.hpp"

#include <string>

#include <fmt/format.h>

namespace nearkv {

using namespace std::chrono_literals;

void ParallelismConfig::fields(FieldVisitor& v) {
  constexpr int kMostGpus = 8;  // not a constant: a limit of the input
  v.parameter("tensor", tensor, "tensor parallel: GPUs that share each layer", {1, kMostGpus});
  v.parameter("pipeline", pipeline, "pipeline parallel: stages of consecutive layers",
              {1, kMostGpus});
  v.object({"gpu_link", "how GPUs reach each other"}, [this](FieldVisitor& link) {
    auto index = static_cast<std::size_t>(gpu_link);
    link.variant({"kind", "pcie: over the PCIe tree; nvlink: over a network of their own"},
                 {"pcie", "nvlink"}, index, [this](std::size_t kind, FieldVisitor& fields) {
                   if (kind == static_cast<std::size_t>(GpuLinkKind::nvlink)) {
                     fields.constant("rate", nvlink_rate, "one GPU, one direction",
                                     at_least(static_cast<double>((1_MBps).per_second())));
                     fields.constant("latency", nvlink_latency, "one way", range_of(0_ps, 1s));
                   }
                 });
    gpu_link = static_cast<GpuLinkKind>(index);
  });
  v.constant("collective_overhead", collective_overhead,
             "time that an all-reduce or the step to the next stage adds to its transfers",
             range_of(0_ps, 10ms));
  v.require(
      gpus() <= kMostGpus, "tensor",
      fmt::format("times pipeline makes {} GPUs; at most {} are simulated", gpus(), kMostGpus));
}

void ParallelismConfig::require_divisible(FieldVisitor& v, const ModelShape& model) const {
  v.require(pipeline <= model.layers, "parallelism/pipeline",
            fmt::format("{} stages cannot share {} layers; use at most {}", pipeline, model.layers,
                        model.layers));
  if (v.checks_rules()) {
    const std::string problem = model.tensor_shard_problem(tensor);
    v.require(problem.empty(), "parallelism/tensor", problem);
  }
}

std::optional<GpuLinkConfig> ParallelismConfig::network() const {
  if (gpu_link == GpuLinkKind::pcie) {
    return std::nullopt;
  }
  return GpuLinkConfig{nvlink_rate, nvlink_latency};
}

}  // namespace nearkv
