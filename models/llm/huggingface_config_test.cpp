#include "models/llm/huggingface_config.hpp"

#include <cstdint>
#include <filesystem>
#include <string>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"
#include "sim/core/test_folder.hpp"

using namespace nearkv;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

struct Published {
  const char* name;
  const char* config;       // the keys of its config.json that say what it is
  std::int64_t parameters;  // without a bias of the LM head, which shapes leave out
};

// config.json of these repositories on the Hugging Face hub; num_parameters() of their classes in
// transformers 5.24, made from the same keys on the meta device.
// clang-format off
const Published kPublished[] = {
    {"facebook/opt-350m", R"(
      {"model_type": "opt", "architectures": ["OPTForCausalLM"], "do_layer_norm_before": false,
       "ffn_dim": 4096, "hidden_size": 1024, "max_position_embeddings": 2048,
       "num_attention_heads": 16, "num_hidden_layers": 24, "torch_dtype": "float16",
       "vocab_size": 50272, "word_embed_proj_dim": 512})",
     331'196'416},
    {"meta-llama/Llama-3.2-1B", R"(
      {"architectures": ["LlamaForCausalLM"], "attention_bias": false, "head_dim": 64,
       "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192,
       "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
       "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
       "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 128256})",
     1'235'814'400},
    {"mistralai/Mistral-7B-v0.1", R"(
      {"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
       "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32,
       "num_key_value_heads": 8, "sliding_window": 4096, "tie_word_embeddings": false,
       "torch_dtype": "bfloat16", "vocab_size": 32000})",
     7'241'732'096},
    {"mistralai/Mistral-Nemo-Base-2407", R"(
      {"model_type": "mistral", "head_dim": 128, "hidden_size": 5120,
       "intermediate_size": 14336, "max_position_embeddings": 128000, "num_attention_heads": 32,
       "num_hidden_layers": 40, "num_key_value_heads": 8, "sliding_window": null,
       "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 131072})",
     12'247'782'400},
    {"mistralai/Mixtral-8x7B-v0.1", R"(
      {"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336,
       "max_position_embeddings": 32768, "num_attention_heads": 32, "num_experts_per_tok": 2,
       "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
       "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
       "vocab_size": 32000})",
     46'702'792'704},
    {"Qwen/Qwen2.5-0.5B", R"(
      {"model_type": "qwen2", "hidden_act": "silu", "hidden_size": 896,
       "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
       "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
       "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
       "use_sliding_window": false, "vocab_size": 151936})",
     494'032'768},
    {"Qwen/Qwen1.5-MoE-A2.7B", R"(
      {"model_type": "qwen2_moe", "decoder_sparse_step": 1, "hidden_act": "silu",
       "hidden_size": 2048, "intermediate_size": 5632, "max_position_embeddings": 8192,
       "max_window_layers": 21, "moe_intermediate_size": 1408, "num_attention_heads": 16,
       "num_experts": 60, "num_experts_per_tok": 4, "num_hidden_layers": 24,
       "num_key_value_heads": 16, "shared_expert_intermediate_size": 5632,
       "sliding_window": 32768, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
       "use_sliding_window": false, "vocab_size": 151936})",
     14'315'784'192},
    {"Qwen/Qwen3-0.6B", R"(
      {"model_type": "qwen3", "attention_bias": false, "head_dim": 128, "hidden_act": "silu",
       "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
       "max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28,
       "num_key_value_heads": 8, "sliding_window": null, "tie_word_embeddings": true,
       "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936})",
     596'049'920},
    {"Qwen/Qwen3-30B-A3B", R"(
      {"model_type": "qwen3_moe", "attention_bias": false, "decoder_sparse_step": 1,
       "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144,
       "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
       "moe_intermediate_size": 768, "num_attention_heads": 32, "num_experts": 128,
       "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
       "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
       "use_sliding_window": false, "vocab_size": 151936})",
     30'532'122'624},
    {"google/gemma-2b", R"(
      {"model_type": "gemma", "head_dim": 256, "hidden_act": "gelu", "hidden_size": 2048,
       "intermediate_size": 16384, "max_position_embeddings": 8192, "num_attention_heads": 8,
       "num_hidden_layers": 18, "num_key_value_heads": 1, "torch_dtype": "bfloat16",
       "vocab_size": 256000})",
     2'506'172'416},
    {"google/gemma-2-9b", R"(
      {"model_type": "gemma2", "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
       "hidden_size": 3584, "intermediate_size": 14336, "max_position_embeddings": 8192,
       "num_attention_heads": 16, "num_hidden_layers": 42, "num_key_value_heads": 8,
       "query_pre_attn_scalar": 256, "sliding_window": 4096, "torch_dtype": "float32",
       "vocab_size": 256000})",
     9'241'705'984},
    {"google/gemma-3-1b-pt", R"(
      {"model_type": "gemma3_text", "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
       "hidden_size": 1152, "intermediate_size": 6912, "max_position_embeddings": 32768,
       "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
       "query_pre_attn_scalar": 256, "sliding_window": 512, "sliding_window_pattern": 6,
       "torch_dtype": "bfloat16", "vocab_size": 262144})",
     999'885'952},
    {"microsoft/phi-2", R"(
      {"model_type": "phi", "hidden_act": "gelu_new", "hidden_size": 2560,
       "intermediate_size": 10240, "max_position_embeddings": 2048, "num_attention_heads": 32,
       "num_hidden_layers": 32, "num_key_value_heads": 32, "qk_layernorm": false,
       "tie_word_embeddings": false, "torch_dtype": "float16", "vocab_size": 51200})",
     2'779'632'640},
    {"microsoft/Phi-3-mini-4k-instruct", R"(
      {"model_type": "phi3", "attention_bias": false, "hidden_act": "silu", "hidden_size": 3072,
       "intermediate_size": 8192, "max_position_embeddings": 4096, "num_attention_heads": 32,
       "num_hidden_layers": 32, "num_key_value_heads": 32, "sliding_window": 2047,
       "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 32064})",
     3'821'079'552},
    {"openai-community/gpt2", R"(
      {"model_type": "gpt2", "activation_function": "gelu_new", "n_ctx": 1024, "n_embd": 768,
       "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257})",
     124'439'808},
    {"bigcode/starcoderbase-1b", R"(
      {"model_type": "gpt_bigcode", "activation_function": "gelu_pytorch_tanh",
       "multi_query": true, "n_embd": 2048, "n_head": 16, "n_inner": 8192, "n_layer": 24,
       "n_positions": 8192, "torch_dtype": "float32", "vocab_size": 49152})",
     1'137'207'296},
    {"EleutherAI/gpt-j-6b", R"(
      {"model_type": "gptj", "activation_function": "gelu_new", "n_embd": 4096, "n_head": 16,
       "n_inner": null, "n_layer": 28, "n_positions": 2048, "tie_word_embeddings": false,
       "vocab_size": 50400})",
     6'050'832'384},
    {"EleutherAI/gpt-neox-20b", R"(
      {"model_type": "gpt_neox", "attention_bias": true, "hidden_act": "gelu_fast",
       "hidden_size": 6144, "intermediate_size": 24576, "max_position_embeddings": 2048,
       "num_attention_heads": 64, "num_hidden_layers": 44, "tie_word_embeddings": false,
       "torch_dtype": "float16", "use_parallel_residual": true, "vocab_size": 50432})",
     20'554'567'680},
    {"tiiuae/falcon-7b", R"(
      {"model_type": "falcon", "alibi": false, "bias": false, "hidden_size": 4544,
       "multi_query": true, "new_decoder_architecture": false, "num_attention_heads": 71,
       "num_hidden_layers": 32, "max_position_embeddings": 2048, "parallel_attn": true,
       "torch_dtype": "bfloat16", "vocab_size": 65024})",
     6'921'720'704},
    {"tiiuae/falcon-40b", R"(
      {"model_type": "falcon", "alibi": false, "bias": false, "hidden_size": 8192,
       "new_decoder_architecture": true, "num_attention_heads": 128, "num_hidden_layers": 60,
       "num_kv_heads": 8, "max_position_embeddings": 2048, "parallel_attn": true,
       "torch_dtype": "bfloat16", "vocab_size": 65024})",
     41'303'293'952},
    {"bigcode/starcoder2-3b", R"(
      {"model_type": "starcoder2", "hidden_act": "gelu_pytorch_tanh", "hidden_size": 3072,
       "intermediate_size": 12288, "max_position_embeddings": 16384, "num_attention_heads": 24,
       "num_hidden_layers": 30, "num_key_value_heads": 2, "sliding_window": 4096,
       "torch_dtype": "float32", "use_bias": true, "vocab_size": 49152})",
     3'030'371'328},
    {"stabilityai/stablelm-2-1_6b", R"(
      {"model_type": "stablelm", "hidden_act": "silu", "hidden_size": 2048,
       "intermediate_size": 5632, "max_position_embeddings": 4096, "num_attention_heads": 32,
       "num_hidden_layers": 24, "num_key_value_heads": 32, "tie_word_embeddings": false,
       "torch_dtype": "float16", "use_qkv_bias": true, "vocab_size": 100352})",
     1'644'515'328},
    {"CohereForAI/c4ai-command-r-v01", R"(
      {"model_type": "cohere", "attention_bias": false, "hidden_act": "silu",
       "hidden_size": 8192, "intermediate_size": 22528, "max_position_embeddings": 8192,
       "num_attention_heads": 64, "num_hidden_layers": 40, "num_key_value_heads": 64,
       "torch_dtype": "float16", "use_qk_norm": false, "vocab_size": 256000})",
     34'980'831'232},
    {"ibm-granite/granite-3.1-2b-base", R"(
      {"model_type": "granite", "attention_bias": false, "hidden_act": "silu",
       "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
       "mlp_bias": false, "num_attention_heads": 32, "num_hidden_layers": 40,
       "num_key_value_heads": 8, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
       "vocab_size": 49152})",
     2'533'525'504},
    {"HuggingFaceTB/SmolLM3-3B", R"(
      {"model_type": "smollm3", "attention_bias": false, "hidden_act": "silu",
       "hidden_size": 2048, "intermediate_size": 11008, "max_position_embeddings": 65536,
       "mlp_bias": false, "num_attention_heads": 16, "num_hidden_layers": 36,
       "num_key_value_heads": 4, "torch_dtype": "bfloat16", "vocab_size": 128256,
       "sliding_window": null, "use_sliding_window": false})",
     3'075'098'624},
};
// clang-format on

HuggingFaceModel read(const std::string& text, const std::string& file = "some-model/config.json") {
  return read_huggingface_config(json::parse(text), file);
}

/// The published config of `name` with other values; null removes a key.
HuggingFaceModel changed(const std::string& name, const json& changes) {
  for (const Published& published : kPublished) {
    if (std::string(published.name).ends_with(name)) {
      json config = json::parse(published.config);
      config.merge_patch(changes);
      return read_huggingface_config(config, "some-model/config.json");
    }
  }
  FAIL("no such config");
  return {};
}

std::string problem_with(const std::string& name, const json& changes) {
  try {
    static_cast<void>(changed(name, changes));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

ModelShape as_shape(const json& config) {
  ModelShape shape;
  read_fields(config, [&shape](FieldVisitor& v) { shape.fields(v); });
  return shape;
}

}  // namespace

TEST_CASE("Hugging Face configs: models of every family have the parameters of their classes") {
  for (const Published& published : kPublished) {
    CAPTURE(published.name);
    const HuggingFaceModel model = read(published.config);
    CHECK(model.shape.parameters() == published.parameters);
    // What is printed is a shape, and the same one.
    const ModelShape again = as_shape(shape_as_json(model.shape, "a test"));
    CHECK(again.parameters() == published.parameters);
    CHECK(again.kv_bytes_per_token() == model.shape.kv_bytes_per_token());
    CHECK(again.attention_window == model.shape.attention_window);
    CHECK(again.name == "some-model");
  }
}

TEST_CASE("Hugging Face configs: shipped models come out of their config.json") {
  struct Pair {
    const char* shipped;
    const char* repository;
  };
  for (const Pair& pair : {Pair{"opt-350m", "opt-350m"},
                           {"mistral-7b-v0.1", "Mistral-7B-v0.1"},
                           {"mixtral-8x7b", "Mixtral-8x7B-v0.1"},
                           {"qwen2.5-0.5b", "Qwen2.5-0.5B"}}) {
    CAPTURE(pair.shipped);
    json shipped =
        load_config(shipped_configs() / "models" / (std::string(pair.shipped) + ".json"));
    json ours = shape_as_json(changed(pair.repository, json::object()).shape, "a test");
    for (const char* key : {"name", "comment"}) {
      shipped.erase(key);
      ours.erase(key);
    }
    CHECK(ours == shipped);
  }
}

TEST_CASE("Hugging Face configs: windows, where all layers have one") {
  CHECK(changed("Mistral-7B-v0.1", {{"sliding_window", 4096}}).shape.attention_window == 4096);
  CHECK(changed("Mistral-7B-v0.1", {{"sliding_window", nullptr}}).shape.attention_window == 0);
  CHECK(changed("Qwen2.5-0.5B", {{"use_sliding_window", false}}).shape.attention_window == 0);
  CHECK(changed("Phi-3-mini-4k-instruct", json::object()).shape.attention_window == 2047);
  for (const HuggingFaceModel& some :
       {changed("gemma-2-9b", json::object()),
        changed("Qwen2.5-0.5B", {{"use_sliding_window", true}}),
        changed("Mistral-7B-v0.1", {{"layer_types", {"sliding_attention", "full_attention"}}})}) {
    CHECK(some.shape.attention_window == 0);
    bool is_said = false;
    for (const std::string& assumption : some.assumptions) {
      is_said = is_said || assumption.find("counted with the whole context") != std::string::npos;
    }
    CHECK(is_said);
  }
}

TEST_CASE("Hugging Face configs: what the shape cannot say is said") {
  CHECK(changed("Mistral-7B-v0.1", json::object()).assumptions.empty());
  CHECK(changed("Mistral-7B-v0.1", {{"torch_dtype", "float32"}}).assumptions ==
        std::vector<std::string>{
            "the checkpoint is float32; weights and KV are counted with 2 bytes a value"});
  CHECK(changed("falcon-7b", {{"alibi", true}}).assumptions ==
        std::vector<std::string>{"positions by ALiBi are counted as rotary ones"});
  const HuggingFaceModel model =
      changed("Mistral-7B-v0.1", {{"quantization_config", {{"bits", 4}}}});
  CHECK(origin_of(model, "x/config.json") ==
        "Read from config.json, a Hugging Face config of model type mistral. Assumed: the "
        "checkpoint is quantized; weights and KV are counted with 2 bytes a value.");
}

TEST_CASE("Hugging Face configs: no experts are a dense model") {
  const HuggingFaceModel dense = changed("Llama-3.2-1B", {{"num_local_experts", 0}});
  CHECK(dense.shape.experts == 0);
  CHECK(dense.shape.parameters() == 1'235'814'400);
}

TEST_CASE("Hugging Face configs: biases by their keys") {
  const auto biases = [](const char* name, const json& changes) {
    return changed(name, changes).shape.biases;
  };
  CHECK(biases("Llama-3.2-1B", json::object()) == Biases::none);
  CHECK(biases("Llama-3.2-1B", {{"attention_bias", true}}) == Biases::attention);
  CHECK(biases("Llama-3.2-1B", {{"mlp_bias", true}}) == Biases::ffn);
  CHECK(biases("Llama-3.2-1B", {{"attention_bias", true}, {"mlp_bias", true}}) == Biases::all);
  CHECK(biases("starcoder2-3b", {{"use_bias", false}}) == Biases::none);
  CHECK(biases("gpt-neox-20b", {{"attention_bias", false}}) == Biases::ffn);
  CHECK(biases("Qwen1.5-MoE-A2.7B", {{"qkv_bias", false}}) == Biases::none);
}

TEST_CASE("Hugging Face configs: the name is the repository's, the folder's or the file's") {
  const std::string config = kPublished[0].config;
  CHECK(read(config, "/x/opt-mine/config.json").shape.name == "opt-mine");
  CHECK(read(config, "/x/opt-mine/other.json").shape.name == "other");
  CHECK(changed("opt-350m", {{"_name_or_path", "facebook/opt-350m"}}).shape.name == "opt-350m");
  CHECK(changed("opt-350m", {{"_name_or_path", "./results/mine/"}}).shape.name == "mine");
  CHECK(changed("opt-350m", {{"_name_or_path", ""}}).shape.name == "some-model");
}

TEST_CASE("Hugging Face configs: the model type comes from the class where it is missing") {
  CHECK(changed("opt-350m", {{"model_type", nullptr}}).shape.parameters() == 331'196'416);
  const HuggingFaceModel moe = changed(
      "Qwen1.5-MoE-A2.7B", {{"model_type", nullptr}, {"architectures", {"Qwen2MoeForCausalLM"}}});
  CHECK(moe.model_type == "qwen2_moe");
  CHECK(moe.shape.parameters() == 14'315'784'192);
}

TEST_CASE("Hugging Face configs: an unknown type is read by the common keys, and says so") {
  const HuggingFaceModel model = changed("Llama-3.2-1B", {{"model_type", "novel"}});
  CHECK(model.shape.parameters() == 1'235'814'400);
  REQUIRE(model.assumptions.size() == 1);
  CHECK(model.assumptions[0] ==
        "the model type \"novel\" is not known here: a gated feed-forward network (silu is its "
        "activation), two RMSNorms a layer, rotary positions");
  const HuggingFaceModel old = changed("Llama-3.2-1B", {{"model_type", "novel"},
                                                        {"hidden_act", "gelu"},
                                                        {"layer_norm_eps", 1e-5},
                                                        {"tie_word_embeddings", nullptr}});
  CHECK(!old.shape.gated_ffn);
  CHECK(old.shape.norm_biases);
  CHECK(old.assumptions[0].ends_with("an LM head tied to the embedding"));
  CHECK(problem_with("Llama-3.2-1B", {{"model_type", "novel"}, {"hidden_act", nullptr}}) ==
        "some-model/config.json: /hidden_act: missing; add it (the activation; the model type "
        "\"novel\" is not known here, and \"silu\" would tell that the network has a gate), also "
        "known as hidden_activation, activation_function, activation");
}

TEST_CASE("Hugging Face configs: missing and wrong keys are named with the file, all at once") {
  CHECK(problem_with("Llama-3.2-1B", {{"hidden_size", nullptr}}) ==
        "some-model/config.json: /hidden_size: missing; add it (width of the residual stream), "
        "also known as n_embd, d_model, n_embed");
  CHECK(problem_with("Llama-3.2-1B", {{"vocab_size", "many"}, {"num_hidden_layers", 0}}) ==
        "some-model/config.json: /num_hidden_layers: is 0; must be a whole number of 1 to "
        "1073741824\n"
        "some-model/config.json: /vocab_size: is \"many\"; must be a whole number of 1 to "
        "1073741824");
  CHECK(problem_with("Mixtral-8x7B-v0.1", {{"num_experts_per_tok", nullptr}}) ==
        "some-model/config.json: /num_experts_per_tok: missing; add it (experts that the router "
        "picks for a token), also known as num_experts_per_token, moe_top_k");
  CHECK(problem_with("Llama-3.2-1B", {{"tie_word_embeddings", "no"}}) ==
        "some-model/config.json: /tie_word_embeddings: is \"no\"; must be true or false");
  CHECK(problem_with("Qwen2.5-0.5B", {{"num_attention_heads", 26}}) ==
        "some-model/config.json: /head_dim: missing; add it (width of a head; 26 heads do not "
        "divide 896)");
  CHECK(problem_with("Llama-3.2-1B", {{"num_key_value_heads", 7}}) ==
        "some-model/config.json: /num_key_value_heads: 7 KV heads cannot serve 32 query heads "
        "evenly");
  CHECK(problem_with("Mixtral-8x7B-v0.1", {{"num_experts_per_tok", 9}}) ==
        "some-model/config.json: /num_experts_per_tok: 9 experts cannot be picked of 8");
  CHECK(problem_with("Llama-3.2-1B", {{"n_head", nullptr}, {"num_attention_heads", {8, 16}}}) ==
        "some-model/config.json: /num_attention_heads: is [8,16]; must be a whole number of 1 to "
        "1073741824");
}

TEST_CASE("Hugging Face configs: what is no decoder of equal layers is refused") {
  CHECK(problem_with("Llama-3.2-1B", {{"is_encoder_decoder", true}}) ==
        "some-model/config.json: /is_encoder_decoder: is true; only decoders are simulated");
  CHECK(problem_with("Llama-3.2-1B", {{"kv_lora_rank", 512}}) ==
        "some-model/config.json: /kv_lora_rank: latent attention (MLA) keeps no K and V heads; it "
        "is not simulated");
  CHECK(problem_with("Qwen3-30B-A3B", {{"mlp_only_layers", {0, 1}}}) ==
        "some-model/config.json: /mlp_only_layers: some layers have experts and others none; "
        "only models whose layers are alike are simulated");
  CHECK(problem_with("Qwen3-30B-A3B", {{"decoder_sparse_step", 2}})
            .starts_with("some-model/config.json: /decoder_sparse_step: some layers have"));
  CHECK(problem_with("Llama-3.2-1B", {{"layer_types", {"full_attention", "linear_attention"}}}) ==
        "some-model/config.json: /layer_types: has \"linear_attention\"; only layers of "
        "full_attention and sliding_attention are simulated");
  CHECK(problem_with("Llama-3.2-1B", {{"mamba_d_state", 16}}) ==
        "some-model/config.json: /mamba_d_state: layers that are no attention, or differ, are not "
        "simulated");
}

TEST_CASE("Hugging Face configs: the decoder of a model that sees pictures") {
  json config{{"model_type", "llava"}, {"architectures", {"LlavaForConditionalGeneration"}}};
  config["text_config"] = json::parse(kPublished[1].config);
  const HuggingFaceModel model = read(config.dump());
  CHECK(model.shape.parameters() == 1'235'814'400);
  CHECK(model.assumptions == std::vector<std::string>{"only the text decoder is counted"});
  config["text_config"].erase("vocab_size");
  CHECK_THROWS_WITH_AS(static_cast<void>(read(config.dump())),
                       "some-model/config.json: /text_config/vocab_size: missing; add it (tokens "
                       "of the vocabulary)",
                       ConfigError);
}

TEST_CASE("Hugging Face configs: a config may extend one and change it") {
  const TestFolder folder;
  folder.write("Mistral-7B/config.json", kPublished[2].config);
  folder.write("point.json",
               R"({"model": {"extends": "Mistral-7B/config.json", "max_positions": 8192}})");
  const json config = load_config(folder.path() / "point.json", translate_huggingface);
  const ModelShape shape = as_shape(config.at("model"));
  CHECK(shape.name == "Mistral-7B");
  CHECK(shape.max_positions == 8192);
  CHECK(shape.parameters() == 7'241'732'096);
  // Shapes of ours pass unchanged.
  const json ours = load_json(shipped_configs() / "models" / "opt-13b.json");
  CHECK(translate_huggingface(ours, "opt-13b.json") == ours);
  CHECK(!is_huggingface_config(ours));
}
