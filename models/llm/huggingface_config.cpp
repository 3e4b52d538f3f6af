#include "models/llm/huggingface_config.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// Keys that mean the same; the first is the commonest.
class Names {
 public:
  template <class... Text>
  constexpr Names(Text... names)  // NOLINT(google-explicit-constructor): reads as a list
      : names_{std::string_view(names)...}, size_(sizeof...(names)) {}

  [[nodiscard]] constexpr const std::string_view* begin() const { return names_.data(); }
  [[nodiscard]] constexpr const std::string_view* end() const { return begin() + size_; }
  [[nodiscard]] constexpr std::size_t size() const { return size_; }

 private:
  std::array<std::string_view, 5> names_;
  std::size_t size_;
};

// What classes call the same thing.
constexpr Names kHidden{"hidden_size", "n_embd", "d_model", "n_embed"};
constexpr Names kLayers{"num_hidden_layers", "n_layer", "n_layers", "num_layers"};
constexpr Names kHeads{"num_attention_heads", "n_head", "n_heads"};
constexpr Names kKvHeads{"num_key_value_heads", "num_kv_heads", "n_head_kv"};
constexpr Names kFfn{"intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"};
constexpr Names kExperts{"num_local_experts", "num_experts"};
constexpr Names kPicked{"num_experts_per_tok", "num_experts_per_token", "moe_top_k"};
constexpr Names kPositions{"max_position_embeddings", "n_positions", "max_seq_len", "seq_length",
                           "n_ctx"};
constexpr Names kActivation{"hidden_act", "hidden_activation", "activation_function", "activation"};

/// Reads keys of one object and collects what is wrong and what is assumed.
class Keys {
 public:
  Keys(const json& node, std::string path) : node_(node), path_(std::move(path)) {}

  /// The first of `names` that is there and not null.
  [[nodiscard]] const json* find(const Names& names) const {
    for (const std::string_view name : names) {
      const auto found = node_.find(name);
      if (found != node_.end() && !found->is_null()) {
        return &*found;
      }
    }
    return nullptr;
  }
  [[nodiscard]] bool has(const Names& names) const { return find(names) != nullptr; }

  /// That name, or the commonest.
  [[nodiscard]] std::string_view name_of(const Names& names) const {
    for (const std::string_view name : names) {
      if (node_.contains(name) && !node_.at(std::string(name)).is_null()) {
        return name;
      }
    }
    return *names.begin();
  }

  /// A number of at least `lowest`, or 0 when none of `names` is there or it is wrong.
  std::int64_t number(const Names& names, std::int64_t lowest = 1) {
    const json* found = find(names);
    if (found == nullptr) {
      return 0;
    }
    if (found->is_number_integer() && *found >= lowest && *found <= kMost) {
      return found->get<std::int64_t>();
    }
    problem(name_of(names), fmt::format("is {}; must be a whole number of {} to {}",
                                        printable(found->dump()), lowest, kMost));
    return 0;
  }
  /// A number that must be there. `what` says what it is.
  std::int64_t needed(const Names& names, std::string_view what) {
    if (!has(names)) {
      missing(names, what);
    }
    return number(names);
  }
  /// true or false, or `otherwise` when none of `names` is there.
  bool flag(const Names& names, bool otherwise) {
    const json* found = find(names);
    if (found == nullptr) {
      return otherwise;
    }
    if (!found->is_boolean()) {
      problem(name_of(names),
              fmt::format("is {}; must be true or false", printable(found->dump())));
      return otherwise;
    }
    return found->get<bool>();
  }
  /// Empty when none of `names` is there or it is no text.
  [[nodiscard]] std::string text(const Names& names) const {
    const json* found = find(names);
    return found != nullptr && found->is_string() ? found->get<std::string>() : "";
  }

  void missing(const Names& names, std::string_view what) {
    problem(*names.begin(),
            fmt::format("missing; add it ({}){}", what,
                        names.size() == 1
                            ? ""
                            : fmt::format(", also known as {}",
                                          fmt::join(names.begin() + 1, names.end(), ", "))));
  }
  void problem(std::string_view key, std::string_view message) {
    problems_.push_back(fmt::format("{}/{}: {}", path_, key, message));
  }
  void assume(std::string assumption) { assumptions_.push_back(std::move(assumption)); }

  [[nodiscard]] const std::vector<std::string>& problems() const { return problems_; }
  [[nodiscard]] std::vector<std::string>& assumptions() { return assumptions_; }

 private:
  static constexpr std::int64_t kMost = 1 << 30;  // not a constant: a limit of the input

  const json& node_;
  std::string path_;
  std::vector<std::string> problems_;
  std::vector<std::string> assumptions_;
};

// -- Classes of transformers ---------------------------------------------------------------------

/// What a class is like where its config.json does not say.
struct Family {
  std::string_view type;
  bool gated = true;
  bool norm_biases = false;  // LayerNorm
  Biases biases = Biases::none;
  bool tied = false;
  bool ffn_of_four_hiddens = false;  // when the file gives no width
  /// What else is special about it; may be null.
  void (*adjust)(Keys& keys, ModelShape& shape) = nullptr;
};

void adjust_opt(Keys& keys, ModelShape& shape) {
  // OPTLearnedPositionalEmbedding begins with two rows that no position uses.
  shape.learned_positions = shape.max_positions + 2;
  shape.final_norm =
      keys.flag({"do_layer_norm_before"}, true) && !keys.flag({"_remove_final_layer_norm"}, false);
  const std::int64_t width = keys.number({"word_embed_proj_dim"});
  shape.embedding_width = width == shape.hidden ? 0 : width;
}

void adjust_gpt2(Keys& keys, ModelShape& shape) {
  shape.learned_positions = shape.max_positions;
  if (keys.flag({"multi_query"}, false)) {  // gpt_bigcode
    shape.kv_heads = 1;
  }
}

void adjust_falcon(Keys& keys, ModelShape& shape) {
  if (keys.flag({"new_decoder_architecture"}, false)) {
    shape.norms_per_layer =
        keys.has({"num_ln_in_parallel_attn"}) ? keys.number({"num_ln_in_parallel_attn"}) : 2;
    return;
  }
  shape.kv_heads = keys.flag({"multi_query"}, true) ? 1 : shape.heads;
  shape.norms_per_layer = keys.flag({"parallel_attn"}, true) ? 1 : 2;
}

void adjust_one_norm(Keys& /*keys*/, ModelShape& shape) { shape.norms_per_layer = 1; }

void adjust_stablelm(Keys& keys, ModelShape& shape) {
  shape.norms_per_layer = keys.flag({"use_parallel_residual"}, false) ? 1 : 2;
}

void adjust_gemma2(Keys& /*keys*/, ModelShape& shape) {
  shape.norms_per_layer = 4;  // not a constant: of both blocks' inputs and outputs
}

void adjust_gemma3(Keys& keys, ModelShape& shape) {
  adjust_gemma2(keys, shape);
  shape.qk_norms = true;
}

void adjust_qwen3(Keys& /*keys*/, ModelShape& shape) { shape.qk_norms = true; }

void adjust_qwen2_moe(Keys& keys, ModelShape& shape) {
  shape.shared_ffn =
      keys.needed({"shared_expert_intermediate_size"}, "inner width of the expert of all tokens");
}

/// The order is that of describe(): families of one maker together.
const std::vector<Family>& families() {
  static const std::vector<Family> all{
      {.type = "opt",
       .gated = false,
       .norm_biases = true,
       .biases = Biases::all,
       .tied = true,
       .adjust = adjust_opt},
      {.type = "llama"},
      {.type = "mistral"},
      {.type = "mixtral"},
      {.type = "qwen2", .biases = Biases::qkv},
      {.type = "qwen2_moe", .biases = Biases::qkv, .adjust = adjust_qwen2_moe},
      {.type = "qwen3", .adjust = adjust_qwen3},
      {.type = "qwen3_moe", .adjust = adjust_qwen3},
      {.type = "gemma", .tied = true},
      {.type = "gemma2", .tied = true, .adjust = adjust_gemma2},
      {.type = "gemma3_text", .tied = true, .adjust = adjust_gemma3},
      {.type = "phi",
       .gated = false,
       .norm_biases = true,
       .biases = Biases::all,
       .adjust = adjust_one_norm},
      {.type = "phi3"},
      {.type = "gpt2",
       .gated = false,
       .norm_biases = true,
       .biases = Biases::all,
       .tied = true,
       .ffn_of_four_hiddens = true,
       .adjust = adjust_gpt2},
      {.type = "gpt_bigcode",
       .gated = false,
       .norm_biases = true,
       .biases = Biases::all,
       .tied = true,
       .ffn_of_four_hiddens = true,
       .adjust = adjust_gpt2},
      {.type = "gptj",
       .gated = false,
       .norm_biases = true,
       .biases = Biases::ffn,
       .ffn_of_four_hiddens = true,
       .adjust = adjust_one_norm},
      {.type = "gpt_neox", .gated = false, .norm_biases = true, .biases = Biases::all},
      {.type = "falcon",
       .gated = false,
       .norm_biases = true,
       .tied = true,
       .ffn_of_four_hiddens = true,
       .adjust = adjust_falcon},
      {.type = "starcoder2",
       .gated = false,
       .norm_biases = true,
       .biases = Biases::all,
       .tied = true},
      {.type = "stablelm", .norm_biases = true, .adjust = adjust_stablelm},
      {.type = "cohere", .tied = true, .adjust = adjust_one_norm},
      {.type = "granite"},
      {.type = "smollm3", .tied = true},
  };
  return all;
}

std::string without_underscores(std::string text) {
  text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
  return text;
}

/// "Qwen2MoeForCausalLM" is of the model type qwen2_moe.
std::string type_of_class(const Keys& keys) {
  const json* classes = keys.find({"architectures"});
  if (classes == nullptr || !classes->is_array() || classes->empty() ||
      !classes->front().is_string()) {
    return "";
  }
  std::string name = classes->front().get<std::string>();
  name.erase(std::min(name.find("For"), name.size()));
  std::transform(name.begin(), name.end(), name.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  for (const Family& family : families()) {
    if (without_underscores(std::string(family.type)) == name) {
      return std::string(family.type);
    }
  }
  return name;
}

/// A class that is not in the table, as its keys tell.
Family unknown_family(Keys& keys, const std::string& type) {
  Family family{.type = "unknown"};
  std::string activation = keys.text(kActivation);
  if (activation.empty()) {
    keys.missing(kActivation,
                 fmt::format("the activation; the model type {} is not known here, and \"silu\" "
                             "would tell that the network has a gate",
                             in_quotes(type)));
  }
  family.gated = activation.find("silu") != std::string::npos ||
                 activation.find("swi") != std::string::npos ||
                 activation.find("glu") != std::string::npos;
  family.norm_biases =
      keys.has({"layer_norm_eps", "layer_norm_epsilon"}) && !keys.has({"rms_norm_eps"});
  family.tied = true;  // the default of PretrainedConfig
  keys.assume(fmt::format(
      "the model type {} is not known here: {} feed-forward network ({} is its activation), two "
      "{} a layer, rotary positions{}",
      in_quotes(type), family.gated ? "a gated" : "an ungated", activation,
      family.norm_biases ? "LayerNorms" : "RMSNorms",
      keys.has({"tie_word_embeddings"}) ? "" : ", an LM head tied to the embedding"));
  return family;
}

// -- Reading -------------------------------------------------------------------------------------

/// Refuses what a shape cannot describe.
void refuse_other_architectures(Keys& keys) {
  if (keys.flag({"is_encoder_decoder"}, false)) {
    keys.problem("is_encoder_decoder", "is true; only decoders are simulated");
  }
  if (keys.has({"kv_lora_rank"})) {
    keys.problem("kv_lora_rank",
                 "latent attention (MLA) keeps no K and V heads; it is not simulated");
  }
  for (const std::string_view key : {"ssm_cfg", "state_size", "mamba_d_state", "attn_layer_period",
                                     "linear_num_key_heads", "block_configs", "rwkv_hidden_size"}) {
    if (keys.has({key})) {
      keys.problem(key, "layers that are no attention, or differ, are not simulated");
    }
  }
  if (const json* types = keys.find({"layer_types"}); types != nullptr && types->is_array()) {
    for (const json& type : *types) {
      if (type != "full_attention" && type != "sliding_attention") {
        keys.problem("layer_types", fmt::format("has {}; only layers of full_attention and "
                                                "sliding_attention are simulated",
                                                printable(type.dump())));
        break;
      }
    }
  }
  constexpr std::string_view kUnequal =
      "some layers have experts and others none; only models whose layers are alike are simulated";
  if (keys.number({"first_k_dense_replace"}, 0) > 0) {
    keys.problem("first_k_dense_replace", kUnequal);
  }
  if (keys.number({"decoder_sparse_step"}, 0) > 1) {
    keys.problem("decoder_sparse_step", kUnequal);
  }
  if (const json* dense = keys.find({"mlp_only_layers"}); dense != nullptr && !dense->empty()) {
    keys.problem("mlp_only_layers", kUnequal);
  }
}

void read_attention(Keys& keys, ModelShape& shape) {
  shape.heads = keys.needed(kHeads, "query heads of a layer");
  shape.kv_heads = keys.number(kKvHeads);
  if (shape.kv_heads == 0) {
    shape.kv_heads = shape.heads;
  }
  if (shape.kv_heads > 0 && shape.heads % shape.kv_heads != 0) {
    keys.problem(
        keys.name_of(kKvHeads),
        fmt::format("{} KV heads cannot serve {} query heads evenly", shape.kv_heads, shape.heads));
  }
  shape.head_dim = keys.number({"head_dim"});
  if (shape.head_dim == 0 && shape.heads > 0) {
    if (shape.hidden % shape.heads != 0) {
      keys.missing({"head_dim"}, fmt::format("width of a head; {} heads do not divide {}",
                                             shape.heads, shape.hidden));
    }
    shape.head_dim = shape.hidden / shape.heads;
  }
  shape.attention_width = shape.heads * shape.head_dim;
}

void read_network(Keys& keys, const Family& family, ModelShape& shape) {
  shape.gated_ffn = family.gated;
  shape.experts = keys.number(kExperts, 0);
  if (shape.experts > 0) {
    shape.experts_per_token = keys.needed(kPicked, "experts that the router picks for a token");
    if (shape.experts_per_token > shape.experts) {
      keys.problem(keys.name_of(kPicked), fmt::format("{} experts cannot be picked of {}",
                                                      shape.experts_per_token, shape.experts));
    }
  }
  if (shape.experts > 0 && keys.has({"moe_intermediate_size"})) {
    shape.ffn = keys.number({"moe_intermediate_size"});
  } else if (!keys.has(kFfn) && family.ffn_of_four_hiddens) {
    shape.ffn = 4 * shape.hidden;  // not a constant: what these classes do
  } else {
    shape.ffn = keys.needed(kFfn, "inner width of the feed-forward network");
  }
}

/// The window of all layers; 0 where some layers or all see the whole context.
std::int64_t read_window(Keys& keys) {
  const std::int64_t window = keys.has({"sliding_window"}) && *keys.find({"sliding_window"}) != 0
                                  ? keys.number({"sliding_window"})
                                  : 0;
  if (window == 0 || !keys.flag({"use_sliding_window"}, true)) {
    return 0;
  }
  const json* types = keys.find({"layer_types"});
  const bool some_full = types != nullptr && types->is_array() &&
                         std::find(types->begin(), types->end(), "full_attention") != types->end();
  const bool by_rule = keys.has({"sliding_window_pattern", "_sliding_window_pattern",
                                 "max_window_layers", "query_pre_attn_scalar"});
  if (some_full || (types == nullptr && by_rule)) {
    keys.assume(fmt::format(
        "some layers see {} tokens only; all are counted with the whole context", window));
    return 0;
  }
  return window;
}

Biases read_biases(Keys& keys, const Family& family) {
  bool qkv = family.biases != Biases::none && family.biases != Biases::ffn;
  bool output = family.biases == Biases::attention || family.biases == Biases::all;
  bool ffn = family.biases == Biases::ffn || family.biases == Biases::all;
  constexpr Names kAllBiases{"use_bias", "bias", "enable_bias"};
  if (keys.has(kAllBiases)) {
    qkv = output = ffn = keys.flag(kAllBiases, false);
  }
  if (keys.has({"attention_bias"})) {
    qkv = output = keys.flag({"attention_bias"}, false);
  }
  qkv = keys.flag({"qkv_bias", "use_qkv_bias"}, qkv);
  ffn = keys.flag({"mlp_bias"}, ffn);
  if (qkv && ffn) {
    return Biases::all;
  }
  if (ffn) {
    return Biases::ffn;
  }
  return output ? Biases::attention : (qkv ? Biases::qkv : Biases::none);
}

void read_value_size(Keys& keys, ModelShape& shape) {
  const std::string type = keys.text({"dtype", "torch_dtype"});
  const bool is_half = type == "float16" || type == "bfloat16";
  shape.bytes_per_value = 2;
  if (keys.has({"quantization_config"})) {
    keys.assume("the checkpoint is quantized; weights and KV are counted with 2 bytes a value");
  } else if (!type.empty() && !is_half) {
    keys.assume(fmt::format("the checkpoint is {}; weights and KV are counted with 2 bytes a value",
                            printable(type)));
  }
}

/// The last part of "meta-llama/Llama-2-7b-hf", or what the file or its folder is called.
std::string model_name(const Keys& keys, const fs::path& file) {
  std::string name = keys.text({"_name_or_path"});
  while (name.ends_with('/')) {
    name.pop_back();
  }
  name.erase(0, name.rfind('/') + 1);
  if (!name.empty() && name != ".") {
    return name;
  }
  const fs::path absolute = fs::absolute(file).lexically_normal();
  return absolute.filename() == "config.json" ? absolute.parent_path().filename().string()
                                              : absolute.stem().string();
}

ModelShape read_shape(Keys& keys, const Family& family, const fs::path& file) {
  ModelShape shape;
  shape.name = model_name(keys, file);
  shape.layers = keys.needed(kLayers, "decoder layers");
  shape.hidden = keys.needed(kHidden, "width of the residual stream");
  shape.vocab = keys.needed({"vocab_size"}, "tokens of the vocabulary");
  shape.max_positions = keys.needed(kPositions, "longest context");
  read_attention(keys, shape);
  shape.attention_window = read_window(keys);
  read_network(keys, family, shape);
  shape.norm_biases = family.norm_biases;
  shape.biases = read_biases(keys, family);
  shape.tied_embeddings = keys.flag({"tie_word_embeddings"}, family.tied);
  read_value_size(keys, shape);
  if (keys.flag({"alibi"}, false)) {
    keys.assume("positions by ALiBi are counted as rotary ones");
  }
  if (family.adjust != nullptr) {
    family.adjust(keys, shape);
  }
  return shape;
}

}  // namespace

bool is_huggingface_config(const json& document) {
  return document.is_object() && !document.contains("layers") &&
         (document.contains("model_type") || document.contains("architectures"));
}

HuggingFaceModel read_huggingface_config(const json& document, const fs::path& file) {
  // Models that also see pictures keep their decoder in an object of its own.
  const bool is_nested = document.contains("text_config") && document["text_config"].is_object();
  const json& node = is_nested ? document["text_config"] : document;
  Keys keys(node, is_nested ? "/text_config" : "");
  if (is_nested) {
    keys.assume("only the text decoder is counted");
  }
  refuse_other_architectures(keys);
  HuggingFaceModel model;
  model.model_type = keys.text({"model_type"});
  if (model.model_type.empty()) {
    model.model_type = type_of_class(keys);
  }
  const auto known =
      std::find_if(families().begin(), families().end(),
                   [&model](const Family& family) { return family.type == model.model_type; });
  const Family family = known != families().end() ? *known : unknown_family(keys, model.model_type);
  model.shape = read_shape(keys, family, file);
  if (!keys.problems().empty()) {
    std::vector<std::string> lines;
    for (const std::string& problem : keys.problems()) {
      lines.push_back(printable(file.string()) + ": " + problem);
    }
    throw ConfigError(lines);
  }
  model.assumptions = std::move(keys.assumptions());
  return model;
}

nlohmann::ordered_json shape_as_json(const ModelShape& shape, const std::string& comment) {
  constexpr std::array<std::string_view, 5> kBiases{"none", "qkv", "attention", "ffn", "all"};
  return {{"comment", comment},
          {"name", shape.name},
          {"layers", shape.layers},
          {"hidden", shape.hidden},
          {"heads", shape.heads},
          {"kv_heads", shape.kv_heads},
          {"head_dim", shape.head_dim},
          {"attention_width", shape.attention_width},
          {"attention_window", shape.attention_window},
          {"qk_norms", shape.qk_norms},
          {"ffn", shape.ffn},
          {"gated_ffn", shape.gated_ffn},
          {"experts", shape.experts},
          {"experts_per_token", shape.experts_per_token},
          {"shared_ffn", shape.shared_ffn},
          {"norms_per_layer", shape.norms_per_layer},
          {"norm_biases", shape.norm_biases},
          {"biases", kBiases.at(static_cast<std::size_t>(shape.biases))},
          {"vocab", shape.vocab},
          {"embedding_width", shape.embedding_width},
          {"max_positions", shape.max_positions},
          {"learned_positions", shape.learned_positions},
          {"final_norm", shape.final_norm},
          {"tied_embeddings", shape.tied_embeddings},
          {"bytes_per_value", shape.bytes_per_value}};
}

std::string origin_of(const HuggingFaceModel& model, const fs::path& file) {
  std::string text = fmt::format("Read from {}, a Hugging Face config of model type {}.",
                                 printable(file.filename().string()), printable(model.model_type));
  if (!model.assumptions.empty()) {
    text += fmt::format(" Assumed: {}.", fmt::join(model.assumptions, "; "));
  }
  return text;
}

json translate_huggingface(json document, const fs::path& file) {
  if (!is_huggingface_config(document)) {
    return document;
  }
  const HuggingFaceModel model = read_huggingface_config(document, file);
  return shape_as_json(model.shape, origin_of(model, file));
}

}  // namespace nearkv
