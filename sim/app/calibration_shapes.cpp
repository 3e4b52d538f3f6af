#include "sim/app/calibration_shapes.hpp"

#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

constexpr int kHalfBytes = 2;
constexpr std::int64_t kFlopsPerMultiplyAdd = 2;

}  // namespace

std::vector<ProjectionShape> projections(int hidden) {
  return {{.columns = 3 * hidden, .depth = hidden},
          {.columns = hidden, .depth = hidden},
          {.columns = 4 * hidden, .depth = hidden},
          {.columns = hidden, .depth = 4 * hidden}};
}

json gemm_parameters(int rows, const ProjectionShape& shape, int element_bytes) {
  const std::int64_t m = rows;
  const std::int64_t n = shape.columns;
  const std::int64_t k = shape.depth;
  return {{"rows", m},
          {"columns", n},
          {"depth", k},
          {"precision", element_bytes == kHalfBytes ? "fp16" : "fp32"},
          {"bytes", element_bytes * (m * k + k * n + m * n)},
          {"flops", kFlopsPerMultiplyAdd * m * n * k}};
}

json DecodePoint::parameters() const {
  const std::int64_t of_heads = std::int64_t{batch} * heads;
  json row{{"batch", batch}, {"heads", heads}, {"d_head", d_head}, {"context", context}};
  if (compression == 0) {
    row["kernel"] = "dense";
    row["bytes"] = of_heads * kHalfBytes * 2 * context * d_head;
  } else {
    row["kernel"] = "sparf";
    row["compression"] = compression;
    row["r"] = r();
    row["k"] = k();
    row["bytes"] =
        of_heads * kHalfBytes * (std::int64_t{context} * r() + std::int64_t{2} * k() * d_head);
  }
  return row;
}

std::vector<DecodePoint> with_compressions(const DecodePoint& dense) {
  check(dense.compression == 0, "a point that is compressed already");
  std::vector<DecodePoint> points{dense};
  for (const int compression : {1, 2, 4, 8, 16}) {
    points.push_back(dense);
    points.back().compression = compression;
  }
  return points;
}

json PrefillPoint::parameters(const std::string& part, int element_bytes) const {
  const std::int64_t of_heads = std::int64_t{batch} * heads;
  const std::int64_t operand = of_heads * tokens * d_head;
  const std::int64_t scores = of_heads * tokens * tokens;
  const std::int64_t product_flops = kFlopsPerMultiplyAdd * operand * tokens;
  const std::int64_t product_bytes = element_bytes * (2 * operand + scores);
  const std::int64_t softmax_bytes = element_bytes * 2 * scores;
  json row{
      {"batch", batch}, {"heads", heads}, {"d_head", d_head}, {"tokens", tokens}, {"part", part}};
  if (part == "softmax") {
    row["bytes"] = softmax_bytes;
  } else if (part == "all") {
    row["bytes"] = 2 * product_bytes + softmax_bytes;
    row["flops"] = 2 * product_flops;
  } else {
    row["bytes"] = product_bytes;
    row["flops"] = product_flops;
  }
  return row;
}

}  // namespace nearkv
