#include "models/kv/kv_ftl.hpp"

#include <algorithm>
#include <functional>
#include <string_view>

#include <fmt/format.h>

#include "sim/core/check.hpp"
#include "sim/core/hash.hpp"

namespace nearkv {

void KvFtlConfig::fields(FieldVisitor& v) {
  v.choice(FieldInfo{"plane_order",
                     "dimensions in the order in which pages of a stream change them: C channel, W "
                     "way, D die, P plane"},
           std::vector<std::string_view>(kPlaneOrders.begin(), kPlaneOrders.end()), plane_order);
  v.one_of("sharing", sharing, {"own_blocks", "shared_blocks"},
           "whether each task has erase blocks of its own");
  v.parameter("reclaim_below", reclaim_below,
              "share of the usable blocks below which an idle drive reclaims finished tasks",
              {0, 1});
  v.parameter("reclaim_until", reclaim_until,
              "share of the usable blocks that are free when it stops", {0, 1});
  v.parameter("least_worn_first", least_worn_first, "free blocks are opened least worn first");
  v.group("bad_blocks", bad_blocks, "how blocks fail");
  v.require([this] { return reclaim_until >= reclaim_below; }, "reclaim_until",
            "must be at least reclaim_below");
}

KvPageCounts KvTaskShape::flushed(const kernels::PageGeometry& pages, int tokens) const {
  KvPageCounts counts = flushed_pages(pages, tokens, channel_copy);
  if (inputs_only) {
    counts.value_tokens = 0;
  }
  return counts;
}

KvFtl::KvFtl(const KvFtlConfig& config, const Parts& parts, std::uint64_t seed,
             const std::string& name)
    : config_(config),
      flash_(parts.flash),
      layout_(parts.layout),
      tracks_page_indices_(parts.tracks_page_indices),
      name_(name),
      stripe_(parts.flash, kPlaneOrders[config.plane_order]) {
  check(flash_.is_addressable(), "a flash array of more pages than an FTL can number");
  const auto planes = static_cast<std::size_t>(flash_.planes());
  pools_.reserve(planes);
  for (int plane = 0; plane < flash_.planes(); ++plane) {
    pools_.emplace_back(BlockPool::Options{.blocks = flash_.blocks_per_plane,
                                           .least_worn_first = config.least_worn_first,
                                           .bad = config.bad_blocks,
                                           .lazy = true},
                        Rng(seed, fmt::format("{}/bad_blocks/{}", name, plane)));
    free_blocks_ += pools_.back().free_blocks();
  }
  shared_.block.assign(planes, kNoBlock);
  failed_.assign(planes, false);
  reserved_.assign(planes, 0);
  to_erase_.resize(planes);
}

// -- Tasks ------------------------------------------------------------------------------------

KvFtl::TaskId KvFtl::open_task(const KvTaskShape& shape, const kernels::PageGeometry& pages) {
  check(shape.heads() > 0 && shape.max_tokens > 0, "a KV task without heads or tokens");
  Task task(shape, pages);
  const StreamPages most = stream_pages(task, shape.max_tokens);
  for (int stream = 0; stream < kKvStreams; ++stream) {
    task.first[stream] = task.pages_a_head;
    task.pages_a_head += most[stream];
  }
  const auto layers = static_cast<std::size_t>(shape.layers);
  task.layer_tokens.assign(layers, 0);
  task.extra_tokens.assign(static_cast<std::size_t>(shape.heads()), 0);
  task.uniform.assign(layers, true);
  task.layer_places.assign(layers, 0);
  if (has_own_blocks()) {
    task.open.block.assign(pools_.size(), kNoBlock);
    task.own_blocks.resize(pools_.size());
    reserve_blocks(task);
  }
  if (task.reserved.empty() || tracks_page_indices_) {
    task.table = std::make_unique_for_overwrite<PhysicalPage[]>(
        static_cast<std::size_t>(shape.heads()) * static_cast<std::size_t>(task.pages_a_head));
  }
  task.last_use = ++uses_;
  tasks_.push_back(std::move(task));
  return static_cast<TaskId>(tasks_.size()) - 1;
}

const KvFtl::Task& KvFtl::task_at(TaskId task) const {
  check(task >= 0 && task < static_cast<TaskId>(tasks_.size()) && tasks_[task].live,
        "no such KV task, or it was reclaimed");
  return tasks_[task];
}
KvFtl::Task& KvFtl::task_at(TaskId task) {
  check(task >= 0 && task < static_cast<TaskId>(tasks_.size()) && tasks_[task].live,
        "no such KV task, or it was reclaimed");
  return tasks_[task];
}

std::size_t KvFtl::head_index(const Task& task, const KvHead& head) {
  const KvTaskShape& shape = task.shape;
  check(head.sequence >= 0 && head.sequence < shape.sequences && head.layer >= 0 &&
            head.layer < shape.layers && head.head >= 0 && head.head < shape.kv_heads,
        "no such head in the KV task");
  const std::int64_t row = std::int64_t{head.layer} * shape.sequences + head.sequence;
  return static_cast<std::size_t>(row * shape.kv_heads + head.head);
}

KvFtl::StreamPages KvFtl::stream_pages(const Task& task, int tokens) {
  const KvPageCounts counts = task.shape.flushed(task.pages, tokens);
  return {static_cast<int>(counts.key_tokens), static_cast<int>(counts.value_tokens),
          static_cast<int>(counts.key_channels)};
}

std::int64_t KvFtl::new_pages(const Task& task, int before, int tokens) {
  check(tokens >= 0 && tokens <= task.shape.max_tokens - before,
        "more tokens than the KV task may hold");
  return task.shape.flushed(task.pages, before + tokens).total() -
         task.shape.flushed(task.pages, before).total();
}

Bytes KvFtl::buffer_of(const Task& task, int tokens) {
  const int channel_rows = task.shape.channel_copy ? task.pages.buffered_channel_tokens(tokens) : 0;
  const int rows_a_token = task.shape.inputs_only ? 1 : 2;
  const std::int64_t rows = rows_a_token * task.pages.buffered_tokens(tokens) + channel_rows;
  return Bytes{rows * task.pages.d_head() * kernels::PageGeometry::element_bytes};
}

int KvFtl::tokens(TaskId task, const KvHead& head) const {
  const Task& t = task_at(task);
  return held_tokens(t, head_index(t, head));
}

PhysicalPage KvFtl::page_of(TaskId task, const KvHead& head, KvStream stream, int page) const {
  const Task& t = task_at(task);
  const std::size_t index = head_index(t, head);
  const auto s = static_cast<int>(stream);
  check(t.table != nullptr, "a page of a KV task that keeps counts only");
  check(page >= 0 && page < stream_pages(t, held_tokens(t, index))[s],
        "a KV page that is not on flash");
  return t.table[index * static_cast<std::size_t>(t.pages_a_head) +
                 static_cast<std::size_t>(t.first[s] + page)];
}

int KvFtl::plane_of(TaskId task, const KvHead& head, KvStream stream, int page) const {
  const Task& t = task_at(task);
  if (t.table != nullptr) {
    return flash_.plane_of(page_of(task, head, stream, page));
  }
  const auto s = static_cast<int>(stream);
  check(page >= 0 && page < stream_pages(t, held_tokens(t, head_index(t, head)))[s],
        "a KV page that is not on flash");
  const std::int64_t pair = std::int64_t{head.sequence} * t.shape.kv_heads + head.head;
  return stripe_.plane_of(slot_of(pair, s) + static_cast<std::uint64_t>(page));
}

PagePlace KvFtl::place_of(PhysicalPage page, ArrayUnit unit) const {
  const int planes = flash_.ways_per_channel * flash_.dies_per_way * flash_.planes_per_die;
  const int plane = flash_.plane_of(page);
  const int in_channel = plane % planes;
  return {plane / planes,
          unit == ArrayUnit::plane ? in_channel : in_channel / flash_.planes_per_die};
}

const PhysicalPage* KvFtl::stream_table(TaskId task, int layer, int pair, KvStream stream) const {
  const Task& t = task_at(task);
  if (t.table == nullptr) {
    return nullptr;
  }
  const std::size_t head = static_cast<std::size_t>(layer) * pairs_of(t) + pair;
  return t.table.get() + head * static_cast<std::size_t>(t.pages_a_head) +
         t.first[static_cast<std::size_t>(stream)];
}

void KvFtl::touch(TaskId task) { task_at(task).last_use = ++uses_; }

void KvFtl::finish(TaskId task) {
  Task& t = task_at(task);
  check(!t.finished, "a KV task is finished twice");
  t.finished = true;
  give_reservation_back(t);
  for (std::size_t head = 0; head < t.extra_tokens.size(); ++head) {
    buffered_ -= buffer_of(t, held_tokens(t, head));
  }
}

// -- Reservation ------------------------------------------------------------------------------

const KvFtl::SlotCounts& KvFtl::slot_counts_of(Task& task, int stream, int count) const {
  for (const SlotCounts& known : task.slot_counts) {
    if (known.stream == stream && known.count == count) {
      return known;
    }
  }
  const std::size_t slots = pools_.size();
  const auto rounds = static_cast<std::uint32_t>(static_cast<std::size_t>(count) / slots);
  const std::size_t rest = static_cast<std::size_t>(count) % slots;
  SlotCounts counts{.stream = stream, .count = count, .pages = std::vector<std::uint32_t>(slots)};
  std::vector<std::int32_t> change(slots + 1);  // in the count from one slot to the next
  for (std::size_t pair = 0; pair < pairs_of(task); ++pair) {
    const auto begin = slot_of(static_cast<std::int64_t>(pair), stream) % slots;
    const std::size_t end = begin + rest;
    ++change[begin];
    --change[std::min(end, slots)];
    if (end > slots) {
      ++change[0];
      --change[end - slots];
    }
  }
  std::int32_t running = 0;
  for (std::size_t slot = 0; slot < slots; ++slot) {
    running += change[slot];
    counts.pages[slot] =
        rounds * static_cast<std::uint32_t>(pairs_of(task)) + static_cast<std::uint32_t>(running);
  }
  return task.slot_counts.emplace_back(std::move(counts));
}

std::vector<std::int64_t> KvFtl::layer_pages_by_slot(Task& task, const StreamPages& from,
                                                     const StreamPages& to) const {
  const std::size_t slots = pools_.size();
  std::vector<std::int64_t> pages(slots);
  for (int stream = 0; stream < kKvStreams; ++stream) {
    if (from[stream] == to[stream]) {
      continue;
    }
    const SlotCounts& counts = slot_counts_of(task, stream, to[stream] - from[stream]);
    std::size_t slot = static_cast<std::size_t>(from[stream]) % slots;
    for (const std::uint32_t count : counts.pages) {
      pages[slot] += count;
      slot = slot + 1 == slots ? 0 : slot + 1;
    }
  }
  return pages;
}

/// Keeps the free blocks that the task may need, if every plane has enough of them.
void KvFtl::reserve_blocks(Task& task) {
  const std::vector<std::int64_t> pages =
      layer_pages_by_slot(task, {}, stream_pages(task, task.shape.max_tokens));
  std::vector<int> needed(pools_.size());
  for (std::size_t slot = 0; slot < pages.size(); ++slot) {
    const int plane = stripe_.plane_of(slot);
    const std::int64_t blocks =
        ceil_div(pages[slot] * task.shape.layers, std::int64_t{flash_.pages_per_block});
    if (blocks > pools_[plane].free_blocks() - reserved_[plane]) {
      return;
    }
    needed[plane] = static_cast<int>(blocks);
  }
  for (std::size_t plane = 0; plane < needed.size(); ++plane) {
    reserved_[plane] += needed[plane];
    reserved_blocks_ += needed[plane];
  }
  task.reserved = std::move(needed);
}

void KvFtl::give_reservation_back(Task& task) {
  for (std::size_t plane = 0; plane < task.reserved.size(); ++plane) {
    reserved_[plane] -= task.reserved[plane];
    reserved_blocks_ -= task.reserved[plane];
    task.reserved[plane] = 0;
  }
}

// -- Appending --------------------------------------------------------------------------------

KvFtl::OpenBlocks& KvFtl::open_blocks_of(Task& task) {
  return has_own_blocks() ? task.open : shared_;
}
const KvFtl::OpenBlocks& KvFtl::open_blocks_of(const Task& task) const {
  return has_own_blocks() ? task.open : shared_;
}

std::int64_t KvFtl::available_to(const Task& task) const {
  std::int64_t blocks = 0;
  if (task.reserved.empty()) {
    blocks = free_blocks_ - reserved_blocks_;
  } else {
    for (const int own : task.reserved) {
      blocks += own;
    }
  }
  return blocks * flash_.pages_per_block + open_blocks_of(task).room;
}
std::int64_t KvFtl::available_pages(TaskId task) const { return available_to(task_at(task)); }

std::int64_t KvFtl::flushed_pages_of(const Task& task) const {
  std::int64_t pages = 0;
  for (std::size_t head = 0; head < task.extra_tokens.size(); ++head) {
    pages += task.shape.flushed(task.pages, held_tokens(task, head)).total();
  }
  return pages;
}

KvFtl::Outcome KvFtl::refuse(const Task& task, std::int64_t needed) {
  std::int64_t finished = 0;
  for (const Task& t : tasks_) {
    finished += t.live && t.finished ? flushed_pages_of(t) : 0;
  }
  const PageFtl::PageCounts counts = pages();
  last_refusal_ = {.needed = needed, .available = available_to(task)};
  exhaustion_ = fmt::format(
      "{}: {} pages do not fit, {} are available; of {} pages {} hold data ({} of finished tasks), "
      "{} are kept for other tasks, {} wait for an erase or for other tasks in their blocks, {} "
      "are bad",
      name_, needed, available_to(task), flash_.pages(), counts.valid, finished,
      reserved_blocks_ * flash_.pages_per_block, counts.invalid, counts.bad);
  return Outcome::exhausted;
}

KvFtl::Outcome KvFtl::append(TaskId task, const KvHead& head, int tokens, KvOperations* out) {
  Task& t = task_at(task);
  check(!t.finished, "a finished KV task grows");
  const std::size_t index = head_index(t, head);
  const int before = held_tokens(t, index);
  const std::int64_t needed = new_pages(t, before, tokens);
  if (t.reserved.empty() && needed > available_to(t)) {
    return refuse(t, needed);
  }
  t.last_use = ++uses_;
  t.uniform[head.layer] = false;
  t.extra_tokens[index] += tokens;
  buffer_grows(buffer_of(t, before + tokens) - buffer_of(t, before));
  store(t, head, {.before = before, .after = before + tokens}, out);
  return Outcome::ok;
}

KvFtl::Outcome KvFtl::append_layer(TaskId task, int layer, int tokens, KvOperations* out) {
  Task& t = task_at(task);
  check(!t.finished, "a finished KV task grows");
  const std::size_t first = head_index(t, {.sequence = 0, .layer = layer, .head = 0});
  const bool uniform = t.uniform[layer];
  const std::size_t different = uniform ? 1 : pairs_of(t);
  std::int64_t needed = 0;
  Bytes growth{};
  for (std::size_t head = first; head < first + different; ++head) {
    const int before = held_tokens(t, head);
    needed += new_pages(t, before, tokens);
    growth += buffer_of(t, before + tokens) - buffer_of(t, before);
  }
  const auto alike = static_cast<std::int64_t>(uniform ? pairs_of(t) : 1);
  needed *= alike;
  if (t.reserved.empty() && needed > available_to(t)) {
    return refuse(t, needed);
  }
  t.last_use = ++uses_;
  buffer_grows(growth * alike);
  if (needed > 0 && uniform && t.table == nullptr) {
    check(out == nullptr, "operations of a KV task that keeps counts only");
    const int before = held_tokens(t, first);
    count_layers(t, {.before = before, .after = before + tokens}, 1);
  } else if (needed > 0) {
    std::size_t index = first;
    for (int sequence = 0; sequence < t.shape.sequences; ++sequence) {
      for (int head = 0; head < t.shape.kv_heads; ++head, ++index) {
        const int before = held_tokens(t, index);
        store(t, {.sequence = sequence, .layer = layer, .head = head},
              {.before = before, .after = before + tokens}, out);
      }
    }
  }
  t.layer_tokens[layer] += tokens;
  return Outcome::ok;
}

void KvFtl::buffer_grows(Bytes by) {
  buffered_ += by;
  buffered_high_water_ = std::max(buffered_high_water_, buffered_);
}

/// One head's pages, one by one.
void KvFtl::store(Task& task, const KvHead& head, const Growth& tokens, KvOperations* out) {
  const std::size_t index = head_index(task, head);
  const StreamPages from = stream_pages(task, tokens.before);
  const StreamPages to = stream_pages(task, tokens.after);
  const std::int64_t pair = std::int64_t{head.sequence} * task.shape.kv_heads + head.head;
  const bool has_table = task.table != nullptr;
  check(has_table || out == nullptr, "operations of a KV task that keeps counts only");
  PhysicalPage* table = task.table.get() + index * static_cast<std::size_t>(task.pages_a_head);
  for (int stream = 0; stream < kKvStreams; ++stream) {
    const std::uint64_t base = slot_of(pair, stream);
    for (int page = from[stream]; page < to[stream]; ++page) {
      const std::uint64_t slot = base + static_cast<std::uint64_t>(page);
      if (!has_table) {
        program_pages(task, stripe_.plane_of(slot), 1);
        continue;
      }
      const std::int64_t redirected = counters_.redirected_pages;
      const PhysicalPage at = program_at(task, slot);
      table[task.first[stream] + page] = at;
      if (tracks_page_indices_ || counters_.redirected_pages != redirected) {
        note_place(task,
                   {.task = 0,
                    .layer = head.layer,
                    .pair = static_cast<int>(pair),
                    .stream = static_cast<KvStream>(stream),
                    .page = page},
                   at);
      }
      if (out != nullptr) {
        out->push_back({FlashCommand::program, at});
      }
    }
  }
}

/// A page lies elsewhere than KvPlacement says, or its index in the block matters.
void KvFtl::note_place(Task& task, const LostPage& page, PhysicalPage at) {
  std::uint64_t& places = task.layer_places[page.layer];
  places = mix_hash(places, static_cast<std::uint64_t>(page.pair));
  const std::int64_t entry =
      std::int64_t{task.first[static_cast<std::size_t>(page.stream)]} + page.page;
  places = mix_hash(places, static_cast<std::uint64_t>(entry));
  places = mix_hash(places, static_cast<std::uint64_t>(flash_.plane_of(at)));
  places = mix_hash(
      places, tracks_page_indices_ ? at % static_cast<PhysicalPage>(flash_.pages_per_block) : 0);
}

/// All heads' pages of so many layers at once, for a task that keeps counts only.
void KvFtl::count_layers(Task& task, const Growth& tokens, int layers) {
  const std::vector<std::int64_t> pages = layer_pages_by_slot(
      task, stream_pages(task, tokens.before), stream_pages(task, tokens.after));
  for (std::size_t slot = 0; slot < pages.size(); ++slot) {
    program_pages(task, stripe_.plane_of(slot), pages[slot] * layers);
  }
}

bool KvFtl::can_count(TaskId task) const {
  const Task& t = task_at(task);
  return t.table == nullptr &&
         std::find(t.uniform.begin(), t.uniform.end(), false) == t.uniform.end() &&
         std::adjacent_find(t.layer_tokens.begin(), t.layer_tokens.end(), std::not_equal_to<>()) ==
             t.layer_tokens.end();
}

void KvFtl::append_counted(const std::vector<Growing>& tasks) {
  buffers_grow(tasks);
  for (const Growing& growing : tasks) {
    Task& task = task_at(growing.task);
    check(!task.finished && can_count(growing.task), "a KV task that cannot be counted grows");
    const int before = task.layer_tokens.front();
    static_cast<void>(new_pages(task, before, growing.tokens));  // checks max_tokens
    count_layers(task, {.before = before, .after = before + growing.tokens}, task.shape.layers);
    for (int& tokens : task.layer_tokens) {
      tokens += growing.tokens;
    }
    task.last_use = ++uses_;
  }
}

/// What the group buffers hold in between: they reach their high water somewhere on the way.
void KvFtl::buffers_grow(const std::vector<Growing>& tasks) {
  struct Step {
    int layers;
    std::vector<Bytes> growth;  // of a layer, append by append
  };
  std::vector<Step> steps;
  std::size_t most_appends = 0;
  int most_layers = 0;
  for (const Growing& growing : tasks) {
    const Task& task = task_at(growing.task);
    const int before = task.layer_tokens.front();
    Step& step = steps.emplace_back(Step{task.shape.layers, {}});
    for (int token = before; token < before + growing.tokens; token += growing.at_once) {
      step.growth.push_back((buffer_of(task, token + growing.at_once) - buffer_of(task, token)) *
                            static_cast<std::int64_t>(pairs_of(task)));
    }
    most_appends = std::max(most_appends, step.growth.size());
    most_layers = std::max(most_layers, task.shape.layers);
  }
  for (std::size_t append = 0; append < most_appends; ++append) {
    for (int layer = 0; layer < most_layers; ++layer) {
      for (const Step& step : steps) {
        if (append < step.growth.size() && layer < step.layers) {
          buffer_grows(step.growth[append]);
        }
      }
    }
  }
}

/// Makes sure that the task can write in a plane; false when the plane has no block for it.
bool KvFtl::open_block(Task& task, int plane) {
  OpenBlocks& open = open_blocks_of(task);
  if (open.block[plane] != kNoBlock) {
    return true;
  }
  BlockPool& pool = pools_[plane];
  if (!task.reserved.empty()) {
    check(task.reserved[plane] > 0, "a plane lacks a block that was kept for a KV task");
    --task.reserved[plane];
    --reserved_[plane];
    --reserved_blocks_;
  } else if (pool.free_blocks() <= reserved_[plane]) {
    return false;
  }
  open.block[plane] = pool.open_next();
  --free_blocks_;
  open.room += flash_.pages_per_block;
  if (has_own_blocks()) {
    task.own_blocks[plane].push_back(open.block[plane]);
  }
  return true;
}

/// Programs the next pages of a plane that has room for them.
void KvFtl::program_pages(Task& task, int plane, std::int64_t pages) {
  OpenBlocks& open = open_blocks_of(task);
  while (pages > 0) {
    check(open_block(task, plane), "a plane without room for a KV page");
    int& index = open.block[plane];
    EraseBlock& block = pools_[plane].block(index);
    const auto room = flash_.pages_per_block - static_cast<std::int64_t>(block.written);
    const std::int64_t now = std::min(pages, room);
    block.written += static_cast<std::uint32_t>(now);
    block.valid += static_cast<std::uint32_t>(now);
    written_ += now;
    valid_ += now;
    open.room -= now;
    counters_.programs += now;
    pages -= now;
    if (now == room) {
      pools_[plane].close(index, static_cast<std::uint64_t>(counters_.programs));
      index = kNoBlock;
    }
  }
}

PhysicalPage KvFtl::program_at(Task& task, std::uint64_t slot) {
  const auto planes = static_cast<std::uint64_t>(flash_.planes());
  // What a failed plane would have got is spread over the others, round by round of the stripe.
  const std::uint64_t first =
      planes > 1 && has_failed(stripe_.plane_of(slot)) ? 1 + slot / planes % (planes - 1) : 0;
  for (std::uint64_t tried = first; tried < first + planes; ++tried) {
    const int plane = stripe_.plane_of(slot + tried);
    if (open_block(task, plane)) {
      const int index = open_blocks_of(task).block[plane];
      const auto page = static_cast<int>(pools_[plane].block(index).written);
      program_pages(task, plane, 1);
      counters_.redirected_pages += tried > 0 ? 1 : 0;
      return flash_.page_at(plane, index, page);
    }
  }
  check(false, "no plane takes a KV page though one is available");
  return kNoPage;
}

// -- Losses -----------------------------------------------------------------------------------

template <class Visit>
void KvFtl::for_each_page(TaskId id, Visit visit) {
  Task& task = tasks_[id];
  std::size_t head = 0;
  for (int layer = 0; layer < task.shape.layers; ++layer) {
    for (int pair = 0; pair < static_cast<int>(pairs_of(task)); ++pair, ++head) {
      const StreamPages flushed = stream_pages(task, held_tokens(task, head));
      PhysicalPage* table = task.table.get() + head * static_cast<std::size_t>(task.pages_a_head);
      for (int stream = 0; stream < kKvStreams; ++stream) {
        for (int page = 0; page < flushed[stream]; ++page) {
          visit(LostPage{id, layer, pair, static_cast<KvStream>(stream), page},
                table[task.first[stream] + page]);
        }
      }
    }
  }
}

/// Where the pages of a task that kept counts lie: in each plane in the order of its blocks.
void KvFtl::make_table(Task& task) {
  task.table = std::make_unique_for_overwrite<PhysicalPage[]>(
      static_cast<std::size_t>(task.shape.heads()) * static_cast<std::size_t>(task.pages_a_head));
  std::vector<std::int64_t> next(pools_.size());  // page of each plane, over the task's blocks
  const auto id = static_cast<TaskId>(&task - tasks_.data());
  for_each_page(id, [&](const LostPage& page, PhysicalPage& entry) {
    const std::uint64_t slot =
        slot_of(page.pair, static_cast<int>(page.stream)) + static_cast<std::uint64_t>(page.page);
    const int plane = stripe_.plane_of(slot);
    const std::int64_t number = next[plane]++;
    const auto block = static_cast<std::size_t>(number / flash_.pages_per_block);
    entry = flash_.page_at(plane, task.own_blocks[plane][block],
                           static_cast<int>(number % flash_.pages_per_block));
  });
}

/// The task's pages may be moved one by one from now on.
void KvFtl::loosen(Task& task) {
  if (task.table == nullptr) {
    make_table(task);
  }
  give_reservation_back(task);
  task.reserved.clear();
}

/// Takes a failed plane out of all counts.
void KvFtl::forget_plane(int plane) {
  BlockPool& pool = pools_[plane];
  for (int b = 0; b < pool.blocks(); ++b) {
    const EraseBlock& block = pool.block(b);
    valid_ -= block.valid;
    written_ -= block.written;
  }
  free_blocks_ -= pool.free_blocks();
  blocks_to_erase_ -= static_cast<std::int64_t>(to_erase_[plane].size());
  to_erase_[plane].clear();
  const auto close = [&](OpenBlocks& open) {
    int& index = open.block[plane];
    if (index != kNoBlock) {
      open.room -= flash_.pages_per_block - static_cast<std::int64_t>(pool.block(index).written);
      index = kNoBlock;
    }
  };
  close(shared_);
  for (Task& task : tasks_) {
    if (task.live && has_own_blocks()) {
      close(task.open);
      task.own_blocks[plane].clear();
    }
  }
  pool.fail();
  failed_[plane] = true;
}

KvFtl::Outcome KvFtl::fail_planes(const std::vector<int>& planes, std::vector<LostPage>& lost) {
  std::vector<bool> fails(pools_.size());
  for (const int plane : planes) {
    check(plane >= 0 && plane < flash_.planes(), "a plane fails that the drive does not have");
    fails[plane] = !has_failed(plane);
  }
  for (TaskId id = 0; id < static_cast<TaskId>(tasks_.size()); ++id) {
    if (tasks_[id].live && !tasks_[id].finished) {
      loosen(tasks_[id]);
      for_each_page(id, [&](const LostPage& page, PhysicalPage at) {
        if (fails[flash_.plane_of(at)]) {
          lost.push_back(page);
        }
      });
    }
  }
  for (std::size_t plane = 0; plane < fails.size(); ++plane) {
    if (fails[plane]) {
      forget_plane(static_cast<int>(plane));
    }
  }
  return remap(lost);
}

KvFtl::Outcome KvFtl::lose_pages(std::int64_t count, Rng& rng, std::vector<LostPage>& lost) {
  std::int64_t pages = 0;
  for (Task& task : tasks_) {
    if (task.live && !task.finished) {
      loosen(task);
      pages += flushed_pages_of(task);
    }
  }
  // Each page with the chance that makes it `count` in all (Knuth's selection sampling).
  std::int64_t left = std::min(count, pages);
  for (TaskId id = 0; id < static_cast<TaskId>(tasks_.size()) && left > 0; ++id) {
    if (!tasks_[id].live || tasks_[id].finished) {
      continue;
    }
    for_each_page(id, [&](const LostPage& page, PhysicalPage at) {
      if (rng.below(static_cast<std::uint64_t>(pages--)) < static_cast<std::uint64_t>(left)) {
        --left;
        lost.push_back(page);
        --pools_[flash_.plane_of(at)].block(flash_.block_of(at)).valid;
        --valid_;
      }
    });
  }
  return remap(lost);
}

/// Programs lost pages at new places.
KvFtl::Outcome KvFtl::remap(const std::vector<LostPage>& lost) {
  for (const LostPage& page : lost) {
    Task& task = tasks_[page.task];
    while (available_to(task) < 1) {
      if (!reclaim_one(nullptr)) {
        return refuse(task, static_cast<std::int64_t>(lost.size()));
      }
    }
    const std::uint64_t slot =
        slot_of(page.pair, static_cast<int>(page.stream)) + static_cast<std::uint64_t>(page.page);
    const PhysicalPage at = program_at(task, slot);
    const std::size_t head =
        static_cast<std::size_t>(page.layer) * pairs_of(task) + static_cast<std::size_t>(page.pair);
    task.table[head * static_cast<std::size_t>(task.pages_a_head) +
               static_cast<std::size_t>(task.first[static_cast<std::size_t>(page.stream)] +
                                        page.page)] = at;
    note_place(task, page, at);
  }
  return Outcome::ok;
}

// -- Reclaiming -------------------------------------------------------------------------------

double KvFtl::free_share() const {
  std::int64_t usable = 0;
  for (const BlockPool& pool : pools_) {
    usable += pool.blocks() - pool.bad_blocks();
  }
  return usable == 0 ? 0 : static_cast<double>(free_blocks_) / static_cast<double>(usable);
}

KvFtl::TaskId KvFtl::least_recently_used_finished() const {
  TaskId oldest = -1;
  for (TaskId id = 0; id < static_cast<TaskId>(tasks_.size()); ++id) {
    const Task& task = tasks_[id];
    if (task.live && task.finished && (oldest < 0 || task.last_use < tasks_[oldest].last_use)) {
      oldest = id;
    }
  }
  return oldest;
}

bool KvFtl::wants_reclaim() const {
  const double wanted = reclaims_ ? config_.reclaim_until : config_.reclaim_below;
  return blocks_to_erase_ > 0 || (least_recently_used_finished() >= 0 && free_share() < wanted);
}

bool KvFtl::reclaim_round(KvOperations* out) {
  if (blocks_to_erase_ == 0) {
    reclaims_ = wants_reclaim();
    if (!reclaims_) {
      return false;
    }
    release(tasks_[least_recently_used_finished()]);
  }
  erase_one_a_plane(out);
  return true;
}

int KvFtl::reclaim(KvOperations* out) {
  const std::int64_t before = counters_.reclaimed_tasks;
  while (reclaim_round(out)) {
  }
  return static_cast<int>(counters_.reclaimed_tasks - before);
}

bool KvFtl::reclaim_one(KvOperations* out) {
  if (blocks_to_erase_ == 0) {
    const TaskId task = least_recently_used_finished();
    if (task < 0) {
      return false;
    }
    release(tasks_[task]);
  }
  while (blocks_to_erase_ > 0) {
    erase_one_a_plane(out);
  }
  return true;
}

/// The block holds nothing any more: it is not written to again, and waits for its erase.
void KvFtl::queue_erase(OpenBlocks& open, int plane, int block) {
  if (open.block[plane] == block) {
    open.block[plane] = kNoBlock;
    open.room -=
        flash_.pages_per_block - static_cast<std::int64_t>(pools_[plane].block(block).written);
  }
  to_erase_[plane].push_back(block);
  ++blocks_to_erase_;
}

void KvFtl::release_page(Task& task, PhysicalPage page) {
  const int plane = flash_.plane_of(page);
  if (has_failed(plane)) {
    return;
  }
  const int index = flash_.block_of(page);
  EraseBlock& block = pools_[plane].block(index);
  --block.valid;
  --valid_;
  if (block.valid == 0) {
    queue_erase(open_blocks_of(task), plane, index);
  }
}

/// Gives up the task's pages; blocks that hold nothing else are to be erased.
void KvFtl::release(Task& task) {
  for (std::size_t plane = 0; plane < task.own_blocks.size(); ++plane) {
    for (const int index : task.own_blocks[plane]) {
      EraseBlock& block = pools_[plane].block(index);
      valid_ -= block.valid;
      block.valid = 0;
      queue_erase(task.open, static_cast<int>(plane), index);
    }
  }
  for (std::size_t head = 0; !has_own_blocks() && head < task.extra_tokens.size(); ++head) {
    const StreamPages flushed = stream_pages(task, held_tokens(task, head));
    const PhysicalPage* table =
        task.table.get() + head * static_cast<std::size_t>(task.pages_a_head);
    for (int stream = 0; stream < kKvStreams; ++stream) {
      for (int page = 0; page < flushed[stream]; ++page) {
        release_page(task, table[task.first[stream] + page]);
      }
    }
  }
  task.live = false;
  task.table.reset();
  task.layer_tokens = {};
  task.extra_tokens = {};
  task.uniform = {};
  task.layer_places = {};
  task.open = {};
  task.own_blocks = {};
  task.reserved = {};
  task.slot_counts = {};
  ++counters_.reclaimed_tasks;
}

void KvFtl::erase_one_a_plane(KvOperations* out) {
  for (int plane = 0; plane < flash_.planes(); ++plane) {
    std::deque<int>& waiting = to_erase_[plane];
    if (waiting.empty()) {
      continue;
    }
    const int index = waiting.front();
    waiting.pop_front();
    --blocks_to_erase_;
    BlockPool& pool = pools_[plane];
    const auto written = static_cast<std::int64_t>(pool.block(index).written);
    written_ -= written;
    counters_.erased_unwritten_pages += flash_.pages_per_block - written;
    ++counters_.erases;
    if (pool.erase(index)) {
      ++free_blocks_;
    } else {
      ++counters_.grown_bad_blocks;
    }
    if (out != nullptr) {
      out->push_back({FlashCommand::erase, flash_.page_at(plane, index, 0)});
    }
  }
}

// -- Figures ----------------------------------------------------------------------------------

double KvFtl::Counters::write_amplification() const {
  if (erases == 0) {
    return 1;
  }
  // Slots that were erased without data will have been spent for nothing.
  return static_cast<double>(programs + erased_unwritten_pages) / static_cast<double>(programs);
}

PageFtl::PageCounts KvFtl::pages() const {
  std::int64_t bad = 0;
  for (const BlockPool& pool : pools_) {
    bad += std::int64_t{pool.bad_blocks()} * flash_.pages_per_block;
  }
  return {.free = flash_.pages() - written_ - bad,
          .valid = valid_,
          .invalid = written_ - valid_,
          .bad = bad};
}

BlockPool::Wear KvFtl::wear() const {
  BlockPool::Wear all = pools_.front().wear();
  for (std::size_t i = 1; i < pools_.size(); ++i) {
    const BlockPool::Wear wear = pools_[i].wear();
    all.lowest = std::min(all.lowest, wear.lowest);
    all.highest = std::max(all.highest, wear.highest);
    all.total += wear.total;
  }
  return all;
}

void KvFtl::audit_table(const Task& task, std::vector<bool>& owned,
                        std::vector<std::uint32_t>& valid) const {
  for (std::size_t head = 0; head < task.extra_tokens.size(); ++head) {
    const StreamPages flushed = stream_pages(task, held_tokens(task, head));
    for (int stream = 0; stream < kKvStreams; ++stream) {
      for (int page = 0; page < flushed[stream]; ++page) {
        const PhysicalPage at = task.table[head * static_cast<std::size_t>(task.pages_a_head) +
                                           static_cast<std::size_t>(task.first[stream] + page)];
        if (has_failed(flash_.plane_of(at))) {
          check(task.finished, "a page of a KV task on a plane that has failed");
          continue;
        }
        check(!owned[at], "a flash page with two KV owners");
        owned[at] = true;
        ++valid[at / static_cast<std::uint32_t>(flash_.pages_per_block)];
      }
    }
  }
}

/// A task without a table: what its blocks hold must be what its heads have flushed, by plane.
void KvFtl::audit_counts(const Task& task, std::vector<std::uint32_t>& valid) const {
  std::vector<std::int64_t> expected(pools_.size());
  for (std::size_t head = 0; head < task.extra_tokens.size(); ++head) {
    const StreamPages flushed = stream_pages(task, held_tokens(task, head));
    const auto pair = static_cast<std::int64_t>(head % pairs_of(task));
    for (int stream = 0; stream < kKvStreams; ++stream) {
      for (int page = 0; page < flushed[stream]; ++page) {
        ++expected[stripe_.plane_of(slot_of(pair, stream) + static_cast<std::uint64_t>(page))];
      }
    }
  }
  for (std::size_t plane = 0; plane < pools_.size(); ++plane) {
    for (const int index : task.own_blocks[plane]) {
      const EraseBlock& block = pools_[plane].block(index);
      check(block.valid == block.written, "a block of one KV task with pages that are not its own");
      expected[plane] -= block.valid;
      valid[plane * static_cast<std::size_t>(flash_.blocks_per_plane) + index] = block.valid;
    }
    check(expected[plane] == 0 || has_failed(static_cast<int>(plane)),
          "KV pages of a plane were miscounted");
  }
}

void KvFtl::audit() const {
  std::vector<bool> owned(static_cast<std::size_t>(flash_.pages()));
  std::vector<std::uint32_t> valid(static_cast<std::size_t>(flash_.planes()) *
                                   static_cast<std::size_t>(flash_.blocks_per_plane));
  for (const Task& task : tasks_) {
    if (task.table != nullptr) {
      audit_table(task, owned, valid);
    } else if (task.live) {
      audit_counts(task, valid);
    }
  }
  std::int64_t all_valid = 0;
  std::int64_t written = 0;
  std::int64_t free = 0;
  for (int plane = 0; plane < flash_.planes(); ++plane) {
    const BlockPool& pool = pools_[plane];
    pool.audit();
    free += pool.free_blocks();
    check(reserved_[plane] >= 0 && reserved_[plane] <= pool.free_blocks(),
          "more blocks are kept for KV tasks than are free");
    for (int b = 0; b < pool.blocks(); ++b) {
      const EraseBlock& block = pool.block(b);
      check(block.valid == valid[static_cast<std::size_t>(plane) * flash_.blocks_per_plane + b],
            "KV pages of a block were miscounted");
      all_valid += block.valid;
      written += block.written;
    }
  }
  check(all_valid == valid_ && written == written_ && free == free_blocks_,
        "KV pages of the drive were miscounted");
  const PageFtl::PageCounts counts = pages();
  check(counts.free >= 0 && counts.invalid >= 0, "negative counts of KV pages");
}

std::int64_t KvFtl::memory_bytes() const {
  auto bytes = static_cast<std::int64_t>(sizeof(*this) + tasks_.capacity() * sizeof(Task));
  for (const BlockPool& pool : pools_) {
    bytes += pool.bytes_held();
  }
  for (const Task& task : tasks_) {
    std::size_t ints = task.layer_tokens.capacity() + task.extra_tokens.capacity() +
                       task.open.block.capacity() + task.reserved.capacity();
    for (const SlotCounts& counts : task.slot_counts) {
      ints += counts.pages.capacity();
    }
    for (const std::vector<int>& blocks : task.own_blocks) {
      ints += blocks.capacity();
    }
    bytes += static_cast<std::int64_t>(ints * sizeof(int));
    if (task.table != nullptr) {
      bytes +=
          task.shape.heads() * task.pages_a_head * static_cast<std::int64_t>(sizeof(PhysicalPage));
    }
  }
  return bytes;
}

void KvFtl::report(Metrics& metrics, const std::string& prefix) const {
  const auto add = [&](const char* name, std::int64_t value, const char* doc) {
    metrics.add(prefix + "/" + name, static_cast<double>(value), "1", doc);
  };
  add("programs", counters_.programs, "KV pages programmed");
  add("erases", counters_.erases, "blocks erased");
  add("reclaimed_tasks", counters_.reclaimed_tasks, "finished tasks whose pages were reclaimed");
  add("redirected_pages", counters_.redirected_pages,
      "pages whose plane of the stripe was full or bad");
  add("grown_bad_blocks", counters_.grown_bad_blocks, "blocks that were retired");
  metrics.add(prefix + "/write_amplification", counters_.write_amplification(), "1",
              "page slots spent a KV page");
  const PageFtl::PageCounts counts = pages();
  add("free_pages", counts.free, "erased pages");
  add("valid_pages", counts.valid, "pages with KV of tasks");
  add("stranded_pages", counts.invalid,
      "pages of reclaimed tasks that wait for an erase or for others in their blocks");
  add("bad_pages", counts.bad, "pages of bad blocks");
  const BlockPool::Wear worn = wear();
  add("lowest_erase_count", worn.lowest, "erases of the least worn usable block");
  add("highest_erase_count", worn.highest, "erases of the most worn usable block");
  report_endurance(metrics, prefix);
}

/// Of the last task's kind of tokens; each drive has its share of the heads.
void KvFtl::report_endurance(Metrics& metrics, const std::string& prefix) const {
  if (tasks_.empty()) {
    return;
  }
  const Task& task = tasks_.back();
  const std::int64_t heads = std::int64_t{task.shape.layers} * task.shape.kv_heads;
  for (const bool channel_copy : {false, true}) {
    const double tokens =
        writable_tokens({.capacity = Bytes{flash_.pages() * task.pages.page_bytes()},
                         .pe_cycles = config_.bad_blocks.pe_cycles,
                         .bytes_per_token = flash_bytes_per_token(task.pages, channel_copy) *
                                            static_cast<double>(heads),
                         .write_amplification = counters_.write_amplification()});
    metrics.add(prefix + (channel_copy ? "/writable_tokens_with_copy" : "/writable_tokens"), tokens,
                "1",
                channel_copy ? "tokens until the flash is worn out, K written twice"
                             : "tokens until the flash is worn out, K and V written once");
  }
}

double flash_bytes_per_token(const kernels::PageGeometry& pages, bool channel_copy) {
  const double token_pages = 2.0 / pages.tokens_per_group();
  const double channel_pages =
      channel_copy ? static_cast<double>(pages.channel_groups()) / pages.tokens_per_channel_page()
                   : 0.0;
  return pages.page_bytes() * (token_pages + channel_pages);
}

double writable_tokens(const EnduranceInput& input) {
  check(input.bytes_per_token > 0 && input.write_amplification >= 1,
        "an endurance of tokens without bytes, or with less written than asked");
  return static_cast<double>(input.capacity.count()) * static_cast<double>(input.pe_cycles) /
         (input.bytes_per_token * input.write_amplification);
}

}  // namespace nearkv
