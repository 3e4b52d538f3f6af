#include "kernels/cpu/host_probe.hpp"

#include <atomic>
#include <cmath>
#include <filesystem>
#include <stdexcept>
#include <system_error>
#include <vector>

#include <doctest/doctest.h>

using namespace nearkv::kernels::cpu;

TEST_CASE("host probe: slices cover everything once, in order, nearly equal") {
  for (const std::size_t count : {0, 1, 5, 7, 64, 1000}) {
    for (const int parts : {1, 2, 3, 16}) {
      std::size_t next = 0;
      for (int i = 0; i < parts; ++i) {
        const Slice slice = slice_of(count, i, parts);
        CHECK(slice.first == next);
        CHECK(slice.size <= count / static_cast<std::size_t>(parts) + 1);
        CHECK(slice.size >= count / static_cast<std::size_t>(parts));
        next += slice.size;
      }
      CHECK(next == count);
    }
  }
}

TEST_CASE(
    "host probe: a team runs work once a thread, again and again, and hands on what it throws") {
  for (const int threads : {1, 2, 5}) {
    ThreadTeam team(threads);
    CHECK(team.size() == threads);
    std::vector<int> calls(static_cast<std::size_t>(threads));
    for (int round = 0; round < 100; ++round) {
      team.run([&](int thread) { ++calls[static_cast<std::size_t>(thread)]; });
    }
    CHECK(calls == std::vector<int>(static_cast<std::size_t>(threads), 100));
    CHECK_THROWS_AS(team.run([&](int thread) {
      if (thread == threads - 1) {
        throw std::runtime_error("last");
      }
    }),
                    std::runtime_error);
    std::atomic<int> after{0};
    team.run([&](int) { ++after; });
    CHECK(after == threads);
  }
  CHECK_THROWS_AS(ThreadTeam(0), std::invalid_argument);
}

TEST_CASE("host probe: a read passes every word, a copy every word too") {
  ThreadTeam team(3);
  constexpr std::size_t kWords = 1001;
  MemoryProbe memory(team, kWords * 8);
  CHECK(memory.checksum() == 0);
  memory.read();
  CHECK(memory.checksum() == kWords * (kWords - 1) / 2);  // 0 + 1 + ... + 1000
  memory.copy();
  CHECK(memory.checksum() == 0 + kWords / 2 + (kWords - 1));
  CHECK_THROWS_AS(MemoryProbe(team, 12), std::invalid_argument);
}

TEST_CASE("host probe: matrix products are those of their operands, for each copy in turn") {
  ThreadTeam team(2);
  const GemmShape shape{.rows = 3, .columns = 50, .depth = 40};
  GemmProbe gemm(team, shape, std::size_t{3} * 40 * 50 * 4);  // three copies
  float first_product = 0;
  for (int turn = 0; turn < 4; ++turn) {
    gemm.run();
    for (const int column : {0, 24, 25, 49}) {
      CHECK(gemm.value(2, column) == doctest::Approx(gemm.exact_value(2, column)).epsilon(1e-5));
    }
    if (turn == 0) {
      first_product = gemm.value(0, 0);
    } else {
      // The copies differ, and the fourth turn takes the first copy again.
      CHECK((gemm.value(0, 0) == first_product) == (turn == 3));
    }
  }
  CHECK_THROWS_AS(GemmProbe(team, {0, 1, 1}, 0), std::invalid_argument);
}

TEST_CASE("host probe: prefill attention is causal softmax attention") {
  ThreadTeam team(2);
  PrefillProbe prefill(team, {.heads = 3, .d_head = 16, .tokens = 20});
  prefill.run();
  for (const int head : {0, 1, 2}) {
    for (const int token : {0, 1, 19}) {
      CHECK(prefill.value(head, token, 5) ==
            doctest::Approx(prefill.exact_value(head, token, 5)).epsilon(1e-4));
    }
  }
  CHECK_THROWS_AS(PrefillProbe(team, {0, 1, 1}), std::invalid_argument);
}

TEST_CASE("host probe: O_DIRECT reads back what it wrote, from all slices") {
  const std::string folder = std::filesystem::current_path().string();
  ThreadTeam team(2);
  try {
    DirectFileProbe file(team, folder, {.file_bytes = 5 * 65536, .block_bytes = 65536});
    file.write();
    file.read();
    CHECK(file.mismatches() == 0);
  } catch (const std::system_error& error) {
    MESSAGE("not run: ", error.what());  // a file system in memory, say
  }
  CHECK_THROWS_AS(DirectFileProbe(team, folder, {.file_bytes = 4096, .block_bytes = 100}),
                  std::invalid_argument);
  CHECK_THROWS_AS(
      DirectFileProbe(team, "/no/such/folder", {.file_bytes = 4096, .block_bytes = 4096}),
      std::system_error);
}

TEST_CASE("host probe: mapped files and first touches pass every page") {
  MappedFileProbe file(std::filesystem::current_path().string(), std::size_t{64} << 10);
  file.run();
  CHECK(file.checksum() == file.pages());
  CHECK_THROWS_AS(MappedFileProbe("/no/such/folder", std::size_t{64} << 10), std::system_error);
  FirstTouchProbe touch(std::size_t{64} << 10);
  touch.run();
  CHECK(touch.pages() == file.pages());
  CHECK_THROWS_AS(FirstTouchProbe(1), std::invalid_argument);
}

TEST_CASE("host probe: values of /proc files are found by their keys") {
  const char* text =
      "processor\t: 0\nmodel name\t: AMD EPYC 7763\ncpu MHz\t\t: 2595.124\n\nmodel name : other\n";
  CHECK(proc_value(text, "model name") == "AMD EPYC 7763");
  CHECK(proc_value(text, "cpu MHz") == "2595.124");
  CHECK(proc_value(text, "name").empty());
  CHECK(proc_value("", "x").empty());
  CHECK(proc_value("x:", "x").empty());
  const HostProperties host = host_properties();
  CHECK(host.cores >= 1);
  CHECK(host.page_bytes >= 4096);
  CHECK(!host.kernel.empty());
}
