#include "models/flash/ftl/page_ftl.hpp"

#include <algorithm>
#include <bit>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {
namespace {

// One free block stays in reserve for garbage collection, so that others need two to open one.
constexpr int kCollectionReserve = 1;

}  // namespace

PageFtl::PageFtl(const FtlConfig& config, const FtlGeometry& geometry, Bytes page_size,
                 std::uint64_t seed, const std::string& name)
    : config_(config),
      geometry_(geometry),
      name_(name),
      logical_pages_(config.logical_pages(geometry)),
      entries_(config.mapping.ideal ? 1 : page_size / config.mapping.entry_size),
      translation_pages_(config.mapping.ideal ? 0 : ceil_div(logical_pages_, entries_)),
      stripe_(geometry, kPlaneOrders[config.plane_order]),
      stripes_(static_cast<std::uint32_t>(geometry.planes())),
      pages_a_stripe_(static_cast<std::uint32_t>(logical_pages_ / geometry.planes())),
      stripe_shift_(std::has_single_bit(stripes_) ? std::countr_zero(stripes_) : -1),
      map_(logical_pages_ + translation_pages_),
      reverse_(geometry.pages()),
      rng_(seed, name + "/victims"),
      soft_blocks_(
          std::max(blocks_at(config.collection.threshold), config.collection.least_free_blocks)),
      hard_blocks_(std::max({blocks_at(config.collection.hard_threshold), kCollectionReserve + 1,
                             config.collection.least_free_blocks})) {
  check(geometry.is_addressable() && logical_pages_ + translation_pages_ < kNoPage,
        "a flash array of more pages than an FTL can number");
  planes_.reserve(static_cast<std::size_t>(geometry.planes()));
  for (int plane = 0; plane < geometry.planes(); ++plane) {
    planes_.push_back({BlockPool({.blocks = geometry.blocks_per_plane,
                                  .least_worn_first = config.wear_levelling.dynamic_levelling,
                                  .bad = config.bad_blocks},
                                 Rng(seed, fmt::format("{}/bad_blocks/{}", name, plane))),
                       {kNoBlock, kNoBlock, kNoBlock, kNoBlock}});
    if (config.collection.open_ahead) {
      for (const Frontier frontier : {host_pages, mapping_pages, collected_pages}) {
        check(open_block(plane, frontier, 0), "a plane of too few blocks for its frontiers");
      }
      planes_.back().collections_due = 0;
    }
  }
  if (!config.mapping.ideal) {
    const std::int64_t capacity =
        std::clamp<std::int64_t>(config.mapping.cache_capacity / page_size, 1,
                                 std::max<std::int64_t>(translation_pages_, 1));
    cache_.emplace(MappingCache::Options{translation_pages_, capacity});
    journal_.emplace(MappingCache::Options{translation_pages_, translation_pages_ + 1});
  }
}

int PageFtl::blocks_at(double share) const {
  return static_cast<int>(share * geometry_.blocks_per_plane);
}

std::int32_t PageFtl::emit(FlashOperations* out, const FlashOperation& operation) {
  if (out == nullptr) {
    return kNoOperation;
  }
  out->push_back(operation);
  return static_cast<std::int32_t>(out->size()) - 1;
}

// -- Host commands ----------------------------------------------------------------------------

int PageFtl::choose_plane(LogicalPage page, const WriteOptions& options) {
  if (config_.allocation == AllocationMode::by_logical_page) {
    return home_plane(page);
  }
  check(options.plane < geometry_.planes(), "a write to a plane that the drive lacks");
  return options.plane >= 0 ? options.plane : stripe_.plane_of(next_in_turn_++);
}

bool PageFtl::make_room_anywhere(int& plane, FlashOperations* out, std::int32_t& gate) {
  for (int tried = 0; tried < geometry_.planes(); ++tried) {
    if (make_room(plane, host_pages, out, gate)) {
      return true;
    }
    plane = plane + 1 == geometry_.planes() ? 0 : plane + 1;
  }
  return false;
}

PageFtl::Outcome PageFtl::write(LogicalPage page, FlashOperations* out,
                                const WriteOptions& options) {
  check(page < logical_pages_, "a write beyond the drive");
  write_back_journal(out);
  std::int32_t gate = use_mapping(page, true, out);
  int plane = choose_plane(page, options);
  const bool found = config_.allocation == AllocationMode::by_logical_page
                         ? make_room(plane, host_pages, out, gate)
                         : make_room_anywhere(plane, out, gate);
  if (!found) {
    exhausted_plane_ = plane;
    return Outcome::exhausted;
  }
  const PhysicalPage old = physical_of(page);
  if (!options.whole_page && old != kNoPage) {
    gate = emit(out, {FlashCommand::read, FlashCause::host, gate, old, page});
    ++counters_.partial_writes;
  }
  const PhysicalPage target = append(plane, host_pages, page);
  bind(page, target);
  emit(out, {FlashCommand::program, FlashCause::host, gate, target, page});
  ++counters_.host_programs;
  return Outcome::ok;
}

PhysicalPage PageFtl::read(LogicalPage page, FlashOperations* out) {
  check(page < logical_pages_, "a read beyond the drive");
  std::int32_t gate = use_mapping(page, false, out);
  if (physical_of(page) == kNoPage) {
    int plane = choose_plane(page, WriteOptions{});
    if (config_.unwritten_reads == UnwrittenReads::zeroes ||
        !make_room(plane, host_pages, out, gate)) {
      ++counters_.unwritten_reads;
      return kNoPage;
    }
    bind(page, append(plane, host_pages, page));
    mapping_moved(page);
    ++counters_.implied_pages;
  }
  const PhysicalPage found = physical_of(page);
  emit(out, {FlashCommand::read, FlashCause::host, gate, found, page});
  ++counters_.host_reads;
  return found;
}

void PageFtl::trim(LogicalPage page, FlashOperations* out) {
  check(page < logical_pages_, "a TRIM beyond the drive");
  if (physical_of(page) == kNoPage) {
    return;
  }
  use_mapping(page, true, out);
  invalidate(physical_of(page));
  map_.set(map_index(page), kNoPage);
  ++counters_.trims;
}

// -- Places -----------------------------------------------------------------------------------

PageFtl::Pressure PageFtl::pressure(int plane) const {
  const int free = planes_[plane].pool.free_blocks();
  if (free < hard_blocks_) {
    return Pressure::hard;
  }
  return free < soft_blocks_ ? Pressure::soft : Pressure::none;
}

bool PageFtl::make_room(int plane, Frontier frontier, FlashOperations* out, std::int32_t& gate) {
  Plane& p = planes_[plane];
  if (p.open[frontier] != kNoBlock) {
    return true;
  }
  while (!by_steps_ && p.pool.free_blocks() < hard_blocks_ && collect(plane, out)) {
    if (out != nullptr) {
      gate = static_cast<std::int32_t>(out->size()) - 1;
    }
  }
  if (!open_block(plane, frontier, kCollectionReserve)) {
    return false;
  }
  if (!by_steps_ && config_.collection.trigger == CollectionTrigger::on_write) {
    while (p.collections_due > 0 && p.pool.free_blocks() < soft_blocks_ && collect(plane, out)) {
      --p.collections_due;
    }
  }
  if (p.pool.free_blocks() >= soft_blocks_) {
    p.collections_due = 0;
  }
  return true;
}

bool PageFtl::open_block(int plane, Frontier frontier, int reserve) {
  Plane& p = planes_[plane];
  if (p.pool.free_blocks() <= reserve || (by_steps_ && reserve > 0 && !spares_block(p))) {
    return false;
  }
  p.open[frontier] = frontier == levelled_pages ? p.pool.open_most_worn() : p.pool.open_next();
  if (frontier != levelled_pages) {  // what wear levelling opens is paid for by what it erases
    ++p.collections_due;
  }
  if (by_steps_) {
    opened_planes_.push_back(static_cast<std::uint32_t>(plane));
  }
  if (config_.collection.mqsim_faults && config_.collection.victim == VictimPolicy::fifo) {
    p.history.push_back(p.open[frontier]);
  }
  return true;
}

PhysicalPage PageFtl::append(int plane, Frontier frontier, std::uint32_t id) {
  Plane& p = planes_[plane];
  const int index = p.open[frontier];
  EraseBlock& block = p.pool.block(index);
  const PhysicalPage page = geometry_.page_at(plane, index, static_cast<int>(block.written));
  ++block.written;
  ++block.valid;
  ++p.written;
  ++p.valid;
  ++programs_;
  reverse_.set(page, id);
  if (block.written == static_cast<std::uint32_t>(geometry_.pages_per_block)) {
    p.pool.close(index, programs_);
    p.open[frontier] = kNoBlock;
    if (config_.collection.open_ahead) {
      const bool may_take_last =
          by_steps_ && (frontier == collected_pages || config_.collection.mqsim_faults);
      open_block(plane, frontier, may_take_last ? 0 : kCollectionReserve);
    }
  }
  return page;
}

void PageFtl::bind(std::uint32_t id, PhysicalPage page) {
  const PhysicalPage old = physical_of(id);
  if (old != kNoPage) {
    invalidate(old);
  }
  map_.set(map_index(id), page);
}

void PageFtl::invalidate(PhysicalPage page) {
  const std::uint32_t number = page / static_cast<std::uint32_t>(geometry_.pages_per_block);
  const auto blocks = static_cast<std::uint32_t>(geometry_.blocks_per_plane);
  Plane& p = planes_[number / blocks];
  reverse_.set(page, kNoPage);
  --p.pool.block(static_cast<int>(number % blocks)).valid;
  --p.valid;
}

// -- Garbage collection and wear levelling ----------------------------------------------------

bool PageFtl::can_collect(const Plane& plane, int block, Frontier frontier) const {
  const EraseBlock& b = plane.pool.block(block);
  const auto pages = static_cast<std::uint32_t>(geometry_.pages_per_block);
  if (b.state != BlockState::closed) {
    return false;
  }
  const int open = plane.open[frontier];
  const std::uint32_t room = open == kNoBlock ? 0 : pages - plane.pool.block(open).written;
  return b.valid <= room || plane.pool.free_blocks() > 0;
}

/// Whether `a` is strictly better to collect than `b`; both hold an invalid page.
bool PageFtl::is_better_victim(const EraseBlock& a, const EraseBlock& b) const {
  switch (config_.collection.victim) {
    case VictimPolicy::fifo:
      return a.stamp < b.stamp;
    case VictimPolicy::cost_benefit: {
      // age x (1 - u) / 2u without the common factors, cross-multiplied.
      const auto pages = static_cast<std::uint64_t>(geometry_.pages_per_block);
      const Int128 benefit_a = static_cast<Int128>(programs_ - a.stamp) * (pages - a.valid);
      const Int128 benefit_b = static_cast<Int128>(programs_ - b.stamp) * (pages - b.valid);
      if (a.valid == 0 || b.valid == 0) {
        return b.valid != 0 || (a.valid == 0 && a.stamp < b.stamp);
      }
      return benefit_a * b.valid > benefit_b * a.valid;
    }
    case VictimPolicy::greedy:
    case VictimPolicy::random_greedy:
    case VictimPolicy::random:
    case VictimPolicy::random_full:
    case VictimPolicy::random_stale:
      return a.valid < b.valid;
  }
  return false;
}

int PageFtl::greedy_victim(const Plane& plane) const {
  const auto pages = static_cast<std::uint32_t>(geometry_.pages_per_block);
  int best = kNoBlock;
  for (int i = 0; i < plane.pool.blocks(); ++i) {
    const EraseBlock& block = plane.pool.block(i);
    if (block.state == BlockState::closed && block.valid < pages &&
        (best == kNoBlock || is_better_victim(block, plane.pool.block(best)))) {
      best = i;
    }
  }
  return best;
}

int PageFtl::random_greedy_victim(const Plane& plane) {
  const auto pages = static_cast<std::uint32_t>(geometry_.pages_per_block);
  int best = kNoBlock;
  int found = 0;
  for (int draw = 0; draw < plane.pool.blocks() && found < config_.collection.random_candidates;
       ++draw) {
    const auto i = static_cast<int>(this->draw(static_cast<std::uint64_t>(plane.pool.blocks())));
    const EraseBlock& block = plane.pool.block(i);
    if (block.state == BlockState::closed && block.valid < pages) {
      ++found;
      if (best == kNoBlock || is_better_victim(block, plane.pool.block(best))) {
        best = i;
      }
    }
  }
  return best == kNoBlock ? greedy_victim(plane) : best;
}

int PageFtl::choose_victim(int plane) {
  const Plane& p = planes_[plane];
  int victim = kNoBlock;
  switch (config_.collection.victim) {
    case VictimPolicy::random_greedy:
      victim = random_greedy_victim(p);
      break;
    case VictimPolicy::random:
    case VictimPolicy::random_full:
    case VictimPolicy::random_stale:
      victim = random_victim(p);
      break;
    default:
      victim = greedy_victim(p);
      break;
  }
  if (victim != kNoBlock && !can_collect(p, victim, collected_pages)) {
    // Blocks went bad and took the reserve: only a victim fits that needs no new block.
    victim = kNoBlock;
    for (int i = 0; i < p.pool.blocks(); ++i) {
      const EraseBlock& block = p.pool.block(i);
      if (can_collect(p, i, collected_pages) && block.valid < block.written &&
          (victim == kNoBlock || block.valid < p.pool.block(victim).valid)) {
        victim = i;
      }
    }
  }
  return victim;
}

bool PageFtl::collect(int plane, FlashOperations* out) {
  const int victim = choose_victim(plane);
  if (victim == kNoBlock) {
    return false;
  }
  ++counters_.collections;
  counters_.collected_pages += planes_[plane].pool.block(victim).valid;
  relocate(plane, victim, collected_pages, out);
  if (config_.wear_levelling.static_levelling) {
    level_wear(plane, planes_[plane].pool.block(victim).erases, out);
  }
  return true;
}

void PageFtl::relocate(int plane, int block, Frontier frontier, FlashOperations* out) {
  const FlashCause cause =
      frontier == levelled_pages ? FlashCause::levelling : FlashCause::collection;
  Plane& p = planes_[plane];
  const std::int32_t first = out == nullptr ? kNoOperation : static_cast<std::int32_t>(out->size());
  const PhysicalPage begin = geometry_.page_at(plane, block, 0);
  const PhysicalPage end = begin + p.pool.block(block).written;
  for (PhysicalPage page = begin; page < end && p.pool.block(block).valid > 0; ++page) {
    const std::uint32_t id = reverse_[page];
    if (id == kNoPage) {
      continue;
    }
    if (p.open[frontier] == kNoBlock) {
      check(open_block(plane, frontier, 0), "a collection without a place to move pages to");
    }
    const std::int32_t source = emit(out, {FlashCommand::read, cause, kNoOperation, page, id});
    // The old place is the page at hand: no need to look for it as bind() does.
    reverse_.set(page, kNoPage);
    --p.pool.block(block).valid;
    --p.valid;
    const PhysicalPage target = append(plane, frontier, id);
    map_.set(map_index(id), target);
    mapping_moved(id);
    emit(out, {FlashCommand::program, cause, source, target, id});
  }
  p.written -= p.pool.block(block).written;
  const bool moved = out != nullptr && static_cast<std::int32_t>(out->size()) > first;
  emit(out, {FlashCommand::erase, cause, moved ? first : kNoOperation, begin, kNoPage});
  ++counters_.erases;
  counters_.grown_bad_blocks += p.pool.erase(block) ? 0 : 1;
}

void PageFtl::level_wear(int plane, std::uint32_t erases, FlashOperations* out) {
  const Plane& p = planes_[plane];
  int coldest = kNoBlock;
  for (int i = 0; i < p.pool.blocks(); ++i) {
    const EraseBlock& block = p.pool.block(i);
    if (block.state == BlockState::closed &&
        (coldest == kNoBlock || block.erases < p.pool.block(coldest).erases)) {
      coldest = i;
    }
  }
  // It opens at most one block and frees one, which may go bad: the reserve stays.
  if (coldest == kNoBlock || p.pool.free_blocks() <= kCollectionReserve ||
      erases < p.pool.block(coldest).erases +
                   static_cast<std::uint32_t>(config_.wear_levelling.static_threshold)) {
    return;
  }
  ++counters_.levellings;
  counters_.levelled_pages += p.pool.block(coldest).valid;
  relocate(plane, coldest, levelled_pages, out);
}

// -- The mapping table ------------------------------------------------------------------------

std::int32_t PageFtl::use_mapping(LogicalPage page, bool changes, FlashOperations* out) {
  if (!cache_) {
    return kNoOperation;
  }
  const auto translation = static_cast<std::uint32_t>(page / entries_);
  const MappingCache::Access access = cache_->access(translation, changes);
  ++(access.hit ? counters_.cache_hits : counters_.cache_misses);
  if (access.hit) {
    return kNoOperation;
  }
  if (access.evicted_dirty && !write_translation(access.evicted, out, kNoOperation)) {
    journal_->access(access.evicted, false);
  }
  if (journal_->contains(translation)) {
    journal_->remove(translation);
    cache_->mark_dirty(translation);
  }
  return read_translation(translation, out);
}

void PageFtl::mapping_moved(std::uint32_t id) {
  if (!cache_ || id >= logical_pages_) {
    return;
  }
  const auto translation = static_cast<std::uint32_t>(id / entries_);
  if (cache_->contains(translation)) {
    cache_->mark_dirty(translation);
  } else if (!journal_->contains(translation)) {
    journal_->access(translation, false);
    counters_.longest_journal = std::max(counters_.longest_journal, journal_->cached());
  }
}

std::int32_t PageFtl::read_translation(std::uint32_t page, FlashOperations* out) {
  const auto id = static_cast<std::uint32_t>(logical_pages_) + page;
  if (physical_of(id) == kNoPage) {
    return kNoOperation;
  }
  ++counters_.mapping_reads;
  return emit(out, {FlashCommand::read, FlashCause::mapping, kNoOperation, physical_of(id), id});
}

bool PageFtl::write_translation(std::uint32_t page, FlashOperations* out, std::int32_t after) {
  const auto id = static_cast<std::uint32_t>(logical_pages_) + page;
  int plane = home_plane(page);
  for (int tried = 0; tried < geometry_.planes(); ++tried) {
    if (make_room(plane, mapping_pages, out, after)) {
      const PhysicalPage target = append(plane, mapping_pages, id);
      bind(id, target);
      emit(out, {FlashCommand::program, FlashCause::mapping, after, target, id});
      ++counters_.mapping_programs;
      return true;
    }
    plane = plane + 1 == geometry_.planes() ? 0 : plane + 1;
  }
  return false;
}

void PageFtl::write_back_journal(FlashOperations* out) {
  if (!journal_ || journal_->cached() <= config_.mapping.journal_pages) {
    return;
  }
  const std::uint32_t oldest = journal_->oldest();
  const std::int32_t source = read_translation(oldest, out);
  // Collections on the way may change entries of this page again: they come after its program.
  journal_->remove(oldest);
  if (!write_translation(oldest, out, source) && !journal_->contains(oldest)) {
    journal_->access(oldest, false);
  }
}

// -- Figures ----------------------------------------------------------------------------------

double PageFtl::Counters::write_amplification() const {
  if (host_programs == 0) {
    return 1;
  }
  const std::int64_t all = host_programs + mapping_programs + collected_pages + levelled_pages;
  return static_cast<double>(all) / static_cast<double>(host_programs);
}

PageFtl::PageCounts PageFtl::pages() const {
  PageCounts counts;
  for (const Plane& plane : planes_) {
    const std::int64_t bad = std::int64_t{plane.pool.bad_blocks()} * geometry_.pages_per_block;
    counts.valid += plane.valid;
    counts.invalid += plane.written - plane.valid;
    counts.bad += bad;
    counts.free += geometry_.pages_per_plane() - plane.written - bad;
  }
  return counts;
}

BlockPool::Wear PageFtl::wear() const {
  BlockPool::Wear all = planes_.front().pool.wear();
  for (std::size_t i = 1; i < planes_.size(); ++i) {
    const BlockPool::Wear wear = planes_[i].pool.wear();
    all.lowest = std::min(all.lowest, wear.lowest);
    all.highest = std::max(all.highest, wear.highest);
    all.total += wear.total;
  }
  return all;
}

std::string PageFtl::exhaustion_of(int number) const {
  if (number < 0) {
    return "";
  }
  const Plane& plane = planes_[number];
  return fmt::format(
      "{}: plane {} has {} of {} blocks free, {} bad, and no invalid page to collect in a full "
      "block; {} of {} pages hold data",
      name_, number, plane.pool.free_blocks(), plane.pool.blocks(), plane.pool.bad_blocks(),
      plane.valid, geometry_.pages_per_plane());
}

void PageFtl::audit() const {
  for (int plane = 0; plane < geometry_.planes(); ++plane) {
    const Plane& p = planes_[plane];
    p.pool.audit();
    std::int64_t valid = 0;
    std::int64_t written = 0;
    for (int b = 0; b < p.pool.blocks(); ++b) {
      const EraseBlock& block = p.pool.block(b);
      std::uint32_t valid_here = 0;
      for (int page = 0; page < geometry_.pages_per_block; ++page) {
        const PhysicalPage at = geometry_.page_at(plane, b, page);
        const std::uint32_t id = reverse_[at];
        if (id != kNoPage) {
          check(physical_of(id) == at, "a valid physical page is not where its logical page is");
          check(page < static_cast<int>(block.written), "a valid page that was not programmed");
          ++valid_here;
        }
      }
      check(valid_here == block.valid, "valid pages of a block were miscounted");
      valid += block.valid;
      written += block.written;
    }
    check(valid == p.valid && written == p.written, "pages of a plane were miscounted");
  }
  std::int64_t mapped = 0;
  for (std::int64_t id = 0; id < logical_pages_ + translation_pages_; ++id) {
    const PhysicalPage at = physical_of(static_cast<LogicalPage>(id));
    if (at != kNoPage) {
      check(reverse_[at] == static_cast<std::uint32_t>(id), "two logical pages in one place");
      ++mapped;
    }
  }
  const PageCounts counts = pages();
  check(mapped == counts.valid, "a logical page is mapped to what is not valid");
  check(counts.free >= 0 &&
            counts.free + counts.valid + counts.invalid + counts.bad == geometry_.pages(),
        "free, valid, invalid and bad pages are not all pages");
}

PageFtl::Memory PageFtl::memory() const {
  Memory memory{map_.bytes_held(),
                static_cast<std::int64_t>(sizeof(*this)) + reverse_.bytes_held()};
  for (const Plane& plane : planes_) {
    memory.rest +=
        static_cast<std::int64_t>(sizeof(Plane) - sizeof(BlockPool)) + plane.pool.bytes_held();
  }
  if (cache_) {
    memory.rest += cache_->bytes_held() + journal_->bytes_held();
  }
  return memory;
}

void PageFtl::report(Metrics& metrics, const std::string& prefix) const {
  const auto add = [&](const char* name, std::int64_t value, const char* doc) {
    metrics.add(prefix + "/" + name, static_cast<double>(value), "1", doc);
  };
  metrics.add(prefix + "/write_amplification", counters_.write_amplification(), "1",
              "flash pages programmed a page that the host wrote");
  add("host_reads", counters_.host_reads, "flash pages read for the host");
  add("unwritten_reads", counters_.unwritten_reads, "reads of pages that were never written");
  add("host_programs", counters_.host_programs, "flash pages programmed for the host");
  add("partial_writes", counters_.partial_writes, "writes that read the rest of the page first");
  add("trims", counters_.trims, "pages with data that the host gave up");
  add("collections", counters_.collections, "blocks collected");
  add("collected_pages", counters_.collected_pages, "valid pages moved by garbage collection");
  add("levellings", counters_.levellings, "blocks moved by static wear levelling");
  add("levelled_pages", counters_.levelled_pages, "valid pages moved by static wear levelling");
  add("erases", counters_.erases, "blocks erased");
  const PageCounts counts = pages();
  add("free_pages", counts.free, "erased pages");
  add("valid_pages", counts.valid, "pages with current data");
  add("invalid_pages", counts.invalid, "pages with data that is out of date");
  add("bad_pages", counts.bad, "pages of bad blocks");
  add("grown_bad_blocks", counters_.grown_bad_blocks, "blocks that were retired");
  const BlockPool::Wear worn = wear();
  add("lowest_erase_count", worn.lowest, "erases of the least worn usable block");
  metrics.add(prefix + "/mean_erase_count",
              static_cast<double>(worn.total) / geometry_.planes() / geometry_.blocks_per_plane,
              "1", "erases of a block, with those before the run");
  add("highest_erase_count", worn.highest, "erases of the most worn usable block");
  if (cache_) {
    add("mapping_cache_hits", counters_.cache_hits, "mapping look-ups that needed no flash");
    add("mapping_cache_misses", counters_.cache_misses, "mapping look-ups that did");
    add("mapping_reads", counters_.mapping_reads, "translation pages read");
    add("mapping_programs", counters_.mapping_programs, "translation pages programmed");
    add("longest_journal", counters_.longest_journal,
        "translation pages with changes in DRAM that were not cached, at most");
  }
}

}  // namespace nearkv
