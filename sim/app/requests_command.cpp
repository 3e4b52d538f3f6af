// nearkv requests INPUT: what is in a request trace, or in a workload of drawn requests; writes
// them as a trace.
#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "models/systems/design_point.hpp"
#include "models/systems/request_metrics.hpp"
#include "models/systems/workload.hpp"
#include "sim/app/commands.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/point.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/app/replay_device.hpp"
#include "sim/app/table.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "traces/request_trace.hpp"
#include "traces/request_writer.hpp"

namespace nearkv {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using traces::RequestRecord;

struct Options {
  std::string input;
  std::vector<std::string> overrides;
  std::string format = "auto";
  std::string out;
  std::string out_format = "azure";
  std::optional<std::int64_t> seed{};
  bool as_json = false;
};

struct Input {
  std::string kind;  // format of the trace, or kind of the workload
  std::vector<RequestRecord> requests;
  std::vector<std::string> notes;
};

std::optional<traces::RequestFormat> format_called(const char* option, const std::string& name) {
  if (name == "auto") {
    return std::nullopt;
  }
  const auto found = std::ranges::find(traces::kRequestFormats, name);
  if (found == traces::kRequestFormats.end()) {
    throw ConfigError(fmt::format("{}: {} is none; must be one of {}", option, in_quotes(name),
                                  fmt::join(traces::kRequestFormats, ", ")));
  }
  return static_cast<traces::RequestFormat>(found - traces::kRequestFormats.begin());
}

Input read_trace(const Options& options) {
  if (!options.overrides.empty()) {
    throw ConfigError("--set: a trace has no settings; only the JSON of a workload has");
  }
  constexpr std::size_t kMostRequests = 10'000'000;
  traces::RequestTraceReader reader(options.input,
                                    {.format = format_called("--format", options.format)});
  Input input;
  for (RequestRecord record; reader.next(record);) {
    if (input.requests.size() == kMostRequests) {
      throw ConfigError(fmt::format("{}: has more than {} requests; cut it into several files",
                                    printable(options.input), kMostRequests));
    }
    input.requests.push_back(record);
  }
  input.kind = fmt::format("trace of format {}", traces::name_of(reader.format()));
  if (reader.failed() > 0) {
    input.notes.push_back(fmt::format("{} requests that failed were left out", reader.failed()));
  }
  return input;
}

Input draw_workload(const Options& options) {
  json config = load_config(options.input);
  for (const std::string& assignment : options.overrides) {
    apply_override(config, assignment);
  }
  constexpr std::int64_t kSeed = 1;  // of a workload that is no part of a design point
  std::int64_t seed = options.seed.value_or(kSeed);
  std::int64_t positions = 2 * traces::kMostRequestTokens;  // any
  if (config.contains("workload")) {
    DesignPoint point;
    read_fields(config, [&point](FieldVisitor& v) { point.fields(v); });
    seed = options.seed.value_or(point.simulation.seed);
    positions = point.model.max_positions;
    config = json(config.at("workload"));
  }
  Workload workload;
  read_fields(config, [&workload](FieldVisitor& v) { workload.fields(v); });
  if (const auto problem = workload.prepare(seed, positions)) {
    throw ConfigError(fmt::format("/{}: {}", problem->field, problem->message));
  }
  Input input;
  input.kind =
      fmt::format("workload of kind {}", plain_value(config.at("kind")).get<std::string>());
  for (const Request& request : workload.requests()) {
    input.requests.push_back(
        {request.arrival - SimTime{}, request.prompt_tokens, request.output_tokens});
  }
  input.notes = workload.notes();
  return input;
}

struct Figures {
  double mean = 0;
  std::array<double, 4> percentiles{};
  double least = 0;
  double most = 0;
};
constexpr std::array kPercentiles{50, 90, 95, 99};

Figures figures_of(const std::vector<RequestRecord>& requests, int RequestRecord::*tokens) {
  std::vector<double> values;
  Figures figures;
  for (const RequestRecord& request : requests) {
    values.push_back(request.*tokens);
    figures.mean += request.*tokens / static_cast<double>(requests.size());
  }
  std::ranges::sort(values);
  for (std::size_t i = 0; i < kPercentiles.size(); ++i) {
    figures.percentiles[i] = percentile(values, kPercentiles[i]);
  }
  figures.least = values.front();
  figures.most = values.back();
  return figures;
}

struct Arrivals {
  double seconds = 0;  // first to last
  double rate = 0;     // requests a second
  double cv = 0;       // of the intervals
};

/// Nothing when all arrive at once.
std::optional<Arrivals> arrivals_of(const std::vector<RequestRecord>& requests) {
  Arrivals arrivals;
  arrivals.seconds = to_seconds(requests.back().at - requests.front().at);
  if (arrivals.seconds == 0) {
    return std::nullopt;
  }
  const auto intervals = static_cast<double>(requests.size() - 1);
  arrivals.rate = intervals / arrivals.seconds;
  double squares = 0;
  for (std::size_t i = 1; i < requests.size(); ++i) {
    const double interval = to_seconds(requests[i].at - requests[i - 1].at) * arrivals.rate;
    squares += (interval - 1) * (interval - 1);
  }
  arrivals.cv = std::sqrt(squares / intervals);
  return arrivals;
}

json json_of(const Input& input) {
  json document{{"input", input.kind}, {"requests", input.requests.size()}, {"notes", input.notes}};
  const auto add = [&](const char* name, int RequestRecord::*tokens) {
    const Figures figures = figures_of(input.requests, tokens);
    json& entry = document[name];
    entry = {{"mean", figures.mean}, {"least", figures.least}, {"most", figures.most}};
    for (std::size_t i = 0; i < kPercentiles.size(); ++i) {
      entry[fmt::format("p{}", kPercentiles[i])] = figures.percentiles[i];
    }
  };
  add("prompt_tokens", &RequestRecord::prompt_tokens);
  add("output_tokens", &RequestRecord::output_tokens);
  if (const auto arrivals = arrivals_of(input.requests)) {
    document["arrivals"] = {
        {"seconds", arrivals->seconds}, {"rate", arrivals->rate}, {"cv", arrivals->cv}};
  }
  return document;
}

std::string text_of(const Input& input) {
  using Align = TextTable::Align;
  std::vector<TextTable::Column> columns{{"tokens", Align::left}, {"mean", Align::right}};
  for (const int p : kPercentiles) {
    columns.push_back({fmt::format("p{}", p), Align::right});
  }
  columns.push_back({"least", Align::right});
  columns.push_back({"most", Align::right});
  TextTable table(columns);
  const auto add = [&](const char* name, int RequestRecord::*tokens) {
    const Figures figures = figures_of(input.requests, tokens);
    std::vector<std::string> cells{name, fmt::format("{:.1f}", figures.mean)};
    for (const double value : figures.percentiles) {
      cells.push_back(fmt::format("{:.0f}", value));
    }
    cells.push_back(fmt::format("{:.0f}", figures.least));
    cells.push_back(fmt::format("{:.0f}", figures.most));
    table.row(cells);
  };
  add("prompt", &RequestRecord::prompt_tokens);
  add("output", &RequestRecord::output_tokens);
  std::string text =
      fmt::format("{} requests, {}\n\n{}", input.requests.size(), input.kind, table.text());
  if (const auto arrivals = arrivals_of(input.requests)) {
    text += fmt::format("\narrivals over {}: {}, coefficient of variation {} (1: Poisson)\n",
                        format_metric(arrivals->seconds, "s"),
                        format_metric(arrivals->rate, "request/s"),
                        format_significant(arrivals->cv, 3));
  } else {
    text += "\nall arrive at once\n";
  }
  for (const std::string& note : input.notes) {
    text += fmt::format("note: {}\n", note);
  }
  return text;
}

int requests(const Options& options) {
  const auto out_format = format_called("--out-format", options.out_format);
  if (!out_format.has_value()) {
    throw ConfigError("--out-format: auto is none; name the format that is to be written");
  }
  if (!options.out.empty()) {
    check_output_folder(fs::absolute(options.out).parent_path());
  }
  const fs::path file(options.input);
  const Input input = file.extension() == ".json" ? draw_workload(options) : read_trace(options);
  if (!options.out.empty()) {
    const SignalsPutOff whole_file;
    traces::RequestTraceWriter writer(options.out, *out_format);
    for (const RequestRecord& request : input.requests) {
      writer.add(request);
    }
    writer.finish();
  }
  if (options.as_json) {
    fmt::print("{}", json_text(json_of(input)));
    return kExitOk;
  }
  fmt::print("{}", text_of(input));
  if (!options.out.empty()) {
    fmt::print("\nwrote {}\n", options.out);
  }
  return kExitOk;
}

}  // namespace

void add_requests_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<Options>();
  constexpr std::int64_t kLargestSeed = 1'000'000'000'000'000;
  command
      .add_option("INPUT", options->input,
                  "A request trace, or the JSON of a design point or a workload, such as "
                  "nearkv:requests/azure_conversation.json")
      ->required();
  command
      .add_option("--set", options->overrides, "Set a value of the workload: --set requests=500")
      ->allow_extra_args(false);
  command
      .add_option("--format", options->format,
                  "Of a trace: auto, azure, azure_original, burstgpt, arxiv or mooncake")
      ->capture_default_str();
  command
      .add_option("--seed", options->seed,
                  "Of a workload's random streams; else the design point's, or 1")
      ->check(CLI::Range(std::int64_t{0}, kLargestSeed));
  command.add_option("--out", options->out,
                     "Write the requests to this trace; a name that ends in .gz is compressed");
  command.add_option("--out-format", options->out_format, "Format of --out")->capture_default_str();
  command.add_flag("--json", options->as_json, "Print the figures as JSON");
  command.callback([options, &exit_status] {
    options->input = path_of_config(options->input).string();
    exit_status = requests(*options);
  });
}

}  // namespace nearkv
