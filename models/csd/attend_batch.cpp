#include "models/csd/attend_batch.hpp"

#include <algorithm>

#include "sim/core/check.hpp"
#include "sim/core/hash.hpp"

namespace nearkv {

void AttendBatch::seal() {
  hash_ = 0;
  pages_ = 0;
  ends_.clear();
  for (const Segment& segment : segments) {
    check(segment.pairs > 0 && !segment.patterns.empty(), "an attend batch without heads");
    ends_.push_back(pairs() + segment.pairs);
    hash_ = mix_hash(hash_, static_cast<std::uint64_t>(segment.pairs));
    const auto patterns = static_cast<std::int64_t>(segment.patterns.size());
    std::int64_t place = 0;
    for (const HeadReads& reads : segment.patterns) {
      hash_ = mix_hash(hash_, reads.hash());
      const std::size_t pages =
          reads.channel_pages.size() + reads.key_pages.size() + reads.value_pages.size();
      const std::int64_t pairs = (segment.pairs - place + patterns - 1) / patterns;
      pages_ += static_cast<std::int64_t>(pages) * std::max<std::int64_t>(pairs, 0);
      ++place;
    }
  }
}

AttendBatch::Place AttendBatch::place_of(int pair) const {
  if (segments.size() == 1) {
    return {0, pair};
  }
  const auto end = std::upper_bound(ends_.begin(), ends_.end(), pair);
  const auto segment = static_cast<std::size_t>(end - ends_.begin());
  return {static_cast<int>(segment), segment == 0 ? pair : pair - ends_[segment - 1]};
}

const HeadReads& AttendBatch::reads_of(int pair) const {
  const Place place = place_of(pair);
  const Segment& segment = segments[static_cast<std::size_t>(place.segment)];
  return segment.patterns[static_cast<std::size_t>(place.pair) % segment.patterns.size()];
}

std::int64_t PageBatch::pages() const {
  std::int64_t count = 0;
  for (const Span& span : spans) {
    count += std::int64_t{pairs} * (span.last - span.first);
  }
  return count;
}

std::uint64_t PageBatch::hash() const {
  std::uint64_t key =
      mix_hash(static_cast<std::uint64_t>(first_pair), static_cast<std::uint64_t>(pairs));
  for (const Span& span : spans) {
    check(0 <= span.first && span.first <= span.last, "pages that end before they begin");
    key = mix_hash(key, static_cast<std::uint64_t>(span.stream));
    key = mix_hash(mix_hash(key, static_cast<std::uint64_t>(span.first)),
                   static_cast<std::uint64_t>(span.last));
  }
  return key;
}

std::uint64_t ReadBatch::hash() const {
  return mix_hash(pages.hash(), static_cast<std::uint64_t>(pairs_a_command));
}

}  // namespace nearkv
