// Reads of SparF from a KV page trace (traces/kv_page_trace.hpp) instead of a pool of heads that
// select during the run.
//
// A record serves a step when it was taken at that step's context, or at one at which equally many
// pages of every stream are full: the same pages are on flash, so that the recorded ones are all
// there and none is beyond the context. Of several such contexts the nearest is taken, the smaller
// one of equals. Pages and attended tokens are the record's, the work of the first step follows
// from the step's context. The layers and KV heads of the trace stand for those of the run in turn.
#pragma once

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/api.hpp"
#include "models/kv/head_reads.hpp"
#include "traces/kv_page_trace.hpp"

namespace nearkv {

/// A trace that does not fit to the rest of the design point; `path` is that of the config's field.
class TraceMismatch : public std::runtime_error {
 public:
  TraceMismatch(std::string path, const std::string& what)
      : std::runtime_error(what), path_(std::move(path)) {}
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class RecordedReads {
 public:
  /// What a run asks of a trace.
  struct Use {
    kernels::PageGeometry geometry;
    HeadShape shape;
    SparsityConfig sparsity;
    int first_context;
    int last_context;
  };
  /// Reads all of it. Throws ConfigError for a file that is wrong, TraceMismatch for one that does
  /// not fit.
  RecordedReads(const std::string& file, const Use& use);

  /// Layers that the trace has at a context of the use.
  [[nodiscard]] int layers(int context) const;
  /// One entry for each KV head and sequence of one of them.
  [[nodiscard]] std::vector<HeadReads> at(int context, int layer) const;

 private:
  using Layer = std::vector<traces::KvTraceRecord>;

  void check_fit(const Use& use) const;
  void read(traces::KvTraceReader& reader);
  void check_contexts(const Use& use) const;
  [[nodiscard]] bool serves(int recorded, int context) const;
  /// The context whose records serve; 0 if none.
  [[nodiscard]] int context_for(int context) const;

  std::string file_;
  traces::KvTraceHeader header_;
  std::map<int, std::map<int, Layer>> records_;  // by context and layer
};

/// What a trace's records come from, for the notes of a run.
[[nodiscard]] std::string origin_of(const std::string& trace);

}  // namespace nearkv
