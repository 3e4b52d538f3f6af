// Energy and cost of a run, from how long its parts were at work.
//
// A part draws its idle power all the time, more of it while something in it is busy, and an
// energy for each event (a flash page):
//     E_part = idle x time + sum of extra power x busy time + sum of energy x events
// The power supplies draw 1 / efficiency of that, so that the server takes from its socket
//     E = (sum of E_part) / efficiency
// An output token takes its share of E and of what the run costs in US dollars:
//     capital     = price of all parts / (lifetime x utilization) x time
//     electricity = E x price of electricity x PUE
//
// part           idle power               extra power x busy time, energy x events
// gpu            gpu/power/idle           (active - idle) x gpu/N/compute
// host/cpu       host/power/cpu_idle      cpu_core x (host/cores + host/submitter)
// host/dram      dram_per_gib x dram
// host/board     host/power/board
// ssd            ssd/power/idle           (read - idle) x ssd/read / read_rate
//                                         (write - idle) x ssd/written / write_rate
// csd/idle       csd/power/idle
// csd/engine                              engine x csd/N/attention_kernels
// csd/controller                          controller_core x csd/N/controller_cores
// csd/flash                               flash_read x pages read, flash_program x pages programmed
// pcie_switches  economics/pcie_switch/power
//
// Limits:
// - A GPU has two states. At work its power depends on the operator: an H200 drew 0.80 of its limit
//   in GEMMs of 8 rows, 0.85 in copies, and 0.99 both in decode attention and in large GEMMs.
//   A GPU whose active power is its limit is thus taken to draw up to a quarter too much.
// - Host memory, links and switches draw the same whatever they carry; flash erases and the CSD's
//   filters draw nothing of their own. The host thread that drives the GPU is not a busy core.
// - Electricity is that of the run. What a server draws in the share of its lifetime in which it is
//   not used, and staff, network and building, are not in it.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "sim/core/fields.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

struct DesignPoint;

/// Of each of the switches in /pcie.
struct PcieSwitchCost {
  Power power{};
  double price_usd = 0;

  void fields(FieldVisitor& v);
};

/// What a run's cost depends on besides its parts. Config /economics.
struct EconomicsConfig {
  double lifetime_years = 0;  // of all parts, without residual value
  double utilization = 0;     // share of the lifetime in which the server works
  double electricity_usd_per_kwh = 0;
  double pue = 0;  // power of the data centre over that of its servers
  PcieSwitchCost pcie_switch;

  void fields(FieldVisitor& v);
};

/// How a part, or several equal ones together, used power in a run.
struct PartUse {
  struct Activity {
    Power extra;  // on top of the idle power
    double busy;  // seconds, summed over what can be busy
  };
  struct Events {
    Energy each;
    double count;
  };
  std::string part;  // "csd/flash"
  std::string doc;
  int count = 0;  // equal parts
  Power idle{};   // of each
  std::vector<Activity> activities{};
  std::vector<Events> events{};

  /// Joules over `time` seconds.
  [[nodiscard]] double joules(double time) const;
};

/// A whole run, of which a part may have been extrapolated.
struct RunTotals {
  double time = 0;  // seconds
  double output_tokens = 0;
  std::map<std::string, double, std::less<>> gauges{};  // increments of Machine's gauges, by name
};

/// The parts of `point` in the order of the table above; power supplies not included. check()s that
/// the gauges of its parts are there.
[[nodiscard]] std::vector<PartUse> part_uses(const DesignPoint& point, const RunTotals& totals);

/// Of all parts, in US dollars.
[[nodiscard]] double system_price(const DesignPoint& point);

/// US dollars.
struct RunCost {
  double capital = 0;
  double electricity = 0;

  [[nodiscard]] double all() const { return capital + electricity; }
};
/// Of a run of `time` seconds that took `joules` from the socket, on parts of that price.
[[nodiscard]] RunCost run_cost(const EconomicsConfig& economics, double price, double time,
                               double joules);

/// Adds to the metrics
///   energy                     J    of the run, from the socket of the server
///   energy/PART                J    the same by part, power supplies included: their sum
///   energy_per_token           J    energy over output tokens
///   energy_per_token/PART      J
///   average_power              W    energy over the time of the run
///   system_price               USD
///   cost_per_million_tokens    USD  of output
///   cost/capital, cost/electricity   USD   the same, divided
void report_energy(const DesignPoint& point, const RunTotals& totals, Metrics& metrics);

}  // namespace nearkv
