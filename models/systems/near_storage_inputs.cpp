#include "models/systems/near_storage_inputs.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {
/// In VRAM: one is worked on while the next one arrives.
constexpr int kLayersInMemory = 2;
}  // namespace

InputLoader::InputLoader(RunContext& run, CsdKv& kv) : kv_(kv) {
  for (std::size_t i = 0; i < kv.drives().size(); ++i) {
    workers_.push_back(
        &run.machine.add_worker(fmt::format("csd/{}/reader", i), run.machine.host_node()));
    layers_.push_back(std::make_unique<CreditPool>(
        run.machine.engine(), fmt::format("layers of csd/{} in VRAM", i), kLayersInMemory));
  }
}

void InputLoader::begin_step(RunContext& run, int step) {
  step_ = step;
  parts_.clear();
  groups_.clear();
  first_tokens_.clear();
  contexts_.clear();
  sequences_ = 0;
  old_tokens_ = 0;
  for (std::size_t i = 0; i < kv_.parts().size(); ++i) {
    const CsdKv::Part& part = kv_.parts()[i];
    if (!part.inputs_only || !Batch::is_active(part.group, step)) {
      continue;
    }
    const int context = part.group.context_of(step);
    const std::int64_t attended = run.point.model.attended_tokens(context);
    parts_.push_back(i);
    first_tokens_.push_back(static_cast<int>(context - attended));
    contexts_.push_back(context);
    if (part.moved_from) {
      continue;  // other rows of the same sequences
    }
    groups_.push_back({part.group.sequences, 1, context});
    sequences_ += part.group.sequences;
    old_tokens_ += part.group.sequences * (attended - 1);
  }
  const auto layers = static_cast<std::size_t>(run.point.model.layers);
  loaded_.clear();
  loaded_.resize(layers);
  started_.assign(layers, {});
}

std::size_t InputLoader::index_of(const CsdKv::Drive& drive) const {
  return static_cast<std::size_t>(&drive - kv_.drives().data());
}

void InputLoader::start(RunContext& run, CsdKv::Drive& drive, int layer) {
  const bool holds_some = std::any_of(
      parts_.begin(), parts_.end(), [&](std::size_t part) { return drive.held[part].pairs() > 0; });
  if (!holds_some || layer >= static_cast<int>(loaded_.size())) {
    return;
  }
  const auto l = static_cast<std::size_t>(layer);
  started_[l].push_back(index_of(drive));
  const ActorId user = run.machine.engine().current();
  workers_[index_of(drive)]->post(
      [this, &run, &drive, layer, user] { load(run, drive, layer, user); },
      loaded_[l].emplace_back());
}

void InputLoader::wait(RunContext& run, int layer) {
  for (Completion& loaded : loaded_[static_cast<std::size_t>(layer)]) {
    run.machine.engine().wait(loaded);
  }
}

void InputLoader::release(int layer) {
  for (const std::size_t drive : started_[static_cast<std::size_t>(layer)]) {
    layers_[drive]->release();
  }
}

/// The inputs of all tokens before the step's own, whole sequences at a time.
std::vector<InputLoader::Piece> InputLoader::pieces_on(const CsdKv::Drive& drive, int layer) const {
  std::vector<Piece> pieces;
  const CsdConfig& config = drive.csd->config();
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const CsdKv::Part& part = kv_.parts()[parts_[i]];
    const CsdKv::Held& held = drive.held[parts_[i]];
    if (held.pairs() == 0) {
      continue;
    }
    const int old = contexts_[i] - 1;
    const int first = first_tokens_[i] / kv_.tokens_a_page();
    const auto last = static_cast<int>(kv_.pages_at(part, old).key_tokens);
    const int pages = std::max(0, last - first);
    const int in_buffers = kv_.drive_tokens(part.group, old) - last * kv_.tokens_a_page();
    const auto rows = static_cast<int>(held.rows.count());
    const Bytes a_sequence = (config.flash.page_size * pages + kv_.row_bytes() * in_buffers) * rows;
    if (a_sequence == Bytes{}) {
      continue;
    }
    const int at_a_time =
        static_cast<int>(std::max<std::int64_t>(1, config.store_chunk / a_sequence));
    for (int sequence = 0; sequence < held.sequences; sequence += at_a_time) {
      const int count = std::min(at_a_time, held.sequences - sequence);
      Piece& piece = pieces.emplace_back();
      piece.where = {held.task, layer};
      piece.size = a_sequence * count;
      piece.read.pairs_a_command = rows;
      piece.read.pages.first_pair = sequence * rows;
      piece.read.pages.pairs = count * rows;
      if (pages > 0) {
        piece.read.pages.spans = {{KvStream::key_tokens, first, last}};
      }
    }
  }
  return pieces;
}

/// Inputs of the drive's rows that delayed write-back has not brought to it yet.
Bytes InputLoader::in_host_memory(const CsdKv::Drive& drive) const {
  Bytes size{};
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const int old = contexts_[i] - 1;
    const int recent = old - kv_.drive_tokens(kv_.parts()[parts_[i]].group, old);
    size += kv_.row_bytes() * (std::int64_t{recent} * drive.held[parts_[i]].pairs());
  }
  return size;
}

void InputLoader::load(RunContext& run, CsdKv::Drive& drive, int layer, ActorId user) {
  Engine& engine = run.machine.engine();
  const ActivityScope shown(engine, ActivityLog::Scope::phase, "input_load");
  CreditPool& layers = *layers_[index_of(drive)];
  layers.acquire();
  layers.hand_to(user);
  const std::vector<Piece> pieces = pieces_on(drive, layer);
  std::deque<Completion> read(pieces.size());
  const auto begin = [&](std::size_t i) {
    if (i >= pieces.size() || pieces[i].read.pages.spans.empty()) {
      return;
    }
    const SimDuration submit = drive.csd->config().nvme.host_submit * pieces[i].read.commands();
    run.machine.wait_for(run.machine.submitter().issue(engine.now(), submit), "host/submitter",
                         "read commands");
    drive.csd->submit_read(engine.now(), pieces[i].read, read[i], pieces[i].where);
  };
  begin(0);
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (!pieces[i].read.pages.spans.empty()) {
      engine.wait(read[i], "layer inputs from flash");
    }
    begin(i + 1);
    to_gpus(run, drive.node, layer, pieces[i].size);
  }
  to_gpus(run, run.machine.host_node(), layer, in_host_memory(drive));
}

void InputLoader::to_gpus(RunContext& run, NodeId from, int layer, Bytes size) const {
  std::vector<Machine::Transfer> transfers;
  for (int rank = 0; rank < run.model.ranks(); ++rank) {
    transfers.push_back({from, run.machine.gpu_node(run.model.gpu_of(layer, rank)), size});
  }
  run.machine.transfer_together(transfers);
}

}  // namespace nearkv
