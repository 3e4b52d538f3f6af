/* The CPU kernels for callers in other languages (Python's ctypes): plain C types, row-major arrays
 * that belong to the caller. The methods and their options are explained in methods.hpp.
 *
 * Functions that take `error` write what went wrong into its `error_size` bytes (cut there, always
 * ended by 0; both may be 0) and return -1 or null; else they return 0 or the object. Several
 * threads may call, but not with an object that one of them changes. */
#pragma once

#include <stdint.h>

/* All else in the shared library is hidden. */
#define NEARKV_EXPORT __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* -- KV cache of one KV head of one layer of one sequence -------------------------------------- */

typedef struct nearkv_cache nearkv_cache;

/* As PageGeometrySpec; channel_copy is 1 to keep the channel-indexed copy of K, which SparQ and
 * SparF need, else 0. */
typedef struct {
  int32_t d_head;
  int32_t page_bytes;
  int32_t channels_per_group;
  int32_t channel_copy;
} nearkv_cache_shape;

NEARKV_EXPORT nearkv_cache* nearkv_cache_create(const nearkv_cache_shape* shape, char* error,
                                                uint64_t error_size);
/* A copy that lives and grows on its own. */
NEARKV_EXPORT nearkv_cache* nearkv_cache_clone(const nearkv_cache* cache, char* error,
                                               uint64_t error_size);
NEARKV_EXPORT void nearkv_cache_free(nearkv_cache* cache);
/* Appended tokens. */
NEARKV_EXPORT int32_t nearkv_cache_tokens(const nearkv_cache* cache);

/* Appends `tokens` tokens to each of `count` caches: k and v are count x tokens x d_head, rounded
 * to FP16. The error names cache and token; the tokens before it stay appended. */
NEARKV_EXPORT int nearkv_caches_append(nearkv_cache* const* caches, int32_t count, int32_t tokens,
                                       const float* k, const float* v, char* error,
                                       uint64_t error_size);

/* -- Methods ----------------------------------------------------------------------------------- */

enum {
  NEARKV_DENSE = 0,
  NEARKV_SPARQ = 1,
  NEARKV_SPARF = 2,
  NEARKV_H2O = 3,
  NEARKV_STREAMING = 4,
  NEARKV_WINDOW = 5
};

/* Options that the kind does not have must be 0, so that a mix-up does not go unnoticed. */
typedef struct {
  int32_t kind;
  int32_t first_token;  /* dense */
  int32_t r;            /* SparQ, SparF */
  int32_t k;            /* SparQ, SparF */
  int32_t local_window; /* SparQ, SparF */
  int32_t heavy;        /* H2O */
  int32_t recent;       /* H2O */
  int32_t sinks;        /* StreamingLLM */
  int32_t window;       /* StreamingLLM, window */
} nearkv_method;

/* What H2O remembers of one KV head: after a prefill of `tokens` tokens, of which each has received
 * `mass`, the attention probability summed over the prefill's queries and the query heads of the
 * group. nearkv_attend steps it. */
typedef struct nearkv_h2o_history nearkv_h2o_history;

NEARKV_EXPORT nearkv_h2o_history* nearkv_h2o_create(int32_t heavy, int32_t recent,
                                                    const float* mass, int32_t tokens, char* error,
                                                    uint64_t error_size);
NEARKV_EXPORT void nearkv_h2o_free(nearkv_h2o_history* history);

/* -- Attention --------------------------------------------------------------------------------- */

/* Attention of `calls` caches at once, such as all KV heads of all sequences of a layer, each with
 * `heads` query heads that share it. A cache may be in it several times, at several contexts.
 * Pointers that are marked so may be null. */
typedef struct {
  int32_t calls;
  int32_t heads;
  const nearkv_cache* const* caches;    /* calls */
  const int32_t* contexts;              /* calls; null: all appended tokens */
  const float* queries;                 /* calls x heads x d_head, the same d_head in all caches */
  nearkv_h2o_history* const* histories; /* calls, all different; null for all methods but H2O */
  /* Results. */
  float* output;         /* calls x heads x d_head */
  float* alpha;          /* calls x heads; may be null */
  float* max;            /* calls x heads, AttentionState of the attended tokens; may be null */
  float* sum;            /* the same */
  int32_t* tokens;       /* calls x heads x token_space: the attended tokens, ascending, and -1
                            behind them; may be null */
  int32_t token_space;   /* at least the longest context where tokens is not null */
  int32_t* token_counts; /* calls x heads: attended tokens; may be null */
} nearkv_attention;

/* `threads`: at least 1; the results do not depend on it. */
NEARKV_EXPORT int nearkv_attend(const nearkv_attention* attention, const nearkv_method* method,
                                int32_t threads, char* error, uint64_t error_size);

#ifdef __cplusplus
}
#endif
