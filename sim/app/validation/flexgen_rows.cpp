// The rows of FlexGen runs that were measured: a decode step and prefill each.
#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "models/llm/huggingface_config.hpp"
#include "sim/app/table.hpp"
#include "sim/app/validation/table_rows.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// One run of the table.
struct MeasuredRun {
  std::string model;
  std::vector<int> percent;  // weights, cache, activations: GPU and CPU each
  std::int64_t gpu_batch = 0;
  std::int64_t gpu_batches = 0;
  std::int64_t prompt = 0;
  std::int64_t generated = 0;
  bool cpu_attention = false;
  bool overlap = false;
  double sparsity = 1;
  double decode_step = 0;
  double prefill = 0;

  explicit MeasuredRun(const json& row)
      : model(row.at("model")),
        percent(row.at("percent").get<std::vector<int>>()),
        gpu_batch(row.at("gbs")),
        gpu_batches(row.at("nb")),
        prompt(row.at("prompt")),
        generated(row.at("gen")),
        cpu_attention(row.at("cpu_cache_compute")),
        overlap(row.at("overlap")),
        sparsity(row.value("sparsity", 1.0)),
        decode_step(row.at("decode_step_s")),
        prefill(row.at("prefill_best_s")) {}

  [[nodiscard]] std::string text() const {
    return fmt::format("{}, {}, {} x {} sequences, {} + {} tokens{}{}", model,
                       fmt::join(percent, "/"), gpu_batch, gpu_batches, prompt, generated,
                       cpu_attention ? ", attention on the CPU" : "",
                       overlap ? "" : ", no overlap");
  }
};

constexpr std::array kShares{"weights_gpu", "weights_cpu",     "cache_gpu",
                             "cache_cpu",   "activations_gpu", "activations_cpu"};

/// "2 runs from 11.9 to 13.7 ms (15 %)" of the medians over each run's values; empty without runs.
std::string spread_text(const json& row, const std::string& field) {
  std::vector<double> medians;
  for (const json& run : row.value("runs", json::array())) {
    std::vector<double> values = run.at(field).is_array()
                                     ? run.at(field).get<std::vector<double>>()
                                     : std::vector{run.at(field).get<double>()};
    std::sort(values.begin(), values.end());
    medians.push_back(values.at(values.size() / 2));
  }
  if (medians.size() < 2) {
    return "";
  }
  const auto [least, most] = std::minmax_element(medians.begin(), medians.end());
  constexpr int kDigits = 3;
  return fmt::format("measured {} times: {} to {} (spread {:.0f} %)", medians.size(),
                     format_metric(*least, "s", kDigits), format_metric(*most, "s", kDigits),
                     (*most / *least - 1) * 100);
}

json point_of(const MeasuredRun& run, const json& base) {
  json point = base;
  const fs::path model = shipped_configs() / "models" / (run.model + ".json");
  point["model"] = load_config(model, translate_huggingface);
  const auto set = [&point](const std::string& path, const json& value) {
    set_existing(point, path, value, "/rows/point");
  };
  for (std::size_t i = 0; i < kShares.size(); ++i) {
    set(fmt::format("/system/policy/{}", kShares.at(i)), run.percent.at(i));
  }
  set("/system/policy/gpu_batch_size", run.gpu_batch);
  set("/system/policy/num_gpu_batches", run.gpu_batches);
  set("/system/policy/overlap", run.overlap);
  set("/system/policy/cpu_attention", run.cpu_attention);
  set("/workload/batch", run.gpu_batch * run.gpu_batches);
  set("/workload/prompt_tokens", run.prompt);
  set("/workload/output_tokens", run.generated);
  return point;
}

std::string problem_of(const MeasuredRun& run) {
  if (run.percent.size() != kShares.size()) {
    return fmt::format("percent: must have {} numbers", kShares.size());
  }
  if (run.generated < 2) {
    return "gen: must be 2 or more, so that there is a decode step";
  }
  return run.decode_step > 0 && run.prefill > 0 ? ""
                                                : "decode_step_s: the times must be above zero";
}

void add_run(Table& table, const TableSpec& spec, std::size_t i, const json& row) {
  const MeasuredRun run(row);
  if (const std::string problem = problem_of(run); !problem.empty()) {
    throw ConfigError(problem);
  }
  const std::string name = fmt::format("row_{}", i);
  if (run.sparsity < 1) {
    table.not_covered.push_back({name, "FlexGen's sparse attention is not modelled"});
    return;
  }
  table.runs[name].point = PreparedPoint{.origin = fmt::format("{}, row {}", spec.file, i),
                                         .name = name,
                                         .config = point_of(run, spec.point)};
  const std::string own = row.value("role", "");
  const std::string& said = own.empty() ? spec.role : own;
  const bool is_test = said.empty() ? i % 2 == 0 : said == "test";
  TableRow comparison{.id = name + " decode_step",
                      .text = run.text(),
                      .group = "decode_step",
                      .unit = "s",
                      .note = spread_text(row, "decode_s"),
                      .expression = name + ".decode_step_median",
                      .role = is_test ? RowRole::test : RowRole::fit,
                      .reference = run.decode_step,
                      .tolerance = {},
                      .looser_if = {}};
  table.rows.push_back(comparison);
  comparison.id = name + " prefill";
  comparison.group = "prefill";
  comparison.note = spread_text(row, "prefill_s");
  comparison.expression = name + ".prefill_time";
  comparison.reference = run.prefill;
  table.rows.push_back(std::move(comparison));
}

}  // namespace

Table read_flexgen_table(const TableSpec& spec) {
  const json document = load_json(spec.file);
  if (!document.is_object() || !document.contains("rows") || !document.at("rows").is_array()) {
    throw ConfigError(fmt::format("{}: /rows: must be a list of runs", spec.file));
  }
  Table table;
  if (document.contains("what") && document.at("what").is_string()) {
    table.source = document.at("what");
  }
  const json& rows = document.at("rows");
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::string where = fmt::format("{}: /rows/{}", spec.file, i);
    try {
      add_run(table, spec, i, rows[i]);
    } catch (const json::exception&) {
      throw ConfigError(
          fmt::format("{}: lacks a number, or has something else in its place; "
                      "validation/flexgen_h200/rows.json has the form",
                      where));
    } catch (const ConfigError& error) {
      throw ConfigError(prefix_lines(where, error.what()));
    }
  }
  return table;
}

}  // namespace nearkv
