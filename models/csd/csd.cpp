#include "models/csd/csd.hpp"

#include <algorithm>

#include "sim/core/check.hpp"
#include "sim/core/hash.hpp"

namespace nearkv {

namespace {
/// Begins the hash of a plain read, which no attend batch begins with.
constexpr std::uint64_t kReadBatch = ~std::uint64_t{0};
}  // namespace

Csd::Work& Csd::Work::operator+=(const Work& o) {
  flash += o.flash;
  attends += o.attends;
  reads += o.reads;
  attending += o.attending;
  reading += o.reading;
  computing += o.computing;
  gemv_busy += o.gemv_busy;
  estimating += o.estimating;
  firmware += o.firmware;
  storing += o.storing;
  reused_batches += o.reused_batches;
  reused_blocks += o.reused_blocks;
  return *this;
}

Csd::Work operator-(Csd::Work a, const Csd::Work& b) {
  a.flash -= b.flash;
  a.attends -= b.attends;
  a.reads -= b.reads;
  a.attending -= b.attending;
  a.reading -= b.reading;
  a.computing -= b.computing;
  a.gemv_busy -= b.gemv_busy;
  a.estimating -= b.estimating;
  a.firmware -= b.firmware;
  a.storing -= b.storing;
  a.reused_batches -= b.reused_batches;
  a.reused_blocks -= b.reused_blocks;
  return a;
}

Csd::Csd(EventLoop& loop, const CsdConfig& config, std::string name, const Options& options)
    : loop_(loop),
      config_(config),
      normal_(config),
      name_(std::move(name)),
      reuse_(options.reuse),
      flash_(config, name_, options.seed),
      cores_(config.controller.cores),
      kernels_(config.engine.attention_kernels),
      flash_capacity_("CSD flash", config.flash.capacity()),
      dram_("CSD DRAM", config.dram.capacity),
      memory_(options.memory ? options.memory : make_memory()),
      activity_(name_) {
  if (config.engine.feed.kind == FeedKind::pages) {
    pipeline_.emplace(config_, flash_, AttentionPipeline::Telling{&loop_, &activity_});
  }
  const KvFtl& ftl = flash_.ftl();
  flash_capacity_.allocate("bad blocks", config.flash.page_size * ftl.pages().bad);
  loop.attach(*this);
}

std::shared_ptr<Csd::Memory> Csd::make_memory() { return std::make_shared<Memory>(); }

// -- Tasks ------------------------------------------------------------------------------------

KvFtl::TaskId Csd::open_task(const KvTaskShape& shape, const kernels::PageGeometry& pages) {
  const std::int64_t most = shape.flushed(pages, shape.max_tokens).total() * shape.heads();
  const Bytes size = config_.flash.page_size * most;
  flash_capacity_.allocate("KV cache", size);
  const KvFtl::TaskId task = flash_.ftl().open_task(shape, pages);
  task_capacity_[task] = size;
  return task;
}

void Csd::append(const KvLayer& layer, int tokens, std::optional<SimTime> now) {
  KvFtl& ftl = flash_.ftl();
  while (ftl.append_layer(layer.task, layer.layer, tokens, nullptr) == KvFtl::Outcome::exhausted) {
    KvOperations erases;
    if (!ftl.reclaim_one(&erases)) {
      const Bytes page = config_.flash.page_size;
      throw OutOfCapacity(flash_capacity_.resource(), ftl.exhaustion(),
                          page * ftl.last_refusal().needed, page * ftl.last_refusal().available,
                          flash_capacity_.capacity());
    }
    if (now) {
      disturb(*now);
      erase(erases, *now);
    }
  }
}

void Csd::append_skipped(const std::vector<KvFtl::Growing>& tasks) {
  KvFtl& ftl = flash_.ftl();
  const bool can_count =
      std::all_of(tasks.begin(), tasks.end(),
                  [&ftl](const KvFtl::Growing& growing) { return ftl.can_count(growing.task); });
  if (can_count) {
    ftl.append_counted(tasks);
    return;
  }
  int most_appends = 0;
  int most_layers = 0;
  for (const KvFtl::Growing& growing : tasks) {
    most_appends = std::max(most_appends, growing.tokens / growing.at_once);
    most_layers = std::max(most_layers, ftl.layers_of(growing.task));
  }
  for (int done = 0; done < most_appends; ++done) {
    for (int layer = 0; layer < most_layers; ++layer) {
      for (const KvFtl::Growing& growing : tasks) {
        if (done * growing.at_once < growing.tokens && layer < ftl.layers_of(growing.task)) {
          append({growing.task, layer}, growing.at_once, std::nullopt);
        }
      }
    }
  }
}

void Csd::finish_task(KvFtl::TaskId task, SimTime now) {
  flash_.ftl().finish(task);
  flash_capacity_.release("KV cache", task_capacity_.at(task));
  task_capacity_.erase(task);
  reclaim_if_idle(now);
}

void Csd::reclaim_if_idle(SimTime now) {
  if (running_ || !waiting_.empty() || erases_on_their_way_ > 0 || !flash_.ftl().wants_reclaim()) {
    return;
  }
  if (flash_.is_event_driven() ? !stores_.empty() : flash_busy_until_ > now) {
    if (!flash_.is_event_driven()) {
      push(flash_busy_until_, EventKind::idle, 0);
    }
    return;
  }
  KvOperations erases;
  flash_.ftl().reclaim_round(&erases);
  erase(erases, now);
}

void Csd::erase(const KvOperations& erases, SimTime now) {
  if (erases.empty()) {  // tasks that share all of their blocks with others
    push(now, EventKind::idle, 0);
    return;
  }
  if (flash_.is_event_driven()) {
    for (const KvOperation& one : erases) {
      flash_.add_erase(one.page, tag_of(PageOwner::reclaim, 0));
    }
    erases_on_their_way_ += static_cast<int>(erases.size());
    flash_.engine().start(now);
    return;
  }
  for (const KvOperation& one : erases) {
    flash_busy_until_ = std::max(flash_busy_until_, flash_.erase(now, one.page));
  }
  push(flash_busy_until_, EventKind::idle, 0);
}

// -- Attend -----------------------------------------------------------------------------------

void Csd::submit_attend(SimTime now, std::shared_ptr<const AttendBatch> batch, Completion& done,
                        const KvLayer& layer) {
  const std::vector<KvLayer> layers(batch->segments.size(), layer);
  submit_attend(now, AttendWork{std::move(batch), layers}, done);
}

void Csd::submit_attend(SimTime now, AttendWork work, Completion& done) {
  check(work.batch->pairs() > 0, "an attend batch without heads, or that is not sealed");
  check(work.layers.size() == work.batch->segments.size(), "an attend batch of too few tasks");
  for (const KvLayer& layer : work.layers) {
    if (layer.task != KvLayer::kNoTask) {
      flash_.ftl().touch(layer.task);
    }
  }
  submit({.submitted = now, .work = std::move(work), .read = std::nullopt, .done = &done});
}

void Csd::submit_read(SimTime now, const ReadBatch& batch, Completion& done, const KvLayer& layer) {
  check(batch.pages.pages() > 0 && batch.pairs_a_command > 0, "a read of no pages");
  if (layer.task != KvLayer::kNoTask) {
    flash_.ftl().touch(layer.task);
  }
  submit({.submitted = now, .work = {}, .read = PlainRead{batch, layer}, .done = &done});
}

void Csd::audit() const {
  if (!running_ && waiting_.empty()) {
    check(flash_.counters().pages_read == pages_asked_,
          "a CSD read more or fewer pages than it was asked for");
  }
  dram_.audit();
  flash_capacity_.audit();
}

void Csd::submit(Waiting next) {
  pages_asked_ += next.read ? next.read->batch.pages.pages() : next.work.batch->pages();
  if (ActivityLog* log = loop_.activity()) {
    activity_.handles_actor(*log, next.submitted);
    next.arrow = log->begin_arrow(next.submitted);
    activity_.waiting_commands(*log, next.submitted,
                               next.read ? next.read->batch.commands() : next.work.batch->pairs());
  }
  if (running_) {
    waiting_.push(std::move(next));
  } else {
    const SimTime now = next.submitted;
    begin(now, std::move(next));
  }
}

/// Everything but the flash is idle between batches: a batch ends when its last completion is
/// posted, and everything else that it used is done by then.
void Csd::begin(SimTime now, Waiting next) {
  const SimTime start = std::max(now, next.submitted);
  running_.emplace(Running{.work = std::move(next.work),
                           .read = std::move(next.read),
                           .done = next.done,
                           .start = start});
  running_->work_at_start = work();
  running_->arrow = running_->command_arrow = next.arrow;
  const bool is_recorded = loop_.activity() != nullptr;
  reads_quietly_ = !flash_.is_event_driven() && !is_recorded;
  if (is_recorded && flash_.is_event_driven() && told_.empty()) {
    told_ = bus_busy_by_channel();
  }
  if (!reuse_ || is_recorded || !flash_.has_state() || start < stalled_until_) {
    running_->disturbed = true;
    simulate();
    return;
  }
  running_->key = mix_hash(what_runs(), flash_.state_after(start).hash());
  if (const auto found = memory_->batches.find(running_->key); found != memory_->batches.end()) {
    running_->reused = true;
    push(start + found->second.duration, EventKind::reused_done, 0);
    return;
  }
  simulate();
}

/// Names the batch and the places of its pages.
std::uint64_t Csd::what_runs() const {
  if (running_->read) {
    const auto& [batch, layer] = *running_->read;
    return mix_hash(mix_hash(kReadBatch, batch.hash()), flash_.places_key(layer));
  }
  std::uint64_t what = running_->work.batch->hash();
  for (const KvLayer& layer : running_->work.layers) {
    what = mix_hash(what, flash_.places_key(layer));
  }
  return what;
}

void Csd::simulate() {
  Running& run = *running_;
  work_.firmware += command_cost() * commands();
  if (run.read || pipeline_) {
    if (run.read) {
      run.groups.assign(commands(), PageGroup{});
    } else {
      pipeline_->begin(run.work);
    }
    push(fetched(0), EventKind::command_fetched, 0,
         {{"nvme", "doorbell and command fetch", fetched(0)}});
    return;
  }
  const int block_count = static_cast<int>(ceil_div(commands(), heads_per_block()));
  run.blocks.assign(block_count, Block{});
  if (flash_.is_event_driven()) {
    run.groups.assign(commands(), PageGroup{});
  }
  const SimTime all_fetched = fetched(end_pair(0) - 1);
  push(all_fetched, EventKind::start_block, 0,
       {{"nvme", "doorbell and command fetch", all_fetched}});
}

SimTime Csd::next_event() const {
  SimTime next = events_.empty() ? kNever : events_.top().at;
  if (flash_.is_event_driven()) {
    next = std::min(next, flash_.next_event());
    next = pipeline_ ? std::min(next, pipeline_->next_event()) : next;
  }
  return next;
}

/// The earliest event, at `at`: at equal times the drive's own, then those of the flash, then the
/// engine's.
void Csd::step(SimTime at) {
  if (!events_.empty() && events_.top().at == at) {
    const Event event = events_.top();
    events_.pop();
    handle(event);
  } else if (flash_.next_event() == at) {
    flash_.engine().process(at, *this);
  } else if (const int heads = pipeline_->process_next(); heads > 0) {
    complete_heads(heads, at);
  }
}

/// Handles what happens on the drive up to `now`, also outside process(). Completions are left to
/// process(); a batch that waits for one begins behind what is submitted now.
void Csd::settle(SimTime now) {
  std::vector<Event> completions;
  for (SimTime next = next_event(); next <= now; next = next_event()) {
    if (!events_.empty() && events_.top().at == next &&
        events_.top().kind >= EventKind::batch_done) {
      completions.push_back(events_.top());
      events_.pop();
    } else {
      step(next);
    }
  }
  for (const Event& event : completions) {
    events_.push(event);
  }
}

/// Something else than the running batch begins at `now`.
void Csd::disturb(SimTime now) {
  if (!running_) {
    return;
  }
  if (running_->reused) {  // nothing has touched the drive since it began
    running_->reused = false;
    drop_events(EventKind::reused_done);
    simulate();
  }
  running_->disturbed = true;
  settle(now);
  if (!running_->reading) {
    return;
  }
  const int index = running_->next_block - 1;
  if (running_->blocks[index].reused) {
    read_after_all(index);
    settle(now);
  }
  running_->blocks[index].key.reset();
}

void Csd::drop_events(EventKind kind) {
  std::vector<Event> others;
  for (; !events_.empty(); events_.pop()) {
    if (events_.top().kind != kind) {
      others.push_back(events_.top());
    }
  }
  for (const Event& event : others) {
    events_.push(event);
  }
}

void Csd::process(SimTime until) {
  completed_something_ = false;
  for (SimTime next = next_event(); !completed_something_ && next <= until; next = next_event()) {
    step(next);
  }
  completed_something_ = false;
}

void Csd::handle(const Event& event) {
  if (ActivityLog* log = loop_.activity()) [[unlikely]] {
    activity_.handles(*log, event.sequence, event.at);
  }
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
      --block_of(event.index).heads_to_select;
      read_tokens(event.index, event.at, true);
      block_may_have_arrived(event.index / heads_per_block(), event.at);
      break;
    case EventKind::block_arrived:
      compute_block(event.index, event.at);
      break;
    case EventKind::computed:
      complete_block(event.index, event.at);
      break;
    case EventKind::command_fetched:
      fetch_command(event.index, event.at);
      break;
    case EventKind::command_ready:
      pipeline_->add_head(event.index, event.at);
      break;
    case EventKind::read_ready:
      read_pages(event.index, event.at);
      break;
    case EventKind::pages_read:
      complete_read(event.at);
      break;
    case EventKind::idle:
      reclaim_if_idle(event.at);
      break;
    case EventKind::batch_done:
      finish_batch(event.at);
      break;
    case EventKind::reused_done:
      finish_reused(event.at);
      break;
    case EventKind::stored:
      finish_store(event.index, event.at);
      break;
  }
}

/// Pages of the FlashEngine.
void Csd::page_done(std::uint64_t tag, SimTime at) {
  const auto owner = static_cast<PageOwner>(tag >> kOwnerShift);
  switch (owner) {
    case PageOwner::pipeline:
      pipeline_->page_done(tag, at);
      break;
    case PageOwner::first_step:
    case PageOwner::block:
    case PageOwner::read:
      page_of_block_done(owner, tag, at);
      break;
    case PageOwner::store: {
      const auto index = static_cast<int>(static_cast<std::uint32_t>(tag));
      Store& store = stores_.at(index);
      if (--store.on_their_way == 0) {
        work_.storing += at - store.submitted;
        activity_.set_current(store.asked);
        push(at, EventKind::stored, index, {{"flash", "programs", at}});
      }
      break;
    }
    case PageOwner::reclaim:
      if (--erases_on_their_way_ == 0) {
        push(at, EventKind::idle, 0);
      }
      break;
  }
}

void Csd::page_of_block_done(PageOwner owner, std::uint64_t tag, SimTime at) {
  const auto index = static_cast<int>(static_cast<std::uint32_t>(tag));
  const SimTime arrived =
      (tag & kFilteredTag) != 0 ? flash_.filtered(CsdFlash::channel_in(tag), at) : at;
  const bool is_of_block = owner == PageOwner::block;
  PageGroup& group = is_of_block ? running_->blocks[index].pages : running_->groups[index];
  group.arrived = std::max(group.arrived, arrived);
  if (--group.on_their_way > 0) {
    return;
  }
  if (is_of_block) {
    block_may_have_arrived(index, at);
  } else {
    push_arrival(group, group.arrived,
                 owner == PageOwner::read ? EventKind::pages_read : EventKind::scores_arrived,
                 index);
  }
}

/// Gives the cores the commands that the controller has by `now`: before whatever comes later.
void Csd::accept_commands(SimTime now) {
  Running& run = *running_;
  for (; run.accepted < commands() && fetched(run.accepted) <= now; ++run.accepted) {
    const Grant core = cores_.issue(fetched(run.accepted), command_cost());
    const SimTime ready = core.done;
    tell("controller_cores", run.read ? "read commands" : "attend commands", core);
    if (run.read || pipeline_) {
      push(ready, run.read ? EventKind::read_ready : EventKind::command_ready, run.accepted,
           {{"controller_cores", "commands", core.start, Activity::waiting},
            {"controller_cores", "commands", ready}});
    } else {
      Block& block = block_of(run.accepted);
      block.commands_ready = std::max(block.commands_ready, ready);
    }
  }
}

void Csd::fetch_command(int command, SimTime now) {
  accept_commands(now);
  if (command + 1 < commands()) {
    push(fetched(command + 1), EventKind::command_fetched, command + 1,
         {{"nvme", "command fetch", fetched(command + 1)}});
  }
}

// -- Feed blocks --------------------------------------------------------------------------------

/// Starts reading the next block if its commands are there, no block is being read and a staging
/// buffer is free. Called whenever one of these may have changed.
void Csd::start_next_block(SimTime now) {
  Running& run = *running_;
  const int index = run.next_block;
  if (run.reading || index == static_cast<int>(run.blocks.size()) ||
      index >= run.blocks_computed + config_.engine.feed.staging_buffers) {
    return;
  }
  Block& block = run.blocks[index];
  const SimTime last_fetched = fetched(end_pair(index) - 1);
  if (last_fetched > now) {
    push(last_fetched, EventKind::start_block, index, {{"nvme", "command fetch", last_fetched}});
    return;
  }
  accept_commands(now);
  if (block.commands_ready > now) {
    push(block.commands_ready, EventKind::start_block, index,
         {{"controller_cores", "commands", block.commands_ready}});
    return;
  }
  run.reading = true;
  ++run.next_block;
  block.reads_start = now;
  if (!reuse_reads(index, now)) {
    read_block(index, now);
  }
}

void Csd::read_block(int index, SimTime now) {
  Block& block = running_->blocks[index];
  block.pages.arrived = now;
  block.pages.asked = why();
  for (int pair = first_pair(index); pair < end_pair(index); ++pair) {
    const HeadReads& reads = reads_of(pair);
    if (reads.has_first_step()) {
      ++block.heads_to_select;
      const Grant ranked = argtopk_.issue(now, argtopk_time(reads.query_elements));
      tell("argtopk", "channels of a query", ranked);
      push(ranked.done, EventKind::query_ranked, pair,
           {{"argtopk", "channels of a query", ranked.start, Activity::waiting},
            {"argtopk", "channels of a query", ranked.done}});
    } else {
      read_tokens(pair, now, false);
    }
  }
  block_may_have_arrived(index, now);
}

/// Names what a block reads and where its pages lie, up to the names of units. Nothing when more
/// than the buses is taken: units, or kernels that SparF's first step needs.
std::optional<std::uint64_t> Csd::what_block_reads(int index, SimTime now) const {
  const Running& run = *running_;
  if (!reuse_ || !reads_quietly_ || flash_.has_log()) {
    return std::nullopt;
  }
  const CsdFlash::State flash = flash_.state_after(now);
  if (!flash.units_are_idle()) {
    return std::nullopt;
  }
  const KvPlacement& placement = flash_.placement();
  const auto base_of = [&placement](int pair) {
    return placement.base(pair, KvStream::key_tokens);
  };
  const int first = base_of(run.work.place_of(first_pair(index)).pair);
  const int origin = first - first % placement.shift();
  const bool is_regular =
      std::all_of(run.work.layers.begin(), run.work.layers.end(),
                  [this](const KvLayer& layer) { return flash_.places_key(layer) == 0; });
  std::uint64_t what = mix_hash(run.work.batch->hash(), flash.hash());
  for (int pair = first_pair(index); pair < end_pair(index); ++pair) {
    if (reads_of(pair).has_first_step() && run.computing > 0) {
      return std::nullopt;
    }
    const AttendBatch::Place place = run.work.batch->place_of(pair);
    const auto segment = static_cast<std::size_t>(place.segment);
    const std::size_t patterns = run.work.batch->segments[segment].patterns.size();
    const int where = is_regular ? placement.distance(origin, base_of(place.pair)) : place.pair;
    what = mix_hash(mix_hash(what, flash_.places_key(run.work.layers[segment])),
                    static_cast<std::uint64_t>(where));
    what = mix_hash(mix_hash(what, segment), static_cast<std::size_t>(place.pair) % patterns);
  }
  return what;
}

/// What reading a block changes besides the flash.
Csd::Work Csd::reading_work() const {
  Work work;
  work.flash = flash_.counters();
  work.gemv_busy = work_.gemv_busy;
  work.estimating = work_.estimating;
  return work;
}

/// False when the reads have to be simulated. The flash stays as it is until they have arrived.
bool Csd::reuse_reads(int index, SimTime now) {
  Block& block = running_->blocks[index];
  block.key = what_block_reads(index, now);
  if (!block.key) {
    return false;
  }
  const auto known = memory_->blocks.find(*block.key);
  if (known == memory_->blocks.end()) {
    block.work_at_start = reading_work();
    return false;
  }
  const Memory::Run& run = known->second;
  block.reused = true;
  work_ += run.work;
  work_.flash = {};
  flash_.add(run.work.flash);
  ++work_.reused_blocks;
  push(now + run.duration, EventKind::block_arrived, index);
  return true;
}

void Csd::read_after_all(int index) {
  Block& block = running_->blocks[index];
  block.reused = false;
  drop_events(EventKind::block_arrived);
  const Memory::Run& run = memory_->blocks.at(*block.key);
  work_ = work_ - run.work;
  work_.flash = {};
  flash_.take_back(run.work.flash);
  --work_.reused_blocks;
  read_block(index, block.reads_start);
}

/// All pages of a block have arrived.
void Csd::remember_reads(int index, SimTime now) {
  const Block& block = running_->blocks[index];
  if (block.reused) {
    flash_.restore(memory_->blocks.at(*block.key).flash_at_end, now);
  } else if (block.key) {
    memory_->blocks[*block.key] = {now - block.reads_start, flash_.state_after(now),
                                   reading_work() - block.work_at_start};
  }
}

/// K and V pages side by side. With an event-driven array each head's begin at once.
void Csd::read_tokens(int pair, SimTime now, bool is_filtered) {
  const HeadReads& reads = reads_of(pair);
  check(reads.key_pages.size() == reads.value_pages.size(), "K and V pages do not match");
  const CsdFlash::Stream keys = stream_of(pair, KvStream::key_tokens);
  const CsdFlash::Stream values = stream_of(pair, KvStream::value_tokens);
  PageGroup& group = block_of(pair).pages;
  group.asked = why();
  const std::uint64_t tag =
      tag_of(PageOwner::block, pair / heads_per_block()) | (is_filtered ? kFilteredTag : 0);
  if (flash_.has_log() && !flash_.is_event_driven()) [[unlikely]] {
    flash_.log_reads(keys, reads.key_pages);
    flash_.log_reads(values, reads.value_pages);
  }
  for (std::size_t i = 0; i < reads.key_pages.size(); ++i) {
    read_page(group, tag, keys, reads.key_pages[i], now);
    read_page(group, tag, values, reads.value_pages[i], now);
  }
  if (flash_.is_event_driven()) {
    flash_.engine().start(now);
  }
}

/// From an event-driven array, or with a log of what the channels do: apart, so that the loop over
/// the pages of other runs stays small.
void Csd::read_page_otherwise(PageGroup& group, std::uint64_t tag, const CsdFlash::Stream& stream,
                              int page, SimTime now) {
  if (flash_.is_event_driven()) {
    flash_.add_read(stream, page, {tag, 0});
    ++group.on_their_way;
    return;
  }
  const bool is_filtered = (tag & kFilteredTag) != 0;
  const CsdFlash::Told told = flash_.read_told(now, stream, page, is_filtered, tally_);
  group.last_channel = told.done > group.arrived ? told.channel : group.last_channel;
  group.arrived = std::max(group.arrived, told.done);
}

void Csd::read_first_step(int pair, SimTime now) {
  const std::vector<int>& pages = reads_of(pair).channel_pages;
  const CsdFlash::Stream channels = stream_of(pair, KvStream::key_channels);
  PageGroup alone;
  PageGroup& group = flash_.is_event_driven() ? running_->groups[pair] : alone;
  group.arrived = now;
  group.asked = why();
  if (flash_.has_log() && !flash_.is_event_driven()) [[unlikely]] {
    flash_.log_reads(channels, pages);
  }
  for (const int page : pages) {
    read_page(group, tag_of(PageOwner::first_step, pair) | kFilteredTag, channels, page, now);
  }
  if (flash_.is_event_driven() && !pages.empty()) {
    flash_.engine().start(now);
  } else {
    push_arrival(group, group.arrived, EventKind::scores_arrived, pair);
  }
}

void Csd::estimate_scores(int pair, SimTime now) {
  const HeadReads& reads = reads_of(pair);
  const SimDuration busy_before = work_.gemv_busy;
  const Grant kernel = compute(now, reads.estimate_flops, "estimated scores");
  const SimTime softmax = kernel.done + config_.engine.softmax_latency;
  work_.estimating += work_.gemv_busy - busy_before;
  const Grant selected = argtopk_.issue(softmax, argtopk_time(reads.score_elements));
  tell("argtopk", "tokens of a head", selected);
  push(selected.done, EventKind::selected, pair,
       {{"gemv_units", "estimated scores", kernel.start, Activity::waiting},
        {"gemv_units", "estimated scores", kernel.done},
        {"softmax", "latency of a softmax", softmax},
        {"argtopk", "tokens of a head", selected.start, Activity::waiting},
        {"argtopk", "tokens of a head", selected.done}});
}

void Csd::block_may_have_arrived(int index, SimTime now) {
  const Block& block = running_->blocks[index];
  if (block.heads_to_select == 0 && block.pages.on_their_way == 0) {
    push_arrival(block.pages, std::max(now, block.pages.arrived), EventKind::block_arrived, index);
  }
}

/// One head on a kernel: all GeMV units of it work on the head.
Grant Csd::compute(SimTime now, Flops work, std::string_view what) {
  const int units = config_.engine.gemv_units_per_kernel;
  const SimDuration time = time_for(work, config_.engine.gemv_rate * units);
  work_.gemv_busy += time * units;
  const Grant kernel = kernels_.issue(now, time);
  tell("gemv_units", what, kernel);
  return kernel;
}

void Csd::compute_block(int index, SimTime now) {
  Running& run = *running_;
  remember_reads(index, now);
  work_.reading += now - run.blocks[index].reads_start;
  tell_block(index, now);
  run.reading = false;
  if (run.computing++ == 0) {
    run.computing_since = now;
  }
  SimTime last = now;
  for (int pair = first_pair(index); pair < end_pair(index); ++pair) {
    last = std::max(last, compute(now, reads_of(pair).attention_flops, "attention").done);
  }
  const SimTime computed = last + config_.engine.softmax_latency;
  push(computed, EventKind::computed, index,
       {{"gemv_units", "attention", last}, {"softmax", "latency of a softmax", computed}});
  tell("attention_kernels", "block of heads", {now, computed});
  start_next_block(now);
}

void Csd::complete_block(int index, SimTime now) {
  Running& run = *running_;
  if (--run.computing == 0) {
    work_.computing += now - run.computing_since;
  }
  ++run.blocks_computed;
  accept_commands(now);
  complete_heads(end_pair(index) - first_pair(index), now);
  start_next_block(now);
}

// -- Plain reads --------------------------------------------------------------------------------

void Csd::read_pages(int command, SimTime now) {
  Running& run = *running_;
  if (command == 0) {
    run.reads_start = now;
  }
  PageGroup& group = run.groups[command];
  group.arrived = now;
  group.asked = why();
  const auto& [pages, pairs_a_command] = run.read->batch;
  const int end = std::min(pages.pairs, (command + 1) * pairs_a_command);
  for (int pair = command * pairs_a_command; pair < end; ++pair) {
    for (const PageBatch::Span& span : pages.spans) {
      const CsdFlash::Stream stream =
          flash_.stream(run.read->layer, pages.first_pair + pair, span.stream);
      for (int page = span.first; page < span.last; ++page) {
        if (flash_.has_log() && !flash_.is_event_driven()) [[unlikely]] {
          flash_.log_reads(stream, {page});
        }
        read_page(group, tag_of(PageOwner::read, command), stream, page, now);
      }
    }
  }
  if (flash_.is_event_driven()) {
    flash_.engine().start(now);
  } else {
    push_arrival(group, group.arrived, EventKind::pages_read, command);
  }
}

void Csd::complete_read(SimTime now) {
  accept_commands(now);
  if (running_->heads_done + 1 == commands()) {
    work_.reading += now - running_->reads_start;
    tell_channels("reads", running_->reads_start, now);
    tell("reading", "pages", {running_->reads_start, now});
  }
  complete_heads(1, now);
}

// -- All batches --------------------------------------------------------------------------------

void Csd::complete_heads(int heads, SimTime now) {
  Running& run = *running_;
  (run.read ? work_.reads : work_.attends) += heads;
  work_.firmware += config_.controller.completion_cost * heads;
  for (int head = 0; head < heads; ++head) {
    const Grant core = cores_.issue(now, config_.controller.completion_cost);
    tell("controller_cores", "completions", core);
    run.completions_posted = std::max(run.completions_posted, core.done);
  }
  if (ActivityLog* log = loop_.activity()) {
    activity_.waiting_commands(*log, now, -heads);
  }
  run.heads_done += heads;
  if (run.heads_done == commands()) {
    const SimTime seen = run.completions_posted + config_.nvme.completion;
    push(seen, EventKind::batch_done, 0,
         {{"controller_cores", "completions", run.completions_posted},
          {"nvme", "completion", seen}});
  }
}

void Csd::finish_batch(SimTime now) {
  Running& run = *running_;
  if (!run.read) {
    work_.attending += now - run.start;
  }
  if (reuse_ && !run.disturbed) {
    memory_->batches[run.key] = {now - run.start, flash_.state_after(now),
                                 work() - run.work_at_start};
  }
  tell_batch(now);
  loop_.finish(*run.done, now, why());
  completed_something_ = true;
  begin_next(now);
}

void Csd::finish_reused(SimTime now) {
  const Memory::Run& run = memory_->batches.at(running_->key);
  flash_.restore(run.flash_at_end, now);
  flash_.add(run.work.flash);
  work_ += run.work;
  work_.flash = {};
  ++work_.reused_batches;
  loop_.finish(*running_->done, now, why());
  completed_something_ = true;
  begin_next(now);
}

void Csd::begin_next(SimTime now) {
  running_.reset();
  for (const DeferredStore& store : std::exchange(deferred_, {})) {
    submit_store(now, store.pages, store.done, store.layer);
  }
  if (!waiting_.empty()) {
    Waiting next = std::move(waiting_.front());
    waiting_.pop();
    begin(now, std::move(next));
  } else {
    reclaim_if_idle(now);
  }
}

// -- Store ------------------------------------------------------------------------------------

void Csd::submit_store(SimTime now, const PageBatch& batch, Completion* done,
                       const KvLayer& layer) {
  const ActivityLog::Cause asked = why();
  disturb(now);
  if (ActivityLog* log = loop_.activity()) {
    if (log->has_turn()) {
      activity_.handles_actor(*log, now);
    } else {
      activity_.set_current(asked);  // a store that had to wait for a batch
    }
  }
  PageBatch placed = batch;
  if (flash_.places_key(layer) == 0) {
    placed.first_pair = flash_.placement().first_like(batch.first_pair);
  }
  const std::uint64_t what = placed.hash();
  const int number = next_store_++;
  Store& store = stores_[number];
  store = {.done = done, .submitted = now, .asked = why()};
  if (flash_.is_event_driven()) {
    program(batch, layer, number, now);
    if (store.on_their_way == 0) {
      push(now, EventKind::stored, number, {{"flash", "programs", now}});
    }
    return;
  }
  const bool may_reuse = reuse_ && loop_.activity() == nullptr;
  const std::uint64_t key =
      may_reuse ? mix_hash(mix_hash(what, flash_.places_key(layer)), flash_.state_after(now).hash())
                : 0;
  SimTime last = now;
  if (const auto found = memory_->stores.find(key); may_reuse && found != memory_->stores.end()) {
    flash_.restore(found->second.flash_at_end, now);
    flash_.add(found->second.work.flash);
    last = now + found->second.duration;
  } else {
    Work before;
    before.flash = flash_.counters();
    last = program(batch, layer, number, now);
    if (may_reuse) {
      Work programmed;
      programmed.flash = flash_.counters();
      memory_->stores[key] = {last - now, flash_.state_after(now), programmed - before};
    }
  }
  work_.storing += last - now;
  flash_busy_until_ = std::max(flash_busy_until_, last);
  if (done != nullptr) {
    push(last, EventKind::stored, number, {{"flash/dies", "programs", last}});
  } else {
    stores_.erase(number);
  }
}

void Csd::submit_background_store(SimTime now, const PageBatch& batch, Completion* done,
                                  const KvLayer& layer) {
  if (running_) {
    deferred_.push_back({batch, done, layer});
  } else {
    submit_store(now, batch, done, layer);
  }
}

/// Returns when the last page is programmed; event-driven, `store` counts its pages.
SimTime Csd::program(const PageBatch& batch, const KvLayer& layer, int store, SimTime now) {
  SimTime last = now;
  ChannelTally tally;
  ActivityLog* log = loop_.activity();
  for (int pair = batch.first_pair; pair < batch.first_pair + batch.pairs; ++pair) {
    for (const PageBatch::Span& span : batch.spans) {
      const CsdFlash::Stream stream = flash_.stream(layer, pair, span.stream);
      for (int page = span.first; page < span.last; ++page) {
        if (flash_.is_event_driven()) {
          flash_.add_program(stream, page, tag_of(PageOwner::store, store));
        } else if (log != nullptr) [[unlikely]] {
          last = std::max(last, flash_.program_told(now, stream, page, tally));
        } else {
          last = std::max(last, flash_.program(now, stream, page));
        }
      }
    }
  }
  if (flash_.is_event_driven()) {
    stores_.at(store).on_their_way = batch.pages();
    flash_.engine().start(now);
  }
  if (log != nullptr) {
    activity_.channels(*log, "programs", tally);
  }
  return last;
}

void Csd::finish_store(int index, SimTime now) {
  if (Completion* done = stores_.at(index).done; done != nullptr) {
    loop_.finish(*done, now, why());
    completed_something_ = true;
  }
  stores_.erase(index);
  reclaim_if_idle(now);
}

// -- Faults -----------------------------------------------------------------------------------

void Csd::set_conditions(SimTime now, const DriveConditions& conditions) {
  disturb(now);
  config_ = normal_;
  put_under(config_, conditions);
  AttentionEngineConfig& engine = config_.engine;
  engine.attend_cost = slowed(engine.attend_cost, conditions.speed);
  engine.softmax_latency = slowed(engine.softmax_latency, conditions.speed);
  engine.gemv_rate = scaled(engine.gemv_rate, conditions.speed);
  engine.filter_rate = scaled(engine.filter_rate, conditions.speed);
  engine.argtopk_rate = scaled(FlopRate{engine.argtopk_rate}, conditions.speed).per_second();
  flash_.set_times(config_);
  memory_ = make_memory();  // what is remembered took other times
}

void Csd::stall(SimTime now, SimDuration duration) {
  disturb(now);
  for (int core = 0; core < cores_.servers(); ++core) {
    stalled_until_ = std::max(stalled_until_, cores_.issue(now, duration).done);
  }
}

void Csd::require_room(KvFtl::Outcome remapped) const {
  if (remapped == KvFtl::Outcome::exhausted) {
    const Bytes page = config_.flash.page_size;
    const KvFtl& ftl = flash_.ftl();
    throw OutOfCapacity(flash_capacity_.resource(), ftl.exhaustion(),
                        page * ftl.last_refusal().needed, page * ftl.last_refusal().available,
                        flash_capacity_.capacity());
  }
}

std::vector<KvFtl::LostPage> Csd::fail_planes(SimTime now, const std::vector<int>& planes) {
  disturb(now);
  const std::int64_t bad_before = flash_.ftl().pages().bad;
  std::vector<KvFtl::LostPage> lost;
  const KvFtl::Outcome remapped = flash_.ftl().fail_planes(planes, lost);
  const Bytes failed = config_.flash.page_size * (flash_.ftl().pages().bad - bad_before);
  flash_capacity_.allocate("failed dies", std::min(failed, flash_capacity_.available()));
  require_room(remapped);
  return lost;
}

std::vector<KvFtl::LostPage> Csd::lose_pages(SimTime now, std::int64_t count, Rng& rng) {
  disturb(now);
  std::vector<KvFtl::LostPage> lost;
  require_room(flash_.ftl().lose_pages(count, rng, lost));
  return lost;
}

void Csd::submit_rewrite(SimTime now, const std::vector<KvFtl::LostPage>& pages, Completion& done) {
  check(!pages.empty(), "a rewrite of no pages");
  disturb(now);
  const int number = next_store_++;
  Store& store = stores_[number];
  store = {.done = &done, .submitted = now, .asked = why()};
  SimTime last = now;
  for (const KvFtl::LostPage& page : pages) {
    const CsdFlash::Stream stream = flash_.stream({page.task, page.layer}, page.pair, page.stream);
    if (flash_.is_event_driven()) {
      flash_.add_program(stream, page.page, tag_of(PageOwner::store, number));
    } else {
      last = std::max(last, flash_.program(now, stream, page.page));
    }
  }
  if (flash_.is_event_driven()) {
    store.on_their_way = static_cast<std::int64_t>(pages.size());
    flash_.engine().start(now);
    return;
  }
  work_.storing += last - now;
  flash_busy_until_ = std::max(flash_busy_until_, last);
  push(last, EventKind::stored, number, {{"flash/dies", "programs", last}});
}

// -- What the activity log is told --------------------------------------------------------------

/// Pages that were asked for by what `group` knows have arrived. By recurrence the time is divided
/// into that in which the last page's channel carried something, and array reads before that.
void Csd::push_arrival(const PageGroup& group, SimTime at, EventKind kind, int index) {
  ActivityLog* log = loop_.activity();
  if (log == nullptr) [[likely]] {
    push(at, kind, index);
    return;
  }
  if (flash_.is_event_driven()) {
    activity_.set_current(group.asked);
    push(at, kind, index, {{"flash", "reads", at}});
    return;
  }
  const SimTime from = log->node(activity_.current()).at;
  const SimDuration bus = flash_.bus_busy_between(group.last_channel, from, at);
  push(at, kind, index,
       {{"flash/dies", "array reads", at - bus}, {"flash/channels", "pages on the bus", at}});
}

std::vector<SimDuration> Csd::bus_busy_by_channel() {
  std::vector<SimDuration> busy;
  for (int i = 0; i < config_.flash.channels; ++i) {
    busy.push_back(flash_.engine().bus_busy(static_cast<std::size_t>(i)));
  }
  return busy;
}

void Csd::tell_channels(std::string_view what, SimTime begin, SimTime end) {
  ActivityLog* log = loop_.activity();
  if (log == nullptr) {
    return;
  }
  if (flash_.is_event_driven()) {
    const std::vector<SimDuration> busy = bus_busy_by_channel();
    for (std::size_t i = 0; i < busy.size(); ++i) {
      if (busy[i] > told_[i]) {
        activity_.channel(*log, i, what, {begin, end}, busy[i] - told_[i]);
      }
    }
    told_ = busy;
    return;
  }
  activity_.channels(*log, what, tally_, std::exchange(running_->arrow, ActivityLog::kNobody));
}

/// A block's pages are there.
void Csd::tell_block(int index, SimTime now) {
  if (loop_.activity() != nullptr) {
    const SimTime begin = running_->blocks[index].reads_start;
    tell("reading", "block of heads", {begin, now});
    tell_channels("reads", begin, now);
  }
}

void Csd::tell_batch(SimTime now) {
  ActivityLog* log = loop_.activity();
  if (log == nullptr) {
    return;
  }
  Running& run = *running_;
  if (pipeline_) {
    tell_channels("reads", run.start, now);
  }
  const std::int32_t layer = run.read ? run.read->layer.layer : run.work.layers.front().layer;
  activity_.work(*log, {.part = "commands",
                        .what = run.read ? "read" : "attend",
                        .time = {run.start, now},
                        .arguments = {{"commands", commands()}, {"layer", layer, false}},
                        .arrow = run.command_arrow});
}

Csd::Work Csd::work() const {
  Work work = work_;
  work.flash = flash_.counters();
  if (pipeline_) {
    const AttentionPipeline::Work& engine = pipeline_->work();
    work.reading += engine.reading;
    work.computing += engine.computing;
    work.gemv_busy += engine.gemv_busy;
    work.estimating += engine.estimating;
  }
  return work;
}

}  // namespace nearkv
