// FlexGenSchedule: config, policy, and what is held where.
#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "models/systems/design_point.hpp"
#include "models/systems/flexgen_schedule.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr const char* kCacheLabel = "KV cache";

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

}  // namespace nearkv
