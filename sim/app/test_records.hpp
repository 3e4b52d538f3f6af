// Records for tests, without a simulation behind them.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "sim/app/record_view.hpp"
#include "sim/core/record.hpp"

namespace nearkv {

/// A record that ran, with these metrics in token/s and prefill_time 1 s.
inline RecordView record_with(const std::vector<std::pair<std::string, double>>& metrics) {
  RunRecord record;
  record.name = "made_up";
  record.fidelity = "sampled";
  record.config = {{"name", "made_up"}};
  record.outcome.metrics.add("prefill_time", 1, "s", "prefill");
  for (const auto& [name, value] : metrics) {
    record.outcome.metrics.add(name, value, name.starts_with("decode_time") ? "s" : "token/s",
                               "a metric");
  }
  return RecordView(record.to_json("0"));
}

inline RecordView record_out_of(const std::string& memory) {
  RunRecord record;
  record.name = "made_up";
  record.fidelity = "sampled";
  record.config = {{"name", "made_up"}};
  record.outcome.status = RunStatus::out_of_memory;
  record.outcome.status_detail =
      "out_of_memory: " + memory + ": scores needs 2 GB, 1 GB of 3 GB are free";
  record.outcome.metrics.add("high_water/" + memory, 3e9, "B", "most that was held");
  return RecordView(record.to_json("0"));
}

inline RecordView infeasible_record() {
  RunRecord record;
  record.name = "made_up";
  record.fidelity = "sampled";
  record.config = {{"name", "made_up"}};
  record.outcome.status = RunStatus::infeasible;
  record.outcome.status_detail = "infeasible: VRAM: the weights take 3 GB a GPU, 1 GB are free";
  record.outcome.metrics.add("high_water/VRAM", 1e9, "B", "most that was held");
  return RecordView(record.to_json("0"));
}

}  // namespace nearkv
