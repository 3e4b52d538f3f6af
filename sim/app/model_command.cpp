// nearkv model FILE: what a language model is made of, from a Hugging Face config.json or from a
// shape of this program.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "models/llm/huggingface_config.hpp"
#include "models/llm/model_shape.hpp"
#include "sim/app/commands.hpp"
#include "sim/app/point.hpp"
#include "sim/app/table.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"
#include "sim/core/record.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

struct ModelOptions {
  std::string file;
  std::string out;
  bool is_summary = false;
};

struct Model {
  ModelShape shape;
  std::string origin;  // the "comment" of its JSON
};

/// Throws ConfigError when the shape contradicts itself.
ModelShape checked_shape(const json& config, const std::string& file) {
  ModelShape shape;
  try {
    read_fields(config, [&shape](FieldVisitor& v) { shape.fields(v); });
  } catch (const ConfigError& error) {
    throw ConfigError(prefix_lines(printable(file), error.what()));
  }
  return shape;
}

Model load_model(const fs::path& file) {
  const json document = load_json(file);
  if (is_huggingface_config(document)) {
    const HuggingFaceModel read = read_huggingface_config(document, file);
    const std::string origin = origin_of(read, file);
    return {checked_shape(shape_as_json(read.shape, origin), file.string()), origin};
  }
  if (!document.contains("layers") && !document.contains("extends")) {
    throw ConfigError(fmt::format(
        "{}: is neither a Hugging Face config.json (no \"model_type\") nor a model of this program "
        "(no \"layers\")",
        printable(file.string())));
  }
  const bool has_comment = document.contains("comment") && document["comment"].is_string();
  return {checked_shape(load_config(file, translate_huggingface), file.string()),
          has_comment ? document["comment"].get<std::string>()
                      : fmt::format("Read from {}.", printable(file.filename().string()))};
}

std::string count_text(std::int64_t count) {
  constexpr double kBillion = 1e9;
  return fmt::format("{} ({} billion)", count,
                     format_significant(static_cast<double>(count) / kBillion));
}

std::string summary(const Model& model) {
  const ModelShape& shape = model.shape;
  TextTable table({{"", TextTable::Align::left}, {"", TextTable::Align::left}});
  table.row({"model", shape.name});
  table.row({"parameters", count_text(shape.parameters())});
  if (shape.is_mixture()) {
    table.row({"active in a token", count_text(shape.active_parameters())});
  }
  table.row({"weights", format_short(shape.weight_bytes())});
  table.row({"weights of a layer", format_short(shape.weight_bytes_per_layer())});
  table.row({"KV of a token", format_short(shape.kv_bytes_per_token())});
  const std::int64_t longest = shape.attended_tokens(shape.max_positions);
  table.row({fmt::format("KV of {} tokens", longest),
             format_short(shape.kv_bytes_per_token() * longest)});
  table.row({"source", model.origin});
  return table.text();
}

void run_model(const ModelOptions& options) {
  const Model model = load_model(path_of_config(options.file));
  const std::string text = shape_as_json(model.shape, model.origin).dump(2) + "\n";
  if (!options.out.empty()) {
    write_file_atomically(options.out, text);
  }
  const bool wants_json = options.out.empty() && !options.is_summary;
  fmt::print("{}", wants_json ? text : summary(model));
}

}  // namespace

void add_model_command(CLI::App& command, int& exit_status) {
  static_cast<void>(exit_status);
  auto options = std::make_shared<ModelOptions>();
  command
      .add_option("FILE", options->file,
                  "A Hugging Face config.json, or a model of this program (configs/models)")
      ->required();
  command.add_option("--out", options->out,
                     "Write the model there as JSON, to be named by \"extends\", and print its "
                     "summary");
  command.add_flag("--summary", options->is_summary,
                   "Print parameters, weights and KV sizes instead of JSON");
  command.callback([options] { run_model(*options); });
}

}  // namespace nearkv
