#include "sim/app/replay_output.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "build_info.hpp"
#include "sim/app/csv.hpp"
#include "sim/app/table.hpp"

namespace nearkv {

namespace {

using traces::AccessKind;
using Align = TextTable::Align;

constexpr std::size_t kIndent = 2;
constexpr std::size_t kBarWidth = 40;
constexpr std::array kKinds{AccessKind::read, AccessKind::write, AccessKind::trim};

/// Name and latencies of all that occurred.
std::vector<std::pair<std::string, const LatencyHistogram*>> histograms(
    const ReplayResult& result) {
  std::vector<std::pair<std::string, const LatencyHistogram*>> all;
  for (const AccessKind kind : kKinds) {
    all.emplace_back(name_of(kind), &result.stats.latency(kind));
  }
  all.emplace_back("batch", &result.batches);
  std::erase_if(all, [](const auto& entry) { return entry.second->count() == 0; });
  return all;
}

std::string metric_text(const Metrics& metrics, const std::string& name) {
  for (const Metric& metric : metrics.all()) {
    if (metric.name == name) {
      return format_metric(metric.value, metric.unit);
    }
  }
  return "-";
}

std::string traffic_table(const ReplayResult& result) {
  const Metrics& metrics = result.record.outcome.metrics;
  TextTable table({{"", Align::left},
                   {"requests", Align::right},
                   {"bytes", Align::right},
                   {"bandwidth", Align::right},
                   {"IOPS", Align::right}});
  for (const AccessKind kind : kKinds) {
    if (result.stats.requests(kind) > 0) {
      const std::string prefix = std::string(name_of(kind)) + "/";
      table.row({std::string(name_of(kind)), fmt::format("{}", result.stats.requests(kind)),
                 metric_text(metrics, prefix + "bytes"), metric_text(metrics, prefix + "bandwidth"),
                 format_significant(metrics.at(prefix + "iops"))});
    }
  }
  return table.is_empty() ? "" : "\n" + table.text(kIndent);
}

std::string latency_table(const ReplayResult& result) {
  const Metrics& metrics = result.record.outcome.metrics;
  constexpr std::array kColumns{"mean", "min", "p50", "p95", "p99", "p99.9", "max"};
  std::vector<TextTable::Column> columns{{"latency", Align::left}};
  for (const char* column : kColumns) {
    columns.push_back({column, Align::right});
  }
  TextTable table(columns);
  for (const auto& [name, latency] : histograms(result)) {
    std::vector<std::string> cells{name};
    for (const char* column : kColumns) {
      cells.push_back(metric_text(metrics, fmt::format("{}/latency_{}", name, column)));
    }
    table.row(cells);
  }
  return table.is_empty() ? "" : "\n" + table.text(kIndent);
}

/// The metrics that most people ask for; --json has all.
std::string key_metrics(const ReplayResult& result) {
  struct Line {
    const char* metric;
    const char* label;
  };
  constexpr std::array kLines{
      Line{"simulated_time", "simulated time"},
      Line{"attend_commands", "attend commands"},
      Line{"drive/nvme/link_read_utilization", "link towards the host, busy"},
      Line{"drive/nvme/link_write_utilization", "link towards the drive, busy"},
      Line{"drive/flash/channel_utilization", "flash channels, busy"},
      Line{"drive/flash/array_utilization", "flash arrays, busy"},
      Line{"drive/reading_share", "time with pages on their way from flash"},
      Line{"drive/computing_share", "time with heads in the attention kernels"},
      Line{"drive/flash/bandwidth", "read from flash"},
      Line{"drive/flash/pages_read", "flash pages read"},
      Line{"drive/flash/pages_programmed", "flash pages programmed"},
      Line{"drive/flash/blocks_erased", "flash blocks erased"},
      Line{"drive/ftl/write_amplification", "write amplification"},
      Line{"drive/ftl/lowest_erase_count", "erases of a block, least"},
      Line{"drive/ftl/mean_erase_count", "erases of a block, mean"},
      Line{"drive/ftl/highest_erase_count", "erases of a block, most"},
      Line{"drive/ftl/stalled_writes", "pages that waited for a free block"},
      Line{"drive/ftl/unwritten_reads", "reads of pages without data"},
  };
  TextTable table({{"", Align::left}, {"", Align::right}});
  for (const Line& line : kLines) {
    const std::string name = line.metric;
    const std::optional<double> value = result.record.outcome.metrics.find(name);
    if (value.has_value() && *value != 0) {
      const bool is_share = name.ends_with("_utilization") || name.ends_with("_share");
      table.row({line.label, is_share ? format_percent(*value)
                                      : metric_text(result.record.outcome.metrics, name)});
    }
  }
  return table.is_empty() ? "" : "\n" + table.text(kIndent);
}

/// The upper ends of the rows of a text histogram: round numbers, more of them for latencies that
/// are close together.
std::vector<SimDuration> edges_between(SimDuration low, SimDuration high) {
  constexpr std::array<std::int64_t, 10> kFine{100, 125, 160, 200, 250, 315, 400, 500, 630, 800};
  constexpr std::array<std::int64_t, 3> kCoarse{100, 200, 500};
  constexpr std::int64_t kUnit = 100;   // of these
  constexpr std::int64_t kNarrow = 30;  // high / low that is shown with fine rows
  constexpr std::int64_t kMost = INT64_MAX / kUnit / 10;
  const bool is_narrow = high.count() / kNarrow <= low.count();
  std::vector<SimDuration> edges;
  for (std::int64_t decade = 1; decade < kMost && (edges.empty() || edges.back() < high);
       decade *= 10) {
    const auto add = [&](std::int64_t step) {
      const SimDuration edge{ceil_div(decade * step, kUnit)};
      if (edge > low && (edges.empty() || (edge > edges.back() && edges.back() < high))) {
        edges.push_back(edge);
      }
    };
    if (is_narrow) {
      std::for_each(kFine.begin(), kFine.end(), add);
    } else {
      std::for_each(kCoarse.begin(), kCoarse.end(), add);
    }
  }
  return edges;
}

/// Counts by rows; a bucket belongs to where it begins, and what is beyond 99.9 % to the last row.
std::string histogram_text(const std::string& name, const LatencyHistogram& latency) {
  constexpr double kShown = 99.9;
  const std::vector<SimDuration> edges =
      edges_between(latency.percentile(100 - kShown), latency.percentile(kShown));
  std::vector<std::int64_t> counts(edges.size() + 1);
  for (const LatencyHistogram::Bucket& bucket : latency.buckets()) {
    const auto row = std::upper_bound(edges.begin(), edges.end(), bucket.first) - edges.begin();
    counts[static_cast<std::size_t>(row)] += bucket.count;
  }
  if (counts.back() == 0) {
    counts.pop_back();
  }
  const std::int64_t most = *std::max_element(counts.begin(), counts.end());
  TextTable table({{"", Align::right}, {"", Align::left}, {"", Align::right}, {"", Align::right}});
  for (std::size_t row = 0; row < counts.size(); ++row) {
    const double share = static_cast<double>(counts[row]) / static_cast<double>(most);
    std::string bar(static_cast<std::size_t>(std::ceil(share * kBarWidth)), '#');
    table.row(
        {row < edges.size() ? fmt::format("below {}", format_short(edges[row])) : "longer",
         std::move(bar),
         format_percent(static_cast<double>(counts[row]) / static_cast<double>(latency.count())),
         fmt::format("{}", counts[row])});
  }
  return fmt::format("\nlatency of {}\n{}", name == "batch" ? "batches" : name + "s",
                     table.text(kIndent));
}

}  // namespace

std::string replay_summary(const ReplayResult& result) {
  const RunOutcome& outcome = result.record.outcome;
  std::string text =
      fmt::format("replay of {} on {}: {}\n", result.input, result.drive, result.mode);
  if (outcome.status != RunStatus::ok) {
    text += fmt::format("{}: {}\n", name_of(outcome.status), outcome.status_detail);
  }
  text += traffic_table(result) + latency_table(result) + key_metrics(result);
  for (const auto& [name, latency] : histograms(result)) {
    text += histogram_text(name, *latency);
  }
  for (const std::string& note : outcome.notes) {
    text += fmt::format("\nnote: {}", note);
  }
  return outcome.notes.empty() ? text : text + "\n";
}

nlohmann::json replay_json(const ReplayResult& result) {
  nlohmann::json document = result.record.to_json(build_info::kVersion);
  nlohmann::json& all = document["histograms"] = nlohmann::json::object();
  for (const auto& [name, latency] : histograms(result)) {
    nlohmann::json buckets = nlohmann::json::array();
    for (const LatencyHistogram::Bucket& bucket : latency->buckets()) {
      buckets.push_back({{"first_ps", bucket.first.count()},
                         {"last_ps", bucket.last.count()},
                         {"count", bucket.count}});
    }
    all[name] = {{"count", latency->count()},
                 {"percentiles_are_exact", latency->is_exact()},
                 {"buckets", buckets}};
  }
  return document;
}

std::string replay_csv(const ReplayResult& result) {
  std::string text = "kind,first [ps],last [ps],count\n";
  for (const auto& [name, latency] : histograms(result)) {
    for (const LatencyHistogram::Bucket& bucket : latency->buckets()) {
      text += fmt::format("{},{},{},{}\n", csv_cell(name), bucket.first.count(),
                          bucket.last.count(), bucket.count);
    }
  }
  return text;
}

}  // namespace nearkv
