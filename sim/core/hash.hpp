// Hashes that are equal on every machine. Not for security.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace nearkv {

/// Folds `value` into `state` (the finaliser of SplitMix64); order matters.
[[nodiscard]] constexpr std::uint64_t mix_hash(std::uint64_t state, std::uint64_t value) {
  std::uint64_t x = state * 0x9e3779b97f4a7c15ULL + value + 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

/// XXH3 with 128 bits as 32 hexadecimal digits: names configs and results.
[[nodiscard]] std::string content_hash(std::string_view text);

/// The content_hash of text that comes in pieces.
class ContentHasher {
 public:
  ContentHasher();
  ~ContentHasher();
  ContentHasher(const ContentHasher&) = delete;
  ContentHasher& operator=(const ContentHasher&) = delete;

  void add(std::string_view text);
  /// Of all that was added so far.
  [[nodiscard]] std::string hash() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nearkv
