#include "models/systems/workload.hpp"

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include "sim/core/allowed_paths.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

using traces::RequestRecord;

constexpr int kMostTokens = traces::kMostRequestTokens;

/// Thrown on the way to a WorkloadProblem.
struct Broken {
  WorkloadProblem problem;
};

[[noreturn]] void refuse(std::string field, std::string message) {
  throw Broken{{std::move(field), std::move(message)}};
}

}  // namespace

// -- Fields -----------------------------------------------------------------------------------

void RequestTraceFile::fields(FieldVisitor& v) {
  file_field(v, "file", file, "request trace; a path from the working folder");
  std::vector<std::string_view> names{"auto"};
  names.insert(names.end(), traces::kRequestFormats.begin(), traces::kRequestFormats.end());
  v.choice({"format", "format of the trace; auto: by its first line"}, names, format);
}

void WeightedLength::fields(FieldVisitor& v) {
  v.parameter("tokens", tokens, "a length", {1, kMostTokens});
  v.parameter("weight", weight, "how many have it, relative to the other lengths", {1e-9, 1e9});
}

void LengthConfig::fields(FieldVisitor& v) {
  const Range length{1, kMostTokens};
  v.variant({"kind", "distribution of the lengths"},
            {"fixed", "uniform", "lognormal", "empirical", "trace"}, kind,
            [&](std::size_t chosen, FieldVisitor& inner) {
              if (chosen == fixed) {
                inner.parameter("tokens", tokens, "all have so many tokens", length);
              } else if (chosen == empirical) {
                inner.list_of("values", values, "lengths and how often each occurs", {1, 100'000});
              } else if (chosen == trace) {
                lengths_of.fields(inner);
              }
              if (chosen == lognormal) {
                inner.one_of("average_is", average_is, {"median", "mean"},
                             "what average is, before the distribution is truncated");
                inner.parameter("average", average, "median or mean, in tokens", {1, kMostTokens});
                inner.parameter("sigma", sigma, "standard deviation of ln(tokens)", {0, 5});
              }
              if (chosen == uniform || chosen == lognormal) {
                inner.parameter("least", least, "fewest tokens; shorter ones are not drawn",
                                length);
                inner.parameter("most", most, "most tokens; longer ones are not drawn", length);
                inner.require(least <= most, "most",
                              fmt::format("{} is less than least, {}", most, least));
              }
            });
}

void ArrivalConfig::fields(FieldVisitor& v) {
  std::vector<std::string_view> names{"at_start", "constant", "poisson", "gamma"};
  if (may_be_recorded) {
    names.emplace_back("recorded");
  }
  v.variant({"kind",
             "when requests arrive: all at time 0, equally spaced, with exponential or gamma "
             "distributed intervals, or as in the trace"},
            names, kind, [this](std::size_t chosen, FieldVisitor& inner) {
              if (chosen == recorded) {
                inner.parameter("time_scale", time_scale,
                                "factor on the times of the trace; 0.5 is twice as fast", {0, 1e6});
              } else if (chosen != at_start) {
                inner.parameter("rate", rate, "requests a second, on average", {1e-6, 1e6});
              }
              if (chosen == gamma) {
                inner.parameter("cv", cv,
                                "standard deviation of the intervals over their mean; 1 is like "
                                "poisson, more comes in bursts",
                                {0.01, 100});
              }
            });
}

void LongestLengths::fields(FieldVisitor& v) {
  v.parameter("prompt_tokens", prompt_tokens, "longest prompt", {1, kMostTokens});
  v.parameter("output_tokens", output_tokens, "longest output", {1, kMostTokens});
  v.one_of("beyond", beyond, {"refuse", "skip", "clip"},
           "what becomes of a request that is longer, or longer than the model has positions: an "
           "error, left out, or cut (where positions are short, its prompt gives way)");
}

void Workload::fields(FieldVisitor& v) {
  constexpr double kMostRequests = 1e6;
  v.variant(
      {"kind",
       "fixed: one batch of equal requests; lengths: requests of drawn lengths; trace: "
       "requests of a file"},
      {"fixed", "lengths", "trace"}, kind, [this](std::size_t chosen, FieldVisitor& inner) {
        if (chosen == fixed) {
          inner.parameter("batch", batch, "sequences in the batch", {1, 65'536});
          inner.parameter("prompt_tokens", prompt_tokens, "tokens of each prompt",
                          {1, kMostTokens});
          inner.parameter("output_tokens", output_tokens,
                          "tokens generated for each sequence; the first comes from prefill",
                          {2, kMostTokens});
          return;
        }
        if (chosen == lengths) {
          inner.parameter("requests", most_requests, "number of requests", {1, kMostRequests});
          inner.group("prompt", prompt, "tokens of the prompts");
          inner.group("output", output,
                      "tokens generated for each request; the first comes from prefill");
        } else {
          source.fields(inner);
          inner.parameter("skip", skip, "requests at the beginning of the trace that are left out",
                          {0, 1e9});
          inner.parameter("requests", most_requests, "take at most so many requests",
                          {1, kMostRequests});
        }
        arrivals.may_be_recorded = chosen == trace;
        inner.group("longest", longest, "limits of the lengths");
        inner.group("arrivals", arrivals, "when requests arrive");
        inner.group("batching", batching,
                    "which requests form a batch; systems that schedule requests do without");
        inner.list_of("limits", limits, "limits that a request must keep to count as goodput",
                      {0, 3});
        for (const LatencyLimit& limit : limits) {
          inner.require(std::ranges::count(limits, limit.of, &LatencyLimit::of) == 1, "limits",
                        "has two limits of the same time; keep one of them");
        }
      });
}

// -- Requests ---------------------------------------------------------------------------------

traces::RequestTraceOptions RequestTraceFile::options() const {
  traces::RequestTraceOptions options;
  if (format > 0) {
    options.format = static_cast<traces::RequestFormat>(format - 1);
  }
  return options;
}

traces::LengthSpec LengthConfig::spec(bool of_prompts) const {
  using Spec = traces::LengthSpec::Kind;
  traces::LengthSpec spec{.tokens = tokens, .least = least, .most = most, .sigma = sigma};
  switch (kind) {
    case fixed:
      spec.kind = Spec::fixed;
      return spec;
    case uniform:
      spec.kind = Spec::uniform;
      return spec;
    case lognormal:
      spec.kind = Spec::lognormal;
      spec.median =
          average_is == Average::median ? average : traces::lognormal_median(average, sigma);
      return spec;
    default:
      break;
  }
  spec.kind = Spec::empirical;
  for (const WeightedLength& value : values) {
    spec.values.push_back(value.tokens);
    spec.weights.push_back(value.weight);
  }
  if (kind == trace) {
    constexpr std::size_t kMostLengths = 10'000'000;  // not a constant: a limit of memory
    traces::RequestTraceReader reader(lengths_of.file, lengths_of.options());
    for (RequestRecord record; spec.values.size() < kMostLengths && reader.next(record);) {
      spec.values.push_back(of_prompts ? record.prompt_tokens : record.output_tokens);
    }
  }
  return spec;
}

traces::ArrivalSpec ArrivalConfig::spec() const {
  check(kind != recorded, "arrivals of a trace were to be drawn");
  return {.kind = static_cast<traces::ArrivalSpec::Kind>(kind), .rate = rate, .cv = cv};
}

/// Whether the record is to be used; it may be cut.
bool Workload::fit(RequestRecord& record, std::int64_t max_positions) {
  const auto positions = [&] {
    return std::int64_t{record.prompt_tokens} + record.output_tokens - 1;
  };
  if (record.prompt_tokens <= longest.prompt_tokens &&
      record.output_tokens <= longest.output_tokens && positions() <= max_positions) {
    return true;
  }
  switch (longest.beyond) {
    case LongestLengths::Beyond::refuse:
      refuse(
          "longest/beyond",
          fmt::format("refuse, and request {} has {} + {} tokens; longest allows {} + {}, and the "
                      "model has {} positions; use skip or clip, or other lengths",
                      requests_.size(), record.prompt_tokens, record.output_tokens,
                      longest.prompt_tokens, longest.output_tokens, max_positions));
    case LongestLengths::Beyond::skip:
      ++adjusted_.skipped;
      return false;
    default:
      break;
  }
  ++adjusted_.clipped;
  record.prompt_tokens = std::min(record.prompt_tokens, longest.prompt_tokens);
  record.output_tokens = static_cast<int>(
      std::min<std::int64_t>(std::min(record.output_tokens, longest.output_tokens), max_positions));
  if (positions() > max_positions) {
    record.prompt_tokens = static_cast<int>(max_positions - record.output_tokens + 1);
  }
  return true;
}

void Workload::add(const RequestRecord& record) {
  requests_.push_back({SimTime{record.at}, record.prompt_tokens, record.output_tokens});
}

void Workload::draw_requests(std::uint64_t seed, std::int64_t max_positions) {
  traces::RequestGenerator generator(
      {prompt.spec(true), output.spec(false), arrivals.spec(), seed});
  for (int i = 0; i < most_requests; ++i) {
    RequestRecord record;
    try {
      record = generator.next();
    } catch (const std::invalid_argument& problem) {
      refuse(std::string(generator.part()), problem.what());
    }
    if (fit(record, max_positions)) {
      add(record);
    }
  }
}

void Workload::read_requests(std::uint64_t seed, std::int64_t max_positions) {
  const bool is_recorded = arrivals.kind == ArrivalConfig::recorded;
  traces::RequestTraceOptions options = source.options();
  options.first = skip;
  options.time_scale = is_recorded ? arrivals.time_scale : 0;
  traces::RequestTraceReader reader(source.file, options);
  if (is_recorded && !traces::has_arrivals(reader.format())) {
    refuse("arrivals/kind",
           fmt::format("recorded, but a trace of format {} has no arrivals; must be at_start, "
                       "constant, poisson or gamma",
                       traces::name_of(reader.format())));
  }
  std::optional<traces::ArrivalTimes> drawn;
  if (!is_recorded) {
    drawn.emplace(arrivals.spec(), seed);
  }
  std::optional<SimDuration> first;
  RequestRecord record;
  while (requests_.size() < static_cast<std::size_t>(most_requests) && reader.next(record)) {
    if (!fit(record, max_positions)) {
      continue;
    }
    first = first.value_or(record.at);
    try {
      record.at = drawn.has_value() ? drawn->next() : record.at - *first;
    } catch (const std::invalid_argument& problem) {
      refuse("arrivals", problem.what());
    }
    add(record);
  }
  adjusted_.failed = reader.failed();
}

std::optional<WorkloadProblem> Workload::prepare(std::int64_t seed, std::int64_t max_positions) {
  requests_.clear();
  adjusted_ = {};
  try {
    if (kind == lengths) {
      draw_requests(static_cast<std::uint64_t>(seed), max_positions);
    } else if (kind == trace) {
      read_requests(static_cast<std::uint64_t>(seed), max_positions);
    }
  } catch (const Broken& broken) {
    return broken.problem;
  }
  if (!is_fixed() && requests_.empty()) {
    return WorkloadProblem{
        "longest", fmt::format("all {} requests are longer and were skipped; allow longer ones, or "
                               "clip them",
                               adjusted_.skipped)};
  }
  if (longest_context() > max_positions) {
    return WorkloadProblem{
        is_fixed() ? "output_tokens" : "batching/padded",
        fmt::format("{}prompt and output reach {} tokens; the model has {} positions",
                    is_fixed() ? "" : "the longest ", longest_context(), max_positions)};
  }
  return std::nullopt;
}

std::vector<Request> Workload::requests() const {
  return is_fixed() ? std::vector(static_cast<std::size_t>(batch),
                                  Request{SimTime{}, prompt_tokens, output_tokens})
                    : requests_;
}

namespace {

/// The largest of what `of` says of the requests.
template <class Of>
int most_of(const std::vector<Request>& requests, Of of) {
  int most = 0;
  for (const Request& request : requests) {
    most = std::max(most, of(request));
  }
  return most;
}

}  // namespace

int Workload::longest_context() const {
  if (is_fixed()) {
    return prompt_tokens + output_tokens - 1;
  }
  if (batching.padded) {
    return most_of(requests_, [](const Request& request) { return request.prompt_tokens; }) +
           most_of(requests_, [](const Request& request) { return request.output_tokens; }) - 1;
  }
  return most_of(requests_, [](const Request& request) {
    return request.prompt_tokens + request.output_tokens - 1;
  });
}

int Workload::shortest_prompt() const {
  int shortest = is_fixed() ? prompt_tokens : kMostTokens;
  for (const Request& request : requests_) {
    shortest = std::min(shortest, request.prompt_tokens);
  }
  return shortest;
}

int Workload::most_sequences() const {
  return is_fixed() ? batch : std::min(batching.sequences, static_cast<int>(requests_.size()));
}

std::vector<std::string> Workload::notes() const {
  std::vector<std::string> notes;
  if (adjusted_.failed > 0) {
    notes.push_back(
        fmt::format("{} requests that failed in the trace were left out", adjusted_.failed));
  }
  if (adjusted_.skipped > 0) {
    notes.push_back(
        fmt::format("{} requests were skipped: longer than the workload allows or the "
                    "model has positions",
                    adjusted_.skipped));
  }
  if (adjusted_.clipped > 0) {
    notes.push_back(
        fmt::format("{} requests were cut: longer than the workload allows or the model "
                    "has positions",
                    adjusted_.clipped));
  }
  return notes;
}

}  // namespace nearkv
