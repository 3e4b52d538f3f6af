// nearkv explain RUN: where a decode step's time goes, by critical path; and how much shorter it
// gets when one resource is twice as fast, predicted and simulated.
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "sim/app/commands.hpp"
#include "sim/app/exit_status.hpp"
#include "sim/app/explain.hpp"
#include "sim/app/timeline.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/hash.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

struct ExplainOptions {
  std::string file;
  std::vector<std::string> overrides;
  std::string phase = "decode";
  std::optional<int> step;
  std::string twice;
  bool as_json = false;
};

/// A design point, or the one that a record holds.
PreparedPoint prepare_run(const ExplainOptions& options) {
  const std::filesystem::path file = path_of_config(options.file);
  const json document = load_json(file);
  if (!document.contains("record_format")) {
    return prepare_point(file, options.overrides);
  }
  const auto config = document.find("config");
  if (config == document.end() || !config->is_object() || !config->contains("system")) {
    throw ConfigError(fmt::format(
        "{}: is a record of something else than a run; name a record that nearkv run wrote, or a "
        "design point",
        options.file));
  }
  PreparedPoint prepared{.origin = options.file, .name = {}, .config = *config};
  const std::string hash = content_hash(config->dump());
  if (document.value("config_hash", "") != hash) {
    throw ConfigError(fmt::format(
        "{}: /config_hash: is {}, but that of its config is {}; the record was changed, run its "
        "design point again",
        options.file, document.value("config_hash", "missing"), hash));
  }
  for (const std::string& assignment : options.overrides) {
    apply_override(prepared.config, assignment);
  }
  prepared.name = check_point(prepared.config);
  return prepared;
}

RecordedPart part_of(const ExplainOptions& options, const DesignPoint& point) {
  if (options.phase == "prefill") {
    if (options.step) {
      throw ConfigError("--step: is of the decode phase; leave it out with --phase prefill");
    }
    return recorded_part("prefill", point, "--phase");
  }
  if (!options.step) {
    RecordedPart part = recorded_part("", point, "--step");
    part.first = part.last - 1;
    return part;
  }
  RecordedPart part =
      recorded_part(fmt::format("{}:{}", *options.step, *options.step + 1), point, "--step");
  return part;
}

/// The resource with the largest share that some constants of the point make faster; empty when
/// there is none.
std::string bottleneck(const StepPath& path, const json& config) {
  for (const ResourceShare& share : resource_shares(path)) {
    if (can_be_faster(config, share.family)) {
      return share.family;
    }
  }
  return "";
}

int run_explain(const ExplainOptions& options) {
  const PreparedPoint prepared = prepare_run(options);
  const DesignPoint point = design_point_of(prepared);
  const RecordedPart part = part_of(options, point);
  const std::string asked = family_of(options.twice);
  const std::string named = "--twice " + options.twice;
  if (!asked.empty()) {
    static_cast<void>(twice_as_fast(prepared.config, asked, named));  // before anything runs
  }
  Explanation explanation{.name = prepared.name,
                          .system = point.system_kind,
                          .config_hash = content_hash(prepared.config.dump()),
                          .path = path_of_step(prepared, part),
                          .twice = std::nullopt};
  const std::string family = asked.empty() ? bottleneck(explanation.path, prepared.config) : asked;
  if (!family.empty()) {
    FasterPoint faster = twice_as_fast(prepared.config, family, named);
    PreparedPoint changed = prepared;
    changed.config = std::move(faster.config);
    explanation.twice = Confirmation{.family = family,
                                     .predicted = predicted_time(explanation.path, family),
                                     .simulated = path_of_step(changed, part).time,
                                     .changes = std::move(faster.changes)};
  }
  fmt::print("{}", options.as_json ? explanation_json(explanation).dump(2) + "\n"
                                   : explanation_text(explanation));
  return kExitOk;
}

}  // namespace

void add_explain_command(CLI::App& command, int& exit_status) {
  auto options = std::make_shared<ExplainOptions>();
  command
      .add_option("RUN", options->file,
                  "A design point, or a record that nearkv run wrote (its config is run again)")
      ->required();
  command.add_option("--set", options->overrides, "Set a value, as in nearkv run (repeatable)")
      ->allow_extra_args(false);
  command
      .add_option("--phase", options->phase, "decode: one decode step; prefill: the whole prefill")
      ->check(CLI::IsMember({"decode", "prefill"}))
      ->capture_default_str();
  command
      .add_option("--step", options->step,
                  "Which decode step, counted from 0 (default: the one in the middle), or which "
                  "pass of a system that serves requests")
      ->check(CLI::Range(0, 1 << 30));
  command.add_option(
      "--twice", options->twice,
      "The resource that a second run makes twice as fast (default: the bottleneck)");
  command.add_flag("--json", options->as_json, "Print everything as JSON");
  command.callback([options, &exit_status] { exit_status = run_explain(*options); });
}

}  // namespace nearkv
