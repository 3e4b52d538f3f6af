#include "models/host/host_storage.hpp"

#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "models/host/host_fixture.hpp"
#include "sim/core/random.hpp"

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

constexpr SimTime kStart{SimDuration{1'000'000'000}};

/// The shipped host with `room` of memory for page cache and regions.
HostFixture host_with(Bytes room) {
  HostFixture fixture(shipped_host(), shipped_ssd());
  fixture.host.dram = fixture.host.reserved + room;
  return fixture;
}

SimTime read(HostFixture& f, SimTime now, const MemorySpan& span) {
  return f.run_all(now, 1, [&](std::size_t, SimTime at, Completion& done) {
    f.storage->read_file(at, span, done);
  });
}
SimTime write(HostFixture& f, SimTime now, const MemorySpan& span) {
  return f.run_all(now, 1, [&](std::size_t, SimTime at, Completion& done) {
    f.storage->write_file(at, span, done);
  });
}
SimTime touch(HostFixture& f, SimTime now, const MemorySpan& span, Access access) {
  return f.run_all(now, 1, [&](std::size_t, SimTime at, Completion& done) {
    f.storage->touch_memory(at, span, access, done);
  });
}

MemoryObject stored_file(HostFixture& f, Bytes size) {
  const MemoryObject file = f.storage->create_file("file", size);
  f.storage->assume_stored({file, 0_B, size});
  return file;
}

/// An SSD command on an idle drive: `pages` flash pages on different channels.
SimDuration idle_ssd_read(const HostFixture& f, std::int64_t pages, Bytes of_each) {
  const SsdConfig& c = f.ssd;
  const FlashArrayConfig flash = c.flash.recurrence();
  return c.nvme.host_submit + c.nvme.doorbell + c.nvme.command_fetch + c.controller.command_cost +
         flash.t_command + flash.t_read + flash.transfer + pages * time_for(of_each, f.host_link) +
         c.nvme.completion;
}

double rate(Bytes size, SimDuration time) {
  return static_cast<double>(size.count()) / to_seconds(time);
}

}  // namespace

TEST_CASE("host storage: a resident read costs its pages and nothing else") {
  HostFixture f = host_with(2_GiB);
  f.build();
  const Bytes size = 64_MiB;
  const MemoryObject file = stored_file(f, size);
  const SimTime warm = read(f, kStart, {file, 0_B, size});
  const SimTime done = read(f, warm, {file, 0_B, size});
  const SimDuration expected = f.host.file_system.hit_per_page * (size / 4_KiB);
  MESSAGE(fmt::format("16384 pages x hit_per_page {} = {}; simulated {}: {:.2f} GB/s",
                      format_exact(f.host.file_system.hit_per_page), format_exact(expected),
                      format_exact(done - warm), rate(size, done - warm) / 1e9));
  CHECK(done - warm == expected);
  CHECK(f.storage->counters().hits == 512);
  CHECK(f.storage->counters().reads == 512);
}

TEST_CASE("host storage: of streams on files, fault_threads handle their pages at a time") {
  constexpr std::size_t kStreams = 4;
  const Bytes size = 16_MiB;
  for (const int threads : {1, 2, 4}) {
    HostFixture f = host_with(2_GiB);
    f.host.file_system.fault_threads = threads;
    f.build();
    std::vector<MemoryObject> files;
    SimTime warm = kStart;
    for (std::size_t i = 0; i < kStreams; ++i) {
      files.push_back(stored_file(f, size));
      warm = read(f, warm, {files.back(), 0_B, size});
    }
    const SimTime done = f.run_all(warm, kStreams, [&](std::size_t i, SimTime now, Completion& c) {
      f.storage->read_file(now, {files[i], 0_B, size}, c);
    });
    const std::int64_t pages = size / 4_KiB * static_cast<std::int64_t>(kStreams);
    const SimDuration expected = f.host.file_system.hit_per_page * (pages / threads);
    MESSAGE(
        fmt::format("4 streams, {} at a time: {} pages x hit_per_page {} / {} = {}; simulated {}",
                    threads, pages, format_exact(f.host.file_system.hit_per_page), threads,
                    format_exact(expected), format_exact(done - warm)));
    CHECK(done - warm == expected);
  }
}

TEST_CASE("host storage: a miss does not wait for those who hit") {
  HostFixture f = host_with(2_GiB);
  f.host.file_system.fault_threads = 1;
  f.build();
  const Bytes size = 16_MiB;
  const MemoryObject files[] = {f.storage->create_file("k", size),
                                f.storage->create_file("v", size)};
  const SimTime done = f.run_all(kStart, 2, [&](std::size_t i, SimTime now, Completion& c) {
    f.storage->write_file(now, {files[i], 0_B, size}, c);
  });
  // Window by window, each has its own misses while the other has its hits.
  const FileSystemConfig& fs = f.host.file_system;
  const std::int64_t pages = size / 4_KiB;
  const std::int64_t window = fs.readahead_window / 4_KiB;
  REQUIRE(fs.miss_per_page < fs.hit_per_page);
  const SimDuration expected = fs.hit_per_page * (2 * pages) + fs.miss_per_page * window;
  CHECK(done - kStart == expected);
}

TEST_CASE("host storage: a cold read with one window in flight is the sum of its parts") {
  HostFixture f = host_with(2_GiB);
  f.host.file_system.windows_in_flight = 1;
  f.build();
  const Bytes size = 64_MiB;
  const MemoryObject file = stored_file(f, size);
  const SimTime done = read(f, kStart, {file, 0_B, size});
  const FileSystemConfig& fs = f.host.file_system;
  const SimDuration window =
      fs.io_submission + idle_ssd_read(f, 8, 16_KiB) + (fs.hit_per_page + fs.miss_per_page) * 32;
  MESSAGE(fmt::format(
      "512 windows x (io_submission {} + SSD read of 8 flash pages {} + 32 pages x "
      "(hit_per_page {} + miss_per_page {})) = {}; simulated {}: {:.2f} GB/s",
      format_exact(fs.io_submission), format_exact(idle_ssd_read(f, 8, 16_KiB)),
      format_exact(fs.hit_per_page), format_exact(fs.miss_per_page), format_exact(window * 512),
      format_exact(done - kStart), rate(size, done - kStart) / 1e9));
  CHECK(done - kStart == window * 512);
  CHECK(f.storage->cpu_time() ==
        (fs.io_submission + (fs.hit_per_page + fs.miss_per_page) * 32) * 512);
}

TEST_CASE("host storage: with two windows in flight reading and consuming overlap") {
  SimDuration elapsed[2];
  for (const int in_flight : {1, 2}) {
    HostFixture f = host_with(2_GiB);
    f.host.file_system.windows_in_flight = in_flight;
    f.build();
    const MemoryObject file = stored_file(f, 64_MiB);
    elapsed[in_flight - 1] = read(f, kStart, {file, 0_B, 64_MiB}) - kStart;
  }
  MESSAGE(fmt::format("cold: {:.2f} GB/s with one window in flight, {:.2f} GB/s with two",
                      rate(64_MiB, elapsed[0]) / 1e9, rate(64_MiB, elapsed[1]) / 1e9));
  CHECK(elapsed[1] < elapsed[0]);
  CHECK(2 * elapsed[1] > elapsed[0]);
}

TEST_CASE("host storage: the ends of a span read whole windows and use part of them") {
  HostFixture f = host_with(2_GiB);
  f.build();
  const MemoryObject file = stored_file(f, 1_MiB);
  // The last page of window 0, and the first byte of window 1.
  const SimTime done = read(f, kStart, {file, 124_KiB, 4_KiB + 1_B});
  const FileSystemConfig& fs = f.host.file_system;
  const SimDuration window =
      fs.io_submission + idle_ssd_read(f, 8, 16_KiB) + fs.hit_per_page + fs.miss_per_page * 32;
  CHECK(done - kStart == window * 2);
}

TEST_CASE("host storage: a circular scan of more than memory gets no hit, of less only hits") {
  for (const bool fits : {false, true}) {
    HostFixture f = host_with(fits ? 66_MiB : 62_MiB);
    f.build();
    const MemoryObject file = stored_file(f, 64_MiB);
    SimTime now = read(f, kStart, {file, 0_B, 64_MiB});
    for (int round = 0; round < 3; ++round) {
      now = read(f, now, {file, 0_B, 64_MiB});
    }
    CHECK(f.storage->counters().hits == (fits ? 3 * 512 : 0));
    CHECK(f.storage->memory().resident() == (fits ? 64_MiB : 62_MiB));
    CHECK(f.ssds->bytes_read() == 64_MiB * (fits ? 1 : 4));
  }
}

TEST_CASE("host storage: appending to a file reads nothing and is resident afterwards") {
  HostFixture f = host_with(2_GiB);
  f.build();
  const MemoryObject file = f.storage->create_file("kv", 16_MiB);
  SimTime now = kStart;
  for (std::int64_t row = 0; row < 16; ++row) {
    now = write(f, now, {file, 1_MiB * row, 1_MiB});
  }
  const FileSystemConfig& fs = f.host.file_system;
  CHECK(now - kStart == (fs.hit_per_page + fs.miss_per_page) * (16_MiB / 4_KiB));
  const SimTime done = read(f, now, {file, 0_B, 16_MiB});
  CHECK(done - now == fs.hit_per_page * (16_MiB / 4_KiB));
  CHECK(f.ssds->bytes_read() == 0_B);
}

TEST_CASE("host storage: a write into a stored window reads it first") {
  HostFixture f = host_with(2_GiB);
  f.build();
  const MemoryObject file = stored_file(f, 1_MiB);
  const SimTime done = write(f, kStart, {file, 0_B, 4_KiB});
  const FileSystemConfig& fs = f.host.file_system;
  CHECK(done - kStart ==
        fs.io_submission + idle_ssd_read(f, 8, 16_KiB) + fs.hit_per_page + fs.miss_per_page * 32);
}

TEST_CASE("host storage: dirty data above the background ratio are flushed to it") {
  HostFixture f = host_with(1_GiB);
  f.build();
  const MemoryObject file = f.storage->create_file("kv", 512_MiB);
  SimTime now = kStart;
  for (std::int64_t part = 0; part < 32; ++part) {
    now = write(f, now, {file, 16_MiB * part, 16_MiB});
  }
  // Let the flusher finish.
  while (f.storage->next_event() != kNever) {
    f.storage->process(f.storage->next_event());
  }
  const Bytes limit{static_cast<std::int64_t>((1 << 30) * 0.1)};
  CHECK(f.storage->memory().dirty() <= limit);
  CHECK(f.storage->memory().dirty() > limit - 4_MiB);
  CHECK(f.ssds->bytes_written() + f.storage->memory().dirty() == 512_MiB);
  CHECK(f.storage->counters().written_for_room == 0);
}

TEST_CASE("host storage: a writer above dirty_ratio writes back itself") {
  HostFixture f = host_with(1_GiB);
  f.host.file_system.dirty_background_ratio = f.host.file_system.dirty_ratio = 0.2;
  f.host.file_system.hit_per_page = 10ns;  // faster than the SSD
  f.host.file_system.miss_per_page = 10ns;
  f.build();
  const MemoryObject file = f.storage->create_file("kv", 1_GiB);
  const SimTime done = write(f, kStart, {file, 0_B, 1_GiB});
  CHECK(f.storage->counters().written_by_throttled > 0);
  CHECK(f.storage->memory().dirty() <= 1_GiB / 5);
  CHECK(rate(1_GiB, done - kStart) < 5.1e9 / 0.75);  // a fifth stays in memory
}

TEST_CASE("host storage: clean pages are dropped, dirty ones written before they go") {
  HostFixture f = host_with(64_MiB);
  f.host.file_system.dirty_background_ratio = f.host.file_system.dirty_ratio = 1;
  f.build();
  const MemoryObject clean = stored_file(f, 64_MiB);
  const MemoryObject dirty = f.storage->create_file("kv", 64_MiB);
  SimTime now = read(f, kStart, {clean, 0_B, 64_MiB});
  now = write(f, now, {dirty, 0_B, 64_MiB});
  CHECK(f.ssds->bytes_written() == 0_B);
  now = read(f, now, {clean, 0_B, 64_MiB});
  CHECK(f.ssds->bytes_written() == 64_MiB);
  now = read(f, now, {dirty, 0_B, 64_MiB});
  CHECK(f.ssds->bytes_written() == 64_MiB);
  CHECK(f.ssds->bytes_read() == 192_MiB);
}

TEST_CASE("host storage: touching resident memory is free, the first touch is a minor fault") {
  HostFixture f = host_with(1_GiB);
  f.build();
  const MemoryObject region = f.storage->create_region(256_MiB);
  const SimTime warm = touch(f, kStart, {region, 0_B, 256_MiB}, Access::write);
  CHECK(warm - kStart == f.host.swap.minor_fault * (256_MiB / 4_KiB));
  CHECK(touch(f, warm, {region, 0_B, 256_MiB}, Access::read) == warm);
}

TEST_CASE("host storage: swap thrashing has the rate of its formula") {
  HostFixture f = host_with(64_MiB);
  f.build();
  const Bytes size = 128_MiB;
  const MemoryObject region = f.storage->create_region(size);
  const SimTime warm = touch(f, kStart, {region, 0_B, size}, Access::write);
  const Bytes written = f.ssds->bytes_written();
  const SimTime done = touch(f, warm, {region, 0_B, size}, Access::read);
  // All of it is in swap or goes there before it is used again; after this round all is clean.
  const SwapConfig& swap = f.host.swap;
  const SimDuration io = f.host.file_system.io_submission;
  const SimDuration cluster =
      swap.major_fault + io + idle_ssd_read(f, 2, 16_KiB) + swap.minor_fault * 8;
  const SimDuration reading = cluster * (size / 32_KiB);
  const SimDuration unmapping = (io + swap.swap_out_per_page * 32) * (64_MiB / 128_KiB);
  const SimDuration rest = (done - warm) - reading - unmapping;
  MESSAGE(fmt::format(
      "{} clusters x (major_fault + io_submission + SSD read of 32 KiB {} + 8 x minor_fault) = {}; "
      "swap-out of 64 MiB: CPU {}, SSD {}; in all {}: {:.3f} GB/s",
      size / 32_KiB, format_exact(idle_ssd_read(f, 2, 16_KiB)), format_short(reading),
      format_short(unmapping), format_short(rest), format_short(done - warm),
      rate(size, done - warm) / 1e9));
  CHECK(f.ssds->bytes_written() - written == 64_MiB);
  // The rest is the writing of 32 extents, and what their programs delay reads.
  const SimDuration transfer = time_for(2_MiB, f.host_link) * 32;
  CHECK(rest > transfer);
  CHECK(rest < transfer + 32 * (SimDuration{400us} + 16 * SimDuration{10us}));
  // A round that dirties nothing and finds all of it clean only reads.
  const SimTime clean = touch(f, done + 1s, {region, 0_B, size}, Access::read);
  CHECK(clean - (done + 1s) == reading);
}

TEST_CASE("host storage: two streams share one core and one SSD") {
  const Bytes size = 64_MiB;
  const auto elapsed = [&](int cores, std::size_t streams) {
    HostFixture f = host_with(2_GiB);
    f.host.cores = cores;
    f.build();
    std::vector<MemoryObject> files;
    for (std::size_t i = 0; i < streams; ++i) {
      files.push_back(stored_file(f, size));
    }
    const auto read_all = [&](SimTime now) {
      return f.run_all(now, streams, [&](std::size_t i, SimTime at, Completion& done) {
        f.storage->read_file(at, {files[i], 0_B, size}, done);
      });
    };
    const SimTime cold = read_all(kStart);
    const SimTime hot = read_all(cold);
    return std::pair{cold - kStart, hot - cold};
  };
  const auto [cold_alone, hot_alone] = elapsed(2, 1);
  const auto [cold_two, hot_two] = elapsed(2, 2);
  const auto [cold_shared, hot_shared] = elapsed(1, 2);
  CHECK(hot_two == hot_alone);
  CHECK(hot_shared == 2 * hot_alone);
  CHECK(cold_two >= cold_alone);
  CHECK(cold_two < cold_alone * 11 / 10);  // an SSD has room for two
  CHECK(cold_shared >= cold_two);
}

TEST_CASE("host storage: mixed streams finish, conserve bytes and are reproducible") {
  const auto run = [] {
    HostFixture f = host_with(64_MiB);
    f.build();
    const MemoryObject a = stored_file(f, 48_MiB);
    const MemoryObject b = f.storage->create_file("b", 48_MiB);
    const MemoryObject region = f.storage->create_region(48_MiB);
    Rng rng(11, "host storage/mixed");
    SimTime now = kStart;
    for (int round = 0; round < 60; ++round) {
      now = f.run_all(now, 3, [&](std::size_t i, SimTime at, Completion& done) {
        const Bytes offset{static_cast<std::int64_t>(rng.below(40 << 20))};
        const Bytes length{static_cast<std::int64_t>(rng.below(8 << 20)) + 1};
        if (i == 0) {
          f.storage->read_file(at, {a, offset, length}, done);
        } else if (i == 1) {
          f.storage->write_file(at, {b, offset, length}, done);
        } else {
          const Access access = rng.below(2) == 0 ? Access::read : Access::write;
          f.storage->touch_memory(at, {region, offset, length}, access, done);
        }
      });
      REQUIRE(f.storage->memory().resident() <= 64_MiB);
    }
    const HostStorage::Counters& c = f.storage->counters();
    CHECK(f.ssds->bytes_read() <= 128_KiB * c.reads);
    CHECK(f.ssds->bytes_read() > 0_B);
    CHECK(f.ssds->bytes_written() ==
          128_KiB * (c.written_for_room + c.written_in_background + c.written_by_throttled));
    return std::pair{now, f.ssds->bytes_written()};
  };
  CHECK(run() == run());
}

TEST_CASE("host storage: a faster SSD, cheaper pages or more memory never make a scan later") {
  const auto elapsed = [](auto change) {
    HostFixture f = host_with(40_MiB);
    change(f);
    f.build();
    const MemoryObject file = stored_file(f, 64_MiB);
    SimTime now = kStart;
    Rng rng(2, "host storage/monotone");
    for (int i = 0; i < 50; ++i) {
      const Bytes offset{static_cast<std::int64_t>(rng.below(40 << 20))};
      now = read(f, now, {file, offset, 24_MiB});
    }
    return now - kStart;
  };
  for (const int in_flight : {1, 2, 4}) {
    const auto base = [&](HostFixture& f) { f.host.file_system.windows_in_flight = in_flight; };
    const SimDuration before = elapsed(base);
    CHECK(elapsed([&](HostFixture& f) {
            base(f);
            f.ssd.flash.t_read.lsb = 30us;
          }) < before);
    CHECK(elapsed([&](HostFixture& f) {
            base(f);
            f.host_link = Rate{9'000'000'000};
          }) <= before);
    CHECK(elapsed([&](HostFixture& f) {
            base(f);
            f.ssd.controller.command_cost = 1us;
          }) < before);
    CHECK(elapsed([&](HostFixture& f) {
            base(f);
            f.host.file_system.miss_per_page = 1ns;
          }) < before);
    CHECK(elapsed([&](HostFixture& f) {
            base(f);
            f.host.dram += 16_MiB;
          }) < before);
  }
}

TEST_CASE("host storage: files beyond the SSDs and regions beyond swap are results") {
  HostFixture f = host_with(1_GiB);
  f.build();
  f.storage->create_file("most", Bytes{1'800'000'000'000});
  CHECK_THROWS_AS(f.storage->create_file("more", Bytes{100'000'000'000}), OutOfCapacity);
  CHECK_THROWS_AS(f.storage->create_region(129_GiB), OutOfCapacity);
  f.storage->create_region(128_GiB);
}

TEST_CASE("host storage: assumed use leaves memory as a stream does") {
  const auto resident_after = [](bool assumed) {
    HostFixture f = host_with(32_MiB);
    f.build();
    const MemoryObject file = stored_file(f, 64_MiB);
    const MemorySpan span{file, 1_MiB, 50_MiB};
    SimTime now = kStart;
    if (assumed) {
      f.storage->assume_used(span, Access::read);
    } else {
      now = read(f, now, span);
    }
    read(f, now, {file, 40_MiB, 24_MiB});
    return f.storage->counters().hits;
  };
  CHECK(resident_after(true) == resident_after(false));
  CHECK(resident_after(true) > 0);
}

TEST_CASE("host storage: nothing to do takes no time") {
  HostFixture f = host_with(1_GiB);
  f.build();
  const MemoryObject file = stored_file(f, 1_MiB);
  CHECK(read(f, kStart, {file, 0_B, 0_B}) == kStart);
  CHECK_THROWS_AS(read(f, kStart, {file, 1_MiB, 1_B}), CheckFailure);
}
