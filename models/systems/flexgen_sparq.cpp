// FlexGen with SparQ attention: weights and activations as in flexgen, the KV cache in files, of
// which only what the queries select is read. K is stored twice, by token and by channel, so that
// the files take 1.5 times the KV cache.
//
// Nothing of the cache can be loaded ahead: which channels are read is known once the layer's
// queries are, and which tokens once the channels have been read. In decode a layer is
//     GPU until q -> read channels -> GPU scores, top k -> read K and V -> GPU attention and the
//     rest
// and only storing the new K and V overlaps with what follows. Weights are loaded ahead as ever.
//
// A read goes through the page cache at a random place of the file, so that as much of it is found
// in memory as is there. Not modelled: that scattered pages are read one by one (FlexGen's files
// are read window by window), and that appending to the file by channel touches a page a channel.
#include "models/systems/flexgen_sparq.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "models/systems/design_point.hpp"
#include "models/systems/flexgen_rates.hpp"
#include "models/systems/flexgen_schedule.hpp"
#include "sim/core/check.hpp"
#include "sim/core/random.hpp"

namespace nearkv {

double selected_tokens(const SparsityConfig& sparsity, std::int64_t context) {
  return std::clamp(sparsity.selected_share * static_cast<double>(context), 1.0,
                    static_cast<double>(context));
}

namespace {

/// Expected share of pages that hold one of `selected` rows out of `rows`, `together` to a page.
double share_within_head(double rows, double selected, std::int64_t together) {
  double none = 1;
  for (std::int64_t i = 0; i < together; ++i) {
    const auto taken = static_cast<double>(i);
    none *= std::max(0.0, rows - selected - taken) / (rows - taken);
  }
  return 1 - none;
}

double share_across_heads(double selected_share, std::int64_t together) {
  double none = 1;
  for (std::int64_t i = 0; i < together; ++i) {
    none *= 1 - selected_share;
  }
  return 1 - none;
}

Bytes rounded(double bytes) { return Bytes{std::llround(bytes)}; }

Bytes whole_pages(Bytes size, Bytes page) { return page * ceil_div(size.count(), page.count()); }

}  // namespace

SparqReads sparq_reads(const ModelShape& shape, const SparsityConfig& sparsity, SelectedData lies,
                       Bytes page, std::int64_t stored, std::int64_t room) {
  const std::int64_t channels = std::min<std::int64_t>(sparsity.channels, shape.head_dim);
  const double tokens =
      std::min(selected_tokens(sparsity, stored + 1), static_cast<double>(stored));
  if (lies == SelectedData::packed) {
    const Bytes selected =
        rounded(tokens * static_cast<double>(shape.values(shape.kv_width()).count()));
    return {shape.values(stored * channels * shape.kv_heads), selected, selected};
  }
  const Bytes channel_row = shape.values(room);
  Bytes by_channel{};
  if (channel_row >= page) {
    by_channel = whole_pages(shape.values(stored), page) * (channels * shape.kv_heads);
  } else {
    const std::int64_t together = std::min(page / channel_row, shape.head_dim);
    const Bytes all = channel_row * (shape.head_dim * shape.kv_heads);
    by_channel = rounded(static_cast<double>(all.count()) *
                         share_within_head(static_cast<double>(shape.head_dim),
                                           static_cast<double>(channels), together));
  }
  const Bytes token_row = shape.values(shape.head_dim);
  const Bytes all = shape.values(stored * shape.kv_width());
  Bytes by_token{};
  if (token_row >= page) {
    const Bytes of_token = whole_pages(token_row, page) * shape.kv_heads;
    by_token = rounded(tokens * static_cast<double>(of_token.count()));
  } else {
    const double share = tokens / static_cast<double>(std::max<std::int64_t>(1, stored));
    by_token =
        rounded(static_cast<double>(all.count()) * share_across_heads(share, page / token_row));
  }
  // Dense reading is never more than all of a file.
  return {std::min(by_channel, all), std::min(by_token, all), std::min(by_token, all)};
}

namespace {

/// K and V by token, and K by channel.
class SparqCache final : public FlexGenFileCache {
 public:
  SparqCache(const SparsityConfig& sparsity, SelectedData lies)
      : sparsity_(sparsity), lies_(lies) {}

  enum class Part { channels, tokens };
  /// What the slot selects, of one part.
  void load_selected(const FlexGenCacheContext& c, const FlexGenSlot& slot, Part part) {
    const CopyThreads::Turn turn(c.threads, part == Part::channels ? 1 : 2);
    Bytes size{};
    for (const GroupFiles& files : files_of(slot)) {
      if (Batch::is_active(files.group, slot.step)) {
        const std::vector<MemorySpan> spans = selected(c, slot, files, part);
        move(c, spans, Access::read, turn.threads(), size == Bytes{} ? Opens::yes : Opens::no);
        for (const MemorySpan& span : spans) {
          size += span.length;
        }
      }
    }
    c.run.model.copy(Machine::CopyDirection::host_to_gpu, slot.layer, size,
                     ParallelModel::HostMemoryKind::pinned);
  }

  void load(const FlexGenCacheContext& /*c*/, const FlexGenSlot& /*slot*/,
            Destination /*destination*/) override {
    check(false, "SparQ loads what its queries select");
  }
  void assume_loaded(const FlexGenCacheContext& c, const FlexGenSlot& slot) override {
    for (const GroupFiles& files : files_of(slot)) {
      if (!Batch::is_active(files.group, slot.step)) {
        continue;
      }
      for (const Part part : {Part::channels, Part::tokens}) {
        for (const MemorySpan& span : selected(c, slot, files, part)) {
          c.run.machine.host_storage().assume_used(span, Access::read);
        }
      }
    }
  }
  /// Many steps have used some of every file: what is in memory is an equal share of each.
  void assume_history(const FlexGenCacheContext& c, int step) override {
    const Bytes piece = c.run.point.host.memory_extent;
    bool is_left = true;
    for (std::int64_t i = 0; is_left; ++i) {
      is_left = false;
      for (const auto& of_layer : all_files()) {
        for (const auto& of_batch : of_layer) {
          for (const GroupFiles& files : of_batch) {
            const Bytes stored = files.row * stored_tokens(files.group, step);
            const Bytes length = std::min(piece, stored - piece * i);
            for (std::size_t file = 0; length > Bytes{} && file < files.files.size(); ++file) {
              c.run.machine.host_storage().assume_used({files.files[file], piece * i, length},
                                                       Access::read);
              is_left = true;
            }
          }
        }
      }
    }
  }

 protected:
  [[nodiscard]] std::vector<const char*> file_names() const override {
    return {"K", "V", "K by channel"};
  }

 private:
  /// At a random place of the file, wrapped around its end.
  std::vector<MemorySpan> selected(const FlexGenCacheContext& c, const FlexGenSlot& slot,
                                   const GroupFiles& files, Part part) const {
    const DesignPoint& point = c.run.point;
    const int stored = files.group.context_of(slot.step) - 1;
    const SparqReads reads = sparq_reads(point.model, sparsity_, lies_, point.host.page_size,
                                         stored, files.group.longest_context());
    Rng places(static_cast<std::uint64_t>(point.simulation.seed),
               fmt::format("flexgen_sparq/{}/{}/{}", slot.layer, slot.gpu_batch, slot.step));
    std::vector<MemorySpan> spans;
    const auto add = [&](std::size_t file, Bytes of_sequence) {
      const Bytes size = of_sequence * files.group.sequences;
      const Bytes room = files.row * stored - size;
      const Bytes begin{
          static_cast<std::int64_t>(places.below(static_cast<std::uint64_t>(room.count() + 1)))};
      if (size > Bytes{}) {
        spans.push_back({files.files[file], begin, size});
      }
    };
    if (part == Part::channels) {
      add(2, reads.channels);
    } else {
      places.next();  // not the place of the channels
      add(0, reads.keys);
      add(1, reads.values);
    }
    return spans;
  }

  SparsityConfig sparsity_;
  SelectedData lies_;
};

OperatorWork pass(const ModelShape& shape, std::string_view name, OperatorKind kind, double values,
                  double multiply_adds = 0) {
  return {.name = name,
          .kind = kind,
          .flops = Flops{std::llround(2 * multiply_adds)},
          .bytes = rounded(values * static_cast<double>(shape.bytes_per_value)),
          .size = {},
          .kernels = 1};
}

/// Scores of all tokens on r channels, for each query head, and the choice of the best.
std::vector<OperatorWork> estimate(const ModelShape& shape, int channels, double context_tokens) {
  const double scores = static_cast<double>(shape.heads) * context_tokens;
  const double keys = static_cast<double>(channels * shape.kv_heads) * context_tokens;
  return {pass(shape, "sparq_scores", OperatorKind::attention, keys + scores, scores * channels),
          pass(shape, "sparq_softmax", OperatorKind::softmax, 2 * scores),
          pass(shape, "sparq_top_k", OperatorKind::elementwise, 2 * scores)};
}

/// Attention of `sequences` queries over so many tokens in all.
OperatorWork attend(const ModelShape& shape, std::int64_t sequences, double tokens) {
  const auto width = static_cast<double>(shape.attention_width);
  const double queries = 2 * width * static_cast<double>(sequences);  // and outputs
  return pass(shape, "sparq_attention", OperatorKind::attention,
              queries + 2 * static_cast<double>(shape.kv_width()) * tokens, 2 * width * tokens);
}

class FlexGenSparqSystem final : public FlexGenSchedule {
 public:
  void fields(FieldVisitor& v) override {
    FlexGenSchedule::fields(v);
    v.group("sparsity", sparsity_, "what SparQ selects");
    v.one_of("selected_data", lies_, {"packed", "pages"},
             "what moves: only what is selected, or the whole pages that hold it");
  }

  void require_parts(FieldVisitor& v, const DesignPoint& point) const override {
    FlexGenSchedule::require_parts(v, point);
    v.require(policy_kind() == PolicyKind::fixed, "system/policy/kind",
              "must be fixed; FlexGen's cost model knows no sparse attention");
    if (policy_kind() != PolicyKind::fixed) {
      return;
    }
    v.require(configured().cache.is_whole(Home::disk), "system/policy/cache_gpu",
              fmt::format("and cache_cpu are {} and {}; both must be 0, flexgen_sparq selects from "
                          "files",
                          configured().cache.gpu, configured().cache.cpu));
    v.require(!configured().cpu_attention, "system/policy/cpu_attention",
              "must be false; flexgen_sparq selects on the GPU");
    v.require(!configured().compress_cache, "system/policy/compress_cache",
              "must be false; flexgen_sparq selects single values of K");
    v.require(sparsity_.channels <= point.model.head_dim, "system/sparsity/channels",
              fmt::format("{} exceeds the {} channels of a head", sparsity_.channels,
                          point.model.head_dim));
  }

  [[nodiscard]] std::vector<std::string> notes(const DesignPoint& point) const override {
    std::vector<std::string> notes = FlexGenSchedule::notes(point);
    notes.emplace_back(
        "SparQ's reads wait for the layer's queries: nothing of the cache is loaded ahead");
    return notes;
  }

 protected:
  [[nodiscard]] std::unique_ptr<FlexGenDiskCache> make_disk_cache(RunContext& /*run*/) override {
    return std::make_unique<SparqCache>(sparsity_, lies_);
  }
  [[nodiscard]] FlexGenRates storage_rates(RunContext& run) const override {
    return file_rates(run.machine, run.point, copy_threads());
  }
  [[nodiscard]] bool prefetches_cache() const override { return false; }

  /// What is selected, and the new tokens' K (twice) and V.
  [[nodiscard]] Bytes read_buffer(const RunContext& run, int gpu_batch, int step) const override {
    const ModelShape& shape = run.model.shape();
    Bytes size{};
    for (const SequenceBatch& group : active({0, gpu_batch, step})) {
      const SparqReads reads = sparq_reads(shape, sparsity_, lies_, run.point.host.page_size,
                                           group.context - 1, group.context);
      size += (reads.channels + reads.keys + reads.values + shape.kv_bytes_per_token_and_layer() +
               shape.kv_bytes_per_token_and_layer() / 2) *
              group.sequences;
    }
    return run.model.rank_share(size);
  }

  void decode_attention_layer(RunContext& run, const FlexGenSlot& slot) override {
    const std::vector<SequenceBatch> groups = active(slot);
    const std::int64_t sequences = tokens_of(groups);
    const int stage = run.model.stage_of(slot.layer);
    auto& cache = dynamic_cast<SparqCache&>(disk_cache());
    const auto load = [&](SparqCache::Part part) {
      const ScopedPhase phase(run.machine, "kv_wait");
      cache.load_selected(cache_context(run), slot, part);
    };
    double context_tokens = 0;
    double attended = 0;
    for (const SequenceBatch& group : groups) {
      const auto count = static_cast<double>(group.sequences);
      context_tokens += count * static_cast<double>(group.context);
      attended += count * selected_tokens(sparsity_, group.context);
    }
    compute(run, slot.step, [&] {
      run.model.enter_layer(slot.layer, sequences);
      run.model.before_attention(slot.layer, sequences, attention_kernel());
    });
    load(SparqCache::Part::channels);
    compute(run, slot.step, [&] {
      run.model.compute(stage,
                        estimate(run.model.rank_shape(), sparsity_.channels, context_tokens));
    });
    load(SparqCache::Part::tokens);
    compute(run, slot.step, [&] {
      run.model.compute(stage, std::vector{attend(run.model.rank_shape(), sequences, attended)});
      compute_after_attention(run, slot.layer, sequences);
    });
  }

 private:
  SparsityConfig sparsity_;
  SelectedData lies_ = SelectedData::packed;
};

}  // namespace

std::unique_ptr<System> make_flexgen_sparq() { return std::make_unique<FlexGenSparqSystem>(); }

}  // namespace nearkv
