#include "models/systems/system.hpp"

namespace nearkv {

const std::vector<SystemKind>& system_kinds() {
  static const std::vector<SystemKind> kinds{
      {"deepspeed", "ZeRO-Inference: weights in VRAM, KV cache in host memory", make_deepspeed},
      {"flexgen", "FlexGen: a policy over GPU, host and disk; files through the page cache",
       make_flexgen},
      {"flexgen_gds", "FlexGen with GPUDirect Storage: KV files past the host's memory",
       make_flexgen_gds},
      {"flexgen_sparq", "FlexGen with SparQ: of the KV files only what the queries select",
       make_flexgen_sparq},
      {"recompute_static", "vLLM with a static batch: KV that does not fit VRAM is computed again",
       make_recompute_static},
      {"continuous_batching", "vLLM: paged KV cache in VRAM, scheduled iteration by iteration",
       make_continuous_batching},
      {"insti_dense", "decode attention in the CSDs, over the whole KV cache", make_insti_dense},
      {"insti_sparf", "decode attention in the CSDs, over what SparF selects", make_insti_sparf},
      {"near_storage_writeback",
       "attention near storage (INF2, HILOS) with delayed write-back and a cooperative cache",
       make_near_storage_writeback},
  };
  return kinds;
}

}  // namespace nearkv
