// Nonlinear least squares over the logarithms of positive constants, with bounds and priors. It
// knows no simulator: `ResidualFunction` says how far off the rows are.
//
// Minimized is the sum of the squares of the rows' residuals and, of each constant with a prior,
// of log(c / prior) / log(factor). Methods:
//   levenberg_marquardt  Eigen's (MINPACK's), with a Jacobian by central differences of the given
//                        step; bounds by the transformation theta = middle + half width * sin(u)
//   nelder_mead          the simplex method, for rows that do not change smoothly; bounds by
//                        projection
// Either has converged only when no change of a single constant by one step lowers the sum.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace nearkv {

/// What is known of a constant besides the rows: within `factor` of the value, at one standard
/// deviation of its logarithm.
struct FitPrior {
  double value = 1;
  double factor = 2;  // above 1
};

struct FitParameter {
  std::string name;
  double start = 1;  // within the bounds, which are above 0
  double lowest = 1;
  double highest = 1;
  std::optional<FitPrior> prior{};
};

/// Residuals of the rows, log(simulated / reference) / sigma, for each of several sets of
/// constants (in the order of the parameters). May throw FitStopped.
using ResidualFunction =
    std::function<std::vector<std::vector<double>>(const std::vector<std::vector<double>>& sets)>;

/// The rows have no residual for some constants; what() says why.
class FitStopped : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class FitMethod { levenberg_marquardt, nelder_mead };

struct FitOptions {
  FitMethod method = FitMethod::levenberg_marquardt;
  double step = 0;  // relative, of the differences; in logarithms
  int most_iterations = 0;
};

struct FitSolution {
  bool has_converged = false;
  std::string ending;  // why it ended there
  int iterations = 0;
  std::vector<double> values;     // of the constants
  std::vector<double> residuals;  // of the rows
  double sum_of_squares = 0;      // with the priors
};

/// Deterministic. check()s bounds and starts.
[[nodiscard]] FitSolution solve_least_squares(const std::vector<FitParameter>& parameters,
                                              const ResidualFunction& rows,
                                              const FitOptions& options);

}  // namespace nearkv
