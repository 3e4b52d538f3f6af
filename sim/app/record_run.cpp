#include "sim/app/record_run.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>
#include <set>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include "kernels/workers.hpp"
#include "sim/app/point.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/core/check.hpp"
#include "sim/core/random.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

namespace {

constexpr int kSyntheticSteps = 16;
constexpr std::array kPageSizes{4096, 16384};  // 4 KiB: the paper's; 16 KiB: of today's NAND
constexpr std::array kGroups{2, 4, 8};         // channels; the paper's range

/// One step of one head.
struct Step {
  traces::KvTraceRecord record;
  RecordFigures figures;
  std::vector<PageShares> geometries;
};

std::vector<int> to_ints(const std::vector<std::uint32_t>& pages) {
  return {pages.begin(), pages.end()};
}

/// What each token received in steps 1 .. context - 1 from all query heads, as H2O sums it.
std::vector<float> mass_before(const RecordHead& head, int context) {
  const auto tokens = static_cast<std::size_t>(context - 1);
  if (head.prefill_mass.size() == tokens) {
    return head.prefill_mass;
  }
  check(head.first_position == 0, "H2O without the queries of the prompt");
  const auto d_head = static_cast<std::size_t>(head.d_head);
  const double scale = 1 / std::sqrt(static_cast<double>(head.d_head));
  std::vector<double> mass(tokens);
  std::vector<double> weights(tokens);
  for (int seen = 1; seen < context; ++seen) {
    const std::span<const float> queries = head.queries_at(seen);
    for (std::size_t first = 0; first < queries.size(); first += d_head) {
      double most = -std::numeric_limits<double>::infinity();
      for (int token = 0; token < seen; ++token) {
        const std::span<const float> key = head.key(token);
        float logit = 0;
        for (std::size_t c = 0; c < d_head; ++c) {
          logit += queries[first + c] * key[c];
        }
        weights[static_cast<std::size_t>(token)] = logit * scale;
        most = std::max(most, logit * scale);
      }
      double sum = 0;
      for (int token = 0; token < seen; ++token) {
        double& weight = weights[static_cast<std::size_t>(token)];
        weight = portable_exp(weight - most);
        sum += weight;
      }
      for (int token = 0; token < seen; ++token) {
        mass[static_cast<std::size_t>(token)] += weights[static_cast<std::size_t>(token)] / sum;
      }
    }
  }
  return {mass.begin(), mass.end()};
}

class HeadRecorder {
 public:
  HeadRecorder(const RecordResult& result, RecordHead head)
      : result_(result), head_(std::move(head)), pages_(result.geometry) {
    pages_.reserve(result.contexts.back());
    for (int token = 0; token < result.contexts.back(); ++token) {
      pages_.append(head_.key(token), head_.value(token));
    }
  }

  std::vector<Step> steps() {
    const int first = result_.contexts.front();
    std::optional<kernels::H2oHistory> history;
    if (result_.method.has_history()) {
      history.emplace(std::get<kernels::H2oOptions>(result_.method.at(first, first)),
                      mass_before(head_, first));
    }
    std::vector<Step> all;
    int next = first;  // what H2O has to see before a step
    for (const int context : result_.contexts) {
      for (; history && next < context; ++next) {
        attend(next, &*history);
      }
      all.push_back(step(context, history ? &*history : nullptr));
      next = context + 1;
    }
    return all;
  }

 private:
  kernels::AttentionResult attend(int context, kernels::H2oHistory* history) const {
    return kernels::cpu::attend(pages_,
                                {.queries = head_.queries_at(context),
                                 .context = context,
                                 .want_selection = true,
                                 .history = history},
                                result_.method.at(context, result_.contexts.front()));
  }

  Step step(int context, kernels::H2oHistory* history) const {
    const kernels::AttentionResult dense =
        kernels::cpu::attend(pages_, {.queries = head_.queries_at(context), .context = context},
                             kernels::DenseOptions{});
    const kernels::AttentionResult result = attend(context, history);
    Step step;
    step.figures = figures_of(result_.geometry, context, result, dense);
    step.record.context = context;
    for (const kernels::HeadSelection& selection : result.heads) {
      step.record.attended =
          std::max(step.record.attended, static_cast<int>(selection.tokens.size()));
    }
    step.record.channel_pages = to_ints(result.touched.channel_k);
    step.record.key_pages = to_ints(result.touched.token_k);
    step.record.value_pages = to_ints(result.touched.token_v);
    for (const GeometryFigures& other : result_.geometries) {
      step.geometries.push_back(page_shares(other.geometry, context, result.heads));
    }
    return step;
  }

  const RecordResult& result_;
  RecordHead head_;
  kernels::KvPages pages_;
};

kernels::PageGeometry geometry_of(const RecordOptions& options, int d_head) {
  try {
    return kernels::PageGeometry({.d_head = d_head,
                                  .page_bytes = static_cast<int>(std::min<std::int64_t>(
                                      parse_bytes(options.page_size).count(), 1 << 30)),
                                  .channels_per_group = options.channels_per_group});
  } catch (const std::invalid_argument& wrong) {
    throw ConfigError(fmt::format("--page-size {}, --channels-per-group {}: {}", options.page_size,
                                  options.channels_per_group, wrong.what()));
  }
}

/// The recorded page size and usual ones with all groups of the paper's that are possible.
std::vector<GeometryFigures> compared_geometries(const kernels::PageGeometry& recorded) {
  std::set<int> pages(kPageSizes.begin(), kPageSizes.end());
  pages.insert(recorded.page_bytes());
  std::vector<GeometryFigures> all;
  for (const int page : pages) {
    for (const int group : kGroups) {
      if (recorded.d_head() % group == 0 &&
          page / kernels::PageGeometry::element_bytes >= recorded.d_head()) {
        all.push_back({kernels::PageGeometry(
            {.d_head = recorded.d_head(), .page_bytes = page, .channels_per_group = group})});
      }
    }
  }
  return all;
}

std::vector<int> chosen_contexts(const RecordOptions& options, const RecordSourceInfo& source,
                                 const kernels::PageGeometry& geometry) {
  if (!options.contexts.empty()) {
    if (options.steps > 0) {
      throw ConfigError("--steps: --contexts says which steps are recorded; leave one of them out");
    }
    return contexts_of(options.contexts, geometry);
  }
  // A capture from its first decode step on, synthetic heads up to the longest context.
  const bool is_captured = source.kind == "captured";
  const int available =
      is_captured ? source.longest_context - source.prompt_tokens : source.longest_context;
  const int count = options.steps > 0 ? options.steps : is_captured ? available : kSyntheticSteps;
  if (count > available) {
    throw ConfigError(fmt::format("--steps: is {}, but {} has {} steps", count,
                                  printable(source.name), available));
  }
  std::vector<int> contexts;
  for (int step = 0; step < count; ++step) {
    contexts.push_back((is_captured ? source.prompt_tokens : source.longest_context - count) +
                       step + 1);
  }
  return contexts;
}

/// The first context whose queries are needed: H2O needs all before, unless their sum is known.
int first_needed(const RecordResult& result) {
  const int first = result.contexts.front();
  const bool needs_prompt =
      result.method.has_history() && first - 1 != result.source.prompt_tokens_with_mass;
  return needs_prompt ? 1 : first;
}

void check_contexts(const RecordResult& result) {
  const RecordSourceInfo& source = result.source;
  const int first = first_needed(result);
  if (first < source.first_context || result.contexts.back() > source.longest_context) {
    throw ConfigError(fmt::format(
        "{}: has queries at contexts {} to {}; {} to {} were asked for{}{}", printable(source.name),
        source.first_context, source.longest_context, result.contexts.front(),
        result.contexts.back(),
        first < result.contexts.front()
            ? ", and H2O needs all before or a start at the first step behind the prompt"
            : "",
        source.kind == "captured" ? " (capture.py --prompt-queries captures those of the prompt)"
                                  : " (--context makes longer heads)"));
  }
}

traces::KvTraceHeader trace_header(const RecordResult& result) {
  const RecordSourceInfo& source = result.source;
  const auto layers = static_cast<int>(source.layers.size());
  const auto kv_heads = static_cast<int>(source.kv_heads.size());
  const auto steps = static_cast<int>(result.contexts.size());
  return {.model = source.model,
          .source_kind = source.kind,
          .source = source.name,
          .source_hash = source.hash,
          .method = result.method.name(),
          .options = result.method.options(),
          .estimate_channels = result.method.estimate_channels(),
          .d_head = source.d_head,
          .page_size = result.geometry.page_bytes(),
          .tokens_per_group = result.geometry.tokens_per_group(),
          .channels_per_group = result.geometry.channels_per_group(),
          .layers = layers,
          .kv_heads = kv_heads,
          .queries_per_kv_head = source.query_heads,
          .sequences = 1,
          .steps = steps,
          .longest_context = result.contexts.back(),
          .records = std::int64_t{steps} * layers * kv_heads};
}

void write_steps(traces::KvTraceWriter& writer, const traces::KvTraceHeader& header,
                 std::vector<std::vector<Step>>& heads) {
  for (int step = 0; step < header.steps; ++step) {
    for (std::size_t head = 0; head < heads.size(); ++head) {
      traces::KvTraceRecord& record = heads[head][static_cast<std::size_t>(step)].record;
      record.step = step;
      record.layer = static_cast<int>(head) / header.kv_heads;
      record.kv_head = static_cast<int>(head) % header.kv_heads;
      writer.add(record);
    }
  }
  writer.finish();
}

void summarise(RecordResult& result, const std::vector<std::vector<Step>>& heads) {
  result.heads.resize(heads.size());
  result.layers.resize(result.source.layers.size());
  const std::size_t kv_heads = result.source.kv_heads.size();
  for (std::size_t head = 0; head < heads.size(); ++head) {
    for (const Step& step : heads[head]) {
      result.heads[head].add(step.figures);
      for (std::size_t i = 0; i < step.geometries.size(); ++i) {
        result.geometries[i].add(step.geometries[i]);
      }
    }
    result.layers[head / kv_heads].add_means(result.heads[head]);
    result.all.add_means(result.heads[head]);
  }
}

}  // namespace

std::vector<int> contexts_of(const std::string& text, const kernels::PageGeometry& geometry) {
  std::vector<int> numbers;
  const char* at = text.data();
  const char* const end = at + text.size();
  constexpr int kMost = 1 << 24;
  bool is_right = true;
  while (is_right) {
    int number = 0;
    const auto [rest, error] = std::from_chars(at, end, number);
    is_right = error == std::errc{} && number >= 1 && number <= kMost;
    numbers.push_back(number);
    if (!is_right || rest == end) {
      break;
    }
    is_right = *rest == ':';
    at = rest + 1;
  }
  if (!is_right || numbers.size() < 2 || numbers.size() > 3 || numbers[0] > numbers[1]) {
    throw ConfigError(fmt::format(
        "--contexts: is {}; must be FIRST:LAST or FIRST:LAST:STEP in tokens, such as 1025:2047",
        in_quotes(text)));
  }
  std::vector<int> contexts;
  const auto fills_a_page = [&](int context) {
    return context % geometry.tokens_per_group() == 0 ||
           context % geometry.tokens_per_channel_page() == 0;
  };
  for (int context = numbers[0]; context <= numbers[1]; ++context) {
    const bool is_chosen = numbers.size() == 3 ? (context - numbers[0]) % numbers[2] == 0
                                               : context == numbers[0] || fills_a_page(context);
    if (is_chosen) {
      contexts.push_back(context);
    }
  }
  return contexts;
}

RecordResult run_record(const RecordOptions& options) {
  const std::unique_ptr<RecordSource> source = open_record_source(options.source);
  const RecordSourceInfo& info = source->info();
  const kernels::PageGeometry geometry = geometry_of(options, info.d_head);
  RecordResult result{.source = info,
                      .method = RecordMethod(options.method, info.d_head),
                      .geometry = geometry,
                      .contexts = chosen_contexts(options, info, geometry),
                      .heads = {},
                      .layers = {},
                      .all = {},
                      .geometries = compared_geometries(geometry),
                      .trace = {}};
  check_contexts(result);
  result.trace = trace_header(result);
  const std::string problem = traces::problem_of(result.trace);
  check(problem.empty(), problem);
  if (!options.out.empty()) {  // may be known before the work
    check_output_folder(std::filesystem::absolute(options.out).parent_path());
  }

  const std::size_t kv_heads = info.kv_heads.size();
  std::vector<std::vector<Step>> heads(info.layers.size() * kv_heads);
  kernels::for_each_item(heads.size(), options.jobs, [&](std::size_t i) {
    RecordHead head = source->head(static_cast<int>(i / kv_heads), static_cast<int>(i % kv_heads),
                                   first_needed(result), result.contexts.back());
    heads[i] = HeadRecorder(result, std::move(head)).steps();
  });
  summarise(result, heads);
  if (!options.out.empty()) {
    const SignalsPutOff whole_file;
    traces::KvTraceWriter writer(options.out, result.trace);
    write_steps(writer, result.trace, heads);
    result.trace_bytes = writer.bytes();
  }
  return result;
}

}  // namespace nearkv
