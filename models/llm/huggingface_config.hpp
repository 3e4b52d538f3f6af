// The config.json of a decoder on the Hugging Face hub as a model shape.
//
// Such a file names a class of the transformers library ("model_type") and its dimensions under
// keys that differ by class. What a class is like (a gate in the feed-forward network, biases,
// norms, whether the LM head is tied when the file does not say) stands in a table here, from the
// classes' sources in transformers 5.24. A class that is not in the table is read by the keys that
// most classes share; what the file leaves open is assumed and said, or an error when it decides
// over the number of weights.
//
// Left out, and below 1/1000 of the weights: a bias of the LM head (GPT-J, Phi), a norm behind the
// embedding (BLOOM), attention sinks, positions by ALiBi (counted as rotary ones).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "models/llm/model_shape.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

struct HuggingFaceModel {
  ModelShape shape;
  std::string model_type;                // "llama"
  std::vector<std::string> assumptions;  // what the file leaves open, or the shape cannot say
};

/// Whether a JSON object is such a file and no config of ours.
[[nodiscard]] bool is_huggingface_config(const nlohmann::json& document);

/// Throws ConfigError, a line "file: /key: ..." for each problem. The model is named by
/// "_name_or_path", or else after the file, or after its folder when it is called config.json.
[[nodiscard]] HuggingFaceModel read_huggingface_config(const nlohmann::json& document,
                                                       const std::filesystem::path& file);

/// The keys of ModelShape::fields with the shape's values, in their order, after a "comment".
[[nodiscard]] nlohmann::ordered_json shape_as_json(const ModelShape& shape,
                                                   const std::string& comment);

/// One sentence on where the shape comes from and what was assumed.
[[nodiscard]] std::string origin_of(const HuggingFaceModel& model,
                                    const std::filesystem::path& file);

/// For load_config: a Hugging Face config.json that a config extends becomes a shape; any other
/// file stays as it is.
[[nodiscard]] nlohmann::json translate_huggingface(nlohmann::json document,
                                                   const std::filesystem::path& file);

}  // namespace nearkv
