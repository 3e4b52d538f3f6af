#include "sim/app/mqsim_suite.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "models/ssd/block_host.hpp"
#include "models/ssd/page_striping.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace {

constexpr double kLatencyTolerance = 0.001;  // of unloaded latencies
constexpr double kLoadTolerance = 0.005;     // of mean responses and bandwidths of reads
constexpr double kMixedTolerance = 0.02;     // the same with writes among them
constexpr std::int64_t kPerNanosecond = 1000;
constexpr double kPercent = 100;
constexpr std::int64_t kMega = 1'000'000;

const nlohmann::json& member(const nlohmann::json& object, const std::string& name,
                             const std::string& where) {
  if (!object.is_object() || !object.contains(name)) {
    throw ConfigError(fmt::format("{}: \"{}\" is missing", where, name));
  }
  return object.at(name);
}

double number_in(const nlohmann::json& object, const std::string& name, const std::string& where) {
  const nlohmann::json& value = member(object, name, where);
  if (!value.is_number()) {
    throw ConfigError(fmt::format("{}/{}: must be a number", where, name));
  }
  return value.get<double>();
}

std::string text_in(const nlohmann::json& object, const std::string& name,
                    const std::string& where) {
  const nlohmann::json& value = member(object, name, where);
  if (!value.is_string()) {
    throw ConfigError(fmt::format("{}/{}: must be a text", where, name));
  }
  return value.get<std::string>();
}

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

struct Timing {
  explicit Timing(const nlohmann::json& values) : values_(values) {}
  [[nodiscard]] SimDuration operator()(const char* name) const {
    return nanoseconds(number_in(values_, name, "/timing_constants"));
  }
  [[nodiscard]] Bytes bytes(const char* name) const {
    return Bytes{std::llround(number_in(values_, name, "/timing_constants"))};
  }

 private:
  const nlohmann::json& values_;
};

/// The command times of MQSim's src/ssd/ONFI_Channel_NVDDR2.cpp.
void set_command_times(FlashConfig& flash, const Timing& t) {
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

int bits_per_cell(const std::string& technology) {
  const std::vector<std::string> names{"SLC", "MLC", "TLC"};
  return static_cast<int>(std::find(names.begin(), names.end(), technology) - names.begin()) + 1;
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

/// Nothing when MQSim would have collected garbage on the way.
std::optional<ResponseTimes> simulate(const MqsimParameters& p, const nlohmann::json& timing) {
  const BlockSsdConfig config = mqsim_ssd(p, timing);
  const MqsimWorkload workload = mqsim_workload(p);
  const std::int64_t pages =
      ceil_div(workload.sectors * MqsimRequests::kSectorBytes, config.page_size.count());
  PageStriping map(config.flash, p.text("device", "Plane_Allocation_Scheme"),
                   static_cast<int>(p.integer("flash", "Page_No_Per_Block")), pages);
  BlockSsd ssd(config, map, Rng(0, "validation/mqsim"));
  MqsimRequests requests(workload);
  ClosedLoop host(ssd, requests);
  const ResponseTimes times =
      host.run(SimTime{}, static_cast<int>(p.integer("workload", "Average_No_of_Reqs_in_Queue")));
  // The block that is being written and one for the collector are not in the pool of free blocks.
  const std::int64_t blocks = p.integer("flash", "Block_No_Per_Plane");
  const std::int64_t full = map.fullest_plane() / p.integer("flash", "Page_No_Per_Block");
  const double least_free =
      static_cast<double>(blocks) * p.number("device", "GC_Exec_Threshold") + 1;
  const bool collects = static_cast<double>(blocks - full - 2) < least_free;
  return collects ? std::nullopt : std::optional{times};
}

void compare(ValidationReport& report, const std::string& name, const nlohmann::json& reference,
             const ResponseTimes& times, const MqsimParameters& p) {
  const std::string where = fmt::format("/points/{}/reference", name);
  const bool is_unloaded = p.integer("workload", "Average_No_of_Reqs_in_Queue") == 1;
  const bool is_mixed = p.number("workload", "Read_Percentage") < kPercent;
  const double loaded = is_mixed ? kMixedTolerance : kLoadTolerance;
  const double tolerance = is_unloaded && !is_mixed ? kLatencyTolerance : loaded;
  const double micro = static_cast<double>(kMega);
  const double bytes = static_cast<double>(
      times.requests * p.integer("workload", "Average_Request_Size") * MqsimRequests::kSectorBytes);
  report.results.push_back({name, "mean response", "us",
                            number_in(reference, "mean_response_us", where),
                            times.mean_seconds() * micro, tolerance});
  report.results.push_back({name, "bandwidth", "MB/s",
                            number_in(reference, "bandwidth_MBps", where),
                            bytes / to_seconds(times.last) / micro, tolerance});
  report.results.push_back({name, "least response", "us", number_in(reference, "min_us", where),
                            to_seconds(times.least) * micro, kLatencyTolerance});
}

}  // namespace

bool ValidationResult::passes() const { return std::abs(error()) <= tolerance; }

bool ValidationReport::passes() const {
  return std::all_of(results.begin(), results.end(),
                     [](const ValidationResult& result) { return result.passes(); });
}

// -- MQSim's parameters -------------------------------------------------------------------------

MqsimParameters::MqsimParameters(const nlohmann::json& shared, const nlohmann::json& own)
    : values_(shared) {
  if (!shared.is_object() || !own.is_object()) {
    throw ConfigError("parameters: must be an object of sections");
  }
  values_.merge_patch(own);
}

const std::string& MqsimParameters::text(std::string_view section, std::string_view name) const {
  const std::string where = fmt::format("parameters/{}", section);
  const nlohmann::json& value =
      member(member(values_, std::string(section), "parameters"), std::string(name), where);
  if (!value.is_string()) {
    throw ConfigError(fmt::format("{}/{}: must be a text", where, name));
  }
  return value.get_ref<const std::string&>();
}

double MqsimParameters::number(std::string_view section, std::string_view name) const {
  const std::string& value = text(section, name);
  double number = 0;
  const char* const end = value.data() + value.size();
  const auto [rest, error] = std::from_chars(value.data(), end, number);
  if (error != std::errc{} || rest != end) {
    throw ConfigError(
        fmt::format("parameters/{}/{}: {} is no number", section, name, in_quotes(value)));
  }
  return number;
}

std::int64_t MqsimParameters::integer(std::string_view section, std::string_view name) const {
  const double value = number(section, name);
  if (value != std::floor(value)) {
    throw ConfigError(fmt::format("parameters/{}/{}: must be whole", section, name));
  }
  return static_cast<std::int64_t>(value);
}

std::string reason_not_covered(const MqsimParameters& p) {
  struct Need {
    const char* section;
    const char* name;
    std::vector<std::string> values;
    const char* reason;
  };
  const std::vector<Need> needs{
      {"device", "Enabled_Preconditioning", {"false"}, "preconditioned drives are not modelled"},
      {"device", "HostInterface_Type", {"NVME"}, "another host interface than NVMe"},
      {"device", "Ideal_Mapping_Table", {"true"}, "the mapping cache is not modelled"},
      {"device", "Address_Mapping", {"PAGE_LEVEL"}, "only page-level mapping is modelled"},
      {"device", "Flash_Comm_Protocol", {"NVDDR2"}, "another flash interface than NV-DDR2"},
      {"workload", "Device_Level_Data_Caching_Mode", {"TURNED_OFF"}, "the data cache is on"},
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
  if (!is_striping_order(p.text("device", "Plane_Allocation_Scheme"))) {
    return "an unknown plane allocation scheme";
  }
  const bool writes = p.number("workload", "Read_Percentage") < kPercent;
  const std::int64_t page_sectors =
      p.integer("flash", "Page_Capacity") / MqsimRequests::kSectorBytes;
  const bool whole_pages = p.text("workload", "Generated_Aligned_Addresses") == "true" &&
                           p.integer("workload", "Average_Request_Size") % page_sectors == 0 &&
                           p.integer("workload", "Address_Alignment_Unit") % page_sectors == 0;
  if (writes && !whole_pages) {
    return "writes of parts of pages are not merged with the rest";
  }
  const bool uses_all =
      names_all(p.text("workload", "Channel_IDs"), p.integer("device", "Flash_Channel_Count")) &&
      names_all(p.text("workload", "Chip_IDs"), p.integer("device", "Chip_No_Per_Channel")) &&
      names_all(p.text("workload", "Die_IDs"), p.integer("flash", "Die_No_Per_Chip")) &&
      names_all(p.text("workload", "Plane_IDs"), p.integer("flash", "Plane_No_Per_Die"));
  return uses_all ? "" : "the flow is bound to some of the channels, chips, dies or planes";
}

BlockSsdConfig mqsim_ssd(const MqsimParameters& p, const nlohmann::json& timing) {
  const Timing t(timing);
  const auto number = [&p](const char* section, const char* name) {
    return static_cast<int>(p.integer(section, name));
  };
  const auto times = [&p](const std::string& kind) {
    const auto of = [&](const char* type) {
      return nanoseconds(p.number("flash", fmt::format("Page_{}_Latency_{}", kind, type)));
    };
    return ArrayTiming{of("LSB"), of("CSB"), of("MSB")};
  };
  BlockSsdConfig config;
  config.page_size = Bytes{p.integer("flash", "Page_Capacity")};
  FlashConfig& flash = config.flash;
  flash.blocks_per_plane = number("flash", "Block_No_Per_Plane");
  flash.pages_per_block = number("flash", "Page_No_Per_Block");
  flash.page_size = config.page_size;
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
                 .submission_entry = t.bytes("sqe_bytes"),
                 .completion_entry = t.bytes("cqe_bytes"),
                 .time_step = SimDuration{kPerNanosecond},
                 .fetch_limit = number("device", "Queue_Fetch_Size")};
  return config;
}

MqsimWorkload mqsim_workload(const MqsimParameters& p) {
  FlashConfig flash;
  flash.channels = static_cast<int>(p.integer("device", "Flash_Channel_Count"));
  flash.chips_per_channel = static_cast<int>(p.integer("device", "Chip_No_Per_Channel"));
  flash.dies_per_chip = static_cast<int>(p.integer("flash", "Die_No_Per_Chip"));
  flash.planes_per_die = static_cast<int>(p.integer("flash", "Plane_No_Per_Die"));
  const bool is_aligned = p.text("workload", "Generated_Aligned_Addresses") == "true";
  return {.requests = p.integer("workload", "Total_Requests_To_Generate"),
          .sectors = logical_sectors(p, flash),
          .working_set = p.number("workload", "Working_Set_Percentage") / kPercent,
          .reads = p.number("workload", "Read_Percentage") / kPercent,
          .pattern = p.text("workload", "Address_Distribution") == "STREAMING"
                         ? MqsimWorkload::Pattern::streaming
                         : MqsimWorkload::Pattern::random_uniform,
          .request_sectors = p.integer("workload", "Average_Request_Size"),
          .alignment = is_aligned ? p.integer("workload", "Address_Alignment_Unit") : 1,
          .seed = static_cast<int>(p.integer("workload", "Seed"))};
}

ValidationReport run_mqsim_suite(const std::string& file) {
  const nlohmann::json suite = load_json(file);
  const nlohmann::json& provenance = member(suite, "provenance", file);
  ValidationReport report;
  report.suite = "mqsim";
  report.reference = fmt::format("{} at commit {}", text_in(provenance, "tool", "/provenance"),
                                 text_in(provenance, "commit", "/provenance"));
  const nlohmann::json& timing = member(suite, "timing_constants", file);
  for (const nlohmann::json& point : member(suite, "points", file)) {
    const std::string name = text_in(point, "name", "/points");
    const std::string where = fmt::format("/points/{}", name);
    const MqsimParameters parameters(member(suite, "shared_parameters", file),
                                     member(point, "parameters", where));
    if (std::string reason = reason_not_covered(parameters); !reason.empty()) {
      report.not_covered.push_back({name, std::move(reason)});
      continue;
    }
    const std::optional<ResponseTimes> times = simulate(parameters, timing);
    if (times) {
      compare(report, name, member(point, "reference", where), *times, parameters);
    } else {
      report.not_covered.push_back({name, "garbage collection starts, which is not modelled"});
    }
  }
  return report;
}

}  // namespace nearkv
