// A block device for replay: an NVMe front end at the end of a PCIe link, and the event-driven
// flash array behind it. Page-exact, with MQSim's costs as parameters.
//
// The link carries messages first come first served in each direction; a message takes
//     ceil((bytes + packets x packet_overhead) / lanes) / lane_rate,  packets of max_payload
// A read passes
//     doorbell down; fetch of the entry: request up, submission entry down; its pages through the
//     flash array, a page for each one that it touches and only the bytes asked for;
//     after the last page: data up, completion entry up; the host then rings the completion
//     doorbell (down).
// A write fetches its data behind its entry (request up, data down), programs a page for each one
// that it touches, and is complete when the last program is: there is no write buffer, and merging
// a part of a page with the rest is the PageMap's business.
// The controller holds at most fetch_limit commands. Firmware, DRAM and error correction cost
// nothing here. At one time flash comes first, then what reaches the device, then what reaches the
// host.
//
// Where pages lie is a PageMap's knowledge.
#pragma once

#include <cstdint>
#include <vector>

#include "models/flash/event_ring.hpp"
#include "models/flash/flash_engine.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

struct NvmeLinkConfig {
  int lanes = 0;
  Rate lane_rate{};         // of one lane and direction, after its line code
  Bytes max_payload{};      // of a packet
  Bytes packet_overhead{};  // headers and framing of a packet
  Bytes read_request{};     // payload of a request for data
  Bytes doorbell{};         // payload of a doorbell's write
  Bytes submission_entry{};
  Bytes completion_entry{};
  SimDuration time_step{};  // a message's time is cut to a multiple of it; 0: rounded up to 1 ps
  int fetch_limit = 0;      // commands that the controller holds at most

  void fields(FieldVisitor& v);

  /// Time of one message on the link; the payload may be empty.
  [[nodiscard]] SimDuration message_time(Bytes payload) const;
};

struct BlockSsdConfig {
  FlashConfig flash;
  NvmeLinkConfig link;
  Bytes page_size{};  // user data of a flash page

  void fields(FieldVisitor& v);
};

/// Says where logical pages lie; of its answers tag, op and bytes are the caller's.
class PageMap {
 public:
  PageMap() = default;
  PageMap(const PageMap&) = delete;
  PageMap& operator=(const PageMap&) = delete;
  virtual ~PageMap() = default;

  /// Where to read the page.
  [[nodiscard]] virtual PageCommand locate(std::int64_t logical_page) = 0;
  /// Where to write it next; later reads find it there.
  [[nodiscard]] virtual PageCommand place(std::int64_t logical_page) = 0;
};

struct BlockRequest {
  std::uint64_t id = 0;  // comes back with the completion
  Bytes first{};         // offset on the device
  Bytes size{};
  bool is_write = false;
};

/// Sees completions, and may submit further requests at `at`.
class BlockHost {
 public:
  BlockHost() = default;
  BlockHost(const BlockHost&) = delete;
  BlockHost& operator=(const BlockHost&) = delete;
  virtual ~BlockHost() = default;

  virtual void completed(std::uint64_t id, SimTime submitted, SimTime at) = 0;
};

class BlockSsd final : private PageSink {
 public:
  /// `map` must outlive the device; `rng` is the stream of read retries.
  BlockSsd(const BlockSsdConfig& config, PageMap& map, const Rng& rng);

  /// The host rings the doorbell at `now`; events before `now` must have been processed.
  void submit(SimTime now, const BlockRequest& request);

  /// Time of the earliest event, kNever when the device is idle.
  [[nodiscard]] SimTime next_event() const;
  /// Processes events up to and including `until` in time order.
  void process(SimTime until, BlockHost& host);

  [[nodiscard]] const FlashEngine& flash() const { return flash_; }
  [[nodiscard]] const BlockSsdConfig& config() const { return config_; }

 private:
  using Slot = std::uint32_t;
  struct Command {
    std::uint64_t id;
    SimTime submitted;
    std::int64_t first;
    std::int64_t size;
    std::int64_t pages_left;
    bool is_write;
  };
  /// One direction of the link. Only what somebody waits for becomes an event.
  struct Direction {
    std::int64_t free_at = 0;
    EventRing arrivals;

    void occupy(std::int64_t now, std::int64_t length) {
      free_at = std::max(now, free_at) + length;
    }
  };
  /// Messages that somebody waits for.
  enum class Message : std::uint32_t { doorbell, entry, data, fetch, data_request, completion };
  static constexpr std::uint32_t kMessages = 6;

  [[nodiscard]] Slot new_slot();
  void send(Direction& direction, std::int64_t now, std::int64_t length, Slot slot,
            Message message);
  void fetch_next(std::int64_t now);
  void at_device(std::int64_t now);
  void at_host(std::int64_t now, BlockHost& host);
  void begin(Slot slot, std::int64_t now);
  void page_done(std::uint64_t tag, SimTime at) override;
  [[nodiscard]] std::int64_t data_time(std::int64_t bytes);

  BlockSsdConfig config_;
  PageMap& map_;
  FlashEngine flash_;
  std::int64_t doorbell_;
  std::int64_t read_request_;
  std::int64_t submission_entry_;
  std::int64_t completion_entry_;
  std::int64_t last_size_ = 0;  // the last data_time()
  std::int64_t last_data_time_ = 0;
  Direction down_;
  Direction up_;
  std::vector<Command> commands_;
  std::vector<Slot> free_slots_;
  std::vector<Slot> submitted_;  // a ring of those whose doorbell has come, but not the fetch
  std::size_t submitted_head_ = 0;
  int in_controller_ = 0;
};

}  // namespace nearkv
