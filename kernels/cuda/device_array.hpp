// Device memory as a value, and the check of CUDA's return codes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>

namespace nearkv::kernels::cuda {

/// Throws std::runtime_error with the name of the call and CUDA's text.
inline void require(cudaError_t status, const char* call) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(status));
  }
}

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : size_(values.size()) {
    void* memory = nullptr;
    require(cudaMalloc(&memory, std::max<std::size_t>(size_, 1) * sizeof(T)), "cudaMalloc");
    data_ = static_cast<T*>(memory);
    if (const cudaError_t status =
            cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice);
        status != cudaSuccess) {
      cudaFree(data_);
      require(status, "cudaMemcpy to the device");
    }
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  [[nodiscard]] T* data() const { return data_; }
  /// Waits for the device.
  [[nodiscard]] std::vector<T> values() const {
    std::vector<T> values(size_);
    require(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost),
            "cudaMemcpy from the device");
    return values;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

}  // namespace nearkv::kernels::cuda
