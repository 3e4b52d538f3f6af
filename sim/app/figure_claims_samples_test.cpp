#include <doctest/doctest.h>

#include "sim/app/figure_claims.hpp"
#include "sim/app/figure_results.hpp"
#include "sim/app/test_records.hpp"

namespace nearkv {

namespace {

/// Fast and slow at one batch, with samples of both.
struct SampledFigure {
  FigureResults results{{"fast", "slow"},
                        {"4"},
                        {record_with({{"throughput", 12}}), record_with({{"throughput", 4}})}};
  std::vector<SampledOutcome> points = std::vector<SampledOutcome>(2);

  [[nodiscard]] PositionOf position_of() const {
    return [this](const PointName& point) { return results.position(point.series, point.at); };
  }

  void add(std::optional<double> fast, std::optional<double> slow) {
    const auto result = [](std::optional<double> throughput) {
      return throughput
                 ? SampleResult{"ok", "", record_with({{"throughput", *throughput}})}
                 : SampleResult{"out_of_memory", "out of memory (VRAM)", record_out_of("VRAM")};
    };
    points[0].samples.push_back(result(fast));
    points[1].samples.push_back(result(slow));
  }
};

FigureClaim claim_of(const std::string& expression, bool is_truth) {
  Row row{.id = "C01",
          .path = "/claims/0",
          .text = "fast over slow",
          .group = {},
          .source = {},
          .unit = "1",
          .why = {},
          .note = {},
          .role = RowRole::test,
          .reference = is_truth ? std::nullopt : std::optional(3.0),
          .holds = is_truth ? std::optional(true) : std::nullopt,
          .tolerance = 0.1,
          .simulated = Expression(expression, {{"fig", {{"fast", "slow"}, {"4"}}}})};
  return {std::move(row), {}};
}

}  // namespace

TEST_CASE("claims: a ratio is taken in each sample, so that what both share cancels") {
  SampledFigure figure;
  for (const double speed : {0.5, 1.0, 2.0, 4.0}) {
    figure.add(12 * speed, 4 * speed);
  }
  figure.add(10, 4);
  figure.add(12, std::nullopt);
  std::vector<FigureClaim> claims{
      claim_of("fig.fast[4].throughput / fig.slow[4].throughput", false),
      claim_of("fig.fast[4].throughput > 11", true)};
  add_samples(claims, Suite{}, figure.position_of(), figure.points);
  REQUIRE(claims[0].samples.has_value());
  CHECK(claims[0].samples->told == 5);
  CHECK(claims[0].samples->interval->highest == 3);
  CHECK(claims[0].samples->interval->lowest == doctest::Approx(2.6));  // of 2.5, 3, 3, 3, 3
  CHECK(claims[1].samples->told == 6);
  CHECK(claims[1].samples->hold == 4);  // 12, 24, 48 and 12 of 6, 12, 24, 48, 10, 12
  const std::string text = claims_table(claims);
  INFO(text);
  CHECK(text.find("90 % of samples") != std::string::npos);
  CHECK(text.find("2.60 to 3") != std::string::npos);
  CHECK(text.find("4 of 6") != std::string::npos);
  CHECK(claim_as_json(claims[1]).at("samples").at("hold") == 4);
}

TEST_CASE("claims: without samples nothing is added") {
  SampledFigure figure;
  std::vector<FigureClaim> claims{
      claim_of("fig.fast[4].throughput / fig.slow[4].throughput", false)};
  add_samples(claims, Suite{}, figure.position_of(), figure.points);
  CHECK_FALSE(claims[0].samples.has_value());
  CHECK(claims_table(claims).find("samples") == std::string::npos);
}

}  // namespace nearkv
