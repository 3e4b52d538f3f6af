// The NVMe front end of a drive: queue pairs, arbitration, data pointers, how the host notices
// completions; and the messages on its PCIe link. Terms and rules as in the NVM Express Base
// Specification.
#pragma once

#include <cstdint>
#include <vector>

#include "models/pcie/nvme_queue.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// Messages on the drive's PCIe link. In each direction they go first come first served; one takes
///     ceil((bytes + packets x packet_overhead) / lanes) / lane_rate,  packets of max_payload
struct NvmeLinkConfig {
  int lanes = 0;
  Rate lane_rate{};         // of one lane and direction, after its line code
  Bytes max_payload{};      // of a packet
  Bytes packet_overhead{};  // headers and framing of a packet
  Bytes read_request{};     // payload of a request for data
  Bytes doorbell{};         // payload of a doorbell's write
  Bytes interrupt{};        // payload of an MSI-X message
  Bytes submission_entry{};
  Bytes completion_entry{};
  Bytes trim_range{};       // one range of a TRIM command's data
  SimDuration time_step{};  // a message's time is cut to a multiple of it; 0: rounded up to 1 ps

  void fields(FieldVisitor& v);

  /// Time of one message on the link; the payload may be empty.
  [[nodiscard]] SimDuration message_time(Bytes payload) const;
};

/// Classes of weighted round robin, in their order.
enum class NvmePriority : std::uint8_t { urgent, high, medium, low };
inline constexpr std::size_t kNvmePriorities = 4;

/// Queue pairs of one kind.
struct NvmeQueueGroup {
  int queues = 0;
  NvmePriority priority = NvmePriority::urgent;

  void fields(FieldVisitor& v);
};

enum class NvmeArbitration : std::uint8_t { round_robin, weighted_round_robin };

/// none: the command entry says all. prp: one entry a memory page, two of them in the command
/// entry. sgl: one descriptor a piece of host memory, one of them in the command entry.
enum class DataPointers : std::uint8_t { none, prp, sgl };

/// entry: the host sees a completion entry when it has arrived. interrupt: it looks at the queue
/// when an interrupt has. polling: it looks every poll_interval.
enum class CompletionNotice : std::uint8_t { entry, interrupt, polling };

/// The base is a queue pair's depth and latencies. A passive drive (Ssd, Csd) takes these as the
/// whole cost; the front end adds them to the time of the messages on the link: `doorbell` to a
/// doorbell, `command_fetch` to each read of host memory, `completion` to what tells the host.
struct NvmeConfig : NvmeQueueConfig {
  std::vector<NvmeQueueGroup> queue_groups;  // the queue pairs, numbered in this order
  NvmeArbitration arbitration = NvmeArbitration::round_robin;
  int arbitration_burst = 0;  // commands that a queue may send when it has its turn
  int high_weight = 0;        // commands of this class in a round of weighted round robin
  int medium_weight = 0;
  int low_weight = 0;
  int fetch_limit = 0;  // commands that the controller holds at most
  DataPointers data_pointers = DataPointers::none;
  Bytes memory_page{};     // of the host; size of a PRP list's page and of an SGL segment at most
  Bytes prp_entry{};       // size of a PRP entry
  Bytes sgl_descriptor{};  // size of an SGL descriptor
  Bytes sgl_block{};       // host memory that one SGL descriptor describes
  CompletionNotice notice = CompletionNotice::entry;
  int aggregation_threshold = 0;   // interrupt for so many completions ...
  SimDuration aggregation_time{};  // ... or that long after the first of them; 0: for each one
  SimDuration poll_interval{};     // the host looks at multiples of it; 0: at any time
  SimDuration host_complete{};     // CPU time of the host for one completion

  void fields(FieldVisitor& v);

  [[nodiscard]] int queue_pairs() const;

  /// Data pointers that do not fit in the command entry and are fetched as lists.
  [[nodiscard]] std::int64_t listed_pointers(Bytes data) const;
  /// Pointers in the next piece of a list with so many left, and the bytes that are read for it.
  /// When they do not all fit in one page of the list, its last entry points to the next page.
  struct ListPiece {
    std::int64_t pointers;
    Bytes size;
  };
  [[nodiscard]] ListPiece next_list_piece(std::int64_t pointers_left) const;
};

}  // namespace nearkv
