// The simplex method of Nelder and Mead (Computer Journal, 1965), in logarithms and with the
// coefficients of Gao and Han (2012), which depend on the number of constants.
#pragma once

#include <Eigen/Core>

namespace nearkv {

class FitObjective;

struct SimplexEnding {
  Eigen::VectorXd logarithms;
  int iterations = 0;
  bool is_done = false;  // false: most_iterations were not enough
};

/// The first simplex reaches a tenth of the way between the bounds in each constant; done when
/// the simplex is a tenth of the objective's step. Points beyond a bound are moved to it.
[[nodiscard]] SimplexEnding run_nelder_mead(FitObjective& objective, const Eigen::VectorXd& start,
                                            int most_iterations);

}  // namespace nearkv
