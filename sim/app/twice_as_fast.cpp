#include "sim/app/twice_as_fast.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "models/systems/design_point.hpp"
#include "sim/app/point.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/config_numbers.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

struct Resource {
  std::string_view family;
  std::vector<std::string_view> paths;  // of constants; those that a point does not have are none
};

// One row a resource, as parts report them to the activity log.
const std::vector<Resource>& table() {
  static const std::vector<Resource> resources{
      {"gpu/compute", {"/gpu/0/memory_bandwidth", "/gpu/0/tensor_peak", "/gpu/0/kernel_launch"}},
      {"host/cores",
       {"/host/file_system/hit_per_page", "/host/file_system/miss_per_page",
        "/host/file_system/io_submission", "/host/swap/major_fault", "/host/swap/minor_fault",
        "/host/swap/swap_out_per_page", "/system/gds/request_cost"}},
      {"host/submitter", {"/csd/0/nvme/host_submit"}},
      {"host/staging/h2d", {"/host/pageable_h2d"}},
      {"host/staging/d2h", {"/host/pageable_d2h"}},
      {"host/driver_thread",
       {"/host/framework/kernel_issue", "/host/framework/task", "/host/framework/team_start",
        "/host/framework/team_rate"}},
      {"host/interpreter", {"/host/framework/copy_task", "/host/framework/file_open"}},
      {"host/copy_team",
       {"/host/framework/team_start", "/host/framework/team_rate", "/host/dram_rate"}},
      {"host/cpu_attention", {"/host/cpu_attention/flop_rate", "/host/dram_rate"}},
      {"host/scores", {"/system/write_back/host_score_rate"}},
      {"host/scheduler", {"/system/scheduling_overhead"}},
      {"host/swap_copies", {"/system/swap_copy_overhead"}},
      {"parallelism", {"/parallelism/collective_overhead"}},
      {"ssd",
       {"/ssd/0/flash/mega_transfers", "/ssd/0/flash/t_read", "/ssd/0/flash/t_program",
        "/ssd/0/flash/read_command/bus", "/ssd/0/flash/program_command/bus", "/ssd/0/dram/rate",
        "/ssd/0/controller/command_cost", "/ssd/0/controller/lookup_cost",
        "/ssd/0/controller/completion_cost", "/ssd/0/nvme/host_submit", "/ssd/0/nvme/doorbell",
        "/ssd/0/nvme/command_fetch", "/ssd/0/nvme/completion"}},
      {"csd/controller_cores",
       {"/csd/0/engine/attend_cost", "/csd/0/controller/command_cost",
        "/csd/0/controller/completion_cost"}},
      {"csd/nvme", {"/csd/0/nvme/doorbell", "/csd/0/nvme/command_fetch", "/csd/0/nvme/completion"}},
      {"csd/flash/channels",
       {"/csd/0/flash/mega_transfers", "/csd/0/flash/read_command/bus",
        "/csd/0/flash/program_command/bus"}},
      {"csd/flash/dies", {"/csd/0/flash/t_read", "/csd/0/flash/t_program", "/csd/0/flash/t_erase"}},
      {"csd/flash",
       {"/csd/0/flash/mega_transfers", "/csd/0/flash/read_command/bus",
        "/csd/0/flash/program_command/bus", "/csd/0/flash/t_read", "/csd/0/flash/t_program",
        "/csd/0/flash/t_erase"}},
      {"csd/gemv_units", {"/csd/0/engine/gemv_rate"}},
      {"csd/softmax", {"/csd/0/engine/softmax_latency"}},
      {"csd/argtopk", {"/csd/0/engine/argtopk_rate"}},
      {"pcie/host_memory", {"/host/dram_rate"}},
  };
  return resources;
}

/// A PCIe link's name: of which kind of device, and whether it is the way between root ports.
struct LinkName {
  std::string device;
  bool is_between_roots;
};

constexpr std::string_view kDevices[]{"gpu", "ssd", "csd"};
constexpr std::string_view kDirections[]{"up", "down", "peer_up", "peer_down"};

std::optional<LinkName> link_named(const std::string& family) {
  for (const std::string_view device : kDevices) {
    for (const std::string_view direction : kDirections) {
      if (family == fmt::format("pcie/{}/{}", device, direction)) {
        return LinkName{std::string(device), direction.starts_with("peer")};
      }
    }
  }
  return std::nullopt;
}

const Resource* find_resource(const std::string& family) {
  const auto found = std::ranges::find(table(), family, &Resource::family);
  return found == table().end() ? nullptr : &*found;
}

std::string as_text(const json& written) {
  return written.is_string() ? written.get<std::string>() : written.dump();
}

class Speeder {
 public:
  explicit Speeder(const json& config) : faster_{config, {}} {
    DesignPoint point;
    for (ConstantUse& use : read_fields(config, [&point](FieldVisitor& v) { point.fields(v); })) {
      numbers_.emplace(use.path, use);
    }
  }

  /// A constant, if the point has it and it is not 0.
  void speed_up(std::string_view path) {
    const auto use = numbers_.find(path);
    if (use == numbers_.end() || !use->second.number || use->second.number->value == 0) {
      return;
    }
    const FieldNumber& number = *use->second.number;
    const bool is_time = number.type == NumberType::duration;
    const json to = number_as_json(number.type, is_time ? number.value / 2 : number.value * 2);
    change(path, use->second.value, to);
  }

  void speed_up_ports(const std::string& device) {
    if (faster_.config.at(device).empty()) {
      return;  // ports that nothing is at
    }
    json& pcie = faster_.config.at("pcie");
    for (std::size_t i = 0; i < pcie.at("ports").size(); ++i) {
      const std::string of = plain_value(pcie.at("ports")[i].at("device"));
      if (of == device || of.starts_with(device + "/")) {
        const std::string link = fmt::format("/pcie/ports/{}/link", i);
        const int old = plain_value(pcie.at("ports")[i].at("link").at("generation"));
        change(link + "/generation", std::to_string(old), doubled_generation(pcie, old));
        speed_up(link + "/latency");
      }
    }
  }

  [[nodiscard]] FasterPoint take() { return std::move(faster_); }

 private:
  void change(std::string_view path, const std::string& from, const json& to) {
    set_existing(faster_.config, path, to, "twice as fast");
    faster_.changes.push_back({std::string(path), from, as_text(to)});
  }

  /// A generation with lanes twice as fast, under a number that no other has.
  int doubled_generation(json& pcie, int old) {
    constexpr int kApart = 1000;  // not a constant: numbers of generations are below
    const int number = kApart + old;
    json& generations = pcie.at("generations");
    for (std::size_t i = 0; i < generations.size(); ++i) {
      const int known = plain_value(generations[i].at("generation"));
      if (known == number) {
        return number;
      }
      if (known == old) {
        const std::string path = fmt::format("/pcie/generations/{}/lane_rate", i);
        json faster = generations[i];
        faster["generation"] = number;
        const double rate = numbers_.at(path).number->value;
        faster["lane_rate"]["value"] = number_as_json(NumberType::rate, rate * 2);
        generations.push_back(std::move(faster));
        return number;
      }
    }
    check(false, "a PCIe link of an unknown generation");
    return 0;
  }

  FasterPoint faster_;
  std::map<std::string, ConstantUse, std::less<>> numbers_;
};

}  // namespace

std::vector<std::string> known_resources() {
  std::vector<std::string> names;
  for (const Resource& resource : table()) {
    names.emplace_back(resource.family);
  }
  for (const std::string_view device : kDevices) {
    for (const std::string_view direction : kDirections) {
      names.push_back(fmt::format("pcie/{}/{}", device, direction));
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool is_known_resource(const std::string& family) {
  return find_resource(family) != nullptr || link_named(family).has_value();
}

namespace {

/// Without changes when the point has no such resource.
FasterPoint try_twice_as_fast(const json& config, const std::string& family) {
  const std::optional<LinkName> link = link_named(family);
  Speeder speeder(config);
  if (const Resource* resource = find_resource(family)) {
    for (const std::string_view path : resource->paths) {
      speeder.speed_up(path);
    }
    if (family == "ssd") {
      speeder.speed_up_ports("ssd");  // an SSD times its link itself
    }
  } else if (link && link->is_between_roots) {
    speeder.speed_up("/pcie/root_peer_to_peer/rate");
    speeder.speed_up("/pcie/root_peer_to_peer/latency");
  } else if (link) {
    speeder.speed_up_ports(link->device);
  }
  return speeder.take();
}

}  // namespace

bool can_be_faster(const json& config, const std::string& family) {
  return !try_twice_as_fast(config, family).changes.empty();
}

FasterPoint twice_as_fast(const json& config, const std::string& family,
                          const std::string& option) {
  if (!is_known_resource(family)) {
    const std::string nearest = nearest_name(family, known_resources());
    throw ConfigError(
        fmt::format("{}: unknown resource; {}there are: {}", option,
                    nearest.empty() ? "" : fmt::format("did you mean \"{}\"? ", nearest),
                    fmt::join(known_resources(), ", ")));
  }
  FasterPoint faster = try_twice_as_fast(config, family);
  if (faster.changes.empty()) {
    throw ConfigError(
        fmt::format("{}: this design point has no such resource, or it takes no time", option));
  }
  static_cast<void>(check_point(faster.config));
  return faster;
}

}  // namespace nearkv
