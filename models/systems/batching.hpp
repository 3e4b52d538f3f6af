// Which requests a system that works batch by batch takes next, and when. Config
// /workload/batching. Nothing here knows how long a batch takes.
//
// The machine is free at some time. It takes a batch as soon as enough requests wait, or when it
// has waited long enough for more; it waits for no more requests when none is left to come. What
// it takes of those that wait:
//     arrival   the first ones to arrive
//     length    those with the longest prompts, of equal ones the first to arrive
//     bucket    of the requests whose prompts are in one bucket (1 to w tokens, w + 1 to 2 w, ...)
//               the first to arrive; the bucket is that of the request that has waited longest
// The order does not look at the outputs: nobody knows their lengths before they are generated.
#pragma once

#include <deque>
#include <map>
#include <set>
#include <vector>

#include "models/systems/batch.hpp"
#include "models/systems/request.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

struct BatchingConfig {
  enum Order : std::size_t { arrival, length, bucket };
  std::size_t order = arrival;
  int bucket_tokens = 0;  // w
  int sequences = 0;      // at most, in a batch
  bool padded = false;    // every sequence as long as the batch's longest prompt and output
  SimDuration wait{};     // for a full batch, while requests are there

  void fields(FieldVisitor& v);
};

struct FormedBatch {
  std::vector<int> requests;  // indices, as they were taken
  SimTime start{};            // not before the machine is free, nor before an arrival of them
};

class BatchFormer {
 public:
  /// Requests in order of arrival, which must live as long as this; check()s the order.
  BatchFormer(const std::vector<Request>& requests, const BatchingConfig& config);

  [[nodiscard]] bool is_done() const { return next_ == requests_.size() && waiting_.empty(); }

  /// The batch that a machine takes which is free at `free`; check()s that one is left. Calls come
  /// with times that do not go back.
  [[nodiscard]] FormedBatch next(SimTime free);

 private:
  void admit(SimTime now);
  [[nodiscard]] bool is_full() const;
  [[nodiscard]] int queue_of(int request) const;
  [[nodiscard]] SimTime wait_for_more(SimTime now);

  const std::vector<Request>& requests_;
  BatchingConfig config_;
  std::size_t next_ = 0;                   // the first request that has not arrived
  std::set<int> waiting_;                  // in order of arrival
  std::map<int, std::deque<int>> queues_;  // the same ones, by what the order looks at
};

/// The sequences of a batch. `padded` makes them all alike.
[[nodiscard]] Batch batch_of(const std::vector<Request>& requests, const std::vector<int>& chosen,
                             bool padded);

}  // namespace nearkv
