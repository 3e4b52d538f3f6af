#include "models/csd/attend_batch.hpp"

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

std::uint64_t StoreBatch::hash() const {
  std::uint64_t key =
      mix_hash(static_cast<std::uint64_t>(first_pair), static_cast<std::uint64_t>(pairs));
  for (const Span& span : spans) {
    check(0 <= span.first && span.first <= span.last,
          "a store of pages that end before they begin");
    key = mix_hash(key, static_cast<std::uint64_t>(span.stream));
    key = mix_hash(mix_hash(key, static_cast<std::uint64_t>(span.first)),
                   static_cast<std::uint64_t>(span.last));
  }
  return key;
}

}  // namespace nearkv
