#include "models/systems/energy.hpp"

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "models/systems/test_points.hpp"

using namespace nearkv;

namespace {

/// Round powers and prices: 1 GPU, 2 SSDs, 4 CSDs, 2 switches.
DesignPoint round_point() {
  DesignPoint point = small_point("insti_dense");
  const DesignPoint with_ssd = small_point("flexgen");
  point.ssd = with_ssd.ssd;
  point.ssd.front().count = 2;
  point.csd.front().count = 4;
  point.csd.front().flash.page_size = 4_KiB;
  point.host.dram = 100_GiB;
  point.gpu.front().power = {.idle = 50_W, .active = 300_W};
  point.host.power = {.cpu_idle = 60_W,
                      .cpu_core = 5_W,
                      .dram_per_gib = Power{200'000},
                      .board = 40_W,
                      .supply_efficiency = 0.8};
  point.ssd.front().power = {
      .idle = 2_W, .read = 6_W, .read_rate = 1000_MBps, .write = 7_W, .write_rate = 500_MBps};
  point.csd.front().power = {.idle = 8_W,
                             .engine = 11_W,
                             .controller_core = 1_W,
                             .flash_read = 10_uJ,
                             .flash_program = 100_uJ};
  point.pcie.switches.resize(2);
  point.economics.pcie_switch = {.power = 30_W, .price_usd = 600};
  point.gpu.front().price_usd = 4000;
  point.host.price = {.cpu_usd = 1500, .dram_usd_per_gib = 4, .chassis_usd = 2000};
  point.ssd.front().price_usd = 400;
  point.csd.front().price_usd = 1000;
  return point;
}

RunTotals round_totals() {
  RunTotals totals{.time = 100, .output_tokens = 1000};
  totals.gauges = {{"gpu/0/compute", 20},
                   {"host/cores", 30},
                   {"host/submitter", 10},
                   {"ssd/read", 40e9},
                   {"ssd/written", 5e9}};
  for (int i = 0; i < 4; ++i) {
    const std::string csd = "csd/" + std::to_string(i);
    totals.gauges[csd + "/attention_kernels"] = 10 + i;
    totals.gauges[csd + "/controller_cores"] = 5;
    totals.gauges[csd + "/flash/read"] = 4096e6;
    totals.gauges[csd + "/flash/programmed"] = 4096e4;
  }
  return totals;
}

RunTotals idle_totals() {
  RunTotals totals = round_totals();
  for (auto& [name, value] : totals.gauges) {
    value = 0;
  }
  return totals;
}

Metrics energy_of(const DesignPoint& point, const RunTotals& totals) {
  Metrics metrics;
  report_energy(point, totals, metrics);
  return metrics;
}

/// The fields of the parts' power.
std::vector<std::function<Power&(DesignPoint&)>> powers() {
  return {
      [](DesignPoint& p) -> Power& { return p.gpu.front().power.idle; },
      [](DesignPoint& p) -> Power& { return p.gpu.front().power.active; },
      [](DesignPoint& p) -> Power& { return p.host.power.cpu_idle; },
      [](DesignPoint& p) -> Power& { return p.host.power.cpu_core; },
      [](DesignPoint& p) -> Power& { return p.host.power.dram_per_gib; },
      [](DesignPoint& p) -> Power& { return p.host.power.board; },
      [](DesignPoint& p) -> Power& { return p.ssd.front().power.idle; },
      [](DesignPoint& p) -> Power& { return p.ssd.front().power.read; },
      [](DesignPoint& p) -> Power& { return p.ssd.front().power.write; },
      [](DesignPoint& p) -> Power& { return p.csd.front().power.idle; },
      [](DesignPoint& p) -> Power& { return p.csd.front().power.engine; },
      [](DesignPoint& p) -> Power& { return p.csd.front().power.controller_core; },
      [](DesignPoint& p) -> Power& { return p.economics.pcie_switch.power; },
  };
}

double sum_below(const Metrics& metrics, const std::string& prefix) {
  double sum = 0;
  for (const Metric& metric : metrics.all()) {
    sum += metric.name.starts_with(prefix) ? metric.value : 0;
  }
  return sum;
}

/// doctest's Approx adds 1 to small figures.
void check_close(double value, double expected, double tolerance = 1e-9) {
  INFO("expected ", expected, ", is ", value);
  CHECK(std::abs(value - expected) <= tolerance * std::abs(expected));
}

}  // namespace

TEST_CASE("energy: idle power all the time, more while busy, an energy for each event") {
  PartUse part{.part = "part",
               .doc = "",
               .count = 3,
               .idle = 2_W,
               .activities = {{10_W, 4}, {1_W, 6}},
               .events = {{50_uJ, 1e6}}};
  check_close(part.joules(100), 3 * 2 * 100 + 10 * 4 + 1 * 6 + 50);
  check_close(part.joules(0), 96);
  part.activities.clear();
  part.events.clear();
  check_close(part.joules(100), 600);
}

TEST_CASE("energy: every part's joules in closed form") {
  const Metrics metrics = energy_of(round_point(), round_totals());
  check_close(metrics.at("energy/gpu"), 50 * 100 + 250 * 20);
  check_close(metrics.at("energy/host/cpu"), 60 * 100 + 5 * (30 + 10));
  check_close(metrics.at("energy/host/dram"), 0.2 * 100 * 100);
  check_close(metrics.at("energy/host/board"), 40 * 100);
  check_close(metrics.at("energy/ssd"), 2 * 2 * 100 + 4 * 40 + 5 * 10);
  check_close(metrics.at("energy/csd/idle"), 4 * 8 * 100);
  check_close(metrics.at("energy/csd/engine"), 11 * (10 + 11 + 12 + 13));
  check_close(metrics.at("energy/csd/controller"), 1 * 4 * 5);
  check_close(metrics.at("energy/csd/flash"), 4 * (1e6 * 10e-6 + 1e4 * 100e-6));
  check_close(metrics.at("energy/pcie_switches"), 2 * 30 * 100);
}

TEST_CASE("energy: parts and losses add up to what comes from the socket") {
  const Metrics metrics = energy_of(round_point(), round_totals());
  const double all = metrics.at("energy");
  check_close(sum_below(metrics, "energy/"), all);
  check_close(metrics.at("energy/power_supplies"), 0.2 * all);
  check_close(metrics.at("energy_per_token"), all / 1000);
  check_close(sum_below(metrics, "energy_per_token/"), all / 1000);
  check_close(metrics.at("average_power"), all / 100);
}

TEST_CASE("energy: an idle machine draws its idle power") {
  const Metrics metrics = energy_of(round_point(), idle_totals());
  const double watts = 50 + 60 + 0.2 * 100 + 40 + 2 * 2 + 4 * 8 + 2 * 30;
  check_close(metrics.at("average_power"), watts / 0.8);
  for (const char* part : {"energy/csd/engine", "energy/csd/controller", "energy/csd/flash"}) {
    CHECK(metrics.at(part) == 0);
  }
}

TEST_CASE("energy: a part that is not there has no line and no price") {
  DesignPoint point = round_point();
  const double price = system_price(point);
  point.ssd.clear();
  point.csd.clear();
  point.pcie.switches.clear();
  RunTotals totals = round_totals();
  totals.gauges.erase("host/cores");
  const Metrics metrics = energy_of(point, totals);
  for (const char* part : {"energy/ssd", "energy/csd/idle", "energy/pcie_switches"}) {
    CHECK_FALSE(metrics.find(part).has_value());
  }
  check_close(metrics.at("energy/host/cpu"), 60 * 100 + 5 * 10);
  check_close(system_price(point), price - 2 * 400 - 4 * 1000 - 2 * 600);
}

TEST_CASE("energy: more power in any state is more energy, and none is below idle") {
  const double before = energy_of(round_point(), round_totals()).at("energy");
  CHECK(before > energy_of(round_point(), idle_totals()).at("energy"));
  for (std::size_t i = 0; i < powers().size(); ++i) {
    INFO("power ", i);
    DesignPoint point = round_point();
    powers()[i](point) += 1_W;
    CHECK(energy_of(point, round_totals()).at("energy") > before);
  }
  DesignPoint point = round_point();
  point.csd.front().power.flash_read += 1_uJ;
  CHECK(energy_of(point, round_totals()).at("energy") > before);
  point = round_point();
  point.csd.front().power.flash_program += 1_uJ;
  CHECK(energy_of(point, round_totals()).at("energy") > before);
}

TEST_CASE("energy: each GPU and each drive counts") {
  DesignPoint point = round_point();
  point.parallelism.tensor = 2;
  point.parallelism.pipeline = 2;
  RunTotals totals = round_totals();
  for (const char* gpu : {"gpu/1/compute", "gpu/2/compute", "gpu/3/compute"}) {
    totals.gauges[gpu] = 5;
  }
  check_close(energy_of(point, totals).at("energy/gpu"), 4 * 50 * 100 + 250 * (20 + 3 * 5));
  check_close(system_price(point), system_price(round_point()) + 3 * 4000);
  // A GPU whose gauge is not there is our bug.
  CHECK_THROWS(static_cast<void>(part_uses(point, round_totals())));
  totals.gauges.erase("host/cores");
  CHECK_THROWS(static_cast<void>(part_uses(point, totals)));
}

TEST_CASE("energy: the price of the system and of a million tokens in closed form") {
  DesignPoint point = round_point();
  check_close(system_price(point), 4000 + 1500 + 4 * 100 + 2000 + 2 * 400 + 4 * 1000 + 2 * 600);
  point.economics.lifetime_years = 2;
  point.economics.utilization = 0.5;
  point.economics.electricity_usd_per_kwh = 0.1;
  point.economics.pue = 1.5;
  const double year = 365.25 * 24 * 3600;
  const RunCost cost = run_cost(point.economics, 1000, year / 4, 7.2e6);
  check_close(cost.capital, 250);
  check_close(cost.electricity, 2 * 0.1 * 1.5);
  check_close(cost.all(), 250.3);

  const Metrics metrics = energy_of(point, round_totals());
  check_close(metrics.at("system_price"), 13'900);
  check_close(metrics.at("cost/capital"), 13'900 / year * 100 * 1000);
  check_close(metrics.at("cost/electricity"), metrics.at("energy") / 3.6e6 * 0.15 * 1000);
  check_close(metrics.at("cost_per_million_tokens"),
              metrics.at("cost/capital") + metrics.at("cost/electricity"));
}

TEST_CASE("energy: a run's parts follow from its times and traffic") {
  const DesignPoint point = small_point("insti_dense", {"csd/0/count=2"});
  const RunResult run = run_alone(point);
  REQUIRE(run.status == RunStatus::ok);
  const double time = run.at("prefill_time") + run.at("decode_time");
  const auto busy = [&](const std::string& part) {
    return run.at("prefill_busy/" + part) + run.at("utilization/" + part) * run.at("decode_time");
  };
  const GpuPowerConfig& gpu = point.gpu.front().power;
  check_close(run.at("energy/gpu"),
              to_watts(gpu.idle) * time + to_watts(gpu.active - gpu.idle) * busy("gpu/0/compute"));
  const CsdPowerConfig& csd = point.csd.front().power;
  check_close(run.at("energy/csd/idle"), 2 * to_watts(csd.idle) * time);
  check_close(
      run.at("energy/csd/engine"),
      to_watts(csd.engine) * (busy("csd/0/attention_kernels") + busy("csd/1/attention_kernels")));
  double flash = 0;
  for (const std::string drive : {"csd/0", "csd/1"}) {
    for (const std::string phase : {"prefill_traffic/", "decode_traffic/"}) {
      flash += run.at(phase + drive + "/flash/read") / 4096 * to_joules(csd.flash_read);
      flash += run.at(phase + drive + "/flash/programmed") / 4096 * to_joules(csd.flash_program);
    }
  }
  CHECK(flash > 0);
  check_close(run.at("energy/csd/flash"), flash);
  check_close(run.at("energy_per_token"), run.at("energy") / (2 * 9));
}

TEST_CASE("energy: a sampled run's energy is that of all steps") {
  const Overrides longer{"workload/output_tokens=200"};
  for (const char* system : {"flexgen", "insti_dense"}) {
    INFO(system);
    const RunResult all = run_alone(small_point(system, longer));
    const RunResult sampled =
        run_alone(small_point(system, longer + Overrides{"simulation/fidelity=sampled"}));
    CHECK(sampled.at("decode_steps_simulated") < all.at("decode_steps_simulated"));
    check_close(sampled.at("energy"), all.at("energy"), 0.005);
    check_close(sampled.at("energy/host/cpu"), all.at("energy/host/cpu"), 0.005);
    check_close(sampled.at("cost_per_million_tokens"), all.at("cost_per_million_tokens"), 0.005);
  }
}
