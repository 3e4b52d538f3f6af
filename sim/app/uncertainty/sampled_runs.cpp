#include "sim/app/uncertainty/sampled_runs.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "models/systems/design_point.hpp"
#include "models/systems/request_metrics.hpp"
#include "sim/app/csv.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

/// A point, the constants that vary in it, and their draws.
struct SampledPoint {
  UncertainConstants constants;
  std::vector<ConstantSample> samples;
};

SampledPoint sample_point(const PreparedPoint& point, const SampleOptions& options) {
  if (point.run != nullptr) {
    return {};  // no design point: nothing in it varies
  }
  DesignPoint read;
  SampledPoint sampled{
      uncertain_constants(read_fields(point.config, [&](FieldVisitor& v) { read.fields(v); })), {}};
  sampled.samples = draw_samples(point.config, sampled.constants.varied, options);
  return sampled;
}

/// The points with their samples behind each of them.
std::vector<PreparedPoint> all_runs(const std::vector<PreparedPoint>& points,
                                    const std::vector<SampledPoint>& sampled) {
  std::vector<PreparedPoint> runs;
  for (std::size_t p = 0; p < points.size(); ++p) {
    runs.push_back(points[p]);
    for (std::size_t i = 0; i < sampled[p].samples.size(); ++i) {
      runs.push_back({fmt::format("{}: sample {}", points[p].origin, i + 1), points[p].name,
                      sampled[p].samples[i].config});
    }
  }
  return runs;
}

SampleResult result_of(const PointOutcome& outcome) {
  if (!outcome.has_record()) {
    return {"refused", "refused: " + outcome.problem, std::nullopt};
  }
  // A figure keeps thousands of these.
  json document = json::parse(outcome.record_text);
  document.erase("config");
  document.erase("constants");
  for (json& metric : document.at("metrics")) {
    metric["doc"] = "";
  }
  RecordView record(std::move(document));
  std::string status = record.status();
  std::string why_not = record.why_not_run();
  return {std::move(status), std::move(why_not), std::move(record)};
}

json intervals_as_json(const std::vector<SampleResult>& samples) {
  std::map<std::string, std::vector<double>> values;
  for (const SampleResult& sample : samples) {
    if (sample.ran()) {
      for (const Metric& metric : sample.record->metrics()) {
        values[metric.name].push_back(metric.value);
      }
    }
  }
  json intervals = json::object();
  for (auto& [name, found] : values) {
    const Range interval = interval_of(std::move(found));
    intervals[name] = {interval.lowest, interval.highest};
  }
  return intervals;
}

json samples_as_json(const SampledPoint& point, const std::vector<SampleResult>& results,
                     const SampleOptions& options) {
  const auto paths = [](const std::vector<ConstantUse>& constants) {
    json list = json::array();
    for (const ConstantUse& use : constants) {
      list.push_back(use.path);
    }
    return list;
  };
  std::map<std::string, int> did_not_run;
  int ran = 0;
  for (const SampleResult& result : results) {
    ran += result.ran() ? 1 : 0;
    if (!result.ran()) {
      ++did_not_run[result.record ? result.why_not : result.status];
    }
  }
  return {{"count", options.count},
          {"seed", options.seed},
          {"ran", ran},
          {"did_not_run", did_not_run},
          {"varied", paths(point.constants.varied)},
          {"held", paths(point.constants.held)},
          {"intervals", intervals_as_json(results)}};
}

std::string table_of(const SampledPoint& point, const std::vector<SampleResult>& results) {
  std::vector<std::string> header{"sample", "status", "why_not"};
  for (const ConstantUse& use : point.constants.varied) {
    header.push_back(csv_column(use.path, si_unit_name(use.number->type)));
  }
  const auto metrics_of = [](const SampleResult& result) {
    return result.record ? result.record->metrics() : std::vector<Metric>{};
  };
  std::map<std::string, std::size_t> columns;  // of metrics, by name
  for (const SampleResult& result : results) {
    for (const Metric& metric : metrics_of(result)) {
      if (columns.emplace(metric.name, header.size()).second) {
        header.push_back(csv_column(metric.name, metric.unit));
      }
    }
  }
  std::string text = csv_line(header);
  for (std::size_t i = 0; i < results.size(); ++i) {
    std::vector<std::string> cells{fmt::format("{}", i + 1), results[i].status, results[i].why_not};
    for (std::size_t c = 0; c < point.constants.varied.size(); ++c) {
      cells.push_back(csv_number(point.samples[i].values[c] *
                                 si_units_of(point.constants.varied[c].number->type)));
    }
    cells.resize(header.size());
    for (const Metric& metric : metrics_of(results[i])) {
      cells[columns.at(metric.name)] = csv_number(metric.value);
    }
    text += csv_line(cells);
  }
  return text;
}

/// Takes the outcomes of the point and of its samples.
SampledOutcome gather(const SampledPoint& point, const SampleOptions& options,
                      std::vector<PointOutcome> outcomes) {
  SampledOutcome gathered;
  gathered.nominal = std::move(outcomes.front());
  for (std::size_t i = 1; i < outcomes.size(); ++i) {
    const ChildEnd end = outcomes[i].end;
    if (end != ChildEnd::finished && end != ChildEnd::user_error &&
        gathered.nominal.has_finished()) {
      gathered.nominal.end = end;
      gathered.nominal.problem = outcomes[i].problem;
      gathered.nominal.record_text.clear();
    }
    gathered.samples.push_back(result_of(outcomes[i]));
  }
  if (gathered.nominal.has_finished() && !gathered.samples.empty()) {
    json record = json::parse(gathered.nominal.record_text);
    record["samples"] = samples_as_json(point, gathered.samples, options);
    gathered.nominal.record_text = json_text(record);
    gathered.table = table_of(point, gathered.samples);
  }
  return gathered;
}

}  // namespace

Range interval_of(std::vector<double> values) {
  constexpr double kLow = 5;  // percent
  constexpr double kHigh = 95;
  std::sort(values.begin(), values.end());
  return {percentile(values, kLow), percentile(values, kHigh)};
}

std::vector<PointOutcome> nominal_outcomes(const std::vector<SampledOutcome>& outcomes) {
  std::vector<PointOutcome> nominal;
  for (const SampledOutcome& outcome : outcomes) {
    nominal.push_back(outcome.nominal);
  }
  return nominal;
}

std::vector<SampledOutcome> run_sampled(const std::vector<PreparedPoint>& points,
                                        const SampleOptions& samples,
                                        const RunPointsOptions& options) {
  std::vector<SampledPoint> sampled;
  for (const PreparedPoint& point : points) {
    sampled.push_back(sample_point(point, samples));
  }
  std::vector<PointOutcome> outcomes = run_points(all_runs(points, sampled), options);
  std::vector<SampledOutcome> gathered;
  auto next = std::make_move_iterator(outcomes.begin());
  for (const SampledPoint& point : sampled) {
    const auto end = next + static_cast<std::ptrdiff_t>(1 + point.samples.size());
    gathered.push_back(gather(point, samples, {next, end}));
    next = end;
  }
  return gathered;
}

}  // namespace nearkv
