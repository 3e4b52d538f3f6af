#include "traces/captured_kv.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "kernels/half.hpp"
#include "traces/test_files.hpp"
#include "validation/test_source_folder.hpp"

using namespace nearkv;
using namespace nearkv::traces;

namespace {

using nlohmann::json;

struct Tensor {
  std::vector<int> shape;
  std::vector<float> values;
  std::string dtype = "F32";
};

struct Capture {
  std::map<std::string, std::string> metadata;
  std::map<std::string, Tensor> tensors;

  [[nodiscard]] std::string bytes() const {
    json header{{"__metadata__", metadata}};
    std::string data;
    for (const auto& [name, tensor] : tensors) {
      const std::size_t begin = data.size();
      for (const float value : tensor.values) {
        const auto bits = std::bit_cast<std::uint32_t>(value);
        for (int i = 0; i < 4; ++i) {
          data += static_cast<char>(bits >> (8 * i) & 0xffU);
        }
      }
      header[name] = {
          {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
    }
    const std::string text = header.dump();
    std::string length;
    for (int i = 0; i < 8; ++i) {
      length += static_cast<char>(text.size() >> (8 * i) & 0xffU);
    }
    return length + text + data;
  }
};

Tensor counted(std::vector<int> shape, float first) {
  int size = 1;
  for (const int extent : shape) {
    size *= extent;
  }
  Tensor tensor{std::move(shape), {}};
  for (int i = 0; i < size; ++i) {
    tensor.values.push_back(first + static_cast<float>(i));
  }
  return tensor;
}

/// Layers 0 and 2 of 3, KV heads 1 and 3 of 4, each with 2 of 8 query heads; 3 tokens, 2 steps.
Capture small() {
  Capture capture{{{"format", "nearkv-captured-kv"},
                   {"version", "1"},
                   {"model", "Tiny"},
                   {"model_licence", "none needed"},
                   {"architecture", "llama"},
                   {"text", "a text"},
                   {"text_licence", "public domain"},
                   {"text_sha256", "1234"},
                   {"decode", "text"},
                   {"model_layers", "3"},
                   {"model_query_heads", "8"},
                   {"model_kv_heads", "4"},
                   {"d_head", "2"},
                   {"layers", "[0, 2]"},
                   {"kv_heads", "[1, 3]"},
                   {"prompt_tokens", "3"},
                   {"steps", "2"},
                   {"weather", "fine"}},
                  {}};
  for (const std::string layer : {"layer.0.", "layer.2."}) {
    const float first = layer == "layer.0." ? 0 : 1000;
    capture.tensors[layer + "k"] = counted({2, 5, 2}, first);
    capture.tensors[layer + "v"] = counted({2, 5, 2}, first + 100);
    capture.tensors[layer + "q"] = counted({4, 2, 2}, first + 200);
    capture.tensors[layer + "prefill_mass"] = {{2, 3}, {4, 1.5F, 0.5F, 3, 2, 1}};
  }
  return capture;
}

std::string refusal_of_capture(const std::function<void(Capture&)>& change) {
  Capture capture = small();
  change(capture);
  const TemporaryFile file(capture.bytes());
  return refusal_of([&] { static_cast<void>(CapturedKv(file.path())); });
}

std::string refusal_with(const std::string& key, const std::string& value) {
  return refusal_of_capture([&](Capture& capture) { capture.metadata[key] = value; });
}

std::string refusal_without(const std::string& key) {
  return refusal_of_capture([&](Capture& capture) { capture.metadata.erase(key); });
}

/// When all heads are read.
std::string refusal_of_values(const std::string& tensor, int element, float value) {
  Capture capture = small();
  capture.tensors.at(tensor).values.at(static_cast<std::size_t>(element)) = value;
  const TemporaryFile file(capture.bytes());
  const CapturedKv captured(file.path());
  return refusal_of([&] {
    for (const int layer : captured.info().layers) {
      for (const int head : captured.info().kv_heads) {
        static_cast<void>(captured.head(layer, head));
      }
    }
  });
}

std::vector<float> copy(std::span<const float> values) { return {values.begin(), values.end()}; }

}  // namespace

// -- A small capture --------------------------------------------------------------------------

TEST_CASE("captured KV: what the file says about itself") {
  const TemporaryFile file(small().bytes());
  const CapturedKv captured(file.path());
  const CaptureInfo& info = captured.info();
  CHECK(info.model == "Tiny");
  CHECK(info.model_licence == "none needed");
  CHECK(info.architecture == "llama");
  CHECK(info.text == "a text");
  CHECK(info.text_licence == "public domain");
  CHECK(info.text_sha256 == "1234");
  CHECK(info.decode == "text");
  CHECK(info.layers == std::vector<int>{0, 2});
  CHECK(info.kv_heads == std::vector<int>{1, 3});
  CHECK(info.model_layers == 3);
  CHECK(info.model_query_heads == 8);
  CHECK(info.model_kv_heads == 4);
  CHECK(info.queries_per_kv_head() == 2);
  CHECK(info.d_head == 2);
  CHECK(info.prompt_tokens == 3);
  CHECK(info.steps == 2);
  CHECK(info.tokens() == 5);
  CHECK(info.context(0) == 4);
  CHECK(info.context(1) == 5);
  CHECK(captured.metadata().at("weather") == "fine");
  CHECK_FALSE(captured.has_prompt_queries());
  CHECK(captured.content_hash().size() == 32);
}

TEST_CASE("captured KV: heads are found by the model's numbers") {
  const TemporaryFile file(small().bytes());
  const CapturedKv captured(file.path());
  const CapturedHead head = captured.head(2, 3);  // the second captured layer and head
  CHECK(copy(head.k(0)) == std::vector<float>{1010, 1011});
  CHECK(copy(head.k(4)) == std::vector<float>{1018, 1019});
  CHECK(copy(head.v(1)) == std::vector<float>{1112, 1113});
  CHECK(head.k().size() == 10);
  CHECK(head.v().front() == 1110);
  // Of query heads 6 and 7, the third and fourth in the file; a step's queries lie side by side.
  CHECK(copy(head.queries(0)) == std::vector<float>{1208, 1209, 1212, 1213});
  CHECK(copy(head.queries(1)) == std::vector<float>{1210, 1211, 1214, 1215});
  CHECK(copy(head.prefill_mass()) == std::vector<float>{3, 2, 1});
  CHECK(copy(captured.head(0, 1).k(0)) == std::vector<float>{0, 1});
  CHECK_THROWS_AS(static_cast<void>(captured.head(1, 1)), CheckFailure);
  CHECK_THROWS_AS(static_cast<void>(captured.head(0, 0)), CheckFailure);
  CHECK_THROWS_AS(static_cast<void>(captured.prompt_queries(0, 1)), CheckFailure);
}

TEST_CASE("captured KV: queries of the prompt are of all layers or none") {
  Capture capture = small();
  capture.tensors["layer.0.q_prompt"] = counted({4, 3, 2}, 0);
  capture.tensors["layer.2.q_prompt"] = counted({4, 3, 2}, 100);
  const TemporaryFile file(capture.bytes());
  const CapturedKv captured(file.path());
  CHECK(captured.has_prompt_queries());
  CHECK(captured.prompt_queries(2, 1) == counted({2, 3, 2}, 100).values);
  CHECK(captured.prompt_queries(2, 3) == counted({2, 3, 2}, 112).values);
  CHECK(refusal_of_capture([](Capture& change) {
          change.tensors["layer.0.q_prompt"] = counted({4, 3, 2}, 0);
        }) == "FILE: layer.2.q_prompt: is missing; the metadata list layer 2");
  CHECK(refusal_of_capture([](Capture& change) {
          change.tensors["layer.2.q_prompt"] = counted({4, 3, 2}, 0);
        }) ==
        "FILE: layer.2.q_prompt: unknown tensor; layer.N.k, v, q and prefill_mass of each "
        "layer of the metadata were expected, and q_prompt of all layers or none");
}

// -- Errors -----------------------------------------------------------------------------------

TEST_CASE("captured KV: metadata that are missing or wrong") {
  CHECK(refusal_without("format") ==
        "FILE: __metadata__: format: is missing; \"nearkv-captured-kv\" was expected, as "
        "traces/capture.py writes it");
  CHECK(refusal_with("format", "pt") ==
        "FILE: __metadata__: format: is \"pt\"; \"nearkv-captured-kv\" was expected, as "
        "traces/capture.py writes it");
  CHECK(refusal_with("version", "2") ==
        "FILE: __metadata__: version: is \"2\"; this program reads version \"1\"");
  for (const std::string key :
       {"version", "model", "model_licence", "architecture", "text", "text_licence", "text_sha256",
        "decode", "model_layers", "model_query_heads", "model_kv_heads", "d_head", "layers",
        "kv_heads", "prompt_tokens", "steps"}) {
    CHECK(refusal_without(key) == "FILE: __metadata__: " + key + ": is missing");
  }
  CHECK(refusal_with("decode", "beam") ==
        R"(FILE: __metadata__: decode: is "beam"; must be "text" or "greedy")");
  for (const std::string text : {"", "0", "-1", "2.0", "2x", " 2", "[2]", "99999999999"}) {
    CHECK(refusal_with("d_head", text) == "FILE: __metadata__: d_head: is \"" + text +
                                              "\"; must be a whole number of 1 to 16777216");
  }
  CHECK(refusal_with("model_query_heads", "9") ==
        "FILE: __metadata__: model_query_heads: is 9; must be a multiple of model_kv_heads, "
        "4");
  for (const std::string text :
       {"", "[]", "2", "[0,", "[2, 0]", "[0, 0]", "[0, 3]", "[-1]", "[0.0]", "[\"0\"]"}) {
    CHECK(refusal_with("layers", text) ==
          "FILE: __metadata__: layers: is \"" + text +
              "\"; must be an ascending list of numbers of 0 to 2, such as \"[0, 2]\"");
  }
  CHECK(refusal_with("kv_heads", "[1, 4]") ==
        "FILE: __metadata__: kv_heads: is \"[1, 4]\"; must be an ascending list of numbers of 0 "
        "to 3, such as \"[0, 2]\"");
}

TEST_CASE("captured KV: tensors that are missing, unknown or of a wrong shape") {
  for (const std::string name : {"layer.0.k", "layer.0.q", "layer.2.prefill_mass", "layer.2.v"}) {
    CHECK(refusal_of_capture([&](Capture& capture) { capture.tensors.erase(name); }) ==
          "FILE: " + name + ": is missing; the metadata list layer " + name.substr(6, 1));
  }
  CHECK(refusal_of_capture([](Capture& capture) {
          capture.tensors["layer.1.k"] = capture.tensors["layer.0.k"];
        }) ==
        "FILE: layer.1.k: unknown tensor; layer.N.k, v, q and prefill_mass of each layer of "
        "the metadata were expected, and q_prompt of all layers or none");
  CHECK(refusal_with("steps", "3") ==
        "FILE: layer.0.k: shape: is [2, 5, 2]; must be [2, 6, 2] (captured kv_heads, "
        "prompt_tokens + steps, d_head)");
  CHECK(refusal_with("kv_heads", "[1]") ==
        "FILE: layer.0.k: shape: is [2, 5, 2]; must be [1, 5, 2] (captured kv_heads, "
        "prompt_tokens + steps, d_head)");
  const auto reshape = [](const std::string& name, std::vector<int> shape) {
    return refusal_of_capture(
        [&](Capture& capture) { capture.tensors[name] = counted(std::move(shape), 0); });
  };
  CHECK(reshape("layer.2.v", {2, 5}) ==
        "FILE: layer.2.v: shape: is [2, 5]; must be [2, 5, 2] (captured kv_heads, prompt_tokens + "
        "steps, d_head)");
  CHECK(reshape("layer.2.q", {2, 2, 2}) ==
        "FILE: layer.2.q: shape: is [2, 2, 2]; must be [4, 2, 2] (their query heads, steps, "
        "d_head)");
  CHECK(reshape("layer.0.prefill_mass", {2, 5}) ==
        "FILE: layer.0.prefill_mass: shape: is [2, 5]; must be [2, 3] (captured kv_heads, "
        "prompt_tokens)");
  CHECK(refusal_of_capture([](Capture& capture) { capture.tensors["layer.0.q"].dtype = "I32"; }) ==
        "FILE: layer.0.q: dtype: is I32; must be F16, BF16 or F32");
  CHECK(refusal_of_capture([](Capture& capture) {
          capture.tensors["layer.0.prefill_mass"].dtype = "U32";
        }) == "FILE: layer.0.prefill_mass: dtype: is U32; must be F32");
}

TEST_CASE("captured KV: values that cannot be") {
  CHECK(refusal_of_values("layer.2.k", 0, 65519.0F).empty());
  CHECK(refusal_of_values("layer.2.k", 13, 65520.0F) ==
        "FILE: layer.2.k: element [1, 1, 1] is 65520; must fit FP16, less than 65520");
  CHECK(refusal_of_values("layer.0.q", 15, -1e6F) ==
        "FILE: layer.0.q: element [3, 1, 1] is -1000000; must fit FP16, less than 65520");
  CHECK(refusal_of_values("layer.0.v", 2, std::nanf("")) ==
        "FILE: layer.0.v: element [0, 1, 0] is nan; must be a finite number");
  CHECK(refusal_of_values("layer.2.prefill_mass", 4, -0.25F) ==
        "FILE: layer.2.prefill_mass: element [1, 1] is -0.25; a sum of probabilities is not "
        "negative");
  CHECK(refusal_of_values("layer.2.prefill_mass", 4, 2.25F) ==
        "FILE: layer.2.prefill_mass: row 1 sums to 6.25; must be queries_per_kv_head x "
        "prompt_tokens, 6");
  CHECK(refusal_of_values("layer.2.prefill_mass", 4, 2.01F).empty());
}

// -- The shipped fixture ----------------------------------------------------------------------

namespace {

CapturedKv fixture() {
  return CapturedKv(source_folder() + "/traces/fixtures/smollm2_135m.safetensors");
}

/// Probability that one query gives to each of the first `context` tokens.
std::vector<double> probabilities(const CapturedHead& head, std::span<const float> query,
                                  int context) {
  std::vector<double> all;
  double largest = -INFINITY;
  for (int token = 0; token < context; ++token) {
    const std::span<const float> key = head.k(token);
    double logit = 0;
    for (std::size_t i = 0; i < key.size(); ++i) {
      logit += double{query[i]} * double{key[i]};
    }
    all.push_back(logit / std::sqrt(static_cast<double>(key.size())));
    largest = std::max(largest, all.back());
  }
  double sum = 0;
  for (double& p : all) {
    p = std::exp(p - largest);
    sum += p;
  }
  for (double& p : all) {
    p /= sum;
  }
  return all;
}

}  // namespace

TEST_CASE("captured fixture: SmolLM2-135M, four layers, as the README of the fixtures says") {
  const CapturedKv captured = fixture();
  const CaptureInfo& info = captured.info();
  CHECK(captured.content_hash() == "892b404e7908e5e7b084093c2815a79e");
  CHECK(info.model == "SmolLM2-135M-Instruct.Q4_1");
  CHECK(info.model_licence == "apache-2.0");
  CHECK(info.text_licence == "public domain");
  CHECK(info.layers == std::vector<int>{3, 11, 18, 26});
  CHECK(info.kv_heads == std::vector<int>{0, 1, 2});
  CHECK(info.model_layers == 30);
  CHECK(info.queries_per_kv_head() == 3);
  CHECK(info.d_head == 64);
  CHECK(info.prompt_tokens == 2048);
  CHECK(info.steps == 64);
  CHECK_FALSE(captured.has_prompt_queries());
}

TEST_CASE("captured fixture: values are FP16, and mass is what causal attention can give") {
  const CapturedKv captured = fixture();
  for (const int layer : captured.info().layers) {
    for (const int kv_head : captured.info().kv_heads) {
      const CapturedHead head = captured.head(layer, kv_head);
      int changed = 0;
      for (const std::span<const float> values : {head.k(), head.v(), head.queries(63)}) {
        for (const float x : values) {
          changed += kernels::half_to_float(kernels::float_to_half(x)) != x;
        }
      }
      CHECK(changed == 0);
      // Only tokens from t on see token t, each of 3 query heads with at most all of its mass.
      int too_much = 0;
      for (int token = 0; token < 2048; ++token) {
        const double most = 3.0 * (2048 - token);
        too_much += double{head.prefill_mass()[static_cast<std::size_t>(token)]} > most * 1.0001;
      }
      CHECK(too_much == 0);
      // The first token sees itself only.
      CHECK(head.prefill_mass()[0] >= 3);
    }
  }
}

TEST_CASE("captured fixture: decode queries attend as the prompt's did") {
  // The share of token 0, an attention sink where it is large, is a property of a head: it differs
  // from 0 to 0.9 over these heads, little between prompt and steps. Keys or queries of another
  // head, without their rotation or badly scaled would not give it.
  const CapturedKv captured = fixture();
  double largest = 0;
  double mean_recent_share = 0;  // of the last 64 of about 2,100 tokens
  for (const int layer : captured.info().layers) {
    for (const int kv_head : captured.info().kv_heads) {
      const CapturedHead head = captured.head(layer, kv_head);
      const double prompt_share = double{head.prefill_mass()[0]} / (3.0 * 2048);
      double share = 0;
      for (int step = 0; step < 64; step += 8) {
        for (std::size_t i = 0; i < 3; ++i) {
          const std::vector<double> p = probabilities(head, head.queries(step).subspan(i * 64, 64),
                                                      captured.info().context(step));
          share += p[0] / (8 * 3);
          mean_recent_share += std::accumulate(p.end() - 64, p.end(), 0.0) / (8 * 3 * 12);
        }
      }
      CAPTURE(layer);
      CAPTURE(kv_head);
      CHECK(std::abs(share - prompt_share) < 0.15);  // at most 0.121
      largest = std::max(largest, share);
    }
  }
  CHECK(largest > 0.85);            // 0.91
  CHECK(mean_recent_share > 0.35);  // 0.41; uniform attention would give 0.03
}
