#include "models/kv/kv_ftl.hpp"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>

#include "sim/core/check.hpp"

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

KvFtl::KvFtl(const KvFtlConfig& config, const Parts& parts, std::uint64_t seed,
             const std::string& name)
    : config_(config),
      flash_(parts.flash),
      pages_(parts.pages),
      layout_(parts.layout),
      name_(name),
      stripe_(parts.flash, kPlaneOrders[config.plane_order]) {
  check(flash_.is_addressable(), "a flash array of more pages than an FTL can number");
  pools_.reserve(static_cast<std::size_t>(flash_.planes()));
  for (int plane = 0; plane < flash_.planes(); ++plane) {
    pools_.emplace_back(BlockPool::Options{.blocks = flash_.blocks_per_plane,
                                           .least_worn_first = config.least_worn_first,
                                           .bad = config.bad_blocks},
                        Rng(seed, fmt::format("{}/bad_blocks/{}", name, plane)));
    free_blocks_ += pools_.back().free_blocks();
  }
  shared_.block.assign(pools_.size(), kNoBlock);
}

// -- Tasks ------------------------------------------------------------------------------------

KvFtl::TaskId KvFtl::open_task(const KvTaskShape& shape) {
  check(shape.heads() > 0 && shape.max_tokens > 0, "a KV task without heads or tokens");
  Task task;
  task.shape = shape;
  const std::array<int, kKvStreams> most = stream_pages(task, shape.max_tokens);
  for (int stream = 0; stream < kKvStreams; ++stream) {
    task.first[stream] = task.pages_a_head;
    task.pages_a_head += most[stream];
  }
  task.layer_tokens.assign(static_cast<std::size_t>(shape.layers), 0);
  task.extra_tokens.assign(static_cast<std::size_t>(shape.heads()), 0);
  task.uniform.assign(static_cast<std::size_t>(shape.layers), true);
  task.table = std::make_unique_for_overwrite<PhysicalPage[]>(
      static_cast<std::size_t>(shape.heads()) * static_cast<std::size_t>(task.pages_a_head));
  if (config_.sharing == KvBlockSharing::own_blocks) {
    task.open.block.assign(pools_.size(), kNoBlock);
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

std::size_t KvFtl::head_index(const Task& task, const KvHead& head) const {
  const KvTaskShape& shape = task.shape;
  check(head.sequence >= 0 && head.sequence < shape.sequences && head.layer >= 0 &&
            head.layer < shape.layers && head.head >= 0 && head.head < shape.kv_heads,
        "no such head in the KV task");
  const std::int64_t row = std::int64_t{head.layer} * shape.sequences + head.sequence;
  return static_cast<std::size_t>(row * shape.kv_heads + head.head);
}

std::array<int, kKvStreams> KvFtl::stream_pages(const Task& task, int tokens) const {
  const KvPageCounts counts = flushed_pages(pages_, tokens, task.shape.channel_copy);
  return {static_cast<int>(counts.key_tokens), static_cast<int>(counts.value_tokens),
          static_cast<int>(counts.key_channels)};
}

std::int64_t KvFtl::new_pages(const Task& task, int before, int tokens) const {
  check(tokens >= 0 && tokens <= task.shape.max_tokens - before,
        "more tokens than the KV task may hold");
  return flushed_pages(pages_, before + tokens, task.shape.channel_copy).total() -
         flushed_pages(pages_, before, task.shape.channel_copy).total();
}

Bytes KvFtl::buffer_of(const Task& task, int tokens) const {
  const int channel_rows = task.shape.channel_copy ? pages_.buffered_channel_tokens(tokens) : 0;
  const std::int64_t rows = 2 * pages_.buffered_tokens(tokens) + channel_rows;
  return Bytes{rows * pages_.d_head() * kernels::PageGeometry::element_bytes};
}

int KvFtl::tokens(TaskId task, const KvHead& head) const {
  const Task& t = task_at(task);
  return held_tokens(t, head_index(t, head));
}

PhysicalPage KvFtl::page_of(TaskId task, const KvHead& head, KvStream stream, int page) const {
  const Task& t = task_at(task);
  const std::size_t index = head_index(t, head);
  const auto s = static_cast<int>(stream);
  check(page >= 0 && page < stream_pages(t, held_tokens(t, index))[s],
        "a KV page that is not on flash");
  return t.table[index * static_cast<std::size_t>(t.pages_a_head) +
                 static_cast<std::size_t>(t.first[s] + page)];
}

PagePlace KvFtl::place_of(PhysicalPage page, ArrayUnit unit) const {
  const int planes = flash_.ways_per_channel * flash_.dies_per_way * flash_.planes_per_die;
  const int plane = flash_.plane_of(page);
  const int in_channel = plane % planes;
  return {plane / planes,
          unit == ArrayUnit::plane ? in_channel : in_channel / flash_.planes_per_die};
}

void KvFtl::touch(TaskId task) { task_at(task).last_use = ++uses_; }

void KvFtl::finish(TaskId task) {
  Task& t = task_at(task);
  check(!t.finished, "a KV task is finished twice");
  t.finished = true;
  for (std::size_t head = 0; head < t.extra_tokens.size(); ++head) {
    buffered_ -= buffer_of(t, held_tokens(t, head));
  }
}

// -- Appending --------------------------------------------------------------------------------

KvFtl::OpenBlocks& KvFtl::open_blocks_of(Task& task) {
  return config_.sharing == KvBlockSharing::own_blocks ? task.open : shared_;
}
const KvFtl::OpenBlocks& KvFtl::open_blocks_of(const Task& task) const {
  return config_.sharing == KvBlockSharing::own_blocks ? task.open : shared_;
}

std::int64_t KvFtl::available_to(const Task& task) const {
  return free_blocks_ * flash_.pages_per_block + open_blocks_of(task).room;
}
std::int64_t KvFtl::available_pages(TaskId task) const { return available_to(task_at(task)); }

KvFtl::Outcome KvFtl::refuse(const Task& task, std::int64_t needed) {
  std::int64_t finished = 0;
  for (const Task& t : tasks_) {
    if (t.live && t.finished) {
      for (std::size_t head = 0; head < t.extra_tokens.size(); ++head) {
        finished += flushed_pages(pages_, held_tokens(t, head), t.shape.channel_copy).total();
      }
    }
  }
  const PageFtl::PageCounts counts = pages();
  exhaustion_ = fmt::format(
      "{}: {} pages do not fit, {} are available; of {} pages {} hold data ({} of finished tasks), "
      "{} wait for other tasks in their blocks, {} are bad",
      name_, needed, available_to(task), flash_.pages(), counts.valid, finished, counts.invalid,
      counts.bad);
  return Outcome::exhausted;
}

KvFtl::Outcome KvFtl::append(TaskId task, const KvHead& head, int tokens, KvOperations* out) {
  Task& t = task_at(task);
  check(!t.finished, "a finished KV task grows");
  const std::size_t index = head_index(t, head);
  const int before = held_tokens(t, index);
  const std::int64_t needed = new_pages(t, before, tokens);
  if (needed > available_to(t)) {
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
  if (needed > available_to(t)) {
    return refuse(t, needed);
  }
  t.last_use = ++uses_;
  buffer_grows(growth * alike);
  if (needed > 0) {
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

void KvFtl::store(Task& task, const KvHead& head, const Growth& tokens, KvOperations* out) {
  const std::size_t index = head_index(task, head);
  const std::array<int, kKvStreams> from = stream_pages(task, tokens.before);
  const std::array<int, kKvStreams> to = stream_pages(task, tokens.after);
  const std::int64_t pair = std::int64_t{head.sequence} * task.shape.kv_heads + head.head;
  OpenBlocks& open = open_blocks_of(task);
  PhysicalPage* table = task.table.get() + index * static_cast<std::size_t>(task.pages_a_head);
  for (int stream = 0; stream < kKvStreams; ++stream) {
    const std::int64_t base = (pair * kKvStreams + stream) * layout_.stream_skew;
    for (int page = from[stream]; page < to[stream]; ++page) {
      const PhysicalPage at = program_at(open, base + page);
      table[task.first[stream] + page] = at;
      if (out != nullptr) {
        out->push_back({FlashCommand::program, at});
      }
    }
  }
}

PhysicalPage KvFtl::program_at(OpenBlocks& open, std::int64_t slot) {
  for (int tried = 0; tried < flash_.planes(); ++tried) {
    const int plane = stripe_.plane_of(static_cast<std::uint64_t>(slot + tried));
    BlockPool& pool = pools_[plane];
    int& index = open.block[plane];
    if (index == kNoBlock) {
      if (pool.free_blocks() == 0) {
        continue;
      }
      index = pool.open_next();
      --free_blocks_;
      open.room += flash_.pages_per_block;
    }
    EraseBlock& block = pool.block(index);
    const PhysicalPage page = flash_.page_at(plane, index, static_cast<int>(block.written));
    ++block.written;
    ++block.valid;
    ++written_;
    ++valid_;
    --open.room;
    if (block.written == static_cast<std::uint32_t>(flash_.pages_per_block)) {
      pool.close(index, static_cast<std::uint64_t>(counters_.programs));
      index = kNoBlock;
    }
    ++counters_.programs;
    counters_.redirected_pages += tried > 0 ? 1 : 0;
    return page;
  }
  check(false, "no plane takes a KV page though one is available");
  return kNoPage;
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
  return free_share() < config_.reclaim_below && least_recently_used_finished() >= 0;
}

int KvFtl::reclaim(KvOperations* out) {
  int reclaimed = 0;
  if (wants_reclaim()) {
    do {
      ++reclaimed;
    } while (reclaim_one(out) && free_share() < config_.reclaim_until &&
             least_recently_used_finished() >= 0);
  }
  return reclaimed;
}

bool KvFtl::reclaim_one(KvOperations* out) {
  const TaskId task = least_recently_used_finished();
  if (task < 0) {
    return false;
  }
  reclaim_task(tasks_[task], out);
  return true;
}

void KvFtl::release_page(OpenBlocks& open, PhysicalPage page, KvOperations* out) {
  const int plane = flash_.plane_of(page);
  const int index = flash_.block_of(page);
  BlockPool& pool = pools_[plane];
  EraseBlock& block = pool.block(index);
  --block.valid;
  --valid_;
  if (block.valid > 0) {
    return;
  }
  const std::int64_t unwritten = flash_.pages_per_block - static_cast<std::int64_t>(block.written);
  if (block.state == BlockState::open) {
    open.block[plane] = kNoBlock;
    open.room -= unwritten;
  }
  written_ -= block.written;
  counters_.erased_unwritten_pages += unwritten;
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

void KvFtl::reclaim_task(Task& task, KvOperations* out) {
  OpenBlocks& open = open_blocks_of(task);
  for (std::size_t head = 0; head < task.extra_tokens.size(); ++head) {
    const std::array<int, kKvStreams> flushed = stream_pages(task, held_tokens(task, head));
    const PhysicalPage* table =
        task.table.get() + head * static_cast<std::size_t>(task.pages_a_head);
    for (int stream = 0; stream < kKvStreams; ++stream) {
      for (int page = 0; page < flushed[stream]; ++page) {
        release_page(open, table[task.first[stream] + page], out);
      }
    }
  }
  task.live = false;
  task.table.reset();
  task.layer_tokens = {};
  task.extra_tokens = {};
  task.uniform = {};
  task.open = {};
  ++counters_.reclaimed_tasks;
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

void KvFtl::audit() const {
  std::vector<bool> owned(static_cast<std::size_t>(flash_.pages()));
  std::vector<std::uint32_t> valid(static_cast<std::size_t>(flash_.planes()) *
                                   static_cast<std::size_t>(flash_.blocks_per_plane));
  for (const Task& task : tasks_) {
    for (std::size_t head = 0; head < task.extra_tokens.size(); ++head) {
      const std::array<int, kKvStreams> flushed = stream_pages(task, held_tokens(task, head));
      for (int stream = 0; stream < kKvStreams; ++stream) {
        for (int page = 0; page < flushed[stream]; ++page) {
          const PhysicalPage at = task.table[head * static_cast<std::size_t>(task.pages_a_head) +
                                             static_cast<std::size_t>(task.first[stream] + page)];
          check(!owned[at], "a flash page with two KV owners");
          owned[at] = true;
          ++valid[at / static_cast<std::uint32_t>(flash_.pages_per_block)];
        }
      }
    }
  }
  std::int64_t all_valid = 0;
  std::int64_t written = 0;
  std::int64_t free = 0;
  for (int plane = 0; plane < flash_.planes(); ++plane) {
    const BlockPool& pool = pools_[plane];
    pool.audit();
    free += pool.free_blocks();
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
    bytes += static_cast<std::int64_t>(
        (task.layer_tokens.capacity() + task.extra_tokens.capacity() + task.open.block.capacity()) *
        sizeof(int));
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
  add("stranded_pages", counts.invalid, "pages of reclaimed tasks in blocks that others use");
  add("bad_pages", counts.bad, "pages of bad blocks");
  const BlockPool::Wear worn = wear();
  add("lowest_erase_count", worn.lowest, "erases of the least worn usable block");
  add("highest_erase_count", worn.highest, "erases of the most worn usable block");
  metrics.add(prefix + "/group_buffer_high_water",
              static_cast<double>(buffered_high_water_.count()), "B",
              "DRAM that tokens filled which were not yet a page, at most");
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
