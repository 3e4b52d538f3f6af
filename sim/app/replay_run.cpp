#include "sim/app/replay_run.hpp"

#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <utility>

#include <fmt/format.h>

#include "models/ssd/block_host.hpp"
#include "sim/app/replay_device.hpp"
#include "sim/app/replay_kv.hpp"
#include "sim/app/replay_workload.hpp"
#include "sim/core/check.hpp"
#include "sim/core/hash.hpp"
#include "traces/block_trace.hpp"
#include "traces/fio_log.hpp"

namespace nearkv {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kWorkloadPath = "workload/";

/// From what the file begins with.
ReplayFormat format_of(const std::string& file) {
  std::error_code ignored;
  if (fs::is_directory(file, ignored)) {
    throw ConfigError(fmt::format("{}: is a folder; name a trace or a workload", printable(file)));
  }
  if (fs::exists(file, ignored) && !fs::is_regular_file(file, ignored)) {
    throw ConfigError(
        fmt::format("{}: is no regular file; say what it holds with --format "
                    "mqsim, fio or kv",
                    printable(file)));
  }
  constexpr std::size_t kEnough = 4096;
  std::string begin(kEnough, '\0');
  std::ifstream stream(file, std::ios::binary);
  stream.read(begin.data(), static_cast<std::streamsize>(begin.size()));
  begin.resize(static_cast<std::size_t>(stream.gcount()));
  if (begin.starts_with("fio version")) {
    return ReplayFormat::fio;
  }
  if (begin.starts_with("{") && begin.find("nearkv-kv-pages") != std::string::npos) {
    return ReplayFormat::kv;
  }
  const std::size_t first = begin.find_first_not_of(" \t\r\n");
  const bool is_json = first != std::string::npos && begin[first] == '{';
  return is_json || fs::path(file).extension() == ".json" ? ReplayFormat::workload
                                                          : ReplayFormat::mqsim;
}

/// How requests are submitted.
struct Mode {
  bool is_closed = false;
  int depth = 0;
  double time_scale = 1;
  SimTime stop = kNever;

  [[nodiscard]] std::string text() const {
    if (is_closed) {
      return fmt::format("closed loop, depth {}", depth);
    }
    return time_scale == 1 ? "open loop" : fmt::format("open loop, times x {}", time_scale);
  }
};

/// A source of both kinds of host, from what has  bool next(traces::BlockRecord&).
template <class Records>
class RequestSource {
 public:
  RequestSource(Records& records, ReplayDevice& device, const Mode& mode, std::int64_t at_most)
      : records_(records), device_(device), time_scale_(mode.time_scale), left_(at_most) {}

  bool next(BlockRequest& request) {
    traces::BlockRecord record;
    return take(record, request);
  }
  bool next(SimTime& at, BlockRequest& request) {
    traces::BlockRecord record;
    if (!take(record, request)) {
      return false;
    }
    at = SimTime{time_scale_ == 1 ? record.at : scaled_time(record.at)};
    return true;
  }

 private:
  bool take(traces::BlockRecord& record, BlockRequest& request) {
    if (left_ == 0 || device_.is_full() || !records_.next(record)) {
      return false;
    }
    --left_;
    request = device_.request(record, ReplayStats::id_of(record.kind, record.size));
    return true;
  }
  [[nodiscard]] SimDuration scaled_time(SimDuration at) const {
    const double scaled = static_cast<double>(at.count()) * time_scale_;
    constexpr double kMost = 4e18;
    if (scaled > kMost) {
      throw ConfigError(
          fmt::format("--time-scale: {} makes the trace longer than 46 days", time_scale_));
    }
    return SimDuration{static_cast<std::int64_t>(scaled)};
  }

  Records& records_;
  ReplayDevice& device_;
  double time_scale_;
  std::int64_t left_;
};

template <class Records>
void drive(Records& records, ReplayDevice& device, const Mode& mode, std::int64_t at_most,
           ReplayStats& stats) {
  RequestSource<Records> source(records, device, mode, at_most);
  if (mode.is_closed) {
    ClosedLoop<RequestSource<Records>, ReplayStats&>(device.ssd(), source, stats)
        .run(SimTime{}, mode.depth, mode.stop);
  } else {
    OpenArrivals<RequestSource<Records>, ReplayStats&>(device.ssd(), source, stats).run();
  }
}

void note_left_out(std::vector<std::string>& notes, std::int64_t count, const char* what) {
  if (count > 0) {
    notes.push_back(fmt::format("{} {}", count, what));
  }
}

Mode mode_of(const ReplayOptions& options) {
  Mode mode;
  mode.is_closed = options.depth.has_value();
  mode.depth = options.depth.value_or(0);
  mode.time_scale = options.time_scale.value_or(1);
  return mode;
}

/// Of all latencies, as far as the histograms keep them, and of the end.
std::uint64_t digest_of(const ReplayResult& result) {
  auto hash = static_cast<std::uint64_t>(result.stats.last().time_since_epoch().count());
  const auto fold = [&hash](const LatencyHistogram& latency) {
    for (const LatencyHistogram::Bucket& bucket : latency.buckets()) {
      hash = mix_hash(hash, static_cast<std::uint64_t>(bucket.first.count()));
      hash = mix_hash(hash, static_cast<std::uint64_t>(bucket.count));
    }
  };
  for (int kind = 0; kind < traces::kAccessKinds; ++kind) {
    fold(result.stats.latency(static_cast<traces::AccessKind>(kind)));
  }
  fold(result.batches);
  return hash;
}

class Replay {
 public:
  explicit Replay(const ReplayOptions& options)
      : options_(options), drive_(load_replay_drive(options.device, device_overrides())) {
    result_.drive = drive_.name;
    result_.record.fidelity = "exact";
    result_.record.constants = drive_.constants;
    result_.record.config = {{"device", drive_.config}};
    result_.record.name = fs::path(options.input).filename().string();
    if (drive_.count > 1) {
      result_.record.outcome.notes.push_back(
          fmt::format("one of the {} equal drives was replayed", drive_.count));
    }
  }

  ReplayResult run() {
    ReplayFormat format = options_.format;
    if (format == ReplayFormat::automatic) {
      format = format_of(options_.input);
    }
    if (format != ReplayFormat::workload) {
      refuse_workload_overrides();
    }
    switch (format) {
      case ReplayFormat::fio:
        run_fio();
        break;
      case ReplayFormat::kv:
        run_kv();
        break;
      case ReplayFormat::workload:
        run_workload();
        break;
      default:
        run_block_trace();
        break;
    }
    result_.record.outcome.wakeups = result_.stats.requests() + result_.batches.count();
    result_.record.outcome.digest = digest_of(result_);
    return std::move(result_);
  }

 private:
  [[nodiscard]] std::vector<std::string> device_overrides() const {
    std::vector<std::string> overrides;
    for (const std::string& assignment : options_.overrides) {
      if (workload_part(assignment).empty()) {
        overrides.push_back(assignment);
      }
    }
    return overrides;
  }
  /// "reads=1" of "workload/reads=1"; empty for a path of the drive.
  [[nodiscard]] static std::string workload_part(const std::string& assignment) {
    const std::size_t start = assignment.starts_with('/') ? 1 : 0;
    return assignment.compare(start, kWorkloadPath.size(), kWorkloadPath) == 0
               ? assignment.substr(start + kWorkloadPath.size())
               : "";
  }
  void refuse_workload_overrides() const {
    for (const std::string& assignment : options_.overrides) {
      if (!workload_part(assignment).empty()) {
        throw ConfigError(fmt::format("--set {}: a trace has no such settings; only a workload has",
                                      printable(assignment)));
      }
    }
  }

  void run_block_trace() {
    traces::BlockTraceReader reader(options_.input, {options_.trace_device, drive_.capacity});
    run_records(reader, mode_of(options_), "block trace", filled(), 0);
    note_left_out(result_.record.outcome.notes, reader.left_out(),
                  "requests of other devices were left out");
  }

  void run_fio() {
    traces::FioLogReader reader(options_.input, {options_.trace_device, drive_.capacity});
    if (!reader.has_times() && !options_.depth.has_value()) {
      throw ConfigError(fmt::format(
          "{}: a log of version 2 has no times; say how many requests are outstanding with "
          "--closed-loop DEPTH",
          printable(options_.input)));
    }
    run_records(reader, mode_of(options_), "fio log", filled(), 0);
    std::vector<std::string>& notes = result_.record.outcome.notes;
    note_left_out(notes, reader.left_out(), "requests of other files were left out");
    note_left_out(notes, reader.syncs(), "sync lines had no effect: the drives have no flush");
    note_left_out(notes, reader.waits(), "wait lines had no effect");
  }

  void run_workload() {
    nlohmann::json config = load_config(options_.input);
    ReplayWorkload workload;
    std::optional<WorkloadRequests> requests;
    in_file(options_.input, [&] {
      for (const std::string& assignment : options_.overrides) {
        if (const std::string own = workload_part(assignment); !own.empty()) {
          apply_override(config, own);
        }
      }
      if (options_.fill.has_value()) {
        set_existing(config, "/preconditioning/fill", *options_.fill, "--precondition");
      }
      read_fields(config, [&workload](FieldVisitor& v) { workload.fields(v); });
      requests.emplace(workload, drive_.capacity);
    });
    Mode mode = mode_of(options_);
    if (!options_.depth.has_value()) {
      mode.is_closed = workload.arrivals.kind == WorkloadArrivals::closed_loop;
      mode.depth = workload.arrivals.queue_depth;
      if (mode.is_closed && options_.time_scale.has_value()) {
        throw ConfigError("--time-scale: the workload is a closed loop and has no times");
      }
    }
    if (mode.is_closed && workload.length.kind == WorkloadLength::duration) {
      mode.stop = SimTime{workload.length.time};
    }
    result_.record.config["workload"] = config;
    result_.record.name = workload.name;
    result_.record.seed = workload.seed;
    run_records(*requests, mode, "workload", workload.preconditioning, workload.seed);
  }

  void run_kv();

  template <class Records>
  void run_records(Records& records, const Mode& mode, const char* format,
                   const PreconditionConfig& state, std::int64_t seed) {
    ReplayDevice device(drive_, state, static_cast<std::uint64_t>(seed));
    drive(records, device, mode, options_.max_requests, result_.stats);
    describe(mode.text(), format);
    const SimDuration elapsed = device.end(result_.stats.last()).time_since_epoch();
    Metrics& metrics = result_.record.outcome.metrics;
    metrics.add("simulated_time", to_seconds(elapsed), "s",
                "from the first request to the last completion, or until the drive was full");
    result_.stats.report(metrics, elapsed);
    device.report(result_.record.outcome, elapsed);
  }

  /// What --precondition asks for: the first pages in order.
  [[nodiscard]] PreconditionConfig filled() const {
    PreconditionConfig state;
    state.fill = options_.fill.value_or(0);
    state.pattern = FillPattern::sequential;
    return state;
  }

  void describe(const std::string& mode, const char* format) {
    result_.mode = mode;
    result_.input = fmt::format("{} ({})", fs::path(options_.input).filename().string(), format);
    nlohmann::json& replay = result_.record.config["replay"];
    replay = {{"format", format}, {"mode", mode}, {"trace_device", options_.trace_device}};
    if (options_.fill.has_value()) {
      replay["precondition"] = *options_.fill;
    }
    if (options_.max_requests != ReplayOptions{}.max_requests) {
      replay["max_requests"] = options_.max_requests;
    }
  }

  ReplayOptions options_;
  ReplayDrive drive_;
  ReplayResult result_;
};

void Replay::run_kv() {
  if (options_.time_scale.has_value()) {
    throw ConfigError("--time-scale: a KV page trace has no times");
  }
  traces::KvTraceReader reader(options_.input);
  KvReplay replay{.reader = reader,
                  .drive = drive_,
                  .state = filled(),
                  .depth = options_.depth,
                  .most_records = options_.max_requests,
                  .input = options_.input,
                  .device = options_.device};
  run_kv_replay(replay, result_);
  describe(replay.mode, "KV page trace");
}

}  // namespace

ReplayResult run_replay(const ReplayOptions& options) { return Replay(options).run(); }

}  // namespace nearkv
