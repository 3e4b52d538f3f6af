// The tokens that a block attends to, as tiles of its warps, and their way into shared memory.
#pragma once

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/decode_attention.hpp"

namespace nearkv::kernels::cuda {

/// Token groups and rows in them, by multiplication instead of division.
struct TokenGroups {
  std::uint32_t tokens;  // of a group
  std::uint32_t magic;   // ceil(2^32 / tokens): exact for tokens x group below 2^32 / tokens

  explicit TokenGroups(int tokens_per_group)
      : tokens(static_cast<std::uint32_t>(tokens_per_group)),
        magic(static_cast<std::uint32_t>(((std::uint64_t{1} << 32) + tokens - 1) / tokens)) {}
  [[nodiscard]] __device__ std::uint32_t group_of(std::uint32_t token) const {
    if (tokens == 1) {
      return token;
    }
    // One too large at most for the largest tokens: mended.
    const std::uint32_t group = __umulhi(token, magic);
    return group * tokens > token ? group - 1 : group;
  }
};

/// Which tokens each unit of work attends to: the first `sinks` and the youngest of the tokens from
/// first_token on, `most` together; or those of a list.
struct TokenSource {
  int first_token = 0;
  int sinks = 0;
  int most = 0;
  bool is_whole = false;  // all of them: no sinks and no bound
  // A list, ascending: [query head] or [KV head][stride].
  const std::int32_t* list = nullptr;
  int stride = 0;
  bool is_per_query = false;
  const std::int32_t* counts = nullptr;  // [KV head]: so many, and then the youngest token

  [[nodiscard]] __device__ int total(int context, std::size_t row) const {
    if (counts != nullptr) {
      return counts[row] + 1;
    }
    return min(context - first_token, most);
  }
};

struct Launch {
  BatchTensors t;
  TokenSource source;
  TokenGroups groups;
  int page_elements;
  int queries;      // of a KV head
  int first_query;  // of this pass over them
  int of_pass;      // queries
  int chunk;        // tokens of a block
  float scale;      // 1 / sqrt(d)
  bool overlaps;    // the next grid's blocks may start before this one's end
  const float* alpha;
  float* logits;  // [query head][logit_stride], null if not wanted
  int logit_stride;
  float* partial;      // [unit][chunk][query of the pass][d_head + 2]
  unsigned* arrivals;  // [unit], zero between launches
};

/// What a block works on.
struct Unit {
  std::size_t index;             // of all units
  std::size_t kv_head;           // of all sequences
  std::size_t first_query_head;  // likewise
  int context;
  int total;  // tokens that it attends to
};

__device__ inline Unit unit_of_block(const Launch& a) {
  Unit unit{};
  unit.context = a.t.contexts[blockIdx.z];
  unit.index = static_cast<std::size_t>(blockIdx.z) * gridDim.y + blockIdx.y;
  unit.kv_head = a.source.is_per_query ? unit.index / a.queries : unit.index;
  unit.first_query_head =
      a.source.is_per_query ? unit.index : unit.index * a.queries + a.first_query;
  return unit;
}

/// The tiles of one warp: W warps of the block take the tiles of its tokens in turn. Lane r looks
/// up row r of a tile ahead of its copy, so that no copy waits for list or table.
template <int D, int W>
class WarpTiles {
 public:
  using Layout = RowLayout<D>;

  /// From position `first` of the unit's tokens on.
  __device__ WarpTiles(const Launch& a, const Unit& unit, int first)
      : a_(a),
        table_(a.t.kv.token_table + unit.kv_head * a.t.kv.token_groups),
        list_(a.source.list == nullptr
                  ? nullptr
                  : a.source.list + unit.index * static_cast<std::size_t>(a.source.stride)),
        warp_(static_cast<int>(threadIdx.x) / kWarp),
        lane_(static_cast<int>(threadIdx.x) % kWarp),
        first_(first + warp_ * kTile) {
    if (a.source.is_whole) {  // while the context is still on its way
      token_ = first_ + lane_ % kTile + a.source.first_token;
      look_up();
    }
  }
  /// To position `end`; tokens 0 to unit.total exist.
  __device__ void begin(const Unit& unit, int end) {
    context_ = unit.context;
    total_ = unit.total;
    left_ = end - first_;
    if (!a_.source.is_whole) {
      read_token(0);
      look_up();
    }
    read_token(1);
  }

  [[nodiscard]] __device__ int count() const {
    return left_ > 0 ? (left_ + W * kTile - 1) / (W * kTile) : 0;
  }
  /// Rows of the i-th tile.
  [[nodiscard]] __device__ int rows(int i) const { return min(kTile, left_ - i * W * kTile); }
  /// Position of its first token.
  [[nodiscard]] __device__ int position(int i) const { return first_ + i * W * kTile; }

  /// Starts the copy of the i-th tile, K or V, to a shared address, by all lanes. Rows that do not
  /// exist become zeros: their weights are 0, but 0 times anything is not.
  __device__ void fetch(int i, const std::uint16_t* pool, unsigned to) const {
    const std::uint32_t place = this->place();
    const int rows = this->rows(i);
    const int first_row = lane_ / Layout::vectors;
    const int column = lane_ % Layout::vectors;
    const auto* vectors = reinterpret_cast<const uint4*>(pool) + column;
#pragma unroll
    for (int step = 0; step < Layout::steps; ++step) {
      const int row = step * Layout::rows + first_row;
      const std::uint32_t of_row = __shfl_sync(kAllLanes, place, row % kTile);
      if (first_row < Layout::rows && row < kTile) {
        const bool exists = row < rows;
        copy_16_bytes(to + Layout::offset(row, column), vectors + (exists ? of_row : 0U), exists);
      }
    }
    commit_copies();
  }
  /// Where this lane's row of the next tile begins, in vectors of 16 bytes.
  [[nodiscard]] __device__ std::uint32_t place() const {
    return static_cast<std::uint32_t>(page_) * (a_.page_elements / Layout::vector) + row_in_page_;
  }
  /// Both copies of the i-th tile have been started: looks up the next one.
  __device__ void advance(int i) {
    look_up();
    read_token(i + 2);
  }

 private:
  // What is read for rows that do not exist is that of the last one: a load that depends on a
  // condition would be waited for at once.
  __device__ void read_token(int i) {
    const int position = min(this->position(i) + lane_ % kTile, total_ - 1);
    if (list_ == nullptr) {
      token_ = position < a_.source.sinks ? position : position + (context_ - total_);
    } else if (a_.source.counts == nullptr) {
      token_ = list_[position];
    } else {
      token_ = list_[min(position, max(total_ - 2, 0))];
      token_ = position == total_ - 1 ? context_ - 1 : token_;
    }
  }
  /// The place of token_.
  __device__ void look_up() {
    const auto token = static_cast<std::uint32_t>(token_);
    const std::uint32_t group =
        min(a_.groups.group_of(token), static_cast<std::uint32_t>(a_.t.kv.token_groups) - 1);
    page_ = table_[group];
    row_in_page_ = (token - group * a_.groups.tokens) * Layout::vectors;
  }

  const Launch& a_;
  const std::int32_t* table_;
  const std::int32_t* list_;
  int warp_;
  int lane_;
  int first_;
  int context_ = 0;
  int total_ = 0;
  int left_ = 0;                   // positions from first_ to the block's end
  std::int32_t token_ = 0;         // of a tile that comes after the next
  std::int32_t page_ = 0;          // of the next tile
  std::uint32_t row_in_page_ = 0;  // in vectors of 16 bytes
};

}  // namespace nearkv::kernels::cuda
