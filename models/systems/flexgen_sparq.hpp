// What SparQ (Ribar et al., ICML 2024) reads of a KV cache in files, in closed form.
//
// Dense attention reads 2 S d values a head at a context of S tokens. SparQ reads r channels of K
// of all tokens, and K and V of the k tokens that these estimate to matter: S r + 2 k d values.
// (The 4 d of its paper, the new token's K and V and the mean of V, are the stores and stay in
// VRAM.) All query heads of a KV head read the same channels and tokens.
//
// packed: only what is selected moves, as if it lay together.
// pages: whole pages that hold something selected move. Expected values if the selection is
// uniform:
// - The file of K by channel holds, for each head, a row of S values a channel. Rows that are a
// page
//   or longer are read page by page. Of m shorter rows in a page (all of one head, r of its d rows
//   are selected) at least one is selected with 1 - (d-r)/d x (d-r-1)/(d-1) x ... (m factors).
// - The files of K and V by token hold a row of d values a head and token, heads side by side. Of m
//   rows in a page (of different heads, which select on their own) at least one is selected with
//   1 - (1 - k/S)^m.
#pragma once

#include <cstdint>

#include "models/kv/head_reads.hpp"
#include "models/llm/model_shape.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

enum class SelectedData { packed, pages };

/// Tokens that are attended to at a context, not rounded: a mean over heads that round differently.
[[nodiscard]] double selected_tokens(const SparsityConfig& sparsity, std::int64_t context);

/// Bytes that one sequence reads in one layer, all heads.
struct SparqReads {
  Bytes channels;  // first step, of K by channel
  Bytes keys;      // second step
  Bytes values;
};
/// `stored` tokens are in the files, whose rows by channel have room for `room` tokens.
[[nodiscard]] SparqReads sparq_reads(const ModelShape& shape, const SparsityConfig& sparsity,
                                     SelectedData lies, Bytes page, std::int64_t stored,
                                     std::int64_t room);

}  // namespace nearkv
