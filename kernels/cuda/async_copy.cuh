// Copies into shared memory that go on while the warp computes.
#pragma once

#include "kernels/cuda/attend.cuh"

namespace nearkv::kernels::cuda {

/// 16 bytes, or zeros if `exists` is not set.
__device__ inline void copy_16_bytes(unsigned to, const void* from, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(exists ? 16 : 0)
               : "memory");
}
__device__ inline void copy_16_bytes(unsigned to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
/// Ends a group of the lane's copies.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until all groups of the lane but the youngest `kLeft` have arrived.
template <int kLeft>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

}  // namespace nearkv::kernels::cuda
