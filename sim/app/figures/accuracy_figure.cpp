#include "sim/app/figures/accuracy_figure.hpp"

#include <map>
#include <utility>

#include <fmt/format.h>

#include "sim/core/allowed_paths.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

struct AccuracyConfig {
  FigureHeading heading;
  std::string perplexity;  // files
  std::string tensors;
  std::string claims_about;

  void fields(FieldVisitor& v) {
    heading.fields(v);
    v.parameter("perplexity", perplexity, "results of validation/accuracy/perplexity.py");
    v.parameter("tensors", tensors, "results of validation/accuracy/tensors.py");
    v.parameter("claims_about", claims_about, "run of the paper's suite with the same numbers");
  }
};

/// Numbers that a result has of a method at a ratio; what it lacks, or has as null, is nothing.
FigureTable::Cell number_of(const json& configuration, const char* key) {
  const auto found = configuration.find(key);
  return found != configuration.end() && found->is_number()
             ? FigureTable::Cell(found->get<double>())
             : FigureTable::Cell();
}

class AccuracyFigure final : public TableFigure {
 public:
  AccuracyFigure(const AccuracyConfig& config, const Suite& paper)
      : TableFigure(config.heading, paper, config.claims_about, {}),
        perplexity_(read("/perplexity", config.perplexity)),
        tensors_(read("/tensors", config.tensors)) {}

 protected:
  [[nodiscard]] FigureTable table(std::span<const RecordView> /*records*/) const override {
    FigureTable table({{"method"},
                       {"ratio"},
                       {"perplexity"},
                       {"increase"},
                       {"increase_standard_error"},
                       {"error_mean"},
                       {"kept_mass"}});
    for (const auto& [key, outputs] : by_method_and_ratio()) {
      const auto& [whole_model, captured] = outputs;
      table.row({key.first, -key.second, number_of(whole_model, "perplexity"),
                 number_of(whole_model, "increase"),
                 number_of(whole_model, "increase_standard_error"),
                 number_of(captured, "error_mean"), number_of(captured, "kept_mass")});
    }
    return table;
  }

  [[nodiscard]] std::string text(std::span<const RecordView> records) const override {
    return fmt::format(
        "ratio: share of dense attention's traffic; increase: of perplexity over dense attention, "
        "mean over\nsegments of text; error_mean: of attention's outputs, kept_mass: attention "
        "probability of the tokens\nthat are attended to, on captured tensors\n\n{}",
        table(records).text());
  }

  [[nodiscard]] std::vector<std::string> notes() const override {
    return {"measured with the CPU kernels by validation/accuracy and kept; not measured again",
            fmt::format("perplexity: {}, {} segments of {} steps", perplexity_.value("model", "?"),
                        perplexity_.value("segments", 0), perplexity_.value("steps", 0)),
            fmt::format("outputs: {}", tensors_.at("capture").value("model", "?"))};
  }

 private:
  [[nodiscard]] json read(const char* field, const std::string& name) const {
    const fs::path file = heading().file.parent_path() / name;
    allowed_paths().check(file, name, fmt::format("{}: {}", heading().file.string(), field));
    json results = load_json(file);
    if (!results.is_object() || !results.contains("configurations")) {
      throw ConfigError(fmt::format(
          "{}: /configurations: missing; is this a result of validation/accuracy?", file.string()));
    }
    return results;
  }

  /// (whole model, captured tensors) by method, from the highest ratio down.
  using Key = std::pair<std::string, double>;
  [[nodiscard]] std::map<Key, std::pair<json, json>> by_method_and_ratio() const {
    std::map<Key, std::pair<json, json>> found;
    const auto key_of = [](const json& configuration) {
      return Key{configuration.at("method").get<std::string>(),
                 -configuration.at("ratio").get<double>()};
    };
    for (const json& configuration : perplexity_.at("configurations")) {
      found[key_of(configuration)].first = configuration;
    }
    for (const json& configuration : tensors_.at("configurations")) {
      found[key_of(configuration)].second = configuration;
    }
    return found;
  }

  json perplexity_;
  json tensors_;
};

}  // namespace

std::unique_ptr<Figure> make_accuracy_figure(const fs::path& file, const Suite& paper) {
  return std::make_unique<AccuracyFigure>(read_figure<AccuracyConfig>(file).config, paper);
}

}  // namespace nearkv
