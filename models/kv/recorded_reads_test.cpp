#include "models/kv/recorded_reads.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"
#include "traces/test_files.hpp"

using namespace nearkv;
using traces::KvTraceHeader;
using traces::KvTraceRecord;

namespace {

/// 64 channels of 2 bytes in pages of 2 KiB: 16 tokens a group, 256 a channel page of 4 channels.
KvTraceHeader header(std::int64_t records) {
  return {.model = "a model",
          .source_kind = "captured",
          .source = "text.safetensors",
          .source_hash = "0123",
          .method = "sparf",
          .options = {{"r", 8}, {"k_share", 0.0625}, {"local_window_share", 0.25}},
          .estimate_channels = 8,
          .d_head = 64,
          .page_size = 2048,
          .tokens_per_group = 16,
          .channels_per_group = 4,
          .layers = 10,
          .kv_heads = 2,
          .queries_per_kv_head = 3,
          .sequences = 1,
          .steps = 100,
          .longest_context = 700,
          .records = records};
}

RecordedReads::Use use(int first, int last) {
  return {.geometry =
              kernels::PageGeometry({.d_head = 64, .page_bytes = 2048, .channels_per_group = 4}),
          .shape = {.d_head = 64, .queries_per_kv_head = 3},
          .sparsity = {.channels = 8, .selected_share = 0.0625, .local_window_share = 0.25},
          .first_context = first,
          .last_context = last};
}

/// Two layers (2 and 7 of the model) of two heads at each context; the first page says which.
std::string trace_at(const std::vector<int>& contexts) {
  const traces::TemporaryFile file("");
  const auto records = static_cast<std::int64_t>(contexts.size()) * 4;
  traces::KvTraceWriter writer(file.path(), header(records));
  int step = 0;
  for (const int context : contexts) {
    for (const int layer : {2, 7}) {
      for (const int head : {0, 1}) {
        const int page = (layer + head + step % 3) % (context / 16);
        writer.add({.step = step,
                    .layer = layer,
                    .sequence = 0,
                    .kv_head = head,
                    .context = context,
                    .attended = context / 16,
                    .channel_pages = context >= 256 ? std::vector{layer} : std::vector<int>{},
                    .key_pages = {page},
                    .value_pages = {page}});
      }
    }
    ++step;
  }
  writer.finish();
  return file.text();
}

std::string mismatch(const std::string& trace, const RecordedReads::Use& wanted) {
  const traces::TemporaryFile file(trace);
  try {
    const RecordedReads reads(file.path(), wanted);
  } catch (const TraceMismatch& problem) {
    std::string text = problem.what();
    const std::size_t at = text.find(file.path());
    if (at != std::string::npos) {
      text.replace(at, file.path().size(), "FILE");
    }
    return problem.path() + ": " + text;
  }
  return "";
}

}  // namespace

TEST_CASE("recorded reads: the records of a context, layer by layer, with the work of the step") {
  const traces::TemporaryFile file(trace_at({300, 310}));
  const RecordedReads reads(file.path(), use(300, 303));
  CHECK(reads.layers(300) == 2);
  const std::vector<HeadReads> second = reads.at(300, 1);
  REQUIRE(second.size() == 2);
  CHECK(second[0].channel_pages == std::vector{7});
  CHECK(second[0].key_pages == std::vector{7});  // of step 0
  CHECK(second[1].key_pages == std::vector{8});
  CHECK(second[1].value_pages == second[1].key_pages);
  CHECK(reads.at(300, 0)[0].channel_pages == std::vector{2});
  // At context 302 three queries score 302 tokens with 8 channels; 300 / 16 = 18 are attended to.
  const HeadReads at_302 = reads.at(302, 0)[0];
  CHECK(at_302.estimate_flops == Flops{2 * 3 * 302 * 8});
  CHECK(at_302.attention_flops == Flops{2 * 2 * 3 * 18 * 64});
  CHECK(at_302.query_elements == 3 * 64);
  CHECK(at_302.score_elements == 3 * 302);
  CHECK(at_302.key_pages == reads.at(300, 0)[0].key_pages);
}

TEST_CASE("recorded reads: a record serves contexts with equally many full pages, the nearest") {
  // Groups of 16 tokens are full from 288 to 303 alike.
  CHECK(mismatch(trace_at({290}), use(288, 303)).empty());
  CHECK_FALSE(mismatch(trace_at({290}), use(287, 303)).empty());
  CHECK_FALSE(mismatch(trace_at({290}), use(288, 304)).empty());
  // The nearest of several; the smaller of equals. The first page of layer 2 is 2 + step % 3.
  const traces::TemporaryFile several(trace_at({288, 291, 300}));
  const RecordedReads reads(several.path(), use(288, 303));
  for (const auto& [context, step] :
       {std::pair{288, 0}, {289, 0}, {290, 1}, {291, 1}, {295, 1}, {296, 2}, {303, 2}}) {
    CAPTURE(context);
    CHECK(reads.at(context, 0)[0].key_pages == std::vector{2 + step});
  }
  // Every group from 256 to 319 once.
  CHECK(mismatch(trace_at({256, 272, 288, 304}), use(256, 319)).empty());
  CHECK(mismatch(trace_at({256, 272, 304}), use(256, 319)) ==
        "system/kv_source/trace: FILE has 3 contexts from 256 to 304; the run needs 256 to 319, "
        "and no recorded one has as many full pages as 288: record with --contexts 256:319");
}

TEST_CASE("recorded reads: no page is beyond the context of any step") {
  std::vector<int> contexts;
  for (int context = 250; context < 690; context += 16) {
    contexts.push_back(context);
    contexts.push_back(context + 6);
  }
  const traces::TemporaryFile file(trace_at(contexts));
  const RecordedReads::Use wanted = use(250, 687);
  const RecordedReads reads(file.path(), wanted);
  for (int context = 250; context <= 687; ++context) {
    for (int layer = 0; layer < reads.layers(context); ++layer) {
      for (const HeadReads& head : reads.at(context, layer)) {
        REQUIRE(head.key_pages.back() < wanted.geometry.flushed_token_groups(context));
        if (!head.channel_pages.empty()) {
          REQUIRE(head.channel_pages.back() < wanted.geometry.flushed_channel_pages(context));
        }
      }
    }
  }
}

TEST_CASE("recorded reads: what does not fit is named with its path in the config") {
  const std::string trace = trace_at({300});
  CHECK(mismatch(trace, use(300, 300)).empty());
  const auto with = [&](auto&& change) {
    RecordedReads::Use wanted = use(300, 300);
    change(wanted);
    return mismatch(trace, wanted);
  };
  CHECK(with([](RecordedReads::Use& u) { u.shape.d_head = 128; }) ==
        "model/head_dim: is 128, but FILE was recorded with 64");
  CHECK(with([](RecordedReads::Use& u) { u.shape.queries_per_kv_head = 1; }) ==
        "model/kv_heads: gives 1 query heads that share a KV head, but FILE was recorded with 3");
  CHECK(with([](RecordedReads::Use& u) {
          u.geometry =
              kernels::PageGeometry({.d_head = 64, .page_bytes = 4096, .channels_per_group = 4});
        }) == "csd/0/flash/page_size: is 4096 bytes, but FILE was recorded with 2048");
  CHECK(with([](RecordedReads::Use& u) {
          u.geometry =
              kernels::PageGeometry({.d_head = 64, .page_bytes = 2048, .channels_per_group = 8});
        }) == "csd/0/layout/channels_per_group: is 8, but FILE was recorded with 4");
  CHECK(with([](RecordedReads::Use& u) { u.sparsity.channels = 16; }) ==
        "system/sparsity/channels: is 16, but FILE was recorded with 8");
  CHECK(with([](RecordedReads::Use& u) { u.sparsity.selected_share = 0.125; }) ==
        "system/sparsity/selected_share: is 0.125, but FILE was recorded with 0.0625");
  CHECK(with([](RecordedReads::Use& u) { u.sparsity.local_window_share = 0; }) ==
        "system/sparsity/local_window_share: is 0, but FILE was recorded with 0.25");

  const traces::TemporaryFile window("");
  KvTraceHeader other = header(1);
  other.method = "window";
  other.options = {};
  other.estimate_channels = 0;
  traces::KvTraceWriter writer(window.path(), other);
  writer.add({.context = 300});
  writer.finish();
  CHECK(mismatch(window.text(), use(300, 300)) ==
        "system/kv_source/trace: FILE was recorded with the method window; must be sparf");
  const traces::TemporaryFile no_trace("1 2 3\n");
  CHECK_THROWS_AS(RecordedReads(no_trace.path(), use(300, 300)), ConfigError);
}

TEST_CASE("recorded reads: a trace says where its records come from") {
  const traces::TemporaryFile file(trace_at({300}));
  const std::string origin = origin_of(file.path());
  CHECK(origin.starts_with(
      "a model (captured, from text.safetensors with hash 0123), as recorded in a "
      "trace with hash "));
}
