// The computational storage drive: NVMe front end, firmware, attention engine, flash and its FTL.
//
// A Component of the event loop: its events are those of commands and blocks of heads; the pages
// of a step are issued to the flash at their event's time. The recurrence of FlashArray (policies
// fifo, first_gap) gives each page its picosecond at once; with an event-driven policy the events
// of the FlashEngine are the drive's, too. Engine feed "pages": see attention_pipeline.hpp. Feed
// "blocks", life of one attend batch (one layer's commands of one doorbell):
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
// The FTL (KvFtl) is told what is appended before the pages are programmed, so that it is in the
// same state however much of the run is simulated. When a drive has nothing to do and free blocks
// are few, it erases blocks of finished tasks, one of each plane at a time.
//
// Reuse: an attend batch that finds the drive in a state from which an equal batch has run before,
// with its pages at equal places, takes that run's duration and end state. Equal to the picosecond:
// the drive is deterministic and its state enters relative to the time. When something else is
// submitted meanwhile, the reused batch is simulated after all, from its start. The same holds for
// the reads of a block, by recurrence: those of a block whose pages lie elsewhere take the same
// time when only the units of the channels have other names (KvPlacement::shift). What is submitted
// at the picosecond of an event of the drive comes after that event. With an event-driven policy
// only batches that begin with idle flash are reused, and none where retries or a spread of array
// times are drawn at random. Drives of one config may share what they remember.
#pragma once

#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/csd/attend_batch.hpp"
#include "models/csd/attention_pipeline.hpp"
#include "models/csd/csd_activity.hpp"
#include "models/csd/csd_config.hpp"
#include "models/csd/csd_flash.hpp"
#include "models/ssd/drive_conditions.hpp"
#include "sim/core/activity_log.hpp"
#include "sim/core/capacity.hpp"
#include "sim/core/event_loop.hpp"
#include "sim/core/metrics.hpp"
#include "sim/core/servers.hpp"

namespace nearkv {

class Csd final : public Component, private PageSink {
 public:
  /// Runs of batches and stores that may be reused.
  struct Memory;
  struct Options {
    bool reuse = false;                        // else every page is simulated
    std::uint64_t seed = 1;                    // of bad blocks and of what the flash draws
    std::shared_ptr<Memory> memory = nullptr;  // shared by equal drives; null: one of its own
  };
  [[nodiscard]] static std::shared_ptr<Memory> make_memory();
  /// `name` is the config path without its slash ("csd/0").
  Csd(EventLoop& loop, const CsdConfig& config, std::string name, const Options& options);

  // -- Tasks: what the host tells the drive about the KV cache.

  /// Room for a task's KV at most. Throws OutOfCapacity.
  [[nodiscard]] KvFtl::TaskId open_task(const KvTaskShape& shape,
                                        const kernels::PageGeometry& pages);
  /// Tokens of all heads of a layer are in the group buffers; says where their pages will lie.
  /// What they fill is programmed by submit_store(). Finished tasks are erased first when flash is
  /// short: at `now`, or, without it, in no time (state only). Throws OutOfCapacity.
  void append(const KvLayer& layer, int tokens, std::optional<SimTime> now);
  /// One token after the other of all layers of several tasks, in no time: the state of as many
  /// append(). Throws OutOfCapacity.
  void append_skipped(const std::vector<KvFtl::Growing>& tasks);
  /// The task's data are not needed any more.
  void finish_task(KvFtl::TaskId task, SimTime now);

  // -- Commands.

  /// The host rings the doorbell at `now` for all commands of `work`; `done` is finished when the
  /// last completion is in host memory. Batches run in the order of submission.
  void submit_attend(SimTime now, AttendWork work, Completion& done);
  /// The same with one layer for all segments: a batch of one task, or of none.
  void submit_attend(SimTime now, std::shared_ptr<const AttendBatch> batch, Completion& done,
                     const KvLayer& layer = {});

  /// Reads pages into the drive's DRAM, from where their data may leave, in turn with attend
  /// batches. A command costs the controller's command_cost, and its pages are asked for when it is
  /// ready. `done` as in submit_attend().
  void submit_read(SimTime now, const ReadBatch& batch, Completion& done,
                   const KvLayer& layer = {});

  /// Programs pages whose data are in the drive's DRAM. `done` (may be null: background) is
  /// finished when the last page is programmed.
  void submit_store(SimTime now, const PageBatch& batch, Completion* done,
                    const KvLayer& layer = {});
  /// The same, but not while a batch is at work: its reads go first, and the pages are programmed
  /// before the next batch begins.
  void submit_background_store(SimTime now, const PageBatch& batch, Completion* done,
                               const KvLayer& layer = {});

  // -- Faults.

  /// Of what begins from `now` on; pages that are under way take the time that they were given.
  void set_conditions(SimTime now, const DriveConditions& conditions);
  /// All controller cores do nothing for so long, behind what they have.
  void stall(SimTime now, SimDuration duration);
  /// KvFtl::fail_planes() and lose_pages(); finished tasks are erased first when flash is short.
  /// Throws OutOfCapacity when the other planes have no room.
  [[nodiscard]] std::vector<KvFtl::LostPage> fail_planes(SimTime now,
                                                         const std::vector<int>& planes);
  [[nodiscard]] std::vector<KvFtl::LostPage> lose_pages(SimTime now, std::int64_t count, Rng& rng);
  /// Programs pages of one layer, whose data are in the drive's DRAM, where they were remapped to.
  void submit_rewrite(SimTime now, const std::vector<KvFtl::LostPage>& pages, Completion& done);

  [[nodiscard]] SimTime next_event() const override;
  void process(SimTime until) override;

  [[nodiscard]] const CsdConfig& config() const { return config_; }
  [[nodiscard]] const KvFtl& ftl() const { return flash_.ftl(); }
  /// For tests: see CsdFlash.
  void set_log(std::vector<CsdFlash::ReadPage>* log) { flash_.set_log(log); }
  /// Flash that KV pages may take, by label.
  [[nodiscard]] CapacityLedger& flash_capacity() { return flash_capacity_; }
  [[nodiscard]] CapacityLedger& dram() { return dram_; }

  /// Work done so far; differences of two readings describe a phase of the run.
  struct Work {
    CsdFlash::Counters flash;
    std::int64_t attends = 0;
    std::int64_t reads = 0;    // commands of submit_read()
    SimDuration attending{};   // some batch was at work, from its doorbell to its last completion
    SimDuration reading{};     // some block's pages, or some page, were on their way from flash
    SimDuration computing{};   // some block was in the attention kernels, or some GeMV unit at work
    SimDuration gemv_busy{};   // summed over the GeMV units
    SimDuration estimating{};  // the part of it for SparF's estimated scores ("Logit-0")
    SimDuration firmware{};    // core time
    SimDuration storing{};     // from a store's submission to its last page
    std::int64_t reused_batches = 0;
    std::int64_t reused_blocks = 0;  // their reads, in batches that were simulated

    Work& operator+=(const Work& o);
    friend Work operator-(Work a, const Work& b);
  };
  [[nodiscard]] Work work() const;
  /// check()s of an idle drive that each page that was asked for was read once, and that its
  /// memories hold what they should.
  void audit() const;

  [[nodiscard]] Bytes bytes_read() const {
    return config_.flash.page_size * flash_.counters().pages_read;
  }
  [[nodiscard]] Bytes bytes_programmed() const {
    return config_.flash.page_size * flash_.counters().pages_programmed;
  }
  /// Bus time of all pages so far, summed over the channels.
  [[nodiscard]] SimDuration channel_time() const { return flash_.counters().bus_busy; }
  /// GeMV units of the engine.
  [[nodiscard]] int gemv_units() const {
    return config_.engine.attention_kernels * config_.engine.gemv_units_per_kernel;
  }
  /// While some batch was at work: time of GeMV units without work, summed over them.
  [[nodiscard]] SimDuration gemv_idle() const {
    const Work now = work();
    return now.attending * gemv_units() - now.gemv_busy;
  }

 private:
  enum class EventKind {
    start_block,      // the commands of a block are ready
    query_ranked,     // argtopk has chosen a head's channels
    scores_arrived,   // a head's channel-indexed pages are there
    selected,         // argtopk has chosen a head's tokens
    block_arrived,    // all pages of a block are there
    computed,         // a block has left the attention kernels
    command_fetched,  // feed pages: the controller has a head's command
    command_ready,    // likewise: a core is done with it
    read_ready,       // a core is done with a read command
    pages_read,       // its pages are there
    idle,             // the flash may be idle
    batch_done,       // the last completion is in host memory
    reused_done,      // the same, of a batch whose run was reused
    stored,           // a store's last page is programmed
  };
  struct Event {
    SimTime at;
    std::uint64_t sequence;
    EventKind kind;
    int index;  // of the block, the pair, the batch or the store
    bool operator>(const Event& o) const { return at != o.at ? at > o.at : sequence > o.sequence; }
  };
  /// Pages that are waited for together.
  struct PageGroup {
    SimTime arrived{};
    int on_their_way = 0;  // event-driven
    // For the activity log.
    std::size_t last_channel = 0;  // by recurrence
    CsdActivity::Cause asked = ActivityLog::kNoCause;
  };
  struct Block {
    SimTime commands_ready{};  // of those that the cores were given
    SimTime reads_start{};
    PageGroup pages;
    int heads_to_select = 0;  // heads whose second step is not issued yet
    // Reuse: what the reads are remembered under, if they may be.
    std::optional<std::uint64_t> key{};
    bool reused = false;
    Work work_at_start{};
  };
  /// The batch that the drive works on.
  struct PlainRead {
    ReadBatch batch;
    KvLayer layer;
  };
  struct Running {
    AttendWork work;
    std::optional<PlainRead> read;  // or else `work`
    Completion* done;
    SimTime start;
    std::vector<Block> blocks{};
    std::vector<PageGroup>
        groups{};           // by pair: first steps, event-driven; by command of plain reads
    SimTime reads_start{};  // of plain reads
    int accepted = 0;       // commands that the cores were given
    int next_block = 0;     // the next one to read
    int heads_done = 0;
    int blocks_computed = 0;
    bool reading = false;  // a block's pages are on their way
    int computing = 0;     // blocks in the attention kernels
    SimTime computing_since{};
    SimTime completions_posted{};
    // Reuse: what the run is remembered under.
    std::uint64_t key = 0;
    bool reused = false;
    bool disturbed = false;  // or began with flash at work that no state describes
    Work work_at_start{};
    std::int32_t arrow = ActivityLog::kNobody;          // to the first channel that is told
    std::int32_t command_arrow = ActivityLog::kNobody;  // the same one, to the commands
  };
  struct Waiting {
    SimTime submitted;
    AttendWork work;
    std::optional<PlainRead> read;
    Completion* done;
    std::int32_t arrow = ActivityLog::kNobody;
  };
  struct Store {
    Completion* done = nullptr;
    SimTime submitted{};
    std::int64_t on_their_way = 0;  // event-driven
    CsdActivity::Cause asked = ActivityLog::kNoCause;
  };
  /// What a page of the FlashEngine belongs to, in its tag above the channel.
  enum class PageOwner : std::uint8_t { pipeline, first_step, block, read, store, reclaim };
  static constexpr int kOwnerShift = CsdFlash::kChannelShift + CsdFlash::kChannelBits;
  [[nodiscard]] static std::uint64_t tag_of(PageOwner owner, int index) {
    return static_cast<std::uint64_t>(owner) << kOwnerShift | static_cast<std::uint32_t>(index);
  }

  void push(SimTime at, EventKind kind, int index) { events_.push({at, sequence_++, kind, index}); }
  /// The same; tells the activity log what is waited for until then.
  void push(SimTime at, EventKind kind, int index, std::initializer_list<CsdActivity::Part> parts) {
    if (ActivityLog* log = loop_.activity()) [[unlikely]] {
      activity_.follows(*log, sequence_, parts);
    }
    push(at, kind, index);
  }
  void push_arrival(const PageGroup& group, SimTime at, EventKind kind, int index);
  void tell(std::string_view part, std::string_view what, const Grant& granted) {
    if (ActivityLog* log = loop_.activity()) [[unlikely]] {
      activity_.service(*log, part, what, granted);
    }
  }
  [[nodiscard]] std::vector<SimDuration> bus_busy_by_channel();
  void tell_channels(std::string_view what, SimTime begin, SimTime end);
  void tell_block(int index, SimTime now);
  void tell_batch(SimTime now);
  [[nodiscard]] ActivityLog::Cause why() const {
    return loop_.activity() == nullptr ? ActivityLog::kNoCause : activity_.current();
  }
  void begin(SimTime now, Waiting next);
  [[nodiscard]] std::uint64_t what_runs() const;
  void simulate();
  void step(SimTime at);
  void settle(SimTime now);
  void disturb(SimTime now);
  void page_done(std::uint64_t tag, SimTime at) override;
  void page_of_block_done(PageOwner owner, std::uint64_t tag, SimTime at);
  void accept_commands(SimTime now);
  void handle(const Event& event);
  // feed blocks
  void start_next_block(SimTime now);
  void read_block(int index, SimTime now);
  [[nodiscard]] std::optional<std::uint64_t> what_block_reads(int index, SimTime now) const;
  bool reuse_reads(int index, SimTime now);
  void read_after_all(int index);
  void remember_reads(int index, SimTime now);
  [[nodiscard]] Work reading_work() const;
  void drop_events(EventKind kind);
  void read_tokens(int pair, SimTime now, bool is_filtered);
  void read_first_step(int pair, SimTime now);
  void estimate_scores(int pair, SimTime now);
  void block_may_have_arrived(int index, SimTime now);
  void compute_block(int index, SimTime now);
  void complete_block(int index, SimTime now);
  // feed pages
  void fetch_command(int command, SimTime now);
  // plain reads
  void read_pages(int command, SimTime now);
  void complete_read(SimTime now);
  // all
  void submit(Waiting next);
  void complete_heads(int heads, SimTime now);
  void finish_batch(SimTime now);
  void finish_reused(SimTime now);
  void begin_next(SimTime now);
  void finish_store(int index, SimTime now);
  SimTime program(const PageBatch& batch, const KvLayer& layer, int store, SimTime now);
  void require_room(KvFtl::Outcome remapped) const;
  void erase(const KvOperations& erases, SimTime now);
  void reclaim_if_idle(SimTime now);

  /// A page of a block; asks an event-driven array for it, to start later.
  void read_page(PageGroup& group, std::uint64_t tag, const CsdFlash::Stream& stream, int page,
                 SimTime now) {
    const bool is_filtered = (tag & kFilteredTag) != 0;
    if (reads_quietly_) [[likely]] {
      group.arrived = std::max(group.arrived, is_filtered ? flash_.read_filtered(now, stream, page)
                                                          : flash_.read(now, stream, page));
    } else {
      read_page_otherwise(group, tag, stream, page, now);
    }
  }
  void read_page_otherwise(PageGroup& group, std::uint64_t tag, const CsdFlash::Stream& stream,
                           int page, SimTime now);
  static constexpr int kFilteredBit = 40;  // not a constant: between the index and the channel
  static constexpr std::uint64_t kFilteredTag = std::uint64_t{1} << kFilteredBit;
  /// When the controller has a command of the running batch.
  [[nodiscard]] SimTime fetched(int command) const {
    return running_->start + config_.nvme.doorbell + config_.nvme.command_fetch * (command + 1);
  }
  [[nodiscard]] const HeadReads& reads_of(int pair) const {
    return running_->work.batch->reads_of(pair);
  }
  /// Of attend batches, the pairs; a command each.
  [[nodiscard]] int commands() const {
    return running_->read ? running_->read->batch.commands() : running_->work.batch->pairs();
  }
  [[nodiscard]] SimDuration command_cost() const {
    return running_->read ? config_.controller.command_cost : config_.engine.attend_cost;
  }
  [[nodiscard]] CsdFlash::Stream stream_of(int pair, KvStream stream) const {
    const AttendWork::Place place = running_->work.place_of(pair);
    return flash_.stream(place.layer, place.pair, stream);
  }
  [[nodiscard]] int heads_per_block() const { return config_.engine.feed.heads_per_block; }
  [[nodiscard]] Block& block_of(int pair) { return running_->blocks[pair / heads_per_block()]; }
  [[nodiscard]] int first_pair(int block) const { return block * heads_per_block(); }
  [[nodiscard]] int end_pair(int block) const {
    return std::min(first_pair(block + 1), commands());
  }
  Grant compute(SimTime now, Flops work, std::string_view what);
  [[nodiscard]] SimDuration argtopk_time(std::int64_t elements) const {
    return time_for(Flops{elements}, FlopRate{config_.engine.argtopk_rate});
  }

  EventLoop& loop_;
  CsdConfig config_;
  CsdConfig normal_;  // without conditions
  std::string name_;
  bool reuse_;
  SimTime stalled_until_{};
  std::int64_t pages_asked_ = 0;  // to be read
  CsdFlash flash_;
  FifoServers cores_;
  FifoServers kernels_;  // feed blocks: all GeMV units of a kernel work on one head
  FifoServers argtopk_{1};
  std::optional<AttentionPipeline> pipeline_;  // feed pages
  CapacityLedger flash_capacity_;
  CapacityLedger dram_;
  std::map<KvFtl::TaskId, Bytes> task_capacity_;

  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::uint64_t sequence_ = 0;
  std::optional<Running> running_;
  std::queue<Waiting> waiting_;
  bool completed_something_ = false;
  std::shared_ptr<Memory> memory_;
  struct DeferredStore {
    PageBatch pages;
    Completion* done;
    KvLayer layer;
  };
  std::vector<DeferredStore> deferred_;  // until the batch at work is done
  std::map<int, Store> stores_;          // not finished
  int next_store_ = 0;
  int erases_on_their_way_ = 0;  // event-driven
  SimTime flash_busy_until_{};   // with stores and erases; by recurrence
  Work work_{};                  // without the flash counters, which flash_ keeps
  CsdActivity activity_;
  ChannelTally tally_;               // by recurrence, while a log is kept
  std::vector<SimDuration> told_{};  // event-driven: bus time by channel that the log knows of
  bool reads_quietly_ = false;       // by recurrence, and nobody wants to know
};

struct Csd::Memory {
  struct Run {
    SimDuration duration;
    CsdFlash::State flash_at_end;
    Work work;
  };
  std::map<std::uint64_t, Run> batches;
  std::map<std::uint64_t, Run> stores;
  std::map<std::uint64_t, Run> blocks;  // their reads
};

}  // namespace nearkv
