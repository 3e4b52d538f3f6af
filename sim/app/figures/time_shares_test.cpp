#include "sim/app/figures/time_shares.hpp"

#include <map>
#include <string>

#include <doctest/doctest.h>

#include "sim/app/test_records.hpp"

namespace nearkv {

namespace {

std::map<std::string, double> shares_of(
    const std::vector<std::pair<std::string, double>>& metrics) {
  std::map<std::string, double> shares;
  double sum = 0;
  for (const Metric& share : time_shares(record_with(metrics))) {
    shares[share.name] = share.value;
    sum += share.value;
    CHECK(share.unit == "1");
  }
  CHECK(sum == doctest::Approx(shares.empty() ? 0 : 1));
  return shares;
}

}  // namespace

TEST_CASE("time shares: KV access is taken out of the phase that holds it") {
  auto shares = shares_of({{"decode/phase/csd_attention", 6},
                           {"decode/phase/gpu_compute", 2},
                           {"decode/phase/submission", 2},
                           {"kv_access_share", 0.5}});
  CHECK(shares.size() == 4);
  CHECK(shares["share/kv_access"] == doctest::Approx(0.5));
  CHECK(shares["share/csd_attention"] == doctest::Approx(0.1));
  CHECK(shares["share/gpu_compute"] == doctest::Approx(0.2));
  CHECK(shares["share/submission"] == doctest::Approx(0.2));
}

TEST_CASE("time shares: phases that are KV access have its name") {
  auto shares = shares_of({{"decode/phase/gpu_compute", 2},
                           {"decode/phase/kv_copy", 5},
                           {"decode/phase/kv_swap", 3},
                           {"kv_access_share", 0.8}});
  CHECK(shares.size() == 2);
  CHECK(shares["share/kv_access"] == doctest::Approx(0.8));
}

TEST_CASE("time shares: GPU operators by kind") {
  auto shares = shares_of({{"decode/phase/gpu_compute", 8},
                           {"decode/phase/kv_wait", 2},
                           {"kv_access_share", 0.2},
                           {"utilization/gpu/0/compute", 0.4},
                           {"utilization/gpu/0/gemm", 0.3},
                           {"utilization/gpu/0/attention", 0.05}});
  CHECK(shares["share/weights"] == doctest::Approx(0.6));
  CHECK(shares["share/gpu_attention"] == doctest::Approx(0.1));
  CHECK(shares["share/gpu_other"] == doctest::Approx(0.1));
}

TEST_CASE("time shares: none without a decode time") {
  CHECK(time_shares(record_with({{"throughput", 1}})).empty());
  CHECK(time_shares(record_out_of("VRAM")).empty());
}

}  // namespace nearkv
