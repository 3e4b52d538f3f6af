#include "sim/app/record_view.hpp"

#include <utility>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

/// Metrics that shrink as the decode time grows, and those that grow with it, with the time that
/// each is a rate over or a share of.
enum class Dependence { none, throughput, decode_throughput, proportional };

Dependence dependence_on_decode_time(std::string_view name) {
  if (name == "throughput") {
    return Dependence::throughput;
  }
  if (name == "decode_throughput") {
    return Dependence::decode_throughput;
  }
  const bool is_time = name == "decode_time" || name == "tpot";
  return is_time ? Dependence::proportional : Dependence::none;
}

}  // namespace

RecordView::RecordView(nlohmann::json record) : record_(std::move(record)) {
  constexpr int kFormat = 1;
  if (!record_.is_object() || record_.value("record_format", 0) != kFormat) {
    throw ConfigError(fmt::format("/record_format: must be {}; is this a run record?", kFormat));
  }
  for (const auto& metric : record_.at("metrics")) {
    metrics_.push_back({metric.at("name").get<std::string>(), metric.at("value").get<double>(),
                        metric.at("unit").get<std::string>(), metric.at("doc").get<std::string>()});
  }
  if (!samples().is_null()) {
    for (const auto& [name, ends] : samples().at("intervals").items()) {
      intervals_[name] = {ends.at(0).get<double>(), ends.at(1).get<double>()};
    }
  }
}

std::string RecordView::name() const { return record_.at("name").get<std::string>(); }

bool RecordView::is_ok() const { return status() == name_of(RunStatus::ok); }

std::string RecordView::status() const { return record_.at("status").get<std::string>(); }

std::string RecordView::overflowed_memory() const {
  if (status() != name_of(RunStatus::out_of_memory)) {
    return "";
  }
  // "out_of_memory: VRAM: prefill needs ...", with or without the first word.
  std::string detail = status_detail();
  const std::string first = status() + ": ";
  if (detail.starts_with(first)) {
    detail.erase(0, first.size());
  }
  return detail.substr(0, detail.find(':'));
}

std::string RecordView::why_not_run() const {
  const std::string memory = overflowed_memory();
  return is_ok() ? "" : memory.empty() ? status() : fmt::format("out of memory ({})", memory);
}

std::string RecordView::status_detail() const {
  return record_.at("status_detail").get<std::string>();
}

std::optional<double> RecordView::metric(std::string_view name) const {
  for (const Metric& metric : metrics_) {
    if (metric.name == name) {
      return metric.value;
    }
  }
  return std::nullopt;
}

std::vector<Metric> RecordView::metrics_below(std::string_view prefix) const {
  std::vector<Metric> found;
  for (const Metric& metric : metrics_) {
    if (metric.name.starts_with(prefix)) {
      found.push_back(metric);
      found.back().name.erase(0, prefix.size());
    }
  }
  return found;
}

std::optional<Bounded> RecordView::bounded(std::string_view name) const {
  const std::optional<double> value = metric(name);
  if (!value.has_value()) {
    return std::nullopt;
  }
  const double bound = metric("decode_time_bound").value_or(0);
  const double decode = metric("decode_time").value_or(0);
  const Dependence dependence = dependence_on_decode_time(name);
  if (bound <= 0 || dependence == Dependence::none) {
    return Bounded{*value, *value, *value};
  }
  check(bound < decode, "the error bound of the decode time is not below the decode time");
  if (dependence == Dependence::proportional) {
    return Bounded{*value, *value * (1 - bound / decode), *value * (1 + bound / decode)};
  }
  const double prefill = metric("prefill_time").value_or(0);
  const double time = dependence == Dependence::throughput ? prefill + decode : decode;
  return Bounded{*value, *value * time / (time + bound), *value * time / (time - bound)};
}

std::optional<Range> RecordView::interval(std::string_view name) const {
  const auto found = intervals_.find(name);
  return found == intervals_.end() ? std::nullopt : std::optional(found->second);
}

const nlohmann::json& RecordView::samples() const {
  static const nlohmann::json kNone;
  return record_.contains("samples") ? record_.at("samples") : kNone;
}

std::vector<std::string> RecordView::notes() const {
  return record_.at("notes").get<std::vector<std::string>>();
}

std::vector<ConstantUse> RecordView::constants(std::string_view source) const {
  std::vector<ConstantUse> uses;
  for (const auto& constant : record_.at("constants").at(std::string(source))) {
    uses.push_back({constant.at("path").get<std::string>(), constant.at("value").get<std::string>(),
                    std::string(source), constant.at("citation").get<std::string>(),
                    constant.value("interval", "")});
  }
  return uses;
}

}  // namespace nearkv
