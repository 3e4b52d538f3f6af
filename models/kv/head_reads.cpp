#include "models/kv/head_reads.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <stdexcept>

#include "sim/core/allowed_paths.hpp"
#include "sim/core/check.hpp"
#include "sim/core/hash.hpp"
#include "sim/core/random.hpp"

namespace nearkv {

namespace {

std::uint64_t fold_pages(std::uint64_t hash, const std::vector<int>& pages) {
  hash = mix_hash(hash, pages.size());
  for (const int page : pages) {
    hash = mix_hash(hash, static_cast<std::uint64_t>(page));
  }
  return hash;
}

std::vector<int> to_stream_pages(const std::vector<std::uint32_t>& pages) {
  return {pages.begin(), pages.end()};
}

/// A product of a query row with `elements` numbers: a multiply and an add each.
Flops product_flops(std::int64_t elements) { return Flops{2 * elements}; }

}  // namespace

std::uint64_t HeadReads::hash() const {
  std::uint64_t hash = fold_pages(0, channel_pages);
  hash = fold_pages(hash, key_pages);
  hash = fold_pages(hash, value_pages);
  hash = mix_hash(hash, static_cast<std::uint64_t>(estimate_flops.count()));
  hash = mix_hash(hash, static_cast<std::uint64_t>(attention_flops.count()));
  hash = mix_hash(hash, static_cast<std::uint64_t>(query_elements));
  return mix_hash(hash, static_cast<std::uint64_t>(score_elements));
}

void SparsityConfig::fields(FieldVisitor& v) {
  v.parameter("channels", channels, "channels of q that estimate the scores (r)", {1, 4096});
  v.parameter("selected_share", selected_share,
              "tokens that are attended to, as a share of the context (k / S)", {1e-6, 1});
  v.parameter("local_window_share", local_window_share,
              "of those, the share of youngest tokens, which are always selected", {0, 1});
}

void KvSourceConfig::fields(FieldVisitor& v) {
  auto index = static_cast<std::size_t>(kind);
  v.variant({"kind", "where the tensors come from"}, {"synthetic", "trace"}, index,
            [this](std::size_t chosen, FieldVisitor& inner) {
              kind = static_cast<KvSourceKind>(chosen);
              if (kind == KvSourceKind::synthetic) {
                synthetic.fields(inner);
              } else {
                file_field(inner, "trace", trace,
                           "KV page trace of nearkv record; a path from the working folder");
              }
            });
}

void SyntheticHeadsConfig::fields(FieldVisitor& v) {
  traces::SyntheticKvSpec& s = heads_like;
  const Range share{0, 1};
  const Range spread{0, 10};  // a limit of the input: e^60 at six standard deviations
  const Range strength{0, 1e6};
  v.parameter("heads", heads, "synthetic heads in the pool that the run draws from", {1, 4096});
  v.parameter("queries", queries, "queries of each head, at its youngest positions", {1, 1024});
  v.constant("query_channel_spread", s.query_channel_spread, "sd of ln(query scale) over channels",
             spread);
  v.constant("key_channel_spread", s.key_channel_spread, "sd of ln(key scale) over channels",
             spread);
  v.constant("channel_correlation", s.channel_correlation,
             "correlation of the scales of neighbouring channels", share);
  v.constant("outlier_share", s.outlier_share, "share of channels with a large key offset", share);
  v.constant("outlier_offset", s.outlier_offset, "that offset in typical key sd", strength);
  v.constant("outlier_query_gain", s.outlier_query_gain, "query scale factor of those channels",
             {1e-6, 1e6});
  v.constant("sink_tokens", s.sink_tokens, "attention sinks at the start of the text",
             {0, 1 << 20});
  v.constant("sink_logit", s.sink_logit, "logit advantage of token 0", strength);
  v.constant("sink_value", s.sink_value, "size of a sink's value relative to others", strength);
  v.constant("recency_logit", s.recency_logit, "logit advantage of the token itself", strength);
  v.constant("recency_tokens", s.recency_tokens, "distance at which it has fallen to 1/e",
             {1e-6, 1e9});
  v.constant("run_tokens", s.run_tokens, "mean length of a run on one topic", {1, 1e9});
  v.constant("topics", s.topics, "topics that runs draw from", {1, 65'536});
  v.constant("topic_logit", s.topic_logit, "logit advantage of tokens of the query's topic",
             strength);
  v.constant("run_share", s.run_share, "share of the key's variance that is its run's", share);
  v.constant("position_share", s.position_share,
             "share of the key's variance that drifts along the text", share);
  v.constant("logit_spread", s.logit_spread, "sd of logits over tokens", strength);
  v.constant("query_persistence", s.query_persistence,
             "share of the query that is the same at every position", share);
  v.constant("group_correlation", s.group_correlation,
             "correlation between the query heads of a group", share);
  v.constant("value_mean_share", s.value_mean_share, "share of V's energy in its mean", share);
  v.require(s.run_share + s.position_share <= 1, "run_share",
            "must be at most 1 together with position_share");
}

HeadReads dense_reads(const kernels::PageGeometry& geometry, const HeadShape& shape, int context,
                      int first_token) {
  HeadReads reads;
  const int first_group = first_token / geometry.tokens_per_group();
  const int groups = geometry.flushed_token_groups(context);
  reads.key_pages.resize(static_cast<std::size_t>(std::max(0, groups - first_group)));
  std::iota(reads.key_pages.begin(), reads.key_pages.end(), first_group);
  reads.value_pages = reads.key_pages;
  // q . K and scores . V, for each query head; the engine works on whole groups.
  const std::int64_t work_groups =
      std::max<std::int64_t>(0, ceil_div(context, geometry.tokens_per_group()) - first_group);
  const std::int64_t tokens = work_groups * geometry.tokens_per_group();
  reads.attention_flops = 2 * product_flops(tokens * shape.d_head * shape.queries_per_kv_head);
  return reads;
}

HeadReads sparse_work(const HeadShape& shape, const SparseStep& step) {
  const std::int64_t queries = shape.queries_per_kv_head;
  HeadReads reads;
  reads.attention_flops = 2 * product_flops(queries * step.attended * shape.d_head);
  if (step.channels > 0) {
    reads.estimate_flops = product_flops(queries * step.context * step.channels);
    reads.query_elements = queries * shape.d_head;
    reads.score_elements = queries * step.context;
  }
  return reads;
}

namespace {

kernels::TouchedPages touched_pages(const kernels::KvPages& cache, std::span<const float> queries,
                                    int context, const kernels::SparfOptions& options) {
  try {
    return kernels::cpu::select(cache, {queries, context}, options).touched;
  } catch (const std::invalid_argument&) {
    throw ConfigError(
        "/system/kv_source: the synthetic queries are too large for FP16; choose smaller logits or "
        "a smaller query_channel_spread");
  }
}

}  // namespace

struct SparfReads::Pool {
  kernels::PageGeometry geometry;
  HeadShape shape;
  SparsityConfig sparsity;
  int queries;
  std::vector<traces::SyntheticKv> heads;
  std::vector<kernels::KvPages> caches;
};

SparfReads::SparfReads(const kernels::PageGeometry& geometry, const HeadShape& shape,
                       const SparsityConfig& sparsity, const SyntheticHeadsConfig& source,
                       std::uint64_t seed, int longest_context)
    : pool_(std::make_unique<Pool>(Pool{geometry, shape, sparsity, source.queries, {}, {}})) {
  traces::SyntheticKvSpec spec = source.heads_like;
  spec.d_head = shape.d_head;
  spec.tokens = longest_context;
  spec.query_heads = shape.queries_per_kv_head;
  // The selection never looks at V: one row stands for all.
  const std::vector<float> no_value(shape.d_head);
  for (int head = 0; head < source.heads; ++head) {
    const traces::SyntheticKv& kv =
        pool_->heads.emplace_back(spec, Rng(seed, "kv_source/" + std::to_string(head)));
    kernels::KvPages& cache = pool_->caches.emplace_back(geometry);
    cache.reserve(longest_context);
    for (int token = 0; token < longest_context; ++token) {
      try {
        cache.append(kv.key(token), no_value);
      } catch (const std::invalid_argument&) {
        throw ConfigError(
            "/system/kv_source: the synthetic keys are too large for FP16; choose a smaller "
            "key_channel_spread or outlier_offset");
      }
    }
  }
}

SparfReads::~SparfReads() = default;

std::vector<HeadReads> SparfReads::at(int context) const {
  const Pool& pool = *pool_;
  const int selected =
      std::max(1, static_cast<int>(std::lround(pool.sparsity.selected_share * context)));
  const auto local_window =
      static_cast<int>(std::lround(pool.sparsity.local_window_share * selected));
  const kernels::SparfOptions options{pool.sparsity.channels, selected, local_window};
  std::vector<HeadReads> all;
  const int positions = std::min(pool.queries, context);
  all.reserve(pool.caches.size() * positions);
  for (int back = 0; back < positions; ++back) {
    for (std::size_t head = 0; head < pool.caches.size(); ++head) {
      const std::vector<float> queries = pool.heads[head].query(context - 1 - back);
      const kernels::TouchedPages touched =
          touched_pages(pool.caches[head], queries, context, options);
      HeadReads& reads =
          all.emplace_back(sparse_work(pool.shape, {context, pool.sparsity.channels, selected}));
      reads.channel_pages = to_stream_pages(touched.channel_k);
      reads.key_pages = to_stream_pages(touched.token_k);
      reads.value_pages = to_stream_pages(touched.token_v);
    }
  }
  return all;
}

}  // namespace nearkv
