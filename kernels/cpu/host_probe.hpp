// Work of known size on the processor, its memory and its disk, for calibration. Nothing here looks
// at a clock: a probe does its work once a call, and who calls it measures the time. All results
// end in a checksum that can be read, so that no compiler leaves the work out.
//
// Probes of memory and matrix products pass over more bytes than any cache holds, either in one
// call or by taking the next of several equal buffers at each call.
//
// Errors: std::invalid_argument for sizes below 1, std::system_error with the call and the path for
// what the operating system refuses.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace nearkv::kernels::cpu {

/// Threads that wait for work. The caller is thread 0, so that a team of one has no other.
class ThreadTeam {
 public:
  explicit ThreadTeam(int threads);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  [[nodiscard]] int size() const;
  /// Calls work(thread) in every thread and returns when all are done; rethrows what the first of
  /// them threw.
  void run(const std::function<void(int)>& work);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Part `index` of `parts` nearly equal ones of 0 .. count - 1.
struct Slice {
  std::size_t first = 0;
  std::size_t size = 0;
};
[[nodiscard]] Slice slice_of(std::size_t count, int index, int parts);

/// Two buffers of `bytes` each (a multiple of 8), every thread's slice touched by that thread.
class MemoryProbe {
 public:
  MemoryProbe(ThreadTeam& team, std::size_t bytes);

  void read();  ///< passes the first buffer: `bytes` read
  void copy();  ///< memcpy to the second: `bytes` read and as many written
  [[nodiscard]] std::uint64_t checksum() const { return checksum_; }

 private:
  ThreadTeam& team_;
  std::size_t words_;
  std::unique_ptr<std::uint64_t[]> from_;
  std::unique_ptr<std::uint64_t[]> to_;
  std::uint64_t checksum_ = 0;
};

struct GemmShape {
  int rows;  ///< [rows x depth] x [depth x columns]
  int columns;
  int depth;
};

/// An FP32 product by Eigen; every thread computes a slice of the columns.
class GemmProbe {
 public:
  /// Makes as many copies of the [depth x columns] matrix as fill `least_bytes`, one at least.
  GemmProbe(ThreadTeam& team, const GemmShape& shape, std::size_t least_bytes);
  ~GemmProbe();
  GemmProbe(const GemmProbe&) = delete;
  GemmProbe& operator=(const GemmProbe&) = delete;

  void run();
  /// One value of the last product: [row][column].
  [[nodiscard]] float value(int row, int column) const;
  /// The same from the operands in double, for tests.
  [[nodiscard]] double exact_value(int row, int column) const;

 private:
  struct Matrices;
  ThreadTeam& team_;
  std::unique_ptr<Matrices> matrices_;
};

struct PrefillShape {
  int heads;  ///< of all sequences
  int d_head;
  int tokens;
};

/// Causal attention of whole prompts in FP32, not fused: all scores by Eigen, softmax over the
/// tokens so far, values by Eigen; the threads share the heads.
class PrefillProbe {
 public:
  PrefillProbe(ThreadTeam& team, const PrefillShape& shape);
  ~PrefillProbe();
  PrefillProbe(const PrefillProbe&) = delete;
  PrefillProbe& operator=(const PrefillProbe&) = delete;

  void run();
  /// One value of the output, and the same from the formula in double, for tests.
  [[nodiscard]] float value(int head, int token, int channel) const;
  [[nodiscard]] double exact_value(int head, int token, int channel) const;

 private:
  struct Matrices;
  ThreadTeam& team_;
  PrefillShape shape_;
  std::unique_ptr<Matrices> matrices_;
};

/// Eigen's version and the vector instructions that it was compiled for: "3.4.0, SSE, SSE2".
[[nodiscard]] std::string eigen_version();

/// A file without a name in `folder` that passes the page cache by (O_DIRECT). Blocks of
/// `block_bytes` (a multiple of 4 KiB) go one after another in each thread, every thread in a slice
/// of the file.
class DirectFileProbe {
 public:
  struct Size {
    std::size_t file_bytes;
    std::size_t block_bytes;
  };
  DirectFileProbe(ThreadTeam& team, const std::string& folder, const Size& size);
  ~DirectFileProbe();
  DirectFileProbe(const DirectFileProbe&) = delete;
  DirectFileProbe& operator=(const DirectFileProbe&) = delete;

  void write();  ///< the whole file
  void read();   ///< likewise; what was written before
  /// Bytes that a read found different from what was written.
  [[nodiscard]] std::size_t mismatches() const { return mismatches_; }

 private:
  class Block;
  void transfer(bool is_write);

  ThreadTeam& team_;
  std::string folder_;
  Size size_;
  int file_;
  std::atomic<std::size_t> mismatches_{0};
};

/// A file in the page cache that is mapped anew at each call and copied page by page to a buffer of
/// one page: the cost of a resident page of a memory-mapped file.
class MappedFileProbe {
 public:
  MappedFileProbe(const std::string& folder, std::size_t bytes);
  ~MappedFileProbe();
  MappedFileProbe(const MappedFileProbe&) = delete;
  MappedFileProbe& operator=(const MappedFileProbe&) = delete;

  void run();
  [[nodiscard]] std::size_t pages() const;
  [[nodiscard]] std::uint64_t checksum() const { return checksum_; }

 private:
  std::string folder_;
  std::size_t bytes_;
  int file_;
  std::uint64_t checksum_ = 0;
};

/// Anonymous memory of base pages that is mapped anew and touched once a page at each call: minor
/// faults that zero a page.
class FirstTouchProbe {
 public:
  explicit FirstTouchProbe(std::size_t bytes);
  void run();
  [[nodiscard]] std::size_t pages() const;

 private:
  std::size_t bytes_;
};

/// What /proc and sysconf say about the host; 0 or empty where they say nothing.
struct HostProperties {
  std::string cpu_model;
  int cores = 0;  // that this process may use
  double megahertz = 0;
  std::size_t last_level_cache = 0;
  std::size_t memory = 0;
  std::size_t page_bytes = 0;
  std::string kernel;  // "Linux 6.1.0"
};
[[nodiscard]] HostProperties host_properties();

/// "model name", "cpu MHz" of a text in the form of /proc/cpuinfo, and "cache size"; likewise
/// "MemTotal" of /proc/meminfo: the value of the first line with the key, or empty.
[[nodiscard]] std::string proc_value(std::string_view text, std::string_view key);

}  // namespace nearkv::kernels::cpu
