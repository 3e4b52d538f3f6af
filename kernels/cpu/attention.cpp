#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include "kernels/api.hpp"
#include "kernels/cpu/selection.hpp"
#include "kernels/cpu/simd.hpp"
#include "kernels/exp.hpp"
#include "kernels/requests.hpp"
#include "kernels/size.hpp"
#include "kernels/touched_pages.hpp"
#include "kernels/workers.hpp"

namespace nearkv::kernels::cpu {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// Tokens that are attended to in one go: long enough for K and V to stream from memory (1024 were
/// 9 % slower), and a long context has pieces for all threads. Fixed, so that sums do not depend on
/// the threads.
constexpr std::size_t piece_tokens = 4096;

/// The tokens of one piece of work: a range, or listed ones.
class Tokens {
 public:
  Tokens(int first, std::size_t count) : first_(first), count_(count) {}
  explicit Tokens(std::span<const int> list) : list_(list), count_(list.size()) {}

  [[nodiscard]] std::size_t count() const { return count_; }
  [[nodiscard]] bool is_list() const { return !list_.empty(); }
  [[nodiscard]] int operator[](std::size_t i) const {
    return list_.empty() ? first_ + static_cast<int>(i) : list_[i];
  }
  [[nodiscard]] Tokens piece(std::size_t from) const {
    const std::size_t count = std::min(piece_tokens, count_ - from);
    return list_.empty() ? Tokens(first_ + static_cast<int>(from), count)
                         : Tokens(list_.subspan(from, count));
  }

 private:
  std::span<const int> list_;
  int first_ = 0;
  std::size_t count_;
};

/// Where rows are: divides once a token group instead of once a row. Tokens ascend.
template <typename RowOf>
class RowFinder {
 public:
  RowFinder(const PageGeometry& geometry, RowOf row_of)
      : group_tokens_(geometry.tokens_per_group()), d_head_(geometry.d_head()), row_of_(row_of) {}

  [[nodiscard]] const std::uint16_t* operator()(int token) {
    if (token >= group_end_) {
      group_start_ = token - token % group_tokens_;
      group_end_ = group_start_ + group_tokens_;
      first_row_ = row_of_(group_start_);
    }
    return first_row_ + size(token - group_start_) * size(d_head_);
  }

 private:
  int group_tokens_;
  int d_head_;
  RowOf row_of_;
  int group_start_ = 0;
  int group_end_ = 0;
  const std::uint16_t* first_row_ = nullptr;
};

/// So many tiles ahead, listed K rows are asked for: they follow no pattern that hardware could
/// see.
constexpr std::size_t tiles_ahead = 8;

void prefetch_row(const std::uint16_t* row, std::size_t d) {
  constexpr std::size_t line = 64 / sizeof(std::uint16_t);
  for (std::size_t c = 0; c < d; c += line) {
    __builtin_prefetch(row + c, /*rw=*/0, /*locality=*/2);
  }
}

/// Calls visit(index of the first, tile) for the rows of a range of tokens.
template <typename RowOf, typename Visit>
void for_each_tile(const PageGeometry& geometry, const Tokens& tokens, std::size_t heads,
                   RowOf row_of, Visit visit) {
  RowFinder finder(geometry, row_of);
  std::array<const std::uint16_t*, most_rows> rows{};
  for (std::size_t i = 0; i < tokens.count(); i += most_rows) {
    const std::size_t count = std::min(most_rows, tokens.count() - i);
    for (std::size_t r = 0; r < count; ++r) {
      rows[r] = finder(tokens[i + r]);
    }
    visit(i, RowTile{rows.data(), count, size(geometry.d_head()), heads});
  }
}

/// Partial attention of some query heads to one piece of tokens.
struct Partial {
  std::vector<AttentionState> states;       // by head
  std::vector<std::vector<float>> weights;  // by head and token, if wanted: e^(logit - max)
};

/// `queries` has padded rows.
Partial attend_piece(const KvPages& pages, std::span<const float> queries, std::size_t heads,
                     const Tokens& tokens, bool want_weights) {
  const PageGeometry& geometry = pages.geometry();
  const std::size_t d_head = size(geometry.d_head());
  const std::size_t width = padded(d_head);
  const std::size_t stride = padded(tokens.count());
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(d_head)));
  std::vector<float> weights(heads * stride, minus_infinity);
  const auto k_row = [&](int token) { return pages.k_row(token); };
  const auto v_row = [&](int token) { return pages.v_row(token); };
  RowFinder k_ahead(geometry, k_row);
  RowFinder v_ahead(geometry, v_row);
  std::size_t asked = 0;
  for_each_tile(geometry, tokens, heads, k_row, [&](std::size_t i, const RowTile& tile) {
    if (tokens.is_list()) {
      const std::size_t end = std::min(tokens.count(), i + (tiles_ahead + 1) * most_rows);
      for (; asked < end; ++asked) {
        prefetch_row(k_ahead(tokens[asked]), d_head);
      }
      for (std::size_t r = i; r < i + tile.count; ++r) {
        prefetch_row(v_ahead(tokens[r]), d_head);  // all of them fit in the second-level cache
      }
    }
    score_rows(tile, queries.data(), scale, weights.data() + i, stride);
  });
  Partial partial;
  for (std::size_t head = 0; head < heads; ++head) {
    const std::span<float> logits = std::span(weights).subspan(head * stride, stride);
    const float max = largest_of(logits);
    partial.states.push_back({max, weigh(logits, max, 1.0F), std::vector<float>(d_head)});
    if (want_weights) partial.weights.emplace_back(logits.begin(), logits.begin() + tokens.count());
  }
  std::vector<float> out(heads * width, 0.0F);
  for_each_tile(geometry, tokens, heads, v_row, [&](std::size_t i, const RowTile& tile) {
    accumulate_rows(tile, weights.data() + i, stride, out.data());
  });
  for (std::size_t head = 0; head < heads; ++head) {
    std::copy_n(out.begin() + static_cast<std::ptrdiff_t>(head * width), d_head,
                partial.states[head].out.begin());
  }
  return partial;
}

std::vector<float> padded_rows(std::span<const float> queries, std::size_t d_head) {
  const std::size_t width = padded(d_head);
  std::vector<float> rows(queries.size() / d_head * width, 0.0F);
  for (std::size_t head = 0; head * d_head < queries.size(); ++head) {
    std::copy_n(queries.data() + head * d_head, d_head, rows.data() + head * width);
  }
  return rows;
}

/// Heads of a call that attend to the same tokens: all of them, or one with a selection of its own.
struct Group {
  std::size_t first_head;
  std::size_t heads;
  Tokens tokens;
  std::vector<Partial> pieces;

  [[nodiscard]] std::size_t piece_count() const {
    return (tokens.count() + piece_tokens - 1) / piece_tokens;
  }
};

/// One call: checked, then selected, then attended to in pieces, then put together.
class CallWork {
 public:
  CallWork(const AttentionCall& call, const Method& method)
      : pages_(*call.pages),
        request_(call.request),
        method_(method),
        heads_(size(checked_heads(pages_, request_))),
        d_head_(size(pages_.geometry().d_head())),
        alpha_(heads_, 1.0F) {
    check_method(pages_, request_, method_);
    queries_ = padded_rows(request_.queries, d_head_);
    if (select_options(method) != nullptr) {
      selections_.resize(heads_);
    }
  }

  /// Query heads that have to be selected for, one by one.
  [[nodiscard]] std::size_t selections() const { return selections_.size(); }

  void select(std::size_t head, bool want_alpha) {
    const std::span<const float> query = request_.queries.subspan(head * d_head_, d_head_);
    Selector selector(pages_, request_.context, *select_options(method_));
    selector.select(query);
    selections_[head] = selector.selection();
    if (want_alpha) alpha_[head] = selector.alpha(query);
  }

  /// After all selections.
  void divide() {
    if (const auto* dense = std::get_if<DenseOptions>(&method_)) {
      const Tokens all(dense->first_token, size(request_.context - dense->first_token));
      groups_.push_back({0, heads_, all, {}});
    } else if (selections() == 0) {
      list_ = listed_tokens(request_, method_);
      groups_.push_back({0, heads_, Tokens(list_), {}});
    } else {
      for (std::size_t head = 0; head < heads_; ++head) {
        groups_.push_back({head, 1, Tokens(selections_[head].tokens), {}});
      }
    }
    for (Group& group : groups_) {
      group.pieces.resize(group.piece_count());
    }
  }

  [[nodiscard]] std::vector<Group>& groups() { return groups_; }

  void attend(Group& group, std::size_t piece) const {
    const std::size_t width = padded(d_head_);
    const auto queries = std::span(queries_).subspan(group.first_head * width, group.heads * width);
    const bool want_weights = std::holds_alternative<H2oOptions>(method_);
    group.pieces[piece] = attend_piece(pages_, queries, group.heads,
                                       group.tokens.piece(piece * piece_tokens), want_weights);
  }

  [[nodiscard]] AttentionResult finish() {
    AttentionResult result;
    for (const Group& group : groups_) {
      for (std::size_t head = 0; head < group.heads; ++head) {
        AttentionState state = AttentionState::neutral(pages_.geometry().d_head());
        for (const Partial& piece : group.pieces) {
          state = merge(state, piece.states[head]);
        }
        result.states.push_back(std::move(state));
      }
    }
    add_outputs(result);
    if (std::holds_alternative<H2oOptions>(method_)) step_history(result);
    SelectionResult selected = selection();
    result.touched = std::move(selected.touched);
    result.heads = std::move(selected.heads);
    result.alpha = alpha_;
    return result;
  }

  [[nodiscard]] SelectionResult selection() const {
    SelectionResult result;
    if (const auto* dense = std::get_if<DenseOptions>(&method_)) {
      result.touched = dense_pages(pages_.geometry(), request_.context, *dense);
    } else {
      PageCollector collector(pages_.geometry(), request_.context);
      collector.add_tokens(list_);
      for (const HeadSelection& head : selections_) {
        collector.add_channels(head.channels);
        collector.add_tokens(head.tokens);
      }
      result.touched = collector.touched();
    }
    if (request_.want_selection) result.heads = head_selections();
    return result;
  }

 private:
  [[nodiscard]] std::vector<HeadSelection> head_selections() const {
    if (selections() > 0) return selections_;
    HeadSelection same;
    const Tokens& tokens = groups_.front().tokens;
    for (std::size_t i = 0; i < tokens.count(); ++i) {
      same.tokens.push_back(tokens[i]);
    }
    return std::vector(heads_, same);
  }

  void add_outputs(AttentionResult& result) const {
    std::vector<float> v_bar;
    if (selections() > 0) v_bar = pages_.v_bar(request_.context);
    for (std::size_t head = 0; head < heads_; ++head) {
      const std::vector<float> exact = kernels::finish(result.states[head]);
      for (std::size_t c = 0; c < d_head_; ++c) {
        result.output.push_back(
            v_bar.empty() ? exact[c] : alpha_[head] * exact[c] + (1.0F - alpha_[head]) * v_bar[c]);
      }
    }
  }

  void step_history(const AttentionResult& result) const {
    std::vector<float> received;
    received.reserve(list_.size());
    for (const Partial& piece : groups_.front().pieces) {
      for (std::size_t i = 0; i < piece.weights.front().size(); ++i) {
        float sum = 0.0F;
        for (std::size_t head = 0; head < heads_; ++head) {
          const AttentionState& state = result.states[head];
          const float share = exp_nonpositive(piece.states[head].max - state.max);
          sum += piece.weights[head][i] * share / state.sum;
        }
        received.push_back(sum);
      }
    }
    request_.history->step(received);
  }

  const KvPages& pages_;
  AttentionRequest request_;
  const Method& method_;
  std::size_t heads_;
  std::size_t d_head_;
  std::vector<float> alpha_;
  std::vector<float> queries_;
  std::vector<HeadSelection> selections_;  // of SparQ and SparF
  std::vector<int> list_;                  // tokens of the methods that list them without scores
  std::vector<Group> groups_;
};

}  // namespace

std::vector<AttentionResult> attend_batch(std::span<const AttentionCall> calls,
                                          const Method& method, int threads) {
  std::vector<CallWork> work;
  work.reserve(calls.size());
  struct Selection {
    std::size_t call;
    std::size_t head;
  };
  std::vector<Selection> selections;
  for (std::size_t call = 0; call < calls.size(); ++call) {
    work.emplace_back(calls[call], method);
    for (std::size_t head = 0; head < work.back().selections(); ++head) {
      selections.push_back({call, head});
    }
  }
  for_each_item(selections.size(), threads, [&](std::size_t i) {
    work[selections[i].call].select(selections[i].head, /*want_alpha=*/true);
  });
  struct Piece {
    std::size_t call;
    Group* group;
    std::size_t piece;
  };
  std::vector<Piece> pieces;
  for (std::size_t call = 0; call < calls.size(); ++call) {
    work[call].divide();
    for (Group& group : work[call].groups()) {
      for (std::size_t piece = 0; piece < group.piece_count(); ++piece) {
        pieces.push_back({call, &group, piece});
      }
    }
  }
  for_each_item(pieces.size(), threads, [&](std::size_t i) {
    work[pieces[i].call].attend(*pieces[i].group, pieces[i].piece);
  });
  std::vector<AttentionResult> results;
  results.reserve(calls.size());
  for (CallWork& call : work) {
    results.push_back(call.finish());
  }
  return results;
}

AttentionResult attend(const KvPages& pages, const AttentionRequest& request,
                       const Method& method) {
  const AttentionCall call{&pages, request};
  return std::move(attend_batch({&call, 1}, method, 1).front());
}

SelectionResult select(const KvPages& pages, const AttentionRequest& request,
                       const Method& method) {
  CallWork work({&pages, request}, method);
  for (std::size_t head = 0; head < work.selections(); ++head) {
    work.select(head, /*want_alpha=*/false);
  }
  work.divide();
  return work.selection();
}

}  // namespace nearkv::kernels::cpu
