// nearkv record SOURCE: real attention kernels over captured or synthetic tensors; the pages that
// they read as a KV page trace, and what the selection costs.
#include <filesystem>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "sim/app/commands.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/point.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/app/record_output.hpp"
#include "sim/app/record_run.hpp"
#include "sim/core/record.hpp"

namespace nearkv {

namespace {

struct Options {
  RecordOptions record;
  std::string stats;
  bool as_json = false;
};

constexpr int kMostTokens = 1 << 20;
constexpr int kMostChannels = 4096;
constexpr int kMostHeads = 65'536;

int record(const Options& options) {
  if (!options.stats.empty()) {
    check_output_folder(std::filesystem::absolute(options.stats).parent_path());
  }
  const RecordResult result = run_record(options.record);
  const std::string json = json_text(record_json(result));
  if (!options.stats.empty()) {
    const SignalsPutOff whole_file;
    write_file_atomically(options.stats, json);
  }
  if (options.as_json) {
    fmt::print("{}", json);
    return kExitOk;
  }
  fmt::print("{}", record_summary(result));
  if (!options.record.out.empty()) {
    fmt::print("\nwrote {}: {} records in {} bytes\n", options.record.out, result.trace.records,
               result.trace_bytes);
  }
  if (!options.stats.empty()) {
    fmt::print("{}wrote {}\n", options.record.out.empty() ? "\n" : "", options.stats);
  }
  return kExitOk;
}

void add_method_options(CLI::App& command, RecordMethodOptions& method) {
  command.add_option("--method", method.method, "dense, sparq, sparf, h2o, streaming or window")
      ->capture_default_str();
  command.add_option("--ratio", method.ratio,
                     "Share of dense attention's elements that a step moves: 1/8 (the default) or "
                     "0.125; sets all that follows");
  command.add_option("--r", method.r, "sparq, sparf: channels of q that estimate the scores");
  command.add_option("--k-share", method.k_share,
                     "sparq, sparf: tokens attended to, as a share of the context");
  command.add_option("--window-share", method.window_share,
                     "sparq, sparf: of those, the youngest (0.25)");
  command.add_option("--heavy-share", method.heavy_share,
                     "h2o: heavy hitters among the kept tokens (0.5)");
  command.add_option("--sinks", method.sinks, "streaming: first tokens that are kept (4)");
}

void add_source_options(CLI::App& command, RecordSourceOptions& source) {
  command
      .add_option("SOURCE", source.file,
                  "Captured tensors (.safetensors of traces/capture.py), or the JSON of synthetic "
                  "heads, such as nearkv:kv_sources/synthetic_smollm2.json")
      ->required();
  command.add_option("--layers", source.layers,
                     "Captured: which, such as 0,9 (all); synthetic: how many (1)");
  command.add_option("--kv-heads", source.kv_heads, "KV heads of a layer (all; synthetic: 8)")
      ->check(CLI::Range(1, kMostHeads));
  command.add_option("--context", source.context, "Synthetic: the longest context (2048)")
      ->check(CLI::Range(1, kMostTokens));
  command.add_option("--d-head", source.d_head, "Synthetic: channels of a head (128)")
      ->check(CLI::Range(1, kMostChannels));
  command
      .add_option("--queries-per-kv-head", source.query_heads,
                  "Synthetic: query heads that share a KV head (1)")
      ->check(CLI::Range(1, kMostHeads));
  command.add_flag("--query-heads-apart", source.query_heads_apart,
                   "Give each query head a KV head for itself, as multi-head attention does");
  command.add_option("--seed", source.seed, "Synthetic: seed of all heads")
      ->capture_default_str()
      ->check(CLI::Range(0, kMostTokens));
}

}  // namespace

void add_record_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<Options>();
  RecordOptions& record_options = options->record;
  add_source_options(command, record_options.source);
  add_method_options(command, record_options.method);
  command.add_option("--page-size", record_options.page_size, "Flash page")->capture_default_str();
  command
      .add_option("--channels-per-group", record_options.channels_per_group,
                  "Channels that share a page of the channel-indexed K")
      ->capture_default_str()
      ->check(CLI::Range(1, kMostChannels));
  command
      .add_option("--steps", record_options.steps,
                  "Decode steps (all that were captured; synthetic: 16)")
      ->check(CLI::Range(1, kMostTokens));
  command.add_option("--contexts", record_options.contexts,
                     "Instead: FIRST:LAST:STEP, or FIRST:LAST for all contexts at which a page "
                     "becomes full");
  command.add_option("--out", record_options.out, "File for the KV page trace (.kv.trace)");
  command.add_option("--stats", options->stats, "File for the statistics, JSON");
  command.add_flag("--json", options->as_json, "Print the statistics as JSON");
  record_options.jobs = available_cores();
  command.add_option("--jobs", record_options.jobs, "Heads at a time")
      ->check(CLI::Range(1, kMostJobs));
  command.callback([options, &exit_status] { exit_status = record(*options); });
}

}  // namespace nearkv
