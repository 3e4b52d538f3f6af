#include "models/faults/fault_log.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

FaultLog::FaultLog(std::vector<std::string> labels) {
  for (std::string& label : labels) {
    faults_.push_back({.label = std::move(label)});
  }
}

void FaultLog::tokens(SimTime at, std::int64_t count) {
  check(at >= last_, "tokens that came out before others");
  pieces_.push_back({last_, at, count});
  last_ = at;
}

void FaultLog::pause(SimTime at) { last_ = std::max(last_, at); }

void FaultLog::enter(SimTime at) {
  first_ = first_.value_or(at);
  if (active_++ == 0) {
    active_since_ = at;
  }
}

void FaultLog::leave(SimTime at) {
  check(active_ > 0, "a fault ends that has not begun");
  if (--active_ == 0 && at > active_since_) {
    during_.push_back({active_since_, at});
  }
}

void FaultLog::begins(int fault, SimTime at) {
  Fault& f = faults_.at(static_cast<std::size_t>(fault));
  f.first = f.first.value_or(at);
  ++f.count;
  ++f.active;
  enter(at);
}

void FaultLog::ends(int fault, SimTime at) {
  --faults_.at(static_cast<std::size_t>(fault)).active;
  leave(at);
}

void FaultLog::recovered(int fault, const Recovery& recovery) {
  recovery_time_ += recovery.end - recovery.begin;
  recomputed_tokens_ += recovery.recomputed_tokens;
  lost_pages_ += recovery.lost_pages;
  ends(fault, recovery.end);
}

/// Tokens a second over the spans, which are in order and apart; pieces may lie partly in them.
double FaultLog::throughput_in(const std::vector<Span>& spans, double* time) const {
  double tokens = 0;
  *time = 0;
  auto span = spans.begin();
  for (const Piece& piece : pieces_) {
    if (piece.end == piece.begin) {
      continue;
    }
    while (span != spans.end() && span->end <= piece.begin) {
      ++span;
    }
    for (auto inside = span; inside != spans.end() && inside->begin < piece.end; ++inside) {
      const double common =
          to_seconds(std::min(inside->end, piece.end) - std::max(inside->begin, piece.begin));
      *time += common;
      tokens += static_cast<double>(piece.tokens) * common / to_seconds(piece.end - piece.begin);
    }
  }
  return *time > 0 ? tokens / *time : 0;
}

void FaultLog::report(Metrics& metrics, SimTime end) const {
  std::vector<Span> during = during_;
  if (active_ > 0) {
    during.push_back({active_since_, std::max(end, active_since_)});
  }
  std::vector<Span> after;
  for (std::size_t i = 0; i < during.size(); ++i) {
    after.push_back({during[i].end, i + 1 < during.size() ? during[i + 1].begin : kNever});
  }
  const auto add_throughput = [&](const char* name, const std::vector<Span>& spans,
                                  const char* doc) {
    double time = 0;
    const double throughput = throughput_in(spans, &time);
    if (time > 0) {
      metrics.add(fmt::format("faults/throughput_{}", name), throughput, "token/s", doc);
    }
    return time;
  };
  add_throughput("before", {{SimTime{}, first_.value_or(kNever)}},
                 "tokens of the decode steps until the first fault, over their time");
  const double time_during =
      add_throughput("during", during, "the same while a fault was there or was recovered from");
  add_throughput("after", after, "the same when no fault was there any more");
  std::int64_t decoded = 0;
  for (const Piece& piece : pieces_) {
    decoded += piece.tokens;
  }
  metrics.add("faults/decoded_tokens", static_cast<double>(decoded), "1",
              "tokens of the decode steps that were done");
  metrics.add("faults/time_during", time_during, "s",
              "decoding and recovering while a fault was there");
  metrics.add("faults/recovery_time", to_seconds(recovery_time_), "s",
              "time that recovering from losses took, in which nothing was decoded");
  metrics.add("faults/recomputed_tokens", static_cast<double>(recomputed_tokens_), "1",
              "tokens whose K and V were computed again");
  metrics.add("faults/lost_pages", static_cast<double>(lost_pages_), "1",
              "flash pages with current data that were lost");
  for (std::size_t i = 0; i < faults_.size(); ++i) {
    const Fault& fault = faults_[i];
    metrics.add(fmt::format("faults/{}/count", i), static_cast<double>(fault.count), "1",
                "times that it happened: " + fault.label);
    if (fault.first) {
      metrics.add(fmt::format("faults/{}/first_time", i), to_seconds(*fault.first), "s",
                  "when it first happened: " + fault.label);
    }
  }
}

}  // namespace nearkv
