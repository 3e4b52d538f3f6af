// The host: cores, memory, copies to and from the GPU, the file-system path. Config /host.
#pragma once

#include "sim/core/fields.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

/// What reading and writing a memory-mapped file costs on the CPU, and how the kernel reads ahead
/// and writes back.
struct FileSystemConfig {
  Bytes readahead_window{};           // a missing part of a file is read in these, aligned
  int windows_in_flight = 0;          // windows of one stream that are read ahead at a time
  SimDuration hit_per_page{};         // mapping fault and copy to or from the relay buffer
  int fault_threads = 0;              // threads that do so at a time
  SimDuration miss_per_page{};        // on top, for a page that was not resident
  SimDuration io_submission{};        // block layer and driver, a request
  double dirty_background_ratio = 0;  // share of memory; above it dirty data are written back
  double dirty_ratio = 0;             // share of memory; above it writers write back themselves

  void fields(FieldVisitor& v);
};

struct SwapConfig {
  Bytes size{};
  int cluster_pages = 0;            // swap readahead: pages read by one major fault
  SimDuration major_fault{};        // CPU time of a fault that reads a cluster
  SimDuration minor_fault{};        // a page: first touch, or mapping what swap readahead brought
  SimDuration swap_out_per_page{};  // unmap, TLB shootdown, swap slot

  void fields(FieldVisitor& v);
};

/// Decode attention computed by the CPU on K and V in FP32.
struct CpuAttentionConfig {
  double memory_fraction = 0;  // of dram_rate that it reaches while memory is what limits it
  FlopRate flop_rate{};        // of all cores, FP32

  void fields(FieldVisitor& v);
};

/// The program that runs the model, where it is an eager framework (PyTorch) whose operators one
/// host thread, the driver, issues as it comes to them. What is done to much memory (a copy between
/// pageable and pinned memory, a conversion) is done by a team of all cores, which the driver waits
/// for; afterwards the team's threads spin for a while and slow the driver down, with which they
/// share cores.
struct FrameworkConfig {
  SimDuration kernel_issue{};  // of the driver: interpreter, dispatcher, launch
  SimDuration task{};          // of the driver, beside kernels: one block of a GPU batch
  SimDuration team_start{};    // until all of the team are at work, and back
  Rate team_rate{};            // bytes that the team reads at most, whatever memory allows
  double team_slowdown = 1;    // of the driver's times while the team spins
  SimDuration copy_task{};     // of a copy thread, a tensor: queue, views; one thread at a time
  SimDuration file_open{};     // opens and closes a mapped file; one thread at a time
  SimDuration first_pass{};    // shapes seen for the first time: allocation, choice of kernels

  void fields(FieldVisitor& v);
};

struct HostPowerConfig {
  Power cpu_idle{};      // all of the package, in a run: not in a deep sleep state
  Power cpu_core{};      // on top, for each busy core
  Power dram_per_gib{};  // of the installed memory, whatever its traffic
  Power board{};         // mainboard, fans, network, boot drive
  double supply_efficiency = 0;

  void fields(FieldVisitor& v);
};

/// Purchase prices in US dollars.
struct HostPriceConfig {
  double cpu_usd = 0;
  double dram_usd_per_gib = 0;
  double chassis_usd = 0;  // all else: chassis, mainboard, power supplies, fans, network

  void fields(FieldVisitor& v);
};

struct HostConfig {
  int cores = 0;
  Bytes dram{};
  Bytes reserved{};  // held by operating system and runtime
  Rate dram_rate{};  // sustained, all cores
  Bytes last_level_cache{};
  Rate pageable_h2d{};  // copies of pageable memory; pinned memory moves at link rate
  Rate pageable_d2h{};
  Bytes page_size{};
  Bytes memory_extent{};  // granule of the LRU over page cache and anonymous memory
  FileSystemConfig file_system;
  SwapConfig swap;
  CpuAttentionConfig cpu_attention;
  FrameworkConfig framework;
  HostPowerConfig power;
  HostPriceConfig price;

  void fields(FieldVisitor& v);
};

}  // namespace nearkv
