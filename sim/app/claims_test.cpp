#include "sim/app/claims.hpp"

#include <doctest/doctest.h>

#include "sim/app/test_records.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

Claim read_claim(const json& text) {
  Claim claim;
  read_fields(with_axis_values_as_text(text), [&claim](FieldVisitor& v) { claim.fields(v); });
  return claim;
}

json ratio_claim(const json& numerator_at, const json& denominator_at) {
  return {{"id", "C1"},
          {"text", "fast over slow"},
          {"role", "test"},
          {"kind", "ratio"},
          {"paper", 4},
          {"numerator", {{"series", "fast"}, {"metric", "throughput"}, {"at", numerator_at}}},
          {"denominator", {{"series", "slow"}, {"metric", "throughput"}, {"at", denominator_at}}}};
}

json order_claim() {
  return {
      {"id", "C2"},       {"text", "fast is above slow"}, {"role", "test"}, {"kind", "order"},
      {"series", "fast"}, {"metric", "throughput"},       {"at", {4, 8}},   {"rivals", {"slow"}}};
}

/// fast: 10, 12, 11; slow: 5, 2, out of VRAM; at 4, 8, 16.
FigureResults three_by_two() {
  return {{"fast", "slow"},
          {"4", "8", "16"},
          true,
          {record_with({{"throughput", 10}}), record_with({{"throughput", 12}}),
           record_with({{"throughput", 11}}), record_with({{"throughput", 5}}),
           record_with({{"throughput", 2}}), record_out_of("VRAM")}};
}

}  // namespace

TEST_CASE("a ratio claim divides two points") {
  const ClaimResult result = evaluate(read_claim(ratio_claim(4, 8)), three_by_two());
  CHECK(result.ours->value == 5);  // 10 / 2
  CHECK(result.ours->is_exact());
  CHECK(result.relative_difference() == doctest::Approx(0.25));  // 5 against 4
  CHECK(result.detail == "fast 10.0 token/s at 4 / slow 2.00 token/s at 8");
}

TEST_CASE("best is the highest of the whole axis and passes over what does not run") {
  const ClaimResult result = evaluate(read_claim(ratio_claim("best", "best")), three_by_two());
  CHECK(result.ours->value == doctest::Approx(2.4));  // 12 / 5
  CHECK(result.detail == "fast 12.0 token/s at 8 / slow 5.00 token/s at 4");
}

TEST_CASE("a ratio with a point that is out of memory has no value and says why") {
  const ClaimResult result = evaluate(read_claim(ratio_claim(16, 16)), three_by_two());
  CHECK_FALSE(result.ours.has_value());
  CHECK_FALSE(result.relative_difference().has_value());
  CHECK(result.detail == "slow at 16: out of memory (VRAM)");
}

TEST_CASE("a quick figure leaves claims open that need the other points") {
  const FigureResults quick({"fast", "slow"}, {"8"}, false,
                            {record_with({{"throughput", 12}}), record_with({{"throughput", 2}})});
  CHECK(evaluate(read_claim(ratio_claim(8, 8)), quick).ours->value == 6);
  const ClaimResult absent = evaluate(read_claim(ratio_claim(4, 8)), quick);
  CHECK_FALSE(absent.ours.has_value());
  CHECK(absent.detail == "needs fast at 4, which --quick leaves out");
  CHECK_FALSE(evaluate(read_claim(ratio_claim("best", 8)), quick).ours.has_value());
  CHECK_FALSE(evaluate(read_claim(order_claim()), quick).holds.has_value());
}

TEST_CASE("the bounds of a ratio are those of its extreme pairs") {
  // 10, from 100/11 to 100/9, over an exact 2.
  const FigureResults results(
      {"fast", "slow"}, {"4"}, true,
      {record_with({{"throughput", 10}, {"decode_time", 9}, {"decode_time_bound", 1}}),
       record_with({{"throughput", 2}})});
  const ClaimResult result = evaluate(read_claim(ratio_claim(4, 4)), results);
  CHECK(result.ours->value == 5);
  CHECK(result.ours->lowest == doctest::Approx(50.0 / 11));
  CHECK(result.ours->highest == doctest::Approx(50.0 / 9));
}

TEST_CASE("a value claim is a metric of one point") {
  const json claim{
      {"id", "C3"},    {"text", "fast"},
      {"role", "fit"}, {"kind", "value"},
      {"paper", 20.0}, {"value", {{"series", "fast"}, {"metric", "throughput"}, {"at", 4}}}};
  const ClaimResult result = evaluate(read_claim(claim), three_by_two());
  CHECK(result.ours->value == 10);
  CHECK(result.relative_difference() == doctest::Approx(-0.5));
}

TEST_CASE("a memory claim holds when each point runs or overflows as said") {
  json claim{{"id", "C4"},
             {"text", "memory"},
             {"role", "test"},
             {"kind", "memory"},
             {"runs", {{{"series", "fast"}, {"at", {4, 16}}}}},
             {"overflows", {{{"series", "slow"}, {"at", 16}, {"memory", "VRAM"}}}}};
  CHECK(evaluate(read_claim(claim), three_by_two()).holds == true);
  claim["overflows"][0]["memory"] = "host DRAM";
  const ClaimResult other = evaluate(read_claim(claim), three_by_two());
  CHECK(other.holds == false);
  CHECK(other.detail == "slow at 16 overflows VRAM");
  claim["overflows"][0]["at"] = 8;
  CHECK(evaluate(read_claim(claim), three_by_two()).detail == "slow at 8 runs");
}

TEST_CASE("an order claim compares at each axis value") {
  CHECK(evaluate(read_claim(order_claim()), three_by_two()).holds == true);
  json claim = order_claim();
  claim["at"] = 16;  // a rival that does not run is below
  CHECK(evaluate(read_claim(claim), three_by_two()).holds == true);
  claim["series"] = "slow";
  claim["rivals"] = {"fast"};
  claim["at"] = {4, 8};
  const ClaimResult result = evaluate(read_claim(claim), three_by_two());
  CHECK(result.holds == false);
  CHECK(result.detail == "at 4 slow 5.00 token/s, fast 10.0 token/s");
  claim["at"] = 16;
  CHECK(evaluate(read_claim(claim), three_by_two()).holds == false);
}

TEST_CASE("an order inside the error bounds does not hold") {
  const FigureResults results(
      {"fast", "slow"}, {"4"}, true,
      {record_with({{"throughput", 10}, {"decode_time", 9}, {"decode_time_bound", 1}}),
       record_with({{"throughput", 9.5}})});
  json claim = order_claim();
  claim["at"] = 4;
  CHECK(evaluate(read_claim(claim), results).holds == false);
}

TEST_CASE("claims that name what the figure lacks are refused with what it has") {
  const std::vector<std::string> series{"fast", "slow"};
  const std::vector<std::string> axis{"4", "8"};
  CHECK(claim_problems(read_claim(ratio_claim(4, "best")), series, axis).empty());
  CHECK(claim_problems(read_claim(ratio_claim(5, 4)), series, axis) ==
        std::vector<std::string>{"/numerator/at: 5 is no value of the axis; there are: 4, 8"});
  CHECK(claim_problems(read_claim(ratio_claim({4, 8}, 4)), series, axis) ==
        std::vector<std::string>{"/numerator/at: must be one axis value or \"best\""});
  CHECK(claim_problems(read_claim(order_claim()), {"fast", "other"}, axis) ==
        std::vector<std::string>{
            "/rivals: \"slow\" is no series of this figure; there are: fast, other"});
}

TEST_CASE("a claim on a metric that no record has names the nearest") {
  json claim = ratio_claim(4, 4);
  claim["numerator"]["metric"] = "troughput";
  CHECK_THROWS_WITH_AS(static_cast<void>(evaluate(read_claim(claim), three_by_two())),
                       "metric \"troughput\": no record has it; did you mean \"throughput\"?",
                       ConfigError);
}

TEST_CASE("the claims table has those of role test first") {
  json fit = ratio_claim(4, 4);
  fit["id"] = "C0";
  fit["role"] = "fit";
  const std::vector<Claim> claims{read_claim(fit), read_claim(ratio_claim(4, 8)),
                                  read_claim(order_claim())};
  std::vector<ClaimResult> results;
  for (const Claim& claim : claims) {
    results.push_back(evaluate(claim, three_by_two()));
  }
  const std::string table = claims_table(claims, results);
  CHECK(table.find("C1") < table.find("C2"));
  CHECK(table.find("C2") < table.find("C0"));
  CHECK(table.find("+25.0 %") != std::string::npos);
  CHECK(table.find("-50.0 %") != std::string::npos);
  CHECK(claim_as_json(claims[1], results[1]).at("relative_difference") == doctest::Approx(0.25));
  CHECK(claim_as_json(claims[2], results[2]).at("holds") == true);
}

}  // namespace nearkv
