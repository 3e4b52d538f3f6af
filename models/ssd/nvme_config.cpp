#include "models/ssd/nvme_config.hpp"

#include <algorithm>
#include <numeric>

#include "sim/core/check.hpp"

namespace nearkv {

using namespace std::chrono_literals;

namespace {

constexpr int kMostQueues = 65535;  // unit: numbers of 16 bits in NVMe

}  // namespace

void NvmeLinkConfig::fields(FieldVisitor& v) {
  v.parameter("lanes", lanes, "PCIe lanes of the drive", {1, 32});
  v.parameter("lane_rate", lane_rate, "rate of one lane in each direction, after its line code",
              range_of(1_MBps, 100'000_MBps));
  v.constant("max_payload", max_payload, "payload of one packet", range_of(16_B, 4_KiB));
  v.constant("packet_overhead", packet_overhead, "headers and framing of one packet",
             range_of(0_B, 256_B));
  v.constant("read_request", read_request, "payload of a request for data", range_of(0_B, 256_B));
  v.constant("doorbell", doorbell, "payload of a doorbell's write", range_of(0_B, 256_B));
  v.constant("interrupt", interrupt, "payload of an MSI-X message", range_of(0_B, 256_B));
  v.constant("submission_entry", submission_entry, "size of a submission queue entry",
             range_of(1_B, 256_B));
  v.constant("completion_entry", completion_entry, "size of a completion queue entry",
             range_of(1_B, 256_B));
  v.constant("trim_range", trim_range, "one range of a TRIM command's data", range_of(1_B, 256_B));
  v.parameter("time_step", time_step,
              "the time of a message is cut to a multiple of it; 0: rounded up to 1 ps",
              range_of(0_ps, 1us));
}

SimDuration NvmeLinkConfig::message_time(Bytes payload) const {
  const std::int64_t packets =
      std::max<std::int64_t>(1, ceil_div(payload.count(), max_payload.count()));
  const std::int64_t bytes = payload.count() + packets * packet_overhead.count();
  const SimDuration exact = time_for(Bytes{ceil_div(bytes, lanes)}, lane_rate);
  return time_step > SimDuration{0} ? exact - exact % time_step : exact;
}

void NvmeQueueGroup::fields(FieldVisitor& v) {
  v.parameter("queues", queues, "queue pairs of this kind", {1, kMostQueues});
  v.one_of("priority", priority, {"urgent", "high", "medium", "low"},
           "class of weighted_round_robin; without meaning for round_robin");
}

void NvmeConfig::fields(FieldVisitor& v) {
  NvmeQueueConfig::fields(v);
  v.list_of("queue_groups", queue_groups, "the queue pairs, numbered in this order", {1, 1024});
  v.one_of("arbitration", arbitration, {"round_robin", "weighted_round_robin"},
           "whose command is fetched next: all queues in turn; or urgent queues first, then the "
           "classes by their weights, the queues of a class in turn");
  v.parameter("arbitration_burst", arbitration_burst,
              "commands that a queue may send when it has its turn", {1, 65535});
  v.parameter("high_weight", high_weight, "commands of high priority in a round", {1, 256});
  v.parameter("medium_weight", medium_weight, "commands of medium priority in a round", {1, 256});
  v.parameter("low_weight", low_weight, "commands of low priority in a round", {1, 256});
  v.parameter("fetch_limit", fetch_limit, "commands that the controller holds at most", {1, 65536});
  v.one_of("data_pointers", data_pointers, {"none", "prp", "sgl"},
           "how a command describes the host's memory; lists that do not fit in its entry are "
           "fetched over the link");
  v.parameter("memory_page", memory_page,
              "host memory page: what a PRP entry describes, and the size of a list at most until "
              "it is continued elsewhere",
              range_of(4_KiB, 128_MiB));
  v.constant("prp_entry", prp_entry, "size of a PRP entry", range_of(1_B, 256_B));
  v.constant("sgl_descriptor", sgl_descriptor, "size of an SGL descriptor", range_of(1_B, 256_B));
  v.parameter("sgl_block", sgl_block, "contiguous host memory that one SGL descriptor describes",
              range_of(1_B, Bytes{1LL << 32}));
  v.one_of("notice", notice, {"entry", "interrupt", "polling"},
           "the host sees a completion when its entry arrives, by an interrupt, or by polling");
  v.parameter("aggregation_threshold", aggregation_threshold,
              "completions for which one interrupt is sent", {1, 256});
  v.parameter("aggregation_time", aggregation_time,
              "an interrupt is sent that long after the first completion; 0: for each one",
              range_of(0_ps, 1s));
  v.parameter("poll_interval", poll_interval,
              "a polling host looks at multiples of it; 0: at any time", range_of(0_ps, 1s));
  v.constant("host_complete", host_complete,
             "CPU time of the host a completion, on the core of the queue pair, which submits too",
             range_of(0_ps, 1s));
  v.require([this] { return queue_pairs() <= kMostQueues; }, "queue_groups",
            "must have at most 65535 queue pairs in all");
}

int NvmeConfig::queue_pairs() const {
  return std::accumulate(queue_groups.begin(), queue_groups.end(), 0,
                         [](int sum, const NvmeQueueGroup& group) { return sum + group.queues; });
}

std::int64_t NvmeConfig::listed_pointers(Bytes data) const {
  if (data_pointers == DataPointers::prp) {
    // The command entry holds two: of two pages both, of more the first and the list's address.
    const std::int64_t pages = ceil_div(data.count(), memory_page.count());
    return pages <= 2 ? 0 : pages - 1;
  }
  if (data_pointers == DataPointers::sgl) {
    // The command entry holds one: the only one, or the address of the segment with all.
    const std::int64_t blocks = ceil_div(data.count(), sgl_block.count());
    return blocks <= 1 ? 0 : blocks;
  }
  return 0;
}

NvmeConfig::ListPiece NvmeConfig::next_list_piece(std::int64_t pointers_left) const {
  const Bytes entry = data_pointers == DataPointers::prp ? prp_entry : sgl_descriptor;
  const std::int64_t in_page = memory_page / entry;
  check(in_page > 1, "a list of data pointers that cannot be continued");
  if (pointers_left <= in_page) {
    return {pointers_left, entry * pointers_left};
  }
  return {in_page - 1, entry * in_page};
}

}  // namespace nearkv
