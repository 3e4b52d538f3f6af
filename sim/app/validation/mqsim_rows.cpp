// The rows of a file of MQSim points: what MQSim printed, and what the models say.
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "sim/app/validation/mqsim_suite.hpp"
#include "sim/app/validation/table_rows.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

constexpr double kLatencyTolerance = 0.001;   // of unloaded latencies
constexpr double kLoadTolerance = 0.005;      // of mean responses and bandwidths of reads
constexpr double kMixedTolerance = 0.02;      // the same with writes among them
constexpr double kCollectionTolerance = 0.1;  // the same with garbage collection
constexpr double kPercent = 100;

void add_rows(Table& table, const std::string& run, const MqsimPoint& point) {
  const MqsimParameters& p = point.parameters;
  const MqsimFigures& reference = point.reference;
  const bool is_unloaded = p.integer("workload", "Average_No_of_Reqs_in_Queue") == 1;
  const bool is_mixed = p.number("workload", "Read_Percentage") < kPercent;
  const double tolerance = is_mixed      ? kMixedTolerance
                           : is_unloaded ? kLatencyTolerance
                                         : kLoadTolerance;
  const auto add = [&](std::string_view figure, std::string_view unit, double expected,
                       double within, bool may_be_looser) {
    TableRow row{.id = fmt::format("{} {}", point.name, figure),
                 .text = {},
                 .group = std::string(figure),
                 .unit = std::string(unit),
                 .note = {},
                 .expression = fmt::format("{}.\"{}\"", run, figure),
                 .role = RowRole::test,
                 .reference = expected,
                 .tolerance = within,
                 .looser_if = {},
                 .looser_tolerance = kCollectionTolerance};
    if (is_mixed && may_be_looser) {
      row.looser_if = run + ".collections > 0";
    }
    table.rows.push_back(std::move(row));
  };
  add("mean response", "us", reference.mean_us, tolerance, true);
  add("bandwidth", "MB/s", reference.bandwidth_mbps, tolerance, true);
  add("least response", "us", reference.least_us, kLatencyTolerance, false);
  if (reference.mean_read_us) {
    add("mean read", "us", *reference.mean_read_us, tolerance, true);
  }
  if (reference.mean_write_us) {
    add("mean write", "us", *reference.mean_write_us, tolerance, true);
  }
}

}  // namespace

Table read_mqsim_table(const TableSpec& spec) {
  const MqsimFile file = read_mqsim_file(spec.file);
  Table table{.source = file.reference, .runs = {}, .rows = {}, .not_covered = {}};
  for (std::size_t i = 0; i < file.points.size(); ++i) {
    const MqsimPoint& point = file.points[i];
    try {
      if (std::string reason = reason_not_covered(point.parameters); !reason.empty()) {
        table.not_covered.push_back({point.name, std::move(reason)});
        continue;
      }
      // Mistakes in the parameters are told before anything runs.
      static_cast<void>(mqsim_ssd(point.parameters, file.timing));
      const std::string run = fmt::format("point_{}", i);
      add_rows(table, run, point);
      table.runs[run].point = PreparedPoint{
          .origin = spec.file,
          .name = point.name,
          .config = {{"parameters", point.parameters.values()},
                     {"timing_constants", file.timing.values()},
                     {"where", point.parameters.where()}},
          .run = simulate_mqsim,
      };
    } catch (const ConfigError& error) {
      throw ConfigError(fmt::format("{}: {}", spec.file, error.what()));
    }
  }
  return table;
}

}  // namespace nearkv
