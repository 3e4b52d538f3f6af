// FlexGen with GPUDirect Storage: K and V files are opened with O_DIRECT, and cuFile moves them
// between the SSDs and VRAM peer to peer, past page cache, relay buffers and host memory. Weights
// and activations, should they be on disk, go the way of flexgen.
//
// K and V are moved by a thread each. It splits its part into requests of gds/request_size, one at
// a time: request_cost and the host's io_submission for each command on a core, then commands of
// gds/command_size to the SSDs, all at once. The data cross PCIe while the drives deliver them:
//     time = the later of (drives done, flows done),
// a flow from each drive to each GPU with an equal part of the bytes. Where the platform refuses
// peer-to-peer traffic, Machine::transfer bounces them off host memory, as cuFile does.
// Requests begin and end at multiples of gds/alignment. A write that does not reads the blocks at
// its ends first.
//
// Not modelled: a file system that fragments files, registration of VRAM with cuFile.
#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <vector>

#include <fmt/format.h>

#include "models/systems/design_point.hpp"
#include "models/systems/flexgen_rates.hpp"
#include "models/systems/flexgen_schedule.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using namespace std::chrono_literals;

namespace {

struct GdsConfig {
  Bytes request_size{};
  Bytes command_size{};
  Bytes alignment{};
  SimDuration request_cost{};

  void fields(FieldVisitor& v) {
    v.constant("request_size", request_size, "largest piece that cuFile reads or writes at a time",
               range_of(4_KiB, 1_GiB));
    v.constant("command_size", command_size, "largest NVMe command", range_of(4_KiB, 1_GiB));
    v.constant("alignment", alignment, "requests begin and end at multiples of this",
               range_of(512_B, 1_MiB));
    v.constant("request_cost", request_cost, "CPU time of a request in cuFile and its driver",
               range_of(0_ps, 1s));
    const auto divides = [](Bytes part, Bytes whole) { return whole.count() % part.count() == 0; };
    v.require([&, divides] { return divides(alignment, command_size); }, "command_size",
              "must be a multiple of alignment");
    v.require([&, divides] { return divides(command_size, request_size); }, "request_size",
              "must be a multiple of command_size");
  }
};

class GdsCache final : public FlexGenFileCache {
 public:
  explicit GdsCache(const GdsConfig& config) : config_(config) {}

  void load(const FlexGenCacheContext& c, const FlexGenSlot& slot,
            Destination destination) override {
    check(destination == Destination::gpu, "GPUDirect Storage to host memory");
    move_pair(c, slot, Access::read);
  }
  void store(const FlexGenCacheContext& c, const FlexGenSlot& slot) override {
    move_pair(c, slot, Access::write);
  }
  // There is no page cache, so that nothing depends on what was read and written before.
  void assume_loaded(const FlexGenCacheContext& /*c*/, const FlexGenSlot& /*slot*/) override {}
  void assume_stored(const FlexGenCacheContext& /*c*/, const FlexGenSlot& /*slot*/) override {}
  void move_contents_to(const FlexGenCacheContext& /*c*/, int /*steps*/) override {}

 private:
  void move_pair(const FlexGenCacheContext& c, const FlexGenSlot& slot, Access access) {
    std::array<std::vector<MemorySpan>, 2> spans;  // of K and of V
    Bytes size{};
    for (const GroupFiles& files : files_of(slot)) {
      const std::optional<Rows> rows =
          access == Access::write ? written_rows(files.group, slot.step)
          : Batch::is_active(files.group, slot.step)
              ? std::optional(Rows{0, files.group.context_of(slot.step) - 1})
              : std::nullopt;
      for (std::size_t i = 0; rows && i < spans.size(); ++i) {
        const MemorySpan span{files.files[i], files.row * rows->first, files.row * rows->count};
        spans[i].push_back(span);
        size += span.length;
      }
    }
    const CopyThreads::Turn turn(c.threads, 2);
    const auto thread = [&](std::size_t first, std::size_t past_last) {
      return std::function<void()>([this, &c, &spans, first, past_last, access] {
        for (std::size_t i = first; i < past_last; ++i) {
          for (const MemorySpan& span : spans[i]) {
            move_file(c, span, access);
          }
        }
      });
    };
    std::vector<std::function<void()>> parts{
        [&] { c.run.machine.transfer_together(flows(c, slot, size, access)); }};
    if (turn.threads() == 1) {
      parts.push_back(thread(0, 2));
    } else {
      parts.push_back(thread(0, 1));
      parts.push_back(thread(1, 2));
    }
    c.run.machine.together(parts);
  }

  static std::vector<Machine::Transfer> flows(const FlexGenCacheContext& c, const FlexGenSlot& slot,
                                              Bytes size, Access access) {
    Machine& machine = c.run.machine;
    ParallelModel& model = c.run.model;
    const int drives = machine.ssds().count();
    const Bytes part{ceil_div(model.rank_share(size).count(), std::int64_t{drives})};
    std::vector<Machine::Transfer> transfers;
    for (int drive = 0; drive < drives; ++drive) {
      const NodeId ssd = machine.fabric().node(fmt::format("ssd/{}", drive));
      for (int rank = 0; rank < model.ranks(); ++rank) {
        const NodeId gpu = machine.gpu_node(model.gpu_of(slot.layer, rank));
        transfers.push_back(access == Access::read ? Machine::Transfer{ssd, gpu, part}
                                                   : Machine::Transfer{gpu, ssd, part});
      }
    }
    return transfers;
  }

  /// One thread's requests, one after another.
  void move_file(const FlexGenCacheContext& c, const MemorySpan& span, Access access) const {
    const Bytes begin = config_.alignment * (span.offset / config_.alignment);
    const Bytes past = config_.alignment *
                       ceil_div((span.offset + span.length).count(), config_.alignment.count());
    if (access == Access::write) {
      if (begin < span.offset) {
        request(c, span.object, begin, config_.alignment, Access::read);
      }
      const Bytes last = past - config_.alignment;
      if (past > span.offset + span.length && (last > begin || begin == span.offset)) {
        request(c, span.object, last, config_.alignment, Access::read);
      }
    }
    for (Bytes at = begin; at < past; at += config_.request_size) {
      request(c, span.object, at, std::min(config_.request_size, past - at), access);
    }
  }

  void request(const FlexGenCacheContext& c, MemoryObject file, Bytes offset, Bytes size,
               Access access) const {
    Machine& machine = c.run.machine;
    const std::int64_t commands = ceil_div(size.count(), config_.command_size.count());
    const SimDuration submission = c.run.point.host.file_system.io_submission * commands;
    machine.wait_for(
        machine.host_cores().issue(machine.engine().now(), config_.request_cost + submission),
        "host/cores", "GPUDirect Storage requests");
    const SimTime now = machine.engine().now();
    SimTime done = now;
    for (Bytes at{}; at < size; at += config_.command_size) {
      const Bytes part = std::min(config_.command_size, size - at);
      const Bytes address = machine.host_storage().address_of(file, offset + at);
      done = std::max(done, (access == Access::read ? machine.ssds().read(now, address, part)
                                                    : machine.ssds().write(now, address, part))
                                .done);
    }
    machine.wait_for({now, done}, "ssd", access == Access::read ? "read" : "write");
  }

  GdsConfig config_;
};

class FlexGenGdsSystem final : public FlexGenSchedule {
 public:
  void fields(FieldVisitor& v) override {
    FlexGenSchedule::fields(v);
    v.group("gds", gds_, "GPUDirect Storage");
  }
  void require_parts(FieldVisitor& v, const DesignPoint& point) const override {
    FlexGenSchedule::require_parts(v, point);
    v.require(!tries_cpu_attention(), "system/policy/cpu_attention",
              "must be false; flexgen_gds reads K and V into VRAM");
  }

 protected:
  [[nodiscard]] std::unique_ptr<FlexGenDiskCache> make_disk_cache(RunContext& /*run*/) override {
    return std::make_unique<GdsCache>(gds_);
  }

  [[nodiscard]] FlexGenRates storage_rates(RunContext& run) const override {
    FlexGenRates rates = file_rates(run.machine, run.point, copy_threads());
    const PcieFabric& fabric = run.machine.fabric();
    const int drives = run.point.ssd.front().count;
    const Rate link = fabric.path("ssd/0", "host").bandwidth;
    const double path =
        static_cast<double>(fabric.path("ssd/0", "gpu/0").bandwidth.per_second()) * drives;
    rates.disk_read = std::min(path, direct_read_rate(run.point, link, gds_.command_size) * drives);
    rates.cached_read = rates.disk_read;  // no page cache
    rates.disk_write = sustained_write_rate(run.point, link, gds_.command_size);
    return rates;
  }

 private:
  GdsConfig gds_;
};

}  // namespace

std::unique_ptr<System> make_flexgen_gds() { return std::make_unique<FlexGenGdsSystem>(); }

}  // namespace nearkv
