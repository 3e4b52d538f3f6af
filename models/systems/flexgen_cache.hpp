// K and V that FlexGen keeps on disk: who stores them, and how they come to the GPU.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "models/host/host_storage.hpp"
#include "models/systems/batch.hpp"
#include "models/systems/system.hpp"
#include "sim/core/activity_log.hpp"
#include "sim/core/servers.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// One GPU batch in one layer of one decode step.
struct FlexGenSlot {
  static constexpr int kPrefill = -1;

  std::int64_t layer = 0;
  int gpu_batch = 0;
  int step = kPrefill;
};

/// Tokens of a group whose K and V lie in its files after `step` steps.
[[nodiscard]] int stored_tokens(const SequenceGroup& group, int steps);

/// The threads that copy between files and GPU, one tensor at a time each, first come first served
/// (TorchDisk's copy_threads).
class CopyThreads {
 public:
  CopyThreads(Engine& engine, int threads, const FrameworkConfig& framework)
      : engine_(engine),
        threads_(threads),
        framework_(framework),
        free_(engine, "the copy threads", threads),
        first_in_line_(engine, "the line for copy threads", 1) {}

  // Inside an actor, one thread at a time has the interpreter.
  void take_tensor() { interpret(framework_.copy_task); }
  /// take_tensor() of one that lies in a file.
  void open_file() { interpret(framework_.copy_task + framework_.file_open); }

  /// Threads that are busy as long as it lives: one for each of `tensors`, or all there are.
  class Turn {
   public:
    Turn(CopyThreads& threads, int tensors);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    [[nodiscard]] int threads() const { return taken_; }

   private:
    CopyThreads& from_;
    int taken_;
  };

 private:
  void interpret(SimDuration time) {
    const Grant granted = interpreter_.issue(engine_.now(), time);
    if (ActivityLog* log = engine_.activity()) {
      const char* resource = "host/interpreter";
      const char* what = "a copy thread's task";
      log->service(
          {.resource = resource, .what = what, .start = granted.start, .done = granted.done});
      log->explain(resource, what, granted.start, granted.done);
    }
    engine_.wait_until(granted.done);
  }

  Engine& engine_;
  int threads_;
  FrameworkConfig framework_;
  FifoServers interpreter_{1};
  CreditPool free_;
  CreditPool first_in_line_;
};

/// What the parts of FlexGen that move a cache share.
struct FlexGenCacheContext {
  RunContext& run;
  CopyThreads& threads;
  Bytes token;  // K and V of one token of one sequence in one layer, all heads, as stored
};

/// Loads and stores run inside an actor and return when the data have arrived.
class FlexGenDiskCache {
 public:
  FlexGenDiskCache() = default;
  FlexGenDiskCache(const FlexGenDiskCache&) = delete;
  FlexGenDiskCache& operator=(const FlexGenDiskCache&) = delete;
  virtual ~FlexGenDiskCache() = default;

  /// Files for the sequences of each GPU batch that live on disk. Throws OutOfCapacity.
  virtual void begin_batch(const FlexGenCacheContext& c,
                           const std::vector<std::optional<Batch>>& gpu_batches) = 0;
  virtual void finish_batch(const FlexGenCacheContext& c) = 0;

  enum class Destination { gpu, host };
  /// All K and V that the slot attends to but those of its own token.
  virtual void load(const FlexGenCacheContext& c, const FlexGenSlot& slot,
                    Destination destination) = 0;
  /// K and V of the slot's new tokens: all of the prompt, or one token.
  virtual void store(const FlexGenCacheContext& c, const FlexGenSlot& slot) = 0;

  // -- For steps and layers that a sampled run leaves out; take no time.
  virtual void assume_loaded(const FlexGenCacheContext& c, const FlexGenSlot& slot) = 0;
  virtual void assume_stored(const FlexGenCacheContext& c, const FlexGenSlot& slot) = 0;
  /// The tokens of the first `steps` decode steps are in the files, not in memory.
  virtual void move_contents_to(const FlexGenCacheContext& c, int steps) = 0;
  /// Memory is as the steps before `step` have left it, as far as one step does not tell.
  virtual void assume_history(const FlexGenCacheContext& /*c*/, int /*step*/) {}
};

/// Two memory-mapped files, K and V, for each layer and group of equal sequences of a GPU batch,
/// read and written through the page cache. One copy thread moves K and one V of a GPU batch, a
/// group after another, through their pinned relay buffers.
class FlexGenFileCache : public FlexGenDiskCache {
 public:
  void begin_batch(const FlexGenCacheContext& c,
                   const std::vector<std::optional<Batch>>& gpu_batches) override;
  void finish_batch(const FlexGenCacheContext& c) override;
  void load(const FlexGenCacheContext& c, const FlexGenSlot& slot,
            Destination destination) override;
  void store(const FlexGenCacheContext& c, const FlexGenSlot& slot) override;
  void assume_loaded(const FlexGenCacheContext& c, const FlexGenSlot& slot) override;
  void assume_stored(const FlexGenCacheContext& c, const FlexGenSlot& slot) override;
  void move_contents_to(const FlexGenCacheContext& c, int steps) override;

 protected:
  struct GroupFiles {
    SequenceGroup group;
    Bytes row;                        // K, or V, of one token of the group
    std::vector<MemoryObject> files;  // K, V, and what a subclass adds
  };
  /// Names of the files of a group, K and V first; all of one size.
  [[nodiscard]] virtual std::vector<const char*> file_names() const { return {"K", "V"}; }
  [[nodiscard]] std::vector<GroupFiles>& files_of(const FlexGenSlot& slot) {
    return files_[static_cast<std::size_t>(slot.layer)][static_cast<std::size_t>(slot.gpu_batch)];
  }
  [[nodiscard]] const auto& all_files() const { return files_; }
  /// Rows that the slot writes of each file: first token and number.
  struct Rows {
    int first;
    int count;
  };
  [[nodiscard]] static std::optional<Rows> written_rows(const SequenceGroup& group, int step);

  /// Reads or writes spans of files, so many side by side. FlexGen has one file for all groups,
  /// which pads them, so that only the first group's are opened.
  enum class Opens { yes, no };
  static void move(const FlexGenCacheContext& c, const std::vector<MemorySpan>& spans,
                   Access access, int side_by_side, Opens opens);

 private:
  std::vector<std::vector<std::vector<GroupFiles>>> files_;  // by layer, GPU batch, group
  int stored_steps_ = 0;                                     // whose tokens the files have
};

}  // namespace nearkv
