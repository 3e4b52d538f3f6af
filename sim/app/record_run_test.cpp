#include "sim/app/record_run.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "models/kv/head_reads.hpp"
#include "sim/app/record_output.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/random.hpp"
#include "traces/synthetic_kv.hpp"
#include "traces/test_files.hpp"

using namespace nearkv;

namespace {

constexpr int kContext = 700;

RecordOptions options(const std::string& method) {
  RecordOptions recording;
  recording.method.method = method;
  recording.source = {.file = "nearkv:kv_sources/synthetic_smollm2.json",
                      .layers = "2",
                      .kv_heads = 3,
                      .context = kContext,
                      .d_head = 64,
                      .query_heads = 2,
                      .seed = 5};
  recording.page_size = "2KiB";
  recording.steps = 4;
  recording.jobs = 2;
  return recording;
}

std::vector<traces::KvTraceRecord> records_of(const std::string& file) {
  traces::KvTraceReader reader(file);
  std::vector<traces::KvTraceRecord> all;
  for (traces::KvTraceRecord record; reader.next(record);) {
    all.push_back(record);
  }
  return all;
}

double mean_of(const RecordResult& result, const std::string& name) {
  for (std::size_t i = 0; i < kRecordFigures; ++i) {
    if (record_figures()[i].name == name) {
      return result.all.figures[i].mean();
    }
  }
  return std::nan("");
}

/// The heads of options(): number = layer x 3 + KV head.
traces::SyntheticKv head_of(int number) {
  KvSourceConfig source;
  read_fields(load_config(shipped_configs() / "kv_sources" / "synthetic_smollm2.json"),
              [&](FieldVisitor& v) { source.fields(v); });
  source.synthetic.heads_like.d_head = 64;
  source.synthetic.heads_like.tokens = kContext;
  source.synthetic.heads_like.query_heads = 2;
  return {source.synthetic.heads_like, Rng(5, "kv_source/" + std::to_string(number))};
}

/// Softmax of q . k / 8 over the first `context` tokens, in double, keys rounded as the cache does
/// to half precision: within 2^-11 of the float.
std::vector<double> weights_of(const traces::SyntheticKv& kv, std::span<const float> query,
                               int context) {
  std::vector<double> weights;
  double sum = 0;
  for (int token = 0; token < context; ++token) {
    double logit = 0;
    for (int c = 0; c < 64; ++c) {
      logit += double{query[c]} * kv.key(token)[c];
    }
    weights.push_back(std::exp(logit / 8));
    sum += weights.back();
  }
  for (double& weight : weights) {
    weight /= sum;
  }
  return weights;
}

}  // namespace

TEST_CASE("record: SparF's pages are those that a run selects from the same heads") {
  const traces::TemporaryFile file("");
  RecordOptions recording = options("sparf");
  recording.out = file.path();
  const RecordResult result = run_record(recording);
  CHECK(result.contexts == std::vector{697, 698, 699, 700});

  KvSourceConfig source;
  read_fields(load_config(shipped_configs() / "kv_sources" / "synthetic_smollm2.json"),
              [&](FieldVisitor& v) { source.fields(v); });
  source.synthetic.heads = 6;
  source.synthetic.queries = 1;
  const SparfReads pool(result.geometry, {64, 2},
                        {.channels = 8, .selected_share = 0.0625, .local_window_share = 0.25},
                        source.synthetic, 5, kContext);
  const std::vector<traces::KvTraceRecord> records = records_of(file.path());
  REQUIRE(records.size() == 4 * 6);
  for (int step = 0; step < 4; ++step) {
    const std::vector<HeadReads> expected = pool.at(697 + step);
    for (int head = 0; head < 6; ++head) {
      const traces::KvTraceRecord& record = records[step * 6 + head];
      CHECK(record.step == step);
      CHECK(record.layer == head / 3);
      CHECK(record.kv_head == head % 3);
      CHECK(record.context == 697 + step);
      CHECK(record.attended == 44);  // 0.0625 x 697 = 43.6 to 43.75
      CHECK(record.channel_pages == expected[head].channel_pages);
      CHECK(record.key_pages == expected[head].key_pages);
      CHECK(record.value_pages == expected[head].value_pages);
    }
  }
}

TEST_CASE("record: twice the same bytes, whatever the number of threads") {
  const auto bytes = [](int jobs) {
    const traces::TemporaryFile file("");
    RecordOptions recording = options("sparf");
    recording.out = file.path();
    recording.jobs = jobs;
    const std::string json = record_json(run_record(recording)).dump();
    return json + file.text();
  };
  const std::string one = bytes(1);
  CHECK(one == bytes(1));
  CHECK(one == bytes(5));
}

TEST_CASE("record: dense attention loses nothing and reads all") {
  const RecordResult result = run_record(options("dense"));
  for (const char* name :
       {"mass_kept", "alpha", "token_share", "token_page_share", "element_volume", "page_volume"}) {
    CAPTURE(name);
    CHECK(mean_of(result, name) == 1);
  }
  CHECK(mean_of(result, "output_error") == 0);
  CHECK(std::isnan(mean_of(result, "channel_share")));
}

TEST_CASE("record: the mass kept by a window is the softmax of its tokens, by hand") {
  RecordOptions recording = options("window");
  recording.steps = 1;
  const RecordResult result = run_record(recording);
  for (int number = 0; number < 6; ++number) {
    const traces::SyntheticKv kv = head_of(number);
    const std::vector<float> queries = kv.query(kContext - 1);
    double expected = 0;
    for (const int query : {0, 1}) {
      const std::vector<double> weights =
          weights_of(kv, std::span(queries).subspan(query * 64, 64), kContext);
      for (int token = kContext - 88; token < kContext; ++token) {  // 700 / 8 = 87.5
        expected += weights[token] / 2;
      }
    }
    const double found = result.heads[number].figures[0].mean();
    INFO("head ", number, ": ", found, " kept; the softmax gives ", expected);
    CHECK(found == doctest::Approx(expected).epsilon(0.01));
    CHECK(found > 0.01);
    CHECK(found < 0.99);
  }
}

TEST_CASE("record: H2O keeps the tokens that received most, by hand") {
  const traces::TemporaryFile file("");
  RecordOptions recording = options("h2o");
  recording.steps = 1;
  recording.source.layers = "1";
  recording.source.kv_heads = 3;
  recording.source.context = 300;
  recording.out = file.path();
  static_cast<void>(run_record(recording));
  const std::vector<traces::KvTraceRecord> records = records_of(file.path());
  for (int head = 0; head < 3; ++head) {
    const traces::SyntheticKv kv = head_of(head);
    std::vector<double> mass(299);
    for (int context = 1; context < 300; ++context) {
      const std::vector<float> queries = kv.query(context - 1);
      for (const int query : {0, 1}) {
        const std::vector<double> weights =
            weights_of(kv, std::span(queries).subspan(query * 64, 64), context);
        for (int token = 0; token < context; ++token) {
          mass[token] += weights[token];
        }
      }
    }
    // 300 / 8 = 37.5: 19 heavy ones of the first 280, 19 recent ones and the new token.
    std::vector<int> tokens(280);
    for (int token = 0; token < 280; ++token) {
      tokens[token] = token;
    }
    std::sort(tokens.begin(), tokens.end(), [&](int a, int b) { return mass[a] > mass[b]; });
    tokens.resize(19);
    std::set<int> groups{280 / 16, 281 / 16};
    for (const int token : tokens) {
      groups.insert(token / 16);
    }
    for (int token = 280; token < 288; ++token) {  // 288 and later: in the buffer
      groups.insert(token / 16);
    }
    CHECK(records[head].attended == 39);
    CHECK(records[head].key_pages == std::vector<int>(groups.begin(), groups.end()));
    CHECK(records[head].channel_pages.empty());
  }
}

TEST_CASE("record: the geometry that was recorded has the same shares among the compared ones") {
  RecordOptions recording = options("sparf");
  recording.page_size = "4KiB";
  recording.channels_per_group = 4;
  const RecordResult result = run_record(recording);
  int found = 0;
  for (const GeometryFigures& figures : result.geometries) {
    if (figures.geometry.page_bytes() == 4096 && figures.geometry.channels_per_group() == 4) {
      ++found;
      CHECK(figures.channel_page_share.mean() ==
            doctest::Approx(mean_of(result, "channel_page_share")));
      CHECK(figures.token_page_share.mean() ==
            doctest::Approx(mean_of(result, "token_page_share")));
      CHECK(figures.page_volume.mean() == doctest::Approx(mean_of(result, "page_volume")));
    }
  }
  CHECK(found == 1);
  CHECK(result.geometries.size() == 6);
}

TEST_CASE("record: contexts in words") {
  const kernels::PageGeometry geometry({.d_head = 80, .page_bytes = 4096, .channels_per_group = 4});
  // 25 tokens a group, 512 a channel page.
  CHECK(contexts_of("490:530", geometry) == std::vector{490, 500, 512, 525});
  CHECK(contexts_of("500:500", geometry) == std::vector{500});
  CHECK(contexts_of("10:20:4", geometry) == std::vector{10, 14, 18});
  for (const char* text : {"", "5", "5:", "5:4", "0:4", "1:2:3:4", "1:2:0", "a:b", "1-2", "1:2x"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(contexts_of(text, geometry), ConfigError);
  }
}

TEST_CASE("record: a spread by hand") {
  Spread spread;
  CHECK(std::isnan(spread.mean()));
  for (const double value : {2.0, std::nan(""), 4.0, 6.0}) {
    spread.add(value);
  }
  CHECK(spread.count() == 3);
  CHECK(spread.mean() == 4);
  CHECK(spread.standard_deviation() == doctest::Approx(std::sqrt(8.0 / 3)));
  CHECK(spread.least() == 2);
  CHECK(spread.most() == 6);
}

TEST_CASE("record: what a source does not have is refused") {
  const auto refusal = [](auto&& change) {
    RecordOptions recording = options("sparf");
    change(recording);
    return traces::refusal_of([&] { static_cast<void>(run_record(recording)); });
  };
  CHECK(refusal([](RecordOptions&) {}).empty());
  CHECK(refusal([](RecordOptions& o) { o.steps = 701; }) ==
        "--steps: is 701, but synthetic_smollm2.json has 700 steps");
  CHECK(refusal([](RecordOptions& o) { o.contexts = "600:700"; }) ==
        "--steps: --contexts says which steps are recorded; leave one of them out");
  CHECK(refusal([](RecordOptions& o) {
          o.steps = 0;
          o.contexts = "600:701:1";
        }) ==
        "synthetic_smollm2.json: has queries at contexts 1 to 700; 600 to 701 were asked for "
        "(--context makes longer heads)");
  CHECK(refusal([](RecordOptions& o) {
          o.channels_per_group = 3;
        }).starts_with("--page-size 2KiB, --channels-per-group 3: "));
  CHECK(refusal([](RecordOptions& o) { o.page_size = "2"; }).find("2") != std::string::npos);
  CHECK(refusal([](RecordOptions& o) { o.source.layers = "0,1"; }) ==
        "--layers: is \"0,1\"; of synthetic heads it must be how many, 1 to 65536");
  CHECK(refusal([](RecordOptions& o) { o.source.file = "nearkv:kv_sources/trace.json"; })
            .ends_with("/kind: is \"trace\"; only synthetic heads or captured tensors can be "
                       "recorded"));
  CHECK(refusal([](RecordOptions& o) {
          o.out = "/nowhere/at/all";
        }).starts_with("/nowhere/at/all: cannot be written"));
}
