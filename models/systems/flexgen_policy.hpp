// FlexGen's policy (Sheng et al., ICML 2023): where weights, KV cache and activations live, how a
// block of sequences is worked on, and the search for the best policy by FlexGen's cost model.
//
// Percentages are turned into whole tensors and sequences as FlexGen's code does:
// - Weights (init_weight_list): the tensors of a block (input embedding, attention, feed-forward
//   network, output embedding) in a row; a tensor goes where the middle of its bytes falls, with
//   the disk's percentages first, then the CPU's, then the GPU's. Norms, biases and routers of a
//   layer count as the last tensor of its feed-forward network, the final norm as the first of the
//   output embedding. A layer is its attention and its feed-forward network, all experts included.
//   Tied embeddings are stored once, where the input embedding goes.
// - Cache and activations (TorchMixedDevice): whole sequences of a GPU batch, rounded down for GPU
//   and CPU; the rest goes to the disk, or to the CPU when nothing is to be on disk.
// - GPU batches: a block of n sequences is divided into ceil(n / gpu_batch_size) GPU batches that
//   differ by at most one sequence.
// 4-bit compression covers matrices and the KV cache: per group of values a scale and a minimum.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/gpu/gpu.hpp"
#include "models/host/host_config.hpp"
#include "models/llm/model_shape.hpp"
#include "models/llm/operators.hpp"
#include "models/systems/batch.hpp"
#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

enum class Home { gpu, cpu, disk };
inline constexpr std::array kHomes{Home::gpu, Home::cpu, Home::disk};

/// A value for each home.
template <class T>
struct PerHome {
  std::array<T, kHomes.size()> values{};

  [[nodiscard]] T& operator[](Home home) { return values[static_cast<std::size_t>(home)]; }
  [[nodiscard]] const T& operator[](Home home) const {
    return values[static_cast<std::size_t>(home)];
  }
  auto operator<=>(const PerHome&) const = default;
};

/// Percent of something that live on the GPU and on the CPU; the rest lives on disk.
struct HomeShares {
  int gpu = 0;
  int cpu = 0;

  [[nodiscard]] int disk() const;
  [[nodiscard]] bool is_whole(Home home) const;
  auto operator<=>(const HomeShares&) const = default;
};

struct FlexGenPolicy {
  int gpu_batch_size = 0;
  int num_gpu_batches = 0;  // of a block
  HomeShares weights;
  HomeShares cache;
  HomeShares activations;
  bool overlap = false;
  bool cpu_attention = false;  // in decode, for K and V that are not on the GPU
  bool compress_weight = false;
  bool compress_cache = false;

  void fields(FieldVisitor& v);
  [[nodiscard]] std::int64_t block() const {
    return std::int64_t{gpu_batch_size} * num_gpu_batches;
  }
  auto operator<=>(const FlexGenPolicy&) const = default;
};

/// What the search may choose from; overlap is always on.
struct FlexGenSearch {
  int percent_step = 0;
  bool cpu_attention = false;
  bool compression = false;

  void fields(FieldVisitor& v);
};

/// 4-bit group-wise quantization (config /system/compression).
struct GroupQuantization {
  int bits = 0;
  int group_size = 0;  // values that share a scale and a minimum

  void fields(FieldVisitor& v);
  /// Packed values, and a scale and a minimum of `value` size for each group.
  [[nodiscard]] Bytes compressed(std::int64_t values, std::int64_t bytes_per_value) const;
};

// -- Division into GPU batches and homes
// -----------------------------------------------------------

/// Sizes of the GPU batches of a block of `sequences`, at most policy.block().
[[nodiscard]] std::vector<int> gpu_batches(int sequences, const FlexGenPolicy& policy);
[[nodiscard]] PerHome<int> sequences_by_home(int sequences, const HomeShares& shares);
/// Consecutive parts of a batch in its order, of these numbers of sequences; nothing for none.
[[nodiscard]] std::vector<std::optional<Batch>> consecutive(const Batch& batch,
                                                            const std::vector<int>& sizes);

/// Weights of a block, or of one rank's part of it.
struct BlockWeights {
  PerHome<Bytes> stored;
  std::vector<Bytes> files;         // the tensors on disk
  std::int64_t tensors_on_cpu = 0;  // a matrix has a bias beside it, a norm is two vectors
  Bytes packed{};                   // of those that are compressed, wherever they live
  Bytes unpacked{};                 // the same as values

  [[nodiscard]] Bytes off_gpu() const { return stored[Home::cpu] + stored[Home::disk]; }
};
struct WeightPlacement {
  BlockWeights input;  // embedding table, positions
  BlockWeights attention;
  BlockWeights ffn;
  BlockWeights output;  // final norm, LM head
  /// The LM head's part of `output` that is the input embedding's tensor too (tied embeddings).
  PerHome<Bytes> tied;

  [[nodiscard]] Bytes of_layer(Home home) const {
    return attention.stored[home] + ffn.stored[home];
  }
  [[nodiscard]] Bytes layer_off_gpu() const { return attention.off_gpu() + ffn.off_gpu(); }
  /// What `layers` layers and the embeddings that a stage has take.
  [[nodiscard]] Bytes total(Home home, std::int64_t layers, bool has_input, bool has_output) const;
  /// VRAM for weights on their way: what is not at home there, of two blocks in a row. Attention
  /// and feed-forward network are blocks of their own, or one.
  [[nodiscard]] Bytes read_buffers(bool separate_layers) const;
  /// VRAM for the largest set of matrices that is decompressed together.
  [[nodiscard]] Bytes decompression_buffer() const;
};
/// `shape` may be that of one tensor-parallel rank.
[[nodiscard]] WeightPlacement place_weights(const ModelShape& shape, const FlexGenPolicy& policy,
                                            const GroupQuantization& quantization);

/// K and V of one token of one sequence in one layer, as they are stored.
[[nodiscard]] Bytes stored_kv(const ModelShape& shape, const FlexGenPolicy& policy,
                              const GroupQuantization& quantization);

/// GPU operators of FlexGen's compression.py over `values` numbers that take `packed` in 4 bits and
/// `unpacked` as they are; each kernel reads and writes each operand once.
[[nodiscard]] std::vector<OperatorWork> decompression(Bytes packed, Bytes unpacked);
[[nodiscard]] std::vector<OperatorWork> compression(Bytes packed, Bytes unpacked);
/// K and V of a prompt in the order of the cache, in which attention did not leave them.
[[nodiscard]] std::vector<OperatorWork> transposed_copy(Bytes size);
/// A copy within GPU memory.
[[nodiscard]] std::vector<OperatorWork> device_copy(Bytes size);

/// Attention of decode on the CPU over K and V in FP32, all heads of one layer: the larger of
/// bytes / (dram_rate x memory_fraction) and FLOPs / flop_rate (config /host/cpu_attention).
[[nodiscard]] SimDuration cpu_attention_time(const HostConfig& host, const ModelShape& shape,
                                             std::int64_t context_tokens);
/// Bytes of K and V of `tokens` tokens in the FP32 workspace of CPU attention, one layer.
[[nodiscard]] Bytes cpu_workspace(const ModelShape& shape, std::int64_t tokens);
/// A copy of K, or of V, within host memory by a team of all cores; `written` may be wider than
/// `read`. The larger of read / team_rate and what goes to memory / dram_rate: all that is read,
/// and what is written unless all of K's and V's copy fits into the last-level cache, from where
/// the next user takes it.
[[nodiscard]] SimDuration host_copy_time(const HostConfig& host, Bytes read, Bytes written);

// -- Cost model and search
// ---------------------------------------------------------------------------

/// Bytes a second between the memories of a machine.
struct FlexGenRates {
  double host_to_gpu = 0;  // one GPU
  double gpu_to_host = 0;
  double cached_read = 0;  // of two file streams, from the page cache
  double disk_read = 0;    // of two file streams, from the SSDs
  double disk_write = 0;
  double weight_read = 0;  // of as many streams as there are copy threads, from the SSDs
  double cached_weight_read = 0;
};

struct FlexGenLimits {
  Bytes vram{};  // free on each GPU
  Bytes host{};  // free host memory
  Bytes ssd{};
};

/// What a policy is to be found for: equal sequences as long as the longest, as FlexGen pads them.
struct FlexGenTask {
  int sequences = 0;
  int prompt_tokens = 0;
  int output_tokens = 0;

  [[nodiscard]] int longest_context() const { return prompt_tokens + output_tokens - 1; }
};

struct FlexGenProblem {
  ModelShape shape;       // the whole model
  ModelShape rank_shape;  // one tensor-parallel rank
  int ranks = 1;
  int stages = 1;
  AttentionKernel kernel = AttentionKernel::eager;
  bool separate_layers = true;  // attention and feed-forward network as blocks of their own
  GroupQuantization quantization;
  GpuConfig gpu;
  HostConfig host;
  FlexGenRates rates;
  FlexGenLimits limits;
  FlexGenTask task;
};

/// What a policy needs at its peak.
struct FlexGenNeeds {
  Bytes vram{};  // on the GPU that needs most
  Bytes host{};  // pinned and pageable
  Bytes ssd{};

  [[nodiscard]] bool fit(const FlexGenLimits& limits) const {
    return vram <= limits.vram && host <= limits.host && ssd <= limits.ssd;
  }
};

struct FlexGenEstimate {
  FlexGenNeeds needs;
  double seconds = 0;  // for all blocks of the task
};

/// FlexGen's published cost model: a block takes T = T_pre x l + T_gen x (n - 1) x l with l layers
/// and n output tokens, each of T_pre and T_gen the maximum (without overlap the sum) of what
/// CPU to GPU, GPU to CPU, disk to CPU, CPU to disk and computing take for one layer of all its GPU
/// batches. T_gen is at the context in the middle of the output. Files are read at page-cache speed
/// if all of them fit into the memory that is left. The needs are those of the run.
[[nodiscard]] FlexGenEstimate estimate(const FlexGenProblem& problem, const FlexGenPolicy& policy);

/// The policy with the least estimated time of all that fit, of equal ones the first;
/// gpu_batch_size and the number of batches are powers of two and 3, or just cover the task. Throws
/// Infeasible, naming what is short, when none fits.
[[nodiscard]] FlexGenPolicy search_policy(const FlexGenProblem& problem,
                                          const FlexGenSearch& search);

/// "48 x 3, weights 20/80/0, cache 0/100/0, ...": shares in percent of GPU, CPU and disk.
[[nodiscard]] std::string describe(const FlexGenPolicy& policy);

}  // namespace nearkv
