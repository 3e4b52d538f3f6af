// The CSD's flash translation layer for the KV cache: append-only streams, no garbage collection.
//
// A task (one batch of requests) has sequences x layers x KV heads; each of these heads has the
// streams of kv_layout.hpp: token groups of K, token groups of V and, with a channel copy, the
// channel-indexed K. Tokens collect in group buffers in the drive's DRAM; append() says which pages
// they fill, and those are programmed in the background:
//     K and V page g   when token (g + 1) x tokens_per_group - 1 arrives
//     channel pages    of a chunk, one a channel group, when its last token arrives
// Page n of a stream goes to plane (base + n) mod planes of the stripe, base = (pair x streams +
// stream) x stream_skew with pair = sequence x heads + head, as in KvPlacement; in the plane to the
// next page of the open block. So all heads' pages fill the same erase blocks. A plane that is full
// or bad hands its pages to the next one of the stripe.
//
// Nothing is moved: a block is erased when no page in it belongs to a task any more. reclaim() does
// that for finished tasks, least recently used first; it is for idle times and acts when free
// blocks are below reclaim_below. With blocks of a task's own every reclaimed task gives all of its
// blocks back, in each plane in the order in which it opened them; with shared blocks those that
// other tasks also use stay (stranded pages).
//
// Reservation: when a task with blocks of its own is opened and every plane has enough free blocks
// for the task's share of max_tokens, these are kept for it. None of its pages is ever redirected:
// each lies where KvPlacement puts it. Such a task needs no table of its pages; only counts are
// kept, and an append costs O(planes) instead of O(pages). Other tasks have a table of 4 bytes a
// page.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "kernels/api.hpp"
#include "models/flash/ftl/block_pool.hpp"
#include "models/flash/ftl/ftl_geometry.hpp"
#include "models/flash/ftl/page_ftl.hpp"
#include "models/kv/kv_layout.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/metrics.hpp"

namespace nearkv {

/// Whether tasks share erase blocks.
enum class KvBlockSharing { own_blocks, shared_blocks };

struct KvFtlConfig {
  std::size_t plane_order = 0;  // index into kPlaneOrders; the paper: channel first
  KvBlockSharing sharing = KvBlockSharing::own_blocks;
  double reclaim_below = 0;  // of the usable blocks
  double reclaim_until = 0;
  bool least_worn_first = false;
  BadBlockConfig bad_blocks;

  void fields(FieldVisitor& v);
};

/// What a task may hold at most.
struct KvTaskShape {
  int sequences = 0;
  int layers = 0;
  int kv_heads = 0;  // on this drive
  int max_tokens = 0;
  bool channel_copy = false;
  bool inputs_only = false;  // one row a token and head in place of K and V: there is no V stream

  /// Pages on flash of a head that has `tokens` tokens.
  [[nodiscard]] KvPageCounts flushed(const kernels::PageGeometry& pages, int tokens) const;
  [[nodiscard]] std::int64_t heads() const { return std::int64_t{sequences} * layers * kv_heads; }
};

struct KvHead {
  int sequence = 0;
  int layer = 0;
  int head = 0;
};

/// A program of one page, or an erase of the block that begins with it.
struct KvOperation {
  FlashCommand command;
  PhysicalPage page;

  bool operator==(const KvOperation&) const = default;
};
using KvOperations = std::vector<KvOperation>;

class KvFtl {
 public:
  struct Parts {
    FtlGeometry flash;
    KvLayoutConfig layout;
    /// Keeps a table for every task, and layer_places() names each page's place in its block:
    /// where page types or multi-plane commands make it matter.
    bool tracks_page_indices = false;
  };
  /// `name` is the config path and names the random streams.
  KvFtl(const KvFtlConfig& config, const Parts& parts, std::uint64_t seed, const std::string& name);

  using TaskId = int;
  [[nodiscard]] TaskId open_task(const KvTaskShape& shape, const kernels::PageGeometry& pages);

  enum class Outcome {
    ok,
    exhausted,  // the pages do not fit: a result; nothing has changed
  };
  /// `tokens` more tokens of one head, at most max_tokens in all. Appends the programs to `out`
  /// (may be null; must be without a table), K, V, then channel pages, each in page order.
  Outcome append(TaskId task, const KvHead& head, int tokens, KvOperations* out);
  /// The same for all heads of all sequences of a layer; all or none. Takes constant time when no
  /// page becomes full and no head of the layer was appended to on its own.
  Outcome append_layer(TaskId task, int layer, int tokens, KvOperations* out);

  struct Growing {
    TaskId task;
    int tokens;
    int at_once = 1;  // divides tokens
  };
  /// Again and again at_once tokens of every head, layer by layer, in it task by task, until each
  /// task has its `tokens`; of tasks that can_count(). The state is that of as many append_layer(),
  /// in O(planes) a task.
  void append_counted(const std::vector<Growing>& tasks);
  /// Whether the task keeps counts only and all of its heads have equally many tokens.
  [[nodiscard]] bool can_count(TaskId task) const;

  [[nodiscard]] int layers_of(TaskId task) const { return task_at(task).shape.layers; }
  /// Tokens of a head, flushed or not.
  [[nodiscard]] int tokens(TaskId task, const KvHead& head) const;
  /// Whether pages of the task may lie elsewhere than KvPlacement says, and have a table.
  [[nodiscard]] bool has_table(TaskId task) const { return task_at(task).table != nullptr; }
  /// Where a flushed page lies; check fails for others, and without a table.
  [[nodiscard]] PhysicalPage page_of(TaskId task, const KvHead& head, KvStream stream,
                                     int page) const;
  /// Plane of a flushed page, with or without a table.
  [[nodiscard]] int plane_of(TaskId task, const KvHead& head, KvStream stream, int page) const;
  /// The same as channel and array unit, what the flash array is asked with.
  [[nodiscard]] PagePlace place_of(PhysicalPage page, ArrayUnit unit) const;
  /// A stream's part of the table, for the fast path: entries of flushed pages are set. Null
  /// without a table. `pair` is sequence x heads + head.
  [[nodiscard]] const PhysicalPage* stream_table(TaskId task, int layer, int pair,
                                                 KvStream stream) const;
  /// Equal for two layers (of any tasks of equal shape) whose pages lie at equal places, as far as
  /// they matter to the flash array's timing; 0 while all are where KvPlacement puts them.
  [[nodiscard]] std::uint64_t layer_places(TaskId task, int layer) const {
    return task_at(task).layer_places[layer];
  }

  /// The task was used (attend): it is reclaimed later than others.
  void touch(TaskId task);
  /// The host's reclaim(): the task's data are not needed any more. They stay until erased.
  void finish(TaskId task);
  /// Whether an idle drive should reclaim: free blocks below reclaim_below, and a finished task; or
  /// it has begun and is not through.
  [[nodiscard]] bool wants_reclaim() const;
  /// Reclaims finished tasks while wants_reclaim() holds and then until reclaim_until; appends the
  /// erases. Returns the number of tasks.
  int reclaim(KvOperations* out);
  /// The same in steps, for a drive that is idle for a while: erases at most one block of each
  /// plane. False when there was nothing to erase.
  bool reclaim_round(KvOperations* out);
  /// What reclaim_round() has left over, or the least recently used finished task, whatever is
  /// free; false when there is neither.
  bool reclaim_one(KvOperations* out);

  /// A page of an unfinished task that could not be read any more, and has a new place.
  struct LostPage {
    TaskId task;
    int layer;
    int pair;  // sequence x heads + head
    KvStream stream;
    int page;
  };
  /// The planes fail with all that they hold: nothing is written there any more. What unfinished
  /// tasks had there is remapped to the others, spread evenly, as if it were programmed again;
  /// `lost` says what. Finished tasks are erased where they are in the way (in no time). The others
  /// keep tables from now on and have no reservation. exhausted: the
  /// others have no room; the planes have failed all the same.
  Outcome fail_planes(const std::vector<int>& planes, std::vector<LostPage>& lost);
  /// The same for `count` pages (or all that there are), drawn from `rng`, on planes that work.
  Outcome lose_pages(std::int64_t count, Rng& rng, std::vector<LostPage>& lost);
  [[nodiscard]] bool has_failed(int plane) const {
    return failed_[static_cast<std::size_t>(plane)];
  }

  /// Pages that the task could still append.
  [[nodiscard]] std::int64_t available_pages(TaskId task) const;
  /// DRAM of the group buffers: tokens that fill no page yet.
  [[nodiscard]] Bytes buffered() const { return buffered_; }
  [[nodiscard]] Bytes buffered_high_water() const { return buffered_high_water_; }

  struct Counters {
    std::int64_t programs = 0;
    std::int64_t erases = 0;
    std::int64_t erased_unwritten_pages = 0;  // erased though never programmed
    std::int64_t redirected_pages = 0;        // their plane of the stripe was full or bad
    std::int64_t reclaimed_tasks = 0;
    std::int64_t grown_bad_blocks = 0;

    /// Page slots spent a page programmed, 1 before any erase: what divides the endurance.
    [[nodiscard]] double write_amplification() const;
  };
  [[nodiscard]] const Counters& counters() const { return counters_; }

  /// free + valid + invalid + bad is all pages. Invalid ones wait for an erase, or are stranded:
  /// their tasks are gone, but others keep the block.
  [[nodiscard]] PageFtl::PageCounts pages() const;
  [[nodiscard]] BlockPool::Wear wear() const;
  [[nodiscard]] const BlockPool& blocks_of(int plane) const { return pools_[plane]; }
  [[nodiscard]] const FtlGeometry& flash() const { return flash_; }
  /// What is full, for a result; empty before an exhausted append.
  [[nodiscard]] const std::string& exhaustion() const { return exhaustion_; }
  struct Refusal {
    std::int64_t needed = 0;  // pages
    std::int64_t available = 0;
  };
  [[nodiscard]] const Refusal& last_refusal() const { return last_refusal_; }

  /// Recounts and check()s: each programmed page has at most one owner, counts agree.
  void audit() const;
  [[nodiscard]] std::int64_t memory_bytes() const;
  void report(Metrics& metrics, const std::string& prefix) const;

 private:
  /// Blocks that are being written: a task's own, or those of all tasks.
  struct OpenBlocks {
    std::vector<int> block;  // by plane; kNoBlock
    std::int64_t room = 0;   // pages left in them
  };
  /// Pages [0, count) of one stream of all pairs of a layer, by slot of the stripe. Those of
  /// [first, first + count) are the same, `first` slots on.
  struct SlotCounts {
    int stream;
    int count;
    std::vector<std::uint32_t> pages;
  };
  struct Task {
    Task(const KvTaskShape& of_shape, const kernels::PageGeometry& of_pages)
        : shape(of_shape), pages(of_pages) {}

    KvTaskShape shape;
    kernels::PageGeometry pages;
    std::array<int, kKvStreams> first{};  // of each stream in a head's part of the table
    int pages_a_head = 0;
    std::vector<int> layer_tokens;             // by layer: that all of its heads have
    std::vector<int> extra_tokens;             // by head: that it has besides
    std::vector<bool> uniform;                 // by layer: no head of it has any besides
    std::unique_ptr<PhysicalPage[]> table;     // heads x pages_a_head; set where flushed
    std::vector<std::uint64_t> layer_places;   // by layer
    OpenBlocks open;                           // with own blocks
    std::vector<std::vector<int>> own_blocks;  // by plane, in the order in which they were opened
    std::vector<int> reserved;                 // by plane: free blocks kept for it; empty: none
    std::vector<SlotCounts> slot_counts;       // what was asked for so far
    std::uint64_t last_use = 0;
    bool finished = false;
    bool live = true;
  };
  static constexpr int kNoBlock = -1;

  [[nodiscard]] const Task& task_at(TaskId task) const;
  [[nodiscard]] Task& task_at(TaskId task);
  [[nodiscard]] static std::size_t head_index(const Task& task, const KvHead& head);
  using StreamPages = std::array<int, kKvStreams>;
  [[nodiscard]] static StreamPages stream_pages(const Task& task, int tokens);
  [[nodiscard]] static std::size_t pairs_of(const Task& task) {
    return static_cast<std::size_t>(task.shape.sequences) *
           static_cast<std::size_t>(task.shape.kv_heads);
  }
  [[nodiscard]] static int held_tokens(const Task& task, std::size_t head) {
    return task.layer_tokens[head / pairs_of(task)] + task.extra_tokens[head];
  }
  [[nodiscard]] std::uint64_t slot_of(std::int64_t pair, int stream) const {
    return static_cast<std::uint64_t>((pair * kKvStreams + stream) * layout_.stream_skew);
  }
  [[nodiscard]] bool has_own_blocks() const {
    return config_.sharing == KvBlockSharing::own_blocks;
  }
  [[nodiscard]] static std::int64_t new_pages(const Task& task, int before, int tokens);
  [[nodiscard]] static Bytes buffer_of(const Task& task, int tokens);
  [[nodiscard]] OpenBlocks& open_blocks_of(Task& task);
  [[nodiscard]] const OpenBlocks& open_blocks_of(const Task& task) const;
  [[nodiscard]] std::int64_t available_to(const Task& task) const;
  void reserve_blocks(Task& task);
  void give_reservation_back(Task& task);
  [[nodiscard]] std::vector<std::int64_t> layer_pages_by_slot(Task& task, const StreamPages& from,
                                                              const StreamPages& to) const;
  [[nodiscard]] const SlotCounts& slot_counts_of(Task& task, int stream, int count) const;
  Outcome refuse(const Task& task, std::int64_t needed);
  struct Growth {
    int before;
    int after;
  };
  void buffer_grows(Bytes by);
  void store(Task& task, const KvHead& head, const Growth& tokens, KvOperations* out);
  void count_layers(Task& task, const Growth& tokens, int layers);
  void buffers_grow(const std::vector<Growing>& tasks);
  [[nodiscard]] bool open_block(Task& task, int plane);
  void program_pages(Task& task, int plane, std::int64_t pages);
  PhysicalPage program_at(Task& task, std::uint64_t slot);
  void note_place(Task& task, const LostPage& page, PhysicalPage at);
  void loosen(Task& task);
  void make_table(Task& task);
  void forget_plane(int plane);
  template <class Visit>
  void for_each_page(TaskId id, Visit visit);
  Outcome remap(const std::vector<LostPage>& lost);
  [[nodiscard]] TaskId least_recently_used_finished() const;
  [[nodiscard]] double free_share() const;
  void release(Task& task);
  void release_page(Task& task, PhysicalPage page);
  void queue_erase(OpenBlocks& open, int plane, int block);
  void erase_one_a_plane(KvOperations* out);
  void audit_table(const Task& task, std::vector<bool>& owned,
                   std::vector<std::uint32_t>& valid) const;
  void audit_counts(const Task& task, std::vector<std::uint32_t>& valid) const;
  void report_endurance(Metrics& metrics, const std::string& prefix) const;
  [[nodiscard]] std::int64_t flushed_pages_of(const Task& task) const;

  KvFtlConfig config_;
  FtlGeometry flash_;
  KvLayoutConfig layout_;
  bool tracks_page_indices_;
  std::string name_;
  PlaneStripe stripe_;
  std::vector<BlockPool> pools_;  // by plane
  std::vector<Task> tasks_;
  OpenBlocks shared_;
  std::int64_t free_blocks_ = 0;
  std::vector<bool> failed_;               // by plane
  std::vector<int> reserved_;              // by plane: of its free blocks, for all tasks
  std::int64_t reserved_blocks_ = 0;       // of all planes
  std::vector<std::deque<int>> to_erase_;  // by plane: blocks of reclaimed tasks
  std::int64_t blocks_to_erase_ = 0;
  bool reclaims_ = false;  // until reclaim_until
  std::int64_t valid_ = 0;
  std::int64_t written_ = 0;
  std::uint64_t uses_ = 0;
  Bytes buffered_{};
  Bytes buffered_high_water_{};
  std::string exhaustion_;
  Refusal last_refusal_;
  Counters counters_;
};

// -- Endurance --------------------------------------------------------------------------------

/// Flash bytes that one token of one KV head takes, with the padding of pages:
/// page x (2 / tokens_per_group [+ channel_groups / tokens_per_channel_page]).
[[nodiscard]] double flash_bytes_per_token(const kernels::PageGeometry& pages, bool channel_copy);

struct EnduranceInput {
  Bytes capacity{};  // of all drives
  std::int64_t pe_cycles = 0;
  double bytes_per_token = 0;  // of all layers and heads
  double write_amplification = 1;
};
/// Tokens that can be written before the flash is worn out: capacity x pe_cycles / (bytes_per_token
/// x write_amplification). Assumes even wear and that all of the capacity takes part.
[[nodiscard]] double writable_tokens(const EnduranceInput& input);

}  // namespace nearkv
