#include "sim/app/summary.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
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

std::string speed(const RecordView& record) {
  using Align = TextTable::Align;
  TextTable table({{"", Align::left}, {"", Align::left}});
  table.row({"throughput", with_bound(record, "throughput", "token/s")});
  if (!record.metric("prefill_time").has_value()) {
    return table.text(kIndent);  // of a system that mixes prefill and decode
  }
  table.row({"prefill, to the first token", with_bound(record, "prefill_time", "s")});
  table.row({"decode", with_bound(record, "decode_time", "s")});
  table.row({"decode step, mean", with_bound(record, "tpot", "s")});
  const double steps = record.metric("decode_steps").value_or(0);
  const double simulated = record.metric("decode_steps_simulated").value_or(0);
  table.row(
      {"fidelity", fmt::format("{}; {:g} of {:g} decode steps simulated",
                               config_text(record, "/simulation/fidelity"), simulated, steps)});
  return table.text(kIndent);
}

std::string phases(const RecordView& record) {
  const std::vector<Metric> parts = record.metrics_below("decode/phase/");
  const double whole =
      std::accumulate(parts.begin(), parts.end(), 0.0,
                      [](double sum, const Metric& phase) { return sum + phase.value; });
  if (whole <= 0) {
    return "";
  }
  using Align = TextTable::Align;
  TextTable table({{"", Align::left}, {"", Align::left}, {"", Align::right}, {"", Align::right}});
  for (const Metric& part : parts) {
    table.row({part.name, share_bar(part.value / whole, kBarWidth),
               format_percent(part.value / whole), format_metric(part.value, part.unit, kDigits)});
  }
  return fmt::format("\nwhere the decode time went\n{}", table.text(kIndent));
}

std::string utilization(const RecordView& record) {
  constexpr double kIdle = 0.0005;  // prints as 0.0 %
  using Align = TextTable::Align;
  TextTable table({{"", Align::left}, {"", Align::left}, {"", Align::right}});
  int idle = 0;
  for (const Metric& part : record.metrics_below("utilization/")) {
    if (part.value < kIdle) {
      ++idle;
      continue;
    }
    table.row({part.name, share_bar(part.value, kBarWidth), format_percent(part.value)});
  }
  std::string text = fmt::format(
      "\nutilization{}\n{}",
      record.metric("decode_time").has_value() ? " over the decode time" : "", table.text(kIndent));
  if (idle > 0) {
    text += fmt::format("  ({} more below 0.05 %)\n", idle);
  }
  return text;
}

std::string amounts(const std::string& title, const std::vector<Metric>& parts) {
  if (parts.empty()) {
    return "";
  }
  TextTable table({{"", TextTable::Align::left}, {"", TextTable::Align::right}});
  for (const Metric& part : parts) {
    table.row({part.name, format_metric(part.value, part.unit, kDigits)});
  }
  return fmt::format("\n{}\n{}", title, table.text(kIndent));
}

std::string energy_and_cost(const RecordView& record) {
  const double whole = record.metric("energy_per_token").value_or(0);
  if (whole <= 0) {
    return "";
  }
  using Align = TextTable::Align;
  TextTable parts({{"", Align::left}, {"", Align::left}, {"", Align::right}, {"", Align::right}});
  for (const Metric& part : record.metrics_below("energy_per_token/")) {
    parts.row({part.name, share_bar(part.value / whole, kBarWidth),
               format_percent(part.value / whole), format_metric(part.value, "J", kDigits)});
  }
  const auto dollars = [&record](const char* name) {
    return format_metric(record.metric(name).value_or(0), "USD", kDigits);
  };
  return fmt::format(
      "\nenergy of an output token: {} (average power {})\n{}"
      "\ncost of a million output tokens: {} ({} of the system's {}, {} of electricity)\n",
      format_metric(whole, "J", kDigits),
      format_metric(record.metric("average_power").value_or(0), "W", kDigits), parts.text(kIndent),
      dollars("cost_per_million_tokens"), dollars("cost/capital"), dollars("system_price"),
      dollars("cost/electricity"));
}

std::string provenance(const RecordView& record) {
  const auto count = [&record](const char* source) { return record.constants(source).size(); };
  std::string text = fmt::format(
      "\nconstants that no datasheet, paper or measurement gives: {} assumed, {} fit, {} override\n"
      "(--constants lists them with their reasons; the record has them under /constants)\n",
      count("assumed"), count("fit"), count("override"));
  for (const std::string& note : record.notes()) {
    bool is_first = true;
    for (const std::string& line : wrap_text(note, kTerminalColumns - 6)) {
      text += (is_first ? "note: " : "      ") + line + "\n";
      is_first = false;
    }
  }
  return text;
}

}  // namespace

std::string constants_table(const RecordView& record) {
  using Align = TextTable::Align;
  TextTable table({{"constant", Align::left},
                   {"value", Align::right},
                   {"source", Align::left},
                   {"why", Align::left}});
  for (const char* source : {"assumed", "fit", "override"}) {
    for (const ConstantUse& constant : record.constants(source)) {
      table.row({constant.path, constant.value, constant.source, constant.citation});
    }
  }
  return table.text();
}

std::string summary_of(const RecordView& record) {
  std::string text = headline(record);
  if (!record.is_ok()) {
    text += fmt::format("  {}\n", record.status_detail());
  } else {
    text += speed(record) + request_summary(record) + phases(record) + utilization(record) +
            energy_and_cost(record);
  }
  text += amounts("memory high-water marks", record.metrics_below("high_water/"));
  text += provenance(record);
  return text;
}

}  // namespace nearkv
