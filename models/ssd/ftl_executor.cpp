#include "models/ssd/ftl_executor.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr int kKindShift = 61;                      // unit: bits, three of them for the kind
constexpr int kRequestShift = 32;                   // unit: bits
constexpr std::uint32_t kRequests = 1U << 29;       // unit: requests that a tag can name
constexpr std::uint32_t kSectorBytes = 512;         // unit: bytes
constexpr std::uint32_t kSectorsOfMask = 64;        // unit: bits of a sector mask
constexpr std::uint32_t kNone = ~std::uint32_t{0};  // unit: no index

std::uint64_t sector_mask(FtlExecutor::Part part) {
  const std::uint32_t first = part.first / kSectorBytes;
  const std::uint32_t count = (part.first + part.size - 1) / kSectorBytes - first + 1;
  const std::uint64_t ones =
      count >= kSectorsOfMask ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
  return ones << first;
}

}  // namespace

FtlExecutor::FtlExecutor(const DriveConfig& drive, std::uint64_t seed, const std::string& name)
    : config_(drive),
      ftl_(drive.ftl, drive.geometry(), drive.flash.page_size, seed, name + "/ftl"),
      flash_(drive.flash, Rng(seed, name + "/flash")),
      pages_per_block_(static_cast<std::uint32_t>(drive.flash.pages_per_block)),
      blocks_per_plane_(static_cast<std::uint32_t>(drive.flash.blocks_per_plane)),
      page_size_(static_cast<std::uint32_t>(drive.flash.page_size.count())),
      spare_size_(static_cast<std::uint32_t>(drive.flash.spare_size.count())),
      is_ideal_(drive.ftl.mapping.ideal),
      zeroes_(drive.ftl.unwritten_reads == UnwrittenReads::zeroes),
      by_order_(drive.ftl.allocation == AllocationMode::by_write_order),
      faults_(drive.ftl.collection.mqsim_faults),
      holds_(drive.flash.policy == FlashPolicy::data_out_first),
      reads_(static_cast<std::size_t>(drive.flash.planes()) * blocks_per_plane_),
      stalled_(static_cast<std::size_t>(drive.flash.planes())),
      under_way_(ftl_.geometry().pages()),
      locked_(ftl_.logical_pages()) {
  for (int plane = 0; plane < drive.flash.planes(); ++plane) {
    const FlashAddress at = ftl_.geometry().address_of(ftl_.geometry().page_at(plane, 0, 0));
    planes_.push_back({static_cast<std::uint16_t>(at.channel), static_cast<std::uint16_t>(at.way),
                       static_cast<std::uint16_t>(at.die), static_cast<std::uint16_t>(at.plane)});
  }
  if (faults_) {
    flash_.order_ties_by_age();
    check(page_size_ / kSectorBytes <= kSectorsOfMask, "a page of more than 64 sectors");
    sectors_.resize(static_cast<std::size_t>(ftl_.logical_pages()));
  }
}

void FtlExecutor::begin() { ftl_.begin_steps(); }

// -- Commands -----------------------------------------------------------------------------------

FtlExecutor::Position FtlExecutor::position_of(PhysicalPage page) const {
  const std::uint32_t block = page / pages_per_block_;
  return {block, block / blocks_per_plane_, page - block * pages_per_block_};
}

PageCommand FtlExecutor::command(PageOp op, const Position& at, std::uint32_t bytes) const {
  const Address& address = planes_[at.plane];
  PageCommand command;
  command.op = op;
  command.channel = address.channel;
  command.chip = address.chip;
  command.die = address.die;
  command.plane = address.plane;
  command.page = at.index;
  command.bytes = bytes;
  return command;
}

/// Whole codewords, with their spare area.
std::uint32_t FtlExecutor::transfer_of_part(Part part) const {
  return static_cast<std::uint32_t>(
      config_.read_transfer(Bytes{part.first}, Bytes{part.size}).count());
}

std::uint64_t FtlExecutor::tag(Kind kind, std::uint32_t request, std::uint32_t low) {
  return static_cast<std::uint64_t>(kind) << kKindShift | std::uint64_t{request} << kRequestShift |
         low;
}

void FtlExecutor::start(SimTime now) {
  for (const PageCommand& command : batch_) {
    flash_.add(command);
  }
  batch_.clear();
  flash_.start(now);
}

void FtlExecutor::process(SimTime until, PageOwner& owner) {
  owner_ = &owner;
  flash_.process(until, *this);
}

// -- The host's pages -----------------------------------------------------------------------------

FtlExecutor::Outcome FtlExecutor::read(std::uint32_t request, LogicalPage page, Part part,
                                       SimTime now) {
  check(request < kRequests, "a request whose number does not fit in a tag");
  const Access access{request, page, part, false};
  if (is_locked(page)) {
    ++counters_.lost;
    return Outcome::lost;
  }
  return is_ideal_ || !look_up(access, now) ? read_now(access, now) : Outcome::pending;
}

FtlExecutor::Outcome FtlExecutor::read_now(const Access& access, SimTime now) {
  PhysicalPage page = ftl_.physical_of(access.page);
  if (page == kNoPage) [[unlikely]] {
    page = zeroes_ ? kNoPage : ftl_.place(access.page, ftl_.plane_for(access.page), true);
    ftl_.count_read(page != kNoPage);
    if (page == kNoPage) {
      return Outcome::done;
    }
    if (faults_) {
      ++ftl_.block_at(page).programs;  // and nobody takes it back
      sectors_[access.page] = sector_mask(access.part);
    }
    follow_opened(now);
  } else {
    ftl_.count_read(true);
    if (programs_ > 0 && !faults_ && under_way_.contains(page)) {
      ++counters_.buffered_reads;
      return Outcome::done;
    }
  }
  const Position at = position_of(page);
  ++reads_[at.block];
  PageCommand read = command(PageOp::read, at, transfer_of(access.part));
  read.tag = tag(Kind::read, access.request, page);
  batch_.push_back(read);
  return Outcome::pending;
}

FtlExecutor::Outcome FtlExecutor::write(std::uint32_t request, LogicalPage page, Part part,
                                        SimTime now) {
  check(request < kRequests, "a request whose number does not fit in a tag");
  const Access access{request, page, part, true};
  if (is_locked(page)) {
    ++counters_.lost;
    return Outcome::lost;
  }
  if (is_ideal_ || !look_up(access, now)) {
    write_now(access, now);
  }
  return Outcome::pending;
}

void FtlExecutor::trim(LogicalPage page, SimTime now) {
  if (is_ideal_) {
    ftl_.trim(page, nullptr);
    return;
  }
  const Index index = lookups_.take();
  Lookup& lookup = lookups_.items[index];
  lookup.operations.clear();
  ftl_.trim(page, &lookup.operations);
  lookup.gate = kNoOperation;  // nobody waits for it
  begin_lookup(index, now);
}

/// A plane for the next version of a page; with dynamic allocation one with room, if there is any.
int FtlExecutor::free_plane(LogicalPage page) {
  const int first = ftl_.plane_for(page);
  const int planes = static_cast<int>(planes_.size());
  int plane = first;
  for (int tried = 0; by_order_ && tried < planes; ++tried) {
    if (ftl_.can_place(plane)) {
      return plane;
    }
    plane = plane + 1 == planes ? 0 : plane + 1;
  }
  return first;
}

void FtlExecutor::write_now(const Access& access, SimTime now) {
  const int plane = free_plane(access.page);
  if (ftl_.can_place(plane) && stalled_[plane].empty()) {
    place(access, plane, now);
  } else {
    stall(access, plane, now);
  }
}

/// Bytes of the old version that are still needed.
std::uint32_t FtlExecutor::bytes_to_keep(const Access& access, PhysicalPage old) {
  if (!faults_) {
    return old == kNoPage ? 0 : page_size_ - access.part.size;
  }
  std::uint64_t& written = sectors_[access.page];
  const std::uint64_t asked = sector_mask(access.part);
  const std::uint64_t kept = old == kNoPage ? 0 : written & ~asked;
  written |= asked;
  return static_cast<std::uint32_t>(std::popcount(kept)) * kSectorBytes;
}

void FtlExecutor::place(const Access& access, int plane, SimTime now) {
  const PhysicalPage old = ftl_.physical_of(access.page);
  const std::uint32_t keep = bytes_to_keep(access, old);
  if (keep > 0) {  // before a collection could choose this block
    ++reads_[position_of(old).block];
  }
  const PhysicalPage page = ftl_.place(access.page, plane, false);
  ++ftl_.block_at(page).programs;
  if (!faults_) {
    under_way_.insert(page);
  }
  ++programs_;
  follow_opened(now);
  // A page is programmed as a whole, whatever the host has written of it.
  const std::uint32_t bytes = faults_ ? access.part.size : page_size_ + spare_size_;
  PageCommand program = command(PageOp::program, position_of(page), bytes);
  program.tag = tag(Kind::program, access.request, page);
  if (keep > 0) {
    add_partial(program, old, keep);
  } else {
    batch_.push_back(program);
  }
}

/// The rest of the page is read first.
void FtlExecutor::add_partial(PageCommand program, PhysicalPage old, std::uint32_t keep) {
  ftl_.count_partial_write();
  const Index step = steps_.take();
  steps_.items[step] = {kNone, old, kNoPage, kNone, program};
  if (holds_) {
    for (const PageCommand& command : batch_) {
      flash_.add(command);
    }
    batch_.clear();
    program.is_held = true;
    steps_.items[step].program = flash_.add(program);
  }
  PageCommand read = command(PageOp::read, position_of(old), transfer_of({0, keep}));
  read.cause = PageCause::merge;
  read.tag = tag(Kind::rest, 0, step);
  batch_.push_back(read);
}

void FtlExecutor::rest_read(Index index, SimTime at) {
  const Step step = steps_.items[index];
  steps_.unused.push_back(index);
  if (step.program != kNone) {
    flash_.release(step.program);
  } else {
    flash_.add(step.later);
  }
  const std::uint32_t block = position_of(step.page).block;
  --reads_[block];
  block_left(block, at);
  flash_.start(at);
}

void FtlExecutor::stall(const Access& access, int plane, SimTime now) {
  ++counters_.stalled_writes;
  stalled_[plane].push_back(access);
  if (!faults_) {
    collect(plane, now);
  }
  if (ftl_.collecting(plane) == 0) {
    set_full(plane, now);
  }
}

void FtlExecutor::resume(int plane, SimTime now) {
  std::deque<Access>& stalled = stalled_[plane];
  while (!stalled.empty() && ftl_.can_place(plane)) {
    const Access access = faults_ ? stalled.back() : stalled.front();
    if (faults_) {
      stalled.pop_back();
    } else {
      stalled.pop_front();
    }
    place(access, plane, now);
  }
  start(now);
}

void FtlExecutor::set_full(int plane, SimTime now) {
  if (full_at_ == kNever) {
    full_at_ = now;
    full_plane_ = plane;
  }
}

// -- Collections ----------------------------------------------------------------------------------

void FtlExecutor::follow_opened(SimTime now) {
  std::vector<std::uint32_t>& opened = ftl_.opened_planes();
  while (!opened.empty()) {
    const auto plane = static_cast<int>(opened.back());
    opened.pop_back();
    collect(plane, now);
  }
}

bool FtlExecutor::collect(int plane, SimTime now) {
  const int block = ftl_.begin_collection(plane);
  if (block != PageFtl::kNoBlock) {
    begin(plane, block, false, now);
  }
  return block != PageFtl::kNoBlock;
}

void FtlExecutor::begin(int plane, int block, bool is_levelling, SimTime now) {
  const Index index = collections_.take();
  const std::uint32_t number =
      static_cast<std::uint32_t>(plane) * blocks_per_plane_ + static_cast<std::uint32_t>(block);
  collections_.items[index] = {.plane = static_cast<std::uint32_t>(plane),
                               .block = number,
                               .left = 0,
                               .is_levelling = is_levelling,
                               .is_waiting = false,
                               .has_begun = false,
                               .erases = true,
                               .erase = kNone};
  if (faults_) {
    const PhysicalPage first = number * pages_per_block_;
    for (PhysicalPage page = first; page < first + pages_per_block_; ++page) {
      if (const std::uint32_t id = ftl_.held_by(page); id != kNoPage) {
        locked_.insert(id);
        ++locked_pages_;
      }
    }
    if (reads_[number] + ftl_.blocks_of(plane).block(block).programs > 0) {
      collections_.items[index].is_waiting = true;
      collections_.items[index].erases = false;
      waiting_.push_back(index);
      return;
    }
  }
  launch(index, now);
}

void FtlExecutor::launch(Index index, SimTime now) {
  Collection& collection = collections_.items[index];
  collection.has_begun = true;
  const PhysicalPage first = collection.block * pages_per_block_;
  for (PhysicalPage page = first; page < first + pages_per_block_; ++page) {
    const std::uint32_t id = ftl_.held_by(page);
    if (id == kNoPage) {
      continue;
    }
    const Index step = steps_.take();
    steps_.items[step] = {index, page, id, kNone, {}};
    PageCommand read = command(PageOp::read, position_of(page), page_size_ + spare_size_);
    read.cause = PageCause::collection;
    read.tag = tag(Kind::move_in, 0, step);
    flash_.add(read);
    ++collection.left;
  }
  if (collection.left == 0) {
    try_erase(index, now);
  } else if (collection.erases && faults_ && holds_) {
    add_erase(index, true);
  }
  flash_.start(now);
}

void FtlExecutor::add_erase(Index index, bool is_held) {
  const std::uint32_t block = collections_.items[index].block;
  // All erases carry one page index, so that those of two planes can run together.
  PageCommand erase = command(PageOp::erase, {block, block / blocks_per_plane_, 0}, 0);
  erase.cause = PageCause::collection;
  erase.is_held = is_held;
  erase.tag = tag(Kind::erase, 0, index);
  const FlashEngine::Handle handle = flash_.add(erase);
  collections_.items[index].erase = is_held ? handle : kNone;
}

/// Once the moves are done: erases as soon as no host read is in the block.
void FtlExecutor::try_erase(Index index, SimTime now) {
  Collection& collection = collections_.items[index];
  if (!collection.erases) {
    collections_.unused.push_back(index);
    return;
  }
  if (collection.erase != kNone) {
    flash_.release(collection.erase);
  } else if (faults_ || reads_[collection.block] == 0) {
    add_erase(index, false);
  } else {
    collection.is_waiting = true;
    waiting_.push_back(index);
    return;
  }
  flash_.start(now);
}

/// A host access of this block is done.
void FtlExecutor::block_left(std::uint32_t block, SimTime now) {
  if (waiting_.empty() || reads_[block] > 0) {
    return;
  }
  for (std::size_t i = 0; i < waiting_.size(); ++i) {
    const Index index = waiting_[i];
    Collection& collection = collections_.items[index];
    if (collection.block != block) {
      continue;
    }
    const auto plane = static_cast<int>(collection.plane);
    const auto in_plane = static_cast<int>(block - collection.plane * blocks_per_plane_);
    if (faults_ && ftl_.blocks_of(plane).block(in_plane).programs > 0) {
      return;
    }
    collection.is_waiting = false;
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    if (collection.has_begun) {
      try_erase(index, now);
    } else {
      launch(index, now);
    }
    return;
  }
}

void FtlExecutor::moved_in(Index index, SimTime at) {
  Step& step = steps_.items[index];
  const PageFtl::Move move = ftl_.move(step.page);
  if (move.to == kNoPage) {
    const Index collection = step.collection;
    steps_.unused.push_back(index);
    if (move.id != kNoPage) {
      set_full(static_cast<int>(collections_.items[collection].plane), at);
      return;
    }
    ++counters_.stale_moves;
    if (--collections_.items[collection].left == 0) {
      try_erase(collection, at);
    }
    return;
  }
  step.page = move.to;
  if (!faults_) {
    under_way_.insert(move.to);
  }
  ++programs_;
  follow_opened(at);
  PageCommand program = command(PageOp::program, position_of(move.to), page_size_ + spare_size_);
  program.cause = PageCause::collection;
  program.tag = tag(Kind::move_out, 0, index);
  flash_.add(program);
  flash_.start(at);
}

void FtlExecutor::moved_out(Index index, SimTime at) {
  const Step step = steps_.items[index];
  steps_.unused.push_back(index);
  --programs_;
  under_way_.erase(step.page);
  if (faults_) {
    locked_.erase(step.id);
    --locked_pages_;
  }
  if (--collections_.items[step.collection].left == 0) {
    try_erase(step.collection, at);
  }
}

void FtlExecutor::erased(Index index, SimTime at) {
  const auto plane = static_cast<int>(collections_.items[index].plane);
  const auto block = static_cast<int>(collections_.items[index].block % blocks_per_plane_);
  collections_.unused.push_back(index);
  ftl_.end_collection(plane, block);
  if (const int coldest = ftl_.begin_levelling(plane); coldest != PageFtl::kNoBlock) {
    begin(plane, coldest, true, at);
  }
  resume(plane, at);
  if (ftl_.pressure(plane) == PageFtl::Pressure::hard) {
    collect(plane, at);
  }
  if (!stalled_[plane].empty() && ftl_.collecting(plane) == 0) {
    set_full(plane, at);
  }
}

// -- The mapping table ----------------------------------------------------------------------------

/// Whether the access has to wait for the mapping table: then it follows.
bool FtlExecutor::look_up(const Access& access, SimTime now) {
  const Index index = lookups_.take();
  Lookup& lookup = lookups_.items[index];
  lookup.operations.clear();
  ftl_.look_up(access.page, access.is_write, &lookup.operations);
  lookup.access = access;
  lookup.gate = kNoOperation;
  for (std::size_t i = 0; i < lookup.operations.size(); ++i) {
    check(lookup.operations[i].cause == FlashCause::mapping, "a look-up that moves data");
    if (lookup.operations[i].command == FlashCommand::read) {
      lookup.gate = static_cast<std::int32_t>(i);
    }
  }
  const bool waits = lookup.gate != kNoOperation;
  begin_lookup(index, now);
  return waits;
}

void FtlExecutor::begin_lookup(Index index, SimTime now) {
  Lookup& lookup = lookups_.items[index];
  lookup.left = static_cast<std::uint32_t>(lookup.operations.size());
  if (lookup.left == 0) {
    lookups_.unused.push_back(index);
  } else {
    run_lookup(index, kNoOperation);
  }
  follow_opened(now);
}

/// The operations that waited for `after` go to the flash.
void FtlExecutor::run_lookup(Index index, std::int32_t after) {
  const Lookup& lookup = lookups_.items[index];
  for (std::size_t i = 0; i < lookup.operations.size(); ++i) {
    const FlashOperation& operation = lookup.operations[i];
    if (operation.after != after) {
      continue;
    }
    const bool is_read = operation.command == FlashCommand::read;
    PageCommand page = command(is_read ? PageOp::read : PageOp::program,
                               position_of(operation.page), page_size_ + spare_size_);
    page.cause = PageCause::mapping;
    page.tag = tag(Kind::mapping, static_cast<std::uint32_t>(i), index);
    batch_.push_back(page);
  }
}

void FtlExecutor::mapping_done(std::uint32_t index, std::int32_t operation, SimTime at) {
  run_lookup(index, operation);
  Lookup& lookup = lookups_.items[index];
  const bool is_gate = operation == lookup.gate;
  const Access access = lookup.access;
  if (--lookup.left == 0) {
    lookups_.unused.push_back(index);
  }
  if (is_gate) {
    if (access.is_write) {
      write_now(access, at);
    } else if (read_now(access, at) == Outcome::done) {
      owner_->host_page_done(access.request, at);
    }
  }
  start(at);
}

// -- Completions ----------------------------------------------------------------------------------

void FtlExecutor::page_done(std::uint64_t tag, SimTime at) {
  const auto low = static_cast<std::uint32_t>(tag);
  const auto request = static_cast<std::uint32_t>(tag >> kRequestShift) & (kRequests - 1);
  switch (static_cast<Kind>(tag >> kKindShift)) {
    case Kind::read: {
      const std::uint32_t block = low / pages_per_block_;
      --reads_[block];
      block_left(block, at);
      owner_->host_page_done(request, at);
      return;
    }
    case Kind::program:
      --programs_;
      under_way_.erase(low);
      --ftl_.block_at(low).programs;
      block_left(low / pages_per_block_, at);
      owner_->host_page_done(request, at);
      return;
    case Kind::rest:
      rest_read(low, at);
      return;
    case Kind::move_in:
      moved_in(low, at);
      return;
    case Kind::move_out:
      moved_out(low, at);
      return;
    case Kind::erase:
      erased(low, at);
      return;
    case Kind::mapping:
      mapping_done(low, static_cast<std::int32_t>(request), at);
      return;
  }
}

// -- Figures --------------------------------------------------------------------------------------

std::string FtlExecutor::full_reason() const {
  if (full_plane_ < 0) {
    return "";
  }
  return ftl_.exhaustion_of(full_plane_);
}

void FtlExecutor::report(Metrics& metrics, const std::string& prefix) const {
  ftl_.report(metrics, prefix + "/ftl");
  const auto add = [&](const char* name, std::int64_t value, const char* doc) {
    metrics.add(prefix + "/ftl/" + name, static_cast<double>(value), "1", doc);
  };
  add("stalled_writes", counters_.stalled_writes, "pages whose write waited for a free block");
  add("buffered_reads", counters_.buffered_reads,
      "pages read from DRAM while their program was under way");
  add("stale_moves", counters_.stale_moves,
      "pages read by garbage collection that the host overwrote before they moved");
}

}  // namespace nearkv
