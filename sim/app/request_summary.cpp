#include "sim/app/request_summary.hpp"

#include <array>
#include <optional>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "sim/app/point.hpp"
#include "sim/app/table.hpp"

namespace nearkv {

namespace {

using Align = TextTable::Align;

constexpr std::size_t kIndent = 2;
constexpr int kDigits = 4;

/// A value of /workload; "?" where it has none.
std::string workload_value(const RecordView& record, const char* key) {
  const nlohmann::json::json_pointer path(fmt::format("/workload/{}", key));
  if (!record.config().contains(path)) {
    return "?";
  }
  const nlohmann::json& value = plain_value(record.config().at(path));
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string cell(const RecordView& record, const std::string& name) {
  const std::optional<double> value = record.metric(name);
  return value.has_value() ? format_metric(*value, "s", kDigits) : "-";
}

std::string interval_cell(const RecordView& record, const std::string& name) {
  const std::optional<Range> interval = record.interval(name);
  return interval ? format_metric_range(interval->lowest, interval->highest, "s") : "";
}

std::string latency_table(const RecordView& record) {
  struct Row {
    const char* metric;
    const char* label;
  };
  constexpr std::array kRows{Row{"queueing", "waits for its batch"},
                             Row{"ttft", "to the first token"}, Row{"tpot", "a further token"},
                             Row{"end_to_end", "to the last token"}};
  TextTable table({{"a request", Align::left},
                   {"mean", Align::right},
                   {"p50", Align::right},
                   {"p90", Align::right},
                   {"p95", Align::right},
                   {"p99", Align::right}});
  for (const auto& [metric, label] : kRows) {
    if (!record.metric(metric).has_value()) {
      continue;
    }
    std::vector<std::string> cells{label, cell(record, metric)};
    std::vector<std::string> intervals{"  90 % of the samples", interval_cell(record, metric)};
    for (const char* percentile : {"p50", "p90", "p95", "p99"}) {
      const std::string name = fmt::format("{}/{}", metric, percentile);
      cells.push_back(cell(record, name));
      intervals.push_back(interval_cell(record, name));
    }
    table.row(cells);
    if (!record.samples().is_null()) {
      table.row(intervals);
    }
  }
  return table.text(kIndent);
}

}  // namespace

std::string workload_text(const RecordView& record) {
  const std::string kind = workload_value(record, "kind");
  if (kind != "lengths" && kind != "trace") {
    return fmt::format("batch {}, {} + {} tokens", workload_value(record, "batch"),
                       workload_value(record, "prompt_tokens"),
                       workload_value(record, "output_tokens"));
  }
  const std::optional<double> served = record.metric("requests");
  return fmt::format(
      "{} requests{}",
      served.has_value() ? fmt::format("{:g}", *served) : workload_value(record, "requests"),
      kind == "trace" ? " of " + workload_value(record, "file") : "");
}

std::string request_summary(const RecordView& record) {
  if (!record.metric("requests").has_value()) {
    return "";
  }
  const auto in_unit = [&record](const char* name, std::string_view unit) {
    const std::optional<Range> interval = record.interval(name);
    return format_metric(record.metric(name).value_or(0), unit, kDigits) +
           (interval ? fmt::format(" [{}]",
                                   format_metric_range(interval->lowest, interval->highest, unit))
                     : "");
  };
  std::string text =
      fmt::format("\nrequests: {}, all served in {}\n{}", in_unit("request_rate", "request/s"),
                  in_unit("makespan", "s"), latency_table(record));
  if (const std::optional<double> share = record.metric("requests_in_limits")) {
    text += fmt::format("  goodput {} ({}), {} of the requests keep the limits\n",
                        in_unit("goodput", "request/s"), in_unit("goodput_tokens", "token/s"),
                        format_percent(*share));
  }
  return text;
}

}  // namespace nearkv
