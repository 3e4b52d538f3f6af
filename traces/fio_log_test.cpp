#include "traces/fio_log.hpp"

#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "traces/test_files.hpp"

using namespace nearkv;
using namespace nearkv::traces;
using namespace std::chrono_literals;

namespace {

constexpr Bytes kCapacity = 1_MiB;
const std::string kHead3 = "fio version 3 iolog\n0 /dev/a add\n1 /dev/a open\n";
const std::string kHead2 = "fio version 2 iolog\n/dev/a add\n/dev/a open\n";

std::vector<BlockRecord> records_of(const std::string& text, const std::string& device = "") {
  const TemporaryFile file(text);
  FioLogReader reader(file.path(), {device, kCapacity});
  std::vector<BlockRecord> all;
  for (BlockRecord record; reader.next(record);) {
    all.push_back(record);
  }
  return all;
}

std::string refusal(const std::string& text, const std::string& device = "") {
  return refusal_of([&] { static_cast<void>(records_of(text, device)); });
}

}  // namespace

TEST_CASE("fio log: version 3 has a time on each line") {
  const auto records = records_of(kHead3 +
                                  "10 /dev/a read 4096 512\n"
                                  "12 /dev/a sync 0 0\r\n"
                                  "13 /dev/a write 0 1048576\n"
                                  "13 /dev/a trim 8192 4096\n"
                                  "15 /dev/a datasync 0 0\n"
                                  "20 /dev/a close\n");
  REQUIRE(records.size() == 3);
  CHECK(records[0].at == 0us);
  CHECK(records[0].kind == AccessKind::read);
  CHECK(records[0].first == 4_KiB);
  CHECK(records[0].size == 512_B);
  CHECK(records[1].at == 3us);
  CHECK(records[1].kind == AccessKind::write);
  CHECK(records[1].size == kCapacity);
  CHECK(records[2].at == 3us);
  CHECK(records[2].kind == AccessKind::trim);
  CHECK(records[2].first == 8_KiB);
}

TEST_CASE("fio log: version 2 has no times") {
  const TemporaryFile file(kHead2 + "/dev/a read 0 512\n/dev/a wait 100 0\n/dev/a trim 512 512\n");
  FioLogReader reader(file.path(), {"", kCapacity});
  CHECK_FALSE(reader.has_times());
  BlockRecord record;
  CHECK(reader.next(record));
  CHECK(record.at == 0us);
  CHECK(reader.next(record));
  CHECK(record.kind == AccessKind::trim);
  CHECK(record.at == 0us);
  CHECK_FALSE(reader.next(record));
  CHECK(reader.waits() == 1);
  CHECK(reader.syncs() == 0);
}

TEST_CASE("fio log: the requests of one file") {
  const std::string text = kHead3 +
                           "2 /dev/b add\n2 /dev/b open\n"
                           "5 /dev/a read 0 512\n9 /dev/b read 512 512\n11 /dev/b write 0 512\n";
  const auto records = records_of(text, "/dev/b");
  REQUIRE(records.size() == 2);
  CHECK(records[0].at == 0us);
  CHECK(records[1].at == 2us);
  CHECK(records_of(text).size() == 3);
  CHECK(refusal(text, "b") == "FILE: has no request of file \"b\" (but 3 of others)");
}

TEST_CASE("fio log: each mistake has its message") {
  CHECK(refusal("1 2 3\n") ==
        "FILE:1: is \"1 2 3\"; the first line of a log of fio is \"fio version 3 iolog\" (or "
        "version 2)");
  CHECK(refusal("fio version 4 iolog\n").starts_with("FILE:1: is \"fio version 4 iolog\"; "));
  CHECK(refusal(kHead3) == "FILE: has no request");
  CHECK(refusal(kHead3 + "x /dev/a read 0 512\n") ==
        "FILE:4: time: must be whole microseconds; is \"x\"");
  CHECK(refusal(kHead3 + "/dev/a read 0 512\n") ==
        "FILE:4: time: must be whole microseconds; is \"/dev/a\"");
  CHECK(refusal(kHead3 + "5 /dev/b read 0 512\n") ==
        "FILE:4: file \"/dev/b\" was not added before; a line \"0 /dev/b add\" was expected");
  CHECK(refusal(kHead2 + "/dev/b read 0 512\n") ==
        "FILE:4: file \"/dev/b\" was not added before; a line \"/dev/b add\" was expected");
  CHECK(refusal(kHead3 + "5 /dev/a\n") ==
        "FILE:4: expected time, file, action, offset and length; the line ends too early");
  CHECK(refusal(kHead3 + "5 /dev/a reed 0 512\n") ==
        "FILE:4: action: is \"reed\"; must be read, write, trim, sync, datasync, wait, add, open "
        "or close");
  CHECK(refusal(kHead3 + "5 /dev/a read 0\n") ==
        "FILE:4: offset and length: two numbers of bytes were expected; is \"5 /dev/a read 0\"");
  CHECK(refusal(kHead3 + "5 /dev/a read 0 512 1\n")
            .starts_with("FILE:4: offset and length: two numbers"));
  CHECK(refusal(kHead3 + "5 /dev/a read 0 0\n") ==
        "FILE:4: a request of size 0; at least one sector was expected");
  CHECK(refusal(kHead3 + "5 /dev/a read 1048576 512\n")
            .starts_with("FILE:4: bytes 1048576 to 1049087 are beyond the drive's 1048576"));
  CHECK(refusal(kHead3 + "5 /dev/a read 0 512\n4 /dev/a read 0 512\n") ==
        "FILE:5: time 4 lies before the 5 of an earlier request; a trace is in time order");
}

TEST_CASE("fio log: of many files") {
  std::string text = "fio version 3 iolog\n";
  for (int i = 0; i < 100'000; ++i) {
    text += fmt::format("0 /dev/{} add\n", i);
  }
  std::string requests;
  for (int i = 0; i < 100'000; i += 50'000) {
    requests += fmt::format("1 /dev/{} read 0 512\n", i);
  }
  CHECK(records_of(text + "0 /dev/7 add\n" + requests).size() == 2);  // one that is known
  CHECK(refusal(text + "0 /dev/more add\n" + requests) ==
        "FILE:100002: a log of more than 100000 files");
}

// "16384" cut to "163" would be a request, too: a log without its last line end is refused.
TEST_CASE("fio log: cut anywhere but at a line's end it is refused") {
  const std::string text = kHead3 + "5 /dev/a read 0 16384\n6 /dev/a read 0 16384\n";
  for (std::size_t cut = 1; cut < text.size(); ++cut) {
    CAPTURE(cut);
    const bool is_taken = refusal(text.substr(0, cut)).empty();
    CHECK_FALSE((is_taken && text[cut - 1] != '\n'));
  }
  CHECK(refusal(text.substr(0, text.size() - 2)) ==
        "FILE:5: the last line does not end; the file seems to be cut off here");
}
