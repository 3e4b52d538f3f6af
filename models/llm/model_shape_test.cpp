#include "models/llm/model_shape.hpp"

#include <bit>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

using namespace nearkv;

namespace {

ModelShape read_shape(const nlohmann::json& config) {
  ModelShape shape;
  read_fields(config, [&](FieldVisitor& v) { shape.fields(v); });
  return shape;
}

ModelShape shipped(const std::string& name) {
  return read_shape(load_config(shipped_configs() / "models" / (name + ".json")));
}

std::string problem_with(const std::string& key, const nlohmann::json& value) {
  nlohmann::json config = load_config(shipped_configs() / "models" / "opt-13b.json");
  config[key] = value;
  try {
    read_shape(config);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("model shapes: shipped models have the published numbers of parameters") {
  struct Published {
    const char* model;
    std::int64_t parameters;
  };
  // Half of metadata/total_size in model.safetensors.index.json of the checkpoints, which have two
  // bytes a weight (Llama 3: 16060522496 and 141107412992; Mistral-7B: 14483464192 and 14496047104;
  // Mixtral: 93405585408 and 281241268224; Qwen2.5 3B, 7B, 14B, 32B, 72B: 6171877376, 15231233024,
  // 29540067328, 65527752704, 145412407296). Where there is one file or another format (OPT,
  // Llama 2, Qwen2.5 0.5B and 1.5B): the parameters that the hub shows for it, or num_parameters()
  // of the model's class in transformers 5.24, which agrees with all others here.
  const Published models[] = {
      {"opt-125m", 125'239'296},           {"opt-350m", 331'196'416},
      {"opt-1.3b", 1'315'758'080},         {"opt-2.7b", 2'651'596'800},
      {"opt-6.7b", 6'658'473'984},         {"opt-13b", 12'853'473'280},
      {"opt-30b", 29'974'540'288},         {"opt-66b", 65'719'701'504},
      {"opt-175b", 174'604'468'224},       {"llama-2-7b", 6'738'415'616},
      {"llama-2-13b", 13'015'864'320},     {"llama-2-70b", 68'976'648'192},
      {"llama-3-8b", 8'030'261'248},       {"llama-3-70b", 70'553'706'496},
      {"llama-3.1-8b", 8'030'261'248},     {"llama-3.1-70b", 70'553'706'496},
      {"llama-3.1-405b", 405'853'388'800}, {"mistral-7b-v0.1", 7'241'732'096},
      {"mistral-7b-v0.3", 7'248'023'552},  {"mixtral-8x7b", 46'702'792'704},
      {"mixtral-8x22b", 140'620'634'112},  {"qwen2.5-0.5b", 494'032'768},
      {"qwen2.5-1.5b", 1'543'714'304},     {"qwen2.5-3b", 3'085'938'688},
      {"qwen2.5-7b", 7'615'616'512},       {"qwen2.5-14b", 14'770'033'664},
      {"qwen2.5-32b", 32'763'876'352},     {"qwen2.5-72b", 72'706'203'648},
      {"qwen2.5-7b-1m", 7'615'616'512},    {"qwen2.5-14b-1m", 14'770'033'664},
  };
  std::set<std::string> tested;
  for (const Published& published : models) {
    CAPTURE(published.model);
    const ModelShape shape = shipped(published.model);
    CHECK(shape.parameters() == published.parameters);
    CHECK(shape.weight_bytes().count() == 2 * published.parameters);
    tested.insert(std::string(published.model) + ".json");
  }
  for (const auto& file : std::filesystem::directory_iterator(shipped_configs() / "models")) {
    CAPTURE(file.path().string());
    CHECK(tested.count(file.path().filename().string()) == 1);
  }
}

TEST_CASE("model shapes: every shipped model says where it comes from") {
  for (const auto& file : std::filesystem::directory_iterator(shipped_configs() / "models")) {
    CAPTURE(file.path().string());
    const std::string comment = load_json(file.path()).at("comment");
    const bool has_source = comment.find("arXiv") != std::string::npos ||
                            comment.find("model card") != std::string::npos;
    CHECK(has_source);
  }
}

TEST_CASE("model shapes: a mixture of experts holds all and uses some") {
  const ModelShape mixtral = shipped("mixtral-8x7b");
  // Three matrices of 4096 x 14336.
  CHECK(mixtral.parameters_per_expert() == 176'160'768);
  // Jiang et al., Mixtral of Experts, arXiv 2401.04088: 47B parameters, 13B of them active.
  CHECK(mixtral.active_parameters() == mixtral.parameters() - 32LL * 6 * 176'160'768);
  CHECK(static_cast<double>(mixtral.active_parameters()) == doctest::Approx(12.9e9).epsilon(0.005));
  const ModelShape dense = shipped("llama-2-7b");
  CHECK(dense.active_parameters() == dense.parameters());
}

TEST_CASE("model shapes: expected experts of tokens that pick at random") {
  ModelShape shape = shipped("mixtral-8x7b");
  CHECK(shape.expected_experts(1) == 2);
  CHECK(shape.expected_experts(2) == doctest::Approx(8 * (1 - 0.75 * 0.75)));
  CHECK(shape.expected_experts(1'000'000) == 8);
  // The mean over all choices of three tokens, by counting them.
  shape.experts = 5;
  std::vector<int> choices;  // two of five
  for (int set = 0; set < 32; ++set) {
    if (std::popcount(static_cast<unsigned>(set)) == 2) {
      choices.push_back(set);
    }
  }
  double sum = 0;
  for (const int a : choices) {
    for (const int b : choices) {
      for (const int c : choices) {
        sum += std::popcount(static_cast<unsigned>(a | b | c));
      }
    }
  }
  CHECK(shape.expected_experts(3) ==
        doctest::Approx(sum / static_cast<double>(choices.size() * choices.size() * choices.size()))
            .epsilon(1e-12));
  double before = 0;
  for (std::int64_t tokens = 1; tokens < 50; ++tokens) {
    CHECK(shape.expected_experts(tokens) > before);
    CHECK(shape.expected_experts(tokens) <= static_cast<double>(shape.experts));
    before = shape.expected_experts(tokens);
  }
}

TEST_CASE("model shapes: biases, norms and narrow embeddings by hand") {
  const ModelShape qwen = shipped("qwen2.5-7b");
  // 3584 x (4608 + 3584 + 3 x 18944), biases of q, k and v, two norms.
  CHECK(qwen.parameters_per_layer() == 3584LL * (4608 + 3584 + 56'832) + 4608 + 2 * 3584);
  ModelShape shape = qwen;
  shape.qk_norms = true;
  shape.norms_per_layer = 4;
  CHECK(shape.parameters_per_layer() == qwen.parameters_per_layer() + 2 * 128 + 2 * 3584);
  shape = qwen;
  shape.biases = Biases::attention;
  CHECK(shape.parameters_per_layer() == qwen.parameters_per_layer() + 3584);
  shape.biases = Biases::ffn;
  CHECK(shape.parameters_per_layer() == qwen.parameters_per_layer() - 4608 + 2 * 18'944 + 3584);
  const ModelShape narrow = shipped("opt-350m");
  CHECK(narrow.input_parameters() == 512 * 50'272 + 512 * 1024 + 2050 * 1024);
  CHECK(narrow.output_parameters() == 512 * 50'272 + 512 * 1024);
  CHECK(narrow.parameters() == 24 * narrow.parameters_per_layer() + narrow.input_parameters() +
                                   512 * 1024);  // the table is tied, its projections are not
}

TEST_CASE("model shapes: a window bounds what a token sees") {
  const ModelShape mistral = shipped("mistral-7b-v0.1");
  CHECK(mistral.attended_tokens(4095) == 4095);
  CHECK(mistral.attended_tokens(4096) == 4096);
  CHECK(mistral.attended_tokens(32'768) == 4096);
  CHECK(shipped("mistral-7b-v0.3").attended_tokens(32'768) == 32'768);
}

TEST_CASE("model shapes: OPT-13B by hand") {
  const ModelShape shape = shipped("opt-13b");
  // 12 x 5120^2 in matrices; biases 3 x 5120 + 20480 + 2 x 5120; two norms of 2 x 5120.
  CHECK(shape.parameters_per_layer() == 314'572'800 + 46'080 + 20'480);
  CHECK(shape.input_parameters() == (50'272 + 2'050) * 5'120);
  CHECK(shape.parameters() == 12'853'473'280);
  CHECK(shape.kv_bytes_per_token_and_layer() == 20_KiB);
  CHECK(shape.kv_bytes_per_token() == 819'200_B);  // 0.78 MiB
  CHECK(shape.kv_bytes_per_token() * 128 * 2048 == 200_GiB);
  CHECK(shape.kv_bytes_per_token() * 32 * 4096 == 100_GiB);
  CHECK(shape.qkv_bytes_per_token() == 30'720_B);  // 3 x h x 2
  CHECK(shape.attention_output_bytes_per_token() == 10'240_B);
  // Table III of the reproduced paper: batch 64, prompt 1024: 1.34 GB of KV a layer.
  CHECK((shape.kv_bytes_per_token_and_layer() * 64 * 1024).count() == 1'342'177'280);
}

TEST_CASE("model shapes: grouped queries of Llama-2-70B, heads of OPT-2.7B") {
  const ModelShape llama = shipped("llama-2-70b");
  CHECK(llama.heads / llama.kv_heads == 8);
  CHECK(llama.kv_width() == 1'024);
  CHECK(llama.qkv_width() == 10'240);
  CHECK(llama.ffn_in_width() == 57'344);
  CHECK(llama.kv_bytes_per_token() == 320_KiB);  // 2 x 80 x 8 x 128 x 2
  // 8192 x (10240 + 8192 + 57344 + 28672) + 2 x 8192
  CHECK(llama.parameters_per_layer() == 855'654'400);
  CHECK(shipped("opt-2.7b").head_dim == 80);
}

TEST_CASE("model shapes: a tensor-parallel shard holds its part of everything but the stream") {
  const ModelShape whole = shipped("llama-2-70b");
  const ModelShape shard = whole.tensor_shard(4);
  CHECK(shard.heads == 16);
  CHECK(shard.kv_heads == 2);
  CHECK(shard.head_dim == 128);
  CHECK(shard.attention_width == 2048);
  CHECK(shard.ffn == 7168);
  CHECK(shard.vocab == 8000);
  CHECK(shard.hidden == 8192);
  CHECK(shard.layers == 80);
  // All but the norms, which every rank has: 2 a layer and the last.
  const std::int64_t norms = (2 * 80 + 1) * 8192;
  CHECK((shard.parameters() - norms) * 4 + norms == whole.parameters());
  CHECK(shard.kv_bytes_per_token() * 4 == whole.kv_bytes_per_token());

  const ModelShape alone = whole.tensor_shard(1);
  CHECK(alone.parameters() == whole.parameters());
  CHECK(alone.kv_heads == whole.kv_heads);
  CHECK(alone.vocab == whole.vocab);
}

TEST_CASE("model shapes: more ranks than KV heads keep one each, an odd vocabulary is padded") {
  const ModelShape whole = shipped("llama-2-70b");
  const ModelShape shard = whole.tensor_shard(16);
  CHECK(shard.heads == 4);
  CHECK(shard.kv_heads == 1);
  CHECK(shard.kv_bytes_per_token() * 16 == whole.kv_bytes_per_token() * 2);
  ModelShape odd = whole;
  odd.vocab = 32001;
  CHECK(odd.tensor_shard(8).vocab == 4001);
}

TEST_CASE("model shapes: what ranks cannot share is said with the numbers that can") {
  const ModelShape opt = shipped("opt-13b");
  CHECK(opt.tensor_shard_problem(8).empty());
  CHECK(opt.tensor_shard_problem(3) ==
        "3 ranks cannot share 40 query heads of OPT-13B evenly; possible: 1, 2, 4, 5, 8, 10, 20, "
        "40");
  ModelShape shape = shipped("llama-2-70b");
  shape.kv_heads = 6;
  shape.heads = 96;
  CHECK(shape.tensor_shard_problem(4).starts_with("4 ranks cannot share 6 KV heads of "));
  CHECK(shape.tensor_shard_problem(12).starts_with("12 ranks cannot share a feed-forward width "));
  CHECK_THROWS_AS(static_cast<void>(opt.tensor_shard(3)), CheckFailure);
}

TEST_CASE("model shapes: the widest shape that the limits allow is counted, or refused") {
  nlohmann::json config = load_config(shipped_configs() / "models" / "mixtral-8x7b.json");
  for (const auto& [key, value] : {std::pair{"layers", 4096},
                                   {"hidden", 262'144},
                                   {"head_dim", 2048},
                                   {"attention_width", 65'536},
                                   {"ffn", 1'048'576}}) {
    config[key] = value;
  }
  const std::int64_t expert = 3LL * 262'144 * 1'048'576;
  CHECK(read_shape(config).parameters() > 4096 * 8 * expert);
  config["experts"] = 1024;
  config["bytes_per_value"] = 8;
  CHECK_THROWS_WITH_AS(static_cast<void>(read_shape(config)),
                       "/layers: the weights are more than 1 EiB; one of the widths is not what it "
                       "should be",
                       ConfigError);
}

TEST_CASE("model shapes: contradictions are reported with the path and the way out") {
  CHECK(problem_with("kv_heads", 7) ==
        "/kv_heads: 7 does not divide heads (40); each KV head serves equally many query heads");
  CHECK(problem_with("head_dim", 64) ==
        "/attention_width: must be heads x head_dim = 40 x 64 = 2560");
  CHECK(problem_with("learned_positions", 1024) ==
        "/learned_positions: must be 0 (rotary) or at least max_positions (2048)");
  CHECK(problem_with("layers", 0) == "/layers: 0 is out of range; must be 1 to 4096");
  CHECK(problem_with("experts_per_token", 2) ==
        "/experts_per_token: must be 0 in a dense model (experts is 0)");
  CHECK(problem_with("experts", 8) == "/experts_per_token: must be 1 to experts (8)");
  CHECK(problem_with("shared_ffn", 512) ==
        "/shared_ffn: must be 0 in a dense model (experts is 0)");
  CHECK(problem_with("norms_per_layer", 3) == "/norms_per_layer: must be 1, 2 or 4");
  CHECK(
      problem_with("biases", true).starts_with("/biases: is true (boolean); must be one of none"));
  CHECK(problem_with("hiden", 1).starts_with("/hiden: unknown key; did you mean \"hidden\"?"));
}
