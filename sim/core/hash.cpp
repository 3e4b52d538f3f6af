#include "sim/core/hash.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

std::string digits(XXH128_hash_t hash) {
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace

std::string content_hash(std::string_view text) {
  return digits(XXH3_128bits(text.data(), text.size()));
}

struct ContentHasher::State {
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> xxh{XXH3_createState()};
};

ContentHasher::ContentHasher() : state_(std::make_unique<State>()) {
  check(state_->xxh != nullptr && XXH3_128bits_reset(state_->xxh.get()) == XXH_OK,
        "no memory for a hash");
}

ContentHasher::~ContentHasher() = default;

void ContentHasher::add(std::string_view text) {
  check(XXH3_128bits_update(state_->xxh.get(), text.data(), text.size()) == XXH_OK,
        "a hash was not updated");
}

std::string ContentHasher::hash() const { return digits(XXH3_128bits_digest(state_->xxh.get())); }

}  // namespace nearkv
