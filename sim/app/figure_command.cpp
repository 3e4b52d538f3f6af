// nearkv figure NAME: runs a figure's design points, prints its table and its claims, writes
// records, CSV and claims, and has the picture drawn.
#include "sim/app/figure_command.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "build_info.hpp"
#include "sim/app/commands.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/figure_files.hpp"
#include "sim/app/figure_text.hpp"
#include "sim/app/figures/figure.hpp"
#include "sim/app/figures/figure_folder.hpp"
#include "sim/app/gantt_figure.hpp"
#include "sim/app/machine.hpp"
#include "sim/app/plot_script.hpp"
#include "sim/app/point_key.hpp"
#include "sim/app/table.hpp"
#include "sim/app/uncertainty/sampled_runs.hpp"
#include "sim/app/validation/run_set.hpp"
#include "sim/core/check.hpp"
#include "sim/core/record.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// A figure that is checked and can run.
struct PreparedFigure {
  std::unique_ptr<Figure> figure;
  std::vector<PreparedPoint> points;
  std::string stem;  // of its files
};

/// A figure that ran.
struct FinishedFigure {
  FigureContent content;
  std::vector<FigureClaim> claims;
};

// -- JSON -------------------------------------------------------------------------------------

json claims_document(const PreparedFigure& prepared, const FinishedFigure& finished, bool quick) {
  json claims = json::array();
  for (const FigureClaim& claim : finished.claims) {
    claims.push_back(claim_as_json(claim));
  }
  const FigureHeading& heading = prepared.figure->heading();
  return {{"figure", heading.name},
          {"title", heading.title},
          {"source", heading.source},
          {"quick", !prepared.figure->is_whole(quick)},
          {"program", {{"name", "nearkv"}, {"version", build_info::kVersion}}},
          {"claims", claims}};
}

// -- Files ------------------------------------------------------------------------------------

std::vector<std::string> pictures_of(const PreparedFigure& figure) {
  return {figure.stem + ".pdf", figure.stem + ".png"};
}

/// All files that a figure may have, relative to the folder.
std::vector<std::string> files_of(const PreparedFigure& figure, bool has_samples) {
  std::vector<std::string> files = pictures_of(figure);
  for (const char* ending : {".csv", ".claims.json", ".wall.json"}) {
    files.push_back(figure.stem + ending);
  }
  for (const PreparedPoint& point : figure.points) {
    files.push_back(fmt::format("{}/{}.record.json", figure.stem, point.name));
    if (has_samples) {
      files.push_back(fmt::format("{}/{}.samples.csv", figure.stem, point.name));
    }
  }
  return files;
}

/// Writes all files but the pictures and returns the names to tell the user.
std::vector<std::string> write_files(FigureFolder& folder, const PreparedFigure& prepared,
                                     const FinishedFigure& finished,
                                     const std::vector<SampledOutcome>& outcomes, bool quick) {
  const SignalsPutOff whole_files;
  const bool has_samples = !outcomes.empty() && !outcomes.front().table.empty();
  folder.begin(prepared.stem, files_of(prepared, has_samples), pictures_of(prepared));
  json uses = json::array();
  const fs::path records = folder.path() / prepared.stem;
  for (std::size_t i = 0; i < prepared.points.size(); ++i) {
    const std::string& name = prepared.points[i].name;
    const SampledOutcome& outcome = outcomes[i];
    write_file_atomically(records / (name + ".record.json"), outcome.nominal.record_text);
    if (!outcome.table.empty()) {
      write_file_atomically(records / (name + ".samples.csv"), outcome.table);
    }
    uses.push_back({{"name", name}, {"use", use_as_json(outcome.nominal.use)}});
  }
  const std::string stem = records.string();
  write_file_atomically(
      stem + ".wall.json",
      json_text({{"points", uses}, {"build", build_as_json()}, {"machine", machine_as_json()}}));
  write_file_atomically(stem + ".csv", finished.content.csv);
  write_file_atomically(stem + ".claims.json",
                        json_text(claims_document(prepared, finished, quick)));
  std::vector<std::string> written{stem + ".csv", stem + ".claims.json"};
  if (!prepared.points.empty()) {
    written.push_back(fmt::format("{} record{} in {}", prepared.points.size(),
                                  prepared.points.size() > 1 ? "s" : "", records.string()));
  }
  return written;
}

// -- Running ----------------------------------------------------------------------------------

PreparedFigure prepare_figure(const std::string& name, bool quick, const Suite& paper) {
  PreparedFigure prepared{make_figure(name, paper), {}, figure_stem(name, quick)};
  prepared.points = prepared.figure->points(quick);
  return prepared;
}

/// Points that figures share run once.
class PointsOfFigures {
 public:
  explicit PointsOfFigures(const std::vector<PreparedFigure>& figures) {
    std::map<std::pair<std::string, std::string>, std::size_t> known;
    for (const PreparedFigure& figure : figures) {
      for (const PreparedPoint& point : figure.points) {
        const auto [place, is_new] =
            known.emplace(std::pair{point.name, config_key(point.config)}, points_.size());
        if (is_new) {
          points_.push_back(point);
        }
        places_.push_back(place->second);
      }
    }
  }

  void run(const FigureOptions& options, const std::string& label) {
    outcomes_ = run_sampled(points_, options.samples,
                            {.jobs = options.jobs,
                             .label = label,
                             .progress = Progress::style_for(stderr),
                             .limits = limits_of(options.limits)});
  }
  [[nodiscard]] std::size_t size() const { return points_.size(); }
  [[nodiscard]] const std::vector<SampledOutcome>& outcomes() const { return outcomes_; }
  /// Those of the next figure, in the order of the constructor's.
  [[nodiscard]] std::vector<SampledOutcome> take(std::size_t count) {
    std::vector<SampledOutcome> taken;
    for (std::size_t i = 0; i < count; ++i) {
      taken.push_back(outcomes_.at(places_.at(next_++)));
    }
    return taken;
  }

 private:
  std::vector<PreparedPoint> points_;
  std::vector<std::size_t> places_;  // by point of the figures
  std::vector<SampledOutcome> outcomes_;
  std::size_t next_ = 0;
};

FinishedFigure finish(const PreparedFigure& prepared, bool quick, const Suite& paper,
                      const std::vector<SampledOutcome>& outcomes) {
  std::vector<RecordView> records;
  for (const SampledOutcome& outcome : outcomes) {
    records.emplace_back(json::parse(outcome.nominal.record_text));
  }
  const auto position_of = [&](const PointName& point) {
    return prepared.figure->position(point, quick);
  };
  const auto record_of = [&](const PointName& point) {
    const std::optional<std::size_t> place = position_of(point);
    return place ? &records[*place] : nullptr;
  };
  FinishedFigure finished;
  finished.claims = evaluate_claims(paper, prepared.figure->claims(), record_of);
  add_samples(finished.claims, paper, position_of, outcomes);
  finished.content = prepared.figure->content(std::move(records), quick);
  return finished;
}

/// What is told of a figure when all are drawn.
struct ToldFigure {
  const PreparedFigure* prepared;
  FinishedFigure finished;
  std::vector<std::string> written;
};

/// How many of a figure's points failed is told; 0 for a figure that can be finished.
std::size_t count_failures(const PreparedFigure& figure,
                           const std::vector<SampledOutcome>& outcomes) {
  const auto failed = static_cast<std::size_t>(
      std::count_if(outcomes.begin(), outcomes.end(),
                    [](const SampledOutcome& o) { return !o.nominal.has_finished(); }));
  if (failed > 0) {
    fmt::print(stderr, "{}: {} of {} points failed; nothing was written\n",
               figure.figure->heading().name, failed, figure.points.size());
  }
  return failed;
}

/// Pictures of figures whose CSVs are written; returns the exit status.
int draw(std::vector<ToldFigure>& figures, const fs::path& folder, int jobs) {
  std::vector<PlotJob> plots;
  for (const ToldFigure& told : figures) {
    const fs::path stem = folder / told.prepared->stem;
    plots.push_back({told.prepared->figure->heading().name, stem.string() + ".csv", stem});
  }
  const std::vector<PlotResult> drawn = draw_figures(plots, jobs);
  int status = kExitOk;
  std::string warning;  // the same for all
  for (std::size_t i = 0; i < figures.size(); ++i) {
    for (const fs::path& file : drawn[i].files) {
      figures[i].written.push_back(file.string());
    }
    warning = drawn[i].warning.empty() ? warning : drawn[i].warning;
    if (!drawn[i].problem.empty()) {
      fmt::print(stderr, "{}\n", drawn[i].problem);
      status = kExitInternalError;
    }
  }
  if (!warning.empty()) {
    fmt::print(stderr, "warning: {}\n", warning);
  }
  return status;
}

void tell(const ToldFigure& told) {
  fmt::print("{}", figure_text(told.prepared->figure->heading(), told.finished.content.tables,
                               told.finished.claims, told.finished.content.notes));
  fmt::print("\nwrote {}\n", fmt::join(told.written, "\n      "));
}

/// Runs some figures together; `documents` gets their JSON.
int run_together(const std::vector<PreparedFigure>& figures, const Suite& paper,
                 const FigureOptions& options, json& documents) {
  const auto started = std::chrono::steady_clock::now();
  const std::string label =
      figures.size() == 1 ? figures.front().figure->heading().name : "figures";
  PointsOfFigures points(figures);
  points.run(options, label);
  int status = report_problems(nominal_outcomes(points.outcomes()));
  FigureFolder folder(options.out);
  std::vector<ToldFigure> told;
  for (const PreparedFigure& figure : figures) {
    const std::vector<SampledOutcome> outcomes = points.take(figure.points.size());
    if (count_failures(figure, outcomes) > 0) {
      continue;
    }
    ToldFigure one{&figure, finish(figure, options.quick, paper, outcomes), {}};
    one.written = write_files(folder, figure, one.finished, outcomes, options.quick);
    told.push_back(std::move(one));
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
  status = std::max(status, draw(told, options.out, options.jobs));
  for (const ToldFigure& one : told) {
    if (options.print == FigurePrint::json) {
      documents.push_back(claims_document(*one.prepared, one.finished, options.quick));
      documents.back().update(one.finished.content.data);
    } else if (options.print == FigurePrint::text) {
      fmt::print("{}", &one == &told.front() ? "" : "\n\n");
      tell(one);
    }
  }
  std::fflush(stdout);
  if (options.print != FigurePrint::json && points.size() > 0) {
    fmt::print(stderr, "{}: {} points in {:.1f} s\n", label, points.size(), elapsed.count());
  }
  return status;
}

int list(bool as_json) {
  json documents = json::array();
  TextTable table({{"figure", TextTable::Align::left}, {"title", TextTable::Align::left}});
  for (const std::string& name : known_figures()) {
    const FigureHeading figure = load_heading(figure_file(name));
    table.row({name, figure.title});
    documents.push_back({{"figure", name}, {"title", figure.title}, {"source", figure.source}});
  }
  const GanttSummary gantt = gantt_summary();
  table.row({std::string(kGanttFigure), gantt.title});
  documents.push_back({{"figure", kGanttFigure}, {"title", gantt.title}, {"source", gantt.source}});
  fmt::print("{}", as_json ? json_text(documents) : table.text());
  return kExitOk;
}

}  // namespace

int run_figures(const FigureOptions& options) {
  static_cast<void>(limits_of(options.limits));  // before anything runs
  const Suite paper = load_suite(suite_file("paper"));
  // Of figures with samples no more than one is in memory.
  std::vector<std::vector<PreparedFigure>> groups;
  for (const std::string& name : options.names) {
    if (groups.empty() || options.samples.count > 0) {
      groups.emplace_back();
    }
    groups.back().push_back(prepare_figure(name, options.quick, paper));
  }
  check_output_folder(options.out);
  const FigureFolder folder(options.out);
  for (const std::vector<PreparedFigure>& group : groups) {
    for (const PreparedFigure& figure : group) {
      folder.check_are_ours(files_of(figure, options.samples.count > 0));
    }
  }
  json documents = json::array();
  int status = kExitOk;
  for (const std::vector<PreparedFigure>& group : groups) {
    status = std::max(status, run_together(group, paper, options, documents));
  }
  const bool is_one = options.names.size() == 1;
  if (options.print == FigurePrint::json && !(is_one && documents.empty())) {
    fmt::print("{}", json_text(is_one ? documents.front() : documents));
  }
  return status;
}

void add_figure_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<FigureOptions>();
  auto name = std::make_shared<std::string>();
  auto as_json = std::make_shared<bool>(false);
  command.add_option("NAME", *name, "A figure, or \"all\", or \"list\" for their names")
      ->required();
  command.add_flag("--quick", options->quick,
                   "Only some values of the axis, in files of their own");
  command.add_option("--jobs", options->jobs, "Points at a time")
      ->check(CLI::Range(1, kMostJobs))
      ->capture_default_str();
  add_sample_options(command, options->samples);
  add_limit_options(command, options->limits);
  command.add_option("--out", options->out, "Folder for what is written")->capture_default_str();
  command.add_flag("--json", *as_json, "Print points and claims as JSON");
  command.callback([options, name, as_json, &exit_status] {
    if (*name == "list") {
      exit_status = list(*as_json);
      return;
    }
    options->print = *as_json ? FigurePrint::json : FigurePrint::text;
    const bool is_all = *name == "all";
    if (is_all || *name != kGanttFigure) {
      options->names =
          is_all ? known_figures()
                 : std::vector{figure_file(*name, ", gantt, or all, or list").stem().string()};
      exit_status = run_figures(*options);
    }
    if (is_all || *name == kGanttFigure) {
      exit_status = std::max(exit_status,
                             run_gantt_figure(options->out, *as_json, limits_of(options->limits)));
    }
  });
}

}  // namespace nearkv
