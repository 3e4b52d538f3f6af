#include "models/csd/csd_config.hpp"

namespace nearkv {

using namespace std::chrono_literals;

void ControllerConfig::fields(FieldVisitor& v) {
  v.parameter("cores", cores, "embedded cores that run the firmware", {1, 64});
  v.constant("attend_cost", attend_cost, "firmware time of one attend command", range_of(0_ps, 1s));
  v.constant("completion_cost", completion_cost, "firmware time of one completion",
             range_of(0_ps, 1s));
}

void AttentionEngineConfig::fields(FieldVisitor& v) {
  v.parameter("heads_per_block", heads_per_block,
              "heads whose pages are staged together before the engine computes", {1, 1 << 20});
  v.parameter("staging_buffers", staging_buffers,
              "blocks in the staging memory: with 1 reading and computing alternate, with 2 or "
              "more they overlap",
              {1, 16});
  v.parameter("attention_kernels", attention_kernels, "attention kernels of the engine", {1, 64});
  v.parameter("gemv_units_per_kernel", gemv_units_per_kernel, "GeMV units of one attention kernel",
              {1, 1024});
  v.constant("gemv_rate", gemv_rate, "FP16 compute rate of one GeMV unit",
             range_of(FlopRate{1}, FlopRate{1'000'000'000'000'000}));
  v.constant("softmax_latency", softmax_latency,
             "time of one head's scores through a softmax unit; heads follow each other in it",
             range_of(0_ps, 1s));
  v.constant("filter_rate", filter_rate,
             "rate of the filter of one flash channel, which drops what was not selected",
             range_of(Rate{1}, 1'000'000_MBps));
  v.constant("argtopk_rate", argtopk_rate, "elements a second that the argtopk unit compares",
             {1, std::numeric_limits<double>::max()});
}

void CsdConfig::fields(FieldVisitor& v) {
  v.parameter("count", count, "equal drives of this kind", {1, 64});
  v.group("flash", flash, "flash array of the drive");
  v.group("layout", layout, "placement of the KV cache on the flash array");
  v.group("nvme", nvme, "NVMe queue pair towards the host");
  v.group("controller", controller, "controller cores and firmware costs");
  v.parameter("dram_capacity", dram_capacity, "DRAM of the drive",
              range_of(1_MiB, Bytes{1LL << 42}));
  v.parameter("store_chunk", store_chunk,
              "size of the chunks in which prefill's KV arrives and is programmed",
              range_of(64_KiB, Bytes{1LL << 36}));
  v.group("engine", engine, "attention engine");
  v.require(store_chunk <= dram_capacity, "store_chunk", "must fit in dram_capacity");
}

}  // namespace nearkv
