// MQSim's parameters as a drive and a workload of ours.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "sim/app/validation/mqsim_suite.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace {

constexpr std::int64_t kPerNanosecond = 1000;
constexpr double kPercent = 100;
constexpr double kNanosecondsOfSecond = 1e9;
constexpr std::int64_t kMega = 1'000'000;
constexpr std::int64_t kLargestCount = 1 << 24;
constexpr std::int64_t kLargestPage = 32 * 1024;  // of 64 sectors
constexpr int kFewestBlocks = 16;                 // three are open, and ten stay free
constexpr int kFreeBlocks = 10;                   // below that MQSim collects, and writes wait

SimDuration nanoseconds(double value) {
  return SimDuration{std::llround(value * static_cast<double>(kPerNanosecond))};
}

/// "0,1,2,3" names all of 4.
bool names_all(const std::string& ids, std::int64_t count) {
  std::string all;
  for (std::int64_t i = 0; i < count; ++i) {
    all += fmt::format("{}{}", i == 0 ? "" : ",", i);
  }
  return ids == all;
}

/// The command times of MQSim's src/ssd/ONFI_Channel_NVDDR2.cpp.
void set_command_times(FlashConfig& flash, const MqsimTiming& t) {
  const int address_cycles = 6;  // a command cycle and five address cycles
  const SimDuration address = address_cycles * t("t_WC");
  flash.read_command = {t("t_CS") + address + t("t_WB") + t("t_RR"), t("t_DBSY") + address,
                        t("RB_signal_delay_read")};
  const SimDuration data_in = t("t_ADL") + t("t_WPST");
  flash.program_command = {
      t("t_CS") + address + data_in + t("t_WPSTH") + t("t_WB"),
      (address_cycles - 1) * t("t_WC") + data_in + t("t_CALS") + t("t_WB") + t("t_DBSY"),
      t("RB_signal_delay_write")};
  const int erase_cycles = 4;
  flash.erase_command = {t("t_CS") + erase_cycles * t("t_WC") + t("t_WB"),
                         t("t_DBSY") + erase_cycles * t("t_WC") + t("t_WB"),
                         t("RB_signal_delay_erase")};
}

/// MQSim has no lists of data pointers, and its host sees a completion entry when it arrives.
NvmeConfig mqsim_front_end(int fetch_limit) {
  NvmeConfig nvme;
  nvme.queue_depth = std::numeric_limits<std::uint16_t>::max();
  nvme.queue_groups = {{.queues = 1, .priority = NvmePriority::medium}};
  nvme.arbitration = NvmeArbitration::round_robin;
  nvme.arbitration_burst = 1;
  nvme.fetch_limit = fetch_limit;
  nvme.data_pointers = DataPointers::none;
  nvme.notice = CompletionNotice::entry;
  return nvme;
}

int bits_per_cell(const std::string& technology) {
  const std::vector<std::string> names{"SLC", "MLC", "TLC"};
  return static_cast<int>(std::find(names.begin(), names.end(), technology) - names.begin()) + 1;
}

int count_of(const MqsimParameters& p, const char* section, const char* name) {
  const std::int64_t value = p.integer(section, name);
  if (value < 1 || value > kLargestCount) {
    p.fail(section, name, fmt::format("must be 1 to {}", kLargestCount));
  }
  return static_cast<int>(value);
}

bool is_plane_order(std::string_view scheme) {
  return std::find(kPlaneOrders.begin(), kPlaneOrders.end(), scheme) != kPlaneOrders.end();
}

std::int64_t logical_sectors(const MqsimParameters& p, const FlashConfig& flash) {
  // MQSim counts whole sectors a plane.
  const std::int64_t of_page = p.integer("flash", "Page_Capacity") / MqsimRequests::kSectorBytes;
  const std::int64_t pages =
      p.integer("flash", "Block_No_Per_Plane") * p.integer("flash", "Page_No_Per_Block");
  const double of_plane =
      static_cast<double>(pages * of_page) * (1.0 - p.number("device", "Overprovisioning_Ratio"));
  return static_cast<std::int64_t>(of_plane) * flash.channels * flash.chips_per_channel *
         flash.dies_per_chip * flash.planes_per_die;
}

VictimPolicy victim_policy(const MqsimParameters& p) {
  const std::string& name = p.text("device", "GC_Block_Selection_Policy");
  const std::vector<std::pair<const char*, VictimPolicy>> policies{
      {"GREEDY", VictimPolicy::greedy},          {"RGA", VictimPolicy::random_greedy},
      {"RANDOM", VictimPolicy::random},          {"RANDOM_P", VictimPolicy::random_full},
      {"RANDOM_PP", VictimPolicy::random_stale}, {"FIFO", VictimPolicy::fifo}};
  for (const auto& [known, policy] : policies) {
    if (name == known) {
      return policy;
    }
  }
  p.fail("device", "GC_Block_Selection_Policy", fmt::format("{} is unknown", in_quotes(name)));
}

/// MQSim never passes its wear levelling parameters on: both kinds are on, with a threshold of 100.
FtlConfig mqsim_ftl(const MqsimParameters& p, const FlashConfig& flash) {
  const std::int64_t pages = std::int64_t{flash.blocks_per_plane} * flash.pages_per_block;
  const std::int64_t page_sectors = flash.page_size.count() / MqsimRequests::kSectorBytes;
  const std::int64_t logical = ceil_div(logical_sectors(p, flash), page_sectors);
  const double of_plane = static_cast<double>(ceil_div(logical, flash.planes()));
  const double half = 0.5;  // so that the product of ratio and pages is cut to of_plane
  FtlConfig ftl;
  ftl.overprovisioning_ratio = std::max(0.0, 1 - (of_plane + half) / static_cast<double>(pages));
  ftl.plane_order =
      static_cast<std::size_t>(std::find(kPlaneOrders.begin(), kPlaneOrders.end(),
                                         p.text("device", "Plane_Allocation_Scheme")) -
                               kPlaneOrders.begin());
  ftl.allocation = AllocationMode::by_logical_page;
  ftl.unwritten_reads = UnwrittenReads::as_if_written;
  ftl.mapping.ideal = true;
  ftl.collection = {.victim = victim_policy(p),
                    .random_candidates = static_cast<int>(std::log2(flash.blocks_per_plane)),
                    .random_least_invalid =
                        static_cast<int>(p.number("workload", "Initial_Occupancy_Percentage") /
                                         kPercent * flash.pages_per_block),
                    .threshold = p.number("device", "GC_Exec_Threshold"),
                    .hard_threshold = 0,  // only preemptible collections look at it
                    .least_free_blocks = kFreeBlocks,
                    .at_once = kFreeBlocks,
                    .trigger = CollectionTrigger::on_write,
                    .open_ahead = true,
                    .mqsim_faults = true};
  ftl.wear_levelling = {
      .dynamic_levelling = true, .static_levelling = true, .static_threshold = 100};
  ftl.bad_blocks = {.factory_share = 0,
                    .grown_per_erase = 0,
                    .pe_cycles = std::numeric_limits<std::int64_t>::max()};
  return ftl;
}

}  // namespace

SimDuration MqsimTiming::operator()(const std::string& name) const {
  return nanoseconds(number(name));
}

Bytes MqsimTiming::bytes(const std::string& name) const {
  return Bytes{std::llround(number(name))};
}

std::string reason_not_covered(const MqsimParameters& p) {
  struct Need {
    const char* section;
    const char* name;
    std::vector<std::string> values;
    const char* reason;
  };
  const std::vector<Need> needs{
      {"device",
       "Transaction_Scheduling_Policy",
       {"PRIORITY_OUT_OF_ORDER"},
       "another scheduler of flash transactions"},
      {"device", "Caching_Mechanism", {"ADVANCED"}, "the simple data cache"},
      {"device", "Preemptible_GC_Enabled", {"false"}, "garbage collection is preemptible"},
      {"device", "Use_Copyback_for_GC", {"false"}, "garbage collection copies within the chip"},
      {"device", "HostInterface_Type", {"NVME"}, "another host interface than NVMe"},
      {"device", "Ideal_Mapping_Table", {"true"}, "the mapping cache is not modelled"},
      {"device", "Address_Mapping", {"PAGE_LEVEL"}, "only page-level mapping is modelled"},
      {"device", "Flash_Comm_Protocol", {"NVDDR2"}, "another flash interface than NV-DDR2"},
      {"workload",
       "Device_Level_Data_Caching_Mode",
       {"TURNED_OFF", "WRITE_CACHE"},
       "the data cache keeps what was read"},
      {"workload", "Priority_Class", {"URGENT"}, "another priority than URGENT"},
      {"workload", "Synthetic_Generator_Type", {"QUEUE_DEPTH"}, "not a closed loop"},
      {"workload", "Request_Size_Distribution", {"FIXED"}, "request sizes vary"},
      {"workload",
       "Address_Distribution",
       {"RANDOM_UNIFORM", "STREAMING"},
       "hot and cold regions are not modelled"},
      {"workload", "Stop_Time", {"0"}, "ends at a time instead of after so many requests"},
      {"flash", "Flash_Technology", {"SLC", "MLC", "TLC"}, "an unknown flash technology"},
  };
  for (const Need& need : needs) {
    const std::string& value = p.text(need.section, need.name);
    if (std::find(need.values.begin(), need.values.end(), value) == need.values.end()) {
      return fmt::format("{} ({} is {})", need.reason, need.name, value);
    }
  }
  if (!is_plane_order(p.text("device", "Plane_Allocation_Scheme"))) {
    return "an unknown plane allocation scheme";
  }
  const bool uses_all =
      names_all(p.text("workload", "Channel_IDs"), p.integer("device", "Flash_Channel_Count")) &&
      names_all(p.text("workload", "Chip_IDs"), p.integer("device", "Chip_No_Per_Channel")) &&
      names_all(p.text("workload", "Die_IDs"), p.integer("flash", "Die_No_Per_Chip")) &&
      names_all(p.text("workload", "Plane_IDs"), p.integer("flash", "Plane_No_Per_Die"));
  return uses_all ? "" : "the flow is bound to some of the channels, chips, dies or planes";
}

namespace {

void check_geometry(const MqsimParameters& p, const FlashConfig& flash) {
  if (flash.blocks_per_plane < kFewestBlocks) {
    p.fail("flash", "Block_No_Per_Plane", fmt::format("must be at least {}", kFewestBlocks));
  }
  const std::int64_t page = flash.page_size.count();
  if (page % MqsimRequests::kSectorBytes != 0 || page > kLargestPage) {
    p.fail("flash", "Page_Capacity",
           fmt::format("must be whole sectors of {} B, and at most {} B",
                       MqsimRequests::kSectorBytes, kLargestPage));
  }
  const double pages = static_cast<double>(flash.planes()) * flash.blocks_per_plane *
                       static_cast<double>(flash.pages_per_block);
  if (pages >= static_cast<double>(kNoPage)) {
    p.fail("flash", "Block_No_Per_Plane", "the drive would have 2^32 pages or more");
  }
}

}  // namespace

BlockSsdConfig mqsim_ssd(const MqsimParameters& p, const MqsimTiming& t) {
  const auto number = [&p](const char* section, const char* name) {
    return count_of(p, section, name);
  };
  const auto times = [&p](const std::string& kind) {
    const auto of = [&](const char* type) {
      return nanoseconds(p.number("flash", fmt::format("Page_{}_Latency_{}", kind, type)));
    };
    return ArrayTiming{of("LSB"), of("CSB"), of("MSB")};
  };
  BlockSsdConfig config;
  FlashConfig& flash = config.flash;
  flash.blocks_per_plane = number("flash", "Block_No_Per_Plane");
  flash.pages_per_block = number("flash", "Page_No_Per_Block");
  flash.page_size = Bytes{p.integer("flash", "Page_Capacity")};
  flash.channels = number("device", "Flash_Channel_Count");
  flash.chips_per_channel = number("device", "Chip_No_Per_Channel");
  flash.dies_per_chip = number("flash", "Die_No_Per_Chip");
  flash.planes_per_die = number("flash", "Plane_No_Per_Die");
  flash.policy = FlashPolicy::data_out_first;
  flash.read_priority = true;
  flash.multi_plane = flash.planes_per_die > 1;
  flash.bus_width = number("device", "Flash_Channel_Width");
  flash.mega_transfers = number("device", "Channel_Transfer_Rate");
  flash.transfer_step = SimDuration{kPerNanosecond};
  flash.bits_per_cell = bits_per_cell(p.text("flash", "Flash_Technology"));
  flash.t_read = times("Read");
  flash.t_program = times("Program");
  flash.t_erase = nanoseconds(p.number("flash", "Block_Erase_Latency"));
  set_command_times(flash, t);
  // MQSim allows suspension (CMD_Suspension_Support), but its scheduler then never does it.
  config.link = {.lanes = number("host", "PCIe_Lane_Count"),
                 .lane_rate = Rate{std::llround(p.number("host", "PCIe_Lane_Bandwidth") *
                                                static_cast<double>(kMega * kPerNanosecond))},
                 .max_payload = t.bytes("pcie_tlp_max_payload"),
                 .packet_overhead = t.bytes("pcie_packet_overhead_bytes"),
                 .read_request = t.bytes("pcie_read_request_bytes"),
                 .doorbell = t.bytes("doorbell_bytes"),
                 .interrupt = Bytes{},
                 .submission_entry = t.bytes("sqe_bytes"),
                 .completion_entry = t.bytes("cqe_bytes"),
                 .trim_range = Bytes{},
                 .time_step = SimDuration{kPerNanosecond}};
  config.nvme = mqsim_front_end(number("device", "Queue_Fetch_Size"));
  config.controller.cores = 1;  // firmware costs nothing
  config.controller.codeword = Bytes{MqsimRequests::kSectorBytes};
  check_geometry(p, flash);
  config.ftl = mqsim_ftl(p, flash);
  return config;
}

MqsimWorkload mqsim_workload(const MqsimParameters& p) {
  FlashConfig flash;
  flash.channels = count_of(p, "device", "Flash_Channel_Count");
  flash.chips_per_channel = count_of(p, "device", "Chip_No_Per_Channel");
  flash.dies_per_chip = count_of(p, "flash", "Die_No_Per_Chip");
  flash.planes_per_die = count_of(p, "flash", "Plane_No_Per_Die");
  const bool is_aligned = p.text("workload", "Generated_Aligned_Addresses") == "true";
  const double working_set = p.number("workload", "Working_Set_Percentage");
  const bool is_share = working_set >= 1 && working_set <= kPercent;  // else MQSim takes all
  MqsimWorkload workload{
      .requests = count_of(p, "workload", "Total_Requests_To_Generate"),
      .sectors = logical_sectors(p, flash),
      .working_set = is_share ? working_set / kPercent : 1,
      .reads = p.number("workload", "Read_Percentage") / kPercent,
      .pattern = p.text("workload", "Address_Distribution") == "STREAMING"
                     ? MqsimWorkload::Pattern::streaming
                     : MqsimWorkload::Pattern::random_uniform,
      .request_sectors = count_of(p, "workload", "Average_Request_Size"),
      .alignment = is_aligned ? count_of(p, "workload", "Address_Alignment_Unit") : 1,
      .seed = static_cast<int>(p.integer("workload", "Seed"))};
  const double last = static_cast<double>(workload.sectors - 1) * workload.working_set;
  if (static_cast<double>(workload.request_sectors) > last) {
    p.fail("workload", "Average_Request_Size", "is more than the working set");
  }
  return workload;
}

std::optional<MqsimCacheConfig> mqsim_cache(const MqsimParameters& p) {
  if (p.text("workload", "Device_Level_Data_Caching_Mode") == "TURNED_OFF") {
    return std::nullopt;
  }
  const std::int64_t page = p.integer("flash", "Page_Capacity");
  const std::int64_t planes = std::int64_t{count_of(p, "device", "Flash_Channel_Count")} *
                              count_of(p, "device", "Chip_No_Per_Channel") *
                              count_of(p, "flash", "Die_No_Per_Chip") *
                              count_of(p, "flash", "Plane_No_Per_Die");
  MqsimCacheConfig cache;
  cache.pages = p.integer("device", "Data_Cache_Capacity") / page;
  cache.sector_limit = planes * page / MqsimRequests::kSectorBytes;
  cache.row_bytes = count_of(p, "device", "Data_Cache_DRAM_Row_Size");
  cache.burst_bytes = count_of(p, "device", "Data_Cache_DRAM_Data_Busrt_Size");
  cache.burst_ns = kNanosecondsOfSecond /
                   static_cast<double>(count_of(p, "device", "Data_Cache_DRAM_Data_Rate") * kMega);
  cache.activate_ns = p.integer("device", "Data_Cache_DRAM_tRCD");
  cache.access_ns = p.integer("device", "Data_Cache_DRAM_tCL");
  cache.precharge_ns = p.integer("device", "Data_Cache_DRAM_tRP");
  if (cache.pages < 1) {
    p.fail("device", "Data_Cache_Capacity", "is less than a page");
  }
  return cache;
}

int mqsim_free_blocks(const BlockSsdConfig& config) {
  const double share = config.ftl.collection.threshold * config.flash.blocks_per_plane;
  return std::max(static_cast<int>(share), kFreeBlocks);
}

}  // namespace nearkv
