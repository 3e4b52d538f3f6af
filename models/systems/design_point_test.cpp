#include "models/systems/design_point.hpp"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "models/systems/test_points.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "validation/test_source_folder.hpp"

using namespace nearkv;

namespace {

namespace fs = std::filesystem;

/// JSON files below a folder of the shipped configs, sorted.
std::vector<fs::path> json_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(shipped_configs() / folder)) {
    if (entry.path().extension() == ".json") {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// What is wrong with a shipped point after overrides; empty when it is right.
std::string problems_of(const std::string& system, const Overrides& overrides) {
  try {
    static_cast<void>(shipped_point(system, overrides));
    return "";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

/// "name=[first, first]" of a list of the shipped point.
std::string twice(const std::string& system, const std::string& list) {
  const auto config =
      load_config(shipped_configs() / "design_points" / (system + "_opt13b_a6000.json"));
  const std::string first = config.at(list).front().dump();
  std::string assignment = list;
  return assignment.append("=[").append(first).append(",").append(first).append("]");
}

const std::set<std::string> kSources{"datasheet", "measured", "paper", "fit", "assumed"};

}  // namespace

// -- What is shipped ----------------------------------------------------------------------------

TEST_CASE("design point: every shipped one reads without problems and is named like its file") {
  const std::vector<fs::path> files = json_files("design_points");
  REQUIRE(files.size() >= 4);
  std::set<std::string> kinds;
  for (const fs::path& file : files) {
    CAPTURE(file.string());
    DesignPoint point;
    std::vector<ConstantUse> constants;
    CHECK_NOTHROW(
        constants = read_fields(load_config(file), [&point](FieldVisitor& v) { point.fields(v); }));
    CHECK(point.name == file.stem().string());
    CHECK(point.system != nullptr);
    kinds.insert(point.system_kind);
    CHECK(constants.size() > 40);
    for (const ConstantUse& use : constants) {
      CAPTURE(use.path);
      CHECK(kSources.count(use.source) == 1);
      CHECK(!use.citation.empty());
      CHECK(!use.value.empty());
    }
  }
  for (const SystemKind& kind : system_kinds()) {
    CHECK_MESSAGE(kinds.count(std::string(kind.name)) == 1, std::string(kind.name),
                  " has no design point");
  }
}

TEST_CASE("design point: every sourced value in the shipped configs has a source and a reason") {
  int values = 0;
  for (const fs::path& file : json_files("")) {
    const std::string path_of_file = file.string();
    if (path_of_file.find("/schema/") != std::string::npos ||
        path_of_file.find("/fits/") != std::string::npos ||
        path_of_file.find("/sensitivity/") != std::string::npos) {
      continue;
    }
    CAPTURE(file.string());
    using Json = decltype(load_json(file));
    const std::function<void(const Json&, const std::string&)> walk = [&](const Json& node,
                                                                          const std::string& path) {
      CAPTURE(path);
      if (node.is_object() && node.contains("value") && !node.contains("path")) {
        ++values;
        REQUIRE(node.contains("source"));
        REQUIRE(node.contains("citation"));
        CHECK(kSources.count(node.at("source")) == 1);
        const std::string citation = node.at("citation");
        CHECK(citation.size() > 5);
      }
      if (node.is_structured()) {
        for (const auto& [key, child] : node.items()) {
          walk(child, path + "/" + key);
        }
      }
    };
    walk(load_json(file), "");
  }
  CHECK(values > 150);
}

TEST_CASE("design point: every shipped model, GPU and PCIe tree fits into one") {
  const auto point =
      load_config(shipped_configs() / "design_points" / "insti_sparf_opt13b_a6000.json");
  int parts = 0;
  const auto try_all = [&](const char* folder, const char* path) {
    for (const fs::path& file : json_files(folder)) {
      CAPTURE(file.string());
      auto config = point;
      set_existing(config, path, load_config(file), file.string());
      // Heads of one drive, and positions that every model has.
      apply_override(config, "workload/prompt_tokens=1000");
      DesignPoint read;
      CHECK_NOTHROW(read_fields(config, [&read](FieldVisitor& v) { read.fields(v); }));
      ++parts;
    }
  };
  try_all("models", "/model");
  try_all("platforms/gpus", "/gpu/0");
  try_all("platforms/economics", "/economics");
  for (const char* tree : {"root_gen4", "root_gen5", "switch_gen4", "switch_gen5"}) {
    auto config = point;
    const fs::path file = shipped_configs() / "platforms" / "pcie" / (std::string(tree) + ".json");
    set_existing(config, "/pcie", load_config(file), file.string());
    DesignPoint read;
    CHECK_NOTHROW(read_fields(config, [&read](FieldVisitor& v) { read.fields(v); }));
    ++parts;
  }
  CHECK(parts >= 16);
}

TEST_CASE("design point: schema and reference text need no values") {
  const auto fields = [](FieldVisitor& v) {
    DesignPoint point;
    point.fields(v);
  };
  CHECK_NOTHROW(schema_of(fields, "design point"));
  const std::vector<FieldDescription> descriptions = describe_fields(fields);
  CHECK(descriptions.size() > 150);
  for (const FieldDescription& field : descriptions) {
    CHECK_MESSAGE(!field.doc.empty(), field.path, " says nothing of itself");
  }
}

// -- Rules, word by word ------------------------------------------------------------------------

TEST_CASE("design point: the message of each rule") {
  struct Case {
    std::string system;
    Overrides overrides;
    std::string message;
  };
  const std::vector<Case> cases{
      {"insti_dense", {"gpu=[]"}, "/gpu: has 0 entries; must have exactly 1"},
      {"insti_dense", {twice("insti_dense", "gpu")}, "/gpu: has 2 entries; must have exactly 1"},
      {"flexgen", {twice("flexgen", "ssd")}, "/ssd: has 2 entries; write one entry and its count"},
      {"flexgen", {"ssd=[]"}, "/ssd: is empty; flexgen keeps its KV cache on an SSD"},
      {"deepspeed", {"ssd=[]"}, "/ssd: is empty; deepspeed swaps to an SSD"},
      {"deepspeed",
       {"host/swap/size=2TB"},
       "/host/swap/size: 2TB must be less than the SSDs hold, 2TB"},
      {"flexgen",
       {"host/swap/size=5TB", "ssd/0/count=2"},
       "/host/swap/size: 5TB must be less than the SSDs hold, 4TB"},
      {"insti_dense",
       {"workload/output_tokens=1026"},
       "/workload/output_tokens: prompt and output reach 2049 tokens; the model has 2048 "
       "positions"},
      {"insti_dense", {"csd=[]"}, "/csd: is empty; insti needs at least one CSD"},
      {"insti_dense",
       {twice("insti_dense", "csd")},
       "/csd: has 2 entries; insti divides heads over equal drives: write one entry and its "
       "count"},
      {"insti_dense",
       {"model/heads=1", "model/kv_heads=1", "model/head_dim=5120"},
       "/csd/0/flash/page_size: 4KiB is smaller than one token group; a page must hold at least "
       "one token of a head, 10KiB"},
      {"insti_dense",
       {"csd/0/flash/page_size=4097B"},
       "/csd/0/flash/page_size: 4097B is no whole number of 2-byte values"},
      {"insti_sparf",
       {"model/bytes_per_value=1"},
       "/model/bytes_per_value: is 1; the CSDs' page layouts hold 2-byte values"},
      {"insti_dense",
       {"csd/0/layout/channels_per_group=3"},
       "/csd/0/layout/channels_per_group: 3 does not divide the model's head_dim 128"},
      {"near_storage_writeback",
       {"system/write_back/spill_tokens=24"},
       "/system/write_back/spill_tokens: 24 tokens do not fill whole flash pages; choose a "
       "multiple of the 16 tokens of a head that a page holds"},
      {"insti_sparf",
       {"system/sparsity/channels=129"},
       "/system/sparsity/channels: 129 is more than the model's head_dim 128"},
      {"flexgen",
       {"system/kind=flexgem"},
       "/system/kind: is \"flexgem\"; must be one of deepspeed, flexgen, flexgen_gds, "
       "flexgen_sparq, recompute_static, continuous_batching, insti_dense, insti_sparf, "
       "near_storage_writeback; did you mean \"flexgen\"?"},
      {"flexgen",
       {"system/kind=vllm"},
       "/system/kind: is \"vllm\"; must be one of deepspeed, flexgen, flexgen_gds, flexgen_sparq, "
       "recompute_static, continuous_batching, insti_dense, insti_sparf, near_storage_writeback"},
      {"insti_dense",
       {"system/kind=insti_sparf"},
       "/system/sparsity: missing; add it (what SparF selects)\n"
       "/system/kv_source: missing; add it (heads that SparF selects from)"},
      {"insti_dense",
       {"workload/batch=0"},
       "/workload/batch: 0 is out of range; must be 1 to 65536"},
      {"insti_dense",
       {"workload/output_tokens=1"},
       "/workload/output_tokens: 1 is out of range; must be 2 to 1048576"},
      {"insti_dense",
       {"simulation/fidelity=fast"},
       "/simulation/fidelity: is \"fast\"; must be one of exact, reuse, sampled"},
  };
  for (const Case& c : cases) {
    CHECK(problems_of(c.system, c.overrides) == c.message);
  }
}

TEST_CASE("design point: a rule does not compute with what could not be read") {
  // Each of these would divide by zero.
  CHECK(problems_of("insti_dense", {"csd/0/count=0"}) ==
        "/csd/0/count: 0 is out of range; must be 1 to 64");
  CHECK(problems_of("insti_dense", {"csd/0/count=three"}) ==
        "/csd/0/count: is \"three\" (string); must be a whole number, without point or exponent");
  CHECK(problems_of("insti_dense", {"csd/0/count=65"}) ==
        "/csd/0/count: 65 is out of range; must be 1 to 64");
  CHECK(problems_of("insti_sparf", {"csd/0/layout/channels_per_group=0"}) ==
        "/csd/0/layout/channels_per_group: 0 is out of range; must be 1 to 64");
  CHECK(problems_of("insti_sparf", {"model/kv_heads=0", "model/head_dim=0"}) ==
        "/model/kv_heads: 0 is out of range; must be 1 to 262144\n"
        "/model/head_dim: 0 is out of range; must be 1 to 262144");
}

TEST_CASE("design point: wrong fields are reported together, before any rule over them") {
  const Overrides broken{"gpu=[]", "csd/0/count=7"};
  CHECK(problems_of("insti_dense", broken + Overrides{"workload/batch=0", "simulation/seed=-1",
                                                      "csd/0/flash/channels=0"}) ==
        "/workload/batch: 0 is out of range; must be 1 to 65536\n"
        "/csd/0/flash/channels: 0 is out of range; must be 1 to 64\n"
        "/simulation/seed: -1 is out of range; must be 0 to 1000000000000000");
  // Of the rules over one object, the first one that is broken.
  CHECK(problems_of("insti_dense", broken) == "/gpu: has 0 entries; must have exactly 1");
}

TEST_CASE("design point: a drive without a PCIe port is the user's error, and a run may follow") {
  const DesignPoint without = small_point("insti_dense", {"pcie/ports/2/device=ssd/1/*"});
  CHECK_THROWS_AS(static_cast<void>(run_design_point(without)), ConfigError);
  CHECK(run_design_point(small_point("insti_dense")).status == RunStatus::ok);
}

TEST_CASE("design point: the shipped JSON schema is that of the fields") {
  const nlohmann::json shipped =
      load_json(source_folder() + "/configs/schema/design_point.schema.json");
  const auto fields = [](FieldVisitor& v) {
    DesignPoint point;
    point.fields(v);
  };
  const nlohmann::json here = schema_of(fields, shipped.at("title").get<std::string>());
  // Else: nearkv schema > configs/schema/design_point.schema.json
  CHECK(nlohmann::json::diff(here, shipped).dump() == "[]");
}
