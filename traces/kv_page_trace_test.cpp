#include "traces/kv_page_trace.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "sim/core/random.hpp"
#include "traces/page_set_code.hpp"
#include "traces/test_files.hpp"

using namespace nearkv;
using namespace nearkv::traces;

namespace {

/// d_head 128 and 4 KiB: 16 tokens a group; 4 channels a group: 32 groups, 512 tokens a chunk.
KvTraceHeader header(std::int64_t records) {
  return {.model = "OPT-13B",
          .source_kind = "synthetic",
          .source = "heads.json",
          .source_hash = "0123",
          .method = "sparf",
          .options = {{"r", 16}, {"k_share", 0.0625}},
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

std::string written(const KvTraceHeader& head, const std::vector<KvTraceRecord>& records) {
  const TemporaryFile file("");
  KvTraceWriter writer(file.path(), head);
  for (const KvTraceRecord& record : records) {
    writer.add(record);
  }
  CHECK(file.text().empty());  // nothing is there before finish()
  writer.finish();
  const std::string text = file.text();
  CHECK(writer.bytes() == static_cast<std::int64_t>(text.size()));
  return text;
}

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

std::string hex(std::uint64_t hash) { return fmt::format("{:016x}", hash); }

/// A record around a body, and the hash so far.
std::string framed(std::string_view body, std::uint64_t& hash) {
  std::string bytes;
  append_number(bytes, body.size());
  bytes += body;
  hash = fnv1a64(bytes, hash);
  const std::uint64_t check = hash ^ hash >> 16U ^ hash >> 32U ^ hash >> 48U;
  bytes += static_cast<char>(check & 0xffU);
  bytes += static_cast<char>(check >> 8U & 0xffU);
  return bytes;
}

/// A file with right hashes, whatever its bodies mean.
std::string file_of(std::string line, const std::vector<std::string>& bodies) {
  std::uint64_t hash = fnv1a64("");
  std::string records;
  for (const std::string& body : bodies) {
    records += framed(body, hash);
  }
  const std::size_t at = line.find("HASH");
  if (at != std::string::npos) {
    line.replace(at, 4, hex(hash));
  }
  return line + hex(fnv1a64(line)) + "\n" + records;
}

const std::string kLine =
    R"({"format":"nearkv-kv-pages","version":2,"model":"OPT-13B","source_kind":"synthetic",)"
    R"("source":"heads.json","source_hash":"0123","method":"sparf",)"
    R"("options":{"k_share":0.0625,"r":16.0},"method_hash":")" +
    hex(fnv1a64(R"({"method":"sparf","options":{"k_share":0.0625,"r":16.0}})")) +
    R"(","estimate_channels":16,"d_head":128,"page_size":4096,"tokens_per_group":16,)"
    R"("channels_per_group":4,"layers":2,"kv_heads":3,"queries_per_kv_head":1,"sequences":2,)"
    R"("steps":4,"longest_context":1100,"records":2,"records_hash":"HASH"})"
    "\n";

using Bytes = std::vector<int>;
std::string body(const Bytes& bytes) { return {bytes.begin(), bytes.end()}; }

/// Context 40 (signed 80), attended 8 (signed 16), K and V groups 0 and 1.
const std::string kFirst = body({0x06, 80, 16, 0x10, 0});
/// The next head: all equal.
const std::string kSecond = body({0x00, 0x20, 0});

std::string with(const std::string& from, const std::string& to) {
  std::string line = kLine;
  line.replace(line.find(from), from.size(), to);
  return file_of(line, {kFirst, kSecond});
}

std::vector<int> some_of(Rng& rng, int pages) {
  std::vector<int> chosen;
  const std::uint64_t one_in = 1 + rng.below(6);
  for (int page = 0; page < pages; ++page) {
    if (rng.below(one_in) == 0) {
      chosen.push_back(page);
    }
  }
  return chosen;
}

/// Records of random places, contexts and pages; often as SparF's: groups in all chunks, V as K,
/// and sets that change little.
std::vector<KvTraceRecord> random_records(Rng& rng, const KvTraceHeader& head) {
  std::vector<KvTraceRecord> records;
  std::int64_t left_out = 4 * 2 * 2 * 3 - head.records;
  int place = -1;
  while (static_cast<std::int64_t>(records.size()) < head.records) {
    ++place;
    if (left_out > 0 && rng.below(3) == 0) {
      --left_out;
      continue;
    }
    KvTraceRecord record{.step = place / 12,
                         .layer = place / 6 % 2,
                         .sequence = place / 3 % 2,
                         .kv_head = place % 3};
    record.context = rng.below(2) == 0 || records.empty() ? 1 + static_cast<int>(rng.below(1100))
                                                          : records.back().context;
    record.attended = static_cast<int>(rng.below(record.context + 1));
    record.channel_pages = some_of(rng, head.channel_pages(record.context));
    record.key_pages = some_of(rng, head.token_pages(record.context));
    record.value_pages = some_of(rng, head.token_pages(record.context));
    if (rng.below(2) == 0) {
      record.value_pages = record.key_pages;
    }
    if (rng.below(2) == 0) {
      record.channel_pages.clear();
      for (const int group : some_of(rng, 32)) {
        for (int chunk = 0; chunk < head.channel_pages(record.context); chunk += 32) {
          record.channel_pages.push_back(chunk + group);
        }
      }
      std::sort(record.channel_pages.begin(), record.channel_pages.end());
    }
    records.push_back(record);
  }
  return records;
}

}  // namespace

TEST_CASE("KV page trace: two records by hand, byte for byte") {
  const std::vector<KvTraceRecord> records{
      {.context = 40, .attended = 8, .key_pages = {0, 1}, .value_pages = {0, 1}},
      {.kv_head = 1, .context = 40, .attended = 8, .key_pages = {}, .value_pages = {}}};
  CHECK(records_of(file_of(kLine, {kFirst, kSecond})) == records);
  const std::string text = written(header(2), records);
  // The writer takes the plain form of the empty set, which is as short.
  CHECK(text == file_of(kLine, {kFirst, body({0x00, 0x00, 0})}));
}

TEST_CASE("KV page trace: each field of a record by hand") {
  // Place 3 x 12 + 1 x 6 + 0 + 2 = 44: 44 were left out. Context 1050 is signed number 2100.
  const std::string first =
      body({0x3f, 44, 0xb4, 0x10, 0x80, 0x01, 0x00, 2, 0b110, 0x00, 1, 0b1, 0x00, 1, 0b10});
  // The next is sequence 1, head 0. Pages by number: 0 and 33; two changes of K.
  const std::string second = body({0x0a, 0x13, 0x00, 2, 1, 0, 0, 0, 2, 0x00, 1, 0b100});
  const auto records = records_of(file_of(kLine, {first, second}));
  REQUIRE(records.size() == 2);
  CHECK(records[0] == KvTraceRecord{.step = 3,
                                    .layer = 1,
                                    .sequence = 0,
                                    .kv_head = 2,
                                    .context = 1050,
                                    .attended = 64,
                                    .channel_pages = {1, 2, 33, 34},
                                    .key_pages = {0},
                                    .value_pages = {1}});
  CHECK(records[1] == KvTraceRecord{.step = 3,
                                    .layer = 1,
                                    .sequence = 1,
                                    .kv_head = 0,
                                    .context = 1040,
                                    .attended = 64,
                                    .channel_pages = {0, 33},
                                    .key_pages = {2},
                                    .value_pages = {2}});
}

TEST_CASE("KV page trace: what is written is read back, and twice the same bytes") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    Rng rng(seed, "traces/kv_page_trace_test");
    KvTraceHeader head = header(1 + static_cast<std::int64_t>(rng.below(48)));
    head.model = "a \"name\" with \\ and \xc3\xa4";
    const std::vector<KvTraceRecord> records = random_records(rng, head);
    const std::string text = written(head, records);
    REQUIRE(text == written(head, records));
    REQUIRE(records_of(text) == records);
    const TemporaryFile file(text);
    KvTraceReader reader(file.path());
    REQUIRE(reader.header() == head);
    REQUIRE(text.find("\"records_hash\":\"" + reader.records_hash()) != std::string::npos);
  }
}

TEST_CASE("KV page trace: every damaged byte is found") {
  Rng rng(1, "traces/kv_page_trace_test/damage");
  const KvTraceHeader head = header(20);
  const std::string text = written(head, random_records(rng, head));
  REQUIRE(refusal(text).empty());
  const std::size_t records = text.find('\n', text.find('\n') + 1) + 1;
  int in_its_record = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    CAPTURE(at);
    std::string damaged = text;
    damaged[at] = static_cast<char>(damaged[at] ^ static_cast<char>(1 + rng.below(255)));
    const std::string message = refusal(damaged);
    REQUIRE_FALSE(message.empty());
    const std::string where = at < records ? "FILE:" : "FILE: record ";
    REQUIRE(message.starts_with(where));
    if (at >= records) {
      std::size_t begin = 0;
      const std::size_t number = message.find("byte ") + 5;
      std::from_chars(message.data() + number, message.data() + message.size(), begin);
      REQUIRE(begin <= at);
      // Its length byte, body and check: none of these bodies has more than 127 bytes.
      const auto length = static_cast<unsigned char>(text[begin]);
      in_its_record += at < begin + 1 + length + 2 ? 1 : 0;
    }
  }
  CHECK(in_its_record == static_cast<int>(text.size() - records));
  // Each bit, in a file of two records.
  std::string small = file_of(kLine, {kFirst, kSecond});
  for (char& byte : small) {
    for (int value = 1; value < 256; value *= 2) {
      byte = static_cast<char>(byte ^ value);
      REQUIRE_FALSE(refusal(small).empty());
      byte = static_cast<char>(byte ^ value);
    }
  }
}

TEST_CASE("KV page trace: cut anywhere, or too long, it is refused") {
  const std::string text = file_of(kLine, {kFirst, kSecond});
  REQUIRE(refusal(text).empty());
  for (std::size_t cut = 0; cut < text.size(); ++cut) {
    CAPTURE(cut);
    CHECK_FALSE(refusal(text.substr(0, cut)).empty());
  }
  const std::size_t size = text.size();
  CHECK(refusal(text.substr(0, size - 1)) ==
        fmt::format("FILE: record 2, at byte {}: the file ends in it after {} bytes, but the "
                    "header says 2 records; it seems to be cut off",
                    size - 6, size - 1));
  CHECK(refusal(text + "\n") ==
        fmt::format("FILE: goes on behind the last of 2 records, at byte {}", size));
  CHECK(refusal("") == "FILE: the file is empty; a KV page trace was expected");
}

TEST_CASE("KV page trace: a writer that is not finished leaves nothing") {
  const TemporaryFile folder("");
  const std::string file = folder.path() + "_unfinished";
  const KvTraceRecord record{.context = 8};
  {
    KvTraceWriter writer(file, header(2));
    writer.add(record);
  }
  CHECK_FALSE(std::filesystem::exists(file));
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(file).parent_path())) {
    CHECK(entry.path().string().find(file) == std::string::npos);
  }
  KvTraceWriter too_short(file, header(2));
  too_short.add(record);
  CHECK_THROWS_AS(too_short.finish(), CheckFailure);
  CHECK_THROWS_AS(too_short.add(record), CheckFailure);  // the place is taken
  CHECK_THROWS_AS(too_short.add({.kv_head = 1, .context = 15, .key_pages = {0}}), CheckFailure);
  CHECK_THROWS_AS(too_short.add({.kv_head = 1, .context = 1101}), CheckFailure);
  CHECK_THROWS_AS(too_short.add({.kv_head = 1, .context = 40, .key_pages = {1, 0}}), CheckFailure);
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
  CHECK(refusal(with("\"version\":2", "\"version\":1")) ==
        "FILE:1: version: is 1; this program reads version 2: make a new trace with nearkv record");
  CHECK(refusal(with("\"layers\":2", "\"layer\":2")) == "FILE:1: layers: is missing in the header");
  CHECK(refusal(with("\"layers\":2", "\"layers\":\"2\"")) ==
        "FILE:1: layers: is \"2\"; must be a whole number");
  CHECK(refusal(with("\"layers\":2", "\"layers\":0")) ==
        "FILE:1: layers: 0 is out of range; must be 1 to 1073741824");
  CHECK(refusal(with("\"model\":\"OPT-13B\"", "\"model\":7")) ==
        "FILE:1: model: is 7; must be a string");
  CHECK(refusal(with("\"method\":\"sparf\"", "\"method\":\"sparse\"")) ==
        "FILE:1: method: is \"sparse\"; must be one of dense, sparq, sparf, h2o, streaming, "
        "window");
  CHECK(refusal(with("\"method\":\"sparf\"", "\"method\":\"h2o\"")) ==
        "FILE:1: estimate_channels: is 16; must be 1 to d_head for sparq and sparf, 0 for others");
  CHECK(refusal(with("\"method\":\"sparf\"", "\"method\":\"sparq\""))
            .starts_with("FILE:1: method_hash: is \""));
  CHECK(refusal(with("\"r\":16.0", "\"r\":8.0"))
            .find("but that of the method and its options is \"") != std::string::npos);
  CHECK(refusal(with("\"r\":16.0", "\"r\":\"8\"")) ==
        "FILE:1: options: is {\"k_share\":0.0625,\"r\":\"8\"}; must be an object of numbers");
  CHECK(refusal(with("\"tokens_per_group\":16", "\"tokens_per_group\":8")) ==
        "FILE:1: tokens_per_group: is 8, but a page of 4096 bytes holds 16 rows of 128 halves");
  CHECK(refusal(with("\"channels_per_group\":4", "\"channels_per_group\":3")) ==
        "FILE:1: channels_per_group: is 3; must divide d_head 128 and fit in a page");
  CHECK(refusal(with("\"records\":2", "\"records\":49")) ==
        "FILE:1: records: is 49; must be 1 to steps x layers x sequences x kv_heads, 48");
  CHECK(refusal(with("\"steps\":4", "\"steps\":1000000000"))
            .empty());  // more places than records is right
  CHECK(refusal(with("HASH", "0000000000000000"))
            .starts_with("FILE: records_hash: is \"0000000000000000\", but that of the records"));
  std::string edited = file_of(kLine, {kFirst, kSecond});
  edited[edited.find("13B")] = '3';
  CHECK(refusal(edited).starts_with("FILE:2: is \""));
  CHECK(refusal(edited).ends_with("\"; the header was damaged or edited"));
}

TEST_CASE("KV page trace: each mistake in a record has its message") {
  const std::size_t begin = file_of(kLine, {}).size();
  const auto first = [&](const Bytes& bytes) {
    const std::string message = refusal(file_of(kLine, {body(bytes), kSecond}));
    const std::string where = fmt::format("FILE: record 1, at byte {}: ", begin);
    CHECK((message.empty() || message.starts_with(where)));
    return message.empty() ? message : message.substr(where.size());
  };
  CHECK(first({0x06, 80, 16, 0x10, 0}).empty());
  CHECK(first({}) == "it ends too early");
  CHECK(first({0x46, 80, 16, 0x10, 0}) == "70 is no flags byte of a record");
  CHECK(first({0x07, 48, 80, 16, 0x10, 0}) == "place: is behind the last KV head of the last step");
  CHECK(first({0x04, 16, 0x10, 0}) ==
        "context: must be 1 to 1100; the one before was 0, and it changes by 0");
  CHECK(first({0x06, 80, 82, 0x10, 0}) ==
        "attended: must be 0 to 40; the one before was 0, and it changes by 41");
  CHECK(first({0x06, 80, 1, 0x10, 0}) ==
        "attended: must be 0 to 40; the one before was 0, and it changes by -1");
  CHECK(first({0x06, 80, 16, 0x10, 0, 0}) == "1 bytes are left over");
  // 40 tokens fill 2 groups of 16, and no chunk of 512.
  CHECK(first({0x06, 80, 16, 0x00, 1, 0b100}) ==
        "K: page 2 is not on flash at this context, which fills 2");
  CHECK(first({0x0e, 80, 16, 0x00, 1, 0b1, 0x10, 0}) ==
        "channel pages: 1 pages are listed, but the context fills 0");
  // Behind the last place.
  CHECK(refusal(file_of(kLine, {body({0x07, 47, 80, 16, 0x10, 0}), kSecond}))
            .ends_with("place: is behind the last KV head of the last step"));
  // Channel pages of dense attention.
  std::string dense = kLine;
  const auto replace = [&dense](const std::string& from, const std::string& to) {
    dense.replace(dense.find(from), from.size(), to);
  };
  replace("\"method\":\"sparf\"", "\"method\":\"dense\"");
  replace("\"estimate_channels\":16", "\"estimate_channels\":0");
  const std::string options = R"("options":{"k_share":0.0625,"r":16.0})";
  replace(hex(fnv1a64("{\"method\":\"sparf\"," + options + "}")),
          hex(fnv1a64("{\"method\":\"dense\"," + options + "}")));
  CHECK(refusal(file_of(dense, {kFirst, kSecond})).empty());
  CHECK(refusal(file_of(dense, {body({0x0e, 80, 16, 0x00, 0, 0x10, 0}), kSecond}))
            .ends_with("has channel pages, but its method reads none"));
}

TEST_CASE("KV page trace: bodies without sense are read or refused, never more") {
  Rng rng(3, "traces/kv_page_trace_test/nonsense");
  const KvTraceHeader head = header(2);
  int read = 0;
  for (int round = 0; round < 2000; ++round) {
    KvTraceState state(head);
    std::vector<std::string> bodies;
    for (const KvTraceRecord& record : random_records(rng, head)) {
      bodies.push_back(state.body_of(record));
    }
    for (std::uint64_t changes = 1 + rng.below(3); changes > 0; --changes) {
      std::string& bytes = bodies[rng.below(2)];
      bytes[rng.below(bytes.size())] = static_cast<char>(rng.below(256));
    }
    const std::string message = refusal(file_of(kLine, bodies));  // another exception would end it
    read += message.empty() ? 1 : 0;
    REQUIRE((message.empty() || message.starts_with("FILE: record ")));
  }
  MESSAGE(read, " of 2000 had a meaning");
  CHECK(read > 100);
  CHECK(read < 1900);
}

TEST_CASE("KV page trace: a step that is like the one before takes few bytes") {
  KvTraceHeader head = header(48);
  std::vector<KvTraceRecord> records;
  Rng rng(2, "traces/kv_page_trace_test/alike");
  const std::vector<int> key_pages = some_of(rng, 64);
  for (int place = 0; place < 48; ++place) {
    records.push_back({.step = place / 12,
                       .layer = place / 6 % 2,
                       .sequence = place / 3 % 2,
                       .kv_head = place % 3,
                       .context = 1030 + place / 12,
                       .attended = 64,
                       .channel_pages = {},
                       .key_pages = key_pages,
                       .value_pages = key_pages});
  }
  const std::size_t all = written(head, records).size();
  head.records = 12;
  records.resize(12);
  const std::size_t first_step = written(head, records).size();
  // Length, flags, set of two bytes, check of two; and once a step, the context.
  CHECK(all - first_step == 3 * (12 * 6 + 1));
}
