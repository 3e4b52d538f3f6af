#include "models/pcie/pcie.hpp"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

using namespace std::chrono_literals;

namespace {

constexpr std::string_view kRoot = "root";
constexpr std::string_view kHost = "host";

// Limits that keep every bandwidth above zero, and that of 32 lanes within 64 bits.
constexpr Rate kFastest = 1'000'000'000_MBps;  // not a constant: a limit of the input
Range rate_range() { return range_of(1_MBps, kFastest); }

}  // namespace

void PcieGeneration::fields(FieldVisitor& v) {
  v.parameter("generation", generation, "PCIe generation that links refer to.", at_least(1));
  v.constant("lane_rate", lane_rate,
             "Bytes a second of one lane in one direction, after line encoding or FLIT framing.",
             rate_range());
  v.constant("tlp_overhead", tlp_overhead,
             "Framing, sequence number, header and CRC of a data packet.", range_of(0_B, 256_B));
}

void PcieLinkConfig::fields(FieldVisitor& v) {
  v.parameter("generation", generation, "PCIe generation; one of those in generations.",
              at_least(1));
  v.parameter("lanes", lanes, "Lanes of the link; a power of two.", {1, 16});
  v.parameter("max_payload", max_payload, "Largest payload of a packet (MPS) that the host sets.",
              range_of(1_B, 4_KiB));
  v.constant("latency", latency, "One-way time of a packet over the link and its ports.",
             range_of(0_ps, 1s));
  constexpr double kSmallest = 1e-3;  // not a constant: a limit of the input
  v.constant("achieved_fraction", achieved_fraction,
             "What the device is measured to reach of the link's payload rate.", {kSmallest, 1});
  v.require((lanes & (lanes - 1)) == 0, "lanes", "must be a power of two: 1, 2, 4, 8 or 16");
}

void PcieSwitchConfig::fields(FieldVisitor& v) {
  v.parameter("name", name, "Name that ports and other switches attach to.");
  v.parameter("attach", attach, "Where its upstream port goes: root, or another switch.");
  v.group("link", link, "The upstream link.");
  v.require(!name.empty() && name != kRoot && name != kHost && name.find('/') == std::string::npos,
            "name", "must not be empty, root or host, and must not contain \"/\"");
}

void PciePortConfig::fields(FieldVisitor& v) {
  v.parameter("device", device,
              "Device at this port (gpu/0), a group, or every device of a kind (csd/*); each "
              "instance gets a link of its own.");
  v.parameter("attach", attach, "Where the port is: root, or a switch.");
  v.group("link", link, "The link of the device.");
}

bool PciePortConfig::serves(std::string_view name) const {
  if (device.ends_with("/*")) {
    return name.starts_with(std::string_view(device).substr(0, device.size() - 1));
  }
  return name == device || name.starts_with(device + "/");
}

void RootPeerToPeerConfig::fields(FieldVisitor& v) {
  v.constant("rate", rate,
             "Payload a second that one root port forwards to, and from, other root ports.",
             rate_range());
  v.constant("latency", latency, "Time that the root complex adds to such traffic.",
             range_of(0_ps, 1s));
}

void PeerToPeerConfig::fields(FieldVisitor& v) {
  v.parameter("below_a_switch", below_a_switch,
              "Whether devices below one switch reach each other directly.");
  v.parameter("through_root", through_root,
              "Whether devices at different root ports reach each other directly.");
  v.parameter("bounce_chunk", bounce_chunk,
              "Where they do not: pieces in which their data pass host memory, one arriving while "
              "the one before leaves.",
              at_least(1));
}

void PcieConfig::fields(FieldVisitor& v) {
  v.list_of("generations", generations, "Lane rates and packet overheads by generation.");
  v.list_of("switches", switches, "Switches between the root complex and devices; may be empty.");
  v.list_of("ports", ports, "Where devices are attached.");
  v.group("root_peer_to_peer", root_peer_to_peer,
          "Traffic between two root ports that does not go to host memory.");
  v.group("peer_to_peer", peer_to_peer, "Which devices reach each other without host memory.");
  require_links(v);
  require_tree(v);
}

void PcieConfig::require_links(FieldVisitor& v) const {
  std::set<int> seen;
  for (std::size_t i = 0; i < generations.size(); ++i) {
    v.require(seen.insert(generations[i].generation).second,
              fmt::format("generations/{}/generation", i), "is listed twice");
  }
  const auto require_generation = [&](const PcieLinkConfig& link, const std::string& owner) {
    v.require(
        find_generation(link.generation) != nullptr, owner + "/link/generation",
        fmt::format("{} is not among generations ({})", link.generation, fmt::join(seen, ", ")));
  };
  for (std::size_t i = 0; i < switches.size(); ++i) {
    require_generation(switches[i].link, fmt::format("switches/{}", i));
  }
  for (std::size_t i = 0; i < ports.size(); ++i) {
    require_generation(ports[i].link, fmt::format("ports/{}", i));
  }
}

void PcieConfig::require_tree(FieldVisitor& v) const {
  std::map<std::string_view, std::string_view> parent_of;  // of switches
  for (std::size_t i = 0; i < switches.size(); ++i) {
    v.require(parent_of.emplace(switches[i].name, switches[i].attach).second,
              fmt::format("switches/{}/name", i),
              fmt::format("\"{}\" is the name of two switches", switches[i].name));
  }
  const auto require_known = [&](const std::string& attach, const std::string& owner) {
    std::string names(kRoot);
    for (const PcieSwitchConfig& s : switches) {
      names += ", " + s.name;
    }
    v.require(attach == kRoot || parent_of.contains(attach), owner + "/attach",
              fmt::format("\"{}\" is unknown; must be one of {}", attach, names));
  };
  for (std::size_t i = 0; i < switches.size(); ++i) {
    require_known(switches[i].attach, fmt::format("switches/{}", i));
    std::string_view at = switches[i].name;
    std::size_t steps = 0;
    while (parent_of.contains(at) && steps <= switches.size()) {
      at = parent_of.at(at);
      ++steps;
    }
    v.require(steps <= switches.size(), fmt::format("switches/{}/attach", i),
              "forms a cycle; every switch must lead to root");
  }
  std::set<std::string_view> devices;
  for (std::size_t i = 0; i < ports.size(); ++i) {
    require_known(ports[i].attach, fmt::format("ports/{}", i));
    v.require(!ports[i].device.empty() && devices.insert(ports[i].device).second,
              fmt::format("ports/{}/device", i),
              fmt::format("\"{}\" has two ports; keep one", ports[i].device));
  }
}

const PcieGeneration* PcieConfig::find_generation(int generation) const {
  const auto found =
      std::find_if(generations.begin(), generations.end(),
                   [generation](const PcieGeneration& g) { return g.generation == generation; });
  return found == generations.end() ? nullptr : &*found;
}

Rate PcieConfig::bandwidth_of(const PcieLinkConfig& link) const {
  const PcieGeneration* generation = find_generation(link.generation);
  check(generation != nullptr, "a PCIe link of an unknown generation");
  const Int128 raw = (generation->lane_rate * link.lanes).per_second();
  const Bytes packet = link.max_payload + generation->tlp_overhead;
  const Rate payload{static_cast<std::int64_t>(raw * link.max_payload.count() / packet.count())};
  return scaled(payload, link.achieved_fraction);
}

PcieFabric::PcieFabric(Engine& engine, const PcieConfig& config,
                       const std::vector<std::string>& devices, std::string name,
                       std::optional<Rate> host_memory, std::optional<GpuLinkConfig> gpu_link)
    : engine_(engine), name_(std::move(name)) {
  vertex_of_.emplace(kRoot, add_vertex(std::string(kRoot)));
  vertex_of_.emplace(kHost, vertex_of_.at(std::string(kRoot)));
  nodes_.emplace(kHost, engine_.add_node(std::string(kHost)));
  if (host_memory) {
    host_memory_ = add_link("host_memory", *host_memory, SimDuration{});
  }
  for (const PcieSwitchConfig& s : config.switches) {
    vertex_of_.emplace(s.name, add_vertex(s.name));
  }
  for (const PcieSwitchConfig& s : config.switches) {
    connect(config, s.name, s.attach, s.link);
  }
  add_devices(config, devices);
  for (Vertex& vertex : vertices_) {
    if (gpu_link && vertex.name.starts_with("gpu/")) {
      vertex.gpu_out = add_link(vertex.name + "/gpu_link/out", gpu_link->rate, gpu_link->latency);
      vertex.gpu_in = add_link(vertex.name + "/gpu_link/in", gpu_link->rate, SimDuration{});
    }
  }

  for (const auto& [from, from_node] : nodes_) {
    for (const auto& [to, to_node] : nodes_) {
      if (from == to) {
        continue;
      }
      std::vector<LinkId> hops;
      for (const std::size_t link : route(from, to)) {
        hops.push_back(links_[link].id);
      }
      engine_.add_route(from_node, to_node, hops);
      if (!is_allowed(config.peer_to_peer, vertex_of_.at(from), vertex_of_.at(to))) {
        refused_.emplace(from_node.index, to_node.index);
      }
    }
  }
}

void PcieFabric::add_devices(const PcieConfig& config, const std::vector<std::string>& devices) {
  std::vector<std::string> problems;
  for (const std::string& device : devices) {
    std::vector<std::size_t> serving;
    for (std::size_t i = 0; i < config.ports.size(); ++i) {
      if (config.ports[i].serves(device)) {
        serving.push_back(i);
      }
    }
    if (serving.empty()) {
      problems.push_back(fmt::format("/{}/ports: no port for {}; add one with \"device\": \"{}\"",
                                     name_, device, device));
    } else if (serving.size() > 1) {
      problems.push_back(
          fmt::format("/{}/ports/{}/device: \"{}\" is a second port for {}, which "
                      "ports/{} serves; keep one",
                      name_, serving[1], config.ports[serving[1]].device, device, serving[0]));
    } else {
      const PciePortConfig& port = config.ports[serving.front()];
      const bool is_new = vertex_of_.emplace(device, vertices_.size()).second;
      check(is_new, "two devices of one name, or a device named as a switch");
      add_vertex(device);
      connect(config, device, port.attach, port.link);
      nodes_.emplace(device, engine_.add_node(device));
    }
  }
  if (!problems.empty()) {
    throw ConfigError(problems);
  }
}

std::size_t PcieFabric::add_vertex(std::string name) {
  vertices_.push_back({.name = std::move(name)});
  return vertices_.size() - 1;
}

std::size_t PcieFabric::add_link(const std::string& name, Rate bandwidth, SimDuration latency) {
  const std::string full_name = name_ + "/" + name;
  links_.push_back({.name = full_name,
                    .id = engine_.add_link(full_name, bandwidth, latency),
                    .bandwidth = bandwidth,
                    .latency = latency});
  return links_.size() - 1;
}

void PcieFabric::connect(const PcieConfig& config, const std::string& vertex,
                         const std::string& parent, const PcieLinkConfig& link) {
  Vertex& v = vertices_[vertex_of_.at(vertex)];
  const Rate bandwidth = config.bandwidth_of(link);
  v.parent = vertex_of_.at(parent);
  v.link = link;
  v.up = add_link(vertex + "/up", bandwidth, link.latency);
  v.down = add_link(vertex + "/down", bandwidth, link.latency);
  if (v.parent == 0) {
    // The latency of the root complex is on the way in; a route has one of each.
    const RootPeerToPeerConfig& peer = config.root_peer_to_peer;
    v.peer_up = add_link(vertex + "/peer_up", peer.rate, peer.latency);
    v.peer_down = add_link(vertex + "/peer_down", peer.rate, SimDuration{});
  }
}

/// The vertex itself and all above it; the root last.
std::vector<std::size_t> PcieFabric::ancestors(std::size_t vertex) const {
  std::vector<std::size_t> chain{vertex};
  while (chain.back() != 0) {
    chain.push_back(vertices_[chain.back()].parent);
  }
  return chain;
}

std::vector<std::size_t> PcieFabric::route(std::size_t from, std::size_t to) const {
  if (vertices_[from].gpu_out && vertices_[to].gpu_in) {
    return {*vertices_[from].gpu_out, *vertices_[to].gpu_in};
  }
  std::vector<std::size_t> rising = ancestors(from);
  std::vector<std::size_t> falling = ancestors(to);
  // Drop what both have above their lowest common ancestor, and then that one.
  while (rising.size() > 1 && falling.size() > 1 &&
         rising[rising.size() - 2] == falling[falling.size() - 2]) {
    rising.pop_back();
    falling.pop_back();
  }
  const bool through_root = rising.back() == 0 && from != 0 && to != 0;
  rising.pop_back();
  falling.pop_back();

  std::vector<std::size_t> links;
  if (from == 0 && host_memory_) {
    links.push_back(*host_memory_);
  }
  for (const std::size_t vertex : rising) {
    links.push_back(vertices_[vertex].up);
  }
  if (through_root) {
    links.push_back(vertices_[rising.back()].peer_up);
    links.push_back(vertices_[falling.back()].peer_down);
  }
  std::reverse(falling.begin(), falling.end());
  for (const std::size_t vertex : falling) {
    links.push_back(vertices_[vertex].down);
  }
  if (to == 0 && host_memory_) {
    links.push_back(*host_memory_);
  }
  return links;
}

NodeId PcieFabric::node(std::string_view device) const {
  const auto found = nodes_.find(device);
  check(found != nodes_.end(), "a device that the PCIe fabric does not have");
  return found->second;
}

std::vector<std::size_t> PcieFabric::route(std::string_view from, std::string_view to) const {
  const auto begin = vertex_of_.find(from);
  const auto end = vertex_of_.find(to);
  check(begin != vertex_of_.end() && end != vertex_of_.end() && begin->second != end->second,
        "a path needs two ends of the PCIe fabric");
  return route(begin->second, end->second);
}

bool PcieFabric::is_allowed(const PeerToPeerConfig& peers, std::size_t from, std::size_t to) const {
  const bool same_network = vertices_[from].gpu_out && vertices_[to].gpu_in;
  if (from == 0 || to == 0 || same_network) {
    return true;
  }
  // Below the root, both have one ancestor in common where their branches are one.
  const std::vector<std::size_t> above_from = ancestors(from);
  const std::vector<std::size_t> above_to = ancestors(to);
  const bool share_a_switch = above_from[above_from.size() - 2] == above_to[above_to.size() - 2];
  return share_a_switch ? peers.below_a_switch : peers.through_root;
}

bool PcieFabric::is_direct(NodeId from, NodeId to) const {
  return !refused_.contains({from.index, to.index});
}

const PcieLinkConfig& PcieFabric::link_above(std::string_view name) const {
  const auto found = vertex_of_.find(name);
  check(found != vertex_of_.end() && found->second != 0, "a link that the PCIe fabric lacks");
  return vertices_[found->second].link;
}

void PcieFabric::set_bandwidth(std::string_view name, Rate bandwidth) {
  const auto found = vertex_of_.find(name);
  check(found != vertex_of_.end() && found->second != 0, "a link that the PCIe fabric lacks");
  const Vertex& vertex = vertices_[found->second];
  for (const std::size_t link : {vertex.up, vertex.down}) {
    links_[link].bandwidth = bandwidth;
    engine_.set_bandwidth(links_[link].id, bandwidth);
  }
}

PcieFabric::Path PcieFabric::path(std::string_view from, std::string_view to) const {
  return shared_paths({{std::string(from), std::string(to)}}).front();
}

std::vector<PcieFabric::Path> PcieFabric::shared_paths(const std::vector<Ends>& flows) const {
  std::vector<std::vector<std::size_t>> routes;
  std::vector<std::int64_t> users(links_.size());
  for (const Ends& flow : flows) {
    for (const std::size_t link : routes.emplace_back(route(flow.from, flow.to))) {
      ++users[link];
    }
  }
  std::vector<Path> paths;
  for (const std::vector<std::size_t>& hops : routes) {
    const auto share = [&](std::size_t link) {
      return Rate{links_[link].bandwidth.per_second() / users[link]};
    };
    Path& path = paths.emplace_back(Path{share(hops.front()), {}});
    for (const std::size_t link : hops) {
      path.bandwidth = std::min(path.bandwidth, share(link));
      path.latency += links_[link].latency;
    }
  }
  return paths;
}

void PcieFabric::report(Metrics& metrics, SimDuration elapsed) const {
  for (const DirectedLink& link : links_) {
    const auto bytes = static_cast<double>(engine_.carried(link.id).count());
    const double most = static_cast<double>(link.bandwidth.per_second()) * to_seconds(elapsed);
    metrics.add(link.name + "/bytes", bytes, "B", "Payload that this direction carried.");
    metrics.add(link.name + "/utilization", most > 0 ? bytes / most : 0, "1",
                "Payload carried over what this direction could have carried.");
  }
}

}  // namespace nearkv
