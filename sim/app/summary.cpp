#include "sim/app/summary.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/app/point.hpp"
#include "sim/app/request_summary.hpp"
#include "sim/app/table.hpp"

namespace nearkv {

namespace {

constexpr std::size_t kBarWidth = 30;
constexpr std::size_t kIndent = 2;
constexpr int kDigits = 4;

std::string config_text(const RecordView& record, const std::string& pointer) {
  const nlohmann::json::json_pointer path(pointer);
  if (!record.config().contains(path)) {
    return "?";
  }
  const nlohmann::json& value = plain_value(record.config().at(path));
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string headline(const RecordView& record) {
  return fmt::format("{}: {}, {}, {}\n", record.name(), config_text(record, "/system/kind"),
                     config_text(record, "/model/name"), workload_text(record));
}

/// "5.431 token/s +- 0.2 %".
std::string with_bound(const RecordView& record, const std::string& name, std::string_view unit) {
  const std::optional<Bounded> number = record.bounded(name);
  if (!number.has_value()) {
    return "-";
  }
  std::string text = format_metric(number->value, unit, kDigits);
  if (!number->is_exact() && number->value > 0) {
    text += fmt::format(" +- {} %", format_significant(number->bound() / number->value * 100, 2));
  }
  return text;
}

/// What 90 % of the samples gave; empty where there are none.
std::string interval_text(const RecordView& record, const std::string& name,
                          std::string_view unit) {
  const std::optional<Range> interval = record.interval(name);
  return interval ? format_metric_range(interval->lowest, interval->highest, unit) : "";
}

/// A table with a last column of intervals where the record has samples.
class ResultTable {
 public:
  ResultTable(const RecordView& record, const std::vector<TextTable::Align>& aligns)
      : has_samples_(!record.samples().is_null()), table_(columns(aligns)) {}

  void row(std::vector<std::string> cells, std::string interval) {
    if (has_samples_) {
      cells.push_back(std::move(interval));
    }
    table_.row(std::move(cells));
  }
  [[nodiscard]] std::string text() const { return table_.text(kIndent); }

 private:
  [[nodiscard]] std::vector<TextTable::Column> columns(
      const std::vector<TextTable::Align>& aligns) const {
    std::vector<TextTable::Column> columns;
    for (const TextTable::Align align : aligns) {
      columns.push_back({"", align});
    }
    if (has_samples_) {
      columns.push_back({"90 % of the samples", TextTable::Align::left});
    }
    return columns;
  }

  bool has_samples_;
  TextTable table_;
};

constexpr TextTable::Align kLeft = TextTable::Align::left;
constexpr TextTable::Align kRight = TextTable::Align::right;

std::string speed(const RecordView& record) {
  ResultTable table(record, {kLeft, kLeft});
  const auto row = [&](const char* label, const std::string& name, std::string_view unit) {
    table.row({label, with_bound(record, name, unit)}, interval_text(record, name, unit));
  };
  row("throughput", "throughput", "token/s");
  if (!record.metric("prefill_time").has_value()) {
    return table.text();  // of a system that mixes prefill and decode
  }
  row("prefill, to the first token", "prefill_time", "s");
  row("decode", "decode_time", "s");
  row("decode step, mean", "tpot", "s");
  const double steps = record.metric("decode_steps").value_or(0);
  const double simulated = record.metric("decode_steps_simulated").value_or(0);
  table.row(
      {"fidelity", fmt::format("{}; {:g} of {:g} decode steps simulated",
                               config_text(record, "/simulation/fidelity"), simulated, steps)},
      "");
  return table.text();
}

std::string phases(const RecordView& record) {
  const std::vector<Metric> parts = record.metrics_below("decode/phase/");
  const double whole =
      std::accumulate(parts.begin(), parts.end(), 0.0,
                      [](double sum, const Metric& phase) { return sum + phase.value; });
  if (whole <= 0) {
    return "";
  }
  ResultTable table(record, {kLeft, kLeft, kRight, kRight});
  for (const Metric& part : parts) {
    table.row({part.name, share_bar(part.value / whole, kBarWidth),
               format_percent(part.value / whole), format_metric(part.value, part.unit, kDigits)},
              interval_text(record, "decode/phase/" + part.name, part.unit));
  }
  return fmt::format("\nwhere the decode time went\n{}", table.text());
}

/// What faults did, if the design point has any.
std::string faults(const RecordView& record) {
  if (!record.metric("faults/time_during").has_value()) {
    return "";
  }
  ResultTable table(record, {kLeft, kRight});
  const auto row = [&](const char* what, const std::string& name, const char* unit) {
    if (const std::optional<double> value = record.metric(name); value.has_value()) {
      table.row({what, format_metric(*value, unit, kDigits)}, interval_text(record, name, unit));
    }
  };
  row("before the first one", "faults/throughput_before", "token/s");
  row("while one was there", "faults/throughput_during", "token/s");
  row("afterwards", "faults/throughput_after", "token/s");
  row("time while one was there", "faults/time_during", "s");
  row("of it, recovering", "faults/recovery_time", "s");
  row("tokens computed again", "faults/recomputed_tokens", "1");
  row("flash pages lost", "faults/lost_pages", "1");
  if (!record.is_ok()) {
    row("tokens until it ended", "faults/decoded_tokens", "1");
  }
  return fmt::format("\nfaults, and tokens decoded\n{}", table.text());
}

std::string utilization(const RecordView& record) {
  constexpr double kIdle = 0.0005;  // prints as 0.0 %
  ResultTable table(record, {kLeft, kLeft, kRight});
  int idle = 0;
  for (const Metric& part : record.metrics_below("utilization/")) {
    if (part.value < kIdle) {
      ++idle;
      continue;
    }
    const std::optional<Range> interval = record.interval("utilization/" + part.name);
    table.row({part.name, share_bar(part.value, kBarWidth), format_percent(part.value)},
              interval ? fmt::format("{} to {}", format_percent(interval->lowest),
                                     format_percent(interval->highest))
                       : "");
  }
  std::string text = fmt::format(
      "\nutilization{}\n{}",
      record.metric("decode_time").has_value() ? " over the decode time" : "", table.text());
  if (idle > 0) {
    text += fmt::format("  ({} more below 0.05 %)\n", idle);
  }
  return text;
}

std::string high_water(const RecordView& record) {
  const std::vector<Metric> parts = record.metrics_below("high_water/");
  if (parts.empty()) {
    return "";
  }
  ResultTable table(record, {kLeft, kRight});
  for (const Metric& part : parts) {
    table.row({part.name, format_metric(part.value, part.unit, kDigits)},
              interval_text(record, "high_water/" + part.name, part.unit));
  }
  return fmt::format("\nmemory high-water marks\n{}", table.text());
}

std::string energy_and_cost(const RecordView& record) {
  const double whole = record.metric("energy_per_token").value_or(0);
  if (whole <= 0) {
    return "";
  }
  ResultTable parts(record, {kLeft, kLeft, kRight, kRight});
  for (const Metric& part : record.metrics_below("energy_per_token/")) {
    parts.row({part.name, share_bar(part.value / whole, kBarWidth),
               format_percent(part.value / whole), format_metric(part.value, "J", kDigits)},
              interval_text(record, "energy_per_token/" + part.name, "J"));
  }
  // "512.3 W", and "512.3 W [480 to 560 W]" with samples.
  const auto amount = [&record](const char* name, std::string_view unit) {
    const std::string interval = interval_text(record, name, unit);
    return format_metric(record.metric(name).value_or(0), unit, kDigits) +
           (interval.empty() ? "" : fmt::format(" [{}]", interval));
  };
  // With intervals the sentences are long.
  const std::size_t width = record.samples().is_null() ? std::string::npos : kTerminalColumns;
  const std::string energy =
      fmt::format("energy of an output token: {} (average power {})",
                  amount("energy_per_token", "J"), amount("average_power", "W"));
  const std::string cost =
      fmt::format("cost of a million output tokens: {} ({} of the system's {}, {} of electricity)",
                  amount("cost_per_million_tokens", "USD"), amount("cost/capital", "USD"),
                  amount("system_price", "USD"), amount("cost/electricity", "USD"));
  return fmt::format("\n{}\n{}\n{}\n", fmt::join(wrap_text(energy, width), "\n"), parts.text(),
                     fmt::join(wrap_text(cost, width), "\n  "));
}

std::string wrapped(const std::string& first, const std::string& text) {
  std::string lines;
  for (const std::string& line : wrap_text(text, kTerminalColumns - first.size())) {
    lines += (lines.empty() ? first : std::string(first.size(), ' ')) + line + "\n";
  }
  return lines;
}

/// "/csd/0/flash/t_read" is flash/t_read of the part /csd/0, "/host/dram_rate" dram_rate of /host.
std::size_t length_of_part(const std::string& path) {
  const std::size_t end = path.find('/', 1);
  const bool has_index =
      end + 1 < path.size() && std::isdigit(static_cast<unsigned char>(path[end + 1])) != 0;
  return has_index ? path.find('/', end + 1) : end;
}

/// The constants that no interval says anything about, by part.
std::string held_text(const std::vector<std::string>& held) {
  std::vector<std::pair<std::string, std::string>> parts;
  for (const std::string& path : held) {
    const std::size_t length = std::min(length_of_part(path), path.size());
    const std::string part = path.substr(0, length);
    if (parts.empty() || parts.back().first != part) {
      parts.emplace_back(part, "");
    }
    std::string& names = parts.back().second;
    names += (names.empty() ? "" : " ") + path.substr(std::min(length + 1, path.size()));
  }
  std::string text;
  for (const auto& [part, names] : parts) {
    text += wrapped(fmt::format("  {}: ", part), names);
  }
  return text;
}

/// What varied, what did not, and what became of the samples.
std::string samples_text(const RecordView& record) {
  const nlohmann::json& samples = record.samples();
  if (samples.is_null()) {
    return "";
  }
  const auto held = samples.at("held").get<std::vector<std::string>>();
  std::string text = fmt::format(
      "\n{} of {} samples ran (seed {}), each with its own values of {} fit and assumed "
      "constants\n",
      samples.at("ran").get<int>(), samples.at("count").get<int>(),
      samples.at("seed").get<std::uint64_t>(), samples.at("varied").size());
  for (const auto& [why, count] : samples.at("did_not_run").items()) {
    text += fmt::format("  {}: {}\n", why, count.get<int>());
  }
  if (!record.is_ok()) {
    const std::string interval = interval_text(record, "throughput", "token/s");
    text += interval.empty() ? "" : fmt::format("  throughput of those that ran: {}\n", interval);
  }
  return text + (held.empty() ? ""
                              : fmt::format("held, as they have no interval ({}):\n{}", held.size(),
                                            held_text(held)));
}

std::string provenance(const RecordView& record) {
  const auto count = [&record](const char* source) { return record.constants(source).size(); };
  std::string text = fmt::format(
      "\nconstants that no datasheet, paper or measurement gives: {} assumed, {} fit, {} override\n"
      "(--constants lists them with their reasons; the record has them under /constants)\n",
      count("assumed"), count("fit"), count("override"));
  for (const std::string& note : record.notes()) {
    text += wrapped("note: ", note);
  }
  return text;
}

}  // namespace

std::string constants_table(const RecordView& record) {
  using Align = TextTable::Align;
  TextTable table({{"constant", Align::left},
                   {"value", Align::right},
                   {"90 % interval", Align::left},
                   {"source", Align::left},
                   {"why", Align::left}});
  for (const char* source : {"assumed", "fit", "override"}) {
    for (const ConstantUse& constant : record.constants(source)) {
      table.row(
          {constant.path, constant.value, constant.interval, constant.source, constant.citation});
    }
  }
  return table.text();
}

std::string summary_of(const RecordView& record) {
  std::string text = headline(record);
  if (!record.is_ok()) {
    text += fmt::format("  {}\n", record.status_detail()) + faults(record);
  } else {
    text += speed(record) + request_summary(record) + phases(record) + faults(record) +
            utilization(record) + energy_and_cost(record);
  }
  return text + high_water(record) + samples_text(record) + provenance(record);
}

}  // namespace nearkv
