#include "models/systems/flexgen_schedule.hpp"

#include <algorithm>
#include <cmath>
#include <deque>
#include <utility>

#include <fmt/format.h>

#include "models/systems/design_point.hpp"
#include "models/systems/layer_loop.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr const char* kCompute = "gpu_compute";
constexpr const char* kKvWait = "kv_wait";
constexpr const char* kWeightWait = "weight_wait";
constexpr const char* kActivations = "activation_move";
constexpr const char* kCpuAttention = "cpu_attention";
constexpr const char* kCacheLabel = "KV cache";

constexpr std::int64_t kFp32Bytes = 4;  // unit: bytes of an FP32 value
constexpr int kKAndV = 2;
// not a constant: calls that general_copy makes, to allocate, to pin and to copy
constexpr int kCallsOfACopy = 3;

}  // namespace

// -- Config -------------------------------------------------------------------------------------

void FlexGenSchedule::fields(FieldVisitor& v) {
  v.one_of("attention_kernel", attention_kernel_,
           {kAttentionKernelNames.begin(), kAttentionKernelNames.end()},
           "GPU attention: fused; scores, softmax and values as kernels over a whole matrix; or "
           "eager, with the copies and passes of FlexGen's code");
  v.parameter("copy_threads", copy_thread_count_, "threads that copy between files and GPU",
              {1, 64});
  v.constant("relay_buffer", relay_buffer_, "pinned buffer of one copy thread",
             range_of(1_MiB, 1024_GiB));
  v.parameter("separate_layers", separate_layers_,
              "whether attention and feed-forward network are blocks of their own");
  v.parameter("pin_weights", pin_weights_,
              "whether weights in host memory are pinned; else they are copied into pinned memory "
              "each time");
  v.group("compression", quantization_, "4-bit group-wise quantization");
  v.object({"policy", "where weights, cache and activations live, and how a block is worked on"},
           [this](FieldVisitor& inner) {
             auto kind = static_cast<std::size_t>(policy_kind_);
             inner.variant({"kind", "fixed, or search: the best by FlexGen's cost model"},
                           {"fixed", "search"}, kind, [this](std::size_t i, FieldVisitor& chosen) {
                             policy_kind_ = static_cast<PolicyKind>(i);
                             if (policy_kind_ == PolicyKind::fixed) {
                               configured_.fields(chosen);
                             } else {
                               search_.fields(chosen);
                             }
                           });
           });
}

void FlexGenSchedule::require_parts(FieldVisitor& v, const DesignPoint& point) const {
  v.require(!point.ssd.empty(), "ssd",
            fmt::format("is empty; {} keeps its KV cache on an SSD", point.system_kind));
}

// -- Policy and memory --------------------------------------------------------------------------

void FlexGenSchedule::place(RunContext& run) {
  Machine& machine = run.machine;
  forget_batch();
  policy_ = {};
  choose_policy(run);
  weights_ = place_weights(run.model.rank_shape(), policy_, quantization_);

  machine.declare_phase(kCompute, "GPU operators");
  machine.declare_phase(kKvWait, "waiting for KV files, relay copies and their PCIe transfers");
  if (weights_.read_buffers(separate_layers_) > Bytes{}) {
    machine.declare_phase(kWeightWait, "waiting for weights on their way to the GPU");
  }
  if (!policy_.activations.is_whole(Home::gpu)) {
    machine.declare_phase(kActivations, "moving activations from and to the GPU");
  }
  if (policy_.cpu_attention) {
    machine.declare_phase(kCpuAttention, "attention on the CPU, and its way there and back");
  }
  machine.gauges().add({std::string(Machine::kKvAccess), "s", "waiting for KV",
                        [&machine] { return to_seconds(machine.phase(kKvWait)); }});
  allocate_weights(run);
  machine.host_storage().pin("relay buffers", relay_buffer_ * copy_thread_count_);
  create_weight_files(run);
  threads_ =
      std::make_unique<CopyThreads>(machine.engine(), copy_thread_count_, run.point.host.framework);
  disk_cache_ = make_disk_cache(run);
  loader_ = &machine.add_worker("flexgen/load", machine.host_node());
  cpu_loader_ = &machine.add_worker("flexgen/load_from_cpu", machine.host_node());
  storer_ = &machine.add_worker("flexgen/store", machine.host_node());
  weight_loader_ = nullptr;
  if (weights_.read_buffers(separate_layers_) > Bytes{}) {
    weight_loader_ = &machine.add_worker("flexgen/weights", machine.host_node());
  }
}

/// A run before may have ended anywhere.
void FlexGenSchedule::forget_batch() {
  gpu_batches_.clear();
  cache_regions_.clear();
  activation_regions_.clear();
  activation_files_.clear();
  attention_workspace_.reset();
  loads_.clear();
  stores_.clear();
  weight_loads_.clear();
  prefetched_step_.reset();
  unstored_.reset();
}

void FlexGenSchedule::choose_policy(RunContext& run) {
  if (policy_kind_ == PolicyKind::fixed) {
    policy_ = configured_;
    return;
  }
  const DesignPoint& point = run.point;
  const HostMemory& memory = run.machine.host_storage().memory();
  FlexGenProblem problem;
  problem.shape = run.model.shape();
  problem.rank_shape = run.model.rank_shape();
  problem.ranks = run.model.ranks();
  problem.stages = run.model.stages();
  problem.kernel = attention_kernel_;
  problem.separate_layers = separate_layers_;
  problem.quantization = quantization_;
  problem.gpu = point.gpu.front();
  problem.host = point.host;
  problem.rates = storage_rates(run);
  // The page cache needs room for at least one extent.
  problem.limits = {run.model.free_memory(),
                    memory.capacity() - relay_buffer_ * copy_thread_count_ - memory.extent_size(),
                    point.ssd.front().capacity * point.ssd.front().count - point.host.swap.size};
  problem.task.sequences = point.workload.most_sequences();
  for (const Request& request : point.workload.requests()) {
    problem.task.prompt_tokens = std::max(problem.task.prompt_tokens, request.prompt_tokens);
    problem.task.output_tokens = std::max(problem.task.output_tokens, request.output_tokens);
  }
  policy_ = search_policy(problem, search_);
}

/// What no choice of memory could hold is infeasible, and says which share to change.
void FlexGenSchedule::allocate_weights(RunContext& run) {
  ParallelModel& model = run.model;
  if (policy_.weights.is_whole(Home::gpu) && !policy_.compress_weight) {
    model.allocate_weights();
    return;
  }
  const Bytes on_their_way = weights_.read_buffers(separate_layers_);
  const Bytes decompressed = weights_.decompression_buffer();
  const int last = model.stages() - 1;
  Bytes on_cpu{};
  for (int gpu = 0; gpu < run.machine.gpu_count(); ++gpu) {
    const int stage = gpu / model.ranks();
    const auto part = [&](Home home) {
      return weights_.total(home, model.layers_of(stage), stage == 0, stage == last);
    };
    CapacityLedger& memory = run.machine.gpu(gpu).memory();
    const Bytes needed = part(Home::gpu) + on_their_way + decompressed;
    if (needed > memory.available()) {
      throw Infeasible(fmt::format(
          "{}: weights take {}, and the buffers to load and decompress others {}, {} are free; "
          "lower system/policy/weights_gpu ({})",
          memory.resource(), format_short(part(Home::gpu)),
          format_short(on_their_way + decompressed), format_short(memory.available()),
          policy_.weights.gpu));
    }
    memory.allocate("weights", part(Home::gpu));
    memory.allocate("weight buffers", on_their_way);
    memory.allocate("decompressed weights", decompressed);
    on_cpu += part(Home::cpu);
  }
  try {
    run.machine.host_storage().pin("weights", on_cpu);
  } catch (const OutOfCapacity& overflow) {
    throw Infeasible(
        fmt::format("{}; lower system/policy/weights_cpu ({}): what is left of 100 "
                    "with weights_gpu lies on the SSDs",
                    overflow.what(), policy_.weights.cpu));
  }
}

void FlexGenSchedule::create_weight_files(RunContext& run) {
  weight_files_.assign(static_cast<std::size_t>(output_block(run) + 1), {});
  HostStorage& storage = run.machine.host_storage();
  try {
    for (std::int64_t block = 0; block <= output_block(run); ++block) {
      std::vector<MemoryObject>& files = weight_files_[block];
      const bool is_tied = block == output_block(run) && weights_.tied[Home::disk] > Bytes{};
      std::vector<Bytes> sizes = weight_file_sizes(run, block);
      if (is_tied) {
        sizes.pop_back();
      }
      for (const Bytes size : sizes) {
        files.push_back(
            storage.create_file(fmt::format("weights {} {}", block, files.size()), size));
        storage.assume_stored({files.back(), Bytes{}, size});
        storage.assume_used({files.back(), Bytes{}, size}, Access::read);  // copied there just now
      }
      if (is_tied) {
        files.push_back(weight_files_[input_block(run)].front());
      }
    }
  } catch (const OutOfCapacity& overflow) {
    throw Infeasible(fmt::format("{}; raise system/policy/weights_gpu ({}) or weights_cpu ({})",
                                 overflow.what(), policy_.weights.gpu, policy_.weights.cpu));
  }
}

void FlexGenSchedule::begin_batch(RunContext& run) {
  const Batch& batch = *run.batch;
  const auto sequences = static_cast<int>(batch.sequences());
  gpu_batches_.clear();
  for (const std::optional<Batch>& part : consecutive(batch, gpu_batches(sequences, policy_))) {
    const auto by_home = [&part](const HomeShares& shares) {
      const PerHome<int> sizes = sequences_by_home(static_cast<int>(part->sequences()), shares);
      std::vector<std::optional<Batch>> parts =
          consecutive(*part, {sizes[Home::gpu], sizes[Home::cpu], sizes[Home::disk]});
      return PerHome<std::optional<Batch>>{
          {std::move(parts[0]), std::move(parts[1]), std::move(parts[2])}};
    };
    gpu_batches_.push_back({*part, by_home(policy_.cache), by_home(policy_.activations)});
  }
  const bool copies_by_team = !policy_.cache.is_whole(Home::gpu) || policy_.weights.disk() > 0;
  driver_factor_ = copies_by_team ? run.point.host.framework.team_slowdown : 1;
  run.model.set_kernel_issue(kernel_issue(run));
  hold_cache(run);
  create_host_regions(run);
  std::vector<std::optional<Batch>> on_disk;
  for (const GpuBatch& gpu_batch : gpu_batches_) {
    on_disk.push_back(gpu_batch.cache[Home::disk]);
  }
  disk_cache_->begin_batch(cache_context(run), on_disk);
}

void FlexGenSchedule::hold_cache(RunContext& run) {
  std::int64_t tokens = 0;
  for (const GpuBatch& batch : gpu_batches_) {
    if (batch.cache[Home::gpu]) {
      tokens += batch.cache[Home::gpu]->final_kv_tokens();
    }
  }
  if (tokens == 0) {
    return;
  }
  const Bytes layer = run.model.rank_share(cache_context(run).token * tokens);
  for (int gpu = 0; gpu < run.machine.gpu_count(); ++gpu) {
    run.machine.gpu(gpu).memory().allocate(kCacheLabel,
                                           layer * run.model.layers_of(gpu / run.model.ranks()));
  }
}

void FlexGenSchedule::create_host_regions(RunContext& run) {
  HostStorage& storage = run.machine.host_storage();
  const Bytes token = cache_context(run).token;
  const Bytes hidden = run.model.shape().hidden_bytes_per_token();
  Bytes workspace{};
  for (std::int64_t layer = 0; layer < run.point.model.layers; ++layer) {
    std::vector<HostRegion>& regions = cache_regions_.emplace_back();
    for (const GpuBatch& batch : gpu_batches_) {
      HostRegion& region = regions.emplace_back();
      Bytes size{};
      if (batch.cache[Home::cpu]) {
        for (const SequenceGroup& group : batch.cache[Home::cpu]->groups()) {
          region.offsets.push_back(size);
          size += token * group.sequences * group.longest_context();
        }
        region.memory = storage.create_region(size);
      }
      std::int64_t off_gpu = 0;
      for (const Home home : {Home::cpu, Home::disk}) {
        off_gpu += batch.cache[home] ? batch.cache[home]->final_kv_tokens() : 0;
      }
      workspace = std::max(workspace, cpu_workspace(run.model.shape(), off_gpu) * 2);
    }
  }
  if (policy_.cpu_attention) {
    attention_workspace_ = storage.create_region(workspace);
    storage.assume_used({*attention_workspace_, Bytes{}, workspace}, Access::write);
  }
  for (const GpuBatch& batch : gpu_batches_) {
    HostRegion& region = activation_regions_.emplace_back();
    MemoryObject& file = activation_files_.emplace_back();
    if (const auto& part = batch.activations[Home::cpu]) {
      region.memory = storage.create_region(hidden * part->prompt_tokens());
    }
    if (const auto& part = batch.activations[Home::disk]) {
      file = storage.create_file(fmt::format("activations {}", activation_files_.size()),
                                 hidden * part->prompt_tokens());
    }
  }
}

void FlexGenSchedule::finish_batch(RunContext& run) {
  wait_for(run, stores_, kKvWait);  // of a prompt without decode steps
  HostStorage& storage = run.machine.host_storage();
  const auto remove = [&storage](MemoryObject object) {
    if (object.index >= 0) {
      storage.remove(object);
    }
  };
  disk_cache_->finish_batch(cache_context(run));
  for (const std::vector<HostRegion>& of_layer : cache_regions_) {
    for (const HostRegion& region : of_layer) {
      remove(region.memory);
    }
  }
  for (const HostRegion& region : activation_regions_) {
    remove(region.memory);
  }
  for (const MemoryObject file : activation_files_) {
    remove(file);
  }
  if (attention_workspace_) {
    remove(*attention_workspace_);
  }
  for (int gpu = 0; gpu < run.machine.gpu_count(); ++gpu) {
    run.machine.gpu(gpu).memory().release_all(kCacheLabel);
  }
  forget_batch();
}

Bytes FlexGenSchedule::workspace(const RunContext& run, int step) const {
  const ModelShape& rank = run.model.rank_shape();
  Bytes largest{};
  for (const int k : active_batches(step)) {
    const std::vector<SequenceBatch> groups = active({0, k, step});
    largest = std::max({largest, layer_workspace(rank, groups, attention_kernel_).peak(),
                        logits_bytes(rank, rows_of_logits(groups))});
  }
  return largest;
}

Bytes FlexGenSchedule::read_buffer(const RunContext& run, int gpu_batch, int step) const {
  const GpuBatch& batch = gpu_batches_[static_cast<std::size_t>(gpu_batch)];
  const Bytes token = stored_kv(run.model.shape(), policy_, quantization_);
  // What is not loaded needs room for the new token alone.
  std::int64_t tokens = batch.all.active_sequences(step);
  const bool all_on_gpu = !batch.cache[Home::cpu] && !batch.cache[Home::disk];
  if (!policy_.cpu_attention && !all_on_gpu) {
    tokens = batch.all.context_tokens(step);
  }
  return run.model.rank_share(token * tokens);
}

/// Of the GPU batch at work and its neighbour.
Bytes FlexGenSchedule::cache_buffers(const RunContext& run, int step) const {
  const ModelShape& shape = run.model.shape();
  Bytes buffer{};
  Bytes decompressed{};
  for (const int k : active_batches(step)) {
    const Batch& batch = gpu_batches_[static_cast<std::size_t>(k)].all;
    const bool in_prefill = step == FlexGenSlot::kPrefill;
    const std::int64_t tokens = in_prefill ? batch.prompt_tokens() : batch.context_tokens(step);
    buffer = std::max(
        buffer, in_prefill ? run.model.rank_share(stored_kv(shape, policy_, quantization_) * tokens)
                           : read_buffer(run, k, step));
    decompressed =
        std::max(decompressed, run.model.rank_share(shape.kv_bytes_per_token_and_layer() * tokens));
  }
  const bool in_two = prefetches_cache() || step == FlexGenSlot::kPrefill;
  const Bytes buffers = in_two ? buffer * 2 : buffer;
  return policy_.compress_cache ? buffers + decompressed : buffers;
}

/// Hidden states at home on the GPU, but those of the batch at work, which are in the workspace.
Bytes FlexGenSchedule::activation_buffers(const RunContext& run, int step) const {
  std::int64_t sum = 0;
  std::int64_t most = 0;
  for (const GpuBatch& batch : gpu_batches_) {
    const std::int64_t tokens = new_tokens(batch.activations[Home::gpu], step);
    sum += tokens;
    most = std::max(most, tokens);
  }
  return run.model.shape().hidden_bytes_per_token() * (sum - most);
}

GpuAllocation FlexGenSchedule::hold_buffers(RunContext& run, int step) {
  const bool in_prefill = step == FlexGenSlot::kPrefill;
  GpuAllocation held;
  const auto hold = [&](std::string_view label, Bytes size) {
    for (int gpu = 0; gpu < run.machine.gpu_count(); ++gpu) {
      held.add(run.machine.gpu(gpu).memory(), label, size);
    }
  };
  hold(in_prefill ? "prefill workspace" : "decode workspace", workspace(run, step));
  hold("KV of two GPU batches", cache_buffers(run, step));
  hold("activations", activation_buffers(run, step));
  return held;
}

FlexGenCacheContext FlexGenSchedule::cache_context(RunContext& run) const {
  return {run, *threads_, stored_kv(run.model.shape(), policy_, quantization_)};
}

// -- Weights ------------------------------------------------------------------------------------

std::int64_t FlexGenSchedule::layer_blocks(const RunContext& run) const {
  return separate_layers_ ? 2 * run.point.model.layers : run.point.model.layers;
}

std::int64_t FlexGenSchedule::input_block(const RunContext& run) const { return layer_blocks(run); }

std::int64_t FlexGenSchedule::output_block(const RunContext& run) const {
  return layer_blocks(run) + 1;
}

std::int64_t FlexGenSchedule::layer_of(std::int64_t block) const {
  return separate_layers_ ? block / 2 : block;
}

bool FlexGenSchedule::attends(std::int64_t block) const {
  return !separate_layers_ || block % 2 == 0;
}

bool FlexGenSchedule::feeds_forward(std::int64_t block) const {
  return !separate_layers_ || block % 2 == 1;
}

std::vector<const BlockWeights*> FlexGenSchedule::weights_of(const RunContext& run,
                                                             std::int64_t block) const {
  if (block >= input_block(run)) {
    return {block == input_block(run) ? &weights_.input : &weights_.output};
  }
  std::vector<const BlockWeights*> weights;
  if (attends(block)) {
    weights.push_back(&weights_.attention);
  }
  if (feeds_forward(block)) {
    weights.push_back(&weights_.ffn);
  }
  return weights;
}

Bytes FlexGenSchedule::weights_on_cpu(const RunContext& run, std::int64_t block) const {
  Bytes size{};
  for (const BlockWeights* weights : weights_of(run, block)) {
    size += weights->stored[Home::cpu];
  }
  return size;
}

/// All ranks' parts of a tensor lie in one file. A tied embedding table is the input embedding's
/// first file and the output embedding's last.
std::vector<Bytes> FlexGenSchedule::weight_file_sizes(const RunContext& run,
                                                      std::int64_t block) const {
  std::vector<Bytes> sizes;
  for (const BlockWeights* weights : weights_of(run, block)) {
    for (const Bytes of_rank : weights->files) {
      sizes.push_back(of_rank * run.model.ranks());
    }
  }
  if (block == output_block(run) && weights_.tied[Home::disk] > Bytes{}) {
    sizes.push_back(weights_.tied[Home::disk] * run.model.ranks());
  }
  return sizes;
}

int FlexGenSchedule::stage_of_block(const RunContext& run, std::int64_t block) const {
  if (block == input_block(run)) {
    return 0;
  }
  return block == output_block(run) ? run.model.stages() - 1 : run.model.stage_of(layer_of(block));
}

void FlexGenSchedule::copy_to_ranks(RunContext& run, int stage, Machine::CopyDirection direction,
                                    Bytes of_rank, ParallelModel::HostMemoryKind kind) {
  std::vector<std::function<void()>> copies;
  for (int rank = 0; rank < run.model.ranks(); ++rank) {
    copies.emplace_back([&run, direction, of_rank, kind, gpu = stage * run.model.ranks() + rank] {
      if (kind == ParallelModel::HostMemoryKind::pinned) {
        run.machine.pinned_copy(direction, of_rank, gpu);
      } else {
        run.machine.pageable_copy(direction, of_rank, gpu);
      }
    });
  }
  run.machine.together(copies);
}

void FlexGenSchedule::load_weights(RunContext& run, std::int64_t block) {
  const int stage = stage_of_block(run, block);
  std::vector<std::function<void()>> parts;
  const auto to_gpus = [this, &run, stage](Bytes of_rank) {
    copy_to_ranks(run, stage, Machine::CopyDirection::host_to_gpu, of_rank,
                  ParallelModel::HostMemoryKind::pinned);
  };
  if (const Bytes on_cpu = weights_on_cpu(run, block); pin_weights_ && on_cpu > Bytes{}) {
    parts.emplace_back([to_gpus, on_cpu] { to_gpus(on_cpu); });
  }
  const std::vector<Bytes> sizes = weight_file_sizes(run, block);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    parts.emplace_back([this, &run, to_gpus, size = sizes[i], file = weight_files_[block][i]] {
      const CopyThreads::Turn turn(*threads_, 1);
      threads_->open_file();
      threads_->open_file();  // of the bias beside a matrix
      Completion read;
      run.machine.host_storage().read_file(run.machine.engine().now(), {file, Bytes{}, size}, read);
      run.machine.engine().wait(read);
      to_gpus(size / run.model.ranks());
    });
  }
  run.machine.together(parts);
}

void FlexGenSchedule::post_weights(RunContext& run, std::int64_t block, int step) {
  if (weights_on_cpu(run, block) == Bytes{} && weight_files_[block].empty()) {
    return;
  }
  std::int64_t tensors = 0;
  for (const BlockWeights* weights : weights_of(run, block)) {
    tensors += weights->tensors_on_cpu;
  }
  compute(run, step, [&] { run.model.keep_issuer_busy(kernel_issue(run) * tensors); });
  if (!pin_weights_ && tensors > 0) {
    relay_weights(run, block, tensors / 2);  // matrices; what is beside them is small
  }
  weight_loader_->post([this, &run, block] { load_weights(run, block); }, new_job(weight_loads_));
}

/// Weights that are not pinned go through pinned memory as a cache on the CPU does, a matrix at a
/// time.
void FlexGenSchedule::relay_weights(RunContext& run, std::int64_t block, std::int64_t matrices) {
  const ScopedPhase phase(run.machine, kWeightWait);
  const HostConfig& host = run.point.host;
  const Bytes all = weights_on_cpu(run, block);
  const Bytes piece{ceil_div(all.count(), matrices)};
  for (Bytes at{}; at < all; at += piece) {
    const Bytes of_rank = std::min(piece, all - at);
    const Bytes size = of_rank * run.model.ranks();
    work_on_host(run, kernel_issue(run) * kCallsOfACopy + host.framework.team_start +
                          host_copy_time(host, size, size));
    weight_loader_->post(
        [this, &run, of_rank, stage = stage_of_block(run, block)] {
          copy_to_ranks(run, stage, Machine::CopyDirection::host_to_gpu, of_rank,
                        ParallelModel::HostMemoryKind::pinned);
        },
        new_job(weight_loads_));
  }
}

void FlexGenSchedule::assume_weights_loaded(RunContext& run, std::int64_t block) {
  const std::vector<Bytes> sizes = weight_file_sizes(run, block);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    run.machine.host_storage().assume_used({weight_files_[block][i], Bytes{}, sizes[i]},
                                           Access::read);
  }
}

void FlexGenSchedule::decompress(RunContext& run, std::int64_t block) {
  std::vector<OperatorWork> operators;
  const auto add = [&](const BlockWeights& weights) {
    const std::vector<OperatorWork> more = decompression(weights.packed, weights.unpacked);
    operators.insert(operators.end(), more.begin(), more.end());
  };
  for (const BlockWeights* weights : weights_of(run, block)) {
    add(*weights);
  }
  run.model.compute(stage_of_block(run, block), operators);
}

// -- Slots --------------------------------------------------------------------------------------

std::vector<SequenceBatch> FlexGenSchedule::active(const FlexGenSlot& slot) const {
  const Batch& batch = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)].all;
  return slot.step == FlexGenSlot::kPrefill ? batch.prompts() : batch.at_step(slot.step);
}

std::vector<int> FlexGenSchedule::active_batches(int step) const {
  std::vector<int> batches;
  for (std::size_t k = 0; k < gpu_batches_.size(); ++k) {
    if (step == FlexGenSlot::kPrefill || gpu_batches_[k].all.active_sequences(step) > 0) {
      batches.push_back(static_cast<int>(k));
    }
  }
  return batches;
}

/// The slot behind it in this step or the next one.
std::optional<FlexGenSlot> FlexGenSchedule::next_slot(const RunContext& run,
                                                      const FlexGenSlot& slot) const {
  const std::vector<int> now = active_batches(slot.step);
  const auto next = std::find(now.begin(), now.end(), slot.gpu_batch) + 1;
  if (next != now.end()) {
    return FlexGenSlot{slot.layer, *next, slot.step};
  }
  if (slot.layer + 1 < run.point.model.layers) {
    return FlexGenSlot{slot.layer + 1, now.front(), slot.step};
  }
  if (slot.step + 1 < run.batch->decode_steps()) {
    return FlexGenSlot{0, active_batches(slot.step + 1).front(), slot.step + 1};
  }
  return std::nullopt;
}

/// Tokens of the part's active sequences before the step's own.
std::int64_t FlexGenSchedule::cached_tokens(const std::optional<Batch>& part, int step) const {
  return part ? part->context_tokens(step) - part->active_sequences(step) : 0;
}

std::int64_t FlexGenSchedule::new_tokens(const std::optional<Batch>& part, int step) const {
  if (!part) {
    return 0;
  }
  return step == FlexGenSlot::kPrefill ? part->prompt_tokens() : part->active_sequences(step);
}

bool FlexGenSchedule::needs_load(const FlexGenSlot& slot) const {
  const auto& cache = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)].cache;
  return cached_tokens(cache[Home::cpu], slot.step) > 0 ||
         cached_tokens(cache[Home::disk], slot.step) > 0;
}

bool FlexGenSchedule::needs_store(const FlexGenSlot& slot) const {
  const auto& cache = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)].cache;
  return new_tokens(cache[Home::cpu], slot.step) > 0 ||
         new_tokens(cache[Home::disk], slot.step) > 0;
}

// -- Cache --------------------------------------------------------------------------------------

template <class Visit>
void FlexGenSchedule::for_each_host_span(const FlexGenSlot& slot, Access access,
                                         Visit visit) const {
  const auto& part = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)].cache[Home::cpu];
  if (!part) {
    return;
  }
  const HostRegion& region = cache_regions_[static_cast<std::size_t>(slot.layer)]
                                           [static_cast<std::size_t>(slot.gpu_batch)];
  const auto& groups = part->groups();
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const bool in_prefill = slot.step == FlexGenSlot::kPrefill;
    if (!in_prefill && !Batch::is_active(groups[i], slot.step)) {
      continue;
    }
    const int before = in_prefill ? 0 : groups[i].context_of(slot.step) - 1;
    const int written = in_prefill ? groups[i].prompt_tokens : 1;
    visit(region.memory, region.offsets[i], groups[i].sequences,
          access == Access::read ? 0 : before, access == Access::read ? before : written);
  }
}

void FlexGenSchedule::touch(RunContext& run, const MemorySpan& span, Access access) {
  Completion touched;
  run.machine.host_storage().touch_memory(run.machine.engine().now(), span, access, touched);
  run.machine.engine().wait(touched);
}

/// K and V on the CPU are copied one after the other by the driver thread and its team: into pinned
/// memory, from where a DMA takes each to the GPU, or into the FP32 workspace.
void FlexGenSchedule::post_load(RunContext& run, const FlexGenSlot& slot) {
  if (!needs_load(slot)) {
    return;
  }
  const GpuBatch& batch = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)];
  if (cached_tokens(batch.cache[Home::disk], slot.step) > 0) {
    const auto destination = policy_.cpu_attention ? FlexGenDiskCache::Destination::host
                                                   : FlexGenDiskCache::Destination::gpu;
    loader_->post([this, &run, slot,
                   destination] { disk_cache_->load(cache_context(run), slot, destination); },
                  new_job(loads_));
  }
  const std::int64_t on_cpu = cached_tokens(batch.cache[Home::cpu], slot.step);
  if (on_cpu == 0) {
    return;
  }
  const ScopedPhase phase(run.machine, kKvWait);
  const Bytes token = cache_context(run).token;
  for_each_host_span(slot, Access::read,
                     [&](MemoryObject memory, Bytes offset, int sequences, int first, int count) {
                       const Bytes row = token * sequences;
                       touch(run, {memory, offset + row * first, row * count}, Access::read);
                     });
  const Bytes read = token * on_cpu / 2;  // K, or V
  const Bytes workspace = cpu_workspace(run.model.shape(), on_cpu);
  if (policy_.cpu_attention) {
    touch(run, {*attention_workspace_, Bytes{}, workspace}, Access::write);
  }
  const Bytes written = policy_.cpu_attention ? workspace / 2 : read;
  for (int tensor = 0; tensor < kKAndV; ++tensor) {
    work_on_host(run, kernel_issue(run) * kCallsOfACopy + run.point.host.framework.team_start +
                          host_copy_time(run.point.host, read, written));
    if (!policy_.cpu_attention) {
      cpu_loader_->post(
          [&run, slot, read] {
            run.model.copy(Machine::CopyDirection::host_to_gpu, slot.layer, read,
                           ParallelModel::HostMemoryKind::pinned);
          },
          new_job(loads_));
    }
  }
}

/// A prompt's K and V are stored by the copy threads; a token's are copied by the driver thread.
void FlexGenSchedule::post_store(RunContext& run, const FlexGenSlot& slot) {
  if (!needs_store(slot)) {
    return;
  }
  const GpuBatch& batch = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)];
  const std::int64_t on_cpu = new_tokens(batch.cache[Home::cpu], slot.step);
  std::vector<std::function<void()>> parts;
  if (new_tokens(batch.cache[Home::disk], slot.step) > 0) {
    parts.emplace_back([this, &run, slot] { disk_cache_->store(cache_context(run), slot); });
  }
  if (on_cpu > 0 && slot.step == FlexGenSlot::kPrefill) {
    parts.emplace_back([this, &run, slot] { store_prompts_on_cpu(run, slot); });
  }
  if (!parts.empty()) {
    storer_->post([&run, parts = std::move(parts)] { run.machine.together(parts); },
                  new_job(stores_));
  }
  if (on_cpu > 0 && slot.step != FlexGenSlot::kPrefill) {
    const ScopedPhase phase(run.machine, kKvWait);
    work_on_host(run, kernel_issue(run) * kKAndV);
    run.model.copy(Machine::CopyDirection::gpu_to_host, slot.layer,
                   cache_context(run).token * on_cpu, ParallelModel::HostMemoryKind::pageable);
    touch_written(run, slot, 1);
  }
}

/// The memory is touched for the first time: all of the team take the page faults.
void FlexGenSchedule::store_prompts_on_cpu(RunContext& run, const FlexGenSlot& slot) {
  const GpuBatch& batch = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)];
  const Bytes size = cache_context(run).token * new_tokens(batch.cache[Home::cpu], slot.step);
  const CopyThreads::Turn turn(*threads_, kKAndV);
  for (int tensor = 0; tensor < kKAndV; ++tensor) {
    threads_->take_tensor();
  }
  run.model.copy(Machine::CopyDirection::gpu_to_host, slot.layer, size,
                 ParallelModel::HostMemoryKind::pinned);
  touch_written(run, slot, run.point.host.cores);
  run.machine.engine().wait_until(run.machine.engine().now() + run.point.host.framework.team_start +
                                  host_copy_time(run.point.host, size, size));
}

void FlexGenSchedule::touch_written(RunContext& run, const FlexGenSlot& slot, int threads) {
  const Bytes token = cache_context(run).token;
  std::deque<Completion> touched;
  const SimTime now = run.machine.engine().now();
  for_each_host_span(slot, Access::write,
                     [&](MemoryObject memory, Bytes offset, int sequences, int first, int count) {
                       const Bytes row = token * sequences;
                       const Bytes begin = offset + row * first;
                       const Bytes end = begin + row * count;
                       const Bytes part{ceil_div((row * count).count(), std::int64_t{threads})};
                       for (Bytes at = begin; at < end; at += part) {
                         run.machine.host_storage().touch_memory(
                             now, {memory, at, std::min(part, end - at)}, Access::write,
                             touched.emplace_back());
                       }
                     });
  for (Completion& completion : touched) {
    run.machine.engine().wait(completion);
  }
}

void FlexGenSchedule::work_on_host(RunContext& run, SimDuration time) {
  run.model.wait_for_issuer();
  run.model.keep_issuer_busy(time);
  run.model.wait_for_issuer();
}

SimDuration FlexGenSchedule::at_drivers_pace(SimDuration time) const {
  return SimDuration{std::llround(static_cast<double>(time.count()) * driver_factor_)};
}

SimDuration FlexGenSchedule::kernel_issue(const RunContext& run) const {
  return at_drivers_pace(run.point.host.framework.kernel_issue);
}

/// Before each block of a GPU batch.
void FlexGenSchedule::begin_task(RunContext& run, int step) const {
  compute(run, step,
          [&] { run.model.keep_issuer_busy(at_drivers_pace(run.point.host.framework.task)); });
}

void FlexGenSchedule::wait_for(RunContext& run, Jobs& jobs, const char* phase_name) {
  const ScopedPhase phase(run.machine, phase_name);
  for (const std::unique_ptr<Completion>& job : jobs) {
    run.machine.engine().wait(*job);
  }
  jobs.clear();
}

Completion& FlexGenSchedule::new_job(Jobs& jobs) {
  return *jobs.emplace_back(std::make_unique<Completion>());
}

/// Without overlap nobody waits for the threads that store (generation_loop_normal does not
/// synchronize); here, the end of a decode step does.
void FlexGenSchedule::wait_for_all(RunContext& run) {
  if (policy_.overlap) {
    wait_for(run, stores_, kKvWait);
  }
  wait_for(run, loads_, kKvWait);
  if (weight_loader_ != nullptr) {
    wait_for(run, weight_loads_, kWeightWait);
  }
}

/// A prefetch for another step than `step` is waited for and thrown away.
void FlexGenSchedule::finish_foreign_prefetch(RunContext& run, int step) {
  if (prefetched_step_ != step) {
    wait_for(run, loads_, kKvWait);
    prefetched_step_.reset();
  }
}

// -- Computing ----------------------------------------------------------------------------------

void FlexGenSchedule::compute(RunContext& run, int step,
                              const std::function<void()>& operators) const {
  const SimTime begin = run.machine.engine().now();
  operators();
  if (step != FlexGenSlot::kPrefill) {
    run.machine.add_to_phase(kCompute, run.machine.engine().now() - begin);
  }
}

void FlexGenSchedule::compute_prefill(RunContext& run, const FlexGenSlot& slot) {
  compute(run, slot.step, [&] {
    if (separate_layers_) {
      run.model.attention_block(slot.layer, active(slot), attention_kernel_);
    } else {
      run.model.layer(slot.layer, active(slot), attention_kernel_);
    }
  });
  compress_new(run, slot);
}

void FlexGenSchedule::compute_decode(RunContext& run, const FlexGenSlot& slot) {
  const GpuBatch& batch = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)];
  const int stage = run.model.stage_of(slot.layer);
  const ModelShape& shape = run.model.shape();
  const auto rank_part = [&](Bytes token, std::int64_t tokens) {
    return run.model.rank_share(token * tokens);
  };
  const std::int64_t on_gpu = cached_tokens(batch.cache[Home::gpu], slot.step);
  std::vector<OperatorWork> operators;
  if (policy_.compress_cache) {
    const std::int64_t tokens = cached_tokens(batch.all, slot.step);
    operators = decompression(rank_part(stored_kv(shape, policy_, quantization_), tokens),
                              rank_part(shape.kv_bytes_per_token_and_layer(), tokens));
  } else if (on_gpu > 0 && needs_load(slot) && !policy_.cpu_attention) {
    operators = device_copy(rank_part(shape.kv_bytes_per_token_and_layer(), on_gpu));
  }
  compute(run, slot.step, [&] { run.model.compute(stage, operators); });
  decode_attention_layer(run, slot);
  compress_new(run, slot);
}

void FlexGenSchedule::decode_attention_layer(RunContext& run, const FlexGenSlot& slot) {
  if (policy_.cpu_attention) {
    attend_on_cpu(run, slot);
  } else {
    compute(run, slot.step, [&] {
      if (separate_layers_) {
        run.model.attention_block(slot.layer, active(slot), attention_kernel_);
      } else {
        run.model.layer(slot.layer, active(slot), attention_kernel_);
      }
    });
  }
}

void FlexGenSchedule::compute_after_attention(RunContext& run, std::int64_t layer,
                                              std::int64_t tokens) const {
  if (separate_layers_) {
    run.model.attention_output(layer, tokens);
  } else {
    run.model.after_attention(layer, tokens);
  }
}

void FlexGenSchedule::attend_on_cpu(RunContext& run, const FlexGenSlot& slot) {
  const GpuBatch& batch = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)];
  const std::int64_t sequences = batch.all.active_sequences(slot.step);
  compute(run, slot.step, [&] {
    run.model.enter_layer(slot.layer, sequences);
    run.model.before_attention(slot.layer, sequences, attention_kernel_);
    if (new_tokens(batch.cache[Home::gpu], slot.step) > 0) {
      run.model.attention(slot.layer, batch.cache[Home::gpu]->at_step(slot.step),
                          attention_kernel_);
    }
  });
  std::int64_t off_gpu = 0;
  std::int64_t context_tokens = 0;
  for (const Home home : {Home::cpu, Home::disk}) {
    if (const auto& part = batch.cache[home]) {
      off_gpu += part->active_sequences(slot.step);
      context_tokens += part->context_tokens(slot.step);
    }
  }
  if (off_gpu > 0) {
    const ScopedPhase phase(run.machine, kCpuAttention);
    const ModelShape& rank = run.model.rank_shape();
    const int stage = run.model.stage_of(slot.layer);
    const Bytes fp32 = Bytes{rank.attention_width * kFp32Bytes} * off_gpu;  // q, or the output
    const auto move = [&](Machine::CopyDirection direction, Bytes size) {
      copy_to_ranks(run, stage, direction, size, ParallelModel::HostMemoryKind::pageable);
    };
    move(Machine::CopyDirection::gpu_to_host, fp32 + rank.kv_bytes_per_token_and_layer() * off_gpu);
    run.machine.engine().wait_until(
        run.machine.engine().now() +
        cpu_attention_time(run.point.host, run.model.shape(), context_tokens));
    move(Machine::CopyDirection::host_to_gpu, fp32);
  }
  compute(run, slot.step, [&] { compute_after_attention(run, slot.layer, sequences); });
}

/// The new K and V: compressed, and copied to the cache as far as that is on the GPU. On their way
/// to the host eager code transposes them on the GPU too.
void FlexGenSchedule::compress_new(RunContext& run, const FlexGenSlot& slot) {
  const GpuBatch& batch = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)];
  const Bytes token = stored_kv(run.model.shape(), policy_, quantization_);
  const std::int64_t tokens = new_tokens(batch.all, slot.step);
  std::vector<OperatorWork> operators;
  if (policy_.compress_cache) {
    operators = compression(
        run.model.rank_share(token * tokens),
        run.model.rank_share(run.model.shape().kv_bytes_per_token_and_layer() * tokens));
  }
  const bool transposes =
      slot.step == FlexGenSlot::kPrefill && attention_kernel_ == AttentionKernel::eager;
  const std::vector<OperatorWork> copy =
      transposes ? transposed_copy(run.model.rank_share(token * tokens))
                 : device_copy(
                       run.model.rank_share(token * new_tokens(batch.cache[Home::gpu], slot.step)));
  operators.insert(operators.end(), copy.begin(), copy.end());
  compute(run, slot.step, [&] { run.model.compute(run.model.stage_of(slot.layer), operators); });
}

void FlexGenSchedule::move_activations(RunContext& run, const FlexGenSlot& slot,
                                       Machine::CopyDirection direction) {
  const GpuBatch& batch = gpu_batches_[static_cast<std::size_t>(slot.gpu_batch)];
  const auto k = static_cast<std::size_t>(slot.gpu_batch);
  const Bytes token = run.model.shape().hidden_bytes_per_token();
  const Bytes on_cpu = token * new_tokens(batch.activations[Home::cpu], slot.step);
  const Bytes on_disk = token * new_tokens(batch.activations[Home::disk], slot.step);
  if (on_cpu + on_disk == Bytes{}) {
    return;
  }
  const ScopedPhase phase(run.machine, kActivations);
  Engine& engine = run.machine.engine();
  HostStorage& storage = run.machine.host_storage();
  const bool to_gpu = direction == Machine::CopyDirection::host_to_gpu;
  const auto copy = [&] {
    copy_to_ranks(run, run.model.stage_of(slot.layer), direction, on_cpu + on_disk,
                  ParallelModel::HostMemoryKind::pinned);
  };
  if (!to_gpu) {
    copy();
  }
  if (on_cpu > Bytes{}) {
    touch(run, {activation_regions_[k].memory, Bytes{}, on_cpu},
          to_gpu ? Access::read : Access::write);
  }
  if (on_disk > Bytes{}) {
    const CopyThreads::Turn turn(*threads_, 1);
    threads_->open_file();
    Completion moved;
    const MemorySpan span{activation_files_[k], Bytes{}, on_disk};
    if (to_gpu) {
      storage.read_file(engine.now(), span, moved);
    } else {
      storage.write_file(engine.now(), span, moved);
    }
    engine.wait(moved);
  }
  if (to_gpu) {
    copy();
  }
}

// -- The block schedule -------------------------------------------------------------------------

void FlexGenSchedule::embed(RunContext& run, int step) {
  // With overlap the end of the step before has loaded these weights.
  if (!policy_.overlap || step == FlexGenSlot::kPrefill) {
    post_weights(run, input_block(run), step);
    wait_for_all(run);
  }
  if (policy_.overlap) {
    post_weights(run, 0, step);
  }
  for (const int k : active_batches(step)) {
    const FlexGenSlot slot{0, k, step};
    begin_task(run, step);
    compute(run, slot.step, [&] {
      decompress(run, input_block(run));
      run.model.embed(tokens_of(active(slot)));
    });
    move_activations(run, slot, Machine::CopyDirection::gpu_to_host);
  }
  wait_for_all(run);
}

void FlexGenSchedule::run_layer(RunContext& run, std::int64_t layer, int step) {
  if (!separate_layers_) {
    run_block(run, layer, step);
    return;
  }
  run_block(run, 2 * layer, step);
  run_block(run, 2 * layer + 1, step);
}

/// Whether the cache of a slot's successor is loaded while the slot's part in `block` is computed.
bool FlexGenSchedule::loads_next(std::int64_t block, const FlexGenSlot& slot,
                                 const FlexGenSlot& next) const {
  const bool is_in_this_layer = next.layer == slot.layer && next.step == slot.step;
  return separate_layers_ && attends(block) ? is_in_this_layer
         : separate_layers_                 ? !is_in_this_layer
                                            : true;
}

void FlexGenSchedule::begin_transfers(RunContext& run, std::int64_t block, const FlexGenSlot& slot,
                                      bool is_first) {
  if (is_first) {
    post_weights(run, block + 1 < layer_blocks(run) ? block + 1 : output_block(run), slot.step);
  }
  const std::optional<FlexGenSlot> next = next_slot(run, slot);
  const bool in_decode = slot.step != FlexGenSlot::kPrefill;
  if (in_decode && prefetches_cache() && next && loads_next(block, slot, *next)) {
    post_load(run, *next);
    // Of the next step: its part of this step was stored long ago.
    prefetched_step_ = next->step != slot.step ? std::optional(next->step) : prefetched_step_;
  }
  if (unstored_) {
    post_store(run, *std::exchange(unstored_, std::nullopt));
  }
}

void FlexGenSchedule::run_block(RunContext& run, std::int64_t block, int step) {
  const bool in_decode = step != FlexGenSlot::kPrefill;
  const std::vector<int> batches = active_batches(step);
  if (!policy_.overlap) {
    post_weights(run, block, step);
    wait_for_all(run);
  }
  for (const int k : batches) {
    const FlexGenSlot slot{layer_of(block), k, step};
    begin_task(run, step);
    if (policy_.overlap) {
      begin_transfers(run, block, slot, k == batches.front());
    } else if (in_decode && prefetches_cache() && attends(block)) {
      post_load(run, slot);
      wait_for_all(run);  // which the GPU does, while the driver issues what uses it
    }
    move_activations(run, slot, Machine::CopyDirection::host_to_gpu);
    compute_block(run, block, slot);
    move_activations(run, slot, Machine::CopyDirection::gpu_to_host);
    if (attends(block)) {
      unstored_ = slot;
    }
    if (!policy_.overlap && unstored_) {
      post_store(run, *std::exchange(unstored_, std::nullopt));
    }
    wait_for_all(run);
  }
}

void FlexGenSchedule::compute_block(RunContext& run, std::int64_t block, const FlexGenSlot& slot) {
  compute(run, slot.step, [&] { decompress(run, block); });
  if (attends(block)) {
    if (slot.step == FlexGenSlot::kPrefill) {
      compute_prefill(run, slot);
    } else {
      compute_decode(run, slot);
    }
  } else {
    compute(run, slot.step,
            [&] { run.model.feed_forward_block(slot.layer, tokens_of(active(slot))); });
  }
}

void FlexGenSchedule::next_tokens(RunContext& run, int step) {
  const std::int64_t last = run.point.model.layers - 1;
  if (!policy_.overlap) {
    post_weights(run, output_block(run), step);
    wait_for_all(run);
  } else {
    if (unstored_) {
      post_store(run, *std::exchange(unstored_, std::nullopt));
    }
    if (step + 1 < run.batch->decode_steps()) {
      post_weights(run, input_block(run), step);
    }
  }
  for (const int k : active_batches(step)) {
    const FlexGenSlot slot{last, k, step};
    begin_task(run, step);
    move_activations(run, slot, Machine::CopyDirection::host_to_gpu);
    compute(run, slot.step, [&] {
      decompress(run, output_block(run));
      run.model.next_token(rows_of_logits(active(slot)));
    });
  }
  wait_for_all(run);
}

/// generation_loop_normal synchronizes at the end of a step only.
void FlexGenSchedule::issue_ahead_without_overlap(RunContext& run) const {
  if (!policy_.overlap) {
    run.model.begin_issuing_ahead();
  }
}

void FlexGenSchedule::prefill(RunContext& run) {
  const int step = FlexGenSlot::kPrefill;
  const GpuAllocation buffers = hold_buffers(run, step);
  work_on_host(run, run.point.host.framework.first_pass);
  issue_ahead_without_overlap(run);
  embed(run, step);
  for (std::int64_t layer = 0; layer < run.point.model.layers; ++layer) {
    run_layer(run, layer, step);
  }
  next_tokens(run, step);
  run.model.end_issuing_ahead();
}

void FlexGenSchedule::decode_step(RunContext& run, int step) {
  const GpuAllocation buffers = hold_buffers(run, step);
  finish_foreign_prefetch(run, step);
  disk_cache_->move_contents_to(cache_context(run), step);
  if (policy_.overlap && prefetches_cache() && prefetched_step_ != step) {
    post_load(run, {0, active_batches(step).front(), step});
  }
  wait_for(run, loads_, kKvWait);
  issue_ahead_without_overlap(run);
  embed(run, step);
  LayerLoop(run.machine, run.point)
      .run([&](std::int64_t layer) { run_layer(run, layer, step); },
           [&](std::int64_t layer) { assume_layer(run, layer, step); });
  next_tokens(run, step);
  run.model.end_issuing_ahead();
  wait_for(run, stores_, kKvWait);
}

// -- What a sampled run leaves out --------------------------------------------------------------

void FlexGenSchedule::assume_moved(RunContext& run, const FlexGenSlot& slot, Access access) {
  const FlexGenCacheContext context = cache_context(run);
  if (access == Access::read) {
    disk_cache_->assume_loaded(context, slot);
  } else {
    disk_cache_->assume_stored(context, slot);
  }
  for_each_host_span(
      slot, access, [&](MemoryObject memory, Bytes offset, int sequences, int first, int count) {
        const Bytes row = context.token * sequences;
        run.machine.host_storage().assume_used({memory, offset + row * first, row * count}, access);
      });
}

/// The LM head of eager code looks at all tokens of a prompt, of which the last one's scores count.
std::int64_t FlexGenSchedule::rows_of_logits(std::span<const SequenceBatch> groups) const {
  std::int64_t sequences = 0;
  for (const SequenceBatch& group : groups) {
    sequences += group.sequences;
  }
  return attention_kernel_ == AttentionKernel::eager ? tokens_of(groups) : sequences;
}

/// In the order of run_layer.
void FlexGenSchedule::assume_layer(RunContext& run, std::int64_t layer, int step) {
  if (!separate_layers_) {
    assume_block(run, layer, step);
    return;
  }
  assume_block(run, 2 * layer, step);
  assume_block(run, 2 * layer + 1, step);
}

void FlexGenSchedule::assume_block(RunContext& run, std::int64_t block, int step) {
  if (!policy_.overlap) {
    assume_weights_loaded(run, block);
  } else {
    assume_weights_loaded(run, block + 1 < layer_blocks(run) ? block + 1 : output_block(run));
  }
  for (const int k : active_batches(step)) {
    const FlexGenSlot slot{layer_of(block), k, step};
    if (!policy_.overlap && attends(block)) {
      assume_moved(run, slot, Access::read);
      assume_moved(run, slot, Access::write);
    }
    if (!policy_.overlap) {
      continue;
    }
    const std::optional<FlexGenSlot> next = next_slot(run, slot);
    if (next && next->step == step && loads_next(block, slot, *next)) {
      assume_moved(run, *next, Access::read);
    }
    if (unstored_) {
      assume_moved(run, *std::exchange(unstored_, std::nullopt), Access::write);
    }
    if (attends(block)) {
      unstored_ = slot;
    }
  }
}

/// In the order of decode_step.
void FlexGenSchedule::assume_step(RunContext& run, int step) {
  if (policy_.overlap) {
    assume_moved(run, {0, active_batches(step).front(), step}, Access::read);
    assume_weights_loaded(run, 0);
  } else {
    assume_weights_loaded(run, input_block(run));
  }
  for (std::int64_t layer = 0; layer < run.point.model.layers; ++layer) {
    assume_layer(run, layer, step);
  }
  if (policy_.overlap) {
    if (unstored_) {
      assume_moved(run, *std::exchange(unstored_, std::nullopt), Access::write);
    }
    assume_weights_loaded(run, input_block(run));
  } else {
    assume_weights_loaded(run, output_block(run));
  }
}

void FlexGenSchedule::warm_up(RunContext& run, int step) {
  wait_for(run, stores_, kKvWait);
  finish_foreign_prefetch(run, step);
  wait_for(run, loads_, kKvWait);
  disk_cache_->move_contents_to(cache_context(run), step + 1);
  disk_cache_->assume_history(cache_context(run), step);
  // As two steps: the first one evicts what was written long ago, the second leaves in memory what
  // a step has used last.
  assume_step(run, step);
  assume_step(run, step);
  const std::vector<int> next = active_batches(step + 1);
  if (policy_.overlap && prefetches_cache() && !next.empty()) {
    post_load(run, {0, next.front(), step + 1});
    prefetched_step_ = step + 1;
    for (const std::unique_ptr<Completion>& load : loads_) {
      run.machine.engine().wait(*load);
    }
  }
}

/// Windows that the step's tokens are the first to touch, of K of one layer.
std::int64_t FlexGenSchedule::new_windows(const RunContext& run, int step) const {
  const Bytes window = run.point.host.file_system.readahead_window;
  const Bytes token = stored_kv(run.model.shape(), policy_, quantization_);
  std::int64_t windows = 0;
  for (const GpuBatch& batch : gpu_batches_) {
    for (const Home home : {Home::cpu, Home::disk}) {
      if (!batch.cache[home]) {
        continue;
      }
      for (const SequenceGroup& group : batch.cache[home]->groups()) {
        const Bytes row = token * group.sequences / 2;
        const auto windows_of = [&](int tokens) {
          return ceil_div((row * tokens).count(), window.count());
        };
        const int context = group.context_of(step);
        windows +=
            Batch::is_active(group, step) ? windows_of(context) - windows_of(context - 1) : 0;
      }
    }
  }
  return windows;
}

/// The first step loads its own first slot too, the last one none for a step behind it; a step
/// behind which a group is done has less to do, and one that begins a window has more.
StepKey FlexGenSchedule::step_key(const RunContext& run, int step) const {
  const int is_first = step == 0 ? 1 : 0;
  const int is_last = step == run.batch->decode_steps() - 1 ? 2 : 0;
  int done = 0;
  for (const SequenceGroup& group : run.groups()) {
    done += Batch::is_active(group, step) ? 0 : 1;
  }
  const int ends = 2 * 2;  // kinds of first and last
  const auto groups = static_cast<int>(run.groups().size());
  // Of ragged batches hardly two steps would be alike.
  const auto windows = groups > 1 ? 0 : static_cast<int>(new_windows(run, step));
  return {is_first + is_last + ends * (done + (groups + 1) * windows), step};
}

// -- Results ------------------------------------------------------------------------------------

std::vector<std::string> FlexGenSchedule::notes(const DesignPoint& point) const {
  std::vector<std::string> notes;
  if (policy_kind_ == PolicyKind::fixed) {
    notes.push_back("policy as configured: " + nearkv::describe(configured_));
  } else if (policy_.block() > 0) {
    notes.push_back("policy found by FlexGen's cost model: " + nearkv::describe(policy_));
  }
  if (point.parallelism.gpus() > 1) {
    notes.emplace_back("FlexGen itself has no tensor parallelism; here its ranks share each layer");
  }
  return notes;
}

void FlexGenSchedule::report(const DesignPoint& /*point*/, Metrics& metrics) const {
  const auto add = [&](const char* name, int value, const char* doc) {
    metrics.add(std::string("policy/") + name, value, "1", doc);
  };
  add("gpu_batch_size", policy_.gpu_batch_size, "most sequences of a GPU batch");
  add("num_gpu_batches", policy_.num_gpu_batches, "most GPU batches of a block");
  add("weights_gpu", policy_.weights.gpu, "percent of the weights on the GPU");
  add("weights_cpu", policy_.weights.cpu, "percent of the weights in host memory");
  add("cache_gpu", policy_.cache.gpu, "percent of the KV cache on the GPU");
  add("cache_cpu", policy_.cache.cpu, "percent of the KV cache in host memory");
  add("activations_gpu", policy_.activations.gpu, "percent of the activations on the GPU");
  add("activations_cpu", policy_.activations.cpu, "percent of the activations in host memory");
  add("overlap", policy_.overlap ? 1 : 0, "1: transfers and computing overlap");
  add("cpu_attention", policy_.cpu_attention ? 1 : 0, "1: the CPU computes decode attention");
  add("compress_weight", policy_.compress_weight ? 1 : 0, "1: weights in 4 bits");
  add("compress_cache", policy_.compress_cache ? 1 : 0, "1: KV cache in 4 bits");
}

}  // namespace nearkv
