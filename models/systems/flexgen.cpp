// FlexGen (Sheng et al., ICML 2023): what is on disk lies in memory-mapped files behind the page
// cache. The shipped policy is the one taken for the InstInfer paper's baseline: weights and
// activations in VRAM, the whole KV cache in files, the batch in one piece.
#include <memory>

#include "models/systems/design_point.hpp"
#include "models/systems/flexgen_rates.hpp"
#include "models/systems/flexgen_schedule.hpp"

namespace nearkv {

namespace {

class FlexGenSystem final : public FlexGenSchedule {
 protected:
  [[nodiscard]] std::unique_ptr<FlexGenDiskCache> make_disk_cache(RunContext& /*run*/) override {
    return std::make_unique<FlexGenFileCache>();
  }
  [[nodiscard]] FlexGenRates storage_rates(RunContext& run) const override {
    return file_rates(run.machine, run.point, copy_threads());
  }
};

}  // namespace

std::unique_ptr<System> make_flexgen() { return std::make_unique<FlexGenSystem>(); }

}  // namespace nearkv
