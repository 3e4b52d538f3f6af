#include "sim/app/fit/least_squares.hpp"

#include <cmath>

#include <doctest/doctest.h>

#include "sim/app/fit/fit_statistics.hpp"

namespace nearkv {

namespace {

using Values = std::vector<double>;
using OneSet = std::function<Values(const Values&)>;

constexpr double kStep = 0.02;

ResidualFunction for_each_set(const OneSet& residuals) {
  return [residuals](const std::vector<Values>& sets) {
    std::vector<Values> all;
    for (const Values& set : sets) {
      all.push_back(residuals(set));
    }
    return all;
  };
}

/// y = amplitude * exp(-rate * t) at t = 0 ... 5, against y of the given truth; sigma is 1 %.
ResidualFunction decay(double true_amplitude, double true_rate) {
  return for_each_set([=](const Values& c) {
    Values residuals;
    for (int t = 0; t <= 5; ++t) {
      const double simulated = c[0] * std::exp(-c[1] * t);
      const double reference = true_amplitude * std::exp(-true_rate * t);
      residuals.push_back(std::log(simulated / reference) / 0.01);
    }
    return residuals;
  });
}

const std::vector<FitParameter> kDecay{{"amplitude", 1, 0.1, 10}, {"rate", 1, 0.01, 10}};

FitOptions with(FitMethod method, int most_iterations = 500) {
  return {method, kStep, most_iterations};
}

}  // namespace

TEST_CASE("least squares: both methods find the constants of a decay") {
  for (const FitMethod method : {FitMethod::levenberg_marquardt, FitMethod::nelder_mead}) {
    const ResidualFunction rows = decay(2.5, 0.4);
    const FitSolution found = solve_least_squares(kDecay, rows, with(method));
    INFO(found.ending);
    CHECK(found.has_converged);
    CHECK(found.values[0] == doctest::Approx(2.5).epsilon(2e-3));
    CHECK(found.values[1] == doctest::Approx(0.4).epsilon(2e-3));
    CHECK(found.residuals.size() == 6);
    const FitStatistics statistics = fit_statistics_of(kDecay, rows, kStep, found);
    CHECK(statistics.degrees_of_freedom == 4);
    CHECK(statistics.residual_variance == 1);
    CHECK(statistics.open.empty());
    CHECK_FALSE(statistics.is_unidentified[0]);
    CHECK(statistics.intervals[1].lowest < 0.4);
    CHECK(statistics.intervals[1].highest > 0.4);
  }
}

// Covariance of a straight line log y = log a - k t with errors of 1 %: s2 (X' X)^-1, where
// X' X = [6, 15; 15, 55] in (log a, -k); so sd(log a) = 0.01 sqrt(55 / 105), and
// sd(log k) = 0.01 sqrt(6 / 105) / k.
TEST_CASE("least squares: intervals and correlation are those of a straight line") {
  const ResidualFunction rows = decay(2.5, 0.4);
  const FitSolution found = solve_least_squares(kDecay, rows, with(FitMethod::levenberg_marquardt));
  const FitStatistics statistics = fit_statistics_of(kDecay, rows, kStep, found);
  const auto half_width = [&](std::size_t i) {
    return std::log(statistics.intervals[i].highest / statistics.intervals[i].lowest) / 2;
  };
  constexpr double kNormal = 1.644853627;  // 95 %; the rows agree better than their errors
  CHECK(half_width(0) == doctest::Approx(kNormal * 0.01 * std::sqrt(55.0 / 105)).epsilon(1e-3));
  CHECK(half_width(1) ==
        doctest::Approx(kNormal * 0.01 * std::sqrt(6.0 / 105) / 0.4).epsilon(1e-3));
  CHECK(statistics.correlation[0][1] == doctest::Approx(15 / std::sqrt(6.0 * 55)).epsilon(1e-3));
  CHECK(statistics.correlation[1][1] == 1);
}

TEST_CASE("least squares: rows that contradict each other widen the intervals") {
  const ResidualFunction rows = for_each_set([](const Values& c) {
    return Values{std::log(c[0]) + 3, std::log(c[0]) - 3};
  });
  const std::vector<FitParameter> one{{"c", 0.5, 0.001, 1000}};
  const FitSolution found = solve_least_squares(one, rows, with(FitMethod::levenberg_marquardt));
  CHECK(found.has_converged);
  CHECK(found.values[0] == doctest::Approx(1));
  const FitStatistics statistics = fit_statistics_of(one, rows, kStep, found);
  CHECK(statistics.degrees_of_freedom == 1);
  CHECK(statistics.residual_variance == doctest::Approx(18));
}

TEST_CASE("least squares: a pair that only its product shows is reported as open") {
  const ResidualFunction rows = for_each_set([](const Values& c) {
    return Values{std::log(c[0] * c[1] / 6) / 0.01, std::log(c[0] * c[1] / 6) / 0.01};
  });
  std::vector<FitParameter> pair{{"a", 1, 0.1, 10}, {"b", 1, 0.1, 10}};
  const FitSolution found = solve_least_squares(pair, rows, with(FitMethod::levenberg_marquardt));
  CHECK(found.has_converged);
  CHECK(found.values[0] * found.values[1] == doctest::Approx(6).epsilon(1e-3));
  const FitStatistics statistics = fit_statistics_of(pair, rows, kStep, found);
  CHECK(statistics.correlation[0][1] < -0.99);
  REQUIRE(statistics.open.size() == 1);
  CHECK(statistics.open[0].factors[0] * statistics.open[0].factors[1] == doctest::Approx(1));
  CHECK(statistics.open[0].factors[0] != doctest::Approx(1));
  CHECK(statistics.is_unidentified[0]);
  CHECK(statistics.is_unidentified[1]);

  // A prior of 2 for a decides, and is what a's interval rests on.
  pair[0].prior = FitPrior{2, 1.1};
  const FitSolution decided = solve_least_squares(pair, rows, with(FitMethod::levenberg_marquardt));
  CHECK(decided.values[0] == doctest::Approx(2).epsilon(1e-3));
  CHECK(decided.values[1] == doctest::Approx(3).epsilon(1e-3));
  const FitStatistics with_prior = fit_statistics_of(pair, rows, kStep, decided);
  CHECK(with_prior.is_unidentified[0]);
  CHECK_FALSE(with_prior.is_unidentified[1]);
}

TEST_CASE("least squares: a minimum beyond a bound ends at the bound") {
  for (const FitMethod method : {FitMethod::levenberg_marquardt, FitMethod::nelder_mead}) {
    const std::vector<FitParameter> bounded{{"amplitude", 1, 0.1, 2}, {"rate", 1, 0.01, 10}};
    const ResidualFunction rows = decay(5, 0.4);
    const FitSolution found = solve_least_squares(bounded, rows, with(method));
    INFO(found.ending);
    CHECK(found.has_converged);
    CHECK(found.values[0] == doctest::Approx(2).epsilon(1e-3));
    const FitStatistics statistics = fit_statistics_of(bounded, rows, kStep, found);
    CHECK(statistics.is_at_bound[0]);
    CHECK_FALSE(statistics.is_at_bound[1]);
    CHECK(statistics.intervals[0].highest <= 2.0000001);
  }
}

// log b = (log a)^2 is a curved valley; the minimum is at log a = log b = 1.
TEST_CASE("least squares: a curved valley") {
  const ResidualFunction rows = for_each_set([](const Values& c) {
    const double a = std::log(c[0]);
    return Values{10 * (std::log(c[1]) - a * a), 1 - a};
  });
  const std::vector<FitParameter> valley{{"a", 0.3, 0.1, 100}, {"b", 3, 0.1, 100}};
  for (const FitMethod method : {FitMethod::levenberg_marquardt, FitMethod::nelder_mead}) {
    const FitSolution found = solve_least_squares(valley, rows, with(method));
    CHECK(found.has_converged);
    CHECK(found.values[0] == doctest::Approx(std::exp(1)).epsilon(0.01));
    CHECK(found.values[1] == doctest::Approx(std::exp(1)).epsilon(0.01));
  }
}

TEST_CASE("least squares: rows that change in stairs, by the simplex") {
  const ResidualFunction rows = for_each_set([](const Values& c) {
    return Values{std::log(std::ceil(c[0] * 40) / 40 / 2.5) / 0.01,
                  std::log(std::ceil(c[0] * c[1] * 40) / 40 / 5.0) / 0.01};
  });
  const std::vector<FitParameter> stairs{{"a", 1, 0.1, 10}, {"b", 1, 0.1, 10}};
  const FitSolution found = solve_least_squares(stairs, rows, with(FitMethod::nelder_mead));
  CHECK(found.has_converged);
  CHECK(found.values[0] == doctest::Approx(2.5).epsilon(0.02));
  CHECK(found.values[1] == doctest::Approx(2).epsilon(0.02));
}

TEST_CASE("least squares: too few iterations are no convergence") {
  for (const FitMethod method : {FitMethod::levenberg_marquardt, FitMethod::nelder_mead}) {
    const FitSolution found = solve_least_squares(kDecay, decay(2.5, 0.4), with(method, 2));
    CHECK_FALSE(found.has_converged);
    CHECK(found.ending == "stopped after 2 iterations");
    CHECK(found.iterations == 2);
  }
}

TEST_CASE("least squares: rows without a residual stop the fit") {
  const ResidualFunction rows = [](const std::vector<Values>&) -> std::vector<Values> {
    throw FitStopped("out of memory");
  };
  CHECK_THROWS_AS(
      static_cast<void>(solve_least_squares(kDecay, rows, with(FitMethod::levenberg_marquardt))),
      FitStopped);
}

TEST_CASE("least squares: no set is evaluated twice, and equal problems give equal bits") {
  std::vector<Values> seen;
  const ResidualFunction inner = decay(2.5, 0.4);
  const ResidualFunction rows = [&](const std::vector<Values>& sets) {
    for (const Values& set : sets) {
      CHECK(std::find(seen.begin(), seen.end(), set) == seen.end());
      seen.push_back(set);
    }
    return inner(sets);
  };
  const FitOptions options = with(FitMethod::levenberg_marquardt);
  const FitSolution first = solve_least_squares(kDecay, rows, options);
  CHECK(first.values == solve_least_squares(kDecay, inner, options).values);
}

}  // namespace nearkv
