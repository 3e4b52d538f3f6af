#include "traces/kv_page_trace.hpp"

#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/random.hpp"
#include "traces/test_files.hpp"

using namespace nearkv;
using namespace nearkv::traces;

namespace {

/// d_head 128 and 4 KiB: 16 tokens a group; 4 channels a group: 32 groups, 512 tokens a chunk.
KvTraceHeader header(std::int64_t records) {
  return {.model = "OPT-13B",
          .attention = "sparf",
          .estimate_channels = 16,
          .d_head = 128,
          .page_size = 4096,
          .tokens_per_group = 16,
          .channels_per_group = 4,
          .layers = 2,
          .kv_heads = 3,
          .queries_per_kv_head = 1,
          .sequences = 2,
          .steps = 4,
          .longest_context = 1100,
          .records = records};
}

const std::string kHead =
    R"({"attention":"sparf","channels_per_group":4,"d_head":128,"estimate_channels":16,)"
    R"("format":"nearkv-kv-pages","kv_heads":3,"layers":2,"longest_context":1100,)"
    R"("model":"OPT-13B","page_size":4096,"queries_per_kv_head":1,"records":2,"sequences":2,)"
    R"("steps":4,"tokens_per_group":16,"version":1})"
    "\n";

std::vector<KvTraceRecord> records_of(const std::string& text) {
  const TemporaryFile file(text);
  KvTraceReader reader(file.path());
  std::vector<KvTraceRecord> all;
  for (KvTraceRecord record; reader.next(record);) {
    all.push_back(record);
  }
  return all;
}

std::string refusal(const std::string& text) {
  return refusal_of([&] { static_cast<void>(records_of(text)); });
}

std::string with(const std::string& from, const std::string& to) {
  std::string text = kHead;
  text.replace(text.find(from), from.size(), to);
  return text + "0 0 0 0 40 8\n0 0 0 1 40 8\n";
}

}  // namespace

TEST_CASE("KV page trace: a record in words") {
  const auto records = records_of(kHead +
                                  "0 1 0 2 1050 64 c:0-2,33,63 kv:0,4-7,64\r\n"
                                  "3 0 1 0 48 5 k:1 v:0-2\n");
  REQUIRE(records.size() == 2);
  CHECK(records[0] == KvTraceRecord{.step = 0,
                                    .layer = 1,
                                    .sequence = 0,
                                    .kv_head = 2,
                                    .context = 1050,
                                    .attended = 64,
                                    .channel_pages = {0, 1, 2, 33, 63},
                                    .key_pages = {0, 4, 5, 6, 7, 64},
                                    .value_pages = {0, 4, 5, 6, 7, 64}});
  CHECK(records[1].channel_pages.empty());
  CHECK(records[1].key_pages == std::vector{1});
  CHECK(records[1].value_pages == std::vector{0, 1, 2});
}

TEST_CASE("KV page trace: what is written is read back, and twice the same bytes") {
  constexpr std::uint64_t kSeed = 3;
  INFO("seed ", kSeed);
  Rng rng(kSeed, "traces/kv_page_trace_test");
  const auto some_of = [&rng](int pages) {
    std::vector<int> chosen;
    const std::uint64_t one_in = 1 + rng.below(4);
    for (int page = 0; page < pages; ++page) {
      if (rng.below(one_in) == 0) {
        chosen.push_back(page);
      }
    }
    return chosen;
  };
  KvTraceHeader head = header(4 * 2 * 2 * 3);
  head.model = "a \"name\" with \\ and \xc3\xa4";
  std::vector<KvTraceRecord> records;
  for (int i = 0; i < head.records; ++i) {
    const int context = 1 + static_cast<int>(rng.below(1100));
    records.push_back({.step = i / 12,
                       .layer = i / 6 % 2,
                       .sequence = i / 3 % 2,
                       .kv_head = i % 3,
                       .context = context,
                       .attended = static_cast<int>(rng.below(context + 1)),
                       .channel_pages = some_of(head.channel_pages(context)),
                       .key_pages = some_of(head.token_pages(context)),
                       .value_pages = some_of(head.token_pages(context))});
    if (rng.below(2) == 0) {
      records.back().value_pages = records.back().key_pages;
    }
  }
  std::string first_text;
  for (int round = 0; round < 2; ++round) {
    const TemporaryFile file("");
    KvTraceWriter writer(file.path(), head);
    for (const KvTraceRecord& record : records) {
      writer.add(record);
    }
    CHECK(file.text().empty());  // nothing is there before finish()
    writer.finish();
    CHECK(records_of(file.text()) == records);
    KvTraceReader reader(file.path());
    CHECK(reader.header() == head);
    CHECK((round == 0 || file.text() == first_text));
    first_text = file.text();
  }
}

TEST_CASE("KV page trace: a writer that is not finished leaves nothing") {
  const TemporaryFile folder("");
  const std::string file = folder.path() + "_unfinished";
  {
    KvTraceWriter writer(file, header(2));
    writer.add({});
  }
  CHECK_FALSE(std::filesystem::exists(file));
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(file).parent_path())) {
    CHECK(entry.path().string().find(file) == std::string::npos);
  }
  KvTraceWriter too_short(file, header(2));
  too_short.add({});
  CHECK_THROWS_AS(too_short.finish(), CheckFailure);
  CHECK_THROWS_AS(KvTraceWriter(file, KvTraceHeader{}), CheckFailure);
  CHECK_THROWS_AS(KvTraceWriter("/nowhere/at/all", header(2)), ConfigError);
}

TEST_CASE("KV page trace: each mistake in a header has its message") {
  CHECK(refusal(with("", "")).empty());
  CHECK(
      refusal("5 0 0 1 1\n") ==
      "FILE:1: is \"5 0 0 1 1\"; a JSON object with \"format\": \"nearkv-kv-pages\" was expected");
  CHECK(refusal("{\"format\": 1}\n")
            .starts_with("FILE:1: is \"{\"format\": 1}\"; a JSON object with"));
  CHECK(refusal(with("\"version\":1", "\"version\":2")) ==
        "FILE:1: version: is 2; this program reads version 1");
  CHECK(refusal(with("\"layers\":2", "\"layer\":2")) == "FILE:1: layers: is missing in the header");
  CHECK(refusal(with("\"layers\":2", "\"layers\":\"2\"")) ==
        "FILE:1: layers: is \"2\"; must be a whole number");
  CHECK(refusal(with("\"layers\":2", "\"layers\":0")) ==
        "FILE:1: layers: 0 is out of range; must be 1 to 1073741824");
  CHECK(refusal(with("\"sparf\"", "\"sparse\"")) ==
        "FILE:1: attention: is \"sparse\"; must be \"dense\" or \"sparf\"");
  CHECK(refusal(with("\"sparf\"", "\"dense\"")) ==
        "FILE:1: estimate_channels: is 16; must be 0 for dense, 1 to d_head for sparf");
  CHECK(refusal(with("\"tokens_per_group\":16", "\"tokens_per_group\":8")) ==
        "FILE:1: tokens_per_group: is 8, but a page of 4096 bytes holds 16 rows of 128 halves");
  CHECK(refusal(with("\"channels_per_group\":4", "\"channels_per_group\":3")) ==
        "FILE:1: channels_per_group: is 3; must divide d_head 128 and fit in a page");
  CHECK(refusal(with("\"records\":2", "\"records\":49")) ==
        "FILE:1: records: is 49; must be 1 to steps x layers x sequences x kv_heads, 48");
  CHECK(refusal(with("\"steps\":4", "\"steps\":1000000000"))
            .empty());  // more places than records is right
  CHECK(refusal(kHead.substr(0, kHead.size() - 1)) ==
        "FILE:1: a header and records were expected; the file seems to be cut off here");
}

TEST_CASE("KV page trace: each mistake in a record has its message") {
  const auto first = [](const std::string& line) {
    return refusal(kHead + line + "\n0 0 1 0 9 9\n");
  };
  CHECK(first("0 0 0 0 40 8").empty());
  CHECK(first("4 0 0 0 40 8") == "FILE:2: step: must be 0 to 3; is \"4\"");
  CHECK(first("0 2 0 0 40 8") == "FILE:2: layer: must be 0 to 1; is \"2\"");
  CHECK(first("0 0 x 0 40 8") == "FILE:2: sequence: must be 0 to 1; is \"x\"");
  CHECK(first("0 0 0 3 40 8") == "FILE:2: kv_head: must be 0 to 2; is \"3\"");
  CHECK(first("0 0 0 0 0 0") == "FILE:2: context: must be 1 to 1100; is \"0\"");
  CHECK(first("0 0 0 0 40") == "FILE:2: attended: must be 0 to 1100; the line ends before it");
  CHECK(first("0 0 0 0 40 41") == "FILE:2: attended: is 41, more than the context of 40 tokens");
  CHECK(first("0 1 0 0 40 8") ==
        "FILE:3: is out of order; records ascend by step, layer, sequence and KV head");
  CHECK(first("0 0 1 0 40 8") ==
        "FILE:3: is out of order; records ascend by step, layer, sequence and KV head");
  CHECK(first("0 0 0 0 40 8 q:1") ==
        "FILE:2: is \"q:1\"; a stream such as c:0-15,18 was expected, of c, k, v and kv");
  CHECK(first("0 0 0 0 40 8 k:1 kv:1")
            .starts_with("FILE:2: kv:1: the stream is there twice; ascending"));
  CHECK(first("0 0 0 0 40 8 v:1 kv:1").starts_with("FILE:2: is \"kv:1\"; a stream"));
  CHECK(first("0 0 0 0 40 8 k:") ==
        "FILE:2: k:: a page number is missing or too large; ascending numbers and ranges were "
        "expected, as 0-15,18");
  CHECK(first("0 0 0 0 40 8 k:1-").find("a page number is missing") != std::string::npos);
  CHECK(first("0 0 0 0 40 8 k:-1").find("a page number is missing") != std::string::npos);
  CHECK(first("0 0 0 0 40 8 k:1,0").find("the pages do not ascend") != std::string::npos);
  CHECK(first("0 0 0 0 40 8 k:1-0").find("the pages do not ascend") != std::string::npos);
  CHECK(first("0 0 0 0 40 8 k:0,0").find("the pages do not ascend") != std::string::npos);
  CHECK(first("0 0 0 0 40 8 k:0;1").find("a comma is missing") != std::string::npos);
  // 40 tokens fill 2 groups of 16, and no chunk of 512.
  CHECK(first("0 0 0 0 40 8 kv:0-1").empty());
  CHECK(first("0 0 0 0 40 8 kv:0-2") ==
        "FILE:2: kv: page 2 is not on flash at this context, which fills 2");
  CHECK(first("0 0 0 0 512 8 c:0-31").empty());
  CHECK(first("0 0 0 0 511 8 c:0") ==
        "FILE:2: c: page 0 is not on flash at this context, which fills 0");
}

TEST_CASE("KV page trace: cut anywhere, or too long, it is refused") {
  const std::string text = kHead + "0 0 0 0 40 8 kv:0-1\n0 0 0 1 40 8 kv:0\n";
  CHECK(refusal(text).empty());
  for (std::size_t cut = 1; cut < text.size(); ++cut) {
    CAPTURE(cut);
    CHECK_FALSE(refusal(text.substr(0, cut)).empty());
  }
  CHECK(refusal(kHead + "0 0 0 0 40 8 kv:0-1\n") ==
        "FILE: has 1 records, but its header says 2; it seems to be cut off");
  CHECK(refusal(text + "0 0 0 2 40 8\n") ==
        "FILE:4: is one line too many; the header says 2 records");
}
