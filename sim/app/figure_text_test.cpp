#include "sim/app/figure_text.hpp"

#include <doctest/doctest.h>

#include "sim/app/test_records.hpp"

namespace nearkv {

TEST_CASE("a figure's text marks what does not fit and what is rough") {
  FigureConfig figure;
  figure.name = "fig";
  figure.title = "a title";
  figure.source = "a paper";
  figure.metric = "throughput";
  figure.axis.name = "batch";
  figure.axis.unit = "sequences";
  // 10, from 100/11 to 100/9: up to 11 % off.
  const FigureResults results(
      {"fast", "slow"}, {"4", "8"},
      {record_with({{"throughput", 10}, {"decode_time", 9}, {"decode_time_bound", 1}}),
       record_with({{"throughput", 12.345}, {"decode_time", 99}, {"decode_time_bound", 1}}),
       infeasible_record(), record_out_of("host DRAM and swap")});
  CHECK(figure_text(figure, results_table(figure, results), {}, notes_text(results)) ==
        "fig: a title\n"
        "a paper\n"
        "\n"
        "throughput [token/s] against batch [sequences]\n"
        "\n"
        "batch           4         8\n"
        "-----  ----------  --------\n"
        "fast        ~10.0      12.3\n"
        "slow   infeasible  OOM host\n"
        "OOM host: out of memory: host DRAM and swap\n"
        "decode steps are sampled; error bound of the cells at most 1.0 %, of those with ~ at most "
        "11 %\n");
}

TEST_CASE("a figure's text has the intervals of samples below each series") {
  const auto sampled = [](const RecordView& record, nlohmann::json intervals, int failed) {
    nlohmann::json document = record.json();
    document["samples"] = {{"count", 20},
                           {"did_not_run", nlohmann::json::object()},
                           {"varied", {"/a", "/b"}},
                           {"held", {"/c"}},
                           {"intervals", std::move(intervals)}};
    if (failed > 0) {
      document["samples"]["did_not_run"]["out of memory (VRAM)"] = failed;
    }
    return RecordView(document);
  };
  FigureConfig figure;
  figure.name = "fig";
  figure.title = "a title";
  figure.source = "a paper";
  figure.metric = "throughput";
  figure.axis.name = "batch";
  figure.axis.unit = "sequences";
  const FigureResults results(
      {"fast"}, {"4", "8"},
      {sampled(record_with({{"throughput", 10}}), {{"throughput", {8.5, 11.25}}}, 3),
       sampled(record_out_of("VRAM"), {{"throughput", {1, 2}}}, 19)});
  CHECK(figure_text(figure, results_table(figure, results), {}, notes_text(results)) ==
        "fig: a title\n"
        "a paper\n"
        "\n"
        "throughput [token/s] against batch [sequences]\n"
        "\n"
        "batch           4         8\n"
        "------  ---------  --------\n"
        "fast         10.0  OOM VRAM\n"
        "  90 %  8.50-11.2\n"
        "90 %: between the 5th and 95th percentile of 20 samples of 2 constants (fit or assumed, "
        "with an interval; 1 others were held)\n"
        "fast at 4: out of memory (VRAM) in 3 samples\n"
        "fast at 8: out of memory (VRAM) in 19 samples\n");
}

TEST_CASE("a figure of several quantities has a line a point, or a column where that is too wide") {
  FigureConfig figure;
  figure.kind = GridKind::quantities;
  figure.metric = "throughput";
  figure.axis.name = "batch";
  figure.axis.unit = "sequences";
  figure.quantities = {{"speed", "throughput", QuantityOf::run},
                       {"busy", "share", QuantityOf::decode_time}};
  const FigureResults results(
      {"fast"}, {"4", "8"},
      {record_with({{"throughput", 10}, {"share", 0.5}, {"decode_time", 3}}),
       record_out_of("VRAM")});
  CHECK(results_table(figure, results) ==
        "numbers against batch [sequences]\n\n"
        "               speed    busy\n"
        "------  ------------  ------\n"
        "fast 4  10.0 token/s  1.50 s\n"
        "fast 8      OOM VRAM\n");
  figure.quantities[0].label = std::string(90, 'x');
  CHECK(results_table(figure, results).find("busy") != std::string::npos);
  CHECK(results_table(figure, results).find("  1.50 s") != std::string::npos);
}

}  // namespace nearkv
