#include "models/systems/design_point.hpp"

#include <fmt/format.h>

namespace nearkv {

void SimulationConfig::fields(FieldVisitor& v) {
  v.one_of("fidelity", fidelity, {"exact", "reuse", "sampled"},
           "exact: every page of every step; reuse: equal drive work once, same result; sampled: "
           "some decode steps, with an error bound");
  v.parameter("seed", seed, "seed of all random streams", {0, 1e15});
  v.parameter("sampling_tolerance", sampling_tolerance,
              "sampled: wanted error bound of the decode time, relative", {1e-6, 1});
  v.parameter("most_sampled_steps", most_sampled_steps,
              "sampled: simulate at most so many decode steps", {3, 1 << 20});
}

void DesignPoint::fields(FieldVisitor& v) {
  v.parameter("name", name, "name of the design point, used for files");
  v.group("model", model, "shape of the language model");
  v.group("workload", workload, "the requests, and how they are served");
  v.list_of("gpu", gpu, "the GPU; parallelism says how many of it there are");
  v.group("parallelism", parallelism, "how GPUs share the model");
  v.group("host", host, "host CPU, memory and file system");
  v.group("pcie", pcie, "PCIe tree");
  v.list_of("ssd", ssd, "NVMe SSDs; may be empty");
  v.list_of("csd", csd, "computational storage drives; may be empty");
  v.group("economics", economics, "what turns power and prices into the cost of a token");
  v.object({"system", "inference system: where weights, KV and activations live"},
           [this](FieldVisitor& inner) {
             std::vector<std::string_view> names;
             for (const SystemKind& kind : system_kinds()) {
               names.push_back(kind.name);
             }
             std::size_t index = 0;
             inner.variant({"kind", "name of the system"}, names, index,
                           [&](std::size_t i, FieldVisitor& fields) {
                             system_kind = names[i];
                             system = system_kinds()[i].make();
                             system->fields(fields);
                           });
           });
  v.group("simulation", simulation, "how exactly to simulate");
  v.require(gpu.size() == 1, "gpu", fmt::format("has {} entries; must have exactly 1", gpu.size()));
  v.require(ssd.size() <= 1, "ssd",
            fmt::format("has {} entries; write one entry and its count", ssd.size()));
  if (!ssd.empty()) {
    v.require([this] { return ssd.front().flash.has_recurrence(); }, "ssd/0/flash/policy",
              "must be fifo or first_gap here, with all pages alike; drives of other policies are "
              "for nearkv replay");
    v.require(ssd.front().ftl.write_buffer.capacity > Bytes{}, "ssd/0/ftl/write_buffer/capacity",
              "must hold at least one flash page; drives without a buffer are for nearkv replay");
    const Bytes storage = ssd.front().capacity * ssd.front().count;
    v.require(host.swap.size < storage, "host/swap/size",
              fmt::format("{} must be less than the SSDs hold, {}", format_exact(host.swap.size),
                          format_exact(storage)));
  }
  if (v.checks_rules()) {
    const auto problem = workload.prepare(simulation.seed, model.max_positions);
    if (problem.has_value()) {
      v.require(false, "workload/" + problem->field, problem->message);
    }
  }
  parallelism.require_divisible(v, model);
  if (system != nullptr) {
    system->require_parts(v, *this);
  }
}

}  // namespace nearkv
