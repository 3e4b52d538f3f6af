// Memory of page images: on huge pages where the system gives them on request, since a KV cache is
// read once from end to end and a walk of the page table every 4 KiB shows.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace nearkv::kernels {

template <typename T>
struct PageMemory {
  using value_type = T;

  PageMemory() = default;
  template <typename U>
  explicit PageMemory(const PageMemory<U>& /*other*/) {}

  T* allocate(std::size_t count) {
    constexpr std::size_t huge_page = std::size_t{2} << 20;
    const std::size_t bytes = count * sizeof(T);
    if (bytes < huge_page) {
      return static_cast<T*>(::operator new (bytes, std::align_val_t{alignof(std::max_align_t)}));
    }
    void* memory = std::aligned_alloc(huge_page, (bytes + huge_page - 1) / huge_page * huge_page);
    if (memory == nullptr) throw std::bad_alloc();
#if defined(__linux__)
    madvise(memory, bytes, MADV_HUGEPAGE);  // a wish: without it all works as well
#endif
    return static_cast<T*>(memory);
  }

  void deallocate(T* memory, std::size_t count) {
    constexpr std::size_t huge_page = std::size_t{2} << 20;
    if (count * sizeof(T) < huge_page) {
      ::operator delete (memory, std::align_val_t{alignof(std::max_align_t)});
    } else {
      std::free(memory);
    }
  }

  friend bool operator==(const PageMemory&, const PageMemory&) { return true; }
};

}  // namespace nearkv::kernels
