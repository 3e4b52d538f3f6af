#include "traces/captured_kv.hpp"

#include <string>

#include <doctest/doctest.h>

using namespace nearkv;
using namespace nearkv::traces;

TEST_CASE("captured KV: the fixture reads") {
  const CapturedKv file(std::string(NEARKV_SOURCE_DIR) + "/traces/fixtures/smollm2_135m.safetensors");
  for (const int layer : file.info().layers) {
    for (const int head : file.info().kv_heads) {
      CHECK(file.head(layer, head).k().size() == 2112 * 64);
      MESSAGE(file.head(layer, head).prefill_mass()[0]);
    }
  }
  MESSAGE(file.content_hash());
}
