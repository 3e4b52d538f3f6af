// The attention engine fed page by page: config engine/feed = "pages".
//
// Between the flash channels and the attention kernels lie page slots: key_buffers for pages of K
// (channel-indexed ones too), value_buffers for pages of V. The data-out of a page on its channel
// needs a free slot of its kind (the gates of flash_engine.hpp); without one the channel serves
// another page or stalls, and the die keeps the page: kernels that are slower than the flash hold
// it up. A page that has left its channel passes the channel's filter (SparF only: dense attention
// drops nothing), waits for a GeMV unit of the kernel to which its head belongs, first come first
// served, and frees its slot when the unit is done with it:
//     time of a page = its share of the step's flops / gemv_rate; the pages of a step share evenly
// At most heads_in_flight heads are in the engine, in the order in which their commands became
// ready; a head belongs to the kernel with the fewest heads in flight. The life of one:
//   1. SparF: argtopk over the query; channel pages are read and consumed; softmax_latency;
//      argtopk over the scores.
//   2. All its K pages are asked for, and V pages behind them. When the last K page is consumed,
//      the head's softmax is through softmax_latency later; until then V pages wait in their slots.
//      The head is done when its last V page is consumed.
// A step without pages (everything is in the DRAM buffers) is one piece of work without a slot.
//
// No deadlock, with any number of slots: before the last K page of its head is consumed, V pages
// are asked for only while all heads together have fewer than value_buffers of such pages. So one
// slot at least serves V pages that nothing holds up, every page leaves its die in the end, and K
// pages behind it are read. With one slot V is read behind K.
//
// At equal times: pages that leave the channels, pages that leave the filters, pages that are
// consumed (kernel by kernel), then the steps of heads; within each in the order of their causes.
#pragma once

#include <cstdint>
#include <deque>
#include <initializer_list>
#include <queue>
#include <vector>

#include "models/csd/attend_batch.hpp"
#include "models/csd/csd_activity.hpp"
#include "models/csd/csd_config.hpp"
#include "models/csd/csd_flash.hpp"
#include "models/flash/event_ring.hpp"
#include "sim/core/activity_log.hpp"
#include "sim/core/event_loop.hpp"
#include "sim/core/servers.hpp"

namespace nearkv {

class AttentionPipeline {
 public:
  /// Where the activity log is, and what the drive tells it.
  struct Telling {
    const EventLoop* loop;
    CsdActivity* drive;
  };
  /// All must outlive the pipeline.
  AttentionPipeline(const CsdConfig& config, CsdFlash& flash, const Telling& telling);

  /// Works on `work` from now on; the one before has left. It must live until the last head has.
  void begin(const AttendWork& work);
  /// The command of a head is ready; every pair of the batch once.
  void add_head(int pair, SimTime now);

  /// Time of the earliest event, kNever when there is none.
  [[nodiscard]] SimTime next_event() const { return SimTime{SimDuration{next_at_}}; }
  /// Handles the earliest event; returns the number of heads that it completed.
  int process_next();
  /// A page that add_read() asked for has left its channel.
  void page_done(std::uint64_t tag, SimTime at);

  struct Work {
    SimDuration reading{};     // some page was asked for and on its way
    SimDuration computing{};   // some GeMV unit was at work
    SimDuration gemv_busy{};   // summed over the units
    SimDuration estimating{};  // the part of it for estimated scores
  };
  [[nodiscard]] const Work& work() const { return work_; }

 private:
  /// What a GeMV unit works on. Those of one kind in one head are alike.
  enum class Piece : std::uint8_t { channel_page, key_page, value_page };
  static constexpr int kPieces = 3;
  enum class HeadStep : std::uint8_t { query_ranked, scored, selected, softmax_through };

  struct Head {
    int pair = 0;
    int kernel = 0;
    bool is_filtered = false;
    bool is_through = false;    // its softmax
    int to_consume[kPieces]{};  // pieces left
    bool has_pages[kPieces]{};  // or one piece from the DRAM buffers
    SimDuration time[kPieces]{};
    int values_asked = 0;
    int values_waiting = 0;  // in their slots
    // For the activity log.
    CsdActivity::Cause asked[kPieces]{ActivityLog::kNoCause, ActivityLog::kNoCause,
                                      ActivityLog::kNoCause};
    SimTime arrived[kPieces]{};  // the last page so far
    SimTime begun[kPieces]{};    // some GeMV unit has begun with the first piece
    int pieces[kPieces]{};
    CsdActivity::Cause through = ActivityLog::kNoCause;
  };
  struct Timer {
    SimTime at;
    std::uint64_t sequence;
    HeadStep step;
    std::uint32_t slot;
    bool operator>(const Timer& o) const { return at != o.at ? at > o.at : sequence > o.sequence; }
  };

  [[nodiscard]] const HeadReads& reads_of(const Head& head) const {
    return attend_->batch->reads_of(head.pair);
  }
  void admit(SimTime now);
  void set_pieces(Head& head, Piece piece, std::size_t pages, Flops flops);
  void begin_estimate(std::uint32_t slot, SimTime now);
  void begin_attention(std::uint32_t slot, SimTime now);
  void ask(std::uint32_t slot, Piece piece, std::size_t first, std::size_t last);
  void ask_for_values_ahead();
  void start_reads(SimTime now);
  void arrive(std::uint32_t slot, Piece piece, SimTime now);
  void work_on(std::uint32_t slot, Piece piece, SimTime now);
  int consumed(std::uint32_t what, SimTime now);
  void keys_consumed(std::uint32_t slot, SimTime now);
  void leave(std::uint32_t slot, SimTime now);
  void step(const Timer& timer);
  void set_timer(SimTime at, HeadStep step, std::uint32_t slot,
                 std::initializer_list<CsdActivity::Part> parts);
  [[nodiscard]] ActivityLog* log() const { return telling_.loop->activity(); }
  void tell_consumed(const Head& head, Piece piece, SimTime now);
  void update_next();
  [[nodiscard]] SimDuration argtopk_time(std::int64_t elements) const {
    return time_for(Flops{elements}, FlopRate{engine_.argtopk_rate});
  }

  const AttentionEngineConfig& engine_;
  CsdFlash& flash_;
  Telling telling_;
  const AttendWork* attend_ = nullptr;

  std::deque<int> ready_;             // pairs whose commands are ready
  std::vector<Head> heads_;           // by slot
  std::vector<std::uint32_t> free_;   // slots
  std::deque<std::uint32_t> ahead_;   // heads that have V pages to ask for ahead of their softmax
  int values_ahead_ = 0;              // V pages asked for whose heads' K is not consumed yet
  std::vector<int> heads_of_kernel_;  // in flight
  std::vector<FifoServers> kernels_;  // GeMV units
  FifoServers argtopk_{1};
  EventRing arrivals_;               // pages behind the filters
  std::vector<EventRing> consumed_;  // by kernel
  std::priority_queue<Timer, std::vector<Timer>, std::greater<>> timers_;
  std::uint64_t sequence_ = 0;
  std::int64_t next_at_ = INT64_MAX;

  std::int64_t asked_ = 0;  // of the flash, since the last start_reads()
  std::int64_t pages_on_their_way_ = 0;
  SimTime reading_since_{};
  SimTime computing_until_{};
  Work work_;
};

}  // namespace nearkv
