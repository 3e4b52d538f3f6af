// The requests of a run, and how they are served. Config /workload, by its "kind":
//     fixed     one batch of equal requests, all there at the start
//     lengths   requests whose lengths are drawn (traces/request_generator.hpp)
//     trace     requests of a file (traces/request_trace.hpp)
// Requests of the latter two arrive in time and, with a system that works batch by batch, are
// served as /workload/batching says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/systems/batch.hpp"
#include "models/systems/batching.hpp"
#include "models/systems/request.hpp"
#include "models/systems/request_metrics.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"
#include "traces/request_generator.hpp"
#include "traces/request_trace.hpp"

namespace nearkv {

/// A request trace; its format is found by its first line if `format` is 0, else kRequestFormats.
struct RequestTraceFile {
  std::string file;
  std::size_t format = 0;

  void fields(FieldVisitor& v);
  [[nodiscard]] traces::RequestTraceOptions options() const;
};

struct WeightedLength {
  int tokens = 0;
  double weight = 0;

  void fields(FieldVisitor& v);
};

/// Tokens of a prompt or an output.
struct LengthConfig {
  enum Kind : std::size_t { fixed, uniform, lognormal, empirical, trace };
  enum class Average { median, mean };
  std::size_t kind = fixed;
  int tokens = 0;
  int least = 0;
  int most = 0;
  Average average_is = Average::median;
  double average = 0;
  double sigma = 0;
  std::vector<WeightedLength> values;
  RequestTraceFile lengths_of;

  void fields(FieldVisitor& v);
  /// Throws ConfigError for a trace that is wrong.
  [[nodiscard]] traces::LengthSpec spec(bool of_prompts) const;
};

struct ArrivalConfig {
  enum Kind : std::size_t { at_start, constant, poisson, gamma, recorded };
  std::size_t kind = at_start;
  double rate = 0;
  double cv = 0;
  double time_scale = 1;
  bool may_be_recorded = false;

  void fields(FieldVisitor& v);
  [[nodiscard]] traces::ArrivalSpec spec() const;
};

/// What becomes of requests that are longer than this or than the model has positions.
struct LongestLengths {
  enum class Beyond { refuse, skip, clip };
  int prompt_tokens = 0;
  int output_tokens = 0;
  Beyond beyond = Beyond::refuse;

  void fields(FieldVisitor& v);
};

/// A rule that a workload breaks.
struct WorkloadProblem {
  std::string field;  // below /workload
  std::string message;
};

struct Workload {
  enum Kind : std::size_t { fixed, lengths, trace };
  std::size_t kind = fixed;

  // fixed
  int batch = 0;
  int prompt_tokens = 0;
  int output_tokens = 0;
  [[nodiscard]] int decode_steps() const { return output_tokens - 1; }

  // lengths and trace
  int most_requests = 0;
  LengthConfig prompt;
  LengthConfig output;
  RequestTraceFile source;
  int skip = 0;
  LongestLengths longest;
  ArrivalConfig arrivals;
  BatchingConfig batching;
  std::vector<LatencyLimit> limits;

  void fields(FieldVisitor& v);

  /// Draws or reads the requests of the kinds that have some; all that follows needs it. Throws
  /// ConfigError for a trace that is wrong.
  [[nodiscard]] std::optional<WorkloadProblem> prepare(std::int64_t seed,
                                                       std::int64_t max_positions);

  [[nodiscard]] bool is_fixed() const { return kind == fixed; }
  /// In order of arrival.
  [[nodiscard]] std::vector<Request> requests() const;
  /// What a batch of it needs at most, padding included.
  [[nodiscard]] int longest_context() const;
  [[nodiscard]] int shortest_prompt() const;
  [[nodiscard]] int most_sequences() const;
  /// What a reader of the record must know of the requests.
  [[nodiscard]] std::vector<std::string> notes() const;

 private:
  struct Adjusted {
    std::int64_t skipped = 0;
    std::int64_t clipped = 0;
    std::int64_t failed = 0;  // in the trace already
  };

  void draw_requests(std::uint64_t seed, std::int64_t max_positions);
  void read_requests(std::uint64_t seed, std::int64_t max_positions);
  bool fit(traces::RequestRecord& record, std::int64_t max_positions);
  void add(const traces::RequestRecord& record);

  std::vector<Request> requests_;
  Adjusted adjusted_;
};

}  // namespace nearkv
