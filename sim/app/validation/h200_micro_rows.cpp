// The rows of micro benchmarks of a GPU and its host by PyTorch: one operation each.
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sim/app/validation/framework_call.hpp"
#include "sim/app/validation/table_rows.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

constexpr std::size_t kTestEvery = 3;  // of each list, the third, sixth, ... row is a test row

class MicroTable {
 public:
  MicroTable(const TableSpec& spec, json document) : spec_(spec), document_(std::move(document)) {}

  Table read() {
    table_.source = text("what");
    for_each("pcie", [this](std::size_t i, const json& row) { add_copies(i, row); });
    for_each("gemm_fp16", [this](std::size_t i, const json& row) {
      const json operation{
          {"kind", "gemm"}, {"m", row.at("m")}, {"n", row.at("n")}, {"k", row.at("k")}};
      add(i, "gemm",
          fmt::format("{}x{}x{}", row.at("m").dump(), row.at("n").dump(), row.at("k").dump()),
          operation, row.at("s"));
    });
    for_each("decode_attention_fp16", [this](std::size_t i, const json& row) {
      add_decode(i, row, "fused", "sdpa_s");
      add_decode(i, row, "unfused", "bmm_s");
    });
    for_each("prefill_attention_fp16", [this](std::size_t i, const json& row) {
      add_attention(
          i, row, "prefill_attention",
          {{"kind", "prefill_attention"}, {"batch", row.at("b")}, {"tokens", row.at("s")}},
          row.at("s_causal_sdpa"));
    });
    for_each("cpu_decode_attention_fp32", [this](std::size_t i, const json& row) {
      add_attention(i, row, "cpu_attention",
                    {{"kind", "cpu_attention"}, {"batch", row.at("b")}, {"context", row.at("s")}},
                    row.at("cpu_fp32_bmm_s"));
    });
    return std::move(table_);
  }

 private:
  std::string text(const char* name) const {
    return document_.contains(name) && document_.at(name).is_string()
               ? document_.at(name).get<std::string>()
               : "";
  }

  template <class Each>
  void for_each(const char* list, Each each) {
    if (!document_.contains(list)) {
      return;
    }
    const json& rows = document_.at(list);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      try {
        each(i, rows.at(i));
      } catch (const json::exception&) {
        throw ConfigError(
            fmt::format("/{}/{}: lacks a number, or has something else in its place; "
                        "validation/h200_micro/rows.json has the form",
                        list, i));
      }
    }
  }

  void add_copies(std::size_t i, const json& row) {
    for (const char* direction : {"h2d", "d2h"}) {
      for (const char* memory : {"pinned", "pageable"}) {
        const json operation{{"kind", "copy"},
                             {"direction", direction},
                             {"memory", memory},
                             {"bytes", row.at("bytes")}};
        add(i, fmt::format("{}_copy", memory),
            fmt::format("{} {} B", direction, row.at("bytes").dump()), operation,
            row.at(fmt::format("{}_{}_s", direction, memory)));
      }
    }
  }

  void add_decode(std::size_t i, const json& row, const char* kernel, const char* seconds) {
    add_attention(i, row, fmt::format("{}_decode_attention", kernel),
                  {{"kind", "decode_attention"},
                   {"kernel", kernel},
                   {"batch", row.at("b")},
                   {"context", row.at("s")}},
                  row.at(seconds));
  }

  void add_attention(std::size_t i, const json& row, const std::string& group, json operation,
                     double seconds) {
    const json& model = spec_.point.at("model");
    const std::string what = fmt::format("{} x {} tokens", row.at("b").dump(), row.at("s").dump());
    if (row.at("heads") != plain_value(model.at("heads")) ||
        row.at("d") != plain_value(model.at("head_dim"))) {
      table_.not_covered.push_back(
          {fmt::format("{} {}", group, what), "the suite's model has other heads than the row"});
      return;
    }
    add(i, group, what, std::move(operation), seconds);
  }

  void add(std::size_t i, const std::string& group, const std::string& what, json operation,
           double seconds) {
    const std::string run = fmt::format("{}_{}", group, table_.runs.size());
    json config = spec_.point;
    config["framework"] = spec_.framework;
    config["operation"] = std::move(operation);
    table_.runs[run].point =
        PreparedPoint{.origin = fmt::format("{}, {} {}", spec_.file, group, what),
                      .name = run,
                      .config = std::move(config),
                      .run = simulate_operation};
    const bool is_test =
        spec_.role.empty() ? i % kTestEvery == kTestEvery - 1 : spec_.role == "test";
    table_.rows.push_back({.id = fmt::format("{} {}", group, what),
                           .text = {},
                           .group = group,
                           .unit = "s",
                           .note = {},
                           .expression = run + ".time",
                           .role = is_test ? RowRole::test : RowRole::fit,
                           .reference = seconds,
                           .tolerance = {},
                           .looser_if = {}});
  }

  const TableSpec& spec_;
  json document_;
  Table table_;
};

}  // namespace

Table read_h200_micro_table(const TableSpec& spec) {
  const json document = load_json(spec.file);
  try {
    return MicroTable(spec, document).read();
  } catch (const ConfigError& error) {
    throw ConfigError(prefix_lines(spec.file, error.what()));
  }
}

}  // namespace nearkv
