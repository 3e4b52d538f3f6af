#include "models/systems/csd_kv.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "models/systems/prompt_pieces.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

/// KV of a layer that may wait in VRAM for its way to the CSDs: one, while the next is computed.
constexpr int kLayersInFlight = 2;

constexpr const char* kTokenBuffers = "token group buffers";
constexpr const char* kChannelBuffers = "channel group buffers";
constexpr const char* kRecentTokens = "recent tokens";
constexpr const char* kStoreChunks = "store chunks";
constexpr const char* kStaging = "staging buffers";

/// Pages that come between two counts.
PageBatch pages_between(int pairs, const KvPageCounts& from, const KvPageCounts& to) {
  PageBatch pages;
  pages.pairs = pairs;
  const auto add = [&](KvStream stream, std::int64_t first, std::int64_t last) {
    if (first < last) {
      pages.spans.push_back({stream, static_cast<int>(first), static_cast<int>(last)});
    }
  };
  add(KvStream::key_tokens, from.key_tokens, to.key_tokens);
  add(KvStream::value_tokens, from.value_tokens, to.value_tokens);
  add(KvStream::key_channels, from.key_channels, to.key_channels);
  return pages;
}

}  // namespace

kernels::PageGeometry csd_geometry(const DesignPoint& point) {
  const CsdConfig& drive = point.csd.front();
  return kernels::PageGeometry({static_cast<int>(point.model.head_dim),
                                static_cast<int>(drive.flash.page_size.count()),
                                drive.layout.channels_per_group});
}

HeadShape head_shape_of(const ModelShape& model) {
  return {static_cast<int>(model.head_dim), static_cast<int>(model.heads / model.kv_heads)};
}

void prefill_tokens_field(FieldVisitor& v, int& prefill_tokens) {
  constexpr int kMost = 1 << 20;  // not a constant: a limit of the input
  v.parameter("prefill_tokens", prefill_tokens,
              "tokens of the batch that pass a layer together in prefill; 0: all of them. Fewer "
              "take less VRAM",
              {0, kMost});
}

void require_csds(FieldVisitor& v, const DesignPoint& point, std::string_view system) {
  v.require(!point.csd.empty(), "csd", fmt::format("is empty; {} needs at least one CSD", system));
  if (point.csd.empty()) {
    return;
  }
  const CsdConfig& drive = point.csd.front();
  const auto row = point.model.values(point.model.head_dim);
  v.require(point.csd.size() == 1, "csd",
            fmt::format("has {} entries; {} divides heads over equal drives: write one entry and "
                        "its count",
                        point.csd.size(), system));
  v.require(drive.flash.page_size >= row, "csd/0/flash/page_size",
            fmt::format("{} is smaller than one token group; a page must hold at least one token "
                        "of a head, {}",
                        format_exact(drive.flash.page_size), format_exact(row)));
  constexpr int kElement = kernels::PageGeometry::element_bytes;
  v.require(drive.flash.page_size.count() % kElement == 0, "csd/0/flash/page_size",
            fmt::format("{} is no whole number of {}-byte values",
                        format_exact(drive.flash.page_size), kElement));
  v.require(point.model.bytes_per_value == kElement, "model/bytes_per_value",
            fmt::format("is {}; the CSDs' page layouts hold {}-byte values",
                        point.model.bytes_per_value, kElement));
  v.require([&] { return point.model.head_dim % drive.layout.channels_per_group == 0; },
            "csd/0/layout/channels_per_group",
            fmt::format("{} does not divide the model's head_dim {}",
                        drive.layout.channels_per_group, point.model.head_dim));
}

AttendTimes& AttendTimes::operator+=(const AttendTimes& o) {
  upload += o.upload;
  recent_tokens += o.recent_tokens;
  submission += o.submission;
  attention += o.attention;
  download += o.download;
  end = std::max(end, o.end);
  return *this;
}

AttendTimes AttendTimes::last(SimDuration duration) const {
  AttendTimes part;
  const auto take = [&duration](SimDuration of) {
    const SimDuration taken = std::min(of, duration);
    duration -= taken;
    return taken;
  };
  part.download = take(download);
  part.attention = take(attention);
  part.submission = take(submission);
  part.recent_tokens = take(recent_tokens);
  part.upload = take(upload);
  part.end = end;
  return part;
}

CsdKv::CsdKv(RunContext& run, const Options& options)
    : options_(options),
      model_(run.point.model),
      geometry_(csd_geometry(run.point)),
      layers_(run.point.model.layers),
      kv_heads_(run.point.model.kv_heads),
      input_rows_(ceil_div(run.point.model.hidden, run.point.model.head_dim)),
      d_head_(run.point.model.head_dim),
      queries_per_head_(run.point.model.heads / run.point.model.kv_heads),
      bytes_per_value_(run.point.model.bytes_per_value) {
  check(options.spill_tokens % geometry_.tokens_per_group() == 0,
        "a delayed write-back of parts of a page");
  Machine& machine = run.machine;
  for (std::size_t i = 0; i < machine.csds().size(); ++i) {
    Drive& drive = drives_.emplace_back();
    drive.csd = machine.csds()[i].get();
    drive.node = machine.csd_node(static_cast<int>(i));
    for (int lane = 0; lane < options.lanes; ++lane) {
      const std::string name =
          lane == 0 ? fmt::format("csd/{}/driver", i) : fmt::format("csd/{}/driver/{}", i, lane);
      drive.workers.push_back(&machine.add_worker(name, machine.host_node()));
    }
    if (options.spill_tokens > 0) {
      drive.write_back =
          &machine.add_worker(fmt::format("csd/{}/write_back", i), machine.host_node());
    }
  }
}

// -- A batch ------------------------------------------------------------------------------------

int CsdKv::drive_tokens(const SequenceGroup& group, int tokens) const {
  if (options_.spill_tokens == 0) {
    return tokens;
  }
  const int whole_groups =
      group.prompt_tokens / geometry_.tokens_per_group() * geometry_.tokens_per_group();
  return whole_groups + (tokens - whole_groups) / options_.spill_tokens * options_.spill_tokens;
}

Bytes CsdKv::token_bytes(const Part& part) const {
  return row_bytes() * (rows_of(part) * rows_a_token(part));
}

KvTaskShape CsdKv::shape_of(const Part& part, const Held& held) const {
  return {.sequences = held.sequences,
          .layers = static_cast<int>(layers_),
          .kv_heads = static_cast<int>(held.rows.count()),
          .max_tokens = part.group.longest_context(),
          .channel_copy = options_.channel_copy && !part.inputs_only,
          .inputs_only = part.inputs_only};
}

KvPageCounts CsdKv::pages_at(const Part& part, int tokens) const {
  return shape_of(part, {}).flushed(geometry_, drive_tokens(part.group, tokens));
}

int CsdKv::idle_drives() const {
  return static_cast<int>(std::count_if(drives_.begin(), drives_.end(), [](const Drive& drive) {
    return std::all_of(drive.held.begin(), drive.held.end(),
                       [](const Held& held) { return held.pairs() == 0; });
  }));
}

void CsdKv::open(std::vector<Part> parts) {
  parts_ = std::move(parts);
  appended_steps_ = 0;
  is_filling_ = false;
  std::vector<int> sequences;
  for (const Part& part : parts_) {
    sequences.push_back(part.group.sequences);
  }
  const std::vector<Drive*> working = working_drives();
  const int count = static_cast<int>(working.size());
  const auto dealt = sequences_of_drives(options_.division, count, sequences);
  for (Drive& drive : drives_) {
    drive.held.assign(drive.has_failed ? parts_.size() : 0, Held{});
    drive.written_back.clear();
    drive.written_back.resize(static_cast<std::size_t>(layers_));
  }
  for (int i = 0; i < count; ++i) {
    Drive& drive = *working[static_cast<std::size_t>(i)];
    for (std::size_t part = 0; part < parts_.size(); ++part) {
      Held held;
      held.sequences = dealt[static_cast<std::size_t>(i)][part];
      held.rows = rows_of_drive(options_.division, i, count, rows_of(parts_[part]));
      drive.held.push_back(held);
    }
    open_on(drive, 0);
  }
}

std::vector<CsdKv::Drive*> CsdKv::working_drives() {
  std::vector<Drive*> working;
  for (Drive& drive : drives_) {
    if (!drive.has_failed) {
      working.push_back(&drive);
    }
  }
  if (working.empty()) {
    throw DataLost("no CSD is left");
  }
  return working;
}

/// Groups that are not full wait in the drive's DRAM, for every head of every layer.
void CsdKv::open_on(Drive& drive, std::size_t first_part) {
  const CsdConfig& config = drive.csd->config();
  const Bytes page = config.flash.page_size;
  Bytes token_buffers{};
  Bytes channel_buffers{};
  Bytes recent_tokens{};
  Bytes longest_pair{};
  std::int64_t most_pages = 0;
  int pairs = 0;
  for (std::size_t i = first_part; i < parts_.size(); ++i) {
    const Part& part = parts_[i];
    Held& held = drive.held[i];
    if (held.pairs() == 0) {
      continue;
    }
    const KvTaskShape shape = shape_of(part, held);
    held.task = drive.csd->open_task(shape, geometry_);
    const std::int64_t heads = held.pairs() * layers_;
    if (options_.spill_tokens == 0) {
      token_buffers += page * (rows_a_token(part) * heads);
    } else if (!part.inputs_only) {  // V and scores that come with the commands of a layer
      recent_tokens += values(d_head_ + queries_per_head_) *
                       (std::int64_t{options_.spill_tokens} * held.pairs());
    }
    if (shape.channel_copy) {
      channel_buffers += page * (geometry_.channel_groups() * heads);
    }
    longest_pair =
        std::max(longest_pair, row_bytes() * rows_a_token(part) * part.group.prompt_tokens);
    if (!part.inputs_only) {
      most_pages =
          std::max(most_pages, shape.flushed(geometry_, part.group.longest_context()).total());
      pairs += held.pairs();
    }
  }
  if (longest_pair == Bytes{}) {
    return;  // it holds nothing
  }
  CapacityLedger& dram = drive.csd->dram();
  dram.allocate(kTokenBuffers, token_buffers);
  dram.allocate(kChannelBuffers, channel_buffers);
  dram.allocate(kRecentTokens, recent_tokens);
  if (dram.held(kStoreChunks) > Bytes{}) {
    return;  // more heads take the same chunks and staging buffers
  }
  // One arrives while the one before is programmed; a chunk is at least one pair's prompt.
  dram.allocate(kStoreChunks, std::max(config.store_chunk, longest_pair) * 2);
  dram.allocate(kStaging, config.staging_memory(most_pages, pairs));
}

void CsdKv::close(RunContext& run) {
  skip_to(run.batch->decode_steps());
  for (Drive& drive : drives_) {
    for (const auto& written : drive.written_back) {
      if (written) {
        run.machine.engine().wait(*written);
      }
    }
    for (const Held& held : drive.held) {
      if (held.task != KvLayer::kNoTask) {
        drive.csd->finish_task(held.task, run.machine.engine().now());
      }
    }
    for (const char* label :
         {kTokenBuffers, kChannelBuffers, kRecentTokens, kStoreChunks, kStaging}) {
      drive.csd->dram().release_all(label);
    }
    drive.held.clear();
    drive.written_back.clear();
  }
  parts_.clear();
}

// -- Prefill ------------------------------------------------------------------------------------

void CsdKv::prefill(RunContext& run) {
  ParallelModel& model = run.model;
  const std::vector<SequenceBatch> prompts = run.batch->prompts();
  Bytes layer_kv{};
  Bytes layer_inputs{};
  for (const Part& part : parts_) {
    const std::int64_t tokens = std::int64_t{part.group.sequences} * part.group.prompt_tokens;
    (part.inputs_only ? layer_inputs : layer_kv) += token_bytes(part) * tokens;
  }
  std::vector<Storing> storing;
  for (Drive& drive : drives_) {
    if (std::any_of(drive.held.begin(), drive.held.end(),
                    [](const Held& held) { return held.pairs() > 0; })) {
      storing.push_back(
          {&drive, [this, &run, &drive](int layer) { store_layer(run, drive, layer, 0, 0); }});
    }
  }
  pass_and_store(run, prompts, model.rank_share(layer_kv) + layer_inputs, storing);
}

/// While the GPUs compute a layer, the K and V of the one before move.
void CsdKv::pass_and_store(RunContext& run, const std::vector<SequenceBatch>& contexts,
                           Bytes waiting_kv, const std::vector<Storing>& storing) {
  ParallelModel& model = run.model;
  const PromptPieces pieces(contexts, options_.prefill_tokens);
  const GpuAllocation workspace =
      model.hold("prefill workspace", pieces.workspace(model.rank_shape(), AttentionKernel::fused));
  const GpuAllocation waiting = model.hold("KV on its way to the CSDs", waiting_kv);

  CreditPool layers_in_flight(run.machine.engine(), "layers on their way to the CSDs",
                              kLayersInFlight);
  std::vector<std::unique_ptr<Completion>> stored;
  std::int64_t tokens = 0;
  std::int64_t sequences = 0;
  for (const SequenceBatch& group : contexts) {
    tokens += group.tokens();
    sequences += group.sequences;
  }
  model.embed(tokens);
  for (std::int64_t layer = 0; layer < layers_; ++layer) {
    layers_in_flight.acquire();
    pieces.pass(model, layer, AttentionKernel::fused);
    auto remaining = std::make_shared<std::size_t>(storing.size());
    for (const Storing& one : storing) {
      stored.push_back(std::make_unique<Completion>());
      one.drive->workers.front()->post(
          [&one, &layers_in_flight, remaining, layer] {
            one.store(static_cast<int>(layer));
            if (--*remaining == 0) {
              layers_in_flight.release();
            }
          },
          *stored.back());
      layers_in_flight.hand_to(one.drive->workers.front()->actor());
    }
  }
  model.next_token(sequences);
  for (const auto& completion : stored) {
    run.machine.engine().wait(*completion);
  }
}

/// All tokens of the parts from first_part on, behind so many decode steps. Returns when the last
/// page is programmed.
void CsdKv::store_layer(RunContext& run, Drive& drive, int layer, std::size_t first_part,
                        int steps) {
  std::unique_ptr<Completion> programmed;
  for (std::size_t part = first_part; part < parts_.size(); ++part) {
    if (drive.held[part].pairs() > 0) {
      store_part(run, drive, part, layer, parts_[part].group.prompt_tokens + steps, programmed);
    }
  }
  if (programmed) {
    run.machine.engine().wait(*programmed);
  }
}

/// Moves one layer's KV of a part's sequences to a drive, in chunks: a chunk is programmed while
/// the next one arrives.
void CsdKv::store_part(RunContext& run, Drive& drive, std::size_t part, int layer, int all_tokens,
                       std::unique_ptr<Completion>& programmed) {
  Engine& engine = run.machine.engine();
  const Held& held = drive.held[part];
  const int tokens = drive_tokens(parts_[part].group, all_tokens);
  const Bytes pair_row = row_bytes() * rows_a_token(parts_[part]);
  // What waits in host memory is still there when a drive has failed.
  if (tokens < all_tokens && !parts_[part].moved_from) {
    run.machine.transfer(run.machine.gpu_node(run.model.gpu_of(layer, 0)), run.machine.host_node(),
                         pair_row * (all_tokens - tokens) * held.pairs());
  }
  if (tokens == 0) {
    return;
  }
  const Bytes a_pair = pair_row * tokens;
  const int pairs_a_chunk =
      static_cast<int>(std::max<std::int64_t>(1, drive.csd->config().store_chunk / a_pair));

  drive.csd->append({held.task, layer}, tokens, engine.now());
  PageBatch store = pages_between(0, {}, pages_at(parts_[part], all_tokens));
  for (int pair = 0; pair < held.pairs(); pair += pairs_a_chunk) {
    store.first_pair = pair;
    store.pairs = std::min(pairs_a_chunk, held.pairs() - pair);
    bring_chunk(run, drive, part, layer, {pair, pair + store.pairs}, a_pair);
    if (programmed) {
      engine.wait(*programmed);
    }
    programmed = std::make_unique<Completion>();
    drive.csd->submit_store(engine.now(), store, programmed.get(), {held.task, layer});
  }
}

/// K and V come from the GPUs that own their heads; every rank has the inputs.
void CsdKv::bring_chunk(RunContext& run, const Drive& drive, std::size_t part, int layer,
                        const RowRange& pairs, Bytes a_pair) const {
  if (parts_[part].inputs_only) {
    run.machine.transfer(run.machine.gpu_node(run.model.gpu_of(layer, 0)), drive.node,
                         a_pair * pairs.count());
    return;
  }
  const RowRange& rows = drive.held[part].rows;
  std::vector<Machine::Transfer> transfers;
  for (const ParallelModel::Share& share : run.model.shares(layer)) {
    RowRange owned = rows & RowRange{share.first_head, share.last_head};
    owned = {owned.first - rows.first, owned.last - rows.first};
    transfers.push_back({share.gpu, drive.node,
                         a_pair * pairs_within(pairs.first, pairs.last, rows.count(), owned)});
  }
  run.machine.transfer_together(transfers);
}

// -- Losses -------------------------------------------------------------------------------------

Recovered CsdKv::recover(RunContext& run, const DataLoss& loss, int step) {
  if (loss.device_kind() != "csd") {
    return {};
  }
  Drive& drive = drives_.at(static_cast<std::size_t>(loss.device_number()));
  if (drive.has_failed) {
    return {};  // it has nothing more to lose
  }
  Engine& engine = run.machine.engine();
  skip_to(step);
  for (const Drive& each : drives_) {
    for (const auto& written : each.written_back) {
      if (written) {
        engine.wait(*written);
      }
    }
  }
  const FlashConfig& flash = drive.csd->config().flash;
  const int planes_a_channel = flash.planes() / flash.channels;
  std::vector<int> planes;
  switch (loss.fault.kind) {
    case FaultKind::drive_failure:
      run.machine.spend(loss.fault.notice, "host/submitter", "a drive that does not answer");
      return recover_drive(run, drive, step);
    case FaultKind::uncorrectable_pages: {
      Rng rng = loss.rng;
      return recover_pages(run, drive, drive.csd->lose_pages(engine.now(), loss.fault.pages, rng),
                           step);
    }
    case FaultKind::channel_failure:
      for (int plane = 0; plane < planes_a_channel; ++plane) {
        planes.push_back(loss.fault.channel * planes_a_channel + plane);
      }
      break;
    default:
      for (int plane = 0; plane < flash.planes_per_die; ++plane) {
        planes.push_back(loss.fault.channel * planes_a_channel +
                         loss.fault.die * flash.planes_per_die + plane);
      }
  }
  return recover_pages(run, drive, drive.csd->fail_planes(engine.now(), planes), step);
}

std::size_t CsdKv::origin_of(std::size_t part) const {
  while (parts_[part].moved_from) {
    part = *parts_[part].moved_from;
  }
  return part;
}

/// Sequences pass the model again with all of their tokens so far.
Recovered CsdKv::recompute(RunContext& run, const Affected& affected, int step,
                           const std::vector<Storing>& storing) {
  std::vector<SequenceBatch> contexts;
  Bytes kv{};
  Bytes inputs{};
  Recovered recovered;
  for (const auto& [part, sequences] : affected) {
    const std::int64_t length = parts_[part].group.prompt_tokens + step;
    const auto count = static_cast<std::int64_t>(sequences.size());
    contexts.push_back({count, length, length});
    recovered.tokens += count * length;
    (parts_[part].inputs_only ? inputs : kv) += token_bytes(parts_[part]) * (count * length);
  }
  if (!contexts.empty()) {
    pass_and_store(run, contexts, run.model.rank_share(kv) + inputs, storing);
  }
  return recovered;
}

Recovered CsdKv::recover_drive(RunContext& run, Drive& failed, int step) {
  failed.has_failed = true;
  static_cast<void>(working_drives());  // or there is none
  Recovered recovered;
  Affected affected;
  const std::size_t parts = parts_.size();
  for (std::size_t part = 0; part < parts; ++part) {
    const Held& held = failed.held[part];
    if (held.pairs() > 0 && Batch::is_active(parts_[part].group, step)) {
      recovered.pages += pages_at(parts_[part], parts_[part].group.prompt_tokens + step).total() *
                         held.pairs() * layers_;
      // Heads: all sequences, once. Sequences: those of a moved part are others.
      const std::size_t key = options_.division == KvDivision::heads ? origin_of(part) : part;
      for (int sequence = 0; sequence < held.sequences; ++sequence) {
        affected[key].insert(sequence);
      }
      move_part(failed, part);
    }
    failed.held[part] = {};
  }
  std::vector<Storing> storing;
  for (Drive* drive : working_drives()) {
    open_on(*drive, parts);
    if (std::any_of(drive->held.begin() + static_cast<std::ptrdiff_t>(parts), drive->held.end(),
                    [](const Held& held) { return held.pairs() > 0; })) {
      storing.push_back({drive, [this, &run, drive, parts, step](int layer) {
                           store_layer(run, *drive, layer, parts, step);
                         }});
    }
  }
  recovered.tokens = recompute(run, affected, step, storing).tokens;
  return recovered;
}

/// What the drive held of a part becomes a part of its own, on the others.
void CsdKv::move_part(Drive& failed, std::size_t part) {
  const Held lost = failed.held[part];
  Part moved = parts_[part];
  moved.moved_from = part;
  if (options_.division == KvDivision::sequences) {
    moved.group.sequences = lost.sequences;
  }
  parts_.push_back(moved);
  std::vector<Drive*> working = working_drives();
  const auto pairs_of = [](const Drive* drive) {
    std::int64_t pairs = 0;
    for (const Held& held : drive->held) {
      pairs += held.pairs();
    }
    return pairs;
  };
  std::stable_sort(working.begin(), working.end(),
                   [&](const Drive* a, const Drive* b) { return pairs_of(a) < pairs_of(b); });
  for (Drive& drive : drives_) {
    drive.held.emplace_back();
  }
  const int count = static_cast<int>(working.size());
  const auto dealt = sequences_of_drives(options_.division, count, {lost.sequences});
  for (int i = 0; i < count; ++i) {
    Held& held = working[static_cast<std::size_t>(i)]->held.back();
    held.sequences = dealt[static_cast<std::size_t>(i)].front();
    held.rows = rows_of_drive(options_.division, i, count, lost.rows.count());
    held.rows.first += lost.rows.first;
    held.rows.last += lost.rows.first;
  }
}

Recovered CsdKv::recover_pages(RunContext& run, Drive& drive,
                               const std::vector<KvFtl::LostPage>& lost, int step) {
  std::map<KvFtl::TaskId, std::size_t> part_of_task;
  for (std::size_t part = 0; part < parts_.size(); ++part) {
    if (drive.held[part].pairs() > 0) {
      part_of_task[drive.held[part].task] = part;
    }
  }
  Affected affected;
  std::vector<std::vector<KvFtl::LostPage>> by_layer(static_cast<std::size_t>(layers_));
  for (const KvFtl::LostPage& page : lost) {
    const std::size_t part = part_of_task.at(page.task);
    if (!Batch::is_active(parts_[part].group, step)) {
      continue;
    }
    const std::size_t key = options_.division == KvDivision::heads ? origin_of(part) : part;
    affected[key].insert(page.pair / static_cast<int>(drive.held[part].rows.count()));
    by_layer[static_cast<std::size_t>(page.layer)].push_back(page);
  }
  Recovered recovered =
      recompute(run, affected, step, {{&drive, [&](int layer) {
                                         rewrite(run, drive, layer,
                                                 by_layer[static_cast<std::size_t>(layer)]);
                                       }}});
  recovered.pages = static_cast<std::int64_t>(lost.size());
  return recovered;
}

/// Brings the contents of a layer's lost pages from the GPUs that own the heads, and programs them.
void CsdKv::rewrite(RunContext& run, const Drive& drive, int layer,
                    const std::vector<KvFtl::LostPage>& pages) const {
  if (pages.empty()) {
    return;
  }
  std::map<KvFtl::TaskId, RowRange> rows_of_task;
  for (const Held& held : drive.held) {
    if (held.pairs() > 0) {
      rows_of_task[held.task] = held.rows;
    }
  }
  std::vector<Machine::Transfer> transfers;
  auto left = static_cast<std::int64_t>(pages.size());
  for (const ParallelModel::Share& share : run.model.shares(layer)) {
    const std::int64_t owned =
        std::count_if(pages.begin(), pages.end(), [&](const KvFtl::LostPage& page) {
          const RowRange& rows = rows_of_task.at(page.task);
          const std::int64_t row = rows.first + page.pair % rows.count();
          return row >= share.first_head && row < share.last_head;
        });
    left -= owned;
    transfers.push_back({share.gpu, drive.node, drive.csd->config().flash.page_size * owned});
  }
  // Inputs of layers are on every rank.
  transfers.push_back({run.machine.gpu_node(run.model.gpu_of(layer, 0)), drive.node,
                       drive.csd->config().flash.page_size * std::max<std::int64_t>(0, left)});
  run.machine.transfer_together(transfers);
  Completion programmed;
  drive.csd->submit_rewrite(run.machine.engine().now(), pages, programmed);
  run.machine.engine().wait(programmed, "lost pages that are programmed again");
}

// -- Decode -------------------------------------------------------------------------------------

void CsdKv::skip_to(int step) {
  if (step <= appended_steps_) {
    return;
  }
  for (Drive& drive : drives_) {
    std::vector<KvFtl::Growing> growing;
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      const SequenceGroup& group = parts_[i].group;
      const auto tokens_after = [&](int steps) {
        return drive_tokens(group, group.prompt_tokens + std::min(steps, group.decode_steps()));
      };
      const int tokens = tokens_after(step) - tokens_after(appended_steps_);
      if (drive.held[i].pairs() > 0 && tokens > 0) {
        growing.push_back({drive.held[i].task, tokens, std::max(1, options_.spill_tokens)});
      }
    }
    drive.csd->append_skipped(growing);
  }
  appended_steps_ = step;
}

void CsdKv::step_done(int step) {
  appended_steps_ = std::max(appended_steps_, step + 1);
  is_filling_ = fills_pages(step);
}

bool CsdKv::fills_pages(int step) const {
  return std::any_of(parts_.begin(), parts_.end(), [&](const Part& part) {
    const int context = part.group.context_of(step);
    return Batch::is_active(part.group, step) &&
           pages_at(part, context).total() > pages_at(part, context - 1).total();
  });
}

CsdKv::Plan CsdKv::plan(int step, int lane, int kinds, const ReadsOf& reads_of) const {
  Plan plan;
  plan.lane = lane;
  plan.step = step;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    if (parts_[i].lane == lane && !parts_[i].inputs_only &&
        Batch::is_active(parts_[i].group, step)) {
      plan.parts.push_back(i);
      plan.sequences += parts_[i].moved_from ? 0 : parts_[i].group.sequences;
    }
  }
  for (int kind = 0; kind < kinds; ++kind) {
    std::vector<std::vector<HeadReads>> patterns;  // by part of the plan
    for (const std::size_t part : plan.parts) {
      patterns.push_back(reads_of(parts_[part], kind));
    }
    // Drives with equally many pairs of each part do the same.
    std::map<std::vector<int>, std::shared_ptr<const AttendBatch>> of_pairs;
    std::vector<std::shared_ptr<const AttendBatch>>& of_drives = plan.batches.emplace_back();
    for (const Drive& drive : drives_) {
      std::vector<int> pairs;
      for (const std::size_t part : plan.parts) {
        pairs.push_back(drive.held[part].pairs());
      }
      const auto [entry, is_new] = of_pairs.try_emplace(pairs, nullptr);
      if (is_new && std::any_of(pairs.begin(), pairs.end(), [](int n) { return n > 0; })) {
        auto batch = std::make_shared<AttendBatch>();
        for (std::size_t i = 0; i < pairs.size(); ++i) {
          if (pairs[i] > 0) {
            batch->segments.push_back({pairs[i], patterns[i]});
          }
        }
        batch->seal();
        entry->second = std::move(batch);
      }
      of_drives.push_back(entry->second);
    }
  }
  return plan;
}

HeadReads CsdKv::dense_reads_at(int context, int on_drive) const {
  const auto first = static_cast<int>(context - model_.attended_tokens(context));
  HeadReads reads = dense_reads(geometry_, head_shape_of(model_), on_drive, first);
  const std::int64_t values = (context - on_drive) * d_head_ * queries_per_head_;
  reads.attention_flops += Flops{2 * values};  // scores . V
  return reads;
}

std::int64_t CsdKv::sequences_on(const Drive& drive, const Plan& plan) const {
  std::int64_t sequences = 0;
  for (const std::size_t part : plan.parts) {
    sequences += drive.held[part].sequences;
  }
  return sequences;
}

int CsdKv::pairs_on(const Drive& drive, const Plan& plan) const {
  int pairs = 0;
  for (const std::size_t part : plan.parts) {
    pairs += drive.held[part].pairs();
  }
  return pairs;
}

void CsdKv::append_token(RunContext& run, int step, int lane, int layer) {
  if (step < appended_steps_ || options_.spill_tokens > 0) {
    return;
  }
  for (const Drive& drive : drives_) {
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      if (parts_[i].lane == lane && drive.held[i].pairs() > 0 &&
          Batch::is_active(parts_[i].group, step)) {
        drive.csd->append({drive.held[i].task, layer}, 1, run.machine.engine().now());
      }
    }
  }
}

std::vector<Machine::Transfer> CsdKv::transfers(const RunContext& run, const Drive& drive,
                                                const Plan& plan, int layer, Bytes a_head,
                                                Direction direction, NodeId node) const {
  std::vector<Machine::Transfer> all;
  for (const ParallelModel::Share& share : run.model.shares(layer)) {
    std::int64_t heads = 0;
    for (const std::size_t part : plan.parts) {
      const Held& held = drive.held[part];
      const RowRange owned = held.rows & RowRange{share.first_head, share.last_head};
      heads += owned.count() * held.sequences;
    }
    const Bytes size = a_head * heads;
    all.push_back(direction == Direction::from_gpus ? Machine::Transfer{share.gpu, node, size}
                                                    : Machine::Transfer{node, share.gpu, size});
  }
  return all;
}

std::unique_ptr<CsdKv::Attention> CsdKv::start_attention(RunContext& run, const Plan& plan,
                                                         int layer, const Hooks& hooks) {
  auto attention = std::make_unique<Attention>(drives_.size());
  for (std::size_t i = 0; i < drives_.size() && !plan.parts.empty(); ++i) {
    if (pairs_on(drives_[i], plan) == 0) {
      continue;
    }
    attention->posted[i] = true;
    drives_[i].workers[static_cast<std::size_t>(plan.lane)]->post(
        [this, &run, &plan, hooks, times = &attention->times[i], i, layer] {
          *times = attend_on(run, drives_[i], i, plan, layer, hooks);
        },
        attention->done[i]);
  }
  return attention;
}

AttendTimes CsdKv::finish_attention(RunContext& run, Attention& attention) {
  for (std::size_t i = 0; i < drives_.size(); ++i) {
    if (attention.posted[i]) {
      run.machine.engine().wait(attention.done[i], "attention on a CSD");
    }
  }
  return *std::max_element(
      attention.times.begin(), attention.times.end(),
      [](const AttendTimes& a, const AttendTimes& b) { return a.end < b.end; });
}

AttendTimes CsdKv::attend_on(RunContext& run, Drive& drive, std::size_t index, const Plan& plan,
                             int layer, const Hooks& hooks) {
  Engine& engine = run.machine.engine();
  AttendTimes times;
  SimTime mark = engine.now();
  const auto lap = [&] {
    const SimTime begin = std::exchange(mark, engine.now());
    return mark - begin;
  };
  if (hooks.send) {
    hooks.send(drive, plan, layer, times);
    mark = engine.now();
  } else {
    const ActivityScope shown(engine, ActivityLog::Scope::phase, "upload");
    run.machine.transfer_together(transfers(run, drive, plan, layer,
                                            query_bytes() + row_bytes() * 2, Direction::from_gpus,
                                            drive.node));
    times.upload = lap();
  }
  if (const auto& written = drive.written_back[static_cast<std::size_t>(layer)]) {
    engine.wait(*written);
  }
  const SimDuration submit = drive.csd->config().nvme.host_submit * pairs_on(drive, plan);
  {
    const ActivityScope shown(engine, ActivityLog::Scope::phase, "submission");
    run.machine.wait_for(run.machine.submitter().issue(engine.now(), submit), "host/submitter",
                         "attend commands");
  }
  times.submission = lap();
  AttendWork work;
  work.batch = plan.batches[static_cast<std::size_t>(layer) % plan.batches.size()][index];
  for (const std::size_t part : plan.parts) {
    if (drive.held[part].pairs() > 0) {
      work.layers.push_back({drive.held[part].task, layer});
    }
  }
  {
    const ActivityScope shown(engine, ActivityLog::Scope::phase, "csd_attention");
    Completion attended;
    drive.csd->submit_attend(engine.now(), std::move(work), attended);
    engine.wait(attended, "attention in the CSD");
  }
  times.attention = lap();
  if (hooks.attended) {
    hooks.attended(drive, layer);
  }
  const ActivityScope shown(engine, ActivityLog::Scope::phase, "download");
  run.machine.transfer_together(
      transfers(run, drive, plan, layer, query_bytes(), Direction::to_gpus, drive.node));
  times.download = lap();
  times.end = engine.now();
  return times;
}

std::vector<CsdKv::Flush> CsdKv::filled_by(const Drive& drive, int step, int lane,
                                           int layer) const {
  std::vector<Flush> filled;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const Part& part = parts_[i];
    const Held& held = drive.held[i];
    if (part.lane != lane || held.pairs() == 0 || !Batch::is_active(part.group, step)) {
      continue;
    }
    const int context = part.group.context_of(step);
    const KvPageCounts before = pages_at(part, context - 1);
    const KvPageCounts now = pages_at(part, context);
    if (before.total() != now.total()) {
      const int tokens = drive_tokens(part.group, context) - drive_tokens(part.group, context - 1);
      filled.push_back({pages_between(held.pairs(), before, now),
                        {held.task, layer},
                        row_bytes() * rows_a_token(part) * tokens * held.pairs()});
    }
  }
  return filled;
}

void CsdKv::flush(RunContext& run, int step, int lane, int layer) {
  for (Drive& drive : drives_) {
    std::vector<Flush> filled = filled_by(drive, step, lane, layer);
    if (filled.empty()) {
      continue;
    }
    if (options_.spill_tokens > 0) {
      if (step >= appended_steps_) {
        for (const Flush& one : filled) {
          drive.csd->append(one.where, options_.spill_tokens, run.machine.engine().now());
        }
      }
      write_back(run, drive, layer, std::move(filled));
      continue;
    }
    for (const Flush& one : filled) {
      drive.csd->submit_background_store(run.machine.engine().now(), one.pages, nullptr, one.where);
    }
  }
}

void CsdKv::write_back(RunContext& run, Drive& drive, int layer, std::vector<Flush> filled) {
  std::unique_ptr<Completion>& written = drive.written_back[static_cast<std::size_t>(layer)];
  if (written) {
    run.machine.engine().wait(*written);  // its host memory is needed
  }
  written = std::make_unique<Completion>();
  drive.write_back->post(
      [&run, &drive, filled = std::move(filled)] {
        Engine& engine = run.machine.engine();
        for (const Flush& one : filled) {
          run.machine.transfer(run.machine.host_node(), drive.node, one.size);
          Completion programmed;
          drive.csd->submit_background_store(engine.now(), one.pages, &programmed, one.where);
          engine.wait(programmed);
        }
      },
      *written);
}

}  // namespace nearkv
