// nearkv calibrate: measures this machine and writes configs with what was measured.
//
// Three files: the device's config (configs/calibration/DEVICE.json; with a CUDA device also
// DEVICE_host.json, the host that it is in) and all measurements below measurements/, from which
// --from derives the configs again.
#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/chrono.h>
#include <fmt/format.h>

#include "build_info.hpp"
#include "sim/app/calibration_config.hpp"
#include "sim/app/calibration_measure.hpp"
#include "sim/app/commands.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/point.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/app/replay_device.hpp"
#include "sim/app/table.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

struct CalibrateOptions {
  std::string device;
  std::string from;
  std::string out;
  std::string disk_path;
  PeakOptions peaks;
  bool is_quick = false;
  bool as_json = false;
};

std::string command_line(const CalibrateOptions& options) {
  std::string command = "nearkv calibrate --device " + options.device;
  const auto add = [&command](const char* name, const std::string& value) {
    if (!value.empty()) {
      command += fmt::format(" {} {}", name, printable(value));
    }
  };
  add("--disk-path", options.disk_path);
  add("--datasheet", options.peaks.datasheet);
  add("--memory-bandwidth", options.peaks.memory_bandwidth);
  add("--tensor-peak", options.peaks.tensor_peak);
  return command + (options.is_quick ? " --quick" : "");
}

std::string today() {
  return fmt::format(
      "{:%Y-%m-%d}",
      fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
}

Measurements new_measurements(const CalibrateOptions& options) {
  Measurements measurements;
  measurements.environment = {
      {"kind", options.device},
      {"date", today()},
      {"command", command_line(options)},
      {"program", fmt::format("nearkv {}", build_info::kVersion)},
      {"compiler", fmt::format("{}, {}", build_info::kCompiler, build_info::kBuildType)}};
  describe_host(measurements);
  return measurements;
}

fs::path out_file(const CalibrateOptions& options, const std::string& device) {
  fs::path file = options.out.empty()
                      ? shipped_configs() / "calibration" / (device_file_name(device) + ".json")
                      : fs::path(options.out);
  std::error_code ignored;
  if (file.filename().empty() || fs::is_directory(file, ignored)) {
    throw ConfigError(
        fmt::format("{}: is a folder; name a file with --out", printable(file.string())));
  }
  check_output_folder(file.has_parent_path() ? file.parent_path() : ".");
  // Measuring takes minutes: better to know now.
  const fs::path trial = file.string() + ".trial";
  write_file_atomically(trial, "");
  fs::remove(trial);
  return file;
}

/// The processor's file is named after its cores too: they make it another device.
std::string named_host() {
  Measurements described;
  describe_host(described);
  return fmt::format("{} {} cores", host_name(), described.environment.at("cores").get<int>());
}

Measurements measure(const CalibrateOptions& options) {
  const CalibrationPlan plan{
      .is_quick = options.is_quick,
      .disk_path = options.disk_path,
      .say = [](const std::string& what) { fmt::print(stderr, "calibrate: {}\n", what); }};
  check_disk_path(plan);
  Measurements measurements = new_measurements(options);
  if (options.device == "cuda") {
    measurements.environment["device"] = cuda_device_name();
    describe_cuda_device(measurements);
    measure_cuda_device(measurements, plan);
    measure_host(measurements, plan);
  } else {
    measurements.environment["device"] = named_host();
    measure_host(measurements, plan);
    measure_cpu_kernels(measurements, plan);
  }
  return measurements;
}

void print_constants(const std::string& part, const json& config) {
  TextTable table({{part, TextTable::Align::left},
                   {"value", TextTable::Align::right},
                   {"how", TextTable::Align::left}});
  for (const MeasuredConstant& constant : measured_constants(config)) {
    table.row({constant.path, constant.value, constant.citation});
  }
  fmt::print("{}\n", table.text());
}

std::string device_of(const CalibrateOptions& options) {
  if (options.device == "cuda") {
    check_cuda_device();
    return cuda_device_name();
  }
  return named_host();
}

void check_device(const CalibrateOptions& options) {
  if (options.from.empty() && options.device != "cpu" && options.device != "cuda") {
    throw ConfigError(options.device.empty()
                          ? "--device: is missing; name cpu or cuda, or --from a file of "
                            "measurements"
                          : fmt::format("--device: there is no device {}; there are: cpu, cuda",
                                        in_quotes(options.device)));
  }
}

void write_files(const CalibrationFiles& files) {
  const SignalsPutOff whole_files;
  for (const auto& [file, text] : files.texts) {
    write_file_atomically(file, text);
  }
}

void print_result(const CalibrateOptions& options, const Measurements& measurements,
                  const CalibrationFiles& files) {
  if (options.as_json) {
    json document{{"measurements", json::parse(measurements_text(measurements))},
                  {"host", files.host}};
    if (!files.gpu.is_null()) {
      document["gpu"] = files.gpu;
    }
    fmt::print("{}", json_text(document));
    return;
  }
  if (!files.gpu.is_null()) {
    print_constants("gpu", files.gpu);
  }
  print_constants("host", files.host);
  for (const auto& [file, text] : files.texts) {
    fmt::print("wrote {}\n", file.string());
  }
}

int calibrate(const CalibrateOptions& options) {
  check_device(options);
  const bool is_stored = !options.from.empty();
  Measurements measurements;
  if (is_stored) {
    measurements = parse_measurements(load_json(path_of(options.from)), options.from);
  }
  const std::string device =
      is_stored ? measurements.environment.at("device").get<std::string>() : device_of(options);
  const std::string kind = is_stored ? measurements.environment.value("kind", "") : options.device;
  const fs::path out = out_file(options, device);
  // Before anything is measured: without peaks the measurement would be useless.
  const GpuBase base = kind == "cuda" ? gpu_base(device, options.peaks, out) : GpuBase{};
  if (!is_stored) {
    measurements = measure(options);
  }
  CalibrationFiles files = calibration_files(measurements, base, out);
  if (!is_stored) {
    files.texts.emplace_back(measurements_file(out), measurements_text(measurements));
  }
  write_files(files);
  print_result(options, measurements, files);
  return kExitOk;
}

}  // namespace

void add_calibrate_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<CalibrateOptions>();
  command.add_option("--device", options->device, "What to measure: cpu or cuda (the first GPU)");
  command.add_option("--from", options->from,
                     "Measure nothing; derive the configs from this file of measurements");
  command.add_option("--out", options->out,
                     "File of the config; measurements go to a folder beside it "
                     "(default: configs/calibration/DEVICE.json)");
  command.add_option("--disk-path", options->disk_path,
                     "Measure the disk that this folder is on, too");
  command.add_option("--datasheet", options->peaks.datasheet,
                     "GPU config to extend: its peaks, and what is not measured (default: the one "
                     "of configs/platforms/gpus with the device's name)");
  command.add_option("--memory-bandwidth", options->peaks.memory_bandwidth,
                     "Peak of the GPU's memory by its datasheet, such as 4.8TB/s");
  command.add_option("--tensor-peak", options->peaks.tensor_peak,
                     "Peak of FP16 without sparsity by its datasheet, such as 989TFLOP/s");
  command.add_flag("--quick", options->is_quick, "Fewer points and runs: a try in half a minute");
  command.add_flag("--json", options->as_json, "Print measurements and configs as JSON");
  command.callback([options, &exit_status] { exit_status = calibrate(*options); });
}

}  // namespace nearkv
