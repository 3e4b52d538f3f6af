#include "models/systems/flexgen_policy.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "sim/core/capacity.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr int kPercent = 100;           // unit: the whole
constexpr std::int64_t kBitsAByte = 8;  // unit: bits
constexpr std::int64_t kFp32Bytes = 4;  // unit: bytes of an FP32 value

void shares_fields(FieldVisitor& v, const std::string& what, HomeShares& shares) {
  const std::string gpu = what + "_gpu";
  const std::string cpu = what + "_cpu";
  const Range percent{0, kPercent};
  v.parameter(gpu, shares.gpu, fmt::format("percent of the {} in GPU memory", what), percent);
  v.parameter(cpu, shares.cpu,
              fmt::format("percent of the {} in host memory; the rest is on disk", what), percent);
  v.require(shares.gpu + shares.cpu <= kPercent, cpu,
            fmt::format("{} + {} = {} percent with {}; both together must not exceed 100, what is "
                        "left of it goes to the disk",
                        shares.cpu, shares.gpu, shares.gpu + shares.cpu, gpu));
}

std::string describe(const HomeShares& shares) {
  return fmt::format("{}/{}/{}", shares.gpu, shares.cpu, shares.disk());
}

OperatorWork pass(std::string_view name, Bytes bytes, int kernels) {
  return {.name = name,
          .kind = OperatorKind::elementwise,
          .flops = Flops{},
          .bytes = bytes,
          .size = {},
          .kernels = kernels};
}

struct Tensor {
  std::int64_t values;
  bool is_matrix;
};

Home home_of(std::int64_t before, std::int64_t size, std::int64_t total, const HomeShares& shares) {
  // The middle of the tensor in percent, times 2 x total.
  const std::int64_t middle = (2 * before + size) * kPercent;
  if (middle < 2 * total * shares.disk()) {
    return Home::disk;
  }
  return middle < 2 * total * (shares.disk() + shares.cpu) ? Home::cpu
         : shares.gpu > 0                                  ? Home::gpu
         : shares.cpu > 0                                  ? Home::cpu
                                                           : Home::disk;
}

BlockWeights place_block(const std::vector<Tensor>& tensors, const ModelShape& shape,
                         const FlexGenPolicy& policy, const GroupQuantization& quantization,
                         std::vector<Home>* homes = nullptr) {
  std::int64_t total = 0;
  for (const Tensor& tensor : tensors) {
    total += tensor.values;
  }
  BlockWeights block;
  std::int64_t before = 0;
  for (const Tensor& tensor : tensors) {
    if (tensor.values == 0) {
      continue;
    }
    const Home home = home_of(before, tensor.values, total, policy.weights);
    before += tensor.values;
    const bool is_packed = tensor.is_matrix && policy.compress_weight;
    const Bytes size = is_packed ? quantization.compressed(tensor.values, shape.bytes_per_value)
                                 : shape.values(tensor.values);
    block.stored[home] += size;
    if (home == Home::disk) {
      block.files.push_back(size);
    }
    block.tensors_on_cpu += home == Home::cpu ? 2 : 0;  // a matrix and its bias, or a norm's two
    if (is_packed) {
      block.packed += size;
      block.unpacked += shape.values(tensor.values);
    }
    if (homes != nullptr) {
      homes->push_back(home);
    }
  }
  return block;
}

}  // namespace

int HomeShares::disk() const { return kPercent - gpu - cpu; }

bool HomeShares::is_whole(Home home) const {
  return (home == Home::gpu ? gpu : home == Home::cpu ? cpu : disk()) == kPercent;
}

void FlexGenPolicy::fields(FieldVisitor& v) {
  v.parameter("gpu_batch_size", gpu_batch_size,
              "most sequences of a GPU batch, which passes a layer together", {1, 65'536});
  v.parameter("num_gpu_batches", num_gpu_batches,
              "most GPU batches of a block, which use a layer's weights one after another",
              {1, 4096});
  shares_fields(v, "weights", weights);
  shares_fields(v, "cache", cache);
  shares_fields(v, "activations", activations);
  v.parameter("overlap", overlap, "whether transfers and computing overlap");
  v.parameter("cpu_attention", cpu_attention,
              "whether the CPU computes decode attention over K and V that are not on the GPU");
  v.parameter("compress_weight", compress_weight, "whether weights are stored in 4 bits");
  v.parameter("compress_cache", compress_cache, "whether K and V are stored in 4 bits");
  v.require(!compress_cache || cache.is_whole(Home::gpu) || cache.is_whole(Home::cpu) ||
                cache.is_whole(Home::disk),
            "compress_cache",
            "FlexGen compresses a cache that lives in one place; give 100 percent of it to the "
            "GPU, to the CPU or to the disk");
  v.require(!cpu_attention || !cache.is_whole(Home::gpu), "cpu_attention",
            "needs K and V outside of the GPU; cache_gpu must be below 100");
  v.require(!cpu_attention || !compress_cache, "cpu_attention",
            "works on an uncompressed cache here; one of it and compress_cache must be false");
}

void FlexGenSearch::fields(FieldVisitor& v) {
  v.parameter("percent_step", percent_step, "step of the percentages that are tried",
              {1, kPercent});
  v.parameter("cpu_attention", cpu_attention, "whether policies with CPU attention are tried too");
  v.parameter("compression", compression, "whether policies with 4-bit compression are tried too");
}

void GroupQuantization::fields(FieldVisitor& v) {
  v.constant("bits", bits, "bits of a compressed value", {1, 8});
  v.constant("group_size", group_size, "values that share a scale and a minimum", {1, 65'536});
}

Bytes GroupQuantization::compressed(std::int64_t values, std::int64_t bytes_per_value) const {
  const std::int64_t groups = ceil_div(values, std::int64_t{group_size});
  return Bytes{groups *
               (ceil_div(std::int64_t{group_size} * bits, kBitsAByte) + 2 * bytes_per_value)};
}

// -- Division -----------------------------------------------------------------------------------

std::vector<int> gpu_batches(int sequences, const FlexGenPolicy& policy) {
  check(sequences <= policy.block(), "a block of too many sequences");
  return even_parts(sequences, policy.gpu_batch_size);
}

PerHome<int> sequences_by_home(int sequences, const HomeShares& shares) {
  PerHome<int> by_home;
  by_home[Home::gpu] = sequences * shares.gpu / kPercent;
  by_home[Home::cpu] =
      shares.disk() == 0 ? sequences - by_home[Home::gpu] : sequences * shares.cpu / kPercent;
  by_home[Home::disk] = sequences - by_home[Home::gpu] - by_home[Home::cpu];
  return by_home;
}

std::vector<std::optional<Batch>> consecutive(const Batch& batch, const std::vector<int>& sizes) {
  std::vector<std::optional<Batch>> parts;
  auto group = batch.groups().begin();
  int taken = 0;  // of the group
  for (const int size : sizes) {
    std::vector<SequenceGroup> part;
    for (int left = size; left > 0;) {
      check(group != batch.groups().end(), "parts that are larger than their batch");
      const int count = std::min(left, group->sequences - taken);
      part.push_back({count, group->prompt_tokens, group->output_tokens});
      left -= count;
      taken += count;
      if (taken == group->sequences) {
        ++group;
        taken = 0;
      }
    }
    if (part.empty()) {
      parts.emplace_back();
    } else {
      parts.emplace_back(part);
    }
  }
  return parts;
}

// -- Weights ------------------------------------------------------------------------------------

WeightPlacement place_weights(const ModelShape& shape, const FlexGenPolicy& policy,
                              const GroupQuantization& quantization) {
  const std::int64_t q = shape.hidden * shape.attention_width;
  const std::int64_t kv = shape.hidden * shape.kv_width();
  WeightPlacement placement;
  const auto place = [&](const std::vector<Tensor>& tensors, std::vector<Home>* homes = nullptr) {
    return place_block(tensors, shape, policy, quantization, homes);
  };
  placement.attention = place({{q, true}, {kv, true}, {kv, true}, {q, true}});

  // Whatever else a layer has besides matrices is one tensor.
  std::vector<Tensor> ffn;
  std::int64_t rest = shape.parameters_per_layer() - 2 * q - 2 * kv;
  const auto add_network = [&](std::int64_t inner) {
    for (int i = 0; i < (shape.gated_ffn ? 2 + 1 : 2); ++i) {
      ffn.push_back({shape.hidden * inner, true});
      rest -= ffn.back().values;
    }
  };
  for (std::int64_t expert = 0; expert < std::max<std::int64_t>(1, shape.experts); ++expert) {
    add_network(shape.ffn);
  }
  if (shape.shared_ffn > 0) {
    add_network(shape.shared_ffn);
  }
  ffn.push_back({rest, false});
  placement.ffn = place(ffn);

  const Tensor table{shape.vocab * shape.embedding_columns(), true};
  const std::int64_t before_first = shape.input_parameters() - table.values;
  const std::int64_t behind_last = shape.output_parameters() - table.values;
  std::vector<Home> homes;
  placement.input = place({table, {before_first, true}}, &homes);
  if (!shape.tied_embeddings) {
    placement.output = place({{behind_last, false}, table});
    return placement;
  }
  placement.output = place({{behind_last, false}});
  const BlockWeights head = place({table});  // its sizes; it lives with the input embedding
  const Bytes size = policy.compress_weight ? head.packed : shape.values(table.values);
  placement.tied[homes.front()] = size;
  placement.output.stored[homes.front()] += size;
  placement.output.packed += head.packed;
  placement.output.unpacked += head.unpacked;
  return placement;
}

Bytes WeightPlacement::total(Home home, std::int64_t layers, bool has_input,
                             bool has_output) const {
  Bytes sum = of_layer(home) * layers;
  if (has_input) {
    sum += input.stored[home];
  }
  if (has_output) {
    sum += output.stored[home];
  }
  return has_input && has_output ? sum - tied[home] : sum;
}

Bytes WeightPlacement::read_buffers(bool separate_layers) const {
  const Bytes first = separate_layers ? attention.off_gpu() : layer_off_gpu();
  const Bytes last = separate_layers ? ffn.off_gpu() : layer_off_gpu();
  return std::max({first + last, input.off_gpu() + first, last + output.off_gpu(),
                   output.off_gpu() + input.off_gpu()});
}

Bytes WeightPlacement::decompression_buffer() const {
  return std::max({input.unpacked, attention.unpacked, ffn.unpacked, output.unpacked});
}

// -- Operators and host work --------------------------------------------------------------------

Bytes stored_kv(const ModelShape& shape, const FlexGenPolicy& policy,
                const GroupQuantization& quantization) {
  if (!policy.compress_cache) {
    return shape.kv_bytes_per_token_and_layer();
  }
  // Groups lie within a head.
  return quantization.compressed(shape.head_dim, shape.bytes_per_value) * (2 * shape.kv_heads);
}

std::vector<OperatorWork> decompression(Bytes packed, Bytes unpacked) {
  if (unpacked == Bytes{}) {
    return {};
  }
  // Each half of the packed values: shift or mask into a tensor of its own, then convert; after
  // that all values in place: divide by the scale, add the minimum.
  // not a constant: operands that these kernels read and write
  return {pass("unpack", packed * 6 + unpacked, 4),
          // not a constant: the same
          pass("dequantize", unpacked * 4, 2)};
}

std::vector<OperatorWork> compression(Bytes packed, Bytes unpacked) {
  if (unpacked == Bytes{}) {
    return {};
  }
  // Minimum and maximum; subtract, multiply, clamp and round in FP16; convert to bytes of half the
  // size, shift one half of these and merge it with the other.
  // not a constant: operands that these kernels read and write
  return {pass("quantize", unpacked * 11 + unpacked / 2, 7),
          // not a constant: the same
          pass("pack", packed * 5, 2)};
}

std::vector<OperatorWork> transposed_copy(Bytes size) {
  std::vector<OperatorWork> operators = device_copy(size);
  for (OperatorWork& work : operators) {
    work.kind = OperatorKind::strided;
  }
  return operators;
}

std::vector<OperatorWork> device_copy(Bytes size) {
  if (size == Bytes{}) {
    return {};
  }
  return {pass("cache_copy", size * 2, 2)};  // K and V
}

Bytes cpu_workspace(const ModelShape& shape, std::int64_t tokens) {
  return Bytes{2 * shape.kv_width() * kFp32Bytes} * tokens;
}

SimDuration cpu_attention_time(const HostConfig& host, const ModelShape& shape,
                               std::int64_t context_tokens) {
  const Rate rate = scaled(host.dram_rate, host.cpu_attention.memory_fraction);
  const Flops products{2 * 2 * shape.attention_width * context_tokens};
  return std::max(time_for(cpu_workspace(shape, context_tokens), rate),
                  time_for(products, host.cpu_attention.flop_rate));
}

SimDuration host_copy_time(const HostConfig& host, Bytes read, Bytes written) {
  const bool stays_in_cache = (read + written) * 2 <= host.last_level_cache;  // K and V
  return std::max(time_for(read, host.framework.team_rate),
                  time_for(stays_in_cache ? read : read + written, host.dram_rate));
}

// -- Cost model ---------------------------------------------------------------------------------

namespace {

double seconds_for(Bytes size, double rate) { return static_cast<double>(size.count()) / rate; }

int parts_of(std::int64_t whole, std::int64_t part) {
  return static_cast<int>(ceil_div(whole, part));
}

/// Time of one layer on each resource, all GPU batches of a block together.
struct Resources {
  double to_gpu = 0;
  double to_host = 0;
  double from_disk = 0;
  double to_disk = 0;
  double compute = 0;

  Resources& operator+=(const Resources& o) {
    to_gpu += o.to_gpu;
    to_host += o.to_host;
    from_disk += o.from_disk;
    to_disk += o.to_disk;
    compute += o.compute;
    return *this;
  }
  [[nodiscard]] double time(bool overlap) const {
    return overlap ? std::max({to_gpu, to_host, from_disk, to_disk, compute})
                   : to_gpu + to_host + from_disk + to_disk + compute;
  }
};

/// What one part of a policy (weights, cache, activations, batch sizes) adds to a block's cost.
/// Bytes read from files are kept apart: their rate depends on whether all files fit into memory.
struct Part {
  Resources prefill;
  Resources decode;
  Bytes weights_read{};  // from files, a layer
  Bytes data_read{};     // in decode, likewise
  FlexGenNeeds needs;
  Bytes vram_prefill{};  // besides needs.vram
  Bytes vram_decode{};
};

Part operator+(Part a, const Part& b) {
  a.prefill += b.prefill;
  a.decode += b.decode;
  a.weights_read += b.weights_read;
  a.data_read += b.data_read;
  a.needs.vram += b.needs.vram;
  a.needs.host += b.needs.host;
  a.needs.ssd += b.needs.ssd;
  a.vram_prefill += b.vram_prefill;
  a.vram_decode += b.vram_decode;
  return a;
}

/// Sequences of a block in GPU batches: the shape that a task has under a policy.
struct BlockShape {
  int blocks;
  int gpu_batches;  // of the largest block
  int gpu_batch;    // sequences of the largest of these
};

BlockShape block_shape(const FlexGenTask& task, const FlexGenPolicy& policy) {
  const int blocks = parts_of(task.sequences, policy.block());
  const int sequences = parts_of(task.sequences, blocks);
  const int gpu_batches = parts_of(sequences, policy.gpu_batch_size);
  return {blocks, gpu_batches, parts_of(sequences, gpu_batches)};
}

class CostModel {
 public:
  explicit CostModel(const FlexGenProblem& problem)
      : p_(problem),
        gpu_(problem.gpu),
        layers_(problem.shape.layers),
        gpu_layers_(ceil_div(problem.shape.layers, std::int64_t{problem.stages})),
        prompt_(problem.task.prompt_tokens),
        middle_(problem.task.prompt_tokens + ceil_div(problem.task.output_tokens, 2)),
        longest_(problem.task.longest_context()) {}

  Part weights(const WeightPlacement& placement) const;
  Part batches(const FlexGenPolicy& policy, const BlockShape& block) const;
  Part decompressed_weights(const WeightPlacement& placement, const BlockShape& block) const;
  Part cache(const FlexGenPolicy& policy, const BlockShape& block) const;
  Part activations(const FlexGenPolicy& policy, const BlockShape& block) const;
  FlexGenEstimate total(const Part& sum, bool overlap, int blocks) const;

 private:
  double time_of(const std::vector<OperatorWork>& operators) const {
    return to_seconds(gpu_.time_of(operators));
  }
  /// One layer's operators in decode, without attention.
  double around_attention(int sequences) const {
    return time_of(before_attention(p_.rank_shape, sequences, p_.kernel)) +
           time_of(after_attention(p_.rank_shape, sequences));
  }
  double decode_attention(int sequences) const {
    return sequences == 0
               ? 0
               : time_of(attention(p_.rank_shape, SequenceBatch{sequences, 1, middle_}, p_.kernel));
  }
  /// One rank's part of KV data.
  Bytes rank_share(Bytes kv) const {
    return Bytes{ceil_div(kv.count() * p_.rank_shape.kv_heads, p_.shape.kv_heads)};
  }

  const FlexGenProblem& p_;
  Gpu gpu_;
  std::int64_t layers_;
  std::int64_t gpu_layers_;  // of the GPU that has most
  std::int64_t prompt_;
  std::int64_t middle_;
  std::int64_t longest_;
};

Part CostModel::weights(const WeightPlacement& placement) const {
  Part part;
  const bool one_stage = p_.stages == 1;
  const auto all = [&](Home home) {
    // With several stages the last one has a copy of tied embeddings.
    const Bytes copy = one_stage ? Bytes{} : placement.tied[home];
    return (placement.total(home, layers_, true, true) + copy) * p_.ranks;
  };
  part.prefill.to_gpu = seconds_for(placement.layer_off_gpu(), p_.rates.host_to_gpu);
  part.decode.to_gpu = part.prefill.to_gpu;
  part.weights_read = placement.of_layer(Home::disk) * p_.ranks;
  part.needs.vram = std::max(placement.total(Home::gpu, gpu_layers_, true, one_stage),
                             placement.total(Home::gpu, layers_ / p_.stages, one_stage, true)) +
                    placement.read_buffers(p_.separate_layers) + placement.decompression_buffer();
  part.needs.host = all(Home::cpu);
  part.needs.ssd = all(Home::disk);
  return part;
}

Part CostModel::batches(const FlexGenPolicy& policy, const BlockShape& block) const {
  Part part;
  const int b = block.gpu_batch;
  const SequenceBatch prompts{b, prompt_, prompt_};
  const SequenceBatch last_step{b, 1, longest_};
  const double count = block.gpu_batches;
  part.prefill.compute = count * time_of(layer_operators(p_.rank_shape, prompts, p_.kernel));
  part.decode.compute = count * around_attention(b);
  part.vram_prefill = layer_workspace(p_.rank_shape, prompts, p_.kernel).peak();
  part.vram_decode = layer_workspace(p_.rank_shape, last_step, p_.kernel).peak();
  if (policy.compress_cache) {
    const Bytes kv = p_.rank_shape.kv_bytes_per_token_and_layer() * b;
    const Bytes packed = stored_kv(p_.rank_shape, policy, p_.quantization) * b;
    part.prefill.compute += count * time_of(compression(packed * prompt_, kv * prompt_));
    part.decode.compute += count * (time_of(compression(packed, kv)) +
                                    time_of(decompression(packed * middle_, kv * middle_)));
    part.vram_prefill += kv * prompt_;
    part.vram_decode += kv * longest_;
  }
  return part;
}

Part CostModel::decompressed_weights(const WeightPlacement& placement,
                                     const BlockShape& block) const {
  Part part;
  const double time = time_of(decompression(placement.attention.packed + placement.ffn.packed,
                                            placement.attention.unpacked + placement.ffn.unpacked));
  part.prefill.compute = block.gpu_batches * time;
  part.decode.compute = part.prefill.compute;
  return part;
}

Part CostModel::cache(const FlexGenPolicy& policy, const BlockShape& block) const {
  Part part;
  const PerHome<int> homes = sequences_by_home(block.gpu_batch, policy.cache);
  const Bytes token = stored_kv(p_.shape, policy, p_.quantization);  // of one sequence
  const Bytes rank_token = rank_share(token);
  const int off_gpu = homes[Home::cpu] + homes[Home::disk];
  const int loaded = policy.cpu_attention || off_gpu == 0 ? 0 : block.gpu_batch;
  const std::int64_t count = block.gpu_batches;
  const auto all = [&](int sequences, std::int64_t tokens) {
    return token * sequences * tokens * count;
  };
  const auto rank_all = [&](int sequences, std::int64_t tokens) {
    return rank_token * sequences * tokens * count;
  };
  part.prefill.to_host = seconds_for(rank_all(off_gpu, prompt_), p_.rates.gpu_to_host);
  part.prefill.to_disk = seconds_for(all(homes[Home::disk], prompt_), p_.rates.disk_write);
  part.decode.to_host = seconds_for(rank_all(off_gpu, 1), p_.rates.gpu_to_host);
  part.decode.to_disk = seconds_for(all(homes[Home::disk], 1), p_.rates.disk_write);
  part.data_read = all(homes[Home::disk], middle_);
  const Bytes from_cpu = all(homes[Home::cpu], middle_);
  if (policy.cpu_attention) {
    const std::int64_t tokens = off_gpu * middle_;
    const SimDuration attention =
        cpu_attention_time(p_.host, p_.shape, tokens) +
        host_copy_time(p_.host, from_cpu / count,
                       cpu_workspace(p_.shape, homes[Home::cpu] * middle_));
    part.decode.compute =
        static_cast<double>(count) * (decode_attention(homes[Home::gpu]) + to_seconds(attention));
  } else {
    part.decode.to_gpu = seconds_for(rank_all(off_gpu, middle_), p_.rates.host_to_gpu);
    const bool is_mixed = homes[Home::gpu] > 0 && off_gpu > 0;
    const Bytes copied = is_mixed ? rank_token * homes[Home::gpu] * middle_ : Bytes{};
    part.decode.compute = static_cast<double>(count) *
                          (decode_attention(block.gpu_batch) + time_of(device_copy(copied)) +
                           to_seconds(host_copy_time(p_.host, from_cpu / count, from_cpu / count)));
  }
  part.needs.vram = rank_all(homes[Home::gpu], longest_) * gpu_layers_;
  part.needs.host = all(homes[Home::cpu], longest_) * layers_;
  if (policy.cpu_attention) {
    part.needs.host += cpu_workspace(p_.shape, off_gpu * longest_) * 2;
  }
  part.needs.ssd = all(homes[Home::disk], longest_) * layers_;
  // Two GPU batches: one that is computed, and the next one (decode) or the one before (prefill).
  part.vram_prefill = rank_token * block.gpu_batch * prompt_ * 2;
  part.vram_decode = rank_token * (loaded * longest_ + (block.gpu_batch - loaded)) * 2;
  return part;
}

Part CostModel::activations(const FlexGenPolicy& policy, const BlockShape& block) const {
  Part part;
  const PerHome<int> homes = sequences_by_home(block.gpu_batch, policy.activations);
  const Bytes token = p_.shape.hidden_bytes_per_token();
  const std::int64_t others = block.gpu_batches - 1;
  const auto moved = [&](int sequences, std::int64_t tokens) {
    return token * sequences * tokens * block.gpu_batches;
  };
  const int off_gpu = homes[Home::cpu] + homes[Home::disk];
  const auto fill = [&](Resources& resources, std::int64_t tokens) {
    resources.to_gpu = seconds_for(moved(off_gpu, tokens), p_.rates.host_to_gpu);
    resources.to_host = seconds_for(moved(off_gpu, tokens), p_.rates.gpu_to_host);
    resources.to_disk = seconds_for(moved(homes[Home::disk], tokens), p_.rates.disk_write);
    resources.from_disk = seconds_for(moved(homes[Home::disk], tokens), p_.rates.cached_read);
  };
  fill(part.prefill, prompt_);
  fill(part.decode, 1);
  // The batch at work has its hidden states in the workspace.
  part.vram_prefill = token * homes[Home::gpu] * prompt_ * others;
  part.vram_decode = token * homes[Home::gpu] * others;
  part.needs.host = moved(homes[Home::cpu], prompt_);
  part.needs.ssd = moved(homes[Home::disk], prompt_);
  return part;
}

FlexGenEstimate CostModel::total(const Part& sum, bool overlap, int blocks) const {
  FlexGenEstimate found;
  found.needs = sum.needs;
  found.needs.vram += std::max(sum.vram_prefill, sum.vram_decode);
  const bool is_cached = sum.needs.ssd + sum.needs.host <= p_.limits.host;
  const double weights =
      seconds_for(sum.weights_read, is_cached ? p_.rates.cached_weight_read : p_.rates.weight_read);
  const double data =
      seconds_for(sum.data_read, is_cached ? p_.rates.cached_read : p_.rates.disk_read);
  Resources prefill = sum.prefill;
  prefill.from_disk += weights;
  Resources decode = sum.decode;
  decode.from_disk += weights + data;
  const auto steps = static_cast<double>(p_.task.output_tokens - 1);
  const double layer_time = prefill.time(overlap) + steps * decode.time(overlap);
  found.seconds = static_cast<double>(layers_) * layer_time * blocks;
  return found;
}

}  // namespace

FlexGenEstimate estimate(const FlexGenProblem& problem, const FlexGenPolicy& policy) {
  const CostModel model(problem);
  const WeightPlacement placement = place_weights(problem.rank_shape, policy, problem.quantization);
  const BlockShape block = block_shape(problem.task, policy);
  return model.total(model.weights(placement) + model.batches(policy, block) +
                         model.decompressed_weights(placement, block) + model.cache(policy, block) +
                         model.activations(policy, block),
                     policy.overlap, block.blocks);
}

// -- Search -------------------------------------------------------------------------------------

namespace {

/// 1, 2, 3, 4, 6, 8, 12, 16, ... up to `most`, and `most` itself.
std::vector<int> counts_up_to(int most) {
  std::vector<int> counts;
  for (int count = 1; count < most; count *= 2) {
    counts.push_back(count);
    if (const int between = count + count / 2; between > count && between < most) {
      counts.push_back(between);
    }
  }
  counts.push_back(most);
  return counts;
}

/// All pairs in steps of `step`, the most on the GPU first, then the most on the CPU.
std::vector<HomeShares> shares_in_steps(int step) {
  std::vector<HomeShares> all;
  for (int gpu = kPercent; gpu >= 0; gpu = gpu > 0 ? std::max(0, gpu - step) : -1) {
    for (int cpu = kPercent - gpu; cpu >= 0; cpu = cpu > 0 ? std::max(0, cpu - step) : -1) {
      all.push_back({gpu, cpu});
    }
  }
  return all;
}

/// One policy part: where it differs, and what it costs.
struct Option {
  HomeShares shares;
  WeightPlacement placement;
  Part part;
};

class PolicySearch {
 public:
  PolicySearch(const FlexGenProblem& problem, const FlexGenSearch& search)
      : p_(problem),
        search_(search),
        model_(problem),
        shares_(shares_in_steps(search.percent_step)) {
    for (const bool compress : choices(search.compression)) {
      weights_.push_back(weight_options(compress));
    }
  }

  FlexGenPolicy operator()() {
    const int sequences = p_.task.sequences;
    for (const int size : counts_up_to(sequences)) {
      for (const int count : counts_up_to(parts_of(sequences, size))) {
        FlexGenPolicy policy;
        policy.gpu_batch_size = size;
        policy.num_gpu_batches = count;
        policy.overlap = true;
        try_block(policy);
      }
    }
    if (!best_) {
      throw Infeasible(problem());
    }
    return *best_;
  }

 private:
  static std::vector<bool> choices(bool both) {
    return both ? std::vector<bool>{false, true} : std::vector<bool>{false};
  }

  std::vector<Option> weight_options(bool compress) const {
    std::vector<Option> options;
    for (const HomeShares& shares : shares_) {
      FlexGenPolicy policy;
      policy.weights = shares;
      policy.compress_weight = compress;
      Option option{shares, place_weights(p_.rank_shape, policy, p_.quantization), {}};
      // Percentages that place every tensor alike are one option.
      const bool is_new = std::none_of(options.begin(), options.end(), [&](const Option& other) {
        return other.placement.input.stored == option.placement.input.stored &&
               other.placement.attention.stored == option.placement.attention.stored &&
               other.placement.ffn.stored == option.placement.ffn.stored &&
               other.placement.output.stored == option.placement.output.stored;
      });
      if (is_new) {
        option.part = model_.weights(option.placement);
        options.push_back(std::move(option));
      }
    }
    return options;
  }
  std::vector<Option> cache_options(const FlexGenPolicy& policy, const BlockShape& block) const {
    std::vector<Option> options;
    std::vector<PerHome<int>> seen;
    for (const HomeShares& shares : shares_) {
      const bool is_whole =
          shares.is_whole(Home::gpu) || shares.is_whole(Home::cpu) || shares.is_whole(Home::disk);
      const PerHome<int> homes = sequences_by_home(block.gpu_batch, shares);
      if ((policy.compress_cache && !is_whole) ||
          (policy.cpu_attention && shares.is_whole(Home::gpu)) ||
          std::find(seen.begin(), seen.end(), homes) != seen.end()) {
        continue;
      }
      seen.push_back(homes);
      FlexGenPolicy with = policy;
      with.cache = shares;
      options.push_back({shares, {}, model_.cache(with, block)});
    }
    return options;
  }

  void try_block(FlexGenPolicy policy) {
    const BlockShape block = block_shape(p_.task, policy);
    const std::array<HomeShares, 2> activation_homes{HomeShares{kPercent, 0},
                                                     HomeShares{0, kPercent}};
    for (const bool compress_weight : choices(search_.compression)) {
      policy.compress_weight = compress_weight;
      std::vector<Option> weights = weights_[compress_weight ? 1 : 0];
      for (Option& option : weights) {
        option.part = option.part + model_.decompressed_weights(option.placement, block);
      }
      for (const bool compress_cache : choices(search_.compression)) {
        policy.compress_cache = compress_cache;
        const Part batches = model_.batches(policy, block);
        for (const bool cpu_attention : choices(search_.cpu_attention && !compress_cache)) {
          policy.cpu_attention = cpu_attention;
          for (const Option& cache : cache_options(policy, block)) {
            policy.cache = cache.shares;
            for (const HomeShares& activations : activation_homes) {
              policy.activations = activations;
              const Part rest = batches + cache.part + model_.activations(policy, block);
              try_weights(policy, rest, weights, block.blocks);
            }
          }
        }
      }
    }
  }

  void try_weights(FlexGenPolicy& policy, const Part& rest, const std::vector<Option>& weights,
                   int blocks) {
    for (const Option& option : weights) {
      const FlexGenEstimate found = model_.total(rest + option.part, policy.overlap, blocks);
      least_.vram = std::min(least_.vram, found.needs.vram);
      least_.host = std::min(least_.host, found.needs.host);
      if (found.needs.vram <= p_.limits.vram && found.needs.host <= p_.limits.host) {
        least_.ssd = std::min(least_.ssd, found.needs.ssd);
      }
      if (found.needs.fit(p_.limits) && found.seconds < best_seconds_) {
        best_seconds_ = found.seconds;
        policy.weights = option.shares;
        best_ = policy;
      }
    }
  }

  std::string problem() const {
    const auto short_of = [](const char* memory, Bytes least, Bytes limit) {
      return fmt::format("every policy needs {} of {} or more, {} are free", format_short(least),
                         memory, format_short(limit));
    };
    std::string reason;
    if (least_.vram > p_.limits.vram) {
      reason = short_of("VRAM", least_.vram, p_.limits.vram);
    } else if (least_.host > p_.limits.host) {
      reason = short_of("host DRAM", least_.host, p_.limits.host);
    } else if (least_.ssd == kNone) {
      reason = fmt::format("no policy fits {} of VRAM and {} of host DRAM together",
                           format_short(p_.limits.vram), format_short(p_.limits.host));
    } else {
      reason = short_of("SSD", least_.ssd, p_.limits.ssd);
    }
    return fmt::format("policy search: {} on {} sequences of {} tokens: {}", p_.shape.name,
                       p_.task.sequences, p_.task.longest_context(), reason);
  }

  static constexpr Bytes kNone{std::numeric_limits<std::int64_t>::max()};

  const FlexGenProblem& p_;
  FlexGenSearch search_;
  CostModel model_;
  std::vector<HomeShares> shares_;
  std::vector<std::vector<Option>> weights_;  // uncompressed, then compressed
  std::optional<FlexGenPolicy> best_;
  double best_seconds_ = std::numeric_limits<double>::infinity();
  FlexGenNeeds least_{kNone, kNone, kNone};
};

}  // namespace

FlexGenPolicy search_policy(const FlexGenProblem& problem, const FlexGenSearch& search) {
  const FlexGenTask& task = problem.task;
  check(task.sequences > 0 && task.prompt_tokens > 0 && task.output_tokens > 0,
        "a policy for no work");
  return PolicySearch(problem, search)();
}

std::string describe(const FlexGenPolicy& policy) {
  std::string text =
      fmt::format("{} x {} sequences, weights {}, cache {}, activations {} percent on GPU/CPU/disk",
                  policy.gpu_batch_size, policy.num_gpu_batches, describe(policy.weights),
                  describe(policy.cache), describe(policy.activations));
  const auto add = [&](bool holds, const char* what) { text += holds ? what : ""; };
  add(!policy.overlap, ", no overlap");
  add(policy.cpu_attention, ", attention on the CPU");
  add(policy.compress_weight, ", 4-bit weights");
  add(policy.compress_cache, ", 4-bit cache");
  return text;
}

}  // namespace nearkv
