#include "kernels/c_interface.h"

#include <algorithm>
#include <cstddef>
#include <exception>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/api.hpp"
#include "kernels/size.hpp"

struct nearkv_cache {
  nearkv::kernels::KvPages pages;
};

struct nearkv_h2o_history {
  nearkv::kernels::H2oHistory history;
};

namespace {

using namespace nearkv::kernels;  // everything below is in terms of api.hpp

struct ErrorText {
  char* text;
  std::uint64_t size;
};

void write_error(const ErrorText& error, std::string_view problem) {
  if (error.text == nullptr || error.size == 0) return;
  const std::size_t length = std::min<std::size_t>(problem.size(), error.size - 1);
  std::copy_n(problem.begin(), length, error.text);
  error.text[length] = '\0';
}

/// Runs `call`; an exception becomes a text and -1.
template <typename Call>
int guarded(const ErrorText& error, Call call) {
  try {
    call();
    return 0;
  } catch (const std::exception& problem) {
    write_error(error, problem.what());
    return -1;
  }
}

/// The same for what `make` makes; null if it throws.
template <typename Make>
auto made(const ErrorText& error, Make make) -> decltype(make().release()) {
  decltype(make().release()) object = nullptr;
  guarded(error, [&] { object = make().release(); });
  return object;
}

void require(bool holds, const std::string& problem) {
  if (!holds) throw std::invalid_argument(problem);
}

void require_at_least(const char* what, std::int32_t value, std::int32_t least) {
  require(value >= least, std::string(what) + " is " + std::to_string(value) +
                              "; must be at least " + std::to_string(least));
}

template <typename Type>
void require_given(const char* what, const Type* pointer) {
  require(pointer != nullptr, std::string(what) + " is null");
}

template <typename Type>
void require_each_given(const char* what, Type* const* pointers, std::int32_t count) {
  require_given(what, pointers);
  for (std::int32_t i = 0; i < count; ++i) {
    require_given((std::string(what) + "[" + std::to_string(i) + "]").c_str(), pointers[i]);
  }
}

void append(nearkv_cache& cache, std::int32_t tokens, const float* k, const float* v) {
  const std::size_t d_head = size(cache.pages.geometry().d_head());
  for (std::size_t token = 0; token < size(tokens); ++token) {
    cache.pages.append({k + token * d_head, d_head}, {v + token * d_head, d_head});
  }
}

void require_different(nearkv_h2o_history* const* histories, std::int32_t count) {
  std::map<const nearkv_h2o_history*, std::int32_t> seen;
  for (std::int32_t i = 0; i < count; ++i) {
    const auto [first, is_new] = seen.emplace(histories[i], i);
    require(is_new, "histories[" + std::to_string(i) + "] is also histories[" +
                        std::to_string(first->second) + "]; each call steps its own");
  }
}

struct Option {
  const char* name;
  std::int32_t nearkv_method::*value;
};

/// Throws if another option than `own` is set.
void require_only(const nearkv_method& method, const std::vector<std::string_view>& own) {
  constexpr Option options[] = {
      {"first_token", &nearkv_method::first_token},
      {"r", &nearkv_method::r},
      {"k", &nearkv_method::k},
      {"local_window", &nearkv_method::local_window},
      {"heavy", &nearkv_method::heavy},
      {"recent", &nearkv_method::recent},
      {"sinks", &nearkv_method::sinks},
      {"window", &nearkv_method::window},
  };
  for (const Option& option : options) {
    const std::int32_t value = method.*option.value;
    require(value == 0 || std::find(own.begin(), own.end(), option.name) != own.end(),
            std::string("method: ") + option.name + " is " + std::to_string(value) +
                "; must be 0 for kind " + std::to_string(method.kind) +
                ", which has no such option");
  }
}

Method method_of(const nearkv_method& given) {
  const SelectOptions select{given.r, given.k, given.local_window};
  switch (given.kind) {
    case NEARKV_DENSE:
      require_only(given, {"first_token"});
      return DenseOptions{given.first_token};
    case NEARKV_SPARQ:
      require_only(given, {"r", "k", "local_window"});
      return SparqOptions{select};
    case NEARKV_SPARF:
      require_only(given, {"r", "k", "local_window"});
      return SparfOptions{select};
    case NEARKV_H2O:
      require_only(given, {"heavy", "recent"});
      return H2oOptions{given.heavy, given.recent};
    case NEARKV_STREAMING:
      require_only(given, {"sinks", "window"});
      return StreamingOptions{given.sinks, given.window};
    case NEARKV_WINDOW:
      require_only(given, {"window"});
      return WindowOptions{given.window};
    default:
      throw std::invalid_argument("method: kind is " + std::to_string(given.kind) +
                                  "; must be 0 (dense) to 5 (window)");
  }
}

std::vector<AttentionCall> calls_of(const nearkv_attention& attention, const Method& method) {
  require_at_least("calls", attention.calls, 1);
  require_at_least("heads", attention.heads, 1);
  require_each_given("caches", attention.caches, attention.calls);
  require_given("queries", attention.queries);
  require_given("output", attention.output);
  const bool is_h2o = std::holds_alternative<H2oOptions>(method);
  if (is_h2o) {
    require_each_given("histories", attention.histories, attention.calls);
    require_different(attention.histories, attention.calls);
  } else {
    require(attention.histories == nullptr, "histories must be null for all methods but H2O");
  }
  const int d_head = attention.caches[0]->pages.geometry().d_head();
  const std::size_t values = size(attention.heads) * size(d_head);
  std::vector<AttentionCall> calls;
  calls.reserve(size(attention.calls));
  for (std::size_t i = 0; i < size(attention.calls); ++i) {
    const KvPages& pages = attention.caches[i]->pages;
    require(pages.geometry().d_head() == d_head, "caches[" + std::to_string(i) + "] has d_head " +
                                                     std::to_string(pages.geometry().d_head()) +
                                                     "; must be that of caches[0], " +
                                                     std::to_string(d_head));
    calls.push_back(
        {.pages = &pages,
         .request = {
             .queries = {attention.queries + i * values, values},
             .context = attention.contexts != nullptr ? attention.contexts[i] : pages.tokens(),
             .want_selection = attention.tokens != nullptr || attention.token_counts != nullptr,
             .history = is_h2o ? &attention.histories[i]->history : nullptr}});
  }
  return calls;
}

void require_token_space(const nearkv_attention& attention,
                         const std::vector<AttentionCall>& calls) {
  if (attention.tokens == nullptr) return;
  int longest = 0;
  for (const AttentionCall& call : calls)
    longest = std::max(longest, call.request.context);
  require(attention.token_space >= longest,
          "token_space is " + std::to_string(attention.token_space) +
              "; must be at least the longest context, which is " + std::to_string(longest));
}

void write_result(const nearkv_attention& attention, std::size_t call,
                  const AttentionResult& result) {
  const std::size_t heads = size(attention.heads);
  std::copy(result.output.begin(), result.output.end(),
            attention.output + call * result.output.size());
  for (std::size_t head = 0; head < heads; ++head) {
    const std::size_t place = call * heads + head;
    if (attention.alpha != nullptr) attention.alpha[place] = result.alpha[head];
    if (attention.max != nullptr) attention.max[place] = result.states[head].max;
    if (attention.sum != nullptr) attention.sum[place] = result.states[head].sum;
    if (attention.token_counts != nullptr) {
      attention.token_counts[place] = static_cast<std::int32_t>(result.heads[head].tokens.size());
    }
    if (attention.tokens != nullptr) {
      const std::span row(attention.tokens + place * size(attention.token_space),
                          size(attention.token_space));
      const std::vector<int>& tokens = result.heads[head].tokens;
      std::fill(std::copy(tokens.begin(), tokens.end(), row.begin()), row.end(), -1);
    }
  }
}

}  // namespace

nearkv_cache* nearkv_cache_create(const nearkv_cache_shape* shape, char* error,
                                  std::uint64_t error_size) {
  return made({error, error_size}, [&] {
    require_given("shape", shape);
    require(shape->channel_copy == 0 || shape->channel_copy == 1,
            "channel_copy is " + std::to_string(shape->channel_copy) + "; must be 0 or 1");
    const PageGeometry geometry({shape->d_head, shape->page_bytes, shape->channels_per_group});
    const KeyCopies copies =
        shape->channel_copy == 1 ? KeyCopies::tokens_and_channels : KeyCopies::tokens;
    return std::make_unique<nearkv_cache>(nearkv_cache{KvPages(geometry, copies)});
  });
}

nearkv_cache* nearkv_cache_clone(const nearkv_cache* cache, char* error, std::uint64_t error_size) {
  return made({error, error_size}, [&] {
    require_given("cache", cache);
    return std::make_unique<nearkv_cache>(*cache);
  });
}

void nearkv_cache_free(nearkv_cache* cache) { delete cache; }

std::int32_t nearkv_cache_tokens(const nearkv_cache* cache) { return cache->pages.tokens(); }

int nearkv_caches_append(nearkv_cache* const* caches, std::int32_t count, std::int32_t tokens,
                         const float* k, const float* v, char* error, std::uint64_t error_size) {
  std::int32_t current = -1;
  try {
    require_at_least("count", count, 1);
    require_at_least("tokens", tokens, 0);
    require_each_given("caches", caches, count);
    require_given("k", k);
    require_given("v", v);
    for (std::int32_t i = 0; i < count; ++i) {
      current = i;
      const std::size_t values = size(tokens) * size(caches[i]->pages.geometry().d_head());
      append(*caches[i], tokens, k, v);
      k += values;
      v += values;
    }
    return 0;
  } catch (const std::exception& problem) {
    const std::string place = current < 0 ? "" : "caches[" + std::to_string(current) + "]: ";
    write_error({error, error_size}, place + problem.what());
    return -1;
  }
}

nearkv_h2o_history* nearkv_h2o_create(std::int32_t heavy, std::int32_t recent, const float* mass,
                                      std::int32_t tokens, char* error, std::uint64_t error_size) {
  return made({error, error_size}, [&] {
    require_at_least("tokens", tokens, 0);
    require(mass != nullptr || tokens == 0, "mass is null");
    return std::make_unique<nearkv_h2o_history>(
        nearkv_h2o_history{H2oHistory({heavy, recent}, {mass, size(tokens)})});
  });
}

void nearkv_h2o_free(nearkv_h2o_history* history) { delete history; }

int nearkv_attend(const nearkv_attention* attention, const nearkv_method* method,
                  std::int32_t threads, char* error, std::uint64_t error_size) {
  return guarded({error, error_size}, [&] {
    require_given("attention", attention);
    require_given("method", method);
    require_at_least("threads", threads, 1);
    const Method chosen = method_of(*method);
    const std::vector<AttentionCall> calls = calls_of(*attention, chosen);
    require_token_space(*attention, calls);
    const std::vector<AttentionResult> results = cpu::attend_batch(calls, chosen, threads);
    for (std::size_t call = 0; call < results.size(); ++call) {
      write_result(*attention, call, results[call]);
    }
  });
}
