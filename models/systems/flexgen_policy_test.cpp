#include "models/systems/flexgen_policy.hpp"

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "models/host/host_fixture.hpp"
#include "sim/core/capacity.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

using namespace nearkv;

namespace {

GroupQuantization four_bits() {
  GroupQuantization quantization;
  quantization.bits = 4;
  quantization.group_size = 64;
  return quantization;
}

ModelShape shipped_model(const char* name) {
  return shipped<ModelShape>((std::string("models/") + name + ".json").c_str());
}

FlexGenPolicy policy_of(HomeShares weights, HomeShares cache, HomeShares activations) {
  FlexGenPolicy policy;
  policy.gpu_batch_size = 8;
  policy.num_gpu_batches = 4;
  policy.weights = weights;
  policy.cache = cache;
  policy.activations = activations;
  policy.overlap = true;
  return policy;
}

/// OPT-13B on the A6000 and its host, with round rates.
FlexGenProblem problem_of(FlexGenTask task) {
  FlexGenProblem problem;
  problem.shape = shipped_model("opt-13b");
  problem.rank_shape = problem.shape;
  problem.quantization = four_bits();
  problem.gpu = shipped<GpuConfig>("platforms/gpus/a6000.json");
  problem.host = shipped_host();
  problem.rates = {.host_to_gpu = 22e9,
                   .gpu_to_host = 22e9,
                   .cached_read = 1.2e9,
                   .disk_read = 1e9,
                   .disk_write = 1e9,
                   .weight_read = 2e9,
                   .cached_weight_read = 2.4e9};
  problem.limits = {48_GiB, 80_GiB, Bytes{1'800'000'000'000}};
  problem.task = task;
  return problem;
}

Bytes sum(const BlockWeights& block) {
  return block.stored[Home::gpu] + block.stored[Home::cpu] + block.stored[Home::disk];
}

std::vector<HomeShares> shares_on_grid(int step) {
  std::vector<HomeShares> all;
  for (int gpu = 0; gpu <= 100; gpu += step) {
    for (int cpu = 0; gpu + cpu <= 100; cpu += step) {
      all.push_back({gpu, cpu});
    }
  }
  return all;
}

/// A legal policy, as FlexGenPolicy::fields() has it.
bool is_legal(const FlexGenPolicy& policy) {
  const bool is_whole = policy.cache.is_whole(Home::gpu) || policy.cache.is_whole(Home::cpu) ||
                        policy.cache.is_whole(Home::disk);
  return (!policy.compress_cache || (is_whole && !policy.cpu_attention)) &&
         (!policy.cpu_attention || !policy.cache.is_whole(Home::gpu));
}

/// The least time of all policies on a grid that fit.
double brute_force(const FlexGenProblem& problem, int step, const std::vector<int>& sizes,
                   bool compression) {
  double best = 1e300;
  const std::vector<HomeShares> shares = shares_on_grid(step);
  const std::vector<bool> choices =
      compression ? std::vector<bool>{false, true} : std::vector<bool>{false};
  for (const int size : sizes) {
    for (const int count : sizes) {
      for (const HomeShares& weights : shares) {
        for (const HomeShares& cache : shares) {
          for (const HomeShares& activations : {HomeShares{100, 0}, HomeShares{0, 100}}) {
            for (const bool cpu_attention : {false, true}) {
              for (const bool compress_weight : choices) {
                for (const bool compress_cache : choices) {
                  FlexGenPolicy policy = policy_of(weights, cache, activations);
                  policy.gpu_batch_size = size;
                  policy.num_gpu_batches = count;
                  policy.cpu_attention = cpu_attention;
                  policy.compress_weight = compress_weight;
                  policy.compress_cache = compress_cache;
                  if (!is_legal(policy)) {
                    continue;
                  }
                  const FlexGenEstimate found = estimate(problem, policy);
                  if (found.needs.fit(problem.limits)) {
                    best = std::min(best, found.seconds);
                  }
                }
              }
            }
          }
        }
      }
    }
  }
  return best;
}

}  // namespace

// -- Percentages --------------------------------------------------------------------------------

TEST_CASE("flexgen_policy: percentages above 100 are an error with path and remedy") {
  const auto error_of = [](const std::vector<std::string>& overrides) -> std::string {
    nlohmann::json config = load_config(shipped_configs() / "systems/flexgen.json").at("policy");
    config.erase("kind");
    for (const std::string& one : overrides) {
      apply_override(config, one);
    }
    FlexGenPolicy policy;
    try {
      read_fields(config, [&](FieldVisitor& v) { policy.fields(v); });
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(error_of({}).empty());
  for (const std::string what : {"weights", "cache", "activations"}) {
    CHECK(error_of({what + "_gpu=70", what + "_cpu=30"}).empty());
    const std::string error = error_of({what + "_gpu=70", what + "_cpu=31"});
    CHECK_MESSAGE(error.starts_with("/" + what + "_cpu: 31 + 70 = 101 percent with " + what +
                                    "_gpu; both together must not exceed 100"),
                  error);
  }
  CHECK(error_of({"weights_gpu=101"}).starts_with("/weights_gpu: "));
  CHECK(error_of({"compress_cache=true", "cache_cpu=40"}).starts_with("/compress_cache: "));
  CHECK(error_of({"compress_cache=true", "cache_cpu=100"}).empty());
  CHECK(error_of({"cpu_attention=true", "cache_gpu=100"}).starts_with("/cpu_attention: "));
  CHECK(error_of({"cpu_attention=true", "compress_cache=true"}).starts_with("/cpu_attention: "));
}

TEST_CASE("flexgen_policy: the homes of a model's weights add up to its weights") {
  for (const char* name : {"opt-13b", "opt-175b", "llama-2-70b"}) {
    const ModelShape shape = shipped_model(name);
    for (const HomeShares& shares : shares_on_grid(10)) {
      const WeightPlacement placement =
          place_weights(shape, policy_of(shares, {}, {}), four_bits());
      CAPTURE(name);
      CAPTURE(shares.gpu);
      CAPTURE(shares.cpu);
      CHECK(sum(placement.attention) + sum(placement.ffn) == shape.weight_bytes_per_layer());
      Bytes total{};
      for (const Home home : kHomes) {
        total += placement.total(home, shape.layers, true, true);
      }
      CHECK(total == shape.weight_bytes());
      for (const BlockWeights* block :
           {&placement.input, &placement.attention, &placement.ffn, &placement.output}) {
        CHECK(block->packed == Bytes{});
        CHECK(block->unpacked == Bytes{});
        if (block != &placement.output) {  // whose tied table is the input's file
          CHECK(std::accumulate(block->files.begin(), block->files.end(), Bytes{}) ==
                block->stored[Home::disk]);
        }
      }
      if (shares.gpu == 100) {
        CHECK(placement.read_buffers(true) == Bytes{});
      }
      if (shares.gpu == 0) {
        CHECK(placement.layer_off_gpu() == shape.weight_bytes_per_layer());
      }
    }
  }
}

TEST_CASE("flexgen_policy: whole tensors, by the middle of their bytes") {
  // OPT's attention: q, k, v and output of h^2 each, in the middles 12.5, 37.5, 62.5 and 87.5
  // percent; its feed-forward network: two of 4 h^2, at 25 and 75. The disk comes first.
  const ModelShape shape = shipped_model("opt-13b");
  const Bytes matrix = shape.values(shape.hidden * shape.hidden);
  const auto placed = [&](HomeShares shares) {
    return place_weights(shape, policy_of(shares, {}, {}), four_bits());
  };
  WeightPlacement found = placed({20, 80});
  CHECK(found.attention.stored[Home::gpu] / matrix == 1);
  CHECK(found.attention.stored[Home::cpu] == matrix * 3);
  CHECK(found.ffn.stored[Home::cpu] == matrix * 8);
  found = placed({0, 50});
  CHECK(found.attention.stored[Home::disk] == matrix * 2);
  CHECK(found.ffn.stored[Home::disk] == matrix * 4);
  CHECK(found.ffn.files == std::vector{matrix * 4});
  found = placed({30, 40});
  CHECK(found.attention.stored[Home::disk] == matrix);
  CHECK(found.attention.stored[Home::cpu] == matrix * 2);
}

TEST_CASE("flexgen_policy: 4-bit groups take 4.5 bits a value") {
  const GroupQuantization quantization = four_bits();
  CHECK(quantization.compressed(64, 2) == 36_B);
  CHECK(quantization.compressed(65, 2) == 72_B);
  const ModelShape shape = shipped_model("opt-13b");
  FlexGenPolicy policy = policy_of({100, 0}, {}, {});
  policy.compress_weight = true;
  const WeightPlacement placement = place_weights(shape, policy, quantization);
  const std::int64_t matrices = 12 * shape.hidden * shape.hidden;
  CHECK(placement.attention.unpacked + placement.ffn.unpacked == shape.values(matrices));
  CHECK(placement.attention.packed + placement.ffn.packed == Bytes{matrices * 9 / 16});
  policy.compress_cache = true;
  CHECK(stored_kv(shape, policy, quantization) == Bytes{2 * shape.kv_width() * 9 / 16});
}

TEST_CASE("flexgen_policy: a block is divided evenly, sequences are rounded down to the GPU") {
  const FlexGenPolicy policy = policy_of({}, {}, {});  // 8 x 4
  CHECK(gpu_batches(32, policy) == std::vector{8, 8, 8, 8});
  CHECK(gpu_batches(17, policy) == std::vector{6, 6, 5});
  CHECK(gpu_batches(8, policy) == std::vector{8});
  CHECK(gpu_batches(1, policy) == std::vector{1});
  CHECK(sequences_by_home(10, {25, 75}) == PerHome<int>{{2, 8, 0}});
  CHECK(sequences_by_home(10, {25, 50}) == PerHome<int>{{2, 5, 3}});
  CHECK(sequences_by_home(1, {50, 25}) == PerHome<int>{{0, 0, 1}});
  CHECK(sequences_by_home(7, {0, 0}) == PerHome<int>{{0, 0, 7}});

  const Batch batch({{3, 20, 5}, {2, 10, 7}});
  const auto parts = consecutive(batch, {2, 0, 3});
  REQUIRE(parts.size() == 3);
  CHECK(parts[0]->groups() == std::vector<SequenceGroup>{{2, 20, 5}});
  CHECK(!parts[1].has_value());
  CHECK(parts[2]->groups() == std::vector<SequenceGroup>{{1, 20, 5}, {2, 10, 7}});
}

// -- Cost model ---------------------------------------------------------------------------------

namespace {

/// Only the ways between the memories take time.
void make_computing_free(FlexGenProblem& problem) {
  problem.gpu.memory_bandwidth = Rate{1'000'000'000'000'000'000};
  problem.gpu.tensor_peak = FlopRate{1'000'000'000'000'000'000};
  problem.gpu.kernel_launch = SimDuration{};
  problem.host.dram_rate = Rate{1'000'000'000'000'000'000};
  problem.host.framework.team_rate = Rate{1'000'000'000'000'000'000};
  problem.host.cpu_attention.flop_rate = FlopRate{1'000'000'000'000'000'000};
}

}  // namespace

TEST_CASE("flexgen_policy: the cost model is the bytes of a layer over the slowest way") {
  FlexGenProblem problem = problem_of({32, 512, 33});  // T_gen at 512 + 17 tokens
  make_computing_free(problem);
  const double kv = 2 * 5120 * 2 * 32;  // of one token of all sequences in a layer
  const double layer = static_cast<double>(problem.shape.weight_bytes_per_layer().count());
  const auto seconds = [&](const FlexGenPolicy& policy) {
    return doctest::Approx(estimate(problem, policy).seconds).epsilon(1e-4);
  };
  FlexGenPolicy policy = policy_of({100, 0}, {0, 100}, {100, 0});
  CHECK(40 * (kv * 512 / 22e9 + 32 * kv * 529 / 22e9) == seconds(policy));
  policy.cpu_attention = true;  // K and V stay where they are
  CHECK(40 * (kv * 512 / 22e9 + 32 * kv / 22e9) == seconds(policy));
  policy = policy_of({100, 0}, {0, 0}, {100, 0});  // 14.2 GB of files, all in memory
  CHECK(40 * (kv * 512 / 1e9 + 32 * kv * 529 / 1.2e9) == seconds(policy));
  problem.limits.host = 10_GiB;
  CHECK(40 * (kv * 512 / 1e9 + 32 * kv * 529 / 1e9) == seconds(policy));
  policy = policy_of({0, 100}, {100, 0}, {100, 0});
  CHECK(40 * 33 * layer / 22e9 == seconds(policy));
  policy.overlap = false;
  policy.cache = {0, 100};
  const double both_ways = layer / 22e9 + kv * 512 / 22e9;
  CHECK(40 * (both_ways + 32 * (layer + kv * 529 + kv) / 22e9) == seconds(policy));
  policy.num_gpu_batches = 2;  // two blocks of half the sequences
  const double half = layer / 22e9 + kv / 2 * 512 / 22e9;
  CHECK(2 * 40 * (half + 32 * (layer + kv / 2 * 530) / 22e9) == seconds(policy));
}

TEST_CASE("flexgen_policy: overlap is never slower, and a slower way never faster, by the model") {
  const FlexGenProblem problem = problem_of({48, 700, 100});
  for (const HomeShares& weights : shares_on_grid(50)) {
    for (const HomeShares& cache : shares_on_grid(25)) {
      FlexGenPolicy policy = policy_of(weights, cache, {50, 50});
      const double with = estimate(problem, policy).seconds;
      for (double FlexGenRates::*rate :
           {&FlexGenRates::host_to_gpu, &FlexGenRates::gpu_to_host, &FlexGenRates::cached_read,
            &FlexGenRates::disk_read, &FlexGenRates::disk_write, &FlexGenRates::weight_read,
            &FlexGenRates::cached_weight_read}) {
        FlexGenProblem slower = problem;
        slower.rates.*rate /= 2;
        CHECK(estimate(slower, policy).seconds >= with);
      }
      policy.overlap = false;
      CHECK(estimate(problem, policy).seconds >= with);
    }
  }
}

// -- Search -------------------------------------------------------------------------------------

TEST_CASE("flexgen_policy: brute force on a grid finds nothing better") {
  struct Case {
    FlexGenTask task;
    Bytes vram;
    Bytes host;
    bool compression;
  };
  for (const Case& c :
       {Case{{8, 512, 33}, 48_GiB, 80_GiB, false}, Case{{8, 512, 33}, 12_GiB, 80_GiB, false},
        Case{{8, 2000, 33}, 12_GiB, 20_GiB, false}, Case{{4, 512, 33}, 8_GiB, 8_GiB, true}}) {
    FlexGenProblem problem = problem_of(c.task);
    problem.limits.vram = c.vram;
    problem.limits.host = c.host;
    const FlexGenPolicy found = search_policy(
        problem, {.percent_step = 25, .cpu_attention = true, .compression = c.compression});
    const FlexGenEstimate estimated = estimate(problem, found);
    MESSAGE(describe(found), ": ", estimated.seconds, " s");
    CHECK(is_legal(found));
    CHECK(estimated.needs.fit(problem.limits));
    CHECK(estimated.seconds <= brute_force(problem, 25, {1, 2, 3, 4, 8}, c.compression));
  }
}

TEST_CASE("flexgen_policy: more of any memory, or more to choose from, is never worse") {
  const auto best = [](const FlexGenProblem& problem, FlexGenSearch search) {
    return estimate(problem, search_policy(problem, search)).seconds;
  };
  FlexGenProblem problem = problem_of({64, 1024, 128});
  double before = 1e300;
  for (const Bytes vram : {6_GiB, 10_GiB, 16_GiB, 24_GiB, 32_GiB, 48_GiB, 80_GiB}) {
    problem.limits.vram = vram;
    const double now = best(problem, {20, true, false});
    CHECK(now <= before);
    CHECK(best(problem, {20, false, false}) >= now);
    CHECK(best(problem, {10, true, false}) <= now);
    CHECK(best(problem, {20, true, true}) <= now);
    before = now;
  }
  problem = problem_of({64, 1024, 128});
  problem.limits.vram = 16_GiB;
  before = 1e300;
  for (const Bytes host : {4_GiB, 16_GiB, 40_GiB, 80_GiB, 200_GiB}) {
    problem.limits.host = host;
    const double now = best(problem, {20, true, false});
    CHECK(now <= before);
    before = now;
  }
}

TEST_CASE("flexgen_policy: what fits on the GPU stays there") {
  const FlexGenPolicy found =
      search_policy(problem_of({4, 128, 32}), {.percent_step = 10, .cpu_attention = true});
  CHECK(found.weights == HomeShares{100, 0});
  CHECK(found.cache == HomeShares{100, 0});
  CHECK(found.activations == HomeShares{100, 0});
  CHECK(!found.cpu_attention);
  CHECK(found.block() >= 4);
}

TEST_CASE("flexgen_policy: when nothing fits, the reason names the memory that is short") {
  const auto reason = [](Bytes vram, Bytes host, Bytes ssd) -> std::string {
    FlexGenProblem problem = problem_of({8, 512, 33});
    problem.limits = {vram, host, ssd};
    try {
      static_cast<void>(search_policy(problem, {.percent_step = 25, .cpu_attention = true}));
    } catch (const Infeasible& infeasible) {
      return infeasible.what();
    }
    return "";
  };
  CHECK(reason(48_GiB, 80_GiB, 1000_GiB).empty());
  const std::string start = "infeasible: policy search: OPT-13B on 8 sequences of 544 tokens: ";
  const std::string no_vram = reason(1_GiB, 80_GiB, 1000_GiB);
  CHECK_MESSAGE(no_vram.starts_with(start + "every policy needs "), no_vram);
  CHECK(no_vram.find("GB of VRAM or more, 1.074 GB are free") != std::string::npos);
  const std::string no_ssd = reason(4_GiB, 0_B, 1_GiB);
  CHECK_MESSAGE(no_ssd.find("GB of SSD or more, 1.074 GB are free") != std::string::npos, no_ssd);
}
