// How kernels are launched: with overlap of grids that follow each other, in clusters of blocks.
// Both are of sm_90; below, grids wait for the end of the one before and a cluster is one block.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "kernels/cuda/device_array.hpp"

namespace nearkv::kernels::cuda {

/// What launches need to know of the device; read once.
struct DeviceFacts {
  int multiprocessors = 0;
  int most_shared = 0;     // bytes of shared memory a block may have
  bool is_hopper = false;  // overlap of grids and clusters of blocks

  static DeviceFacts of_current() {
    int device = 0;
    require(cudaGetDevice(&device), "cudaGetDevice");
    const auto attribute = [device](cudaDeviceAttr name) {
      int value = 0;
      require(cudaDeviceGetAttribute(&value, name, device), "cudaDeviceGetAttribute");
      return value;
    };
    return {.multiprocessors = attribute(cudaDevAttrMultiProcessorCount),
            .most_shared = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
            .is_hopper = attribute(cudaDevAttrComputeCapabilityMajor) >= 9};
  }
};

struct GridShape {
  dim3 grid;
  int threads;
  std::size_t shared;  // bytes, dynamic
  int cluster = 1;     // blocks side by side in x
};

/// Launches so that the grid's blocks may start while the grid before in the stream ends (its last
/// blocks leave room); nothing of that grid's may be touched before wait_for_previous_grid().
template <typename Argument>
void launch_overlapping(void (*kernel)(Argument), const GridShape& shape, const DeviceFacts& device,
                        cudaStream_t stream, const Argument& argument) {
  cudaLaunchAttribute attributes[2];
  unsigned count = 0;
  if (device.is_hopper) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = shape.shared;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  require(cudaLaunchKernelEx(&config, kernel, argument), "cudaLaunchKernelEx");
}

#ifdef __CUDACC__

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define NEARKV_CUDA_HOPPER 1
#else
#define NEARKV_CUDA_HOPPER 0
#endif

/// All that grids before this one wrote is seen from here on.
__device__ inline void wait_for_previous_grid() {
#if NEARKV_CUDA_HOPPER
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// Once all blocks of this grid have said so, blocks of the next one may take free slots.
__device__ inline void let_next_grid_start() {
#if NEARKV_CUDA_HOPPER
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// -- Clusters: blocks of one head that read each other's shared memory ---------------------------

__device__ inline unsigned cluster_rank() {
  unsigned rank = 0;
#if NEARKV_CUDA_HOPPER
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}
__device__ inline unsigned cluster_size() {
  unsigned size = 1;
#if NEARKV_CUDA_HOPPER
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
#endif
  return size;
}
/// Barrier of all threads of the cluster in two halves; orders their accesses to shared memory.
__device__ inline void cluster_arrive() {
#if NEARKV_CUDA_HOPPER
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
__device__ inline void cluster_wait() {
#if NEARKV_CUDA_HOPPER
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}
__device__ inline void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}
/// The same shared variable in the block of that rank.
template <typename T>
__device__ T* in_block(T* mine, unsigned rank) {
#if NEARKV_CUDA_HOPPER
  std::uint64_t there = 0;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(reinterpret_cast<std::uint64_t>(mine)), "r"(rank));
  return reinterpret_cast<T*>(there);
#else
  return mine;
#endif
}

#endif  // __CUDACC__

}  // namespace nearkv::kernels::cuda
