// Copies into shared memory that go on while the warp computes.
#pragma once

#include <cstdint>

#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/device_launch.cuh"

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

/// Counts the bytes of a tile that the copy engine brings (sm_90).
class TileBarrier {
 public:
  /// By one lane; ready() before the first use.
  __device__ void init() {
#if NEARKV_CUDA_HOPPER
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&state_)));
#endif
  }
  static __device__ void ready() {
#if NEARKV_CUDA_HOPPER
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
  }
  /// By one lane, before the copies.
  __device__ void expect(unsigned bytes) {
#if NEARKV_CUDA_HOPPER
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&state_)),
        "r"(bytes)
        : "memory");
#endif
  }
  __device__ void copy(unsigned to, const void* from, unsigned bytes) {
#if NEARKV_CUDA_HOPPER
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(to),
        "l"(from), "r"(bytes), "r"(shared_address(&state_))
        : "memory");
#endif
  }
  /// Phases alternate between 0 and 1.
  __device__ void wait(unsigned phase) {
#if NEARKV_CUDA_HOPPER
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(shared_address(&state_)),
        "r"(phase)
        : "memory");
#endif
  }

 private:
  std::uint64_t state_;
};

}  // namespace nearkv::kernels::cuda
