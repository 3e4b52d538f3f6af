#include "models/systems/flexgen_cache.hpp"

#include <algorithm>
#include <deque>

#include <fmt/format.h>

#include "models/systems/machine.hpp"
#include "models/systems/parallel_model.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

int stored_tokens(const SequenceGroup& group, int steps) {
  return group.prompt_tokens + std::min(steps, group.decode_steps());
}

CopyThreads::Turn::Turn(CopyThreads& threads, int tensors)
    : from_(threads), taken_(std::min(tensors, threads.threads_)) {
  // Only the first in line takes threads, so that two who need several never wait for each other.
  from_.first_in_line_.acquire();
  for (int i = 0; i < taken_; ++i) {
    from_.free_.acquire();
  }
  from_.first_in_line_.release();
}

CopyThreads::Turn::~Turn() {
  for (int i = 0; i < taken_; ++i) {
    from_.free_.release();
  }
}

std::optional<FlexGenFileCache::Rows> FlexGenFileCache::written_rows(const SequenceGroup& group,
                                                                     int step) {
  if (step == FlexGenSlot::kPrefill) {
    return Rows{0, group.prompt_tokens};
  }
  if (!Batch::is_active(group, step)) {
    return std::nullopt;
  }
  return Rows{group.context_of(step) - 1, 1};
}

void FlexGenFileCache::begin_batch(const FlexGenCacheContext& c,
                                   const std::vector<std::optional<Batch>>& gpu_batches) {
  HostStorage& storage = c.run.machine.host_storage();
  const std::int64_t layers = c.run.point.model.layers;
  files_.clear();
  stored_steps_ = 0;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    auto& of_layer = files_.emplace_back(gpu_batches.size());
    for (std::size_t k = 0; k < gpu_batches.size(); ++k) {
      if (!gpu_batches[k]) {
        continue;
      }
      for (const SequenceGroup& group : gpu_batches[k]->groups()) {
        GroupFiles& files =
            of_layer[k].emplace_back(GroupFiles{group, c.token * group.sequences / 2, {}});
        for (const char* name : file_names()) {
          files.files.push_back(storage.create_file(fmt::format("layer {} {}", layer, name),
                                                    files.row * group.longest_context()));
        }
      }
    }
  }
}

void FlexGenFileCache::finish_batch(const FlexGenCacheContext& c) {
  for (const auto& of_layer : files_) {
    for (const auto& of_batch : of_layer) {
      for (const GroupFiles& group : of_batch) {
        for (const MemoryObject file : group.files) {
          c.run.machine.host_storage().remove(file);
        }
      }
    }
  }
  files_.clear();
}

void FlexGenFileCache::move(const FlexGenCacheContext& c, const std::vector<MemorySpan>& spans,
                            Access access, int side_by_side, Opens opens) {
  Machine& machine = c.run.machine;
  for (std::size_t first = 0; first < spans.size(); first += side_by_side) {
    std::deque<Completion> done;
    for (std::size_t i = first; i < std::min(first + side_by_side, spans.size()); ++i) {
      if (opens == Opens::yes) {
        c.threads.open_file();
      }
      const SimTime now = machine.engine().now();
      if (access == Access::read) {
        machine.host_storage().read_file(now, spans[i], done.emplace_back());
      } else {
        machine.host_storage().write_file(now, spans[i], done.emplace_back());
      }
    }
    for (Completion& completion : done) {
      machine.engine().wait(completion, "a file");
    }
  }
}

void FlexGenFileCache::load(const FlexGenCacheContext& c, const FlexGenSlot& slot,
                            Destination destination) {
  const CopyThreads::Turn turn(c.threads, 2);
  Bytes size{};
  for (const GroupFiles& files : files_of(slot)) {
    if (Batch::is_active(files.group, slot.step)) {
      const Bytes length = files.row * (files.group.context_of(slot.step) - 1);
      move(c, {{files.files[0], Bytes{}, length}, {files.files[1], Bytes{}, length}}, Access::read,
           turn.threads(), size == Bytes{} ? Opens::yes : Opens::no);
      size += length * 2;
    }
  }
  if (destination == Destination::gpu) {
    c.run.model.copy(Machine::CopyDirection::host_to_gpu, slot.layer, size,
                     ParallelModel::HostMemoryKind::pinned);
  }
}

void FlexGenFileCache::store(const FlexGenCacheContext& c, const FlexGenSlot& slot) {
  const auto tensors = static_cast<std::int64_t>(file_names().size());
  const CopyThreads::Turn turn(c.threads, static_cast<int>(tensors));
  Bytes size{};
  for (const GroupFiles& files : files_of(slot)) {
    if (const std::optional<Rows> rows = written_rows(files.group, slot.step)) {
      size += files.row * rows->count * tensors;
    }
  }
  c.run.model.copy(Machine::CopyDirection::gpu_to_host, slot.layer, size,
                   ParallelModel::HostMemoryKind::pinned);
  Opens opens = Opens::yes;
  for (const GroupFiles& files : files_of(slot)) {
    if (const std::optional<Rows> rows = written_rows(files.group, slot.step)) {
      std::vector<MemorySpan> spans;
      for (const MemoryObject file : files.files) {
        spans.push_back({file, files.row * rows->first, files.row * rows->count});
      }
      move(c, spans, Access::write, turn.threads(), opens);
      opens = Opens::no;
    }
  }
  stored_steps_ = std::max(stored_steps_, slot.step + 1);
}

void FlexGenFileCache::assume_loaded(const FlexGenCacheContext& c, const FlexGenSlot& slot) {
  HostStorage& storage = c.run.machine.host_storage();
  const Bytes piece = c.run.point.host.memory_extent;
  for (const GroupFiles& files : files_of(slot)) {
    if (!Batch::is_active(files.group, slot.step)) {
      continue;
    }
    const Bytes read = files.row * (files.group.context_of(slot.step) - 1);
    for (Bytes offset{}; offset < read; offset += piece) {  // K and V side by side
      const Bytes length = std::min(piece, read - offset);
      storage.assume_used({files.files[0], offset, length}, Access::read);
      storage.assume_used({files.files[1], offset, length}, Access::read);
    }
  }
}

void FlexGenFileCache::assume_stored(const FlexGenCacheContext& c, const FlexGenSlot& slot) {
  for (const GroupFiles& files : files_of(slot)) {
    if (const std::optional<Rows> rows = written_rows(files.group, slot.step)) {
      for (const MemoryObject file : files.files) {
        c.run.machine.host_storage().assume_used(
            {file, files.row * rows->first, files.row * rows->count}, Access::write);
      }
    }
  }
}

void FlexGenFileCache::move_contents_to(const FlexGenCacheContext& c, int steps) {
  if (steps <= stored_steps_) {
    return;
  }
  for (const auto& of_layer : files_) {
    for (const auto& of_batch : of_layer) {
      for (const GroupFiles& files : of_batch) {
        const int first = stored_tokens(files.group, stored_steps_);
        const int count = stored_tokens(files.group, steps) - first;
        for (std::size_t i = 0; count > 0 && i < files.files.size(); ++i) {
          c.run.machine.host_storage().assume_stored(
              {files.files[i], files.row * first, files.row * count});
        }
      }
    }
  }
  stored_steps_ = steps;
}

}  // namespace nearkv
