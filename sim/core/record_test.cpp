#include "sim/core/record.hpp"

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sim/core/check.hpp"
#include "sim/core/hash.hpp"
#include "sim/core/test_folder.hpp"

using namespace nearkv;
namespace fs = std::filesystem;

namespace {

std::string text_of(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::size_t files_in(const fs::path& folder) {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

RunRecord example() {
  RunRecord record;
  record.name = "opt-13b_b64";
  record.config = {{"csd", {{{"channels", 8}}}}, {"batch", 64}};
  record.seed = 42;
  record.fidelity = "exact";
  record.outcome.metrics.add("throughput", 0.1 + 0.2, "token/s", "Tokens a second.");
  record.outcome.metrics.add("a first", 1e300, "1", "Comes second all the same.");
  record.outcome.notes = {"synthetic tensors"};
  record.outcome.digest = 0xabcULL;
  record.outcome.wakeups = 17;
  record.constants = {{"/a", "50us", "assumed", "no datasheet"},
                      {"/b", "1.5", "datasheet", "page 3"},
                      {"/c", "3", "fit", "figure 9"},
                      {"/d", "4", "override", "--set"},
                      {"/e", "5", "datasheet", "page 4"}};
  return record;
}

}  // namespace

TEST_CASE("record: equal runs give equal bytes, and these read back to the same values") {
  const std::string first = example().to_json("1.2.3").dump(2);
  CHECK(first == example().to_json("1.2.3").dump(2));
  const nlohmann::json back = nlohmann::json::parse(first);
  CHECK(back == example().to_json("1.2.3"));
  CHECK(back["metrics"][0]["value"].get<double>() == 0.1 + 0.2);
  CHECK(back["metrics"][1]["name"] == "a first");
  CHECK(back["program"]["version"] == "1.2.3");
  CHECK(back["digest"] == "0000000000000abc");
  CHECK(back["wakeups"] == 17);
  CHECK(back["status"] == "ok");
  CHECK(back["seed"] == 42);
  CHECK(back["config"] == example().config);
}

TEST_CASE("record: assumed, fitted and overridden constants are listed, the rest counted") {
  const nlohmann::json constants = example().to_json("")["constants"];
  REQUIRE(constants["assumed"].size() == 1);
  CHECK(constants["assumed"][0] ==
        nlohmann::json{{"path", "/a"}, {"value", "50us"}, {"citation", "no datasheet"}});
  CHECK(constants["fit"][0]["path"] == "/c");
  CHECK(constants["override"][0]["path"] == "/d");
  CHECK(constants["count_by_source"] ==
        nlohmann::json{{"assumed", 1}, {"datasheet", 2}, {"fit", 1}, {"override", 1}});
}

TEST_CASE("record: the config's hash names its content, not the order of its keys") {
  RunRecord record = example();
  const nlohmann::json hash = record.to_json("")["config_hash"];
  CHECK(hash.get<std::string>().size() == 32);
  record.config = nlohmann::json::parse(R"({"csd": [{"channels": 8}], "batch": 64})");
  CHECK(record.to_json("")["config_hash"] == hash);
  record.config["batch"] = 65;
  CHECK(record.to_json("")["config_hash"] != hash);
  // XXH3 with 128 bits of nothing, as its specification lists it.
  CHECK(content_hash("") == "99aa06d3014798d86001c324468d497f");
}

TEST_CASE("record: out of memory is a status with its detail") {
  RunRecord record = example();
  record.outcome.status = RunStatus::out_of_memory;
  record.outcome.status_detail = "VRAM";
  CHECK(record.to_json("")["status"] == "out_of_memory");
  CHECK(record.to_json("")["status_detail"] == "VRAM");
}

TEST_CASE("record: a file is written whole, into folders that are made, over an older one") {
  const TestFolder folder;
  const fs::path file = folder.path() / "deep" / "er" / "record.json";
  write_file_atomically(file, "first");
  CHECK(text_of(file) == "first");
  const std::string large(3'000'000, 'x');
  write_file_atomically(file, large);
  CHECK(text_of(file) == large);
  write_file_atomically(file, "");
  CHECK(text_of(file).empty());
  CHECK(files_in(file.parent_path()) == 1);
}

TEST_CASE("record: what cannot be written is an error of one line and leaves nothing") {
  const TestFolder folder;
  const std::string root = folder.path().string();
  write_file_atomically(folder.path() / "file", "a file");
  fs::create_directory(folder.path() / "folder");

  const auto refusal = [](const fs::path& file) -> std::string {
    try {
      write_file_atomically(file, "text");
      return "";
    } catch (const ConfigError& error) {
      return error.what();
    }
  };
  CHECK(refusal(root + "/file/record.json") ==
        root +
            "/file/record.json: cannot be written (Not a directory); name a file in a folder "
            "that is writable and has room");
  CHECK(refusal(root + "/folder") ==
        root +
            "/folder: cannot be written (Is a directory); name a file in a folder that is "
            "writable and has room");
  CHECK(refusal("/proc/nearkv/record.json").starts_with("/proc/nearkv/record.json: cannot be "));
  CHECK(
      refusal("/dev/full/record.json").starts_with("/dev/full/record.json: cannot be written (N"));
  CHECK(files_in(folder.path()) == 2);
  CHECK(files_in(folder.path() / "folder") == 0);
  CHECK(text_of(folder.path() / "file") == "a file");
}

TEST_CASE("record: without permission, or with a full disk, nothing is left") {
  const TestFolder folder;
  const fs::path locked = folder.path() / "locked";
  fs::create_directory(locked);
  fs::permissions(locked, fs::perms::all & ~fs::perms::owner_write & ~fs::perms::group_write &
                              ~fs::perms::others_write);
  fs::permissions(folder.path(), fs::perms::all);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    constexpr uid_t kNobody = 65534;  // the superuser may write everywhere
    if (geteuid() == 0 && setuid(kNobody) != 0) {
      _exit(1);
    }
    const auto fails_with = [](const fs::path& file, const std::string& text, const char* why) {
      try {
        write_file_atomically(file, text);
      } catch (const ConfigError& error) {
        return std::string(error.what()).find(why) != std::string::npos;
      }
      return false;
    };
    if (!fails_with(locked / "record.json", "text", "(Permission denied)")) {
      _exit(2);
    }
    const rlimit limit{1000, 1000};
    static_cast<void>(std::signal(SIGXFSZ, SIG_IGN));
    setrlimit(RLIMIT_FSIZE, &limit);
    const std::string large(1'000'000, 'x');
    _exit(fails_with(folder.path() / "record.json", large, "(File too large)") ? 0 : 3);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(files_in(locked) == 0);
  CHECK(files_in(folder.path()) == 1);
  fs::permissions(locked, fs::perms::owner_all);
}

TEST_CASE("hash: order and value matter") {
  CHECK(mix_hash(mix_hash(0, 1), 2) != mix_hash(mix_hash(0, 2), 1));
  CHECK(mix_hash(0, 0) != 0);
  static_assert(mix_hash(1, 2) == mix_hash(1, 2));
}
