#include "sim/app/record_source.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <numeric>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "models/kv/head_reads.hpp"
#include "sim/app/point.hpp"
#include "sim/app/replay_device.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/hash.hpp"
#include "sim/core/random.hpp"
#include "traces/captured_kv.hpp"
#include "traces/synthetic_kv.hpp"

namespace nearkv {

namespace fs = std::filesystem;

namespace {

constexpr int kSyntheticLayers = 1;
constexpr int kSyntheticKvHeads = 8;
constexpr int kSyntheticContext = 2048;
constexpr int kSyntheticChannels = 128;
constexpr int kMostHeads = 65'536;  // of a layer, and layers

std::vector<int> first_numbers(int count) {
  std::vector<int> numbers(static_cast<std::size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

/// "0,9,17"; ascending.
std::vector<int> list_of(const std::string& text) {
  std::vector<int> numbers;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (true) {
    int number = 0;
    const auto [rest, error] = std::from_chars(at, end, number);
    const bool ascends = numbers.empty() || number > numbers.back();
    if (error != std::errc{} || number < 0 || !ascends || (rest != end && *rest != ',')) {
      throw ConfigError(fmt::format(
          "--layers: is {}; must be ascending numbers with commas, such as 0,9", in_quotes(text)));
    }
    numbers.push_back(number);
    if (rest == end) {
      return numbers;
    }
    at = rest + 1;
  }
}

class CapturedSource final : public RecordSource {
 public:
  explicit CapturedSource(const RecordSourceOptions& options) : file_(options.file) {
    const traces::CaptureInfo& capture = file_.info();
    refuse("--context", options.context != 0);
    refuse("--d-head", options.d_head != 0);
    refuse("--queries-per-kv-head", options.query_heads != 0);
    info_ = {.kind = "captured",
             .name = fs::path(options.file).filename().string(),
             .model = capture.model,
             .hash = file_.content_hash(),
             .text = capture.text,
             .layers = capture.layers,
             .kv_heads = capture.kv_heads,
             .d_head = capture.d_head,
             .query_heads = capture.queries_per_kv_head(),
             .longest_context = capture.tokens(),
             .first_context = file_.has_prompt_queries() ? 1 : capture.prompt_tokens + 1,
             .prompt_tokens = capture.prompt_tokens,
             .prompt_tokens_with_mass = capture.prompt_tokens};
    if (!options.layers.empty()) {
      info_.layers = list_of(options.layers);
      for (const int layer : info_.layers) {
        if (std::find(capture.layers.begin(), capture.layers.end(), layer) ==
            capture.layers.end()) {
          throw ConfigError(fmt::format("--layers: {} is not in {}; it has {}", layer,
                                        printable(options.file), fmt::join(capture.layers, ", ")));
        }
      }
    }
    if (options.kv_heads > static_cast<int>(info_.kv_heads.size())) {
      throw ConfigError(fmt::format("--kv-heads: is {}, but {} has {}", options.kv_heads,
                                    printable(options.file), info_.kv_heads.size()));
    }
    if (options.kv_heads > 0) {
      info_.kv_heads.resize(static_cast<std::size_t>(options.kv_heads));
    }
  }

  [[nodiscard]] RecordHead head(int layer, int kv_head, int first_context,
                                int tokens) const override {
    const int layer_number = info_.layers[static_cast<std::size_t>(layer)];
    const int head_number = info_.kv_heads[static_cast<std::size_t>(kv_head)];
    const traces::CapturedHead captured = file_.head(layer_number, head_number);
    const auto values = static_cast<std::size_t>(tokens) * info_.d_head;
    RecordHead head{
        .d_head = info_.d_head,
        .query_heads = info_.query_heads,
        .first_position = first_context - 1,
        .keys = {captured.k().begin(), captured.k().begin() + values},
        .values = {captured.v().begin(), captured.v().begin() + values},
        .queries = {},
        .prefill_mass = {captured.prefill_mass().begin(), captured.prefill_mass().end()}};
    const int prompt = info_.prompt_tokens;
    if (first_context <= prompt) {
      add_prompt_queries(head, file_.prompt_queries(layer_number, head_number), tokens);
    }
    for (int position = std::max(prompt, head.first_position); position < tokens; ++position) {
      const std::span<const float> row = captured.queries(position - prompt);
      head.queries.insert(head.queries.end(), row.begin(), row.end());
    }
    return head;
  }

 private:
  static void refuse(const char* option, bool is_given) {
    if (is_given) {
      throw ConfigError(
          fmt::format("{}: is for synthetic heads; captured tensors have their own", option));
    }
  }

  /// From query heads x positions to positions x query heads.
  void add_prompt_queries(RecordHead& head, const std::vector<float>& by_head, int tokens) const {
    const auto d_head = static_cast<std::size_t>(info_.d_head);
    const auto prompt = static_cast<std::size_t>(info_.prompt_tokens);
    const std::size_t end = std::min(prompt, static_cast<std::size_t>(tokens));
    for (auto position = static_cast<std::size_t>(head.first_position); position < end;
         ++position) {
      for (std::size_t query = 0; query < static_cast<std::size_t>(head.query_heads); ++query) {
        const auto row =
            by_head.begin() + static_cast<std::ptrdiff_t>((query * prompt + position) * d_head);
        head.queries.insert(head.queries.end(), row, row + static_cast<std::ptrdiff_t>(d_head));
      }
    }
  }

  traces::CapturedKv file_;
};

class SyntheticSource final : public RecordSource {
 public:
  explicit SyntheticSource(const RecordSourceOptions& options)
      : seed_(static_cast<std::uint64_t>(options.seed)) {
    const nlohmann::json config = load_config(options.file);
    KvSourceConfig source;
    try {
      read_fields(config, [&source](FieldVisitor& v) { source.fields(v); });
    } catch (const ConfigError& wrong) {
      throw ConfigError(prefix_lines(printable(options.file), wrong.what()));
    }
    if (source.kind != KvSourceKind::synthetic) {
      throw ConfigError(
          fmt::format("{}: /kind: is \"trace\"; only synthetic heads or captured "
                      "tensors can be recorded",
                      printable(options.file)));
    }
    const auto given_or = [](int given, int otherwise) { return given > 0 ? given : otherwise; };
    spec_ = source.synthetic.heads_like;
    spec_.d_head = given_or(options.d_head, kSyntheticChannels);
    spec_.query_heads = given_or(options.query_heads, 1);
    spec_.tokens = given_or(options.context, kSyntheticContext);
    const int layers = options.layers.empty() ? kSyntheticLayers : count_of(options.layers);
    info_ = {.kind = "synthetic",
             .name = fs::path(options.file).filename().string(),
             .model = "synthetic heads",
             .hash = {},
             .text = {},
             .layers = first_numbers(layers),
             .kv_heads = first_numbers(given_or(options.kv_heads, kSyntheticKvHeads)),
             .d_head = spec_.d_head,
             .query_heads = spec_.query_heads,
             .longest_context = spec_.tokens,
             .first_context = 1,
             .prompt_tokens = 0,
             .prompt_tokens_with_mass = 0};
    info_.hash = content_hash(nlohmann::json{
        {"config", config},
        {"seed", options.seed},
        {"kv_heads", info_.kv_heads.size()},
        {"d_head", spec_.d_head},
        {"query_heads",
         spec_.query_heads}}.dump());
  }

  [[nodiscard]] RecordHead head(int layer, int kv_head, int first_context,
                                int tokens) const override {
    traces::SyntheticKvSpec spec = spec_;
    spec.tokens = tokens;
    // The streams of SparfReads' pool: head after head.
    const auto number = static_cast<std::size_t>(layer) * info_.kv_heads.size() + kv_head;
    const traces::SyntheticKv kv(spec, Rng(seed_, "kv_source/" + std::to_string(number)));
    RecordHead head{.d_head = spec.d_head,
                    .query_heads = spec.query_heads,
                    .first_position = first_context - 1,
                    .keys = {kv.keys().begin(), kv.keys().end()},
                    .values = kv.values(),
                    .queries = {},
                    .prefill_mass = {}};
    for (int position = head.first_position; position < tokens; ++position) {
      const std::vector<float> queries = kv.query(position);
      head.queries.insert(head.queries.end(), queries.begin(), queries.end());
    }
    return head;
  }

 private:
  static int count_of(const std::string& text) {
    int count = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), count);
    if (error != std::errc{} || rest != text.data() + text.size() || count < 1 ||
        count > kMostHeads) {
      throw ConfigError(
          fmt::format("--layers: is {}; of synthetic heads it must be how many, 1 to {}",
                      in_quotes(text), kMostHeads));
    }
    return count;
  }

  traces::SyntheticKvSpec spec_{};
  std::uint64_t seed_;
};

/// Each query head of another source with its KV head.
class QueryHeadsApart final : public RecordSource {
 public:
  explicit QueryHeadsApart(std::unique_ptr<RecordSource> source) : source_(std::move(source)) {
    info_ = source_->info();
    std::vector<int> query_heads;
    for (const int kv_head : source_->info().kv_heads) {
      for (int query = 0; query < source_->info().query_heads; ++query) {
        query_heads.push_back(kv_head * source_->info().query_heads + query);
      }
    }
    info_.kv_heads = query_heads;
    info_.query_heads = 1;
    info_.model += ", query heads apart";
    info_.prompt_tokens_with_mass = 0;  // the mass is known of the group only
  }

  [[nodiscard]] RecordHead head(int layer, int kv_head, int first_context,
                                int tokens) const override {
    const int group = source_->info().query_heads;
    RecordHead head = source_->head(layer, kv_head / group, first_context, tokens);
    std::vector<float> queries;
    for (int context = first_context; context <= tokens; ++context) {
      const std::span<const float> all = head.queries_at(context);
      const auto d_head = static_cast<std::size_t>(head.d_head);
      const auto own = all.subspan(static_cast<std::size_t>(kv_head % group) * d_head, d_head);
      queries.insert(queries.end(), own.begin(), own.end());
    }
    head.queries = std::move(queries);
    head.query_heads = 1;
    head.prefill_mass.clear();
    return head;
  }

 private:
  std::unique_ptr<RecordSource> source_;
};

}  // namespace

std::unique_ptr<RecordSource> open_record_source(const RecordSourceOptions& options) {
  RecordSourceOptions found = options;
  found.file = path_of_config(options.file).string();
  std::unique_ptr<RecordSource> source;
  if (fs::path(found.file).extension() == ".json") {
    source = std::make_unique<SyntheticSource>(found);
  } else {
    source = std::make_unique<CapturedSource>(found);
  }
  if (options.query_heads_apart) {
    return std::make_unique<QueryHeadsApart>(std::move(source));
  }
  return source;
}

}  // namespace nearkv
