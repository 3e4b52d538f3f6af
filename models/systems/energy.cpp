#include "models/systems/energy.hpp"

#include <utility>

#include <fmt/format.h>

#include "models/systems/design_point.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr double kJoulesPerKwh = 3.6e6;              // unit: 1 kWh
constexpr double kSecondsPerYear = 365.25 * 86'400;  // unit: Julian years of 86,400 s days
constexpr double kMillion = 1e6;                     // unit: of the metric's name

/// Increments of the gauges by name; a part that is there has its gauges.
class Busy {
 public:
  explicit Busy(const RunTotals& totals) : totals_(totals) {}

  [[nodiscard]] bool has(std::string_view gauge) const {
    return totals_.gauges.find(gauge) != totals_.gauges.end();
  }
  [[nodiscard]] double of(std::string_view gauge) const {
    const auto found = totals_.gauges.find(gauge);
    check(found != totals_.gauges.end(), fmt::format("no gauge {} to tell energy from", gauge));
    return found->second;
  }
  /// Sum over KIND/0/NAME, KIND/1/NAME and so on.
  [[nodiscard]] double of_all(std::string_view kind, int count, std::string_view name) const {
    double sum = 0;
    for (int i = 0; i < count; ++i) {
      sum += of(fmt::format("{}/{}/{}", kind, i, name));
    }
    return sum;
  }

 private:
  const RunTotals& totals_;
};

void add_host(const DesignPoint& point, const Busy& busy, std::vector<PartUse>& parts) {
  const HostPowerConfig& power = point.host.power;
  // A host without SSDs has the gauge only if something else uses its cores.
  const bool has_cores = !point.ssd.empty() || busy.has("host/cores");
  const double cores = has_cores ? busy.of("host/cores") : 0;
  parts.push_back({"host/cpu",
                   "CPU, its idle power and what its busy cores add",
                   1,
                   power.cpu_idle,
                   {{power.cpu_core, cores}, {power.cpu_core, busy.of("host/submitter")}},
                   {}});
  const double gib =
      static_cast<double>(point.host.dram.count()) / static_cast<double>((1_GiB).count());
  const double dram = static_cast<double>(power.dram_per_gib.count()) * gib;
  parts.push_back({"host/dram", "host memory", 1, Power{static_cast<std::int64_t>(dram)}, {}, {}});
  parts.push_back(
      {"host/board", "mainboard, fans, network and boot drive", 1, power.board, {}, {}});
}

void add_ssds(const DesignPoint& point, const Busy& busy, std::vector<PartUse>& parts) {
  if (point.ssd.empty()) {
    return;
  }
  const SsdConfig& ssd = point.ssd.front();
  const SsdPowerConfig& power = ssd.power;
  const auto seconds = [&busy](std::string_view gauge, Rate rate) {
    return busy.of(gauge) / static_cast<double>(rate.per_second());
  };
  parts.push_back({"ssd",
                   "SSDs",
                   ssd.count,
                   power.idle,
                   {{power.read - power.idle, seconds("ssd/read", power.read_rate)},
                    {power.write - power.idle, seconds("ssd/written", power.write_rate)}},
                   {}});
}

void add_csds(const DesignPoint& point, const Busy& busy, std::vector<PartUse>& parts) {
  if (point.csd.empty()) {
    return;
  }
  const CsdConfig& csd = point.csd.front();
  const CsdPowerConfig& power = csd.power;
  const auto sum = [&](std::string_view name) { return busy.of_all("csd", csd.count, name); };
  const auto pages = [&](std::string_view name) {
    return sum(name) / static_cast<double>(csd.flash.page_size.count());
  };
  const Power none{};
  parts.push_back({"csd/idle", "CSDs, as if they were idle", csd.count, power.idle, {}, {}});
  parts.push_back({"csd/engine",
                   "attention engines of the CSDs at work",
                   csd.count,
                   none,
                   {{power.engine, sum("attention_kernels")}},
                   {}});
  parts.push_back({"csd/controller",
                   "controller cores of the CSDs at work",
                   csd.count,
                   none,
                   {{power.controller_core, sum("controller_cores")}},
                   {}});
  parts.push_back({"csd/flash",
                   "flash pages that the CSDs read and programmed",
                   csd.count,
                   none,
                   {},
                   {{power.flash_read, pages("flash/read")},
                    {power.flash_program, pages("flash/programmed")}}});
}

int switches(const DesignPoint& point) { return static_cast<int>(point.pcie.switches.size()); }

}  // namespace

void PcieSwitchCost::fields(FieldVisitor& v) {
  v.constant("power", power, "power of a PCIe switch", at_least(0));
  v.constant("price_usd", price_usd, "purchase price of a PCIe switch in US dollars", at_least(0));
}

void EconomicsConfig::fields(FieldVisitor& v) {
  constexpr double kShortest = 0.01;  // not a constant: a limit against slips
  constexpr double kLongest = 100;    // not a constant: a limit against slips
  v.constant("lifetime_years", lifetime_years,
             "years over which the purchase prices are spread, without residual value",
             {kShortest, kLongest});
  v.constant("utilization", utilization,
             "share of the lifetime in which the server does work like this run's", {kShortest, 1});
  v.constant("electricity_usd_per_kwh", electricity_usd_per_kwh,
             "price of electricity in US dollars a kWh", at_least(0));
  v.constant("pue", pue,
             "power usage effectiveness: power of the data centre over that of its servers",
             {1, kLongest});
  v.group("pcie_switch", pcie_switch, "each of the switches in pcie");
}

double PartUse::joules(double time) const {
  double sum = to_watts(idle) * count * time;
  for (const Activity& activity : activities) {
    sum += to_watts(activity.extra) * activity.busy;
  }
  for (const Events& event : events) {
    sum += to_joules(event.each) * event.count;
  }
  return sum;
}

std::vector<PartUse> part_uses(const DesignPoint& point, const RunTotals& totals) {
  const Busy busy(totals);
  std::vector<PartUse> parts;
  const GpuPowerConfig& gpu = point.gpu.front().power;
  const int gpus = point.parallelism.gpus();
  parts.push_back({"gpu",
                   "GPUs",
                   gpus,
                   gpu.idle,
                   {{gpu.active - gpu.idle, busy.of_all("gpu", gpus, "compute")}},
                   {}});
  add_host(point, busy, parts);
  add_ssds(point, busy, parts);
  add_csds(point, busy, parts);
  if (switches(point) > 0) {
    parts.push_back({"pcie_switches",
                     "PCIe switches",
                     switches(point),
                     point.economics.pcie_switch.power,
                     {},
                     {}});
  }
  return parts;
}

double system_price(const DesignPoint& point) {
  const double gib =
      static_cast<double>(point.host.dram.count()) / static_cast<double>((1_GiB).count());
  double price = point.gpu.front().price_usd * point.parallelism.gpus() + point.host.price.cpu_usd +
                 point.host.price.chassis_usd + point.host.price.dram_usd_per_gib * gib +
                 point.economics.pcie_switch.price_usd * switches(point);
  for (const SsdConfig& ssd : point.ssd) {
    price += ssd.price_usd * ssd.count;
  }
  for (const CsdConfig& csd : point.csd) {
    price += csd.price_usd * csd.count;
  }
  return price;
}

RunCost run_cost(const EconomicsConfig& economics, double price, double time, double joules) {
  const double seconds_of_use = economics.lifetime_years * kSecondsPerYear * economics.utilization;
  return {price / seconds_of_use * time,
          joules / kJoulesPerKwh * economics.electricity_usd_per_kwh * economics.pue};
}

void report_energy(const DesignPoint& point, const RunTotals& totals, Metrics& metrics) {
  check(totals.time > 0 && totals.output_tokens > 0, "energy of a run without time or tokens");
  std::vector<std::pair<const PartUse, double>> parts;
  double drawn = 0;
  for (PartUse& use : part_uses(point, totals)) {
    const double joules = use.joules(totals.time);
    drawn += joules;
    parts.emplace_back(std::move(use), joules);
  }
  const double from_socket = drawn / point.host.power.supply_efficiency;
  parts.emplace_back(PartUse{.part = "power_supplies", .doc = "losses of the power supplies"},
                     from_socket - drawn);
  metrics.add("energy", from_socket, "J", "of the run, from the socket of the server");
  for (const auto& [use, joules] : parts) {
    metrics.add("energy/" + use.part, joules, "J", "energy of the run: " + use.doc);
  }
  metrics.add("energy_per_token", from_socket / totals.output_tokens, "J",
              "energy over output tokens");
  for (const auto& [use, joules] : parts) {
    metrics.add("energy_per_token/" + use.part, joules / totals.output_tokens, "J",
                "energy over output tokens: " + use.doc);
  }
  metrics.add("average_power", from_socket / totals.time, "W", "energy over the time of the run");

  const double price = system_price(point);
  const RunCost cost = run_cost(point.economics, price, totals.time, from_socket);
  const double millions = totals.output_tokens / kMillion;
  metrics.add("system_price", price, "USD", "purchase price of all parts");
  metrics.add("cost_per_million_tokens", cost.all() / millions, "USD",
              "capital and electricity of a million output tokens");
  metrics.add("cost/capital", cost.capital / millions, "USD",
              "share of the purchase price in a million output tokens");
  metrics.add("cost/electricity", cost.electricity / millions, "USD",
              "electricity of a million output tokens");
}

}  // namespace nearkv
