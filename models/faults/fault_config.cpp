#include "models/faults/fault_config.hpp"

#include <fmt/format.h>

#include "models/faults/fault_timeline.hpp"
#include "sim/core/allowed_paths.hpp"

namespace nearkv {

using namespace std::chrono_literals;

void FaultTimes::fields(FieldVisitor& v) {
  auto chosen = static_cast<std::size_t>(kind);
  v.variant({"kind", "at: once; rate: again and again at random; trace: at the times of a file"},
            {"at", "rate", "trace"}, chosen, [this](std::size_t which, FieldVisitor& inner) {
              if (which == 0) {
                inner.parameter("time", time, "time from the first arrival on",
                                range_of(0_ps, kLatestFault));
              } else if (which == 1) {
                inner.parameter("mean_interval", mean_interval,
                                "mean of the exponentially distributed times between two of them",
                                range_of(1ms, kLatestFault));
              } else {
                file_field(inner, "file", file,
                           "text file with a duration a line; a path from the working folder");
              }
            });
  kind = static_cast<Kind>(chosen);
}

void FaultConfig::fields(FieldVisitor& v) {
  auto chosen = static_cast<std::size_t>(kind);
  v.variant(
      {"kind", "what happens"}, {kFaultKinds.begin(), kFaultKinds.end()}, chosen,
      [this](std::size_t which, FieldVisitor& inner) {
        const auto of = static_cast<FaultKind>(which);
        const auto device_field = [&](std::string_view doc) {
          inner.parameter("device", device, doc);
        };
        const auto lasts_field = [&] {
          inner.parameter("lasts", lasts, "how long; 0s: to the end of the run",
                          range_of(0_ps, kLatestFault));
        };
        switch (of) {
          case FaultKind::die_failure:
            device_field("drive that loses a flash die, such as csd/0");
            inner.parameter("channel", channel, "flash channel of the die, counted from 0",
                            {0, 63});
            inner.parameter("die", die, "die on the channel, counted from 0 over all its chips",
                            {0, 4095});
            break;
          case FaultKind::channel_failure:
            device_field("drive that loses a flash channel with all its dies");
            inner.parameter("channel", channel, "flash channel, counted from 0", {0, 63});
            break;
          case FaultKind::drive_failure:
            device_field("drive that does not answer any more");
            inner.parameter("notice", notice,
                            "until the host gives the drive up (Linux: nvme_core.io_timeout, 30s)",
                            range_of(0_ps, 1h));
            break;
          case FaultKind::uncorrectable_pages:
            device_field("drive whose pages cannot be read any more");
            inner.parameter("pages", pages, "pages, drawn at random from those with current data",
                            {1, 1e9});
            break;
          case FaultKind::read_retries:
            device_field("drive whose flash pages need further array reads");
            inner.parameter("further_reads", further_reads, "of every page, besides the first",
                            {1, 100});
            lasts_field();
            break;
          case FaultKind::thermal_throttling:
            device_field("GPU or drive that is throttled");
            inner.parameter("speed", speed,
                            "of what it does otherwise: a GPU's tensor cores (VRAM keeps its "
                            "clock); a drive's flash, controller and engine",
                            {0.001, 1});
            lasts_field();
            break;
          case FaultKind::controller_stall:
            device_field("drive whose controller cores do nothing");
            inner.parameter("lasts", lasts, "how long", range_of(1_ps, 1h));
            break;
          case FaultKind::link_degraded:
            inner.parameter("link", link,
                            "PCIe link that is trained down: the device or switch below it");
            inner.parameter("generation", generation, "PCIe generation that is left", {1, 7});
            inner.parameter("lanes", lanes, "lanes that are left", {1, 32});
            lasts_field();
            break;
          case FaultKind::host_memory_pressure:
            inner.parameter("size", size, "host memory that something else takes",
                            range_of(1_B, Bytes{std::int64_t{1} << 50}));
            lasts_field();
            break;
        }
      });
  kind = static_cast<FaultKind>(chosen);
  v.group("when", when, "when it happens, from the first arrival on");
  v.require(kind != FaultKind::controller_stall || when.kind != FaultTimes::Kind::rate ||
                lasts < when.mean_interval,
            "lasts",
            fmt::format("stalls of {} every {} would stall the controller for good; let "
                        "when/mean_interval be longer",
                        format_exact(lasts), format_exact(when.mean_interval)));
}

std::string FaultConfig::label() const {
  const std::string_view of = kind == FaultKind::link_degraded          ? std::string_view(link)
                              : kind == FaultKind::host_memory_pressure ? "host"
                                                                        : std::string_view(device);
  return fmt::format("{} of {}", name_of(kind), of);
}

}  // namespace nearkv
