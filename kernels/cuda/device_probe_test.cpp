#include "kernels/cuda/device_probe.hpp"

#include <stdexcept>

#include <doctest/doctest.h>

using namespace nearkv::kernels::cuda;

namespace {

bool there_is_no_device() {
  const std::string reason = missing_device();
  if (reason.empty()) {
    return false;
  }
  MESSAGE("not run: ", reason);
  CHECK(reason.find("driver for CUDA") != std::string::npos);
  return true;
}

double seconds_of(const DeviceContext& context, DeviceOperation& operation, int calls,
                  LaunchMode mode) {
  DeviceTimer timer(context, operation, calls, mode);
  return timer.seconds_a_call();
}

}  // namespace

TEST_CASE("device probe: every operation runs eagerly and in a graph") {
  if (there_is_no_device()) {
    return;
  }
  CHECK(!device_properties().name.empty());
  CHECK(device_properties().memory >= memory_free());
  const DeviceContext context;
  HostCopyBuffers pinned(context, 1 << 20, true);
  Operation operations[] = {
      empty_kernel(context),
      device_read(context, 1 << 20),
      device_copy(context, 1 << 20, DeviceCopyBy::kernel),
      device_copy(context, 1 << 20, DeviceCopyBy::runtime),
      device_gemm(context, {3, 64, 128}),
      device_decode_attention(context, {2, 3, 128, 700}),
      device_decode_attention(context, {2, 3, 128, 700, 16, 64}),
      device_prefill_attention(context, {1, 2, 64, 256}, PrefillPart::all),
      device_layer_norm(context, {5, 2048}),
      pinned.copy(CopyDirection::host_to_device, 1 << 18),
      pinned.copy(CopyDirection::both, 1 << 20),
  };
  for (const Operation& operation : operations) {
    CHECK(seconds_of(context, *operation, 5, LaunchMode::eager) > 0);
    CHECK(seconds_of(context, *operation, 5, LaunchMode::graph) > 0);
  }
  HostCopyBuffers pageable(context, 1 << 20, false);
  const Operation back = pageable.copy(CopyDirection::device_to_host, 1 << 20);
  CHECK(seconds_of(context, *back, 2, LaunchMode::eager) > 0);
}

TEST_CASE("device probe: sizes that do not fit are refused") {
  if (there_is_no_device()) {
    return;
  }
  const DeviceContext context;
  CHECK_THROWS_AS(static_cast<void>(device_read(context, 8)), std::invalid_argument);
  CHECK_THROWS_AS(static_cast<void>(device_gemm(context, {0, 1, 1})), std::invalid_argument);
  CHECK_THROWS_AS(static_cast<void>(device_layer_norm(context, {1, 3})), std::invalid_argument);
  CHECK_THROWS_AS(
      static_cast<void>(device_prefill_attention(context, {1, 1, 64, 3}, PrefillPart::all)),
      std::invalid_argument);
  HostCopyBuffers pageable(context, 4096, false);
  CHECK_THROWS_AS(static_cast<void>(pageable.copy(CopyDirection::both, 4096)),
                  std::invalid_argument);
  CHECK_THROWS_AS(static_cast<void>(pageable.copy(CopyDirection::host_to_device, 8192)),
                  std::invalid_argument);
}
