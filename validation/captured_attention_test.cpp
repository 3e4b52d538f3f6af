// The CPU kernels on tensors of a real model, traces/fixtures/smollm2_135m.safetensors.
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "kernels/api.hpp"
#include "kernels/cpu/simd.hpp"
#ifdef NEARKV_CUDA
#include "kernels/cuda/attend.hpp"
#endif
#include "kernels/test_plain_attention.hpp"
#include "traces/captured_kv.hpp"
#include "validation/test_source_folder.hpp"

using namespace nearkv;

namespace {

const std::string kFixture = source_folder() + "/traces/fixtures/smollm2_135m.safetensors";

kernels::KvPages pages_of(const traces::CapturedKv& captured, const traces::CapturedHead& head) {
  kernels::KvPages pages{kernels::PageGeometry({captured.info().d_head, 4096, 4})};
  for (int token = 0; token < captured.info().tokens(); ++token) {
    pages.append(head.k(token), head.v(token));
  }
  return pages;
}

/// Both methods on some steps of one KV head of each captured layer.
void check_errors(kernels::testing::ErrorAccount::Attend attend) {
  const traces::CapturedKv captured(kFixture);
  const traces::CaptureInfo& info = captured.info();
  const auto d_head = static_cast<std::size_t>(info.d_head);
  for (const int layer : info.layers) {
    CAPTURE(layer);
    const traces::CapturedHead head = captured.head(layer, info.kv_heads.front());
    const kernels::KvPages pages = pages_of(captured, head);
    kernels::testing::ErrorAccount dense;
    kernels::testing::ErrorAccount sparf;
    for (int step = 0; step < info.steps; step += 16) {
      const int context = info.context(step);
      for (int query = 0; query < info.queries_per_kv_head(); ++query) {
        const auto row = head.queries(step).subspan(query * d_head, d_head);
        CHECK(dense.add(pages, row, context, kernels::DenseOptions{}, attend));
        sparf.add(pages, row, context, kernels::SparfOptions{8, context / 16, context / 64},
                  attend);
      }
    }
    CHECK(dense.is_within_twice());
    CHECK(sparf.is_within_twice());
    CHECK(sparf.calls() >= 3 * dense.calls() / 4);
    MESSAGE("layer ", layer, ": dense error ", dense.error(), " against ", dense.plain_error(),
            " of the plain kernel, SparF ", sparf.error(), " against ", sparf.plain_error());
  }
}

}  // namespace

TEST_CASE("captured attention: error against double at most twice that of the plain float kernel") {
  for (const char* instruction_set : kernels::cpu::instruction_sets()) {
    kernels::cpu::use_instruction_set(instruction_set);
    CAPTURE(instruction_set);
    check_errors(kernels::cpu::attend);
  }
  kernels::cpu::use_instruction_set("");
}

#ifdef NEARKV_CUDA
TEST_CASE("captured attention: on CUDA, too") {
  if (!kernels::cuda::is_available()) {
    MESSAGE("no CUDA device: not run");
    return;
  }
  check_errors(kernels::cuda::attend);
}
#endif
