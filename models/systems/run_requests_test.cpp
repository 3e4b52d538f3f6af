// Runs of many requests: batches after one another, ragged and padded, and the requests' times.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "models/systems/test_points.hpp"

using namespace nearkv;
using doctest::Approx;

namespace {

constexpr double kPicosecond = 1e-12;

struct Line {
  double arrival;
  int prompt;
  int output;
};

/// An override that replaces the workload by these requests.
std::string workload_of(const std::vector<Line>& lines, int sequences) {
  static const std::string folder = std::filesystem::temp_directory_path().string();
  const std::string file = fmt::format("{}/nearkv_run_requests_test_{}.csv", folder, getpid());
  std::string text = "arrived_at,num_prefill_tokens,num_decode_tokens\n";
  for (const Line& line : lines) {
    text += fmt::format("{},{},{}\n", line.arrival, line.prompt, line.output);
  }
  std::ofstream(file) << text;
  return fmt::format(
      R"(workload={{"kind": "trace", "file": "{}", "format": "auto", "skip": 0, "requests": 1000,
        "longest": {{"prompt_tokens": 2048, "output_tokens": 2048, "beyond": "refuse"}},
        "arrivals": {{"kind": "recorded", "time_scale": 1}},
        "batching": {{"order": "arrival", "sequences": {}, "padded": false, "wait": "0s"}},
        "limits": []}})",
      file, sequences);
}

/// The run of a small point of `system` with these requests.
RunResult run_of(const std::string& system, const std::vector<Line>& lines, int sequences,
                 const Overrides& more = {}) {
  const DesignPoint point = small_point(system, Overrides{workload_of(lines, sequences)} + more);
  return run_alone(point);
}

RunResult fixed_run(const std::string& system, const Line& line, int batch,
                    const Overrides& more = {}) {
  return run_alone(
      small_point(system, Overrides{fmt::format("workload/batch={}", batch),
                                    fmt::format("workload/prompt_tokens={}", line.prompt),
                                    fmt::format("workload/output_tokens={}", line.output)} +
                              more));
}

}  // namespace

TEST_CASE("requests: equal ones in one batch are the fixed batch, to the picosecond") {
  const Line equal{0, 96, 9};
  for (const std::string& system : all_systems()) {
    for (const std::string fidelity : {"reuse", "sampled"}) {
      CAPTURE(system);
      CAPTURE(fidelity);
      const Overrides how{"simulation/fidelity=" + fidelity};
      const RunResult fixed = fixed_run(system, equal, 2, how);
      const RunResult drawn = run_of(system, {equal, equal}, 2, how);
      CHECK(drawn.digest == fixed.digest);
      CHECK(drawn.wakeups == fixed.wakeups);
      CHECK(drawn.metrics.size() > fixed.metrics.size());
      for (const auto& [name, value] : fixed.metrics) {
        CAPTURE(name);
        if (name != "decode_step_median") {  // of a fixed batch only
          CHECK(drawn.at(name) == Approx(value).epsilon(kPicosecond));
        }
      }
      CHECK(drawn.at("ttft") == fixed.at("prefill_time"));
      CHECK(drawn.at("end_to_end") ==
            Approx(fixed.at("prefill_time") + fixed.at("decode_time")).epsilon(1e-11));
      CHECK(drawn.at("queueing") == 0);
      CHECK(drawn.at("idle_time") == 0);
      CHECK(drawn.at("useful_tokens") == 1);
    }
  }
}

TEST_CASE("requests: two equal batches take twice the time of one") {
  const Line equal{0, 96, 9};
  const RunResult one = run_of("deepspeed", {equal, equal}, 2);
  const RunResult two = run_of("deepspeed", {equal, equal, equal, equal}, 2);
  CHECK(two.at("batches") == 2);
  CHECK(two.at("prefill_time") == Approx(2 * one.at("prefill_time")).epsilon(kPicosecond));
  CHECK(two.at("decode_time") == Approx(2 * one.at("decode_time")).epsilon(kPicosecond));
  CHECK(two.at("makespan") == Approx(2 * one.at("makespan")).epsilon(kPicosecond));
  CHECK(two.at("throughput") == Approx(one.at("throughput")).epsilon(1e-9));
  CHECK(two.at("decode_steps") == 16);
  CHECK(two.at("high_water/VRAM") == one.at("high_water/VRAM"));
  CHECK(two.at("decode_traffic/pcie/gpu/0/down/bytes") ==
        2 * one.at("decode_traffic/pcie/gpu/0/down/bytes"));
  CHECK(two.at("ttft") ==
        Approx(one.at("prefill_time") + one.at("makespan") / 2).epsilon(kPicosecond));
}

// A batch takes a: prefill and 8 steps of (96, 9); b: of (96, 1), prefill alone; c: of (48, 5).
TEST_CASE("requests: times of a small example by hand") {
  const RunResult a = fixed_run("deepspeed", {0, 96, 9}, 1);
  const RunResult c = fixed_run("deepspeed", {0, 48, 5}, 1);
  const double a_first = a.at("prefill_time");
  const double a_all = a_first + a.at("decode_time");
  const double b_all = run_of("deepspeed", {{0, 96, 1}}, 1).at("prefill_time");
  const double c_first = c.at("prefill_time");
  const double c_all = c_first + c.at("decode_time");
  const double late = 1e3;  // everything else is done

  const RunResult run =
      run_of("deepspeed", {{0, 96, 9}, {0, 96, 1}, {late, 48, 5}}, 1,
             {"workload/limits=[{\"of\": \"ttft\", \"at_most\": \"" +
              fmt::format("{}ps", static_cast<std::int64_t>((a_all + b_all) * 1e12) - 2) + "\"}]"});
  CHECK(run.at("batches") == 3);
  CHECK(run.at("requests") == 3);
  CHECK(run.at("queueing") == Approx(a_all / 3).epsilon(1e-9));
  CHECK(run.at("ttft") == Approx((a_first + (a_all + b_all) + c_first) / 3).epsilon(1e-9));
  CHECK(run.at("tpot") ==
        Approx((a.at("decode_time") / 8 + c.at("decode_time") / 4) / 2).epsilon(1e-9));
  std::vector<double> end_to_end{a_all, a_all + b_all, c_all};
  std::ranges::sort(end_to_end);
  CHECK(run.at("end_to_end/p50") == Approx(end_to_end[1]).epsilon(1e-9));
  CHECK(run.at("end_to_end/p90") ==
        Approx(end_to_end[1] + 0.8 * (end_to_end[2] - end_to_end[1])).epsilon(1e-9));
  CHECK(run.at("makespan") == Approx(late + c_all).epsilon(1e-12));
  CHECK(run.at("idle_time") == Approx(late - a_all - b_all).epsilon(1e-9));
  CHECK(run.at("throughput") == Approx(15 / (late + c_all)).epsilon(1e-9));
  CHECK(run.at("requests_in_limits") == Approx(2.0 / 3));  // the second one waits for the first
  CHECK(run.at("goodput_tokens") == Approx(14 / (late + c_all)).epsilon(1e-9));
}

TEST_CASE("requests: in a ragged batch the short ones are done first") {
  const RunResult longest = fixed_run("deepspeed", {0, 96, 9}, 2);
  const RunResult ragged = run_of("deepspeed", {{0, 96, 9}, {0, 96, 1}, {0, 96, 4}}, 3);
  CHECK(ragged.at("batches") == 1);
  CHECK(ragged.at("decode_steps") == 8);
  CHECK(ragged.at("decode_time") < longest.at("decode_time") * 1.5);
  const double first = ragged.at("ttft");
  CHECK(first == ragged.at("prefill_time"));
  // In the order of their ends: prefill, 3 steps, 8 steps.
  const double all = ragged.at("prefill_time") + ragged.at("decode_time");
  const double mean = ragged.at("end_to_end");
  const double median = ragged.at("end_to_end/p50");
  CHECK(3 * mean == Approx(first + median + all).epsilon(1e-9));
  CHECK(median > first);
  CHECK(median < first + ragged.at("decode_time") * 0.6);
  CHECK(ragged.at("decode_throughput") == Approx(11 / ragged.at("decode_time")));
}

TEST_CASE("requests: padding computes the longest lengths, and counts what was asked for") {
  const RunResult fixed = fixed_run("deepspeed", {0, 96, 9}, 2);
  const RunResult padded =
      run_of("deepspeed", {{0, 96, 3}, {0, 40, 9}}, 2, {"workload/batching/padded=true"});
  for (const char* same : {"prefill_time", "decode_time", "decode_steps", "high_water/VRAM"}) {
    CAPTURE(same);
    CHECK(padded.at(same) == Approx(fixed.at(same)).epsilon(kPicosecond));
  }
  CHECK(padded.at("useful_tokens") == Approx((96 + 3 + 40 + 9) / 210.0));
  CHECK(padded.at("throughput") == Approx(fixed.at("throughput") * 12 / 18));
}

TEST_CASE("requests: outputs of one token have no decode steps") {
  for (const std::string fidelity : {"reuse", "sampled"}) {
    CAPTURE(fidelity);
    const RunResult run = run_of("deepspeed", {{0, 96, 1}, {0, 50, 1}, {0, 20, 1}}, 2,
                                 {"simulation/fidelity=" + fidelity});
    CHECK(run.at("decode_time") == 0);
    CHECK(run.at("decode_steps") == 0);
    CHECK(run.at("throughput") == Approx(3 / run.at("prefill_time")));
    for (const auto& [name, value] : run.metrics) {
      CAPTURE(name);
      CHECK(std::isfinite(value));
    }
    CHECK_FALSE(run.metrics.contains("tpot"));
  }
}

TEST_CASE("requests: a sampled run of ragged batches is within its bound") {
  std::vector<Line> lines;
  for (int i = 0; i < 12; ++i) {
    lines.push_back({0.2 * i, 30 + 37 * i % 200, 1 + 53 * i % 150});
  }
  const RunResult reuse = run_of("deepspeed", lines, 4);
  const RunResult sampled = run_of("deepspeed", lines, 4, {"simulation/fidelity=sampled"});
  CHECK(sampled.at("decode_steps_simulated") < reuse.at("decode_steps_simulated"));
  CHECK(std::abs(sampled.at("decode_time") - reuse.at("decode_time")) <=
        sampled.at("decode_time_bound"));
  CHECK(sampled.at("decode_time_bound") < 0.2 * reuse.at("decode_time"));
  CHECK(sampled.at("end_to_end/p90") == Approx(reuse.at("end_to_end/p90")).epsilon(0.05));
  CHECK(sampled.at("batches") == reuse.at("batches"));
}
