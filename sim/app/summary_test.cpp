#include "sim/app/summary.hpp"

#include <doctest/doctest.h>

#include "sim/app/test_records.hpp"

namespace nearkv {

namespace {

RunRecord typical_record() {
  RunRecord record;
  record.name = "typical";
  record.fidelity = "sampled";
  record.config = {
      {"system", {{"kind", "insti_dense"}}},
      {"model", {{"name", "OPT-13B"}}},
      {"workload", {{"batch", 64}, {"prompt_tokens", 1024}, {"output_tokens", 1024}}},
      {"simulation",
       {{"fidelity", {{"value", "sampled"}, {"source", "override"}, {"citation", "--set"}}}}}};
  Metrics& metrics = record.outcome.metrics;
  metrics.add("throughput", 6.5536, "token/s", "d");
  metrics.add("prefill_time", 10, "s", "d");
  metrics.add("decode_time", 9990, "s", "d");
  metrics.add("decode_time_bound", 100, "s", "d");
  metrics.add("decode_steps", 1023, "1", "d");
  metrics.add("decode_steps_simulated", 12, "1", "d");
  metrics.add("tpot", 9.765, "s", "d");
  metrics.add("decode/phase/csd_attention", 7492.5, "s", "d");
  metrics.add("decode/phase/gpu_compute", 2497.5, "s", "d");
  metrics.add("utilization/csd/0/flash", 0.8, "1", "d");
  metrics.add("utilization/idle", 0.0001, "1", "d");
  metrics.add("high_water/VRAM", 31.7e9, "B", "d");
  metrics.add("energy_per_token", 200, "J", "d");
  metrics.add("energy_per_token/gpu", 150, "J", "d");
  metrics.add("energy_per_token/ssd", 50, "J", "d");
  metrics.add("average_power", 512.3, "W", "d");
  metrics.add("system_price", 9000, "USD", "d");
  metrics.add("cost_per_million_tokens", 12.5, "USD", "d");
  metrics.add("cost/capital", 10, "USD", "d");
  metrics.add("cost/electricity", 2.5, "USD", "d");
  record.outcome.notes = {"synthetic tensors"};
  record.constants = {{"/csd/0/flash/t_read", "50us", "assumed", "not published", "30us to 70us"},
                      {"/gpu/0/memory", "48GB", "datasheet", "sheet"}};
  return record;
}

RunRecord record_with_faults() {
  RunRecord record = typical_record();
  Metrics& metrics = record.outcome.metrics;
  metrics.add("faults/throughput_before", 25, "token/s", "d");
  metrics.add("faults/throughput_during", 0.5, "token/s", "d");
  metrics.add("faults/decoded_tokens", 65472, "1", "d");
  metrics.add("faults/time_during", 49.4, "s", "d");
  metrics.add("faults/recovery_time", 47.7, "s", "d");
  metrics.add("faults/recomputed_tokens", 67648, "1", "d");
  metrics.add("faults/lost_pages", 120, "1", "d");
  return record;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a summary tells speed, shares, utilization, memory, constants and notes") {
  const std::string text = summary_of(RecordView(typical_record().to_json("0")));
  INFO(text);
  CHECK(contains(text, "typical: insti_dense, OPT-13B, batch 64, 1024 + 1024 tokens\n"));
  CHECK(contains(text, "6.554 token/s +- 1.0 %\n"));
  CHECK(contains(text, "sampled; 12 of 1023 decode steps simulated\n"));
  CHECK(contains(text, "csd_attention  #######################.......  75.0 %  7492 s\n"));
  CHECK(contains(text, "csd/0/flash  ########################......  80.0 %\n"));
  CHECK(contains(text, "(1 more below 0.05 %)"));
  CHECK(contains(text, "VRAM  31.70 GB\n"));
  CHECK(contains(text, "energy of an output token: 200.0 J (average power 512.3 W)\n"));
  CHECK(contains(text, "gpu  #######################.......  75.0 %  150.0 J\n"));
  CHECK(contains(text,
                 "cost of a million output tokens: 12.50 USD (10.00 USD of the system's "
                 "9000 USD, 2.500 USD of electricity)\n"));
  CHECK(contains(text, "1 assumed, 0 fit, 0 override"));
  CHECK(contains(text, "note: synthetic tensors\n"));
}

TEST_CASE("a summary says what faults did, where there are any") {
  CHECK_FALSE(contains(summary_of(RecordView(typical_record().to_json("0"))), "faults"));
  RunRecord record = record_with_faults();
  const std::string text = summary_of(RecordView(record.to_json("0")));
  INFO(text);
  CHECK(contains(text, "before the first one       25.00 token/s\n"));
  CHECK(contains(text, "of it, recovering                47.70 s\n"));
  CHECK_FALSE(contains(text, "afterwards"));
  record.outcome.status = RunStatus::data_lost;
  record.outcome.status_detail = "data_lost: drive_failure of ssd/0";
  const std::string lost = summary_of(RecordView(record.to_json("0")));
  INFO(lost);
  CHECK(contains(lost, "data_lost: drive_failure of ssd/0\n"));
  CHECK(contains(lost, "tokens until it ended"));
}

TEST_CASE("a summary of a run that is out of memory says what overflowed") {
  const std::string text = summary_of(record_out_of("VRAM"));
  INFO(text);
  CHECK(contains(text, "out_of_memory: VRAM: scores needs 2 GB"));
  CHECK_FALSE(contains(text, "throughput"));
}

TEST_CASE("a summary of a sampled record has the intervals beside the nominal results") {
  nlohmann::json record = typical_record().to_json("0");
  record["samples"] = {{"count", 32},
                       {"seed", 5},
                       {"ran", 30},
                       {"did_not_run", {{"out of memory (VRAM)", 2}}},
                       {"varied", {"/csd/0/flash/t_read", "/host/x"}},
                       {"held", {"/csd/0/flash/channels", "/csd/0/flash/x", "/host/y"}},
                       {"intervals",
                        {{"throughput", {5.5, 7.25}},
                         {"decode/phase/csd_attention", {7000, 8000}},
                         {"utilization/csd/0/flash", {0.7, 0.9}},
                         {"high_water/VRAM", {31e9, 32e9}},
                         {"energy_per_token/gpu", {100, 190}},
                         {"system_price", {8000, 9900}}}}};
  const std::string text = summary_of(RecordView(record));
  INFO(text);
  CHECK(contains(text, "6.554 token/s +- 1.0 %"));
  CHECK(contains(text, "5.50 to 7.25 token/s\n"));
  CHECK(contains(text, "75.0 %  7492 s  7000 to 8000 s\n"));
  CHECK(contains(text, "80.0 %  70.0 % to 90.0 %\n"));
  CHECK(contains(text, "31.70 GB  31.0 to 32.0 GB\n"));
  CHECK(contains(text, "150.0 J  100 to 190 J\n"));
  CHECK(contains(text, "of the system's 9000 USD [8000 to 9900 USD],\n  2.500"));
  CHECK(contains(text,
                 "30 of 32 samples ran (seed 5), each with its own values of 2 fit and assumed "
                 "constants\n  out of memory (VRAM): 2\n"));
  CHECK(contains(
      text, "held, as they have no interval (3):\n  /csd/0: flash/channels flash/x\n  /host: y\n"));
}

TEST_CASE("the constants table gives value, source and reason") {
  const std::string text = constants_table(RecordView(typical_record().to_json("0")));
  CHECK(contains(text, "/csd/0/flash/t_read   50us  30us to 70us   assumed  not published\n"));
  CHECK_FALSE(contains(text, "/gpu/0/memory"));
}

}  // namespace nearkv
