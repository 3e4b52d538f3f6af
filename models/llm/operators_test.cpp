#include "models/llm/operators.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/capacity.hpp"
#include "sim/core/check.hpp"

using namespace nearkv;

namespace {

/// OPT-13B's shape, by hand so that these tests need no files.
ModelShape opt_13b() {
  ModelShape shape;
  shape.layers = 40;
  shape.hidden = 5120;
  shape.heads = 40;
  shape.kv_heads = 40;
  shape.head_dim = 128;
  shape.attention_width = 5120;
  shape.ffn = 20480;
  shape.vocab = 50272;
  shape.max_positions = 2048;
  shape.learned_positions = 2050;
  shape.tied_embeddings = true;
  shape.biases = Biases::all;
  shape.norm_biases = true;
  shape.bytes_per_value = 2;
  return shape;
}

/// A gated, rotary model with grouped queries, small enough for mental arithmetic.
ModelShape small_llama() {
  ModelShape shape;
  shape.layers = 2;
  shape.hidden = 64;
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 16;
  shape.attention_width = 64;
  shape.ffn = 100;
  shape.gated_ffn = true;
  shape.vocab = 1000;
  shape.max_positions = 128;
  shape.bytes_per_value = 2;
  return shape;
}

std::string names_of(const std::vector<OperatorWork>& operators) {
  std::string names;
  for (const OperatorWork& work : operators) {
    names += (names.empty() ? "" : " ") + std::string(work.name);
  }
  return names;
}

Flops flops_of(const std::vector<OperatorWork>& operators) {
  Flops sum;
  for (const OperatorWork& work : operators) {
    sum += work.flops;
  }
  return sum;
}

Bytes bytes_of(const std::vector<OperatorWork>& operators) {
  Bytes sum;
  for (const OperatorWork& work : operators) {
    sum += work.bytes;
  }
  return sum;
}

}  // namespace

TEST_CASE("operators: a layer's GEMMs do 2 FLOPs a parameter and token") {
  const ModelShape shape = opt_13b();
  const std::int64_t tokens = 64;
  std::vector<OperatorWork> operators = before_attention(shape, tokens);
  for (const OperatorWork& work : after_attention(shape, tokens)) {
    operators.push_back(work);
  }
  CHECK(names_of(operators) ==
        "attention_norm qkv_projection output_projection attention_residual ffn_norm ffn_in "
        "ffn_activation ffn_out ffn_residual");
  // The matrices hold 12 x 5120^2 parameters.
  CHECK(flops_of(operators).count() == 2 * 64 * 314'572'800LL);
}

TEST_CASE("operators: bytes of a projection are weights, input and output, once each") {
  const OperatorWork qkv = qkv_projection(opt_13b(), 64);
  CHECK(qkv.kind == OperatorKind::gemm);
  CHECK(qkv.size.m == 64);
  CHECK(qkv.size.n == 15'360);
  CHECK(qkv.size.k == 5'120);
  CHECK(qkv.flops.count() == 2LL * 64 * 15'360 * 5'120);
  // 2 x (5120 x 15360 + 64 x 5120 + 64 x 15360)
  CHECK(qkv.bytes.count() == 157'286'400 + 655'360 + 1'966'080);
  CHECK(qkv.kernels == 1);
}

TEST_CASE("operators: decode attention reads the KV cache once") {
  const ModelShape shape = opt_13b();
  const SequenceBatch step{.sequences = 64, .new_tokens = 1, .context = 1536};
  const auto fused = attention(shape, step, AttentionKernel::fused);
  REQUIRE(fused.size() == 1);
  // K and V: 64 x 1536 x 20 KiB; q and output 64 x 10 KiB each.
  CHECK(fused[0].bytes == 20_KiB * 64 * 1536 + 20_KiB * 64);
  // 4 x 64 x 40 x 128 x 1536
  CHECK(fused[0].flops.count() == 2'013'265'920);

  const auto unfused = attention(shape, step, AttentionKernel::unfused);
  CHECK(names_of(unfused) == "attention_scores attention_softmax attention_values");
  CHECK(flops_of(unfused) == flops_of(fused));
  // Scores of 64 x 40 x 1536 x 2 B, written, read, written and read.
  CHECK(bytes_of(unfused) - bytes_of(fused) == 7'864'320_B * 4);
}

TEST_CASE("operators: causal prefill does half of the pairs when fused, all when not") {
  const ModelShape shape = opt_13b();
  const SequenceBatch prompt{.sequences = 4, .new_tokens = 1024, .context = 1024};
  const auto fused = attention(shape, prompt, AttentionKernel::fused);
  CHECK(fused[0].flops.count() == 4LL * 4 * 40 * 128 * (1024 * 1025 / 2));
  const auto unfused = attention(shape, prompt, AttentionKernel::unfused);
  CHECK(flops_of(unfused).count() == 4LL * 4 * 40 * 128 * 1024 * 1024);
  CHECK(unfused[1].kind == OperatorKind::softmax);
  CHECK(unfused[1].bytes.count() == 2LL * 2 * 4 * 40 * 1024 * 1024);
}

TEST_CASE("operators: eager attention is unfused attention with copies and a mask around it") {
  const ModelShape shape = opt_13b();
  const SequenceBatch prompt{.sequences = 4, .new_tokens = 64, .context = 64};
  const auto bytes = [](const std::vector<OperatorWork>& operators) {
    std::int64_t sum = 0;
    for (const OperatorWork& work : operators) {
      sum += work.bytes.count();
    }
    return sum;
  };
  const auto eager = attention(shape, prompt, AttentionKernel::eager);
  CHECK(names_of(eager) ==
        "query_scaling query_transposition key_transposition value_transposition attention_scores "
        "attention_mask attention_softmax attention_values output_transposition");
  const auto unfused = attention(shape, prompt, AttentionKernel::unfused);
  // Read and written once more: q twice, K, V, the output, and the scores.
  CHECK(bytes(eager) - bytes(unfused) == 2LL * 2 * (5 * 4 * 64 * 5120 + 4 * 40 * 64 * 64));
  CHECK(flops_of(eager) == flops_of(unfused));
  CHECK(names_of(attention(shape, {4, 1, 64}, AttentionKernel::eager)) ==
        "query_scaling key_insertion value_insertion attention_scores attention_mask "
        "attention_softmax attention_values");
  CHECK(names_of(before_attention(shape, 3, AttentionKernel::eager)) ==
        "attention_norm query_projection key_projection value_projection");
  CHECK(flops_of(before_attention(shape, 3, AttentionKernel::eager)) ==
        flops_of(before_attention(shape, 3)));
}

TEST_CASE("operators: a prompt in two chunks does the work of one") {
  const ModelShape shape = opt_13b();
  const auto whole = attention(shape, {4, 1000, 1000}, AttentionKernel::fused);
  const auto first = attention(shape, {4, 300, 300}, AttentionKernel::fused);
  const auto second = attention(shape, {4, 700, 1000}, AttentionKernel::fused);
  CHECK(flops_of(whole) == flops_of(first) + flops_of(second));
}

TEST_CASE("operators: grouped queries, gates and rotary positions") {
  const ModelShape shape = small_llama();
  CHECK(names_of(before_attention(shape, 3)) == "attention_norm qkv_projection rotary");
  CHECK(qkv_projection(shape, 3).size.n == 64 + 2 * 32);
  // q (64) and k (32) of 3 tokens, read and written.
  CHECK(before_attention(shape, 3)[2].bytes.count() == 2 * 2 * 3 * 96);
  const auto after = after_attention(shape, 3);
  CHECK(after[3].size.n == 200);
  CHECK(after[4].bytes.count() == 2 * 3 * (200 + 100));
  CHECK(after[5].size.k == 100);
  // 2 KV heads of 16: K and V of 10 tokens of 5 sequences, q and output of 4 heads.
  const auto decode = attention(shape, {5, 1, 10}, AttentionKernel::fused);
  CHECK(decode[0].bytes.count() == 2 * (2 * 5 * 10 * 32 + 2 * 5 * 64));
  CHECK(decode[0].flops.count() == 4 * 5 * 10 * 64);
}

TEST_CASE("operators: a whole layer is its parts in order") {
  const ModelShape shape = small_llama();
  const SequenceBatch batch{.sequences = 2, .new_tokens = 8, .context = 8};
  CHECK(names_of(layer_operators(shape, batch, AttentionKernel::fused)) ==
        names_of(before_attention(shape, 16)) + " attention " +
            names_of(after_attention(shape, 16)));
}

TEST_CASE("operators: experts read the weights that the tokens' choices need") {
  ModelShape shape = small_llama();
  shape.experts = 8;
  shape.experts_per_token = 2;
  CHECK(names_of(feed_forward(shape, 1)) ==
        "router router_choice experts_in experts_activation experts_out experts_sum");
  // One token: 2 experts of 64 x 200, one row in each.
  const auto one = feed_forward(shape, 1);
  CHECK(one[0].size.n == 8);
  CHECK(one[2].flops.count() == 2 * 2 * 64 * 200);
  CHECK(one[2].bytes.count() == 2 * (2 * 64 * 200 + 2 * (64 + 200)));
  CHECK(one[2].size.m == 1);
  CHECK(one[3].bytes.count() == 2 * 2 * (200 + 100));
  CHECK(one[4].bytes.count() == 2 * (2 * 64 * 100 + 2 * (64 + 100)));
  CHECK(one[5].bytes.count() == 2 * 3 * 64);  // two outputs in, their sum out
  // Two tokens: 8 (1 - 0.75^2) = 3.5 experts.
  const auto two = feed_forward(shape, 2);
  CHECK(two[2].flops == one[2].flops * 2);
  CHECK(two[2].bytes.count() == 2 * (7 * 64 * 200 / 2 + 4 * (64 + 200)));
  // Many: all 8, and 2 / 8 of the tokens in each.
  const auto many = feed_forward(shape, 4096);
  CHECK(many[2].bytes.count() == 2 * (8 * 64 * 200 + 8192 * (64 + 200)));
  CHECK(many[2].size.m == 1024);
  // Without a choice it is a dense network of all experts.
  shape.experts_per_token = 8;
  CHECK(feed_forward(shape, 3)[2].bytes.count() == 2 * (8 * 64 * 200 + 24 * (64 + 200)));
}

TEST_CASE("operators: a shared expert is a dense network beside those picked") {
  ModelShape shape = small_llama();
  shape.experts = 8;
  shape.experts_per_token = 2;
  shape.shared_ffn = 40;
  const auto operators = feed_forward(shape, 5);
  CHECK(names_of(operators) ==
        "router router_choice experts_in experts_activation experts_out experts_sum shared_gate "
        "shared_in shared_activation shared_out shared_sum");
  CHECK(operators[7].flops.count() == 2 * 5 * 64 * 80);
  CHECK(operators[9].flops.count() == 2 * 5 * 64 * 40);
  const LayerWorkspace workspace = layer_workspace(shape, {5, 1, 9}, AttentionKernel::fused);
  CHECK(workspace.ffn_inner.count() == 2 * 5 * (2 * 200 + 80));
  CHECK(workspace.expert_outputs.count() == 2 * 5 * 2 * 64);
  CHECK(workspace.peak() ==
        workspace.hidden + workspace.block_input + workspace.ffn_inner + workspace.expert_outputs);
}

TEST_CASE("operators: a window bounds keys and pairs") {
  ModelShape windowed = small_llama();
  windowed.attention_window = 10;
  const ModelShape full = small_llama();
  for (const std::int64_t t : {1, 3, 9, 10, 11, 25}) {
    for (const std::int64_t s : {1, 5, 9, 10, 11, 12, 19, 20, 25, 40}) {
      if (s < t) {
        continue;
      }
      CAPTURE(t);
      CAPTURE(s);
      std::int64_t pairs = 0;
      for (std::int64_t position = s - t + 1; position <= s; ++position) {
        pairs += std::min<std::int64_t>(position, 10);
      }
      const std::int64_t seen = std::min<std::int64_t>(s, 10 + t - 1);
      const auto fused = attention(windowed, {2, t, s}, AttentionKernel::fused)[0];
      CHECK(fused.flops.count() == 4 * 2 * 64 * pairs);
      CHECK(fused.bytes.count() == 2 * (2 * 2 * t * 64 + 2 * 2 * seen * 32));
      const auto scores = attention(windowed, {2, t, s}, AttentionKernel::unfused)[0];
      CHECK(scores.flops.count() == 2 * 2 * 64 * t * seen);
      if (s <= 10) {
        CHECK(fused.flops == attention(full, {2, t, s}, AttentionKernel::fused)[0].flops);
      }
    }
  }
}

TEST_CASE("operators: norms of heads and of outputs, blocks in parallel") {
  ModelShape shape = small_llama();
  shape.qk_norms = true;
  CHECK(names_of(before_attention(shape, 3)) == "attention_norm qkv_projection qk_norm rotary");
  CHECK(before_attention(shape, 3)[2].bytes.count() == 2 * 2 * 3 * 96);
  shape.norms_per_layer = 4;
  CHECK(names_of(after_attention(shape, 3)) ==
        "output_projection attention_output_norm attention_residual ffn_norm ffn_in "
        "ffn_activation ffn_out ffn_output_norm ffn_residual");
  shape.norms_per_layer = 1;
  CHECK(names_of(after_attention(shape, 3)) ==
        "output_projection attention_residual ffn_in ffn_activation ffn_out ffn_residual");
}

TEST_CASE("operators: a narrow embedding table is projected to the stream and back") {
  ModelShape shape = opt_13b();
  shape.embedding_width = 512;
  shape.final_norm = false;
  const OperatorWork embedded = embedding(shape, 7);
  CHECK(embedded.kind == OperatorKind::gemm);
  CHECK(embedded.flops.count() == 2LL * 7 * 512 * 5120);
  // The lookup's rows; weights, input and output of the projection; positions.
  CHECK(embedded.bytes.count() == 2LL * (7 * 512 + 512 * 5120 + 7 * 512 + 7 * 5120 + 7 * 5120));
  const auto next = next_token(shape, 64);
  CHECK(names_of(next) == "output_width lm_head");
  CHECK(next[0].flops.count() == 2LL * 64 * 512 * 5120);
  CHECK(next[1].flops.count() == 2LL * 64 * 512 * 50'272);
}

TEST_CASE("operators: contexts of a million tokens are counted exactly") {
  const ModelShape shape = opt_13b();
  const std::int64_t million = 1 << 20;
  const SequenceBatch step{.sequences = 256, .new_tokens = 1, .context = million};
  const auto decode = attention(shape, step, AttentionKernel::fused)[0];
  CHECK(decode.flops.count() == 4LL * 256 * 5120 * million);
  CHECK(decode.bytes.count() == 2LL * (2 * 256 * 5120 + 2 * 256 * 5120 * million));
  // 4 x 256 x 5120 x 2^19 (2^20 + 1) = 2.88e18 and twice as much without the causal mask.
  const SequenceBatch prompts{.sequences = 256, .new_tokens = million, .context = million};
  CHECK(attention(shape, prompts, AttentionKernel::fused)[0].flops.count() ==
        4LL * 256 * 5120 * (million / 2) * (million + 1));
  CHECK(attention(shape, prompts, AttentionKernel::unfused)[0].flops.count() ==
        2LL * 256 * 5120 * million * million);
  CHECK(layer_workspace(shape, prompts, AttentionKernel::unfused).scores.count() ==
        2LL * 256 * 40 * million * million);
  CHECK(shape.kv_bytes_per_token() * 256 * million == Bytes{819'200LL * 256 * million});
}

TEST_CASE("operators: a kernel beyond 2^63 FLOPs or bytes is infeasible, not a wrong number") {
  ModelShape shape = opt_13b();
  shape.heads = 128;  // of Llama-3.1-405B
  shape.attention_width = 16'384;
  const std::int64_t million = 1 << 20;
  const SequenceBatch prompts{.sequences = 256, .new_tokens = million, .context = million};
  try {
    static_cast<void>(attention(shape, prompts, AttentionKernel::fused));
    FAIL("no exception");
  } catch (const Infeasible& reason) {
    CHECK(std::string(reason.what()) ==
          "infeasible: attention: one kernel of 9.22e+18 bytes or FLOPs; make the batch or its "
          "contexts smaller");
  }
  const SequenceBatch many{.sequences = 1 << 16, .new_tokens = million, .context = million};
  CHECK_THROWS_AS(static_cast<void>(layer_workspace(shape, many, AttentionKernel::unfused)),
                  Infeasible);
  CHECK_NOTHROW(static_cast<void>(layer_workspace(shape, prompts, AttentionKernel::fused)));
}

TEST_CASE("operators: a ragged batch is one launch with the sum of its groups") {
  const ModelShape shape = small_llama();
  const std::vector<SequenceBatch> groups{{3, 1, 17}, {1, 1, 90}, {2, 4, 30}};
  for (const AttentionKernel kernel : {AttentionKernel::fused, AttentionKernel::unfused}) {
    const auto ragged = attention(shape, groups, kernel);
    std::vector<Flops> flops(ragged.size());
    std::vector<Bytes> bytes(ragged.size());
    Bytes scores;
    for (const SequenceBatch& group : groups) {
      const auto alone = attention(shape, group, kernel);
      REQUIRE(alone.size() == ragged.size());
      for (std::size_t i = 0; i < alone.size(); ++i) {
        flops[i] += alone[i].flops;
        bytes[i] += alone[i].bytes;
      }
      scores += layer_workspace(shape, group, kernel).scores;
    }
    for (std::size_t i = 0; i < ragged.size(); ++i) {
      CHECK(ragged[i].flops == flops[i]);
      CHECK(ragged[i].bytes == bytes[i]);
      CHECK(ragged[i].kernels == 1);
    }
    const auto whole = layer_operators(shape, groups, kernel);
    CHECK(names_of(whole) == names_of(before_attention(shape, 12)) + " " + names_of(ragged) + " " +
                                 names_of(after_attention(shape, 12)));
    CHECK(whole[1].size.m == 3 + 1 + 2 * 4);  // the projections see all tokens at once
    const LayerWorkspace workspace = layer_workspace(shape, groups, kernel);
    CHECK(workspace.scores == scores);
    CHECK(workspace.hidden == Bytes{2 * 12 * 64});
  }
}

TEST_CASE("operators: equal groups make the batch that they are together") {
  const ModelShape shape = opt_13b();
  const std::vector<SequenceBatch> halves{{32, 1, 1536}, {32, 1, 1536}};
  const SequenceBatch whole{64, 1, 1536};
  for (const AttentionKernel kernel : {AttentionKernel::fused, AttentionKernel::unfused}) {
    const auto ragged = layer_operators(shape, halves, kernel);
    const auto uniform = layer_operators(shape, whole, kernel);
    REQUIRE(ragged.size() == uniform.size());
    for (std::size_t i = 0; i < ragged.size(); ++i) {
      CHECK(ragged[i].flops == uniform[i].flops);
      CHECK(ragged[i].bytes == uniform[i].bytes);
    }
    CHECK(layer_workspace(shape, halves, kernel).peak() ==
          layer_workspace(shape, whole, kernel).peak());
  }
}

TEST_CASE("operators: the shards of a model do its work together") {
  const ModelShape shape = opt_13b();
  const SequenceBatch batch{8, 1, 1024};
  const ModelShape shard = shape.tensor_shard(4);
  for (const AttentionKernel kernel : {AttentionKernel::fused, AttentionKernel::unfused}) {
    CHECK(flops_of(layer_operators(shard, batch, kernel)).count() * 4 ==
          flops_of(layer_operators(shape, batch, kernel)).count());
    CHECK(bytes_of(attention(shard, batch, kernel)) * 4 ==
          bytes_of(attention(shape, batch, kernel)));
  }
}

TEST_CASE("operators: embedding and next token") {
  const ModelShape shape = opt_13b();
  CHECK(embedding(shape, 7).bytes.count() == 3 * 2 * 7 * 5120);  // token and position in, sum out
  CHECK(embedding(small_llama(), 7).bytes.count() == 2 * 2 * 7 * 64);
  const auto next = next_token(shape, 64);
  CHECK(names_of(next) == "final_norm lm_head");
  CHECK(next[1].flops.count() == 2LL * 64 * 50'272 * 5'120);
  CHECK(logits_bytes(shape, 64) == Bytes{2LL * 64 * 50'272});
}

TEST_CASE("operators: workspace of a prompt, with and without score matrices") {
  const ModelShape shape = opt_13b();
  const SequenceBatch prompt{.sequences = 128, .new_tokens = 1024, .context = 1024};
  const LayerWorkspace unfused = layer_workspace(shape, prompt, AttentionKernel::unfused);
  // 128 x 40 x 1024^2 x 2 B = 10 GiB a score matrix; 128 x 1024 x 5120 x 2 B = 1.25 GiB.
  CHECK(unfused.scores == 10_GiB);
  CHECK(unfused.probabilities == 10_GiB);
  CHECK(unfused.hidden == 1280_MiB);
  CHECK(unfused.qkv == 3 * 1280_MiB);
  CHECK(unfused.ffn_inner == 4 * 1280_MiB);
  CHECK(unfused.peak() == 20_GiB + (2 + 3 + 1) * 1280_MiB);
  const LayerWorkspace fused = layer_workspace(shape, prompt, AttentionKernel::fused);
  CHECK(fused.scores == 0_B);
  CHECK(fused.peak() == (2 + 4) * 1280_MiB);
}

TEST_CASE("operators: work grows with tokens, context and batch") {
  const ModelShape shape = opt_13b();
  for (const AttentionKernel kernel : {AttentionKernel::fused, AttentionKernel::unfused}) {
    const SequenceBatch base{.sequences = 8, .new_tokens = 16, .context = 64};
    for (SequenceBatch more : {SequenceBatch{9, 16, 64}, {8, 17, 64}, {8, 16, 65}}) {
      const auto small = layer_operators(shape, base, kernel);
      const auto large = layer_operators(shape, more, kernel);
      CHECK(flops_of(large) > flops_of(small));
      CHECK(bytes_of(large) > bytes_of(small));
      CHECK(layer_workspace(shape, more, kernel).peak() >=
            layer_workspace(shape, base, kernel).peak());
    }
  }
}

TEST_CASE("operators: an empty batch is our bug") {
  const ModelShape shape = opt_13b();
  CHECK_THROWS_AS(static_cast<void>(attention(shape, {1, 2, 1}, AttentionKernel::fused)),
                  CheckFailure);
  CHECK_THROWS_AS(
      static_cast<void>(attention(shape, std::vector<SequenceBatch>{}, AttentionKernel::fused)),
      CheckFailure);
  CHECK_THROWS_AS(static_cast<void>(qkv_projection(shape, 0)), CheckFailure);
}
