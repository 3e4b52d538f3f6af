// nearkv describe [PART] and nearkv schema: what a design point consists of.
#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "models/llm/model_shape.hpp"
#include "models/systems/design_point.hpp"
#include "models/systems/system.hpp"
#include "sim/app/commands.hpp"
#include "sim/app/figure_config.hpp"
#include "sim/app/point.hpp"
#include "sim/app/replay_workload.hpp"
#include "sim/app/table.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;

namespace {

using Align = TextTable::Align;

void design_point_fields(FieldVisitor& v) {
  DesignPoint point;
  point.fields(v);
}

std::string fields_table(const std::vector<FieldDescription>& fields);

// -- Topics besides fields --------------------------------------------------------------------

std::string describe_systems() {
  TextTable table({{"system", Align::left}, {"what it does", Align::left}});
  for (const SystemKind& kind : system_kinds()) {
    table.row({std::string(kind.name), std::string(kind.doc)});
  }
  return table.text();
}

std::string describe_models() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(shipped_configs() / "models")) {
    if (entry.path().extension() == ".json") {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  TextTable table({{"model", Align::left},
                   {"parameters", Align::right},
                   {"layers", Align::right},
                   {"heads", Align::right},
                   {"KV heads", Align::right},
                   {"positions", Align::right},
                   {"extends", Align::left}});
  for (const fs::path& file : files) {
    ModelShape shape;
    read_fields(load_config(file), [&shape](FieldVisitor& v) { shape.fields(v); });
    constexpr double kBillion = 1e9;
    const double billions = static_cast<double>(shape.parameters()) / kBillion;
    table.row({shape.name, format_significant(billions, 3) + "e9", fmt::format("{}", shape.layers),
               fmt::format("{}", shape.heads), fmt::format("{}", shape.kv_heads),
               fmt::format("{}", shape.max_positions),
               fmt::format("nearkv:models/{}", file.filename().string())});
  }
  return table.text();
}

struct MetricFamily {
  std::string_view name;
  std::string_view unit;
  std::string_view doc;
};

// Metrics of run_design_point; a family in capitals has a member a part. A record says it of each
// of its metrics too.
constexpr std::array kMetricFamilies{
    MetricFamily{"throughput", "token/s", "output tokens over first arrival to last token"},
    MetricFamily{"throughput_bound", "token/s", "its error bound; 0 unless sampled"},
    MetricFamily{"decode_throughput", "token/s", "tokens of the decode steps over decode_time"},
    MetricFamily{"prefill_time", "s", "until every first token is known and its KV is stored"},
    MetricFamily{"decode_time", "s", "all decode steps"},
    MetricFamily{"decode_time_bound", "s", "error bound of decode_time; 0 unless sampled"},
    MetricFamily{"decode_step_median", "s", "the median of the decode steps"},
    MetricFamily{"decode_steps", "1", "decode steps of the run"},
    MetricFamily{"decode_steps_simulated", "1", "those that were simulated"},
    MetricFamily{"ttft", "s", "time to first token, mean"},
    MetricFamily{"tpot", "s", "mean time of a further token of each sequence"},
    MetricFamily{"requests", "1",
                 "of workloads of kind lengths or trace, as all down to idle_time"},
    MetricFamily{"requests_turned_away", "1", "those that do not fit the system even alone"},
    MetricFamily{"makespan", "s", "first arrival to last token"},
    MetricFamily{"request_rate", "request/s", "requests over the makespan"},
    MetricFamily{"end_to_end", "s", "arrival to last token, mean"},
    MetricFamily{"queueing", "s", "arrival to the start of prefill, mean"},
    MetricFamily{"TIME/p50", "s", "percentile of ttft, tpot, end_to_end, queueing; p90, p95, p99"},
    MetricFamily{"goodput", "request/s", "requests that keep all of workload/limits"},
    MetricFamily{"goodput_tokens", "token/s", "their output tokens"},
    MetricFamily{"requests_in_limits", "1", "their share"},
    MetricFamily{"batches", "1", "batches of the run"},
    MetricFamily{"batch_sequences", "1", "sequences in a batch, mean"},
    MetricFamily{"useful_tokens", "1", "share of the computed tokens that are no padding"},
    MetricFamily{"idle_time", "s", "between batches, until enough requests were there"},
    MetricFamily{"kv_access_share", "1", "share of decode_time in which KV was on its way"},
    MetricFamily{"decode/phase/NAME", "s", "where decode_time went; the phases add up to it"},
    MetricFamily{"utilization/PART", "1", "busy share of decode_time of each resource"},
    MetricFamily{"prefill_busy/PART", "s", "busy time of each resource in prefill"},
    MetricFamily{"prefill_traffic/PART", "B", "bytes over each link and flash array in prefill"},
    MetricFamily{"decode_traffic/PART", "B", "bytes over each link and flash array in decode"},
    MetricFamily{"prefill_rate/PART", "B/s", "of each CSD's flash while it stores, in prefill"},
    MetricFamily{"decode_rate/PART", "B/s", "of each CSD's flash while it reads or stores"},
    MetricFamily{"phase/NAME", "s", "where a system that schedules requests spent its time"},
    MetricFamily{"traffic/PART", "B", "of such a system: bytes over each link"},
    MetricFamily{"batching/NAME", "1", "continuous_batching: iterations, preemptions, KV blocks"},
    MetricFamily{"swap/NAME", "B", "continuous_batching: KV moved to host memory and back"},
    MetricFamily{"recompute/NAME", "1", "recompute_static: KV blocks, share of tokens"},
    MetricFamily{"high_water/MEMORY", "B", "high-water mark of each memory"},
    MetricFamily{"kv_ftl/NAME", "1", "pages, erases, wear and endurance of each CSD's KV FTL"},
    MetricFamily{"energy", "J", "of the run, from the socket of the server"},
    MetricFamily{"energy/PART", "J", "the same by part; they add up to it"},
    MetricFamily{"energy_per_token", "J", "energy over output tokens"},
    MetricFamily{"energy_per_token/PART", "J", "the same by part"},
    MetricFamily{"average_power", "W", "energy over the time of the run"},
    MetricFamily{"system_price", "USD", "purchase price of all parts"},
    MetricFamily{"cost_per_million_tokens", "USD", "capital and electricity of output tokens"},
    MetricFamily{"cost/capital", "USD", "the share of the purchase price in it"},
    MetricFamily{"cost/electricity", "USD", "the electricity in it"},
};

std::string describe_metrics() {
  TextTable table({{"metric", Align::left}, {"unit", Align::left}, {"what it is", Align::left}});
  for (const MetricFamily& family : kMetricFamilies) {
    table.row({std::string(family.name), std::string(family.unit), std::string(family.doc)});
  }
  return table.text();
}

std::string describe_figures() {
  TextTable table({{"figure", Align::left}, {"title", Align::left}});
  for (const std::string& name : known_figures()) {
    table.row({name, load_heading(figure_file(name)).title});
  }
  return table.text();
}

std::string describe_replay() { return fields_table(describe_fields(replay_workload_fields)); }

struct Topic {
  std::string_view name;
  std::string (*text)();
};
constexpr std::array kTopics{
    Topic{"systems", describe_systems}, Topic{"models", describe_models},
    Topic{"metrics", describe_metrics}, Topic{"figures", describe_figures},
    Topic{"replay", describe_replay},
};

// -- Fields -----------------------------------------------------------------------------------

/// The names of a path without what stands for "any": "/csd/*/flash" and "csd/0/flash" are both
/// {csd, flash}, and "/system[kind=flexgen]/x" is {system, x}.
std::vector<std::string> names_of(std::string_view path) {
  std::vector<std::string> names;
  std::string name;
  const auto finish = [&names, &name] {
    const bool is_index = std::all_of(
        name.begin(), name.end(), [](unsigned char c) { return std::isdigit(c) != 0 || c == '*'; });
    if (!is_index) {
      names.push_back(name.substr(0, name.find('[')));
    }
    name.clear();
  };
  for (const char c : path) {
    if (c == '/') {
      finish();
    } else {
      name += c;
    }
  }
  finish();
  return names;
}

bool starts_with(const std::vector<std::string>& names, const std::vector<std::string>& prefix) {
  return names.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), names.begin());
}

std::string field_type(const FieldDescription& field) {
  return field.range.empty() || field.type == "choice"
             ? field.type
             : fmt::format("{}, {}", field.type, field.range);
}

std::string fields_table(const std::vector<FieldDescription>& fields) {
  TextTable table({{"path", Align::left}, {"type and range", Align::left}, {"", Align::left}});
  for (const FieldDescription& field : fields) {
    const bool is_constant = field.kind == FieldKind::constant;
    const std::string choices =
        field.type == "choice" ? fmt::format(" (one of {})", field.range) : "";
    table.row({field.path, field_type(field),
               fmt::format("{}{}{}", field.doc, choices, is_constant ? " [constant]" : "")});
  }
  return table.text();
}

[[noreturn]] void refuse(const std::string& part, const std::vector<FieldDescription>& fields) {
  std::vector<std::string> names;
  std::vector<std::string> tops;
  for (const Topic& topic : kTopics) {
    names.emplace_back(topic.name);
  }
  for (const FieldDescription& field : fields) {
    const std::vector<std::string> path = names_of(field.path);
    names.push_back(fmt::format("{}", fmt::join(path, "/")));
    if (path.size() == 1) {
      tops.push_back(path.front());
    }
  }
  const std::string nearest = nearest_name(part, names);
  throw ConfigError(fmt::format(
      "{}: nothing is called so; {}there are the parts {} and the topics {}", part,
      nearest.empty() ? "" : fmt::format("did you mean \"{}\"? ", nearest), fmt::join(tops, ", "),
      fmt::join(names.begin(), names.begin() + kTopics.size(), ", ")));
}

std::string describe(const std::string& part) {
  for (const Topic& topic : kTopics) {
    if (topic.name == part) {
      return topic.text();
    }
  }
  const std::vector<FieldDescription> all = describe_fields(design_point_fields);
  std::vector<FieldDescription> chosen;
  const std::vector<std::string> prefix = names_of(part);
  for (const FieldDescription& field : all) {
    if (starts_with(names_of(field.path), prefix)) {
      chosen.push_back(field);
    }
  }
  if (chosen.empty()) {
    refuse(part, all);
  }
  std::string text = fields_table(chosen);
  text +=
      "\n[constant]: a value that came from somewhere; it is written as {\"value\": ..., "
      "\"source\": ..., \"citation\": ...};\na number may have an \"interval\": [..., ...] that "
      "holds "
      "its true value with a probability of 90 %\n";
  if (prefix.empty()) {
    text +=
        "More: nearkv describe PART for a part (csd/flash); systems, models, metrics and "
        "figures for what there is\n";
  }
  return text;
}

}  // namespace

void add_describe_command(CLI::App& command, int& exit_status) {
  static_cast<void>(exit_status);
  auto part = std::make_shared<std::string>();
  command.add_option("PART", *part,
                     "A part of a design point such as csd/flash; or systems, models, metrics, "
                     "figures, replay (a workload); without it everything a design point has");
  command.callback([part] { fmt::print("{}", describe(*part)); });
}

void add_schema_command(CLI::App& command, int& exit_status) {
  static_cast<void>(exit_status);
  auto is_workload = std::make_shared<bool>(false);
  command.add_flag("--workload", *is_workload, "Of a workload for nearkv replay");
  command.callback([is_workload] {
    const nlohmann::json schema =
        *is_workload ? schema_of(replay_workload_fields, "NearKV workload for replay, resolved")
                     : schema_of(design_point_fields, "NearKV design point, resolved");
    fmt::print("{}", json_text(schema));
  });
}

}  // namespace nearkv
