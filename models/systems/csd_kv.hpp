// The KV cache of a batch on the machine's CSDs: which drive holds what, how it gets there, grows
// and is attended over. What systems that attend in CSDs share; it contains no timing.
//
// The batch comes in parts: sequences of equal lengths that are stepped together. Each part is a KV
// task on every drive that holds something of it. A part with inputs_only keeps the inputs of the
// layers in place of K and V: hidden / d_head rows of d_head values a token, which lie on flash as
// the K rows of so many heads do.
//
// Lanes are parts of the batch that are decoded side by side. Each has a worker of its own for each
// drive, so that one's data move while the drive attends for another.
//
// New tokens wait in the drives' group buffers until they fill a page. With delayed write-back
// (spill_tokens > 0) they wait in host memory instead, as what prefill leaves over whole groups
// does, until so many tokens of each head are there; then they move to the drives, which program
// them in the background.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string_view>
#include <vector>

#include "kernels/api.hpp"
#include "models/csd/csd.hpp"
#include "models/kv/head_reads.hpp"
#include "models/systems/csd_step_keys.hpp"
#include "models/systems/design_point.hpp"
#include "models/systems/kv_division.hpp"
#include "models/systems/machine.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/system.hpp"
#include "sim/core/worker.hpp"

namespace nearkv {

/// Of the K and V pages of a design point's drives.
[[nodiscard]] kernels::PageGeometry csd_geometry(const DesignPoint& point);
[[nodiscard]] HeadShape head_shape_of(const ModelShape& model);
void prefill_tokens_field(FieldVisitor& v, int& prefill_tokens);
/// Rules that every system on CSDs has.
void require_csds(FieldVisitor& v, const DesignPoint& point, std::string_view system);

/// Where the time of one drive's part of a layer went; the pieces follow one another.
struct AttendTimes {
  SimDuration upload{};
  SimDuration recent_tokens{};  // delayed write-back: K and V that are not on the drive yet
  SimDuration submission{};
  SimDuration attention{};
  SimDuration download{};
  SimTime end{};

  AttendTimes& operator+=(const AttendTimes& o);
  /// The last `duration` of it.
  [[nodiscard]] AttendTimes last(SimDuration duration) const;
};

class CsdKv {
 public:
  struct Options {
    KvDivision division = KvDivision::heads;
    bool channel_copy = false;
    int lanes = 1;
    int spill_tokens = 0;    // a multiple of a group's tokens
    int prefill_tokens = 0;  // that pass a layer together; 0: all
  };
  /// Once a run; inside an actor.
  CsdKv(RunContext& run, const Options& options);
  CsdKv(const CsdKv&) = delete;
  CsdKv& operator=(const CsdKv&) = delete;

  struct Part {
    SequenceGroup group;
    int lane = 0;
    bool inputs_only = false;
    std::optional<std::size_t> moved_from{};  // what a failed drive held of this part
  };
  /// What a drive holds of a part.
  struct Held {
    KvFtl::TaskId task = KvLayer::kNoTask;
    int sequences = 0;
    RowRange rows;  // KV heads, or rows of inputs

    [[nodiscard]] int pairs() const { return static_cast<int>(sequences * rows.count()); }
  };
  struct Drive {
    Csd* csd;
    NodeId node;
    std::vector<Worker*> workers;  // by lane
    Worker* write_back = nullptr;
    std::vector<Held> held;                                 // by part
    std::vector<std::unique_ptr<Completion>> written_back;  // by layer: the last one; null: none
    bool has_failed = false;
  };

  // -- A batch.

  /// Takes flash and DRAM for it. Throws OutOfCapacity.
  void open(std::vector<Part> parts);
  /// Prompts, layer by layer: while the GPUs compute a layer, the K and V of the one before move.
  void prefill(RunContext& run);
  /// The batch is done, however many of its steps were simulated.
  void close(RunContext& run);

  /// Goes on after a loss, behind the first `step` steps. Pages: the drive has remapped them; the
  /// sequences that they belong to pass the model again with all of their tokens so far, and the
  /// lost pages are programmed. Drive: what it held moves to the others, those with the least
  /// first; all of its sequences pass the model again. Sequences that are done are left alone.
  /// Throws DataLost when no drive is left, OutOfCapacity when the others hold no more.
  [[nodiscard]] Recovered recover(RunContext& run, const DataLoss& loss, int step);

  [[nodiscard]] const std::vector<Part>& parts() const { return parts_; }
  [[nodiscard]] std::vector<Drive>& drives() { return drives_; }
  [[nodiscard]] const ModelShape& model() const { return model_; }
  /// Drives that hold nothing of any part.
  [[nodiscard]] int idle_drives() const;

  /// Of a sequence's `tokens`, those that the drives know of; the others are in host memory.
  [[nodiscard]] int drive_tokens(const SequenceGroup& group, int tokens) const;
  /// Bytes of a token of all rows of a part.
  [[nodiscard]] Bytes token_bytes(const Part& part) const;

  // -- Decode. For a step first skip_to(), for a layer append_token(), attend(), flush().

  /// Steps before `step` that were not simulated leave their tokens; state only.
  void skip_to(int step);
  /// All layers of `step` are done.
  void step_done(int step);
  /// Whether a step leaves pages on their way to flash.
  [[nodiscard]] bool fills_pages(int step) const;
  /// Whether the last step that was simulated has.
  [[nodiscard]] bool is_filling() const { return is_filling_; }

  /// Parts with K and V of a lane that are active in a step, and what to attend over.
  struct Plan {
    int lane = 0;
    int step = 0;
    std::int64_t sequences = 0;
    std::vector<std::size_t> parts;
    // By kind of layer (layers take them in turn), then by drive; null where one holds nothing.
    std::vector<std::vector<std::shared_ptr<const AttendBatch>>> batches;
  };
  /// `reads_of` gives the patterns of a part for a kind of layer.
  using ReadsOf = std::function<std::vector<HeadReads>(const Part& part, int kind)>;
  [[nodiscard]] Plan plan(int step, int lane, int kinds, const ReadsOf& reads_of) const;

  /// What dense attention reads of a head at a context of which the drive has `on_drive` tokens.
  /// The others, if any, come with the command as V and scores.
  [[nodiscard]] HeadReads dense_reads_at(int context, int on_drive) const;

  /// The step's token of every part of the lane, inputs included, enters the group buffers.
  void append_token(RunContext& run, int step, int lane, int layer);
  /// What a system does otherwise; inside a drive's worker. Empty ones do nothing else.
  struct Hooks {
    /// Brings what a drive needs besides the commands, in place of q, k and v.
    std::function<void(Drive& drive, const Plan& plan, int layer, AttendTimes& times)> send;
    /// The drive is done with a layer; outputs have not left yet.
    std::function<void(Drive& drive, int layer)> attended;
  };
  /// Starts a layer's attention on all drives that hold something.
  struct Attention;
  [[nodiscard]] std::unique_ptr<Attention> start_attention(RunContext& run, const Plan& plan,
                                                           int layer, const Hooks& hooks);
  /// Waits for it; returns the times of the drive that was last.
  [[nodiscard]] AttendTimes finish_attention(RunContext& run, Attention& attention);
  /// Pages that the step has filled are programmed in the background.
  void flush(RunContext& run, int step, int lane, int layer);

  /// Sequences and pairs of a plan's parts that a drive holds.
  [[nodiscard]] std::int64_t sequences_on(const Drive& drive, const Plan& plan) const;
  [[nodiscard]] int pairs_on(const Drive& drive, const Plan& plan) const;
  /// Transfers of `a_head` bytes for each head of each of a plan's sequences that a drive holds,
  /// between the GPUs that own the heads and `node`.
  enum class Direction { from_gpus, to_gpus };
  [[nodiscard]] std::vector<Machine::Transfer> transfers(const RunContext& run, const Drive& drive,
                                                         const Plan& plan, int layer, Bytes a_head,
                                                         Direction direction, NodeId node) const;
  /// Pages of a part that are on flash when its sequences have `tokens` tokens.
  [[nodiscard]] KvPageCounts pages_at(const Part& part, int tokens) const;
  [[nodiscard]] int tokens_a_page() const { return geometry_.tokens_per_group(); }
  [[nodiscard]] Bytes query_bytes() const { return values(queries_per_head_ * d_head_); }
  [[nodiscard]] Bytes row_bytes() const { return values(d_head_); }

 private:
  [[nodiscard]] Bytes values(std::int64_t count) const { return Bytes{count * bytes_per_value_}; }
  [[nodiscard]] KvTaskShape shape_of(const Part& part, const Held& held) const;
  [[nodiscard]] std::int64_t rows_of(const Part& part) const {
    return part.inputs_only ? input_rows_ : kv_heads_;
  }
  [[nodiscard]] int rows_a_token(const Part& part) const { return part.inputs_only ? 1 : 2; }
  void open_on(Drive& drive, std::size_t first_part);
  /// What a drive does with a layer that has passed the GPUs.
  struct Storing {
    Drive* drive;
    std::function<void(int layer)> store;
  };
  void pass_and_store(RunContext& run, const std::vector<SequenceBatch>& contexts, Bytes waiting_kv,
                      const std::vector<Storing>& storing);
  void store_layer(RunContext& run, Drive& drive, int layer, std::size_t first_part, int steps);
  void store_part(RunContext& run, Drive& drive, std::size_t part, int layer, int tokens,
                  std::unique_ptr<Completion>& programmed);
  /// Sequences by the part that they were opened in.
  using Affected = std::map<std::size_t, std::set<int>>;
  Recovered recompute(RunContext& run, const Affected& affected, int step,
                      const std::vector<Storing>& storing);
  Recovered recover_drive(RunContext& run, Drive& failed, int step);
  Recovered recover_pages(RunContext& run, Drive& drive, const std::vector<KvFtl::LostPage>& lost,
                          int step);
  void move_part(Drive& failed, std::size_t part);
  void rewrite(RunContext& run, const Drive& drive, int layer,
               const std::vector<KvFtl::LostPage>& pages) const;
  [[nodiscard]] std::vector<Drive*> working_drives();
  [[nodiscard]] std::size_t origin_of(std::size_t part) const;
  void bring_chunk(RunContext& run, const Drive& drive, std::size_t part, int layer,
                   const RowRange& pairs, Bytes a_pair) const;
  AttendTimes attend_on(RunContext& run, Drive& drive, std::size_t index, const Plan& plan,
                        int layer, const Hooks& hooks);
  struct Flush {
    PageBatch pages;
    KvLayer where;
    Bytes size;  // in host memory
  };
  [[nodiscard]] std::vector<Flush> filled_by(const Drive& drive, int step, int lane,
                                             int layer) const;
  void write_back(RunContext& run, Drive& drive, int layer, std::vector<Flush> filled);

  Options options_;
  ModelShape model_;
  kernels::PageGeometry geometry_;
  std::int64_t layers_;
  std::int64_t kv_heads_;
  std::int64_t input_rows_;
  std::int64_t d_head_;
  std::int64_t queries_per_head_;
  std::int64_t bytes_per_value_;
  std::vector<Drive> drives_;
  std::vector<Part> parts_;
  int appended_steps_ = 0;   // whose tokens the FTLs know of
  bool is_filling_ = false;  // the last step has left pages on their way to flash
};

struct CsdKv::Attention {
  explicit Attention(std::size_t drives) : times(drives), done(drives), posted(drives) {}

  std::vector<AttendTimes> times;
  std::vector<Completion> done;
  std::vector<bool> posted;
};

}  // namespace nearkv
