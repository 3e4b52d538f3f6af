#include "sim/app/calibration_config.hpp"

#include <algorithm>
#include <functional>
#include <stdexcept>

#include <fmt/format.h>

#include "models/gpu/gpu.hpp"
#include "models/host/host_config.hpp"
#include "sim/app/point.hpp"
#include "sim/app/replay_device.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* kHostBase = "nearkv:platforms/hosts/xeon_5320_96gb.json";
/// Where a GPU without a config takes what is not measured from.
constexpr const char* kOtherGpu = "nearkv:platforms/gpus/h200.json";

/// The shipped GPU config with the device's name, as an "extends"; empty if there is none.
std::string shipped_gpu(const std::string& device) {
  std::vector<fs::path> files;
  std::error_code ignored;
  for (const auto& entry :
       fs::directory_iterator(shipped_configs() / "platforms" / "gpus", ignored)) {
    if (entry.path().extension() == ".json") {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    if (load_config(file).value("name", "") == device) {
      return "nearkv:platforms/gpus/" + file.filename().string();
    }
  }
  return "";
}

/// As the file `out` has to name it: relative to itself.
std::string as_extends(const std::string& file, const fs::path& out) {
  if (file.starts_with("nearkv:")) {
    return file;
  }
  const fs::path folder = fs::absolute(out).parent_path();
  return fs::absolute(file)
      .lexically_normal()
      .lexically_relative(folder.lexically_normal())
      .string();
}

template <class Value>
Value peak_option(const char* option, const std::string& text, Value (*parse)(std::string_view)) {
  try {
    const Value value = parse(text);
    if (value.per_second() <= 0) {
      throw std::invalid_argument("must be above 0");
    }
    return value;
  } catch (const std::invalid_argument& error) {
    throw ConfigError(fmt::format("{}: {}", option, error.what()));
  }
}

json given(const std::string& value, const char* option) {
  return {{"value", value},
          {"source", "datasheet"},
          {"citation", fmt::format("given to nearkv calibrate with {}", option)}};
}

/// Power, price and what an eager framework's kernels reach, which no measurement here tells, as
/// those of another GPU.
void assume_unmeasured(json& config) {
  const json other = load_config(path_of(kOtherGpu));
  const auto assumed = [&](const json& constant) {
    return json{
        {"value", constant.at("value")},
        {"source", "assumed"},
        {"citation", fmt::format("not known to nearkv calibrate; that of {}, to be replaced",
                                 other.at("name").get<std::string>())}};
  };
  for (const auto& [state, power] : other.at("power").items()) {
    config["power"][state] = assumed(power);
  }
  for (const char* name : {"price_usd", "softmax_memory_fraction", "strided_memory_fraction"}) {
    config[name] = assumed(other.at(name));
  }
}

/// A config with `extends` resolved, where the extended file is named relative to `out`.
json resolved(const json& config, const fs::path& out) {
  json result = json::object();
  if (const std::string base = config.value("extends", ""); !base.empty()) {
    result = load_config(base.starts_with("nearkv:") ? path_of(base)
                                                     : fs::absolute(out).parent_path() / base);
  }
  for (const auto& [key, value] : config.items()) {
    if (key == "extends") {
      continue;
    }
    if (value.is_object() && !value.contains("value") && result.contains(key)) {
      result[key].update(value);
    } else {
      result[key] = value;
    }
  }
  return result;
}

template <class Config>
void check_config(const json& config, const fs::path& out) {
  try {
    Config read;
    read_fields(resolved(config, out), [&read](FieldVisitor& v) { read.fields(v); });
  } catch (const ConfigError& error) {
    throw ConfigError(prefix_lines("calibrated " + printable(out.string()), error.what()));
  }
}

fs::path host_file(const fs::path& out) {
  return out.parent_path() / (out.stem().string() + "_host" + out.extension().string());
}

std::string comment_of(const Measurements& measurements, const fs::path& out,
                       const std::string& rest) {
  return fmt::format("Written by nearkv calibrate from measurements/{}; measured on {}, {}. {}",
                     measurements_file(out).filename().string(),
                     measurements.environment.at("device").get<std::string>(),
                     measurements.environment.value("date", "no date"), rest);
}

/// Keys in a readable order: what the file is and what a value is first.
nlohmann::ordered_json readable(const json& node) {
  nlohmann::ordered_json ordered;
  if (node.is_array()) {
    for (const json& element : node) {
      ordered.push_back(readable(element));
    }
    return ordered;
  }
  if (!node.is_object()) {
    return node;
  }
  for (const char* first : {"comment", "extends", "name", "rows", "value", "source"}) {
    if (node.contains(first)) {
      ordered[first] = readable(node.at(first));
    }
  }
  for (const auto& [key, value] : node.items()) {
    if (!ordered.contains(key)) {
      ordered[key] = readable(value);
    }
  }
  return ordered;
}

std::string config_text(const json& config) {
  constexpr int kIndent = 2;
  return readable(config).dump(kIndent) + "\n";
}

}  // namespace

GpuBase gpu_base(const std::string& device, const PeakOptions& options, const fs::path& out) {
  GpuBase base;
  const std::string file = options.datasheet.empty() ? shipped_gpu(device) : options.datasheet;
  json known = json::object();
  if (!file.empty()) {
    known = load_config(path_of_config(file));
    base.config["extends"] = as_extends(file, out);
  } else {
    assume_unmeasured(base.config);
  }
  base.config["name"] = device;
  const auto peak = [&](const char* key, const char* option, const std::string& text,
                        auto(*parse)(std::string_view)) {
    if (!text.empty()) {
      base.config[key] = given(text, option);
      return peak_option(option, text, parse);
    }
    if (!known.contains(key)) {
      throw ConfigError(
          fmt::format("{}: {} has no config in configs/platforms/gpus, and no measurement tells "
                      "its peaks; give "
                      "{} and {} from its datasheet, or a config that has them with --datasheet",
                      option, device, "--memory-bandwidth", "--tensor-peak"));
    }
    return peak_option((file + ": /" + key).c_str(), plain_value(known.at(key)), parse);
  };
  base.peaks.memory_bandwidth =
      peak("memory_bandwidth", "--memory-bandwidth", options.memory_bandwidth, parse_rate);
  base.peaks.tensor_peak =
      peak("tensor_peak", "--tensor-peak", options.tensor_peak, parse_flop_rate);
  return base;
}

fs::path measurements_file(const fs::path& out) {
  return out.parent_path() / "measurements" / out.filename();
}

CalibrationFiles calibration_files(const Measurements& measurements, const GpuBase& base,
                                   const fs::path& out) {
  CalibrationFiles files;
  const bool is_gpu = measurements.environment.value("kind", "") == "cuda";
  const fs::path host_out = is_gpu ? host_file(out) : out;
  if (is_gpu) {
    files.gpu = base.config;
    files.gpu.update(gpu_constants(measurements, base.peaks));
    files.gpu["comment"] =
        comment_of(measurements, out, "What is not measured is what the extended config says.");
    check_config<GpuConfig>(files.gpu, out);
    files.texts.emplace_back(out, config_text(files.gpu));
  }
  files.host = host_constants(measurements);
  files.host["extends"] = kHostBase;
  files.host["comment"] = comment_of(
      measurements, out,
      fmt::format(
          "The host{}. What is not measured (swap, read-ahead, power, prices{}) is that of the "
          "Xeon 5320.",
          is_gpu ? " with this GPU" : "", is_gpu ? "" : ", copies to a GPU"));
  check_config<HostConfig>(files.host, host_out);
  files.texts.emplace_back(host_out, config_text(files.host));
  return files;
}

std::vector<MeasuredConstant> measured_constants(const json& config) {
  std::vector<MeasuredConstant> found;
  const std::function<void(const json&, const std::string&)> walk = [&](const json& node,
                                                                        const std::string& path) {
    if (node.is_object() && node.value("source", "") == "measured") {
      const json& value = node.at("value");
      const std::string citation = node.at("citation");
      // The table's title says on which device.
      const std::size_t how = citation.find(": ");
      found.push_back({path, value.is_string() ? value.get<std::string>() : value.dump(),
                       how == std::string::npos ? citation : citation.substr(how + 2)});
      return;
    }
    if (node.is_structured()) {
      for (const auto& [key, child] : node.items()) {
        walk(child, path + "/" + key);
      }
    }
  };
  walk(config, "");
  return found;
}

}  // namespace nearkv
