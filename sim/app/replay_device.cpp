#include "sim/app/replay_device.hpp"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "sim/app/table.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace fs = std::filesystem;

namespace {

BlockSsdConfig block_of(const DriveConfig& drive) {
  BlockSsdConfig config;
  static_cast<DriveConfig&>(config) = drive;
  return config;
}

void read_drive(ReplayDrive& drive) {
  drive.is_csd = drive.config.contains("engine");
  if (drive.is_csd) {
    drive.constants = read_fields(drive.config, [&drive](FieldVisitor& v) { drive.csd.fields(v); });
    drive.block = block_of(drive.csd);
    drive.count = drive.csd.count;
    drive.capacity = drive.csd.block_capacity();
  } else {
    SsdConfig ssd;
    drive.constants = read_fields(drive.config, [&ssd](FieldVisitor& v) { ssd.fields(v); });
    drive.block = block_of(ssd);
    drive.count = ssd.count;
    drive.capacity = ssd.capacity;
  }
}

}  // namespace

std::vector<std::string> shipped_drives() {
  std::vector<std::string> names;
  for (const char* kind : {"ssds", "csds"}) {
    std::error_code ignored;
    for (const auto& entry :
         fs::directory_iterator(shipped_configs() / "platforms" / kind, ignored)) {
      if (entry.path().extension() == ".json") {
        names.push_back(fmt::format("{}platforms/{}/{}", kShippedPrefix, kind,
                                    entry.path().filename().string()));
      }
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

ReplayDrive load_replay_drive(const std::string& file, const std::vector<std::string>& overrides) {
  const fs::path path = path_of_config(file);
  ReplayDrive drive;
  drive.name = path.stem().string();
  drive.config = load_config(path);
  in_file(file, [&] {
    for (const std::string& assignment : overrides) {
      apply_override(drive.config, assignment);
    }
    read_drive(drive);
  });
  return drive;
}

ReplayDevice::ReplayDevice(const ReplayDrive& drive, const PreconditionConfig& state,
                           std::uint64_t seed)
    : ssd_(std::make_unique<BlockSsd>(drive.block, seed, "drive")),
      queues_(drive.block.nvme.queue_pairs()) {
  if (state.fill > 0) {
    state_ = precondition(ssd_->ftl(), state, Rng(seed, "drive/precondition"));
  }
}

void ReplayDevice::report(RunOutcome& outcome, SimDuration elapsed) const {
  if (is_full()) {
    outcome.status = RunStatus::drive_full;
    outcome.status_detail = fmt::format("{}, after {}", ssd_->full_reason(),
                                        format_short(ssd_->full_at().time_since_epoch()));
  }
  ssd_->report(outcome.metrics, "drive", elapsed);
  if (!state_.steady) {
    outcome.notes.push_back(
        fmt::format("garbage collection was not steady after {} rounds of preconditioning, with a "
                    "write amplification of {}; allow more with preconditioning/rounds_at_most",
                    state_.rounds, format_significant(state_.write_amplification)));
  }
  const std::int64_t unwritten = ssd_->executor().ftl().counters().unwritten_reads;
  if (unwritten > 0) {
    outcome.notes.push_back(
        fmt::format("{} reads of pages that hold no data needed no flash; --precondition FILL "
                    "fills a part of the drive first, --set ftl/unwritten_reads=as_if_written "
                    "takes all of it as written",
                    unwritten));
  }
}

}  // namespace nearkv
