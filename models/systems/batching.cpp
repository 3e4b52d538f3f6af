#include "models/systems/batching.hpp"

#include <algorithm>

#include "sim/core/check.hpp"

namespace nearkv {

void BatchingConfig::fields(FieldVisitor& v) {
  v.variant({"order",
             "which of the waiting requests come first: by arrival, longest prompt first, "
             "or prompts of one bucket together"},
            {"arrival", "length", "bucket"}, order,
            [this](std::size_t chosen, FieldVisitor& inner) {
              if (chosen == bucket) {
                inner.parameter("bucket_tokens", bucket_tokens,
                                "width of a bucket of prompt lengths, in tokens", {1, 1 << 20});
              }
            });
  v.parameter("sequences", sequences, "sequences in a batch, at most", {1, 65'536});
  v.parameter("padded", padded,
              "whether every sequence is computed with the batch's longest prompt and output; only "
              "its own tokens count");
  v.parameter("wait", wait,
              "how long a free machine with requests waits for a full batch; 0s: not at all",
              range_of(SimDuration{}, std::chrono::hours(24)));
}

BatchFormer::BatchFormer(const std::vector<Request>& requests, const BatchingConfig& config)
    : requests_(requests), config_(config) {
  check(std::ranges::is_sorted(requests, {}, &Request::arrival),
        "requests that are not in order of arrival");
  check(config.sequences > 0, "batches without sequences");
}

int BatchFormer::queue_of(int request) const {
  const int prompt = requests_[static_cast<std::size_t>(request)].prompt_tokens;
  switch (config_.order) {
    case BatchingConfig::length:
      return -prompt;  // the longest come first
    case BatchingConfig::bucket:
      return static_cast<int>(ceil_div(prompt, config_.bucket_tokens));
    default:
      return 0;
  }
}

void BatchFormer::admit(SimTime now) {
  for (; next_ < requests_.size() && requests_[next_].arrival <= now; ++next_) {
    const int request = static_cast<int>(next_);
    waiting_.insert(waiting_.end(), request);
    queues_[queue_of(request)].push_back(request);
  }
}

bool BatchFormer::is_full() const {
  const std::size_t there = config_.order == BatchingConfig::bucket
                                ? queues_.at(queue_of(*waiting_.begin())).size()
                                : waiting_.size();
  return there >= static_cast<std::size_t>(config_.sequences);
}

/// Admits who comes meanwhile and returns when the batch is taken.
SimTime BatchFormer::wait_for_more(SimTime now) {
  const SimTime deadline = now + config_.wait;
  while (!is_full() && next_ < requests_.size()) {
    if (requests_[next_].arrival > deadline) {
      return deadline;
    }
    now = requests_[next_].arrival;
    admit(now);
  }
  return now;
}

FormedBatch BatchFormer::next(SimTime free) {
  check(!is_done(), "a batch without requests was asked for");
  admit(free);
  SimTime now = free;
  if (waiting_.empty()) {
    now = requests_[next_].arrival;
    admit(now);
  }
  FormedBatch batch{{}, wait_for_more(now)};
  auto queue = config_.order == BatchingConfig::bucket ? queues_.find(queue_of(*waiting_.begin()))
                                                       : queues_.begin();
  const auto most = static_cast<std::size_t>(config_.sequences);
  while (batch.requests.size() < most && queue != queues_.end()) {
    batch.requests.push_back(queue->second.front());
    waiting_.erase(queue->second.front());
    queue->second.pop_front();
    if (queue->second.empty()) {
      queue = queues_.erase(queue);
      if (config_.order == BatchingConfig::bucket) {
        break;
      }
    }
  }
  return batch;
}

Batch batch_of(const std::vector<Request>& requests, const std::vector<int>& chosen, bool padded) {
  std::vector<SequenceGroup> groups;
  SequenceGroup longest{static_cast<int>(chosen.size()), 0, 0};
  for (const int index : chosen) {
    const Request& request = requests[static_cast<std::size_t>(index)];
    groups.push_back({1, request.prompt_tokens, request.output_tokens});
    longest.prompt_tokens = std::max(longest.prompt_tokens, request.prompt_tokens);
    longest.output_tokens = std::max(longest.output_tokens, request.output_tokens);
  }
  return padded ? Batch({longest}) : Batch(groups);
}

}  // namespace nearkv
