#include "models/flash/ftl/ftl_config.hpp"

#include <string>

#include <doctest/doctest.h>

#include "models/flash/ftl/precondition.hpp"
#include "models/kv/kv_ftl.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

using namespace nearkv;

namespace {

// MQSim's parameters (its ssdconfig.xml: Overprovisioning_Ratio, Plane_Allocation_Scheme,
// Ideal_Mapping_Table, CMT_Capacity, GC_Block_Selection_Policy RGA, GC_Exec_Threshold,
// GC_Hard_Threshold, Static_Wearleveling_Threshold, Block_PE_Cycles_Limit, Data_Cache_Capacity)
// in our names.
const char* const kMqsim = R"({
  "overprovisioning_ratio": 0.07,
  "plane_order": "CWDP",
  "allocation": "static",
  "unwritten_reads": "as_if_written",
  "mapping": {
    "ideal": false, "cache_capacity": "2MiB", "entry_size": "8B", "journal_pages": 64},
  "garbage_collection": {
    "victim": "random_greedy", "random_candidates": 11, "random_least_invalid": 0,
    "threshold": 0.05, "hard_threshold": 0.005, "least_free_blocks": 10, "at_once": 10,
    "trigger": "on_write", "open_ahead": true, "mqsim_faults": false},
  "wear_levelling": {"dynamic": true, "static": true, "static_threshold": 100},
  "bad_blocks": {
    "factory_share": {"value": 0, "source": "assumed", "citation": "MQSim has none"},
    "grown_per_erase": {"value": 0, "source": "assumed", "citation": "MQSim has none"},
    "pe_cycles": {"value": 10000, "source": "assumed", "citation": "MQSim's default"}},
  "write_buffer": {"capacity": "256MiB", "flush_order": "lru", "flush_above": 0.5}
})";

const char* const kKv = R"({
  "plane_order": "CPDW",
  "sharing": "own_blocks",
  "reclaim_below": 0.1,
  "reclaim_until": 0.2,
  "least_worn_first": true,
  "bad_blocks": {
    "factory_share": {"value": 0.01, "source": "assumed", "citation": "of this test"},
    "grown_per_erase": {"value": 1e-6, "source": "assumed", "citation": "of this test"},
    "pe_cycles": {"value": 3000, "source": "paper", "citation": "InstInfer, endurance"}}
})";

template <class Config>
Config parse(const nlohmann::json& json) {
  Config config;
  read_fields(json, [&](FieldVisitor& v) { config.fields(v); });
  return config;
}

template <class Config>
std::string problem(const char* text, const char* path, const nlohmann::json& value) {
  nlohmann::json json = nlohmann::json::parse(text);
  json[nlohmann::json::json_pointer(path)] = value;
  try {
    parse<Config>(json);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("ftl_config: MQSim's parameters in our names") {
  const FtlConfig config = parse<FtlConfig>(nlohmann::json::parse(kMqsim));
  CHECK(kPlaneOrders[config.plane_order] == "CWDP");
  CHECK(config.allocation == AllocationMode::by_logical_page);
  CHECK(config.unwritten_reads == UnwrittenReads::as_if_written);
  CHECK(config.collection.victim == VictimPolicy::random_greedy);
  CHECK(config.mapping.cache_capacity == 2_MiB);
  CHECK(config.bad_blocks.pe_cycles == 10'000);
  const FtlGeometry geometry{.channels = 8,
                             .ways_per_channel = 4,
                             .dies_per_way = 2,
                             .planes_per_die = 2,
                             .blocks_per_plane = 2048,
                             .pages_per_block = 256};
  // 0.93 of 524,288 pages a plane, rounded down, in 128 planes.
  CHECK(config.logical_pages(geometry) == 487'587LL * 128);
}

TEST_CASE("ftl_config: mistakes are reported with their path") {
  CHECK(problem<FtlConfig>(kMqsim, "/plane_order", "CWPP").starts_with("/plane_order: "));
  CHECK(problem<FtlConfig>(kMqsim, "/garbage_collection/hard_threshold", 0.1) ==
        "/garbage_collection/hard_threshold: must not exceed threshold");
  CHECK(problem<FtlConfig>(kMqsim, "/bad_blocks/pe_cycles", 100)
            .starts_with("/bad_blocks/pe_cycles: a constant needs its source"));
  CHECK(problem<FtlConfig>(kMqsim, "/garbage_collection/victm", "fifo")
            .starts_with("/garbage_collection/victm: unknown key; did you mean \"victim\"?"));
  CHECK(problem<KvFtlConfig>(kKv, "/reclaim_until", 0.05) ==
        "/reclaim_until: must be at least reclaim_below");
  CHECK(parse<KvFtlConfig>(nlohmann::json::parse(kKv)).bad_blocks.pe_cycles == 3'000);
  const auto precondition = parse<PreconditionConfig>(nlohmann::json::parse(
      R"({"fill": 0.75, "pattern": "random", "steady_tolerance": 0.01, "rounds_at_most": 20})"));
  CHECK(precondition.pattern == FillPattern::random);
}
