#include "models/csd/csd.hpp"

#include <algorithm>

#include "sim/core/check.hpp"
#include "sim/core/hash.hpp"

namespace nearkv {

void AttendBatch::seal() {
  hash = mix_hash(0, static_cast<std::uint64_t>(pairs));
  for (const HeadReads& reads : patterns) {
    hash = mix_hash(hash, reads.hash());
  }
}

std::int64_t StoreBatch::pages() const {
  std::int64_t count = 0;
  for (const Span& span : spans) {
    count += std::int64_t{pairs} * (span.last - span.first);
  }
  return count;
}

Csd::Work& Csd::Work::operator+=(const Work& o) {
  flash.pages_read += o.flash.pages_read;
  flash.pages_programmed += o.flash.pages_programmed;
  flash.blocks_erased += o.flash.blocks_erased;
  attends += o.attends;
  reading += o.reading;
  computing += o.computing;
  firmware += o.firmware;
  storing += o.storing;
  reused_batches += o.reused_batches;
  return *this;
}

Csd::Work operator-(Csd::Work a, const Csd::Work& b) {
  a.flash.pages_read -= b.flash.pages_read;
  a.flash.pages_programmed -= b.flash.pages_programmed;
  a.flash.blocks_erased -= b.flash.blocks_erased;
  a.attends -= b.attends;
  a.reading -= b.reading;
  a.computing -= b.computing;
  a.firmware -= b.firmware;
  a.storing -= b.storing;
  a.reused_batches -= b.reused_batches;
  return a;
}

Csd::Csd(EventLoop& loop, const CsdConfig& config, std::string name, bool reuse)
    : loop_(loop),
      config_(config),
      name_(std::move(name)),
      reuse_(reuse),
      placement_(config.flash, config.layout),
      flash_(config.flash.recurrence()),
      cores_(config.controller.cores),
      kernels_(config.engine.attention_kernels),
      filters_(config.flash.channels, BusSchedule(BusOrder::first_gap)),
      filter_time_(time_for(config.flash.page_size, config.engine.filter_rate)),
      flash_capacity_("CSD flash", config.flash.capacity()),
      dram_("CSD DRAM", config.dram_capacity) {
  loop.attach(*this);
}

// -- Attend -----------------------------------------------------------------------------------

void Csd::submit_attend(SimTime now, std::shared_ptr<const AttendBatch> batch, Completion& done) {
  check(batch->pairs > 0 && !batch->patterns.empty(), "an attend batch without heads");
  check(batch->hash != 0, "an attend batch that is not sealed");
  const Waiting next{now, std::move(batch), &done};
  if (running_) {
    waiting_.push(next);
  } else {
    begin(now, next);
  }
}

/// Everything but the flash array is idle between batches: a batch ends when its last completion
/// is posted, and everything else that it used is done by then.
void Csd::begin(SimTime now, const Waiting& next) {
  const SimTime start = std::max(now, next.submitted);
  running_.emplace(Running{.batch = next.batch, .done = next.done, .start = start});
  running_->number = batches_++;
  running_->work_at_start = work();
  running_->key = mix_hash(next.batch->hash, flash_.state_after(start).hash());
  if (reuse_) {
    if (const auto found = remembered_.find(running_->key); found != remembered_.end()) {
      running_->reused = true;
      push(start + found->second.duration, EventKind::reused_done, running_->number);
      return;
    }
  }
  simulate();
}

void Csd::simulate() {
  Running& run = *running_;
  const int block_count =
      static_cast<int>(ceil_div(run.batch->pairs, config_.engine.heads_per_block));
  run.blocks.assign(block_count, Block{});
  work_.firmware += config_.controller.attend_cost * run.batch->pairs;
  push(fetched(end_pair(0) - 1), EventKind::start_block, 0);
}

/// Handles what happens on the drive up to `now`, also outside process(). Completions are left to
/// process(); a batch that waits for one begins behind what is submitted now.
void Csd::settle(SimTime now) {
  std::vector<Event> completions;
  while (!events_.empty() && events_.top().at <= now) {
    const Event event = events_.top();
    events_.pop();
    if (event.kind >= EventKind::batch_done) {
      completions.push_back(event);
    } else {
      handle(event);
    }
  }
  for (const Event& event : completions) {
    events_.push(event);
  }
}

void Csd::process(SimTime until) {
  completed_something_ = false;
  while (!completed_something_ && !events_.empty() && events_.top().at <= until) {
    const Event event = events_.top();
    events_.pop();
    handle(event);
  }
  completed_something_ = false;
}

void Csd::handle(const Event& event) {
  switch (event.kind) {
    case EventKind::start_block:
      start_next_block(event.at);
      break;
    case EventKind::query_ranked:
      read_first_step(event.index, event.at);
      break;
    case EventKind::scores_arrived:
      estimate_scores(event.index, event.at);
      break;
    case EventKind::selected:
      read_second_step(event.index, event.at);
      break;
    case EventKind::block_arrived:
      compute_block(event.index, event.at);
      break;
    case EventKind::computed:
      complete_block(event.index, event.at);
      break;
    case EventKind::batch_done:
      finish_batch(event.at);
      break;
    case EventKind::reused_done:
      finish_reused(event.index, event.at);
      break;
    case EventKind::stored: {
      const auto store = stores_.find(event.index);
      loop_.finish(*store->second, event.at);
      stores_.erase(store);
      completed_something_ = true;
      break;
    }
  }
}

/// Gives the cores the commands that the controller has by `now`: before whatever comes later.
void Csd::accept_commands(SimTime now) {
  Running& run = *running_;
  for (; run.accepted < run.batch->pairs && fetched(run.accepted) <= now; ++run.accepted) {
    const SimTime ready = cores_.issue(fetched(run.accepted), config_.controller.attend_cost).done;
    Block& block = block_of(run.accepted);
    block.commands_ready = std::max(block.commands_ready, ready);
  }
}

/// Starts reading the next block if its commands are there, no block is being read and a staging
/// buffer is free. Called whenever one of these may have changed.
void Csd::start_next_block(SimTime now) {
  Running& run = *running_;
  const int index = run.next_block;
  if (run.reading || index == static_cast<int>(run.blocks.size()) ||
      index >= run.blocks_computed + config_.engine.staging_buffers) {
    return;
  }
  Block& block = run.blocks[index];
  const SimTime last_fetched = fetched(end_pair(index) - 1);
  if (last_fetched > now) {
    push(last_fetched, EventKind::start_block, index);
    return;
  }
  accept_commands(now);
  if (block.commands_ready > now) {
    push(block.commands_ready, EventKind::start_block, index);
    return;
  }
  run.reading = true;
  ++run.next_block;
  block.reads_start = now;
  block.arrived = now;
  for (int pair = first_pair(index); pair < end_pair(index); ++pair) {
    const HeadReads& reads = reads_of(pair);
    if (reads.has_first_step()) {
      ++block.heads_to_select;
      const SimTime ranked = argtopk_.issue(now, argtopk_time(reads.query_elements)).done;
      push(ranked, EventKind::query_ranked, pair);
    } else {
      read_dense(pair, now, block);
    }
  }
  if (block.heads_to_select == 0) {
    push(block.arrived, EventKind::block_arrived, index);
  }
}

void Csd::read_dense(int pair, SimTime now, Block& block) {
  const HeadReads& reads = reads_of(pair);
  const int keys = placement_.base(pair, KvStream::key_tokens);
  const int values = placement_.base(pair, KvStream::value_tokens);
  check(reads.key_pages.size() == reads.value_pages.size(), "K and V pages do not match");
  SimTime last = now;
  for (std::size_t i = 0; i < reads.key_pages.size(); ++i) {
    last = std::max(last, read_page(keys, reads.key_pages[i], now));
    last = std::max(last, read_page(values, reads.value_pages[i], now));
  }
  block.arrived = std::max(block.arrived, last);
}

void Csd::read_first_step(int pair, SimTime now) {
  const int channels = placement_.base(pair, KvStream::key_channels);
  SimTime last = now;
  for (const int page : reads_of(pair).channel_pages) {
    last = std::max(last, read_page_filtered(channels, page, now));
  }
  push(last, EventKind::scores_arrived, pair);
}

void Csd::estimate_scores(int pair, SimTime now) {
  const HeadReads& reads = reads_of(pair);
  const SimTime scores = kernels_.issue(now, kernel_time(reads.estimate_flops)).done;
  const SimTime softmax = scores + config_.engine.softmax_latency;
  push(argtopk_.issue(softmax, argtopk_time(reads.score_elements)).done, EventKind::selected, pair);
}

void Csd::read_second_step(int pair, SimTime now) {
  const HeadReads& reads = reads_of(pair);
  const int keys = placement_.base(pair, KvStream::key_tokens);
  const int values = placement_.base(pair, KvStream::value_tokens);
  check(reads.key_pages.size() == reads.value_pages.size(), "K and V pages do not match");
  Block& block = block_of(pair);
  SimTime last = now;
  for (std::size_t i = 0; i < reads.key_pages.size(); ++i) {
    last = std::max(last, read_page_filtered(keys, reads.key_pages[i], now));
    last = std::max(last, read_page_filtered(values, reads.value_pages[i], now));
  }
  block.arrived = std::max(block.arrived, last);
  if (--block.heads_to_select == 0) {
    push(block.arrived, EventKind::block_arrived, pair / config_.engine.heads_per_block);
  }
}

void Csd::compute_block(int index, SimTime now) {
  Running& run = *running_;
  work_.reading += now - run.blocks[index].reads_start;
  run.reading = false;
  if (run.computing++ == 0) {
    run.computing_since = now;
  }
  SimTime last = now;
  for (int pair = first_pair(index); pair < end_pair(index); ++pair) {
    last = std::max(last, kernels_.issue(now, kernel_time(reads_of(pair).attention_flops)).done);
  }
  push(last + config_.engine.softmax_latency, EventKind::computed, index);
  start_next_block(now);
}

void Csd::complete_block(int index, SimTime now) {
  Running& run = *running_;
  if (--run.computing == 0) {
    work_.computing += now - run.computing_since;
  }
  ++run.blocks_computed;
  const int heads = end_pair(index) - first_pair(index);
  work_.attends += heads;
  work_.firmware += config_.controller.completion_cost * heads;
  accept_commands(now);
  for (int head = 0; head < heads; ++head) {
    const SimTime posted = cores_.issue(now, config_.controller.completion_cost).done;
    run.completions_posted = std::max(run.completions_posted, posted);
  }
  if (run.blocks_computed == static_cast<int>(run.blocks.size())) {
    push(run.completions_posted + config_.nvme.completion, EventKind::batch_done, run.number);
  } else {
    start_next_block(now);
  }
}

void Csd::finish_batch(SimTime now) {
  Running& run = *running_;
  if (reuse_ && !run.disturbed) {
    remembered_[run.key] = {now - run.start, flash_.state_after(now), work() - run.work_at_start};
  }
  loop_.finish(*run.done, now);
  completed_something_ = true;
  begin_next(now);
}

void Csd::finish_reused(int number, SimTime now) {
  if (!running_ || running_->number != number || !running_->reused) {
    return;  // it was simulated after all
  }
  const RememberedRun& run = remembered_.at(running_->key);
  flash_.restore(run.flash_at_end, now);
  flash_.add(run.work.flash);
  work_ += run.work;
  work_.flash = {};
  ++work_.reused_batches;
  loop_.finish(*running_->done, now);
  completed_something_ = true;
  begin_next(now);
}

void Csd::begin_next(SimTime now) {
  running_.reset();
  if (!waiting_.empty()) {
    const Waiting next = waiting_.front();
    waiting_.pop();
    begin(now, next);
  }
}

// -- Store ------------------------------------------------------------------------------------

void Csd::submit_store(SimTime now, const StoreBatch& batch, Completion* done) {
  if (running_) {
    if (running_->reused) {  // nothing has touched the drive since it began
      running_->reused = false;
      simulate();
    }
    running_->disturbed = true;
    settle(now);
  }
  std::uint64_t key = mix_hash(static_cast<std::uint64_t>(batch.first_pair),
                               static_cast<std::uint64_t>(batch.pairs));
  for (const StoreBatch::Span& span : batch.spans) {
    check(0 <= span.first && span.first <= span.last,
          "a store of pages that end before they begin");
    key = mix_hash(key, static_cast<std::uint64_t>(span.stream));
    key = mix_hash(mix_hash(key, static_cast<std::uint64_t>(span.first)),
                   static_cast<std::uint64_t>(span.last));
  }
  key = mix_hash(key, flash_.state_after(now).hash());
  SimTime last = now;
  if (const auto found = remembered_stores_.find(key);
      reuse_ && found != remembered_stores_.end()) {
    flash_.restore(found->second.flash_at_end, now);
    flash_.add({.pages_programmed = batch.pages()});
    last = now + found->second.duration;
  } else {
    for (int pair = batch.first_pair; pair < batch.first_pair + batch.pairs; ++pair) {
      for (const StoreBatch::Span& span : batch.spans) {
        const int base = placement_.base(pair, span.stream);
        for (int page = span.first; page < span.last; ++page) {
          const PagePlace place = placement_.place(base, page);
          last = std::max(last, flash_.program(now, place.channel, place.unit).done);
        }
      }
    }
    if (reuse_) {
      remembered_stores_[key] = {last - now, flash_.state_after(now), {}};
    }
  }
  work_.storing += last - now;
  if (done != nullptr) {
    stores_[next_store_] = done;
    push(last, EventKind::stored, next_store_++);
  }
}

Csd::Work Csd::work() const {
  Work work = work_;
  work.flash = flash_.counters();
  return work;
}

}  // namespace nearkv
