#include "models/csd/attention_pipeline.hpp"

#include <algorithm>
#include <utility>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr std::uint8_t kKeyGate = 1;    // not a constant: names a gate
constexpr std::uint8_t kValueGate = 2;  // not a constant: likewise
constexpr std::uint32_t kPieceBits = 2;
constexpr std::uint32_t kPieceMask = (1U << kPieceBits) - 1;
/// Tells the heads' steps from the drive's own events, in what the activity log is told.
constexpr std::uint64_t kTimerKey = std::uint64_t{1} << 63;  // not a constant: a free bit

std::int64_t ps(SimTime time) { return time.time_since_epoch().count(); }
SimTime time_at(std::int64_t since_start) { return SimTime{SimDuration{since_start}}; }

}  // namespace

AttentionPipeline::AttentionPipeline(const CsdConfig& config, CsdFlash& flash,
                                     const Telling& telling)
    : engine_(config.engine),
      flash_(flash),
      telling_(telling),
      heads_of_kernel_(static_cast<std::size_t>(config.engine.attention_kernels)),
      kernels_(heads_of_kernel_.size(), FifoServers(config.engine.gemv_units_per_kernel)),
      consumed_(heads_of_kernel_.size()) {
  flash.engine().set_gate(kKeyGate, engine_.feed.key_buffers);
  flash.engine().set_gate(kValueGate, engine_.feed.value_buffers);
}

void AttentionPipeline::begin(const AttendWork& work) {
  check(free_.size() == heads_.size() && ready_.empty(), "a batch begins while heads are at work");
  attend_ = &work;
}

void AttentionPipeline::add_head(int pair, SimTime now) {
  ready_.push_back(pair);
  admit(now);
  update_next();
}

/// Takes heads in whose commands are ready while there is room.
void AttentionPipeline::admit(SimTime now) {
  while (!ready_.empty()) {
    if (free_.empty()) {
      if (static_cast<int>(heads_.size()) == engine_.feed.heads_in_flight) {
        return;
      }
      free_.push_back(static_cast<std::uint32_t>(heads_.size()));
      heads_.emplace_back();
    }
    const std::uint32_t slot = free_.back();
    free_.pop_back();
    Head& head = heads_[slot] = Head{};
    head.pair = ready_.front();
    ready_.pop_front();
    const auto least = std::min_element(heads_of_kernel_.begin(), heads_of_kernel_.end());
    ++*least;
    head.kernel = static_cast<int>(least - heads_of_kernel_.begin());
    const HeadReads& reads = reads_of(head);
    head.is_filtered = reads.has_first_step();
    if (reads.has_first_step()) {
      const Grant ranked = argtopk_.issue(now, argtopk_time(reads.query_elements));
      set_timer(ranked.done, HeadStep::query_ranked, slot,
                {{"argtopk", "channels of a query", ranked.start, Activity::waiting},
                 {"argtopk", "channels of a query", ranked.done}});
    } else {
      begin_attention(slot, now);
    }
  }
}

/// `flops` shared evenly by the pages, or by one piece from the DRAM buffers when there are none.
void AttentionPipeline::set_pieces(Head& head, Piece piece, std::size_t pages, Flops flops) {
  const auto p = static_cast<std::size_t>(piece);
  const auto pieces = static_cast<std::int64_t>(std::max<std::size_t>(pages, 1));
  head.to_consume[p] = head.pieces[p] = static_cast<int>(pieces);
  head.begun[p] = kNever;
  head.has_pages[p] = pages > 0;
  head.time[p] = time_for(Flops{ceil_div(flops.count(), pieces)}, engine_.gemv_rate);
}

void AttentionPipeline::begin_estimate(std::uint32_t slot, SimTime now) {
  Head& head = heads_[slot];
  const HeadReads& reads = reads_of(head);
  set_pieces(head, Piece::channel_page, reads.channel_pages.size(), reads.estimate_flops);
  ask(slot, Piece::channel_page, 0, reads.channel_pages.size());
  if (reads.channel_pages.empty()) {
    work_on(slot, Piece::channel_page, now);
  }
  start_reads(now);
}

void AttentionPipeline::begin_attention(std::uint32_t slot, SimTime now) {
  Head& head = heads_[slot];
  const HeadReads& reads = reads_of(head);
  check(reads.key_pages.size() == reads.value_pages.size(), "K and V pages do not match");
  const Flops scores{reads.attention_flops.count() / 2};  // half is q.K, half is s.V
  set_pieces(head, Piece::key_page, reads.key_pages.size(), scores);
  set_pieces(head, Piece::value_page, reads.value_pages.size(),
             Flops{reads.attention_flops.count() - scores.count()});
  ask(slot, Piece::key_page, 0, reads.key_pages.size());
  ahead_.push_back(slot);
  ask_for_values_ahead();
  if (reads.key_pages.empty()) {
    work_on(slot, Piece::key_page, now);
    head.values_waiting = 1;
  }
  start_reads(now);
}

// -- Flash --------------------------------------------------------------------------------------

void AttentionPipeline::ask(std::uint32_t slot, Piece piece, std::size_t first, std::size_t last) {
  static constexpr KvStream kStreams[kPieces] = {KvStream::key_channels, KvStream::key_tokens,
                                                 KvStream::value_tokens};
  Head& head = heads_[slot];
  if (log() != nullptr) {
    head.asked[static_cast<std::size_t>(piece)] = telling_.drive->current();
  }
  const HeadReads& reads = reads_of(head);
  const std::vector<int>& pages = piece == Piece::channel_page ? reads.channel_pages
                                  : piece == Piece::key_page   ? reads.key_pages
                                                               : reads.value_pages;
  const AttendWork::Place place = attend_->place_of(head.pair);
  const CsdFlash::Stream stream =
      flash_.stream(place.layer, place.pair, kStreams[static_cast<std::size_t>(piece)]);
  const std::uint64_t tag = slot << kPieceBits | static_cast<std::uint32_t>(piece);
  const std::uint8_t gate = piece == Piece::value_page ? kValueGate : kKeyGate;
  for (std::size_t i = first; i < last; ++i) {
    flash_.add_read(stream, pages[i], {tag, gate});
  }
  asked_ += static_cast<std::int64_t>(last - first);
}

/// V pages of heads whose K is not consumed yet, as many as cannot fill all slots for V.
void AttentionPipeline::ask_for_values_ahead() {
  while (!ahead_.empty()) {
    Head& head = heads_[ahead_.front()];
    const auto all = static_cast<int>(reads_of(head).value_pages.size());
    const int more =
        std::min(engine_.feed.value_buffers - 1 - values_ahead_, all - head.values_asked);
    const int first = head.values_asked;
    head.values_asked += more;
    ask(ahead_.front(), Piece::value_page, static_cast<std::size_t>(first),
        static_cast<std::size_t>(head.values_asked));
    values_ahead_ += more;
    if (head.values_asked < all) {
      return;
    }
    ahead_.pop_front();
  }
}

/// The channels see what was asked for.
void AttentionPipeline::start_reads(SimTime now) {
  if (asked_ == 0) {
    return;
  }
  if (pages_on_their_way_ == 0) {
    reading_since_ = now;
  }
  pages_on_their_way_ += std::exchange(asked_, 0);
  flash_.engine().start(now);
}

void AttentionPipeline::page_done(std::uint64_t tag, SimTime at) {
  if (--pages_on_their_way_ == 0) {
    work_.reading += at - reading_since_;
  }
  const auto what = static_cast<std::uint32_t>(tag);
  const std::uint32_t slot = what >> kPieceBits;
  if (heads_[slot].is_filtered) {
    const std::int64_t passed = ps(flash_.filtered(CsdFlash::channel_in(tag), at));
    arrivals_.push(passed, what);
    next_at_ = std::min(next_at_, passed);
  } else {
    arrive(slot, static_cast<Piece>(what & kPieceMask), at);
  }
}

// -- Kernels ------------------------------------------------------------------------------------

void AttentionPipeline::arrive(std::uint32_t slot, Piece piece, SimTime now) {
  Head& head = heads_[slot];
  head.arrived[static_cast<std::size_t>(piece)] = now;
  if (piece == Piece::value_page && !head.is_through) {
    ++head.values_waiting;
  } else {
    work_on(slot, piece, now);
  }
}

void AttentionPipeline::work_on(std::uint32_t slot, Piece piece, SimTime now) {
  Head& head = heads_[slot];
  const auto kernel = static_cast<std::size_t>(head.kernel);
  const auto p = static_cast<std::size_t>(piece);
  const SimDuration time = head.time[p];
  const SimTime done = kernels_[kernel].issue(now, time).done;
  head.begun[p] = std::min(head.begun[p], done - time);
  // Until the unit begins with this piece it is busy with others.
  work_.computing += std::max(SimDuration{0}, done - std::max(now, computing_until_));
  computing_until_ = std::max(computing_until_, done);
  work_.gemv_busy += time;
  work_.estimating += piece == Piece::channel_page ? time : SimDuration{};
  consumed_[kernel].push(ps(done), slot << kPieceBits | static_cast<std::uint32_t>(piece));
  next_at_ = std::min(next_at_, ps(done));
}

int AttentionPipeline::consumed(std::uint32_t what, SimTime now) {
  const std::uint32_t slot = what >> kPieceBits;
  const auto p = static_cast<std::size_t>(what & kPieceMask);
  const auto piece = static_cast<Piece>(p);
  Head& head = heads_[slot];
  if (head.has_pages[p]) {
    flash_.engine().return_credit(piece == Piece::value_page ? kValueGate : kKeyGate, now);
  }
  if (--head.to_consume[p] > 0) {
    return 0;
  }
  tell_consumed(head, piece, now);
  if (piece == Piece::channel_page) {
    const SimTime scored = now + engine_.softmax_latency;
    set_timer(scored, HeadStep::scored, slot, {{"softmax", "latency of a softmax", scored}});
  } else if (piece == Piece::key_page) {
    keys_consumed(slot, now);
  } else {
    leave(slot, now);
    return 1;
  }
  return 0;
}

/// Nothing holds up the head's V pages any more: the rest of them is asked for.
void AttentionPipeline::keys_consumed(std::uint32_t slot, SimTime now) {
  Head& head = heads_[slot];
  values_ahead_ -= head.values_asked;
  std::erase(ahead_, slot);
  const auto all = static_cast<int>(reads_of(head).value_pages.size());
  ask(slot, Piece::value_page, static_cast<std::size_t>(head.values_asked),
      static_cast<std::size_t>(all));
  head.values_asked = all;
  ask_for_values_ahead();
  start_reads(now);
  const SimTime through = now + engine_.softmax_latency;
  set_timer(through, HeadStep::softmax_through, slot,
            {{"softmax", "latency of a softmax", through}});
}

/// The last piece of a kind: it came from flash, or waited for the head's softmax.
void AttentionPipeline::tell_consumed(const Head& head, Piece piece, SimTime now) {
  ActivityLog* const activity = log();
  if (activity == nullptr) {
    return;
  }
  const auto p = static_cast<std::size_t>(piece);
  const char* what = piece == Piece::channel_page ? "estimated scores"
                     : piece == Piece::key_page   ? "q.K"
                                                  : "s.V";
  const bool is_behind_softmax = piece == Piece::value_page &&
                                 head.through != ActivityLog::kNoCause &&
                                 activity->node(head.through).at >= head.arrived[p];
  CsdActivity& drive = *telling_.drive;
  drive.set_current(
      is_behind_softmax
          ? drive.after(*activity, head.through, {{"gemv_units", what, now}})
          : drive.after(*activity, head.asked[p],
                        {{"flash", "reads", head.arrived[p]}, {"gemv_units", what, now}}));
  drive.work(*activity, {.part = "gemv_units",
                         .what = what,
                         .time = {head.begun[p], now},
                         .busy = head.time[p] * head.pieces[p],
                         .arguments = {{"pieces", head.pieces[p]}}});
}

// -- Heads --------------------------------------------------------------------------------------

void AttentionPipeline::leave(std::uint32_t slot, SimTime now) {
  --heads_of_kernel_[static_cast<std::size_t>(heads_[slot].kernel)];
  free_.push_back(slot);
  admit(now);
}

void AttentionPipeline::set_timer(SimTime at, HeadStep step, std::uint32_t slot,
                                  std::initializer_list<CsdActivity::Part> parts) {
  if (log() != nullptr) {
    telling_.drive->follows(*log(), kTimerKey | sequence_, parts);
  }
  timers_.push({at, sequence_++, step, slot});
  next_at_ = std::min(next_at_, ps(at));
}

void AttentionPipeline::step(const Timer& timer) {
  Head& head = heads_[timer.slot];
  if (log() != nullptr) {
    telling_.drive->handles(*log(), kTimerKey | timer.sequence, timer.at);
  }
  switch (timer.step) {
    case HeadStep::query_ranked:
      begin_estimate(timer.slot, timer.at);
      break;
    case HeadStep::scored: {
      const SimDuration time = argtopk_time(reads_of(head).score_elements);
      const Grant selected = argtopk_.issue(timer.at, time);
      set_timer(selected.done, HeadStep::selected, timer.slot,
                {{"argtopk", "tokens of a head", selected.start, Activity::waiting},
                 {"argtopk", "tokens of a head", selected.done}});
      break;
    }
    case HeadStep::selected:
      begin_attention(timer.slot, timer.at);
      break;
    case HeadStep::softmax_through:
      head.is_through = true;
      head.through = telling_.drive->current();
      for (; head.values_waiting > 0; --head.values_waiting) {
        work_on(timer.slot, Piece::value_page, timer.at);
      }
      break;
  }
}

int AttentionPipeline::process_next() {
  const std::int64_t at = next_at_;
  int heads_done = 0;
  if (arrivals_.front_at() == at) {
    const std::uint32_t what = arrivals_.front().what;
    arrivals_.pop();
    arrive(what >> kPieceBits, static_cast<Piece>(what & kPieceMask), time_at(at));
  } else if (const auto kernel =
                 std::find_if(consumed_.begin(), consumed_.end(),
                              [at](const EventRing& pieces) { return pieces.front_at() == at; });
             kernel != consumed_.end()) {
    const std::uint32_t what = kernel->front().what;
    kernel->pop();
    heads_done = consumed(what, time_at(at));
  } else {
    const Timer timer = timers_.top();
    timers_.pop();
    step(timer);
  }
  update_next();
  return heads_done;
}

void AttentionPipeline::update_next() {
  next_at_ = arrivals_.front_at();
  for (const EventRing& pieces : consumed_) {
    next_at_ = std::min(next_at_, pieces.front_at());
  }
  if (!timers_.empty()) {
    next_at_ = std::min(next_at_, ps(timers_.top().at));
  }
}

}  // namespace nearkv
