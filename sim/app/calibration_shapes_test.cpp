#include "sim/app/calibration_shapes.hpp"

#include <doctest/doctest.h>

#include "models/llm/operators.hpp"
#include "sim/core/config.hpp"

using namespace nearkv;

namespace {

ModelShape opt_13b() {
  ModelShape shape;
  read_fields(load_config(shipped_configs() / "models" / "opt-13b.json"),
              [&shape](FieldVisitor& v) { shape.fields(v); });
  return shape;
}

void check_work(const nlohmann::json& row, const OperatorWork& work) {
  CHECK(row.at("bytes") == work.bytes.count());
  CHECK(row.value("flops", std::int64_t{0}) == work.flops.count());
}

}  // namespace

TEST_CASE("calibration shapes: projections are those of OPT, with the work that the models count") {
  const ModelShape shape = opt_13b();
  const std::vector<ProjectionShape> shapes = projections(5120);
  REQUIRE(shapes.size() == 4);
  check_work(gemm_parameters(64, shapes[0], 2), qkv_projection(shape, 64));
  check_work(gemm_parameters(64, shapes[1], 2), output_projection(shape, 64));
  int found = 0;
  for (const OperatorWork& work : after_attention(shape, 64)) {
    if (work.name == "ffn_in") {
      check_work(gemm_parameters(64, shapes[2], 2), work);
      ++found;
    } else if (work.name == "ffn_out") {
      check_work(gemm_parameters(64, shapes[3], 2), work);
      ++found;
    }
  }
  CHECK(found == 2);
  CHECK(gemm_parameters(64, shapes[1], 4).at("precision") == "fp32");
}

TEST_CASE("calibration shapes: parts of prefill attention count as the models' kernels") {
  const PrefillPoint point{.batch = 4, .heads = 40, .d_head = 128, .tokens = 1024};
  const std::vector<OperatorWork> works =
      attention(opt_13b(), {4, 1024, 1024}, AttentionKernel::unfused);
  REQUIRE(works.size() == 3);
  check_work(point.parameters("scores", 2), works[0]);
  check_work(point.parameters("softmax", 2), works[1]);
  check_work(point.parameters("values", 2), works[2]);
  std::int64_t bytes = 0;
  for (const OperatorWork& work : works) {
    bytes += work.bytes.count();
  }
  CHECK(point.parameters("all", 2).at("bytes") == bytes);
}

TEST_CASE("calibration shapes: SparF at 1/c moves 1/c of the dense bytes") {
  const std::vector<DecodePoint> points =
      with_compressions({.batch = 4, .heads = 40, .d_head = 128, .context = 2048});
  REQUIRE(points.size() == 6);
  const std::int64_t dense = points[0].parameters().at("bytes");
  CHECK(dense == std::int64_t{4} * 40 * 2048 * 128 * 2 * 2);
  for (const DecodePoint& point : points) {
    if (point.compression > 0) {
      CHECK(point.parameters().at("bytes") == dense / point.compression);
    }
  }
  CHECK(points[4].r() == 16);  // 1/8: r = d / 8 and k = S / 16
  CHECK(points[4].k() == 128);
}
