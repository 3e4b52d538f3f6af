#include "sim/app/validation/framework_call.hpp"

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "models/llm/operators.hpp"
#include "models/systems/design_point.hpp"
#include "models/systems/flexgen_policy.hpp"
#include "models/systems/machine.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

OperatorWork gemm(const ModelShape& shape, const GemmSize& size) {
  const std::int64_t values = size.m * size.k + size.k * size.n + size.m * size.n;
  return {.name = "gemm",
          .kind = OperatorKind::gemm,
          .flops = Flops{2 * size.m * size.n * size.k},
          .bytes = Bytes{shape.bytes_per_value * values},
          .size = size,
          .kernels = 1};
}

/// The kernels of an operation on the GPU; none for others.
std::vector<OperatorWork> kernels_of(const json& operation, const ModelShape& shape) {
  const std::string kind = operation.at("kind");
  const auto number = [&operation](const char* name) {
    return operation.at(name).get<std::int64_t>();
  };
  if (kind == "gemm") {
    return {gemm(shape, {.m = number("m"), .n = number("n"), .k = number("k")})};
  }
  if (kind == "decode_attention") {
    const bool is_fused = operation.at("kernel") == "fused";
    return attention(shape, {number("batch"), 1, number("context")},
                     is_fused ? AttentionKernel::fused : AttentionKernel::unfused);
  }
  if (kind == "prefill_attention") {
    return attention(shape, {number("batch"), number("tokens"), number("tokens")},
                     AttentionKernel::fused);
  }
  return {};
}

void copy(Machine& machine, const json& operation) {
  const Bytes size{operation.at("bytes").get<std::int64_t>()};
  const auto direction = operation.at("direction") == "h2d" ? Machine::CopyDirection::host_to_gpu
                                                            : Machine::CopyDirection::gpu_to_host;
  if (operation.at("memory") == "pinned") {
    machine.pinned_copy(direction, size);
  } else {
    machine.pageable_copy(direction, size);
  }
}

/// Inside an actor: does the operation from the current time on.
void operate(Machine& machine, const DesignPoint& point, const FrameworkCalls& calls,
             const json& operation) {
  Engine& engine = machine.engine();
  const SimTime begin = engine.now();
  const std::string kind = operation.at("kind");
  if (kind == "copy") {
    engine.wait_until(begin + calls.copy);
    copy(machine, operation);
  } else if (kind == "cpu_attention") {
    const std::int64_t tokens =
        operation.at("batch").get<std::int64_t>() * operation.at("context").get<std::int64_t>();
    engine.wait_until(begin + cpu_attention_time(point.host, point.model, tokens));
  }
  SimDuration dispatched{};
  for (const OperatorWork& kernel : kernels_of(operation, point.model)) {
    dispatched += calls.kernel;
    engine.wait_until(std::max(engine.now(), begin + dispatched));
    machine.compute(std::array{kernel});
  }
}

}  // namespace

void FrameworkCalls::fields(FieldVisitor& v) {
  v.constant("kernel_call", kernel, "CPU time of a call before the GPU gets its kernel.");
  v.constant("copy_call", copy, "CPU time of a copy's call before the copy engine gets it.");
}

void framework_call_fields(FieldVisitor& v) {
  FrameworkCalls example;
  example.fields(v);
}

RunRecord simulate_operation(const PreparedPoint& prepared) {
  DesignPoint point;
  FrameworkCalls calls;
  json config = prepared.config;
  const json operation = std::exchange(config["operation"], json());
  config.erase("operation");
  RunRecord record;
  record.constants = read_fields(config, [&](FieldVisitor& v) {
    point.fields(v);
    v.group("framework", calls, "What calls of the framework take.");
  });
  record.name = prepared.name;
  record.config = prepared.config;
  record.fidelity = "exact";
  Machine machine(point);
  SimDuration time{};
  machine.engine().spawn("caller", machine.host_node(), [&] {
    const SimTime begin = machine.engine().now();
    operate(machine, point, calls, operation);
    time = machine.engine().now() - begin;
    machine.stop_workers();
  });
  machine.engine().run();
  record.outcome.metrics.add("time", to_seconds(time), "s", "Of the operation, call included.");
  return record;
}

}  // namespace nearkv
