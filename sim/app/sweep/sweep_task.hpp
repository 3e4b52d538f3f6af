// One task of a sweep on a cluster: runs its share of the points and leaves the results in the
// folder that it shares with the program that submitted it.
#pragma once

#include <cstddef>
#include <filesystem>

#include "sim/app/run_limits.hpp"

namespace nearkv {

/// Returns an exit status: kExitOk, or kExitTryAgain when a signal ended it or the folder could not
/// be written, which Slurm's RequeueExit can name; what an earlier attempt found is not run again.
/// Throws ConfigError for what another attempt would not mend.
int run_sweep_task(const std::filesystem::path& folder, std::size_t task, int jobs,
                   const RunLimitOptions& limits = {});

}  // namespace nearkv
