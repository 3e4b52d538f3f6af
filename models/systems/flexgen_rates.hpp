// Rates of a machine's storage path for FlexGen's cost model, found by running the models of the
// machine's own drives and file system on a scratch copy: no second set of constants.
#pragma once

#include "models/systems/flexgen_policy.hpp"
#include "models/systems/machine.hpp"

namespace nearkv {

/// Between GPU 0 and host memory, as one copy sees it.
void add_link_rates(const Machine& machine, FlexGenRates& rates);

/// Of files that are read and written through the page cache.
[[nodiscard]] FlexGenRates file_rates(const Machine& machine, const DesignPoint& point,
                                      int copy_threads);

/// What one drive reads in sequential commands of `command`, which are all there at once.
[[nodiscard]] double direct_read_rate(const DesignPoint& point, Rate host_link, Bytes command);

/// What the drives take in the long run, in requests of `request`.
[[nodiscard]] double sustained_write_rate(const DesignPoint& point, Rate host_link, Bytes request);

}  // namespace nearkv
