#include "models/pcie/pcie.hpp"

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

/// lanes x 1 GB/s of payload: packets without overhead.
PcieLinkConfig lanes(int count, SimDuration latency = 100ns) {
  return {.generation = 1,
          .lanes = count,
          .max_payload = 256_B,
          .latency = latency,
          .achieved_fraction = 1};
}

/// gpu/0 (16 lanes), csd/0 and csd/1 (4) below a switch with 4 lanes to the root; gpu/1 (16) and
/// ssd/0 (4) at root ports; 10 GB/s through the root complex.
PcieConfig switch_and_root() {
  PcieConfig config;
  config.generations = {{.generation = 1, .lane_rate = Rate{1'000'000'000}, .tlp_overhead = {}}};
  config.switches = {{.name = "plx", .attach = "root", .link = lanes(4, 50ns)}};
  config.ports = {{.device = "gpu/0", .attach = "plx", .link = lanes(16)},
                  {.device = "csd/*", .attach = "plx", .link = lanes(4)},
                  {.device = "gpu/1", .attach = "root", .link = lanes(16)},
                  {.device = "ssd/0", .attach = "root", .link = lanes(4)}};
  config.root_peer_to_peer = {.rate = Rate{10'000'000'000}, .latency = 30ns};
  return config;
}

const std::vector<std::string> kDevices{"gpu/0", "gpu/1", "csd/0", "csd/1", "ssd/0"};

/// One flow of a scenario, and when it arrived.
struct Flow {
  std::string from;
  std::string to;
  Bytes size;
  SimTime start{};
  SimTime done{};
};

NodeId end_of(const PcieFabric& fabric, const std::string& name) {
  return name == "host" ? fabric.host() : fabric.node(name);
}

/// Runs flows side by side and returns the metrics.
Metrics run_flows(const PcieConfig& config, std::vector<Flow>& flows) {
  Engine engine;
  const PcieFabric fabric(engine, config, kDevices);
  int number = 0;
  for (Flow& flow : flows) {
    const NodeId from = end_of(fabric, flow.from);
    const NodeId to = end_of(fabric, flow.to);
    engine.spawn("flow" + std::to_string(number++), from, [&engine, &flow, from, to] {
      engine.wait_until(flow.start);
      engine.transfer(from, to, flow.size);
      flow.done = engine.now();
    });
  }
  engine.run();
  Metrics metrics;
  fabric.report(metrics, engine.now().time_since_epoch());
  return metrics;
}

SimTime lone_flow(const std::string& from, const std::string& to, Bytes size) {
  std::vector<Flow> flows{{from, to, size}};
  static_cast<void>(run_flows(switch_and_root(), flows));
  return flows[0].done;
}

PcieConfig read_pcie(const nlohmann::json& config) {
  PcieConfig pcie;
  read_fields(config, [&](FieldVisitor& v) { pcie.fields(v); });
  return pcie;
}

nlohmann::json shipped_json(const std::string& name) {
  return load_config(shipped_configs() / "platforms" / "pcie" / (name + ".json"));
}

std::string problem_with(const std::string& pointer, const nlohmann::json& value) {
  nlohmann::json config = shipped_json("switch_gen4");
  config[nlohmann::json::json_pointer(pointer)] = value;
  try {
    static_cast<void>(read_pcie(config));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

std::string build_problem(const PcieConfig& config, const std::vector<std::string>& devices) {
  Engine engine;
  try {
    const PcieFabric fabric(engine, config, devices);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("pcie: bandwidth is lanes x lane rate x packet efficiency x achieved fraction") {
  PcieConfig config;
  config.generations = {{.generation = 4, .lane_rate = Rate{1'969'230'769}, .tlp_overhead = 24_B}};
  PcieLinkConfig link{
      .generation = 4, .lanes = 16, .max_payload = 256_B, .latency = {}, .achieved_fraction = 1};
  // 16 x 1969230769 x 256 / 280 = 28807032963.6
  CHECK(config.bandwidth_of(link) == Rate{28'807'032'963});
  link.achieved_fraction = 0.5;
  CHECK(config.bandwidth_of(link) == Rate{14'403'516'481});
  // Larger packets and less overhead are never slower.
  Rate last{};
  for (const Bytes payload : {128_B, 256_B, 512_B, 4096_B}) {
    link.max_payload = payload;
    CHECK(config.bandwidth_of(link) > last);
    last = config.bandwidth_of(link);
  }
}

TEST_CASE("pcie: a lone flow takes latency + size / bandwidth, to the picosecond") {
  // 4 GB/s, 100 ns: 1 MB takes 250 us.
  CHECK(lone_flow("ssd/0", "host", 1'000'000_B) == SimTime{250us + 100ns});
  CHECK(lone_flow("host", "ssd/0", 1'000'000_B) == SimTime{250us + 100ns});
  // Through the switch: two links, the slower one decides.
  CHECK(lone_flow("gpu/0", "host", 1'000'000_B) == SimTime{250us + 150ns});
  // Below the switch.
  CHECK(lone_flow("gpu/0", "csd/1", 1'000'000_B) == SimTime{250us + 200ns});
  // One root port to another: 10 GB/s and 30 ns of the root complex, then 4 GB/s of the drive.
  CHECK(lone_flow("gpu/1", "ssd/0", 1'000'000_B) == SimTime{250us + 230ns});
  CHECK(lone_flow("gpu/0", "gpu/1", 1'000'000_B) == SimTime{250us + 280ns});
}

TEST_CASE("pcie: path() is what a lone flow sees") {
  const auto path = [](const PcieConfig& config, const char* from, const char* to) {
    Engine engine;
    return PcieFabric(engine, config, kDevices).path(from, to);
  };
  PcieConfig config = switch_and_root();
  CHECK(path(config, "gpu/1", "host").bandwidth == Rate{16'000'000'000});
  CHECK(path(config, "gpu/0", "host").bandwidth == Rate{4'000'000'000});
  CHECK(path(config, "gpu/0", "csd/0").latency == 200ns);
  CHECK(path(config, "csd/0", "gpu/1").latency == 280ns);
  // The root complex limits what would be 16 GB/s on both sides.
  config.switches[0].link = lanes(16);
  CHECK(path(config, "gpu/0", "gpu/1").bandwidth == Rate{10'000'000'000});
  CHECK(path(config, "gpu/0", "host").bandwidth == Rate{16'000'000'000});
}

TEST_CASE("pcie: the two directions of a link do not disturb each other") {
  std::vector<Flow> flows{{"ssd/0", "host", 4'000'000_B}, {"host", "ssd/0", 4'000'000_B}};
  static_cast<void>(run_flows(switch_and_root(), flows));
  CHECK(flows[0].done == SimTime{1ms + 100ns});
  CHECK(flows[1].done == SimTime{1ms + 100ns});
}

TEST_CASE("pcie: two drives share the switch's uplink evenly; the rest goes to who is left") {
  std::vector<Flow> flows{{"csd/0", "host", 2'000'000_B}, {"csd/1", "host", 4'000'000_B}};
  const Metrics metrics = run_flows(switch_and_root(), flows);
  // 2 GB/s each for 1 ms, then 4 GB/s for the remaining 2 MB.
  CHECK(flows[0].done == SimTime{1ms + 150ns});
  CHECK(flows[1].done == SimTime{1500us + 150ns});
  CHECK(metrics.at("pcie/plx/up/bytes") == 6e6);
  CHECK(metrics.at("pcie/plx/up/utilization") == doctest::Approx(1).epsilon(0.001));
  CHECK(metrics.at("pcie/csd/1/up/bytes") == 4e6);
}

TEST_CASE("pcie: sharing is fair whatever the latencies of the routes") {
  // Over the uplink's 4 GB/s: gpu/0 with 10 us more of latency, csd/0 with 100 ns.
  PcieConfig config = switch_and_root();
  config.ports[0].link.latency = 10us;
  std::vector<Flow> flows{{"gpu/0", "host", 40'000'000_B}, {"csd/0", "host", 40'000'000_B}};
  static_cast<void>(run_flows(config, flows));
  // csd/0 starts 9.9 us earlier and moves 39600 B alone; then both get 2 GB/s each, until csd/0
  // is done and gpu/0 moves its last 39600 B alone. The link is never idle: 80 MB at 4 GB/s.
  CHECK(flows[1].done == SimTime{150ns + 20ms - 9900ns});
  CHECK(flows[0].done == SimTime{150ns + 20ms});
}

TEST_CASE("pcie: peer to peer below a switch does not load the root link") {
  std::vector<Flow> flows{{"gpu/0", "csd/0", 4'000'000_B}, {"csd/1", "host", 4'000'000_B}};
  const Metrics metrics = run_flows(switch_and_root(), flows);
  CHECK(flows[0].done == SimTime{1ms + 200ns});
  CHECK(flows[1].done == SimTime{1ms + 150ns});
  CHECK(metrics.at("pcie/plx/up/bytes") == 4e6);
  CHECK(metrics.at("pcie/plx/down/bytes") == 0);
  CHECK(metrics.at("pcie/gpu/0/up/bytes") == 4e6);
  CHECK(metrics.at("pcie/csd/0/down/bytes") == 4e6);
}

TEST_CASE("pcie: every byte that leaves a device arrives at one") {
  std::vector<Flow> flows{{"gpu/0", "csd/0", 1'000'000_B}, {"gpu/1", "csd/1", 2'000'000_B},
                          {"csd/0", "host", 3'000'000_B},  {"host", "gpu/1", 4'000'000_B},
                          {"ssd/0", "gpu/0", 5'000'000_B}, {"gpu/0", "csd/1", 6'000'000_B}};
  flows.back().start = SimTime{200us};
  const Metrics metrics = run_flows(switch_and_root(), flows);
  double up = 0;
  double down = 0;
  for (const std::string& device : kDevices) {
    up += metrics.at("pcie/" + device + "/up/bytes");
    down += metrics.at("pcie/" + device + "/down/bytes");
  }
  CHECK(up == 17e6);    // all but what the host sent
  CHECK(down == 18e6);  // all but what the host got
  CHECK(metrics.at("pcie/plx/peer_up/bytes") == 0);
  CHECK(metrics.at("pcie/gpu/1/peer_up/bytes") == 2e6);
  CHECK(metrics.at("pcie/plx/peer_down/bytes") == 7e6);
}

TEST_CASE("pcie: groups give each instance a link of its own; switches may be stacked") {
  PcieConfig config = switch_and_root();
  config.switches.insert(config.switches.begin(),
                         {.name = "leaf", .attach = "plx", .link = lanes(8, 50ns)});
  config.ports[1] = {.device = "csd/0", .attach = "leaf", .link = lanes(4)};
  Engine engine;
  const PcieFabric fabric(engine, config, {"gpu/0", "csd/0/0", "csd/0/1"});
  CHECK(fabric.path("csd/0/0", "csd/0/1").latency == 200ns);
  CHECK(fabric.path("csd/0/0", "gpu/0").latency == 250ns);
  CHECK(fabric.path("csd/0/1", "host").latency == 200ns);
}

TEST_CASE("pcie: devices without or with two ports are reported together") {
  PcieConfig config = switch_and_root();
  CHECK(build_problem(config, {"gpu/0", "gpu/2", "nic/0"}) ==
        "/pcie/ports: no port for gpu/2; add one with \"device\": \"gpu/2\"\n"
        "/pcie/ports: no port for nic/0; add one with \"device\": \"nic/0\"");
  config.ports.push_back({.device = "csd/1", .attach = "root", .link = lanes(4)});
  CHECK(build_problem(config, {"csd/0", "csd/1"}) ==
        "/pcie/ports/4/device: \"csd/1\" is a second port for csd/1, which ports/1 serves; keep "
        "one");
}

TEST_CASE("pcie: bad configs are reported with their paths") {
  CHECK(problem_with("/ports/1/attach", "swich0") ==
        "/ports/1/attach: \"swich0\" is unknown; must be one of root, switch0");
  CHECK(problem_with("/switches/0/attach", "switch0") ==
        "/switches/0/attach: forms a cycle; every switch must lead to root");
  CHECK(problem_with("/switches/0/name", "root") ==
        "/switches/0/name: must not be empty, root or host, and must not contain \"/\"");
  CHECK(problem_with("/ports/2/device", "gpu/*") ==
        "/ports/2/device: \"gpu/*\" has two ports; keep one");
  CHECK(problem_with("/ports/0/link/generation", 7) ==
        "/ports/0/link/generation: 7 is not among generations (1, 2, 3, 4, 5, 6)");
  CHECK(problem_with("/ports/0/link/lanes", 6) ==
        "/ports/0/link/lanes: must be a power of two: 1, 2, 4, 8 or 16");
  CHECK(problem_with("/generations/1/generation", 1) ==
        "/generations/1/generation: is listed twice");
  nlohmann::json two = shipped_json("switch_gen4")["switches"];
  two.push_back(two[0]);
  CHECK(problem_with("/switches", two) ==
        "/switches/1/name: \"switch0\" is the name of two switches");
}

TEST_CASE("pcie: shipped platforms reach what was measured") {
  const auto check_path = [](const std::string& platform, const std::string& from,
                             const std::string& to, double gigabytes) {
    CAPTURE(platform);
    CAPTURE(from);
    CAPTURE(to);
    Engine engine;
    const PcieFabric fabric(engine, read_pcie(shipped_json(platform)),
                            {"gpu/0", "gpu/1", "ssd/0", "csd/0", "csd/1"});
    CHECK(static_cast<double>(fabric.path(from, to).bandwidth.per_second()) / 1e9 ==
          doctest::Approx(gigabytes).epsilon(0.002));
  };
  check_path("switch_gen4", "gpu/0", "gpu/1", 26.3);
  check_path("switch_gen4", "gpu/0", "host", 26.3);
  check_path("root_gen4", "gpu/0", "gpu/1", 22.7);
  check_path("root_gen4", "ssd/0", "host", 7.0);
  check_path("root_gen4", "gpu/0", "csd/1", 7.0);
  check_path("root_gen5", "host", "gpu/0", 55.3);
  check_path("switch_gen5", "gpu/0", "csd/0", 14.0);
}

TEST_CASE("pcie: flows from and to the host share its memory") {
  // 10 GB/s of host memory: one flow out and one in, of 1 GB each over links that are faster, take
  // 0.2 s together; flows between devices do not touch it.
  const PcieConfig config = read_pcie(shipped_json("root_gen4"));
  Engine engine;
  const PcieFabric fabric(engine, config, {"gpu/0", "gpu/1"}, "pcie", Rate{10'000'000'000});
  std::vector<SimTime> done(3);
  const auto flow = [&](int index, NodeId from, NodeId to) {
    engine.spawn("flow", from, [&engine, &done, index, from, to] {
      engine.transfer(from, to, Bytes{1'000'000'000});
      done[index] = engine.now();
    });
  };
  flow(0, fabric.host(), fabric.node("gpu/0"));
  flow(1, fabric.node("gpu/0"), fabric.host());
  flow(2, fabric.node("gpu/1"), fabric.node("gpu/0"));
  engine.run();
  CHECK(to_seconds(done[0]) == doctest::Approx(0.2).epsilon(1e-5));
  CHECK(to_seconds(done[1]) == doctest::Approx(0.2).epsilon(1e-5));
  CHECK(to_seconds(done[2]) < 0.07);
  CHECK(fabric.path("host", "gpu/0").bandwidth == Rate{10'000'000'000});
}

TEST_CASE("pcie: every shipped link fits into a platform") {
  for (const char* name :
       {"gen3_x4_nvme", "gen4_x4_nvme", "gen5_x4_nvme", "gen6_x4_nvme", "gen3_x16_gpu",
        "gen4_x16_gpu", "gen5_x16_gpu", "gen6_x16_gpu", "gen3_x16_switch", "gen4_x16_switch",
        "gen5_x16_switch", "gen6_x16_switch"}) {
    CAPTURE(name);
    nlohmann::json config = shipped_json("root_gen4");
    config["ports"][0]["link"] = shipped_json("links/" + std::string(name));
    const PcieConfig pcie = read_pcie(config);
    CHECK(pcie.bandwidth_of(pcie.ports[0].link) > Rate{3'000'000'000});
  }
}

TEST_CASE("pcie: shared_paths() divides each link among the flows that cross it") {
  Engine engine;
  const PcieFabric fabric(engine, switch_and_root(), kDevices);
  // Both drives go up the switch's 4 GB/s; gpu/0 comes down alone.
  const auto paths = fabric.shared_paths({{"csd/0", "host"}, {"csd/1", "host"}, {"host", "gpu/0"}});
  CHECK(paths[0].bandwidth == Rate{2'000'000'000});
  CHECK(paths[1].bandwidth == Rate{2'000'000'000});
  CHECK(paths[2].bandwidth == Rate{4'000'000'000});
  CHECK(paths[0].latency == 150ns);
}

TEST_CASE("pcie: peer-to-peer traffic may be refused below switches, through the root, or both") {
  const auto is_direct = [](bool below_a_switch, bool through_root, const char* from,
                            const char* to) {
    PcieConfig config = switch_and_root();
    config.peer_to_peer = {below_a_switch, through_root, 1_MiB};
    Engine engine;
    const PcieFabric fabric(engine, config, kDevices);
    return fabric.is_direct(end_of(fabric, from), end_of(fabric, to));
  };
  CHECK(is_direct(true, false, "gpu/0", "csd/1"));
  CHECK_FALSE(is_direct(false, true, "gpu/0", "csd/1"));
  CHECK(is_direct(false, true, "gpu/1", "ssd/0"));
  CHECK(is_direct(false, true, "gpu/1", "csd/0"));  // one of them is below a switch
  CHECK_FALSE(is_direct(true, false, "gpu/1", "csd/0"));
  CHECK(is_direct(false, false, "host", "csd/0"));
  CHECK(is_direct(false, false, "gpu/0", "host"));
}

TEST_CASE("pcie: GPUs with a network of their own meet there and nowhere else") {
  Engine engine;
  PcieConfig config = switch_and_root();
  config.peer_to_peer = {false, false, 1_MiB};
  const PcieFabric fabric(engine, config, kDevices, "pcie", std::nullopt,
                          GpuLinkConfig{Rate{50'000'000'000}, 700ns});
  CHECK(fabric.path("gpu/0", "gpu/1").bandwidth == Rate{50'000'000'000});
  CHECK(fabric.path("gpu/1", "gpu/0").latency == 700ns);
  CHECK(fabric.is_direct(fabric.node("gpu/0"), fabric.node("gpu/1")));
  CHECK(fabric.path("gpu/0", "host").bandwidth == Rate{4'000'000'000});
  CHECK_FALSE(fabric.is_direct(fabric.node("gpu/0"), fabric.node("csd/0")));
  // Both directions of a ring of two have their own links.
  const auto ring = fabric.shared_paths({{"gpu/0", "gpu/1"}, {"gpu/1", "gpu/0"}});
  CHECK(ring[0].bandwidth == Rate{50'000'000'000});
}

TEST_CASE("pcie: a generation doubles what root and switch platforms carry, within overheads") {
  const auto rate = [](const std::string& platform, const char* from, const char* to) {
    Engine engine;
    const PcieFabric fabric(engine, read_pcie(shipped_json(platform)), {"gpu/0", "csd/0"});
    return static_cast<double>(fabric.path(from, to).bandwidth.per_second());
  };
  for (const std::string kind : {"root", "switch"}) {
    for (int generation = 3; generation < 6; ++generation) {
      CAPTURE(generation);
      const std::string lower = kind + "_gen" + std::to_string(generation);
      const std::string upper = kind + "_gen" + std::to_string(generation + 1);
      const double ratio = rate(upper, "gpu/0", "host") / rate(lower, "gpu/0", "host");
      CHECK(ratio > 1.9);
      CHECK(ratio < 2.15);
      CHECK(rate(upper, "gpu/0", "csd/0") > 1.9 * rate(lower, "gpu/0", "csd/0"));
    }
  }
}

TEST_CASE("pcie: 64 drives of the shipped tree share its trunk") {
  std::vector<std::string> devices{"gpu/0"};
  std::vector<PcieFabric::Ends> flows;
  for (int i = 0; i < 64; ++i) {
    devices.push_back("csd/" + std::to_string(i));
    flows.push_back({devices.back(), "gpu/0"});
  }
  Engine engine;
  const PcieFabric fabric(engine, read_pcie(shipped_json("drive_tree_gen4")), devices);
  const Rate trunk = fabric.path("csd/0", "csd/16").bandwidth;  // a drive's own link
  CHECK(fabric.path("csd/0", "gpu/0").bandwidth == trunk);
  const Rate through_root{22'700'000'000 / 64};
  CHECK(fabric.shared_paths(flows)[17].bandwidth == through_root);
}
