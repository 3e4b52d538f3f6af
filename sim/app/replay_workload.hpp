// A synthetic workload for `nearkv replay`: a JSON file (configs/workloads/*.json) and the requests
// that it stands for.
//
// Addresses: the working set begins at offset 0 and is cut into slots of `alignment`; a request
// begins at a slot from which the largest size still fits. random: every slot alike. zipf: the
// slot of rank r = 1, 2, ... with probability proportional to r^-exponent (drawn by
// rejection-inversion: Hoermann and Derflinger, ACM TOMACS 1996), ranks scattered over the working
// set. hot_cold: the first hot_share of the slots gets hot_accesses of the requests. sequential:
// one after another, aligned, from 0 again at the end. Kinds, sizes, addresses and arrival times
// have random streams of their own, so that a change of one leaves the others as they were.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/flash/ftl/precondition.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/random.hpp"
#include "sim/core/units.hpp"
#include "traces/block_record.hpp"

namespace nearkv {

struct WorkloadPattern {
  enum Kind : std::size_t { sequential, random, zipf, hot_cold };
  std::size_t kind = sequential;
  double exponent = 0;
  double hot_share = 0;
  double hot_accesses = 0;

  void fields(FieldVisitor& v);
};

struct RequestSize {
  Bytes size{};
  double weight = 0;

  void fields(FieldVisitor& v);
};

struct WorkingSet {
  enum Kind : std::size_t { bytes, share };
  std::size_t kind = bytes;
  Bytes size{};
  double of_drive = 0;

  void fields(FieldVisitor& v);
};

struct WorkloadArrivals {
  enum Kind : std::size_t { closed_loop, open_loop };
  enum class Spacing { equal, poisson };
  std::size_t kind = closed_loop;
  int queue_depth = 0;
  double rate = 0;  // requests a second
  Spacing spacing = Spacing::equal;

  void fields(FieldVisitor& v);
};

struct WorkloadLength {
  enum Kind : std::size_t { requests, duration };
  std::size_t kind = requests;
  std::int64_t count = 0;
  SimDuration time{};

  void fields(FieldVisitor& v);
};

struct ReplayWorkload {
  std::string name;
  WorkloadPattern pattern;
  std::vector<RequestSize> sizes;
  Bytes alignment{};
  double reads = 0;  // share of the requests; the rest are writes
  double trims = 0;
  WorkingSet working_set;
  WorkloadArrivals arrivals;
  WorkloadLength length;
  PreconditionConfig preconditioning;
  std::int64_t seed = 0;

  void fields(FieldVisitor& v);

  [[nodiscard]] Bytes largest_size() const;
};

/// Ranks 1 to n with probability proportional to rank^-exponent, exponent > 0.
class ZipfRanks {
 public:
  ZipfRanks(std::int64_t n, double exponent);

  [[nodiscard]] std::int64_t draw(Rng& rng) const;

 private:
  [[nodiscard]] double density(double x) const;   // x^-exponent
  [[nodiscard]] double integral(double x) const;  // of the density, from 1
  [[nodiscard]] double inverse_integral(double y) const;

  std::int64_t n_;
  double exponent_;
  double at_first_;  // integral(1.5) - 1
  double at_last_;   // integral(n + 0.5)
  double accepted_;  // distance from a rank within which no test is needed
};

/// The requests of a workload, in order; at() of a record is the arrival of an open loop.
class WorkloadRequests {
 public:
  /// Throws ConfigError when the working set is larger than the drive or has no room for a request.
  WorkloadRequests(const ReplayWorkload& workload, Bytes capacity);

  /// False at the end. An open loop ends at its duration; a closed one has to be stopped there.
  bool next(traces::BlockRecord& record);

  [[nodiscard]] Bytes working_set() const { return working_set_; }

 private:
  [[nodiscard]] std::int64_t random_slot();
  [[nodiscard]] Bytes draw_size();
  [[nodiscard]] SimDuration next_arrival();

  ReplayWorkload workload_;
  Bytes working_set_;
  std::int64_t slots_ = 0;
  std::int64_t hot_slots_ = 0;
  std::int64_t scatter_ = 0;  // slot of a rank: rank x scatter + shift, modulo the slots
  std::int64_t shift_ = 0;
  ZipfRanks ranks_;
  std::vector<double> sizes_up_to_;  // cumulated shares
  Rng kinds_;
  Rng sizes_;
  Rng addresses_;
  Rng times_;
  std::int64_t generated_ = 0;
  std::int64_t next_offset_ = 0;  // of sequential
  SimDuration last_arrival_{};
};

/// For `nearkv describe workload` and `nearkv schema workload`.
void replay_workload_fields(FieldVisitor& v);

}  // namespace nearkv
