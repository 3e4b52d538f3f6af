// FlexGen (Sheng et al., ICML 2023) with weights in VRAM and the KV cache in files on the SSDs, as
// the paper's baseline uses it. Each layer's K and V are two memory-mapped files; copy threads move
// a layer's slices through pinned relay buffers. With overlap, the iteration of layer j loads the
// cache of layer j + 1, stores that of layer j - 1 and computes layer j, and then waits for all
// three (FlexGen's generation_loop_overlap_single_batch).
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "models/llm/operators.hpp"
#include "models/systems/design_point.hpp"
#include "models/systems/layer_loop.hpp"
#include "models/systems/machine.hpp"
#include "models/systems/parallel_model.hpp"
#include "models/systems/system.hpp"

namespace nearkv {

namespace {

class FlexGenSystem final : public BatchSystem {
 public:
  void fields(FieldVisitor& v) override {
    v.one_of("attention_kernel", attention_kernel_, {"fused", "unfused"},
             "GPU attention: fused, or scores, softmax and values as kernels over a whole matrix");
    v.parameter("copy_threads", copy_threads_, "threads that copy between files and GPU", {1, 64});
    v.constant("relay_buffer", relay_buffer_, "pinned buffer of one copy thread",
               range_of(1_MiB, 1024_GiB));
  }

  void require_parts(FieldVisitor& v, const DesignPoint& point) const override {
    v.require(!point.ssd.empty(), "ssd", "is empty; flexgen keeps its KV cache on an SSD");
  }

  void place(RunContext& run) override;
  void begin_batch(RunContext& run) override;
  void prefill(RunContext& run) override;
  void decode_step(RunContext& run, int step) override;
  void warm_up(RunContext& run, int step) override;

  /// The first step loads its own layer 0 too, the last one none for a step behind it.
  [[nodiscard]] StepKey step_key(const RunContext& run, int step) const override {
    const int is_first = step == 0 ? 1 : 0;
    const int is_last = step == run.batch->decode_steps() - 1 ? 2 : 0;
    return {is_first + is_last, step};
  }

  [[nodiscard]] std::vector<std::string> notes(const DesignPoint& /*point*/) const override {
    return {
        "FlexGen's policy flags in the paper are not published; weights and activations are "
        "taken to be in VRAM and the whole KV cache in files"};
  }

 private:
  struct LayerFiles {
    MemoryObject keys;
    MemoryObject values;
  };
  /// K, or V, of the whole batch for one token in one layer.
  [[nodiscard]] static Bytes row(const RunContext& run) {
    return run.point.model.kv_bytes_per_token_and_layer() * run.batch->sequences() / 2;
  }

  void post_load(RunContext& run, std::int64_t layer, int context);
  void post_store(RunContext& run, std::int64_t layer, int first_token, int past_last_token);
  void wait_for(RunContext& run, std::unique_ptr<Completion>& completion);
  void finish_foreign_prefetch(RunContext& run, int context);
  void move_contents_to(RunContext& run, int tokens);
  void assume_read(RunContext& run, std::int64_t layer, int context);
  void assume_written(RunContext& run, std::int64_t layer, int context);
  void assume_step(RunContext& run, int context);

  AttentionKernel attention_kernel_ = AttentionKernel::unfused;
  int copy_threads_ = 0;
  Bytes relay_buffer_{};

  std::vector<LayerFiles> files_;
  Worker* loader_ = nullptr;
  Worker* storer_ = nullptr;
  std::unique_ptr<Completion> load_;   // of the next layer
  std::unique_ptr<Completion> store_;  // of the layer before
  int prefetched_context_ = 0;         // layer 0 of this step is on its way, or nothing
  int stored_tokens_ = 0;              // the files have contents up to here
};

void FlexGenSystem::place(RunContext& run) {
  Machine& machine = run.machine;
  machine.declare_phase("gpu_compute", "GPU operators");
  machine.declare_phase("kv_wait", "waiting for KV files, relay copies and their PCIe transfers");
  machine.gauges().add({std::string(Machine::kKvAccess), "s", "waiting for KV",
                        [&machine] { return to_seconds(machine.phase("kv_wait")); }});
  files_.clear();
  load_.reset();
  store_.reset();
  prefetched_context_ = 0;
  stored_tokens_ = 0;
  run.model.allocate_weights();
  machine.host_storage().pin("relay buffers", relay_buffer_ * copy_threads_);
  loader_ = &machine.add_worker("flexgen/load", machine.host_node());
  storer_ = &machine.add_worker("flexgen/store", machine.host_node());
}

void FlexGenSystem::begin_batch(RunContext& run) {
  const DesignPoint& point = run.point;
  Machine& machine = run.machine;
  const Bytes size = row(run) * run.batch->longest_context();
  for (std::int64_t layer = 0; layer < point.model.layers; ++layer) {
    const auto file = [&](const char* what) {
      return machine.host_storage().create_file(fmt::format("layer {} {}", layer, what), size);
    };
    files_.push_back({file("K"), file("V")});
  }
}

void FlexGenSystem::post_load(RunContext& run, std::int64_t layer, int context) {
  load_ = std::make_unique<Completion>();
  const int stored = context - 1;  // the new token's K and V are made in this step
  loader_->post(
      [this, &run, layer, stored] {
        Machine& machine = run.machine;
        const Bytes length = row(run) * stored;
        Completion keys;
        Completion values;
        const SimTime now = machine.engine().now();
        machine.host_storage().read_file(now, {files_[layer].keys, Bytes{}, length}, keys);
        machine.host_storage().read_file(now, {files_[layer].values, Bytes{}, length}, values);
        machine.engine().wait(keys);
        machine.engine().wait(values);
        machine.pinned_copy(Machine::CopyDirection::host_to_gpu, length * 2);
      },
      *load_);
}

void FlexGenSystem::post_store(RunContext& run, std::int64_t layer, int first_token,
                               int past_last_token) {
  store_ = std::make_unique<Completion>();
  storer_->post(
      [this, &run, layer, first_token, past_last_token] {
        Machine& machine = run.machine;
        const Bytes offset = row(run) * first_token;
        const Bytes length = row(run) * (past_last_token - first_token);
        machine.pinned_copy(Machine::CopyDirection::gpu_to_host, length * 2);
        Completion keys;
        Completion values;
        const SimTime now = machine.engine().now();
        machine.host_storage().write_file(now, {files_[layer].keys, offset, length}, keys);
        machine.host_storage().write_file(now, {files_[layer].values, offset, length}, values);
        machine.engine().wait(keys);
        machine.engine().wait(values);
      },
      *store_);
}

void FlexGenSystem::wait_for(RunContext& run, std::unique_ptr<Completion>& completion) {
  if (completion) {
    const ScopedPhase phase(run.machine, "kv_wait");
    run.machine.engine().wait(*completion);
    completion.reset();
  }
}

void FlexGenSystem::prefill(RunContext& run) {
  const DesignPoint& point = run.point;
  Machine& machine = run.machine;
  const SequenceBatch prompt{run.batch->sequences(), run.groups().front().prompt_tokens,
                             run.groups().front().prompt_tokens};
  const Bytes layer_kv = point.model.kv_bytes_per_token_and_layer() * prompt.tokens();
  const ScopedAllocation workspace(machine.gpu().memory(), "prefill workspace",
                                   layer_workspace(point.model, prompt, attention_kernel_).peak());
  const ScopedAllocation kv(machine.gpu().memory(), "KV of two layers", layer_kv * 2);
  const std::vector<OperatorWork> work = layer_operators(point.model, prompt, attention_kernel_);
  machine.compute(std::vector{embedding(point.model, prompt.tokens())});
  for (std::int64_t layer = 0; layer < point.model.layers; ++layer) {
    if (layer > 0) {
      post_store(run, layer - 1, 0, run.groups().front().prompt_tokens);
    }
    machine.compute(work);
    wait_for(run, store_);
  }
  post_store(run, point.model.layers - 1, 0, run.groups().front().prompt_tokens);
  machine.compute(next_token(point.model, run.batch->sequences()));
  wait_for(run, store_);
  stored_tokens_ = run.groups().front().prompt_tokens;
}

/// A prefetch for another step than `context` is waited for and thrown away.
void FlexGenSystem::finish_foreign_prefetch(RunContext& run, int context) {
  if (prefetched_context_ != context) {
    wait_for(run, load_);
    prefetched_context_ = 0;
  }
}

/// Tokens of steps that a sampled run leaves out: they are in the files.
void FlexGenSystem::move_contents_to(RunContext& run, int tokens) {
  if (tokens > stored_tokens_) {
    const Bytes offset = row(run) * stored_tokens_;
    const Bytes length = row(run) * (tokens - stored_tokens_);
    for (const LayerFiles& files : files_) {
      run.machine.host_storage().assume_stored({files.keys, offset, length});
      run.machine.host_storage().assume_stored({files.values, offset, length});
    }
    stored_tokens_ = tokens;
  }
}

/// Step `context` has read the layer's files up to its own token, K and V side by side.
void FlexGenSystem::assume_read(RunContext& run, std::int64_t layer, int context) {
  HostStorage& storage = run.machine.host_storage();
  const Bytes read = row(run) * (context - 1);
  const Bytes piece = run.point.host.memory_extent;
  for (Bytes offset{}; offset < read; offset += piece) {
    const Bytes length = std::min(piece, read - offset);
    storage.assume_used({files_[layer].keys, offset, length}, Access::read);
    storage.assume_used({files_[layer].values, offset, length}, Access::read);
  }
}

/// Step `context` has written the K and V of its token.
void FlexGenSystem::assume_written(RunContext& run, std::int64_t layer, int context) {
  HostStorage& storage = run.machine.host_storage();
  const Bytes token = row(run);
  storage.assume_used({files_[layer].keys, token * (context - 1), token}, Access::write);
  storage.assume_used({files_[layer].values, token * (context - 1), token}, Access::write);
}

void FlexGenSystem::warm_up(RunContext& run, int step) {
  const int context = run.groups().front().context_of(step);
  finish_foreign_prefetch(run, context);
  wait_for(run, load_);
  move_contents_to(run, context);
  // As two steps: the first one evicts what was written long ago, the second leaves in memory what
  // a step has used last.
  assume_step(run, context);
  assume_step(run, context);
  post_load(run, 0, context + 1);
  prefetched_context_ = context + 1;
  run.machine.engine().wait(*load_);
}

/// In the order of decode_step.
void FlexGenSystem::assume_step(RunContext& run, int context) {
  const std::int64_t layers = run.point.model.layers;
  assume_read(run, 0, context);
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    if (layer + 1 < layers) {
      assume_read(run, layer + 1, context);
    }
    if (layer > 0) {
      assume_written(run, layer - 1, context);
    }
  }
  assume_written(run, layers - 1, context);
}

void FlexGenSystem::decode_step(RunContext& run, int step) {
  const int context = run.groups().front().context_of(step);
  const DesignPoint& point = run.point;
  Machine& machine = run.machine;
  const SequenceBatch token{run.batch->sequences(), 1, context};
  const ScopedAllocation workspace(machine.gpu().memory(), "decode workspace",
                                   layer_workspace(point.model, token, attention_kernel_).peak());
  const ScopedAllocation kv(machine.gpu().memory(), "KV of two layers", row(run) * 4 * context);
  const std::vector<OperatorWork> work = layer_operators(point.model, token, attention_kernel_);
  const auto compute = [&](std::span<const OperatorWork> operators) {
    const ScopedPhase phase(machine, "gpu_compute");
    machine.compute(operators);
  };

  finish_foreign_prefetch(run, context);
  move_contents_to(run, context - 1);
  if (prefetched_context_ != context) {
    post_load(run, 0, context);
  }
  wait_for(run, load_);
  compute(std::vector{embedding(point.model, run.batch->sequences())});
  const auto iteration = [&](std::int64_t layer) {
    if (layer + 1 < point.model.layers) {
      post_load(run, layer + 1, context);
    } else if (context < run.batch->longest_context()) {
      // Layer 0 of the next step; its part of this step was stored long ago.
      post_load(run, 0, context + 1);
      prefetched_context_ = context + 1;
    }
    if (layer > 0) {
      post_store(run, layer - 1, context - 1, context);
    }
    compute(work);
    wait_for(run, store_);
    wait_for(run, load_);
  };
  LayerLoop(machine, point).run(iteration, [&](std::int64_t layer) {
    assume_read(run, layer + 1, context);
    assume_written(run, layer - 1, context);
  });
  post_store(run, point.model.layers - 1, context - 1, context);
  compute(next_token(point.model, run.batch->sequences()));
  wait_for(run, store_);
  stored_tokens_ = std::max(stored_tokens_, context);
}

}  // namespace

std::unique_ptr<System> make_flexgen() { return std::make_unique<FlexGenSystem>(); }

}  // namespace nearkv
