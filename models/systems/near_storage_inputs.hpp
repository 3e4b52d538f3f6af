// The cooperative cache of near-storage attention: for a share of the sequences the drives keep the
// inputs of the layers instead of K and V. Each step they are read back to the GPUs, which
// recompute K and V from them (INF2 / HILOS, arXiv 2502.09921: "cooperative X-cache").
//
// One layer is loaded ahead: a drive reads the next layer's inputs when it has attended to this
// one, piece by piece, and a piece moves while the next one is read. VRAM holds two layers' inputs.
// Every tensor-parallel rank needs all inputs, and the drives send them to each.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "models/systems/csd_kv.hpp"
#include "sim/core/servers.hpp"

namespace nearkv {

class InputLoader {
 public:
  /// Once a run; inside an actor. `kv` must outlive it.
  InputLoader(RunContext& run, CsdKv& kv);

  /// The parts of `step` whose inputs are on the drives; none: nothing to load.
  void begin_step(RunContext& run, int step);
  [[nodiscard]] bool has_work() const { return !parts_.empty(); }
  [[nodiscard]] std::int64_t sequences() const { return sequences_; }
  /// Tokens whose K and V are recomputed in a layer: all that are attended to but the step's own.
  [[nodiscard]] std::int64_t old_tokens() const { return old_tokens_; }
  /// What the GPUs attend over.
  [[nodiscard]] const std::vector<SequenceBatch>& groups() const { return groups_; }

  /// A drive loads its part of a layer as soon as there is room; returns at once.
  void start(RunContext& run, CsdKv::Drive& drive, int layer);
  /// All of a layer is in VRAM.
  void wait(RunContext& run, int layer);
  /// Its inputs are not needed any more.
  void release(int layer);

 private:
  /// What moves together.
  struct Piece {
    ReadBatch read;  // no pages: what is in the drive's DRAM already
    KvLayer where;
    Bytes size;
  };
  [[nodiscard]] std::size_t index_of(const CsdKv::Drive& drive) const;
  [[nodiscard]] std::vector<Piece> pieces_on(const CsdKv::Drive& drive, int layer) const;
  [[nodiscard]] Bytes in_host_memory(const CsdKv::Drive& drive) const;
  /// `user` releases the layer.
  void load(RunContext& run, CsdKv::Drive& drive, int layer, ActorId user);
  void to_gpus(RunContext& run, NodeId from, int layer, Bytes size) const;

  CsdKv& kv_;
  std::vector<Worker*> workers_;                     // by drive
  std::vector<std::unique_ptr<CreditPool>> layers_;  // by drive: that may be in VRAM
  int step_ = 0;
  std::vector<std::size_t> parts_;
  std::vector<int> first_tokens_;  // of each, that is attended to
  std::vector<int> contexts_;      // of each
  std::int64_t sequences_ = 0;
  std::int64_t old_tokens_ = 0;
  std::vector<SequenceBatch> groups_;
  std::vector<std::deque<Completion>> loaded_;  // by layer, of the drives that were started
  std::vector<std::vector<std::size_t>> started_;
};

}  // namespace nearkv
