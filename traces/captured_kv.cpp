#include "traces/captured_kv.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <exception>
#include <numeric>
#include <optional>
#include <set>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "sim/core/check.hpp"
#include "sim/core/strict_json.hpp"

namespace nearkv::traces {

namespace {

using nlohmann::json;

constexpr std::string_view kFormat = "nearkv-captured-kv";
constexpr std::string_view kVersion = "1";
constexpr int kMost = 1 << 24;                // of layers, heads, channels, tokens
constexpr float kHalfOverflow = 65520.0F;     // the least float that rounds to infinity in FP16
constexpr double kMassTolerance = 1.0 / 512;  // relative: sums of FP32, or probabilities in BF16

std::string tensor_name(int layer, std::string_view what) {
  return fmt::format("layer.{}.{}", layer, what);
}

struct Axis {
  const char* name;
  std::int64_t extent;
};

struct Expected {
  const char* what;
  std::vector<Axis> axes;
  bool is_f32;  // only
};

std::vector<Expected> expected_tensors(const CaptureInfo& info, bool with_prompt_queries) {
  const auto kv_heads = static_cast<std::int64_t>(info.kv_heads.size());
  const Axis heads{"captured kv_heads", kv_heads};
  const Axis query_heads{"their query heads", kv_heads * info.queries_per_kv_head()};
  const Axis tokens{"prompt_tokens + steps", info.tokens()};
  const Axis prompt{"prompt_tokens", info.prompt_tokens};
  const Axis steps{"steps", info.steps};
  const Axis channels{"d_head", info.d_head};
  std::vector<Expected> all{{"k", {heads, tokens, channels}, false},
                            {"v", {heads, tokens, channels}, false},
                            {"q", {query_heads, steps, channels}, false},
                            {"prefill_mass", {heads, prompt}, true}};
  if (with_prompt_queries) {
    all.push_back({"q_prompt", {query_heads, prompt, channels}, false});
  }
  return all;
}

/// What is wrong with a tensor, as "field: what"; empty when nothing is.
std::string problem_of(const TensorInfo& tensor, const Expected& expected) {
  std::vector<std::int64_t> shape;
  std::vector<std::string_view> names;
  for (const Axis& axis : expected.axes) {
    shape.push_back(axis.extent);
    names.emplace_back(axis.name);
  }
  if (tensor.shape != shape) {
    return fmt::format("shape: is [{}]; must be [{}] ({})", fmt::join(tensor.shape, ", "),
                       fmt::join(shape, ", "), fmt::join(names, ", "));
  }
  const bool is_half = tensor.dtype == "F16" || tensor.dtype == "BF16";
  if (tensor.dtype != "F32" && (expected.is_f32 || !is_half)) {
    return fmt::format("dtype: is {}; must be {}", tensor.dtype,
                       expected.is_f32 ? "F32" : "F16, BF16 or F32");
  }
  return "";
}

}  // namespace

CapturedKv::CapturedKv(const std::string& file) : file_(file) {
  read_info();
  has_prompt_queries_ = file_.tensors().contains(tensor_name(info_.layers.front(), "q_prompt"));
  check_tensors();
}

const std::string& CapturedKv::text_of(const std::string& key) const {
  const auto found = metadata().find(key);
  if (found == metadata().end()) {
    file_.fail(kMetadataEntry, key + ": is missing");
  }
  return found->second;
}

int CapturedKv::number_of(const std::string& key, int highest) const {
  const std::string& text = text_of(key);
  const char* const end = text.data() + text.size();
  int value = 0;
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || rest != end || value < 1 || value > highest) {
    file_.fail(kMetadataEntry, fmt::format("{}: is {}; must be a whole number of 1 to {}", key,
                                           in_quotes(text), highest));
  }
  return value;
}

std::vector<int> CapturedKv::list_of(const std::string& key, int end) const {
  const std::string& text = text_of(key);
  json list;
  try {
    list = parse_strict_json(text, key);
  } catch (const std::exception&) {
    list = nullptr;  // no JSON or too much of it; refused below
  }
  std::vector<int> values;
  bool is_right = list.is_array() && !list.empty();
  for (std::size_t i = 0; is_right && i < list.size(); ++i) {
    is_right = list[i].is_number_unsigned() && list[i].get<std::uint64_t>() < std::uint64_t(end);
    if (is_right) {
      values.push_back(list[i].get<int>());
      is_right = i == 0 || values[i - 1] < values[i];
    }
  }
  if (!is_right) {
    file_.fail(kMetadataEntry,
               fmt::format("{}: is {}; must be an ascending list of numbers of 0 to {}, "
                           "such as \"[0, 2]\"",
                           key, in_quotes(text), end - 1));
  }
  return values;
}

void CapturedKv::read_info() {
  const auto format = metadata().find("format");
  if (format == metadata().end() || format->second != kFormat) {
    file_.fail(
        kMetadataEntry,
        fmt::format("format: {}; \"{}\" was expected, as traces/capture.py writes it",
                    format == metadata().end() ? "is missing" : "is " + in_quotes(format->second),
                    kFormat));
  }
  if (text_of("version") != kVersion) {
    file_.fail(kMetadataEntry, fmt::format("version: is {}; this program reads version \"{}\"",
                                           in_quotes(text_of("version")), kVersion));
  }
  info_.model = text_of("model");
  info_.model_licence = text_of("model_licence");
  info_.architecture = text_of("architecture");
  info_.text = text_of("text");
  info_.text_licence = text_of("text_licence");
  info_.text_sha256 = text_of("text_sha256");
  info_.decode = text_of("decode");
  if (info_.decode != "text" && info_.decode != "greedy") {
    file_.fail(kMetadataEntry, fmt::format(R"(decode: is {}; must be "text" or "greedy")",
                                           in_quotes(info_.decode)));
  }
  info_.model_layers = number_of("model_layers", kMost);
  info_.model_kv_heads = number_of("model_kv_heads", kMost);
  info_.model_query_heads = number_of("model_query_heads", kMost);
  if (info_.model_query_heads % info_.model_kv_heads != 0) {
    file_.fail(kMetadataEntry, fmt::format("model_query_heads: is {}; must be a multiple of "
                                           "model_kv_heads, {}",
                                           info_.model_query_heads, info_.model_kv_heads));
  }
  info_.d_head = number_of("d_head", kMost);
  info_.prompt_tokens = number_of("prompt_tokens", kMost);
  info_.steps = number_of("steps", kMost);
  info_.layers = list_of("layers", info_.model_layers);
  info_.kv_heads = list_of("kv_heads", info_.model_kv_heads);
}

void CapturedKv::check_tensors() const {
  std::set<std::string> known;
  for (const int layer : info_.layers) {
    for (const Expected& expected : expected_tensors(info_, has_prompt_queries_)) {
      const std::string name = tensor_name(layer, expected.what);
      const auto found = file_.tensors().find(name);
      if (found == file_.tensors().end()) {
        file_.fail(name, fmt::format("is missing; the metadata list layer {}", layer));
      }
      if (const std::string problem = problem_of(found->second, expected); !problem.empty()) {
        file_.fail(name, problem);
      }
      known.insert(name);
    }
  }
  for (const auto& [name, tensor] : file_.tensors()) {
    if (!known.contains(name)) {
      file_.fail(name,
                 "unknown tensor; layer.N.k, v, q and prefill_mass of each layer of the "
                 "metadata were expected, and q_prompt of all layers or none");
    }
  }
}

int CapturedKv::place_of_head(int layer, int kv_head) const {
  const auto found = std::ranges::find(info_.kv_heads, kv_head);
  check(found != info_.kv_heads.end() && std::ranges::count(info_.layers, layer) == 1,
        "a layer or KV head was asked for that was not captured");
  return static_cast<int>(found - info_.kv_heads.begin());
}

std::vector<float> CapturedKv::read_rows(const std::string& tensor, int first, int count) const {
  const TensorInfo& info = file_.tensors().at(tensor);
  const std::int64_t row = info.elements / info.shape.front();
  std::vector<float> values = file_.read(tensor, first * row, count * row);
  if (info.dtype == "F16") {
    return values;
  }
  const auto large =
      std::ranges::find_if(values, [](float x) { return std::abs(x) >= kHalfOverflow; });
  if (large != values.end()) {
    file_.fail(tensor, fmt::format("element {} is {}; must fit FP16, less than {}",
                                   info.place_of(first * row + (large - values.begin())), *large,
                                   kHalfOverflow));
  }
  return values;
}

CapturedHead CapturedKv::head(int layer, int kv_head) const {
  const int place = place_of_head(layer, kv_head);
  const int group = info_.queries_per_kv_head();
  CapturedHead head;
  head.d_head_ = static_cast<std::size_t>(info_.d_head);
  head.queries_per_kv_head_ = static_cast<std::size_t>(group);
  head.k_ = read_rows(tensor_name(layer, "k"), place, 1);
  head.v_ = read_rows(tensor_name(layer, "v"), place, 1);
  // From query head x step to step x query head, as kernels take the queries of one step.
  const std::vector<float> by_head = read_rows(tensor_name(layer, "q"), place * group, group);
  head.queries_.resize(by_head.size());
  const auto steps = static_cast<std::size_t>(info_.steps);
  for (std::size_t i = 0; i < head.queries_per_kv_head_; ++i) {
    for (std::size_t step = 0; step < steps; ++step) {
      std::copy_n(
          by_head.begin() + static_cast<std::ptrdiff_t>((i * steps + step) * head.d_head_),
          head.d_head_,
          head.queries_.begin() +
              static_cast<std::ptrdiff_t>((step * head.queries_per_kv_head_ + i) * head.d_head_));
    }
  }
  head.prefill_mass_ = read_mass(layer, place);
  return head;
}

std::vector<float> CapturedKv::read_mass(int layer, int place) const {
  const std::string name = tensor_name(layer, "prefill_mass");
  std::vector<float> mass =
      file_.read(name, std::int64_t{place} * info_.prompt_tokens, info_.prompt_tokens);
  const auto negative = std::ranges::find_if(mass, [](float x) { return x < 0; });
  if (negative != mass.end()) {
    file_.fail(name, fmt::format("element [{}, {}] is {}; a sum of probabilities is not negative",
                                 place, negative - mass.begin(), *negative));
  }
  const double sum = std::accumulate(mass.begin(), mass.end(), 0.0);
  const double right = double(info_.queries_per_kv_head()) * info_.prompt_tokens;
  if (std::abs(sum - right) > kMassTolerance * right) {
    file_.fail(name, fmt::format("row {} sums to {:.6g}; must be queries_per_kv_head x "
                                 "prompt_tokens, {}",
                                 place, sum, right));
  }
  return mass;
}

std::vector<float> CapturedKv::prompt_queries(int layer, int kv_head) const {
  check(has_prompt_queries_, "queries of a prompt were asked for that were not captured");
  const int group = info_.queries_per_kv_head();
  return read_rows(tensor_name(layer, "q_prompt"), place_of_head(layer, kv_head) * group, group);
}

}  // namespace nearkv::traces
