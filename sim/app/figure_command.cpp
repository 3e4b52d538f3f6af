// nearkv figure NAME: runs a figure's design points, prints its table and its claims, writes
// records, CSV and claims, and has the picture drawn.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "build_info.hpp"
#include "sim/app/commands.hpp"
#include "sim/app/csv.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/figure_config.hpp"
#include "sim/app/figure_text.hpp"
#include "sim/app/gantt_figure.hpp"
#include "sim/app/plot_script.hpp"
#include "sim/app/table.hpp"
#include "sim/app/uncertainty/sample_options.hpp"
#include "sim/app/uncertainty/sampled_runs.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

struct FigureOptions {
  std::string name;
  std::string out = "results";
  int jobs = available_cores();
  bool quick = false;
  bool as_json = false;
  SampleOptions samples;
};

/// A figure that is checked and can run.
struct PreparedFigure {
  FigureConfig config;
  std::vector<PreparedPoint> points;
  std::vector<Row> claims;
};

/// A figure that ran. A quick figure has files of its own: it must not replace the whole one.
struct FinishedFigure {
  std::string stem;  // of its files
  FigureResults results;
  std::vector<FigureClaim> claims;
  std::vector<SampledOutcome> outcomes;
};

// -- JSON -------------------------------------------------------------------------------------

json claims_document(const FigureConfig& figure, const FinishedFigure& finished) {
  json claims = json::array();
  for (const FigureClaim& claim : finished.claims) {
    claims.push_back(claim_as_json(claim));
  }
  return {{"figure", figure.name},
          {"title", figure.title},
          {"source", figure.source},
          {"quick", !finished.results.is_whole()},
          {"program", {{"name", "nearkv"}, {"version", build_info::kVersion}}},
          {"claims", claims}};
}

json figure_document(const FigureConfig& figure, const FinishedFigure& finished) {
  json document = claims_document(figure, finished);
  json points = json::array();
  for (std::size_t s = 0; s < finished.results.series().size(); ++s) {
    for (std::size_t i = 0; i < finished.results.axis().size(); ++i) {
      const RecordView& record = finished.results.at(s, i);
      json metrics = json::object();
      for (const Metric& metric : record.metrics()) {
        metrics[metric.name] = {{"value", metric.value}, {"unit", metric.unit}};
        if (const auto interval = record.interval(metric.name)) {
          metrics[metric.name]["interval"] = {interval->lowest, interval->highest};
        }
      }
      points.push_back({{"series", finished.results.series()[s]},
                        {figure.axis.name, finished.results.axis()[i]},
                        {"status", record.status()},
                        {"status_detail", record.status_detail()},
                        {"config_hash", record.json().at("config_hash")},
                        {"metrics", metrics}});
    }
  }
  document["points"] = points;
  return document;
}

// -- Files ------------------------------------------------------------------------------------

std::string figure_csv(const FigureConfig& figure, const FigureResults& results) {
  std::vector<CsvRow> rows;
  for (std::size_t s = 0; s < results.series().size(); ++s) {
    for (std::size_t i = 0; i < results.axis().size(); ++i) {
      rows.push_back({{results.series()[s], results.axis()[i]}, &results.at(s, i)});
    }
  }
  return records_as_csv({"series", fmt::format("{} [{}]", figure.axis.name, figure.axis.unit)},
                        rows, figure.metric);
}

/// Writes all files but the pictures and returns the names to tell the user.
std::vector<std::string> write_files(const fs::path& folder, const PreparedFigure& figure,
                                     const FinishedFigure& finished) {
  const SignalsPutOff whole_files;
  json uses = json::array();
  const fs::path records = folder / finished.stem;
  for (std::size_t i = 0; i < figure.points.size(); ++i) {
    const std::string& name = figure.points[i].name;
    const SampledOutcome& outcome = finished.outcomes[i];
    write_file_atomically(records / (name + ".record.json"), outcome.nominal.record_text);
    if (!outcome.table.empty()) {
      write_file_atomically(records / (name + ".samples.csv"), outcome.table);
    }
    uses.push_back({{"name", name}, {"use", use_as_json(outcome.nominal.use)}});
  }
  const std::string stem = (folder / finished.stem).string();
  write_file_atomically(stem + ".wall.json",
                        json_text({{"points", uses}, {"build", build_as_json()}}));
  write_file_atomically(stem + ".csv", figure_csv(figure.config, finished.results));
  write_file_atomically(stem + ".claims.json", json_text(claims_document(figure.config, finished)));
  return {stem + ".csv", stem + ".claims.json",
          fmt::format("{} records in {}", figure.points.size(), records.string())};
}

// -- Running ----------------------------------------------------------------------------------

PreparedFigure prepare_figure(const std::string& name, bool quick, const Suite& paper) {
  PreparedFigure figure{.config = load_figure(figure_file(name)), .points = {}, .claims = {}};
  figure.points = figure_points(figure.config, quick);
  figure.claims = claims_about(paper, name);
  return figure;
}

FinishedFigure finish(const PreparedFigure& prepared, bool quick, const Suite& paper,
                      std::vector<SampledOutcome> outcomes) {
  const FigureConfig& figure = prepared.config;
  std::vector<std::string> series;
  for (const FigureSeries& one : figure.series) {
    series.push_back(one.name);
  }
  std::vector<RecordView> records;
  for (const SampledOutcome& outcome : outcomes) {
    records.emplace_back(json::parse(outcome.nominal.record_text));
  }
  const std::vector<std::string> axis = axis_values(figure, quick).texts();
  const bool is_whole = axis.size() == figure.axis.values.values.size();
  FigureResults results(std::move(series), axis, is_whole, std::move(records));
  std::vector<FigureClaim> claims = evaluate_claims(paper, prepared.claims, results);
  add_samples(claims, paper, results, outcomes);
  return {figure.name + (quick ? "_quick" : ""), std::move(results), std::move(claims),
          std::move(outcomes)};
}

int draw(const FigureConfig& figure, const fs::path& stem, std::vector<std::string>& written) {
  const PlotResult drawn = draw_figure(figure.name, stem.string() + ".csv", stem);
  for (const fs::path& file : drawn.files) {
    written.push_back(file.string());
  }
  if (!drawn.warning.empty()) {
    fmt::print(stderr, "warning: {}\n", drawn.warning);
  }
  if (!drawn.problem.empty()) {
    fmt::print(stderr, "{}\n", drawn.problem);
    return kExitInternalError;
  }
  return kExitOk;
}

/// Runs one figure; `documents` gets its JSON.
int run_one(const PreparedFigure& figure, const Suite& paper, const FigureOptions& options,
            json& documents) {
  const auto started = std::chrono::steady_clock::now();
  std::vector<SampledOutcome> outcomes =
      run_sampled(figure.points, options.samples,
                  {options.jobs, figure.config.name, Progress::style_for(stderr)});
  if (const int status = report_problems(nominal_outcomes(outcomes)); status != kExitOk) {
    const auto failed =
        std::count_if(outcomes.begin(), outcomes.end(),
                      [](const SampledOutcome& o) { return !o.nominal.has_record(); });
    fmt::print(stderr, "{}: {} of {} points failed; nothing was written\n", figure.config.name,
               failed, figure.points.size());
    return status;
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
  const FinishedFigure finished = finish(figure, options.quick, paper, std::move(outcomes));
  if (!options.as_json) {
    fmt::print("{}", figure_text(figure.config, finished.results, finished.claims));
    std::fflush(stdout);
  }
  std::vector<std::string> written = write_files(options.out, figure, finished);
  const int status = draw(figure.config, fs::path(options.out) / finished.stem, written);
  if (options.as_json) {
    documents.push_back(figure_document(figure.config, finished));
  } else {
    fmt::print("\nwrote {}\n", fmt::join(written, "\n      "));
    fmt::print(stderr, "{}: {} points in {:.1f} s\n", figure.config.name, figure.points.size(),
               elapsed.count());
  }
  return status;
}

int list(bool as_json) {
  json documents = json::array();
  TextTable table({{"figure", TextTable::Align::left}, {"title", TextTable::Align::left}});
  for (const std::string& name : known_figures()) {
    const FigureConfig figure = load_figure(figure_file(name));
    table.row({name, figure.title});
    documents.push_back({{"figure", name}, {"title", figure.title}, {"source", figure.source}});
  }
  const GanttSummary gantt = gantt_summary();
  table.row({std::string(kGanttFigure), gantt.title});
  documents.push_back({{"figure", kGanttFigure}, {"title", gantt.title}, {"source", gantt.source}});
  fmt::print("{}", as_json ? json_text(documents) : table.text());
  return kExitOk;
}

int run_figures(const FigureOptions& options) {
  if (options.name == "list") {
    return list(options.as_json);
  }
  if (options.name == kGanttFigure) {
    check_output_folder(options.out);
    return run_gantt_figure(options.out, options.as_json);
  }
  const bool is_all = options.name == "all";
  const Suite paper = load_suite(suite_file("paper"));
  std::vector<PreparedFigure> figures;
  for (const std::string& name :
       is_all ? known_figures() : std::vector<std::string>{options.name}) {
    figures.push_back(prepare_figure(name, options.quick, paper));
  }
  check_output_folder(options.out);
  json documents = json::array();
  int status = kExitOk;
  for (std::size_t i = 0; i < figures.size(); ++i) {
    if (i > 0 && !options.as_json) {
      fmt::print("\n\n");
    }
    status = std::max(status, run_one(figures[i], paper, options, documents));
  }
  if (is_all) {
    fmt::print(options.as_json ? stderr : stdout, "\n\n");
    status = std::max(status, run_gantt_figure(options.out, options.as_json));
  }
  if (options.as_json && (is_all || !documents.empty())) {
    fmt::print("{}", json_text(is_all ? documents : documents.front()));
  }
  return status;
}

}  // namespace

void add_figure_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<FigureOptions>();
  command.add_option("NAME", options->name, "A figure, or \"all\", or \"list\" for their names")
      ->required();
  command.add_flag("--quick", options->quick,
                   "Only some values of the axis, in files of their own");
  command.add_option("--jobs", options->jobs, "Points at a time")
      ->check(CLI::Range(1, kMostJobs))
      ->capture_default_str();
  add_sample_options(command, options->samples);
  command.add_option("--out", options->out, "Folder for what is written")->capture_default_str();
  command.add_flag("--json", options->as_json, "Print points and claims as JSON");
  command.callback([options, &exit_status] { exit_status = run_figures(*options); });
}

}  // namespace nearkv
