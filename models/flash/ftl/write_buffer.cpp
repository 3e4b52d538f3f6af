#include "models/flash/ftl/write_buffer.hpp"

#include <bit>

#include "sim/core/check.hpp"
#include "sim/core/hash.hpp"

namespace nearkv {

void WriteBufferConfig::fields(FieldVisitor& v) {
  v.parameter(
      "capacity", capacity,
      "drive DRAM for data that are not yet programmed; less than a page: writes end when they "
      "are programmed",
      range_of(0_B, Bytes{std::int64_t{1} << 40}));
  v.one_of("flush_order", flush_order, {"fifo", "lru"},
           "which page is flushed first: the first that came, or that written least recently");
  v.parameter("flush_above", flush_above,
              "share of the buffer that may wait before pages are flushed in the background",
              {0, 1});
}

WriteBuffer::WriteBuffer(const WriteBufferConfig& config, Bytes page_size)
    : slots_(static_cast<std::size_t>(config.capacity / page_size)),
      index_(std::bit_ceil(slots_.size() * 2), kNoPage),
      order_(config.flush_order),
      flush_above_(static_cast<int>(config.flush_above * static_cast<double>(slots_.size()))) {
  check(!slots_.empty() && slots_.size() < kNoPage, "a write buffer without slots");
  for (auto slot = static_cast<std::uint32_t>(slots_.size()); slot-- > 0;) {
    make_unused(slot);
  }
}

std::size_t WriteBuffer::home_of(LogicalPage page) const {
  return mix_hash(0, page) & (index_.size() - 1);
}

std::size_t WriteBuffer::find(LogicalPage page) const {
  std::size_t at = home_of(page);
  while (index_[at] != kNoPage && slots_[index_[at]].page != page) {
    at = (at + 1) & (index_.size() - 1);
  }
  return at;
}

// Linear probing without tombstones: what follows the gap moves up when it may.
void WriteBuffer::remove_from_index(LogicalPage page) {
  const std::size_t mask = index_.size() - 1;
  std::size_t gap = find(page);
  index_[gap] = kNoPage;
  for (std::size_t at = (gap + 1) & mask; index_[at] != kNoPage; at = (at + 1) & mask) {
    const std::size_t home = home_of(slots_[index_[at]].page);
    if (((at - home) & mask) >= ((at - gap) & mask)) {
      index_[gap] = index_[at];
      index_[at] = kNoPage;
      gap = at;
    }
  }
}

void WriteBuffer::append_to_waiting(std::uint32_t slot) {
  slots_[slot].previous = newest_;
  slots_[slot].next = kNoPage;
  (newest_ == kNoPage ? oldest_ : slots_[newest_].next) = slot;
  newest_ = slot;
}

void WriteBuffer::unlink(std::uint32_t slot) {
  const Slot& s = slots_[slot];
  (s.previous == kNoPage ? oldest_ : slots_[s.previous].next) = s.next;
  (s.next == kNoPage ? newest_ : slots_[s.next].previous) = s.previous;
}

void WriteBuffer::make_unused(std::uint32_t slot) {
  slots_[slot] = Slot{};
  slots_[slot].next = unused_;
  unused_ = slot;
}

WriteBuffer::Put WriteBuffer::put(LogicalPage page, std::uint64_t sectors) {
  check(sectors != 0, "a write of no sector");
  const std::size_t at = find(page);
  const std::uint32_t old = index_[at];
  if (old != kNoPage && slots_[old].state == SlotState::waiting) {
    slots_[old].sectors |= sectors;
    if (order_ == FlushOrder::lru && newest_ != old) {
      unlink(old);
      append_to_waiting(old);
    }
    ++counters_.merged;
    return Put::merged;
  }
  if (unused_ == kNoPage) {
    return Put::full;
  }
  const std::uint32_t slot = unused_;
  unused_ = slots_[slot].next;
  slots_[slot].page = page;
  slots_[slot].state = SlotState::waiting;
  slots_[slot].sectors = sectors | (old == kNoPage ? 0 : slots_[old].sectors);
  index_[at] = slot;
  append_to_waiting(slot);
  ++waiting_;
  ++counters_.stored;
  return Put::stored;
}

bool WriteBuffer::read(LogicalPage page, std::uint64_t sectors) {
  const std::uint32_t slot = index_[find(page)];
  const bool hit = slot != kNoPage && (sectors & ~slots_[slot].sectors) == 0;
  ++(hit ? counters_.read_hits : counters_.read_misses);
  return hit;
}

void WriteBuffer::discard(LogicalPage page) {
  const std::uint32_t slot = index_[find(page)];
  if (slot == kNoPage) {
    return;
  }
  remove_from_index(page);
  if (slots_[slot].state == SlotState::waiting) {
    unlink(slot);
    make_unused(slot);
    --waiting_;
  }
}

std::optional<WriteBuffer::Flush> WriteBuffer::begin_flush() {
  if (oldest_ == kNoPage) {
    return std::nullopt;
  }
  const std::uint32_t slot = oldest_;
  unlink(slot);
  slots_[slot].state = SlotState::in_flight;
  --waiting_;
  ++in_flight_;
  return Flush{static_cast<int>(slot), slots_[slot].page, slots_[slot].sectors};
}

void WriteBuffer::end_flush(int slot) {
  const auto s = static_cast<std::uint32_t>(slot);
  check(slots_[s].state == SlotState::in_flight, "a flush ends that did not begin");
  if (index_[find(slots_[s].page)] == s) {  // no younger write of the page, no discard
    remove_from_index(slots_[s].page);
  }
  make_unused(s);
  --in_flight_;
}

}  // namespace nearkv
