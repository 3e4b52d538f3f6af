#include "sim/app/calibration_fit.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <optional>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

using Rows = std::vector<const CalibrationRow*>;

double bytes_of(const CalibrationRow& row) { return static_cast<double>(row.number("bytes")); }
double flops_of(const CalibrationRow& row) { return static_cast<double>(row.number("flops")); }
double seconds_of(const CalibrationRow& row) { return row.spread.median; }

json sourced(json value, const std::string& citation) {
  return {{"value", std::move(value)}, {"source", "measured"}, {"citation", citation}};
}

/// "nearkv calibrate on NVIDIA H200, 2026-01-31": how every citation begins.
std::string origin_of(const Measurements& measurements) {
  return fmt::format("nearkv calibrate on {}, {}",
                     measurements.environment.value("device", "unknown device"),
                     measurements.environment.value("date", "no date"));
}

double fraction_digits(double fraction) {
  constexpr double kSteps = 1e4;
  return std::round(fraction * kSteps) / kSteps;
}

/// Rows whose `size` is at least a tenth of the largest: where fixed costs and idle parts of the
/// device matter least.
Rows largest_rows(Rows rows, const std::function<double(const CalibrationRow&)>& size) {
  constexpr double kShare = 0.1;
  double largest = 0;
  for (const CalibrationRow* row : rows) {
    largest = std::max(largest, size(*row));
  }
  std::erase_if(rows, [&](const CalibrationRow* row) { return size(*row) < kShare * largest; });
  return rows;
}

const CalibrationRow* largest_row(const Rows& rows, std::string_view parameter) {
  const CalibrationRow* largest = nullptr;
  for (const CalibrationRow* row : rows) {
    if (largest == nullptr || row->number(parameter) > largest->number(parameter)) {
      largest = row;
    }
  }
  return largest;
}

int runs_of(const Rows& rows) {
  int runs = 0;
  for (const CalibrationRow* row : rows) {
    runs += row->spread.runs;
  }
  return runs;
}

/// "median 0.94 of 7 rows (10th to 90th percentile 0.91 to 0.95), 210 runs".
std::string spread_text(const TimeSpread& spread, const Rows& rows) {
  return fmt::format("median {:.4g} of {} rows (10th to 90th percentile {:.4g} to {:.4g}), {} runs",
                     spread.median, rows.size(), spread.p10, spread.p90, runs_of(rows));
}

std::string row_text(const CalibrationRow& row, double scale, std::string_view unit) {
  const TimeSpread& s = row.spread;
  return fmt::format("median {:.4g} {} (10th to 90th percentile {:.4g} to {:.4g}), {} runs",
                     s.median * scale, unit, s.p10 * scale, s.p90 * scale, s.runs);
}

std::string rate_text(const CalibrationRow& row) {
  constexpr double kGiga = 1e9;
  const TimeSpread& s = row.spread;
  const double gigabytes = bytes_of(row) / kGiga;
  return fmt::format("{:.4g} GB/s (10th to 90th percentile {:.4g} to {:.4g}), {} runs",
                     gigabytes / s.median, gigabytes / s.p90, gigabytes / s.p10, s.runs);
}

json rate_value(const CalibrationRow& row) {
  constexpr double kMega = 1e6;  // rates are given to 1 MB/s
  const auto megabytes =
      static_cast<std::int64_t>(std::llround(bytes_of(row) / seconds_of(row) / kMega));
  return format_exact(1_MBps * std::max<std::int64_t>(1, megabytes));
}

/// To 1 ns.
json duration_value(double seconds) {
  constexpr double kNanosecondsASecond = 1e9;
  return format_exact(std::chrono::nanoseconds(
      static_cast<std::int64_t>(std::llround(seconds * kNanosecondsASecond))));
}

// -- GPU --------------------------------------------------------------------------------------

class GpuFit {
 public:
  GpuFit(const Measurements& measurements, const DevicePeaks& peaks)
      : measurements_(measurements),
        bandwidth_(static_cast<double>(peaks.memory_bandwidth.per_second())),
        peak_(static_cast<double>(peaks.tensor_peak.per_second())),
        origin_(origin_of(measurements)) {}

  json constants() {
    fit_memory_bound_gemms();
    fit_compute_bound_gemms();
    fit_attention();
    fit_norm();
    fit_copy();
    fit_launch();
    fit_copy_engines();
    state_memory();
    return std::move(constants_);
  }

 private:
  void add(const char* name, json value, const std::string& citation) {
    constants_[name] = sourced(std::move(value), fmt::format("{}: {}", origin_, citation));
  }

  /// check()s nothing: a fraction above 1 is the fault of the peaks that the user gave.
  double checked_fraction(std::string_view name, double fraction, bool of_compute) const {
    if (!(fraction > 0) || fraction > 1) {
      throw ConfigError(fmt::format(
          "/{}: measured {:.4g} of the {} {:.4g} {}; the peak is that of another device: name "
          "another config with --datasheet, or give {}",
          name, fraction, of_compute ? "tensor_peak" : "memory_bandwidth",
          (of_compute ? peak_ : bandwidth_) / kGiga, of_compute ? "GFLOP/s" : "GB/s",
          of_compute ? "--tensor-peak" : "--memory-bandwidth"));
    }
    return fraction_digits(fraction);
  }

  [[nodiscard]] double without_fixed(const CalibrationRow& row) const {
    return std::max(seconds_of(row) - fixed_, std::numeric_limits<double>::min());
  }

  TimeSpread memory_fractions(const Rows& rows) const {
    std::vector<double> fractions;
    for (const CalibrationRow* row : rows) {
      fractions.push_back(bytes_of(*row) / (bandwidth_ * without_fixed(*row)));
    }
    return spread_of(fractions);
  }

  TimeSpread peak_fractions(const Rows& rows) const {
    std::vector<double> fractions;
    for (const CalibrationRow* row : rows) {
      fractions.push_back(flops_of(*row) / (peak_ * without_fixed(*row)));
    }
    return spread_of(fractions);
  }

  /// The line of time over bytes; nothing if all rows have the same.
  static std::optional<Line> line_of(const Rows& rows) {
    std::vector<LinePoint> points;
    for (const CalibrationRow* row : rows) {
      points.push_back({bytes_of(*row), seconds_of(*row)});
    }
    const auto differs = [&](const LinePoint& point) { return point.x != points.front().x; };
    if (std::none_of(points.begin(), points.end(), differs)) {
      return std::nullopt;
    }
    return median_line(points);
  }

  /// "slope of ...: 3888 of 4800 GB/s, fixed part 4.0 us, 24 rows, 210 runs".
  [[nodiscard]] std::string line_text(const Line& line, const Rows& rows) const {
    std::vector<double> off;
    for (const CalibrationRow* row : rows) {
      off.push_back((line.fixed + line.slope * bytes_of(*row)) / seconds_of(*row));
    }
    const TimeSpread spread = spread_of(std::move(off));
    return fmt::format(
        "{:.0f} of {:.0f} GB/s, fixed part {:.2f} us; {} rows, {} runs; line over measured time: "
        "median {:.3f} (10th to 90th percentile {:.3f} to {:.3f})",
        1 / line.slope / kGiga, bandwidth_ / kGiga, line.fixed * kMicro, rows.size(), runs_of(rows),
        spread.median, spread.p10, spread.p90);
  }

  void fit_memory_bound_gemms() {
    constexpr double kBoundByMemory = 3;  // the factor of the header
    const Rows rows = measurements_.select("gemm", [this](const CalibrationRow& row) {
      return kBoundByMemory * flops_of(row) / peak_ <= bytes_of(row) / bandwidth_;
    });
    const std::optional<Line> line = line_of(rows);
    if (!line) {
      return;
    }
    fixed_ = std::max(0.0, line->fixed);
    gemm_rows_ = rows;
    add("gemm_memory_fraction",
        checked_fraction("gemm_memory_fraction", 1 / (line->slope * bandwidth_), false),
        fmt::format("slope of time over bytes of GEMMs bound by memory, {}: {}",
                    rows.front()->parameters.value("library", ""), line_text(*line, rows)));
  }

  void fit_compute_bound_gemms() {
    std::map<std::int64_t, Rows> by_rows;
    for (const CalibrationRow* row : measurements_.select("gemm")) {
      if (flops_of(*row) / peak_ >= bytes_of(*row) / bandwidth_) {
        by_rows[row->number("rows")].push_back(row);
      }
    }
    json list = json::array();
    for (const auto& [gemm_rows, rows] : by_rows) {
      const TimeSpread spread = peak_fractions(rows);
      const double fraction = checked_fraction("gemm_peak_fractions", spread.median, true);
      list.push_back(
          {{"rows", gemm_rows},
           {"fraction",
            sourced(fraction,
                    fmt::format("{}: GEMMs of {} rows, {}, times less their fixed part "
                                "({:.2f} us): {}",
                                origin_, gemm_rows, rows.front()->parameters.value("library", ""),
                                fixed_ * kMicro, spread_text(spread, rows)))}});
    }
    if (!list.empty()) {
      constants_["gemm_peak_fractions"] = list;
    }
  }

  void fit_attention() {
    const Rows decode = largest_rows(
        measurements_.select("decode_attention",
                             [](const CalibrationRow& row) { return row.is("kernel", "dense"); }),
        bytes_of);
    if (!decode.empty()) {
      const TimeSpread spread = memory_fractions(decode);
      add("attention_memory_fraction",
          checked_fraction("attention_memory_fraction", spread.median, false),
          fmt::format("dense decode attention of kernels/cuda over {:.3g} GB of K and V or more, "
                      "less the fixed part: {}",
                      bytes_of(*smallest(decode)) / kGiga, spread_text(spread, decode)));
    }
    const Rows prefill = largest_rows(measurements_.select("prefill_attention",
                                                           [](const CalibrationRow& row) {
                                                             return row.is("part", "scores") ||
                                                                    row.is("part", "values");
                                                           }),
                                      flops_of);
    if (!prefill.empty()) {
      const TimeSpread spread = peak_fractions(prefill);
      add("attention_peak_fraction",
          checked_fraction("attention_peak_fraction", spread.median, true),
          fmt::format("scores and values of prefill attention as two kernels ({}), all pairs "
                      "counted, less the fixed part: {}",
                      prefill.front()->parameters.value("kernel", ""),
                      spread_text(spread, prefill)));
    }
  }

  static const CalibrationRow* smallest(const Rows& rows) {
    return *std::min_element(rows.begin(), rows.end(), [](const auto* a, const auto* b) {
      return bytes_of(*a) < bytes_of(*b);
    });
  }

  void fit_norm() {
    const Rows rows = measurements_.select("layer_norm");
    if (const std::optional<Line> line = line_of(rows)) {
      add("norm_memory_fraction",
          checked_fraction("norm_memory_fraction", 1 / (line->slope * bandwidth_), false),
          fmt::format("slope of time over bytes of layer norms with one read and one write: {}",
                      line_text(*line, rows)));
    }
  }

  void fit_copy() {
    const Rows rows = measurements_.select(
        "memory_copy", [](const CalibrationRow& row) { return row.is("by", "kernel"); });
    if (const CalibrationRow* row = largest_row(rows, "bytes")) {
      add("elementwise_memory_fraction",
          checked_fraction("elementwise_memory_fraction",
                           bytes_of(*row) / (bandwidth_ * seconds_of(*row)), false),
          fmt::format("copy within GPU memory by a kernel, {} read and written: {}",
                      format_short(Bytes{row->number("bytes")}), rate_text(*row)));
    }
  }

  void fit_launch() {
    const auto of = [this](const char* launch) {
      return largest_row(
          measurements_.select("kernel_launch",
                               [&](const CalibrationRow& row) { return row.is("launch", launch); }),
          "kernels");
    };
    const CalibrationRow* graph = of("graph");
    const CalibrationRow* eager = of("eager");
    if (graph == nullptr || eager == nullptr || gemm_rows_.empty()) {
      return;
    }
    const double launch = std::max(0.0, fixed_ - seconds_of(*graph)) + seconds_of(*eager);
    add("kernel_launch", duration_value(launch),
        fmt::format(
            "fixed part of {} GEMMs bound by memory in CUDA graphs ({:.2f} us), its launch "
            "within a graph (empty kernel: {}) replaced by an eager one (empty kernel: {}); "
            "a framework's own work on the CPU is not in it",
            gemm_rows_.size(), fixed_ * kMicro, row_text(*graph, kMicro, "us"),
            row_text(*eager, kMicro, "us")));
  }

  void fit_copy_engines() {
    constexpr double kOverlap = 1.5;
    const CalibrationRow* both = largest_row(
        measurements_.select("host_copy",
                             [](const CalibrationRow& row) { return row.is("direction", "both"); }),
        "bytes");
    if (both == nullptr) {
      return;
    }
    const Rows one_way = measurements_.select("host_copy", [both](const CalibrationRow& row) {
      return row.is("direction", "h2d") && row.is("memory", "pinned") &&
             row.number("bytes") == both->number("bytes");
    });
    if (one_way.empty()) {
      return;
    }
    const double ratio = seconds_of(*both) / seconds_of(*one_way.front());
    add("copy_engines", ratio < kOverlap ? 2 : 1,
        fmt::format("copies of {} each way at once take {:.2f} times one copy",
                    format_short(Bytes{both->number("bytes")}), ratio));
  }

  void state_memory() {
    const auto state = [this](const char* what, const char* constant, const std::string& how) {
      const Rows rows = measurements_.select(what);
      if (!rows.empty()) {
        add(constant, format_exact(Bytes{static_cast<std::int64_t>(rows.front()->spread.median)}),
            how);
      }
    };
    state("memory_capacity", "memory_capacity", "total memory that the CUDA runtime reports");
    state(
        "memory_held", "reserved_memory",
        "memory in use that the CUDA runtime reports once context, kernels and cuBLAS are loaded; "
        "a framework's allocator holds more");
  }

  static constexpr double kMicro = 1e6;
  static constexpr double kGiga = 1e9;

  const Measurements& measurements_;
  double bandwidth_;
  double peak_;
  std::string origin_;
  double fixed_ = 0;
  Rows gemm_rows_;  // the memory-bound ones that gave fixed_
  json constants_ = json::object();
};

}  // namespace

Line median_line(const std::vector<LinePoint>& points) {
  std::vector<double> slopes;
  for (std::size_t i = 0; i < points.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (points[i].x != points[j].x) {
        slopes.push_back((points[i].t - points[j].t) / (points[i].x - points[j].x));
      }
    }
  }
  Line line;
  line.slope = spread_of(std::move(slopes)).median;
  std::vector<double> rest;
  for (const LinePoint& point : points) {
    rest.push_back(point.t - line.slope * point.x);
  }
  line.fixed = spread_of(std::move(rest)).median;
  return line;
}

json gpu_constants(const Measurements& measurements, const DevicePeaks& peaks) {
  return GpuFit(measurements, peaks).constants();
}

json host_constants(const Measurements& measurements) {
  std::string origin = origin_of(measurements);
  if (measurements.environment.value("kind", "") == "cuda") {
    origin = fmt::format("{} (its host, {})", origin, measurements.environment.value("cpu", ""));
  }
  json constants = json::object();
  const auto cited = [&](json value, const std::string& how) {
    return sourced(std::move(value), fmt::format("{}: {}", origin, how));
  };
  const auto first = [&](const char* what) -> const CalibrationRow* {
    const Rows rows = measurements.select(what);
    return rows.empty() ? nullptr : rows.front();
  };
  if (const CalibrationRow* row = first("cores")) {
    constants["cores"] =
        cited(static_cast<int>(row->spread.median), "cores that a process may use");
  }
  const auto state_bytes = [&](const char* what, const char* constant, const char* how) {
    if (const CalibrationRow* row = first(what)) {
      constants[constant] =
          cited(format_exact(Bytes{static_cast<std::int64_t>(row->spread.median)}), how);
    }
  };
  state_bytes("host_memory", "dram", "MemTotal of /proc/meminfo");
  state_bytes("page_size", "page_size", "page size that the system states");
  const Rows copies = measurements.select(
      "memory_copy", [](const CalibrationRow& row) { return row.has("threads"); });
  if (const CalibrationRow* row = largest_row(copies, "threads")) {
    constants["dram_rate"] =
        cited(rate_value(*row),
              fmt::format("memcpy of {} threads, {} read and written: {}", row->number("threads"),
                          format_short(Bytes{row->number("bytes")}), rate_text(*row)));
  }
  for (const std::string direction : {"h2d", "d2h"}) {
    const Rows rows = measurements.select("host_copy", [&](const CalibrationRow& row) {
      return row.is("direction", direction) && row.is("memory", "pageable");
    });
    if (const CalibrationRow* row = largest_row(rows, "bytes")) {
      constants["pageable_" + direction] =
          cited(rate_value(*row),
                fmt::format("one copy of {} of pageable memory, CUDA events: {}",
                            format_short(Bytes{row->number("bytes")}), rate_text(*row)));
    }
  }
  constexpr double kMicro = 1e6;
  if (const CalibrationRow* row = first("mapped_page")) {
    constants["file_system"]["hit_per_page"] =
        cited(duration_value(seconds_of(*row)),
              "a page of a mapped file in the page cache, mapping and copy by one thread: " +
                  row_text(*row, kMicro, "us"));
  }
  if (const CalibrationRow* row = first("first_touch")) {
    constants["swap"]["minor_fault"] = cited(
        duration_value(seconds_of(*row)),
        "first touch of a page of anonymous memory by one thread: " + row_text(*row, kMicro, "us"));
  }
  return constants;
}

}  // namespace nearkv
