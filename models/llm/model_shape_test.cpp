#include "models/llm/model_shape.hpp"

#include <string>

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
    double parameters;
  };
  // Model cards: parameters of the FP16 checkpoints; OPT-175B: the paper's own count.
  const Published models[] = {
      {"opt-1.3b", 1'315'758'080},
      {"opt-2.7b", 2'651'596'800},
      {"opt-6.7b", 6'658'473'984},
      {"opt-13b", 12'853'473'280},
      {"opt-30b", 29'974'540'288},
      {"opt-66b", 65.7e9},
      {"opt-175b", 175e9},
      {"llama-2-7b", 6'738'415'616},
      {"llama-2-13b", 13'015'864'320},
      {"llama-2-70b", 68'976'648'192},
  };
  for (const Published& published : models) {
    CAPTURE(published.model);
    const ModelShape shape = shipped(published.model);
    CHECK(static_cast<double>(shape.parameters()) ==
          doctest::Approx(published.parameters).epsilon(0.01));
    CHECK(shape.weight_bytes().count() == 2 * shape.parameters());
  }
}

TEST_CASE("model shapes: OPT-13B by hand") {
  const ModelShape shape = shipped("opt-13b");
  // 12 x 5120^2 in matrices; biases 3 x 5120 + 20480 + 2 x 5120; two norms of 2 x 5120.
  CHECK(shape.parameters_per_layer() == 314'572'800 + 46'080 + 20'480);
  CHECK(shape.embedding_parameters() == (50'272 + 2'050) * 5'120);
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

TEST_CASE("model shapes: contradictions are reported with the path and the way out") {
  CHECK(problem_with("kv_heads", 7) ==
        "/kv_heads: 7 does not divide heads (40); each KV head serves equally many query heads");
  CHECK(problem_with("head_dim", 64) ==
        "/attention_width: must be heads x head_dim = 40 x 64 = 2560");
  CHECK(problem_with("learned_positions", 1024) ==
        "/learned_positions: must be 0 (rotary) or at least max_positions (2048)");
  CHECK(problem_with("layers", 0) == "/layers: 0 is out of range; must be at least 1");
  CHECK(problem_with("hiden", 1).starts_with("/hiden: unknown key; did you mean \"hidden\"?"));
}
