// Windows a second of the storage path: what a decode step of a file-based system costs to
// simulate.
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "models/host/host_fixture.hpp"
#include "models/host/host_storage.hpp"

namespace nearkv {
namespace {

constexpr Bytes kFile = 4_GiB;

/// Reads a file again and again, whole, as a layer's K or V is; `dram` decides between hit and
/// miss.
void read_again(benchmark::State& state, Bytes dram, int files) {
  HostFixture fixture(shipped_host(), shipped_ssd());
  fixture.host.dram = dram;
  fixture.build();
  std::vector<MemoryObject> objects;
  for (int i = 0; i < files; ++i) {
    objects.push_back(fixture.storage->create_file("f" + std::to_string(i), kFile));
    fixture.storage->assume_stored({objects.back(), Bytes{}, kFile});
  }
  SimTime now{};
  for (auto _ : state) {
    now = fixture.run_all(now, objects.size(), [&](std::size_t i, SimTime at, Completion& done) {
      fixture.storage->read_file(at, {objects[i], Bytes{}, kFile}, done);
    });
  }
  const auto windows = static_cast<double>(files) * static_cast<double>(kFile / 128_KiB);
  state.counters["windows/s"] = benchmark::Counter(
      windows * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

void resident_one_stream(benchmark::State& state) { read_again(state, 96_GiB, 1); }
void cold_one_stream(benchmark::State& state) { read_again(state, 6_GiB, 1); }
void cold_two_streams(benchmark::State& state) { read_again(state, 6_GiB, 2); }
BENCHMARK(resident_one_stream);
BENCHMARK(cold_one_stream);
BENCHMARK(cold_two_streams);

/// Dirty anonymous memory twice the size of DRAM, touched in a circle.
void swap_thrash(benchmark::State& state) {
  HostFixture fixture(shipped_host(), shipped_ssd());
  fixture.host.dram = fixture.host.reserved + kFile / 2;
  fixture.build();
  const MemoryObject region = fixture.storage->create_region(kFile);
  SimTime now{};
  for (auto _ : state) {
    now = fixture.run_all(now, 1, [&](std::size_t, SimTime at, Completion& done) {
      fixture.storage->touch_memory(at, {region, Bytes{}, kFile}, Access::write, done);
    });
  }
  const auto windows = static_cast<double>(kFile / 128_KiB);
  state.counters["windows/s"] = benchmark::Counter(
      windows * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}
BENCHMARK(swap_thrash);

}  // namespace
}  // namespace nearkv
