// The probes of kernels/cpu/host_probe.hpp that ask the operating system: files and mappings.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <system_error>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/cpu/host_probe.hpp"

namespace nearkv::kernels::cpu {

namespace {

constexpr std::size_t kAlignment = 4096;  // of O_DIRECT; no disk asks for more

[[noreturn]] void refuse(const std::string& call, const std::string& path) {
  throw std::system_error(errno, std::generic_category(), path + ": " + call);
}

std::size_t page_bytes() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

/// A new file that vanishes when it is closed. Its folder need not know O_TMPFILE.
int unnamed_file(const std::string& folder, int flags) {
  std::string name = folder + "/nearkv_calibrate_XXXXXX";
  const int file = mkostemp(name.data(), flags);
  if (file < 0) {
    // Some file systems refuse O_DIRECT only after they made the file.
    const int reason = errno;
    unlink(name.c_str());
    errno = reason;
    refuse((flags & O_DIRECT) != 0 ? "open with O_DIRECT" : "open", folder);
  }
  unlink(name.c_str());
  return file;
}

/// A byte that depends on its place, so that a block in the wrong place is seen.
unsigned char byte_at(std::size_t offset) {
  constexpr std::size_t kPeriod = 251;
  return static_cast<unsigned char>(offset / kAlignment % kPeriod);
}

}  // namespace

// -- O_DIRECT ---------------------------------------------------------------------------------

/// An aligned buffer.
class DirectFileProbe::Block {
 public:
  explicit Block(std::size_t bytes)
      : data_(static_cast<unsigned char*>(std::aligned_alloc(kAlignment, bytes))) {
    if (data_ == nullptr) {
      throw std::bad_alloc();
    }
  }
  ~Block() { std::free(data_); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  [[nodiscard]] unsigned char* data() const { return data_; }

 private:
  unsigned char* data_;
};

DirectFileProbe::DirectFileProbe(ThreadTeam& team, const std::string& folder, const Size& size)
    : team_(team), folder_(folder), size_(size), file_(-1) {
  if (size.block_bytes == 0 || size.block_bytes % kAlignment != 0 || size.file_bytes == 0 ||
      size.file_bytes % size.block_bytes != 0) {
    throw std::invalid_argument(
        "size: blocks must be a multiple of 4096 bytes and the file one of blocks");
  }
  file_ = unnamed_file(folder, O_DIRECT);
}

DirectFileProbe::~DirectFileProbe() { close(file_); }

void DirectFileProbe::transfer(bool is_write) {
  const std::size_t blocks = size_.file_bytes / size_.block_bytes;
  team_.run([&](int thread) {
    const Block block(size_.block_bytes);
    const Slice slice = slice_of(blocks, thread, team_.size());
    for (std::size_t i = slice.first; i < slice.first + slice.size; ++i) {
      const std::size_t offset = i * size_.block_bytes;
      if (is_write) {
        // One byte a sector differs: filling a whole block would take as long as a fast disk.
        for (std::size_t at = 0; at < size_.block_bytes; at += kAlignment) {
          block.data()[at] = byte_at(offset + at);
        }
      }
      const auto at = static_cast<off_t>(offset);
      const ssize_t moved = is_write ? pwrite(file_, block.data(), size_.block_bytes, at)
                                     : pread(file_, block.data(), size_.block_bytes, at);
      if (moved != static_cast<ssize_t>(size_.block_bytes)) {
        errno = moved < 0 ? errno : ENOSPC;
        refuse(is_write ? "write with O_DIRECT" : "read with O_DIRECT", folder_);
      }
      for (std::size_t sector = 0; !is_write && sector < size_.block_bytes; sector += kAlignment) {
        mismatches_ += block.data()[sector] == byte_at(offset + sector) ? 0U : 1U;
      }
    }
  });
}

void DirectFileProbe::write() {
  transfer(true);
  if (fdatasync(file_) != 0) {
    refuse("fdatasync", folder_);
  }
}

void DirectFileProbe::read() { transfer(false); }

// -- Mappings ---------------------------------------------------------------------------------

MappedFileProbe::MappedFileProbe(const std::string& folder, std::size_t bytes)
    : folder_(folder), bytes_(bytes), file_(-1) {
  if (bytes == 0 || bytes % page_bytes() != 0) {
    throw std::invalid_argument("bytes: must be whole pages, is " + std::to_string(bytes));
  }
  file_ = unnamed_file(folder, 0);
  const std::vector<char> page(page_bytes(), 1);
  for (std::size_t offset = 0; offset < bytes; offset += page.size()) {
    if (::write(file_, page.data(), page.size()) != static_cast<ssize_t>(page.size())) {
      const int reason = errno;
      close(file_);
      errno = reason;
      refuse("write", folder_);
    }
  }
}

MappedFileProbe::~MappedFileProbe() { close(file_); }

std::size_t MappedFileProbe::pages() const { return bytes_ / page_bytes(); }

void MappedFileProbe::run() {
  void* mapped = mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, file_, 0);
  if (mapped == MAP_FAILED) {
    refuse("mmap", folder_);
  }
  const std::size_t page = page_bytes();
  std::vector<char> relay(page);
  std::uint64_t sum = 0;
  for (std::size_t offset = 0; offset < bytes_; offset += page) {
    std::memcpy(relay.data(), static_cast<const char*>(mapped) + offset, page);
    sum += static_cast<std::uint64_t>(relay[offset / page % page]);
  }
  checksum_ = sum;
  munmap(mapped, bytes_);
}

FirstTouchProbe::FirstTouchProbe(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0 || bytes % page_bytes() != 0) {
    throw std::invalid_argument("bytes: must be whole pages, is " + std::to_string(bytes));
  }
}

std::size_t FirstTouchProbe::pages() const { return bytes_ / page_bytes(); }

void FirstTouchProbe::run() {
  void* mapped = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) {
    refuse("mmap", "anonymous memory");
  }
  // Base pages, as the model's faults are; a kernel without huge pages refuses, which is as good.
  static_cast<void>(madvise(mapped, bytes_, MADV_NOHUGEPAGE));
  const std::size_t page = page_bytes();
  for (std::size_t offset = 0; offset < bytes_; offset += page) {
    static_cast<volatile char*>(mapped)[offset] = 1;
  }
  munmap(mapped, bytes_);
}

}  // namespace nearkv::kernels::cpu
