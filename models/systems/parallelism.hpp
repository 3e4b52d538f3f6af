// How several GPUs share a model. Config /parallelism.
#pragma once

#include <optional>

#include "models/llm/model_shape.hpp"
#include "models/pcie/pcie.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

enum class GpuLinkKind { pcie, nvlink };

/// Tensor parallel: the ranks of a stage share each layer (heads, inner width and vocabulary are
/// divided) and reduce its two outputs over all ranks. Pipeline parallel: stages hold consecutive
/// layers.
struct ParallelismConfig {
  int tensor = 0;    // ranks of a stage
  int pipeline = 0;  // stages
  GpuLinkKind gpu_link = GpuLinkKind::pcie;
  Rate nvlink_rate{};  // of one GPU, one direction
  SimDuration nvlink_latency{};
  SimDuration collective_overhead{};  // of one all-reduce or stage boundary, besides its transfers

  void fields(FieldVisitor& v);
  void require_divisible(FieldVisitor& v, const ModelShape& model) const;

  [[nodiscard]] int gpus() const { return tensor * pipeline; }
  /// Nothing when GPUs meet on PCIe.
  [[nodiscard]] std::optional<GpuLinkConfig> network() const;
};

}  // namespace nearkv
