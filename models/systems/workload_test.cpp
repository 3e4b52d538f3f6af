#include "models/systems/workload.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "traces/test_files.hpp"
#include "validation/test_source_folder.hpp"

using namespace nearkv;
using namespace std::chrono_literals;
using nlohmann::json;

namespace {

constexpr std::int64_t kSeed = 1;
constexpr std::int64_t kPositions = 4096;

json drawn() {
  return json::parse(R"({
    "kind": "lengths", "requests": 200,
    "prompt": {"kind": "uniform", "least": 10, "most": 500},
    "output": {"kind": "fixed", "tokens": 20},
    "longest": {"prompt_tokens": 1000, "output_tokens": 1000, "beyond": "refuse"},
    "arrivals": {"kind": "constant", "rate": 4},
    "batching": {"order": "arrival", "sequences": 16, "padded": false, "wait": "0s"},
    "limits": []})");
}

json of_trace(const std::string& file) {
  json config = drawn();
  config.erase("prompt");
  config.erase("output");
  config["kind"] = "trace";
  config["file"] = file;
  config["format"] = "auto";
  config["skip"] = 0;
  config["arrivals"] = {{"kind", "recorded"}, {"time_scale", 1}};
  return config;
}

std::string fixture(const std::string& name) {
  return source_folder() + "/traces/fixtures/small." + name;
}

Workload workload_of(const json& config) {
  Workload workload;
  read_fields(config, [&workload](FieldVisitor& v) { workload.fields(v); });
  return workload;
}

/// check()s that it has no problem.
Workload prepared(const json& config, std::int64_t positions = kPositions) {
  Workload workload = workload_of(config);
  const auto problem = workload.prepare(kSeed, positions);
  INFO("problem: ", problem.value_or(WorkloadProblem{}).message);
  REQUIRE_FALSE(problem.has_value());
  return workload;
}

/// "field: message".
std::string problem_of(const json& config, std::int64_t positions = kPositions) {
  const auto problem = workload_of(config).prepare(kSeed, positions);
  return problem.has_value() ? problem->field + ": " + problem->message : "";
}

std::string refusal_of_fields(const json& config) {
  return traces::refusal_of([&] { static_cast<void>(workload_of(config)); });
}

std::vector<int> prompts_of(const Workload& workload) {
  std::vector<int> prompts;
  for (const Request& request : workload.requests()) {
    prompts.push_back(request.prompt_tokens);
  }
  return prompts;
}

}  // namespace

TEST_CASE("workload: a fixed one is one batch of equal requests at the start") {
  const Workload workload = prepared(
      json::parse(R"({"kind": "fixed", "batch": 3, "prompt_tokens": 100, "output_tokens": 20})"));
  const auto requests = workload.requests();
  REQUIRE(requests.size() == 3);
  for (const Request& request : requests) {
    CHECK(request.arrival == SimTime{});
    CHECK(request.prompt_tokens == 100);
    CHECK(request.output_tokens == 20);
  }
  CHECK(workload.longest_context() == 119);
  CHECK(workload.shortest_prompt() == 100);
  CHECK(workload.most_sequences() == 3);
  CHECK(workload.notes().empty());
}

TEST_CASE("workload: without a kind it says which there are") {
  CHECK(refusal_of_fields(json::parse(R"({"batch": 3})"))
            .starts_with("/kind: missing; add it (fixed: one batch of equal requests; lengths: "
                         "requests of drawn lengths; trace: requests of a file)"));
}

TEST_CASE("workload: drawn requests are those of the generator") {
  const Workload workload = prepared(drawn());
  const auto requests = workload.requests();
  REQUIRE(requests.size() == 200);
  traces::RequestGenerator generator(
      {workload.prompt.spec(true), workload.output.spec(false), workload.arrivals.spec(), kSeed});
  for (const Request& request : requests) {
    const traces::RequestRecord record = generator.next();
    CHECK(request.arrival == SimTime{record.at});
    CHECK(request.prompt_tokens == record.prompt_tokens);
    CHECK(request.output_tokens == 20);
  }
  const auto prompts = prompts_of(workload);
  CHECK(workload.shortest_prompt() == std::ranges::min(prompts));
  CHECK(workload.longest_context() == std::ranges::max(prompts) + 19);
  CHECK(workload.most_sequences() == 16);
  CHECK(requests[4].arrival == SimTime{1s});
}

TEST_CASE("workload: lengths of all distributions") {
  json config = drawn();
  config["prompt"] = json::parse(R"({"kind": "lognormal", "average_is": "mean", "average": 300,
                                     "sigma": 0.5, "least": 100, "most": 900})");
  const auto lognormal = prompts_of(prepared(config));
  CHECK((std::ranges::min(lognormal) >= 100 && std::ranges::max(lognormal) <= 900));
  CHECK(workload_of(config).prompt.spec(true).median ==
        doctest::Approx(traces::lognormal_median(300, 0.5)));

  config["prompt"] = json::parse(R"({"kind": "empirical", "values": [
      {"tokens": 7, "weight": 1}, {"tokens": 9, "weight": 1}]})");
  for (const int prompt : prompts_of(prepared(config))) {
    CHECK((prompt == 7 || prompt == 9));
  }

  config["prompt"] = {{"kind", "trace"}, {"file", fixture("azure.csv")}, {"format", "auto"}};
  const auto known = prompts_of(
      prepared(of_trace(fixture("arxiv.csv"))
                   .patch(json::parse(
                       R"([{"op": "replace", "path": "/arrivals", "value": {"kind": "at_start"}},
          {"op": "replace", "path": "/longest/prompt_tokens", "value": 4096}])"))));
  config["longest"]["prompt_tokens"] = 4096;
  for (const int prompt : prompts_of(prepared(config))) {
    CHECK(std::ranges::find(known, prompt) != known.end());
  }
}

TEST_CASE("workload: the requests of a trace, some of them, at other times") {
  json config = of_trace(fixture("azure.csv"));
  config["longest"]["prompt_tokens"] = 4096;
  const auto all = prepared(config).requests();
  REQUIRE(all.size() == 64);
  CHECK(all[1].arrival == SimTime{248'507us});
  config["skip"] = 1;
  config["requests"] = 10;
  config["arrivals"]["time_scale"] = 2;
  const auto some = prepared(config).requests();
  REQUIRE(some.size() == 10);
  for (std::size_t i = 0; i < some.size(); ++i) {
    CHECK(some[i].prompt_tokens == all[i + 1].prompt_tokens);
    CHECK(some[i].arrival - SimTime{} == 2 * (all[i + 1].arrival - all[1].arrival));
  }
  config["arrivals"] = {{"kind", "constant"}, {"rate", 2}};
  CHECK(prepared(config).requests()[3].arrival == SimTime{1500ms});
  config["arrivals"] = {{"kind", "at_start"}};
  CHECK(prepared(config).requests().back().arrival == SimTime{});
  config["skip"] = 64;
  CHECK_THROWS_AS(static_cast<void>(problem_of(config)), ConfigError);
}

TEST_CASE("workload: failed requests are noted, a trace without arrivals has none") {
  json config = of_trace(fixture("burstgpt.csv"));
  config["longest"]["prompt_tokens"] = 4096;
  CHECK(prepared(config).notes() ==
        std::vector<std::string>{"4 requests that failed in the trace were left out"});
  config["file"] = fixture("arxiv.csv");
  CHECK(problem_of(config) ==
        "arrivals/kind: recorded, but a trace of format arxiv has no arrivals; must be at_start, "
        "constant, poisson or gamma");
  json lengths = drawn();
  lengths["arrivals"] = {{"kind", "recorded"}, {"time_scale", 1}};
  CHECK(refusal_of_fields(lengths).starts_with(
      "/arrivals/kind: is \"recorded\"; must be one of at_start, constant, poisson, gamma"));
}

TEST_CASE("workload: what is too long is refused, skipped or cut, as asked for") {
  const traces::TemporaryFile file(
      "arrived_at,num_prefill_tokens,num_decode_tokens\n"
      "0,50,101\n"  // output beyond 100
      "1,201,10\n"  // prompt beyond 200
      "2,150,60\n"  // beyond 200 positions by 9
      "3,150,51\n"  // just fits
      "4,900,900\n");
  json config = of_trace(file.path());
  config["longest"] = {{"prompt_tokens", 200}, {"output_tokens", 100}, {"beyond", "refuse"}};
  CHECK(problem_of(config, 200) ==
        "longest/beyond: refuse, and request 0 has 50 + 101 tokens; longest allows 200 + 100, and "
        "the model has 200 positions; use skip or clip, or other lengths");

  config["longest"]["beyond"] = "skip";
  const Workload skipped = prepared(config, 200);
  REQUIRE(skipped.requests().size() == 1);
  CHECK(skipped.requests().front().arrival == SimTime{});  // the first that is used
  CHECK(skipped.requests().front().output_tokens == 51);
  CHECK(skipped.notes() ==
        std::vector<std::string>{"4 requests were skipped: longer than the workload allows or the "
                                 "model has positions"});
  CHECK(problem_of(config, 100) ==
        "longest: all 5 requests are longer and were skipped; allow longer ones, or clip them");

  config["longest"]["beyond"] = "clip";
  const Workload clipped = prepared(config, 200);
  std::vector<std::pair<int, int>> lengths;
  for (const Request& request : clipped.requests()) {
    lengths.emplace_back(request.prompt_tokens, request.output_tokens);
    CHECK(request.prompt_tokens + request.output_tokens - 1 <= 200);
  }
  CHECK(lengths ==
        std::vector<std::pair<int, int>>{{50, 100}, {191, 10}, {141, 60}, {150, 51}, {101, 100}});
  CHECK(clipped.notes().front().starts_with("4 requests were cut: "));
  CHECK(prepared(config, 1).requests()[0].prompt_tokens == 1);
}

TEST_CASE("workload: a padded batch must fit the positions too") {
  const traces::TemporaryFile file(
      "arrived_at,num_prefill_tokens,num_decode_tokens\n0,100,2\n1,2,100\n");
  json config = of_trace(file.path());
  CHECK(prepared(config, 101).longest_context() == 101);
  config["batching"]["padded"] = true;
  CHECK(prepared(config, 199).longest_context() == 199);
  CHECK(problem_of(config, 198) ==
        "batching/padded: the longest prompt and output reach 199 tokens; the model has 198 "
        "positions");
}

TEST_CASE("workload: rules over several fields") {
  json config = drawn();
  config["limits"] = json::parse(R"([{"of": "ttft", "at_most": "1s"},
                                     {"of": "ttft", "at_most": "2s"}])");
  CHECK(refusal_of_fields(config).starts_with("/limits: has two limits of the same time"));
  config = drawn();
  config["prompt"] = {{"kind", "uniform"}, {"least", 10}, {"most", 9}};
  CHECK(refusal_of_fields(config) == "/prompt/most: 9 is less than least, 10");
  config = drawn();
  config["prompt"] = {{"kind", "lognormal"}, {"average_is", "median"}, {"average", 10},
                      {"sigma", 0.1},        {"least", 900},           {"most", 1000}};
  CHECK(problem_of(config) ==
        "prompt: least and most lie too far from the median: no length was drawn");
  config = drawn();
  config["arrivals"]["rate"] = 1e-6;
  CHECK(problem_of(config) ==
        "arrivals: the last of the requests arrive more than 53 days after the first");
}
