// What the host asks of a CSD: attention over a layer's heads, and pages to program.
#pragma once

#include <cstdint>
#include <vector>

#include "models/kv/head_reads.hpp"
#include "models/kv/kv_layout.hpp"

namespace nearkv {

/// A layer of a KV task that is open on the drive (KvFtl::TaskId). Without a task, pages lie where
/// KvPlacement puts them.
struct KvLayer {
  static constexpr int kNoTask = -1;
  int task = kNoTask;
  int layer = 0;
};

/// One attend command for each (sequence, KV head) pair of a layer that lives on this drive. Pair p
/// reads the pages patterns[p % patterns.size()].
struct AttendBatch {
  int pairs = 0;
  std::vector<HeadReads> patterns;
  std::uint64_t hash = 0;  // of all above; equal hashes mean equal batches

  void seal();
};

/// Pages [first, last) of each stream, programmed for `pairs` pairs from first_pair on.
struct StoreBatch {
  struct Span {
    KvStream stream;
    int first;
    int last;
  };
  int first_pair = 0;
  int pairs = 0;
  std::vector<Span> spans;

  [[nodiscard]] std::int64_t pages() const;
  /// check()s that no span ends before it begins. Equal hashes mean equal batches.
  [[nodiscard]] std::uint64_t hash() const;
};

}  // namespace nearkv
