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
      {"fast", "slow"}, {"4", "8"}, true,
      {record_with({{"throughput", 10}, {"decode_time", 9}, {"decode_time_bound", 1}}),
       record_with({{"throughput", 12.345}, {"decode_time", 99}, {"decode_time_bound", 1}}),
       infeasible_record(), record_out_of("host DRAM and swap")});
  CHECK(figure_text(figure, results, {}) ==
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

}  // namespace nearkv
