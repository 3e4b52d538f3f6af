#include "sim/app/replay_kv.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "kernels/api.hpp"
#include "models/csd/csd.hpp"
#include "models/kv/head_reads.hpp"
#include "models/ssd/block_host.hpp"
#include "sim/core/capacity.hpp"
#include "sim/core/check.hpp"
#include "sim/core/event_loop.hpp"

namespace nearkv {

namespace {

using traces::KvTraceHeader;
using traces::KvTraceRecord;

std::int64_t pages_of_head(const KvTraceHeader& header) {
  return 2 * std::int64_t{header.token_pages(header.longest_context)} +
         (header.has_channel_copy() ? header.channel_pages(header.longest_context) : 0);
}

/// The records of a trace, batch by batch.
class Batches {
 public:
  explicit Batches(const KvReplay& replay) : reader_(replay.reader), left_(replay.most_records) {
    has_record_ = advance();
  }

  /// Calls add(record) for each record of the next batch; false when there is none.
  template <class Add>
  bool next(Add add) {
    const bool has_batch = has_record_;
    const int step = record_.step;
    const int layer = record_.layer;
    while (has_record_ && record_.step == step && record_.layer == layer) {
      add(record_);
      has_record_ = advance();
    }
    return has_batch;
  }

 private:
  bool advance() { return left_-- > 0 && reader_.next(record_); }

  traces::KvTraceReader& reader_;
  std::int64_t left_;
  KvTraceRecord record_;
  bool has_record_ = false;
};

// -- SSD --------------------------------------------------------------------------------------

/// Reads the pages of a batch in the order of the records, `depth` at a time, then those of the
/// next one.
class BatchedReads final : public BlockHost {
 public:
  BatchedReads(KvReplay& replay, ReplayDevice& device, ReplayResult& result)
      : header_(replay.reader.header()),
        depth_(*replay.depth),
        batches_(replay),
        device_(device),
        result_(result) {}

  /// Returns when all is done.
  SimTime run() {
    begin_batch(SimTime{});
    device_.ssd().process(kEndOfTime, *this);
    return done_;
  }

 private:
  void begin_batch(SimTime now) {
    done_ = now;
    const auto add = [this](const KvTraceRecord& record) {
      const std::int64_t head = kv_first_page(header_, record);
      const std::int64_t stream = header_.token_pages(header_.longest_context);
      add_pages(record.channel_pages, head + 2 * stream);
      add_pages(record.key_pages, head);
      add_pages(record.value_pages, head + stream);
    };
    pages_.clear();
    next_ = 0;
    while (pages_.empty() && batches_.next(add)) {
      if (pages_.empty()) {
        result_.batches.add(SimDuration{0});  // all in DRAM
      }
    }
    started_ = now;
    outstanding_ = 0;
    for (int i = 0; i < depth_; ++i) {
      submit_next(now);
    }
  }

  void add_pages(const std::vector<int>& pages, std::int64_t base) {
    for (const int page : pages) {
      pages_.push_back(base + page);
    }
  }

  void submit_next(SimTime now) {
    if (next_ == pages_.size() || device_.is_full()) {
      return;
    }
    const Bytes size{header_.page_size};
    const traces::BlockRecord record{{}, traces::AccessKind::read, size * pages_[next_++], size};
    ++outstanding_;
    device_.ssd().submit(now,
                         device_.request(record, ReplayStats::id_of(record.kind, record.size)));
  }

  void completed(std::uint64_t id, SimTime submitted, SimTime at) override {
    result_.stats.add(id, submitted, at);
    --outstanding_;
    submit_next(at);
    if (outstanding_ == 0) {
      result_.batches.add(at - started_);
      begin_batch(at);
    }
  }

  const KvTraceHeader& header_;
  int depth_;
  Batches batches_;
  ReplayDevice& device_;
  ReplayResult& result_;
  std::vector<std::int64_t> pages_;  // of the batch, in the plain layout
  std::size_t next_ = 0;
  int outstanding_ = 0;
  SimTime started_{};
  SimTime done_{};
};

/// Of the drive that the KV cache takes, rounded up to pages of the drive.
double share_of(const KvReplay& replay) {
  const Bytes page = replay.drive.block.flash.page_size;
  const auto pages =
      static_cast<double>(ceil_div(kv_cache_size(replay.reader.header()).count(), page.count()));
  return (pages + 1) / static_cast<double>(replay.drive.block.block_capacity() / page);
}

void run_on_ssd(KvReplay& replay, ReplayResult& result) {
  if (!replay.depth.has_value()) {
    throw ConfigError(
        fmt::format("{}: a KV page trace has no times; say how many page reads are outstanding on "
                    "an SSD with --closed-loop DEPTH",
                    printable(replay.input)));
  }
  replay.mode = fmt::format("layer by layer, {} page reads at a time", *replay.depth);
  // The KV cache is on the drive when decoding begins.
  PreconditionConfig state = replay.state;
  state.fill = std::max(state.fill, std::min(1.0, share_of(replay)));
  ReplayDevice device(replay.drive, state, 0);
  const SimDuration elapsed = BatchedReads(replay, device, result).run().time_since_epoch();
  Metrics& metrics = result.record.outcome.metrics;
  metrics.add("simulated_time", to_seconds(elapsed), "s",
              "from the first request to the last completion");
  if (elapsed > SimDuration{0}) {
    result.stats.report(metrics, elapsed);
    device.report(result.record.outcome, elapsed);
  }
}

// -- CSD --------------------------------------------------------------------------------------

void check_geometry(const KvReplay& replay) {
  const KvTraceHeader& header = replay.reader.header();
  const CsdConfig& csd = replay.drive.csd;
  const auto refuse = [&](const char* path, const std::string& is, const std::string& recorded) {
    throw ConfigError(fmt::format("{}: {}: is {}, but {} was recorded for {}; must be equal",
                                  printable(replay.device), path, is, printable(replay.input),
                                  recorded));
  };
  if (csd.flash.page_size != Bytes{header.page_size}) {
    refuse("/flash/page_size", format_exact(csd.flash.page_size),
           format_exact(Bytes{header.page_size}));
  }
  if (header.has_channel_copy() && csd.layout.channels_per_group != header.channels_per_group) {
    refuse("/layout/channels_per_group", std::to_string(csd.layout.channels_per_group),
           std::to_string(header.channels_per_group));
  }
}

HeadReads reads_of(const KvTraceHeader& header, const kernels::PageGeometry& geometry,
                   const KvTraceRecord& record) {
  const HeadShape shape{header.d_head, header.queries_per_kv_head};
  HeadReads reads;
  if (header.method == "dense") {
    reads = dense_reads(geometry, shape, record.context);
  } else {
    reads = sparse_work(shape, {record.context, header.estimate_channels, record.attended});
  }
  reads.channel_pages = record.channel_pages;
  reads.key_pages = record.key_pages;
  reads.value_pages = record.value_pages;
  return reads;
}

/// Runs the batches of a trace as a task of the drive, whose pages lie where its FTL put them.
class CsdReplay {
 public:
  CsdReplay(const KvReplay& replay, LatencyHistogram& latencies)
      : replay_(replay),
        header_(replay.reader.header()),
        geometry_({.d_head = header_.d_head,
                   .page_bytes = header_.page_size,
                   .channels_per_group = header_.channels_per_group}),
        latencies_(latencies),
        // Layers of dense attention are alike, so that all but the first need no simulation.
        csd_(loop_, replay.drive.csd, "csd", {.reuse = header_.method == "dense", .seed = 1}),
        task_(csd_.open_task({.sequences = header_.sequences,
                              .layers = header_.layers,
                              .kv_heads = header_.kv_heads,
                              .max_tokens = header_.longest_context,
                              .channel_copy = header_.has_channel_copy()},
                             geometry_)),
        appended_(static_cast<std::size_t>(header_.layers)) {}

  /// Returns when all is done.
  SimTime run() {
    Batches batches(replay_);
    SimTime now{};
    const auto add = [this](const KvTraceRecord& record) { this->add(record); };
    while (batches.next(add)) {
      append_tokens();
      auto batch = std::make_shared<AttendBatch>();
      const int pairs = static_cast<int>(heads_.size());
      batch->segments.push_back({pairs, std::exchange(heads_, {})});
      batch->seal();
      Completion done;
      csd_.submit_attend(now, batch, done, {task_, layer_});
      while (!done.done()) {
        loop_.run(kNever);
        loop_.take_finished();
      }
      latencies_.add(done.at() - now);
      now = done.at();
      context_ = 0;
    }
    return now;
  }

  [[nodiscard]] const Csd& csd() const { return csd_; }

 private:
  void add(const KvTraceRecord& record) {
    const auto pair = static_cast<std::size_t>(record.sequence) * header_.kv_heads + record.kv_head;
    if (pair != heads_.size()) {
      throw ConfigError(fmt::format(
          "{}: step {}, layer {}: sequence {}, KV head {} comes where number {} of {} heads was "
          "expected; for a CSD no head may be left out",
          printable(replay_.input), record.step, record.layer, record.sequence, record.kv_head,
          heads_.size(), header_.sequences * header_.kv_heads));
    }
    heads_.push_back(reads_of(header_, geometry_, record));
    layer_ = record.layer;
    context_ = std::max(context_, record.context);
  }

  /// In no time: what was stored before the step is not part of the replay.
  void append_tokens() {
    int& appended = appended_[static_cast<std::size_t>(layer_)];
    if (context_ > appended) {
      csd_.append({task_, layer_}, context_ - appended, std::nullopt);
      appended = context_;
    }
  }

  const KvReplay& replay_;
  const KvTraceHeader& header_;
  kernels::PageGeometry geometry_;
  LatencyHistogram& latencies_;
  EventLoop loop_;
  Csd csd_;
  KvFtl::TaskId task_;
  std::vector<int> appended_;     // tokens, by layer
  std::vector<HeadReads> heads_;  // of the batch
  int layer_ = 0;
  int context_ = 0;  // the longest of the batch
};

void report_csd(Metrics& metrics, const Csd& csd, SimDuration elapsed) {
  const double seconds = to_seconds(elapsed);
  const Csd::Work work = csd.work();
  const auto bytes = static_cast<double>(csd.bytes_read().count());
  metrics.add("simulated_time", seconds, "s", "from the first batch to the end of the last");
  metrics.add("attend_commands", static_cast<double>(work.attends), "1", "attend commands");
  metrics.add("drive/flash/pages_read", static_cast<double>(work.flash.pages_read), "1",
              "pages read from flash");
  metrics.add("drive/flash/bandwidth", bytes / seconds, "B/s",
              "their bytes over the simulated time");
  metrics.add("drive/flash/channel_utilization",
              to_seconds(csd.channel_time()) / seconds / csd.config().flash.channels, "1",
              "mean busy share of the channels");
  metrics.add("drive/reading_share", to_seconds(work.reading) / seconds, "1",
              "share of the time in which pages were on their way from flash");
  metrics.add("drive/computing_share", to_seconds(work.computing) / seconds, "1",
              "share of the time in which heads were in the attention kernels");
}

void run_on_csd(KvReplay& replay, ReplayResult& result) {
  if (replay.depth.has_value()) {
    throw ConfigError(
        "--closed-loop: a CSD takes the attend commands of a layer at once; leave it out");
  }
  check_geometry(replay);
  replay.mode = "layer by layer, one attend command a head";
  try {
    CsdReplay on_csd(replay, result.batches);
    const SimTime end = on_csd.run();
    report_csd(result.record.outcome.metrics, on_csd.csd(), end.time_since_epoch());
  } catch (const OutOfCapacity& full) {
    throw ConfigError(fmt::format(
        "{}: {} needs {}, of which the drive's flash has {} free; choose a larger drive",
        printable(replay.input), full.operation, format_short(full.asked),
        format_short(full.available)));
  }
}

}  // namespace

std::int64_t kv_first_page(const KvTraceHeader& header, const KvTraceRecord& record) {
  const std::int64_t head =
      (std::int64_t{record.sequence} * header.layers + record.layer) * header.kv_heads +
      record.kv_head;
  return head * pages_of_head(header);
}

Bytes kv_cache_size(const KvTraceHeader& header) {
  const Int128 heads = Int128{header.sequences} * header.layers * header.kv_heads;
  const Int128 bytes = heads * pages_of_head(header) * header.page_size;
  return Bytes{static_cast<std::int64_t>(std::min<Int128>(bytes, INT64_MAX))};
}

void run_kv_replay(KvReplay& replay, ReplayResult& result) {
  const Bytes size = kv_cache_size(replay.reader.header());
  const Bytes room =
      replay.drive.is_csd ? replay.drive.csd.flash.capacity() : replay.drive.capacity;
  if (size > room) {
    throw ConfigError(
        fmt::format("{}: its KV cache of {} does not fit in the drive's {}; choose a larger drive",
                    printable(replay.input), format_short(size), format_short(room)));
  }
  if (replay.drive.is_csd) {
    run_on_csd(replay, result);
  } else {
    run_on_ssd(replay, result);
  }
  report_latency(result.record.outcome.metrics, "batch", result.batches);
}

}  // namespace nearkv
