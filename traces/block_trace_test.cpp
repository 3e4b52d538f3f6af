#include "traces/block_trace.hpp"

#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "sim/core/random.hpp"
#include "traces/test_files.hpp"

using namespace nearkv;
using namespace nearkv::traces;
using namespace std::chrono_literals;

namespace {

constexpr Bytes kCapacity = 1_MiB;  // 2048 sectors

std::vector<BlockRecord> records_of(const std::string& text, const std::string& device = "") {
  const TemporaryFile file(text);
  BlockTraceReader reader(file.path(), {device, kCapacity});
  std::vector<BlockRecord> all;
  for (BlockRecord record; reader.next(record);) {
    all.push_back(record);
  }
  CHECK(reader.requests() == static_cast<std::int64_t>(all.size()));
  return all;
}

std::string refusal(const std::string& text, const std::string& device = "") {
  return refusal_of([&] { static_cast<void>(records_of(text, device)); });
}

}  // namespace

TEST_CASE("block trace: requests, times since the first one") {
  const auto records = records_of("5000 0 8 16 1\n5000 3 0 1 0\r\n\n7001 0 2040 8 1");
  REQUIRE(records.size() == 3);
  CHECK(records[0].at == 0ns);
  CHECK(records[0].kind == AccessKind::read);
  CHECK(records[0].first == 4_KiB);
  CHECK(records[0].size == 8_KiB);
  CHECK(records[1].at == 0ns);
  CHECK(records[1].kind == AccessKind::write);
  CHECK(records[2].at == 2001ns);
  CHECK(records[2].first + records[2].size == kCapacity);
}

TEST_CASE("block trace: the requests of one device") {
  const auto records = records_of("5 7 0 1 1\n6 3 0 1 0\n9 7 0 1 1\n10 3 0 1 0\n", "3");
  REQUIRE(records.size() == 2);
  CHECK(records[0].at == 0ns);
  CHECK(records[1].at == 4ns);
  CHECK(refusal("5 7 0 1 1\n", "3") == "FILE: has no request of device 3 (but 1 of others)");
  CHECK(refusal("5 7 0 1 1\n", "sda") ==
        "--trace-device: \"sda\" is no device number of a block trace");
}

TEST_CASE("block trace: each mistake has its message") {
  const std::string good = "5 0 0 1 1\n";
  CHECK(refusal(good + "x 0 0 1 1\n") ==
        "FILE:2: arrival time: must be whole nanoseconds; is \"x\"");
  CHECK(refusal("-5 0 0 1 1\n") == "FILE:1: arrival time: must be whole nanoseconds; is \"-5\"");
  CHECK(refusal("5 sda 0 1 1\n") == "FILE:1: device: must be a number; is \"sda\"");
  CHECK(refusal("5 0 -1 1 1\n") ==
        "FILE:1: first sector: must be a number of 512 B sectors; is \"-1\"");
  CHECK(refusal("5 0 99999999999999999 1 1\n") ==
        "FILE:1: first sector: must be a number of 512 B sectors; is \"99999999999999999\"");
  CHECK(refusal("5 0 0 8K 1\n") == "FILE:1: sectors: must be a number of 512 B sectors; is \"8K\"");
  CHECK(refusal("5 0 0 1 2\n") == "FILE:1: type: must be 0 (write) or 1 (read); is \"2\"");
  CHECK(refusal("5 0 0 1 1 9\n") ==
        "FILE:1: \"9\" follows the type; five words a line were expected");
  CHECK(refusal(good + "6 0 0 1\n") ==
        "FILE:2: type: must be 0 (write) or 1 (read); the line ends before it");
  CHECK(refusal(good + "6 0 0 1") ==
        "FILE:2: type: must be 0 (write) or 1 (read); the line ends before it; the file seems to "
        "be cut off here");
  CHECK(refusal("5 0 0 0 1\n") == "FILE:1: a request of size 0; at least one sector was expected");
  CHECK(refusal(good + "4 0 0 1 1\n") ==
        "FILE:2: time 4 lies before the 5 of an earlier request; a trace is in time order");
  CHECK(refusal("0 0 0 1 1\n9000000000000000 0 0 1 1\n") ==
        "FILE:2: time 9000000000000000 lies more than 53 days after the first request's 0");
  CHECK(refusal("5 0 2047 2 1\n") ==
        "FILE:1: bytes 1048064 to 1049087 are beyond the drive's 1048576 (1.049 MB); choose a "
        "larger drive or another device of the trace");
  CHECK(refusal("\n\r\n") == "FILE: has no request");
}

// Every prefix of a trace either says that it is cut, or has all requests but those that are gone.
TEST_CASE("block trace: cut anywhere, nothing is invented") {
  const std::string text = "5 0 100 16 1\n17 0 200 8 0\n";
  const auto all = records_of(text);
  for (std::size_t cut = 1; cut < text.size(); ++cut) {
    CAPTURE(cut);
    const std::string prefix = text.substr(0, cut);
    if (!refusal(prefix).empty()) {
      continue;
    }
    const auto records = records_of(prefix);
    REQUIRE(records.size() <= all.size());
    for (std::size_t i = 0; i < records.size(); ++i) {
      CHECK(records[i].size == all[i].size);
      CHECK(records[i].first == all[i].first);
      CHECK(records[i].kind == all[i].kind);
    }
  }
}

TEST_CASE("block trace: what is written is read back") {
  constexpr std::uint64_t kSeed = 11;
  INFO("seed ", kSeed);
  Rng rng(kSeed, "traces/block_trace_test");
  std::string text;
  std::vector<BlockRecord> expected;
  std::int64_t time = 1'700'000'000'000'000'000;  // ns since 1970, as some traces have
  const std::int64_t first_time = time;
  for (int i = 0; i < 2000; ++i) {
    const auto sectors = static_cast<std::int64_t>(1 + rng.below(64));
    const auto first = static_cast<std::int64_t>(rng.below(2048 - 64));
    const bool is_read = rng.below(2) == 0;
    text += fmt::format("{} {} {} {} {}\n", time, rng.below(4), first, sectors, is_read ? 1 : 0);
    expected.push_back({SimDuration{1000 * (time - first_time)},
                        is_read ? AccessKind::read : AccessKind::write, Bytes{512 * first},
                        Bytes{512 * sectors}});
    time += static_cast<std::int64_t>(rng.below(1'000'000));
  }
  const auto records = records_of(text);
  REQUIRE(records.size() == expected.size());
  for (std::size_t i = 0; i < records.size(); ++i) {
    const bool equal = records[i].at == expected[i].at && records[i].kind == expected[i].kind &&
                       records[i].first == expected[i].first && records[i].size == expected[i].size;
    CHECK(equal);
  }
}
