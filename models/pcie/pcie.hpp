// The PCIe fabric: a tree of full-duplex links from the root complex over switches to devices.
//
// One direction of a link carries
//     lanes x lane_rate x max_payload / (max_payload + tlp_overhead) x achieved_fraction
// bytes of payload a second: the lane rate is what the line encoding leaves, each packet carries
// tlp_overhead bytes of framing, header and CRC, and achieved_fraction is what a device is
// measured to reach of the rest (credits, acknowledgements, its own DMA engine). Flows that share
// a link share it max-min fairly. A transfer shorter than max_payload is charged as payload too.
//
// Routes follow the tree. Devices below one switch reach each other without touching the root;
// traffic between two root ports ("peer to peer through the root complex") also crosses what each
// of the two root ports forwards to and from its peers, root_peer_to_peer. Where the platform
// refuses peer-to-peer traffic (config peer_to_peer), devices exchange data through host memory.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sim/core/engine.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// What a PCIe generation fixes.
struct PcieGeneration {
  int generation = 0;
  Rate lane_rate{};      // one lane, one direction, after line encoding (gen 6: after FLIT framing)
  Bytes tlp_overhead{};  // framing, sequence number, header and CRC of a data packet

  void fields(FieldVisitor& v);
};

struct PcieLinkConfig {
  int generation = 0;
  int lanes = 0;
  Bytes max_payload{};  // of a packet, as configured by the host
  SimDuration latency{};
  double achieved_fraction = 0;

  void fields(FieldVisitor& v);
};

struct PcieSwitchConfig {
  std::string name;
  std::string attach;   // "root" or a switch
  PcieLinkConfig link;  // its upstream port

  void fields(FieldVisitor& v);
};

/// A downstream port. `device` is a name ("gpu/0"), a group whose instances ("csd/0/3") each get
/// a link of their own, or a pattern that ends in "/*" ("csd/*") for every device below it.
struct PciePortConfig {
  std::string device;
  std::string attach;
  PcieLinkConfig link;

  void fields(FieldVisitor& v);
  [[nodiscard]] bool serves(std::string_view name) const;
};

struct RootPeerToPeerConfig {
  Rate rate{};  // one root port, one direction, as payload
  SimDuration latency{};

  void fields(FieldVisitor& v);
};

/// Whether devices may write to each other, by where they meet. ACS or IOMMU settings and GPUs
/// without a mapped BAR refuse it.
struct PeerToPeerConfig {
  bool below_a_switch = false;
  bool through_root = false;
  Bytes bounce_chunk{};  // refused: data pass host memory in pieces of this size

  void fields(FieldVisitor& v);
};

/// A network of its own among GPUs (NVLink): full duplex, any to any.
struct GpuLinkConfig {
  Rate rate{};  // of one GPU, one direction
  SimDuration latency{};
};

struct PcieConfig {
  std::vector<PcieGeneration> generations;
  std::vector<PcieSwitchConfig> switches;
  std::vector<PciePortConfig> ports;
  RootPeerToPeerConfig root_peer_to_peer;
  PeerToPeerConfig peer_to_peer;

  void fields(FieldVisitor& v);

  /// Payload a second in one direction; the formula above.
  [[nodiscard]] Rate bandwidth_of(const PcieLinkConfig& link) const;

 private:
  void require_links(FieldVisitor& v) const;
  void require_tree(FieldVisitor& v) const;
  [[nodiscard]] const PcieGeneration* find_generation(int generation) const;
};

/// Builds nodes, links and routes on an engine, which must outlive it.
class PcieFabric {
 public:
  /// `devices` are the instances of this run ("gpu/0", "csd/0", "csd/1"); each must have exactly
  /// one port. `name` is the fabric's config path without the first slash, and the prefix of its
  /// links, metrics and errors. What starts or ends at the host also crosses its memory, if that
  /// has a rate: one link for both directions. With `gpu_link`, GPUs ("gpu/...") reach each other
  /// over it. Throws ConfigError that lists all devices without or with two ports.
  PcieFabric(Engine& engine, const PcieConfig& config, const std::vector<std::string>& devices,
             std::string name = "pcie", std::optional<Rate> host_memory = std::nullopt,
             std::optional<GpuLinkConfig> gpu_link = std::nullopt);

  /// Where the root complex, the CPU and host memory are.
  [[nodiscard]] NodeId host() const { return nodes_.at("host"); }
  /// check()s that the device is one of those given.
  [[nodiscard]] NodeId node(std::string_view device) const;

  /// What one lone flow sees: size / bandwidth + latency.
  struct Path {
    Rate bandwidth;
    SimDuration latency;
  };
  /// "host" is a valid end.
  [[nodiscard]] Path path(std::string_view from, std::string_view to) const;
  /// What each of several flows gets while all of them are under way, when every link is divided
  /// equally among those that cross it: its max-min share where the flows are alike, else at most
  /// that.
  struct Ends {
    std::string from;
    std::string to;
  };
  [[nodiscard]] std::vector<Path> shared_paths(const std::vector<Ends>& flows) const;
  /// Whether data between the two may go without host memory; either may be the host.
  [[nodiscard]] bool is_direct(NodeId from, NodeId to) const;

  struct DirectedLink {
    std::string name;  // "pcie/csd/0/up"
    LinkId id;
    Rate bandwidth;
    SimDuration latency;
  };
  /// Every direction of every link.
  [[nodiscard]] const std::vector<DirectedLink>& links() const { return links_; }

  /// The link above a device or switch, as configured.
  [[nodiscard]] const PcieLinkConfig& link_above(std::string_view name) const;
  /// It has this bandwidth in both directions from now on. Inside an actor.
  void set_bandwidth(std::string_view name, Rate bandwidth);

  /// Payload bytes and utilisation of each direction of each link.
  void report(Metrics& metrics, SimDuration elapsed) const;

 private:
  /// The root (number 0), a switch or a device, with the indices of its links.
  struct Vertex {
    std::string name;
    std::size_t parent = 0;
    std::size_t up = 0;
    std::size_t down = 0;
    std::size_t peer_up = 0;  // of children of the root: towards other root ports
    std::size_t peer_down = 0;
    PcieLinkConfig link{};                              // above it
    std::optional<std::size_t> gpu_out = std::nullopt;  // links among GPUs
    std::optional<std::size_t> gpu_in = std::nullopt;
  };

  std::size_t add_vertex(std::string name);
  std::size_t add_link(const std::string& name, Rate bandwidth, SimDuration latency);
  void connect(const PcieConfig& config, const std::string& vertex, const std::string& parent,
               const PcieLinkConfig& link);
  void add_devices(const PcieConfig& config, const std::vector<std::string>& devices);
  [[nodiscard]] std::vector<std::size_t> ancestors(std::size_t vertex) const;
  [[nodiscard]] std::vector<std::size_t> route(std::size_t from, std::size_t to) const;
  [[nodiscard]] std::vector<std::size_t> route(std::string_view from, std::string_view to) const;
  [[nodiscard]] bool is_allowed(const PeerToPeerConfig& peers, std::size_t from,
                                std::size_t to) const;

  Engine& engine_;
  std::string name_;
  std::optional<std::size_t> host_memory_;  // its link
  std::vector<Vertex> vertices_;
  std::map<std::string, std::size_t, std::less<>> vertex_of_;  // "root" and "host" are one
  std::vector<DirectedLink> links_;
  std::map<std::string, NodeId, std::less<>> nodes_;
  std::set<std::pair<int, int>> refused_;  // pairs of nodes
};

}  // namespace nearkv
