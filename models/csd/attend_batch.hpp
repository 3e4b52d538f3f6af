// What the host asks of a CSD: attention over a layer's heads, and pages to program or to read.
#pragma once

#include <cstdint>
#include <memory>
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

/// Attend commands of one layer that live on this drive: one for each (sequence, KV head) pair, in
/// segments that follow one another. The heads of a segment are those of one KV task, all of one
/// length; a ragged batch has a segment for each length.
struct AttendBatch {
  struct Segment {
    int pairs = 0;
    std::vector<HeadReads> patterns;  // pair p reads patterns[p % patterns.size()]
  };
  std::vector<Segment> segments;

  /// After the last change. Equal hashes mean equal batches.
  void seal();
  [[nodiscard]] std::uint64_t hash() const { return hash_; }
  /// Of all segments.
  [[nodiscard]] int pairs() const { return ends_.empty() ? 0 : ends_.back(); }
  /// That are read for all of them.
  [[nodiscard]] std::int64_t pages() const { return pages_; }

  /// A pair of the batch as one of its segment.
  struct Place {
    int segment;
    int pair;
  };
  [[nodiscard]] Place place_of(int pair) const;
  [[nodiscard]] const HeadReads& reads_of(int pair) const;

 private:
  std::vector<int> ends_;  // by segment: pairs of it and of those before
  std::uint64_t hash_ = 0;
  std::int64_t pages_ = 0;
};

/// A batch and the tasks whose heads it attends over, one for each segment.
struct AttendWork {
  std::shared_ptr<const AttendBatch> batch;
  std::vector<KvLayer> layers;

  struct Place {
    KvLayer layer;
    int pair;  // of the task
  };
  [[nodiscard]] Place place_of(int pair) const {
    const AttendBatch::Place place = batch->place_of(pair);
    return {layers[static_cast<std::size_t>(place.segment)], place.pair};
  }
};

/// Pages [first, last) of each stream of `pairs` pairs from first_pair on.
struct PageBatch {
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

/// Pages that are read as they are, so many pairs with one command.
struct ReadBatch {
  PageBatch pages;
  int pairs_a_command = 1;

  [[nodiscard]] int commands() const {
    return static_cast<int>(ceil_div(pages.pairs, pairs_a_command));
  }
  [[nodiscard]] std::uint64_t hash() const;
};

}  // namespace nearkv
