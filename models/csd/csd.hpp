// The computational storage drive: NVMe front end, firmware, attention engine, flash array.
//
// A Component of the event loop: its events are those of commands and blocks of heads; the pages
// of a step are issued to the FlashArray at their event's time, which gives each page its
// picosecond. Life of one attend batch (one layer's commands of one doorbell):
//   1. The controller fetches the commands one after another; a core spends attend_cost on each.
//      Cores serve commands and completions in the order in which these come.
//   2. Heads are taken in blocks. A block's reads start when its commands are ready and a staging
//      buffer is free, and not before the reads of the block in front have arrived.
//   3. Dense: all token-group pages are read, K and V side by side. SparF: the selected channel
//      groups' pages are read and pass the channel's filter, which takes what has arrived, the page
//      that was asked for first; scores are estimated by an attention kernel, pass the softmax and
//      argtopk (head by head, as their pages came); then the pages of the selected token groups
//      are read.
//   4. When all pages of a block have arrived, the attention kernels compute on it, heads one
//      after another on the kernel that is free first; the last head leaves the softmax
//      softmax_latency later. Then the buffer is free and completions are posted.
// That reading and computing alternate with one staging buffer is how the published shares of the
// decode time (claims C16, C17) add up; staging_buffers = 2 shows the overlapped design.
//
// Reuse: an attend batch that finds the drive in a state from which an equal batch has run before
// takes that run's duration and end state. Equal to the picosecond: the drive is deterministic and
// its state enters relative to the time. When something else is submitted meanwhile, the reused
// batch is simulated after all, from its start. What is submitted at the picosecond of an event of
// the drive comes after that event.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "models/csd/csd_config.hpp"
#include "models/kv/head_reads.hpp"
#include "models/kv/kv_layout.hpp"
#include "sim/core/capacity.hpp"
#include "sim/core/event_loop.hpp"
#include "sim/core/servers.hpp"

namespace nearkv {

/// One attend command for each (sequence, KV head) pair of a layer that lives on this drive. Pair p
/// reads the pages patterns[p % patterns.size()].
struct AttendBatch {
  int pairs = 0;
  std::vector<HeadReads> patterns;
  std::uint64_t hash = 0;  // of all above; equal hashes mean equal batches

  void seal();
};

/// Pages [first, last) of each stream, programmed for `pairs` pairs from first_pair on.
struct StoreBatch {
  struct Span {
    KvStream stream;
    int first;
    int last;
  };
  int first_pair = 0;
  int pairs = 0;
  std::vector<Span> spans;

  [[nodiscard]] std::int64_t pages() const;
};

class Csd final : public Component {
 public:
  /// `name` is the config path without its slash ("csd/0"). With `reuse` false every page is
  /// simulated.
  Csd(EventLoop& loop, const CsdConfig& config, std::string name, bool reuse);

  /// The host rings the doorbell at `now` for all commands of `batch`; `done` is finished when the
  /// last completion is in host memory. Batches run in the order of submission.
  void submit_attend(SimTime now, std::shared_ptr<const AttendBatch> batch, Completion& done);

  /// Programs pages whose data are in the drive's DRAM. `done` (may be null: background) is
  /// finished when the last page is programmed.
  void submit_store(SimTime now, const StoreBatch& batch, Completion* done);

  [[nodiscard]] SimTime next_event() const override {
    return events_.empty() ? kNever : events_.top().at;
  }
  void process(SimTime until) override;

  [[nodiscard]] const CsdConfig& config() const { return config_; }
  /// Flash that KV pages may take, by label.
  [[nodiscard]] CapacityLedger& flash_capacity() { return flash_capacity_; }
  [[nodiscard]] CapacityLedger& dram() { return dram_; }

  /// Work done so far; differences of two readings describe a phase of the run.
  struct Work {
    FlashArray::Counters flash;
    std::int64_t attends = 0;
    SimDuration reading{};    // some block's pages were on their way from flash
    SimDuration computing{};  // some block was in the attention kernels
    SimDuration firmware{};   // core time
    SimDuration storing{};    // from a store's submission to its last page
    std::int64_t reused_batches = 0;

    Work& operator+=(const Work& o);
    friend Work operator-(Work a, const Work& b);
  };
  [[nodiscard]] Work work() const;

  [[nodiscard]] Bytes bytes_read() const {
    return config_.flash.page_size * flash_.counters().pages_read;
  }
  [[nodiscard]] Bytes bytes_programmed() const {
    return config_.flash.page_size * flash_.counters().pages_programmed;
  }
  /// Bus time of all pages so far, summed over the channels.
  [[nodiscard]] SimDuration channel_time() const { return flash_.bus_time(); }

 private:
  enum class EventKind {
    start_block,     // the commands of a block are ready
    query_ranked,    // argtopk has chosen a head's channels
    scores_arrived,  // a head's channel-indexed pages are there
    selected,        // argtopk has chosen a head's tokens
    block_arrived,   // all pages of a block are there
    computed,        // a block has left the attention kernels
    batch_done,      // the last completion is in host memory
    reused_done,     // the same, of a batch whose run was reused
    stored,          // a store's last page is programmed
  };
  struct Event {
    SimTime at;
    std::uint64_t sequence;
    EventKind kind;
    int index;  // of the block, the pair, the reused batch or the store
    bool operator>(const Event& o) const { return at != o.at ? at > o.at : sequence > o.sequence; }
  };
  struct Block {
    SimTime commands_ready{};  // of those that the cores were given
    SimTime reads_start{};
    SimTime arrived{};
    int heads_to_select = 0;  // heads whose second step is not issued yet
  };
  /// The batch that the drive works on.
  struct Running {
    std::shared_ptr<const AttendBatch> batch;
    Completion* done;
    SimTime start;
    std::vector<Block> blocks{};
    int accepted = 0;    // commands that the cores were given
    int next_block = 0;  // the next one to read
    int blocks_computed = 0;
    bool reading = false;  // a block's pages are on their way
    int computing = 0;     // blocks in the attention kernels
    SimTime computing_since{};
    SimTime completions_posted{};
    // Reuse: what the run is remembered under.
    std::uint64_t key = 0;
    int number = 0;
    bool reused = false;
    bool disturbed = false;
    Work work_at_start{};
  };
  struct RememberedRun {
    SimDuration duration;
    FlashArray::State flash_at_end;
    Work work;
  };
  struct Waiting {
    SimTime submitted;
    std::shared_ptr<const AttendBatch> batch;
    Completion* done;
  };

  void push(SimTime at, EventKind kind, int index) { events_.push({at, sequence_++, kind, index}); }
  void begin(SimTime now, const Waiting& next);
  void simulate();
  void settle(SimTime now);
  void accept_commands(SimTime now);
  void handle(const Event& event);
  void start_next_block(SimTime now);
  void read_dense(int pair, SimTime now, Block& block);
  void read_first_step(int pair, SimTime now);
  void estimate_scores(int pair, SimTime now);
  void read_second_step(int pair, SimTime now);
  void compute_block(int index, SimTime now);
  void complete_block(int index, SimTime now);
  void finish_batch(SimTime now);
  void finish_reused(int number, SimTime now);
  void begin_next(SimTime now);

  SimTime read_page(int base, int page, SimTime now) {
    const PagePlace place = placement_.place(base, page);
    return flash_.read(now, place.channel, place.unit).done;
  }
  /// A page that passes the filter of its channel; it arrives when the filter has seen all of it.
  SimTime read_page_filtered(int base, int page, SimTime now) {
    const PagePlace place = placement_.place(base, page);
    const SimTime read = flash_.read(now, place.channel, place.unit).done;
    if (filter_time_ <= flash_.bus_time_per_page()) {
      return read + filter_time_;  // pages leave the bus so far apart that none waits
    }
    filters_[place.channel].forget(now);
    return filters_[place.channel].reserve(read, filter_time_);
  }
  /// When the controller has command `pair` of the running batch.
  [[nodiscard]] SimTime fetched(int pair) const {
    return running_->start + config_.nvme.doorbell + config_.nvme.command_fetch * (pair + 1);
  }
  [[nodiscard]] const HeadReads& reads_of(int pair) const {
    const auto& patterns = running_->batch->patterns;
    return patterns[static_cast<std::size_t>(pair) % patterns.size()];
  }
  [[nodiscard]] Block& block_of(int pair) {
    return running_->blocks[pair / config_.engine.heads_per_block];
  }
  [[nodiscard]] int first_pair(int block) const { return block * config_.engine.heads_per_block; }
  [[nodiscard]] int end_pair(int block) const {
    return std::min(first_pair(block + 1), running_->batch->pairs);
  }
  [[nodiscard]] SimDuration kernel_time(Flops work) const {
    return time_for(work, config_.engine.gemv_rate * config_.engine.gemv_units_per_kernel);
  }
  [[nodiscard]] SimDuration argtopk_time(std::int64_t elements) const {
    return time_for(Flops{elements}, FlopRate{config_.engine.argtopk_rate});
  }

  EventLoop& loop_;
  CsdConfig config_;
  std::string name_;
  bool reuse_;
  KvPlacement placement_;
  FlashArray flash_;
  FifoServers cores_;
  FifoServers kernels_;
  FifoServers argtopk_{1};
  std::vector<BusSchedule> filters_;  // by channel
  SimDuration filter_time_;           // of one page
  CapacityLedger flash_capacity_;
  CapacityLedger dram_;

  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::uint64_t sequence_ = 0;
  std::optional<Running> running_;
  std::queue<Waiting> waiting_;
  int batches_ = 0;
  bool completed_something_ = false;
  std::map<std::uint64_t, RememberedRun> remembered_;
  std::map<std::uint64_t, RememberedRun> remembered_stores_;
  std::map<int, Completion*> stores_;
  int next_store_ = 0;
  Work work_{};  // without the flash counters, which flash_ keeps
};

}  // namespace nearkv
