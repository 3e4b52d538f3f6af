#include "models/host/host_config.hpp"

namespace nearkv {

using namespace std::chrono_literals;

void FileSystemConfig::fields(FieldVisitor& v) {
  const Range cpu_cost = range_of(0_ps, 1ms);
  v.constant("readahead_window", readahead_window,
             "how much of a file the kernel reads ahead at a time, aligned to itself",
             range_of(512_B, 1_GiB));
  v.parameter("windows_in_flight", windows_in_flight,
              "readahead windows of one stream that are read at a time; 1: each is waited for",
              {1, 64});
  v.constant("hit_per_page", hit_per_page,
             "CPU time of a mapped page that is resident: minor fault and copy", cpu_cost);
  v.constant("fault_threads", fault_threads,
             "threads that hit_per_page takes at a time; more of them wait for each other",
             {1, 1024});  // not a constant: a limit against slips
  v.constant("miss_per_page", miss_per_page,
             "additional CPU time of a page that is not: allocation, insertion, reclaim", cpu_cost);
  v.constant("io_submission", io_submission, "CPU time of one block request", cpu_cost);
  v.constant("dirty_background_ratio", dirty_background_ratio,
             "share of memory above which dirty file data are written back", {0, 1});
  v.constant("dirty_ratio", dirty_ratio,
             "share of memory above which a writer waits for its own writeback", {0, 1});
  v.require(dirty_background_ratio <= dirty_ratio, "dirty_background_ratio",
            "must not exceed dirty_ratio");
}

void SwapConfig::fields(FieldVisitor& v) {
  const Range cpu_cost = range_of(0_ps, 1ms);
  v.parameter("size", size, "swap space on the SSDs; 0B for none", at_least(0));
  v.constant("cluster_pages", cluster_pages, "pages that one major fault reads from swap",
             {1, 1024});  // not a constant: a limit against slips
  v.constant("major_fault", major_fault, "CPU time of a fault that reads from swap", cpu_cost);
  v.constant("minor_fault", minor_fault, "CPU time to map one anonymous page", cpu_cost);
  v.constant("swap_out_per_page", swap_out_per_page,
             "CPU time to unmap a page and give it a swap slot", cpu_cost);
}

void CpuAttentionConfig::fields(FieldVisitor& v) {
  constexpr double kSmallest = 1e-3;  // not a constant: a limit of the input
  v.constant("memory_fraction", memory_fraction,
             "fraction of dram_rate that decode attention on the CPU reaches", {kSmallest, 1});
  v.constant("flop_rate", flop_rate, "FP32 operations a second of all cores", at_least(1));
}

void FrameworkConfig::fields(FieldVisitor& v) {
  const Range host_work = range_of(0_ps, 1s);
  v.constant("kernel_issue", kernel_issue,
             "time in which the driver thread issues one kernel: interpreter, dispatcher, launch",
             host_work);
  v.constant("task", task,
             "time of the driver thread beside kernels for one block of a GPU batch: streams, "
             "look-ups, synchronization",
             host_work);
  v.constant("team_start", team_start,
             "fixed time of a copy or conversion in host memory that a team of all cores does",
             host_work);
  v.constant("team_rate", team_rate,
             "bytes a second that such a team reads when it need not wait for memory", at_least(1));
  constexpr double kMost = 64;  // not a constant: a limit against slips
  v.constant("team_slowdown", team_slowdown,
             "factor on the driver thread's times while the team's idle threads spin", {1, kMost});
  v.constant("copy_task", copy_task,
             "time in which a copy thread takes a tensor from its queue and makes its views, under "
             "the interpreter's lock",
             host_work);
  v.constant("file_open", file_open,
             "time to open and close a memory-mapped file, under the interpreter's lock",
             host_work);
  v.constant(
      "first_pass", first_pass,
      "time that a prompt's shapes, seen for the first time, cost once: allocation, choice of "
      "kernels",
      host_work);
}

void HostPowerConfig::fields(FieldVisitor& v) {
  v.constant("cpu_idle", cpu_idle, "power of the CPU package while no core works", at_least(0));
  v.constant("cpu_core", cpu_core, "power that each busy core adds", at_least(0));
  v.constant("dram_per_gib", dram_per_gib,
             "power of a GiB of installed memory, taken as independent of its traffic",
             at_least(0));
  v.constant("board", board, "power of mainboard, fans, network and boot drive", at_least(0));
  constexpr double kSmallest = 0.1;  // not a constant: a limit against slips
  v.constant("supply_efficiency", supply_efficiency,
             "what the power supplies deliver of what they draw", {kSmallest, 1});
}

void HostPriceConfig::fields(FieldVisitor& v) {
  v.constant("cpu_usd", cpu_usd, "purchase price of the CPU in US dollars", at_least(0));
  v.constant("dram_usd_per_gib", dram_usd_per_gib,
             "purchase price of a GiB of host memory in US dollars", at_least(0));
  v.constant("chassis_usd", chassis_usd,
             "purchase price in US dollars of chassis, mainboard, power supplies, fans and network",
             at_least(0));
}

void HostConfig::fields(FieldVisitor& v) {
  v.parameter("cores", cores, "CPU cores", {1, 1024});  // not a constant: a limit against slips
  v.parameter("dram", dram, "host memory", at_least(1));
  v.constant("reserved", reserved, "memory held by operating system and runtime", at_least(0));
  v.constant("dram_rate", dram_rate, "sustained memory bandwidth", at_least(1));
  v.constant("last_level_cache", last_level_cache,
             "cache that all cores share; what a copy writes stays there if it fits", at_least(0));
  v.constant("pageable_h2d", pageable_h2d, "copy of pageable memory to the GPU", at_least(1));
  v.constant("pageable_d2h", pageable_d2h, "copy from the GPU into pageable memory", at_least(1));
  v.constant("page_size", page_size, "page of the virtual memory", range_of(512_B, 1_GiB));
  v.parameter("memory_extent", memory_extent,
              "granule in which page cache and anonymous memory age and are evicted",
              range_of(512_B, 1_GiB));
  v.group("file_system", file_system, "the path of file reads and writes through the page cache");
  v.group("swap", swap, "anonymous memory that does not fit");
  v.group("cpu_attention", cpu_attention, "decode attention on the CPU (FlexGen's option)");
  v.group("framework", framework, "host-side costs of an eager framework (what FlexGen runs on)");
  v.group("power", power, "power of CPU, memory, mainboard and power supplies");
  v.group("price", price, "purchase prices of CPU, memory and the rest of the server");

  const Bytes& window = file_system.readahead_window;
  const auto divides = [](Bytes part, Bytes whole) { return whole.count() % part.count() == 0; };
  v.require(reserved < dram, "reserved", "must be less than dram, " + format_exact(dram));
  v.require([&] { return divides(page_size, window); }, "file_system/readahead_window",
            "must be whole pages");
  v.require([&] { return divides(window, memory_extent) && memory_extent >= window; },
            "memory_extent",
            "must be a multiple of file_system/readahead_window, " + format_exact(window));
  v.require(memory_extent <= window * 64, "memory_extent",
            "must be at most 64 times file_system/readahead_window");
  v.require([&] { return divides(page_size * swap.cluster_pages, window); }, "swap/cluster_pages",
            "times page_size must divide file_system/readahead_window");
  v.require(memory_extent <= dram - reserved, "memory_extent", "must fit into dram - reserved");
}

}  // namespace nearkv
