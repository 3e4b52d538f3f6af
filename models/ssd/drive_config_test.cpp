#include "models/ssd/drive_config.hpp"

#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "models/ssd/ssd.hpp"
#include "sim/core/config.hpp"

using namespace nearkv;

namespace {

SsdConfig read_ssd(nlohmann::json json) {
  SsdConfig config;
  read_fields(json, [&](FieldVisitor& v) { config.fields(v); });
  return config;
}
nlohmann::json shipped_json(const std::string& name) {
  return load_config(shipped_configs() / "platforms" / "ssds" / name);
}

}  // namespace

TEST_CASE("drive config: every shipped SSD is complete, and its capacity fits") {
  int files = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(shipped_configs() / "platforms" / "ssds")) {
    INFO(entry.path().string());
    const SsdConfig config = read_ssd(load_config(entry.path()));
    CHECK(config.capacity <= config.block_capacity());
    CHECK(config.block_capacity() < config.flash.capacity());
    // Over-provisioning that the capacity does not use would be lost.
    CHECK(static_cast<double>(config.capacity.count()) >
          0.97 * static_cast<double>(config.block_capacity().count()));
    ++files;
  }
  CHECK(files >= 4);
}

TEST_CASE("drive config: geometry and block capacity") {
  const SsdConfig config = read_ssd(shipped_json("small_test_drive.json"));
  CHECK(config.geometry().planes() == 2 * 2 * 2 * 2);
  CHECK(config.geometry().pages() == 16 * 32 * 128);
  // floor(32 x 128 x 0.75) = 3072 pages a plane
  CHECK(config.block_capacity() == 8_KiB * (16 * 3072));
}

TEST_CASE("drive config: what a read takes from a page") {
  DriveConfig config;
  config.flash.page_size = 16_KiB;
  config.flash.spare_size = 1952_B;
  config.controller.codeword = 4_KiB;
  CHECK(config.read_transfer(0_B, 16_KiB) == 16_KiB + 1952_B);
  CHECK(config.read_transfer(0_B, 1_B) == 4_KiB + 488_B);
  CHECK(config.read_transfer(4_KiB, 4_KiB) == 4_KiB + 488_B);
  CHECK(config.read_transfer(4095_B, 2_B) == 8_KiB + 976_B);
  CHECK(config.read_transfer(12_KiB, 4_KiB) == 4_KiB + 488_B);
  config.flash.spare_size = 1_B;
  CHECK(config.read_transfer(0_B, 1_B) == 4_KiB + 1_B);  // a quarter of a byte, late
  config.controller.codeword = 12_KiB;                   // the second one is cut
  CHECK(config.read_transfer(12_KiB, 1_B) == 4_KiB + 1_B);
  config.controller.codeword = 32_KiB;
  CHECK(config.read_transfer(5_KiB, 1_B) == 16_KiB + 1_B);
}

TEST_CASE("drive config: rules over several fields") {
  const auto problem = [](const char* path, const nlohmann::json& value) -> std::string {
    nlohmann::json json = shipped_json("samsung_980_pro_2tb.json");
    json[nlohmann::json::json_pointer(path)] = value;
    try {
      read_ssd(json);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(problem("/dram/capacity", "3GB").empty());
  CHECK(problem("/dram/capacity", "16MiB").find("/dram: must hold") == 0);
  CHECK(problem("/capacity", "2.01TB").find("/capacity: must not exceed") == 0);
  CHECK(problem("/ftl/overprovisioning_ratio", 0.1).find("/capacity: must not exceed") == 0);
  CHECK(problem("/ftl/write_buffer/capacity", "8KiB").find("/ftl: the write buffer") == 0);
  CHECK(problem("/flash/blocks_per_plane", 100'000).find("/flash: has more pages") == 0);
}
