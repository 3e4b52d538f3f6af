#include "kernels/kv_pages.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "kernels/half.hpp"
#include "kernels/size.hpp"

namespace nearkv::kernels {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the page image is the memory image of its halves: little-endian");

/// Rounds one row; throws if a value is not finite as a half.
void round_row(const char* name, std::span<const float> row, int d_head, int token,
               std::vector<std::uint16_t>& rounded) {
  if (row.size() != size(d_head)) {
    throw std::invalid_argument(std::string("KvPages: token ") + std::to_string(token) + ": " +
                                name + " has " + std::to_string(row.size()) +
                                " values; must be d_head, which is " + std::to_string(d_head));
  }
  std::uint32_t not_finite = 0;
  for (std::size_t c = 0; c < row.size(); ++c) {
    const std::uint16_t half = float_to_half(row[c]);
    rounded[c] = half;
    // Exponent field all ones, and only then, carries into bit 15.
    not_finite |= (half & 0x7c00U) + 0x0400U;
  }
  if ((not_finite & 0x8000U) == 0) return;
  for (std::size_t c = 0; c < row.size(); ++c) {
    if ((rounded[c] & 0x7c00U) == 0x7c00U) {
      throw std::invalid_argument(std::string("KvPages: token ") + std::to_string(token) +
                                  ", channel " + std::to_string(c) + ": " + name + " is " +
                                  std::to_string(row[c]) +
                                  "; must be finite and below 65520 to be stored in FP16");
    }
  }
}

}  // namespace

KvPages::KvPages(const PageGeometry& geometry, KeyCopies copies)
    : geometry_(geometry),
      copies_(copies),
      v_sum_(size(geometry.d_head()), 0.0),
      rounded_k_(size(geometry.d_head())),
      rounded_v_(size(geometry.d_head())) {}

void KvPages::reserve(int tokens) {
  if (tokens < 1) return;
  const int last = tokens - 1;
  const std::size_t token_groups = size(last / geometry_.tokens_per_group() + 1);
  const std::size_t chunks = size(last / geometry_.tokens_per_channel_page() + 1);
  const std::size_t page = size(geometry_.page_elements());
  k_pages_.reserve(token_groups * page);
  v_pages_.reserve(token_groups * page);
  if (has_channel_copy()) {
    channel_pages_.reserve(chunks * size(geometry_.channel_groups()) * page);
  }
  v_sum_before_group_.reserve(token_groups * size(geometry_.d_head()));
}

void KvPages::add_pages_for_next_token() {
  const std::size_t page = size(geometry_.page_elements());
  if (tokens_ % geometry_.tokens_per_group() == 0) {
    k_pages_.resize(k_pages_.size() + page);
    v_pages_.resize(v_pages_.size() + page);
    v_sum_before_group_.insert(v_sum_before_group_.end(), v_sum_.begin(), v_sum_.end());
  }
  if (has_channel_copy() && tokens_ % geometry_.tokens_per_channel_page() == 0) {
    channel_pages_.resize(channel_pages_.size() + size(geometry_.channel_groups()) * page);
  }
}

void KvPages::append(std::span<const float> k, std::span<const float> v) {
  const int d_head = geometry_.d_head();
  round_row("K", k, d_head, tokens_, rounded_k_);
  round_row("V", v, d_head, tokens_, rounded_v_);
  add_pages_for_next_token();

  const std::size_t row_start = row_offset(tokens_);
  std::copy(rounded_k_.begin(), rounded_k_.end(), k_pages_.data() + row_start);
  std::copy(rounded_v_.begin(), rounded_v_.end(), v_pages_.data() + row_start);
  for (std::size_t c = 0; c < rounded_v_.size(); ++c) {
    v_sum_[c] += static_cast<double>(finite_half_to_float(rounded_v_[c]));
  }

  if (has_channel_copy()) add_to_channel_copy();
  ++tokens_;
}

void KvPages::add_to_channel_copy() {
  const int chunk_tokens = geometry_.tokens_per_channel_page();
  const std::size_t page = size(geometry_.page_elements());
  std::uint16_t* place =
      channel_pages_.data() + channel_offset(0, tokens_ / chunk_tokens) + tokens_ % chunk_tokens;
  const std::uint16_t* value = rounded_k_.data();
  for (int group = 0; group < geometry_.channel_groups(); ++group, place += page) {
    for (int c = 0; c < geometry_.channels_per_group(); ++c) {
      place[c * chunk_tokens] = *value++;
    }
  }
}

std::vector<float> KvPages::v_bar(int context) const {
  if (context < 1 || context > tokens_) {
    throw std::invalid_argument("KvPages: context is " + std::to_string(context) +
                                "; must be 1 to the " + std::to_string(tokens_) +
                                " appended tokens");
  }
  const std::size_t d_head = size(geometry_.d_head());
  // Sums at the start of each group are kept, so a prefix costs at most one group of additions; the
  // order of additions, and so every bit, is that of the running sum.
  const int group = context / geometry_.tokens_per_group();
  const std::size_t start = size(group) * d_head;
  const double* before =
      start < v_sum_before_group_.size() ? v_sum_before_group_.data() + start : v_sum_.data();
  std::vector<double> sum(before, before + d_head);
  for (int token = group * geometry_.tokens_per_group(); token < context; ++token) {
    const std::uint16_t* v = v_row(token);
    for (std::size_t c = 0; c < d_head; ++c) {
      sum[c] += static_cast<double>(finite_half_to_float(v[c]));
    }
  }
  std::vector<float> mean(d_head);
  for (std::size_t c = 0; c < d_head; ++c) {
    mean[c] = static_cast<float>(sum[c] / context);
  }
  return mean;
}

std::span<const std::byte> KvPages::token_page(const Halves& pages, int token_group) const {
  const std::size_t page = size(geometry_.page_elements());
  if (token_group < 0 || size(token_group) * page >= pages.size()) {
    throw std::invalid_argument("KvPages: token group " + std::to_string(token_group) +
                                " does not exist; there are " +
                                std::to_string(pages.size() / page));
  }
  return std::as_bytes(std::span(pages).subspan(size(token_group) * page, page));
}

std::span<const std::byte> KvPages::k_page(int token_group) const {
  return token_page(k_pages_, token_group);
}

std::span<const std::byte> KvPages::v_page(int token_group) const {
  return token_page(v_pages_, token_group);
}

std::span<const std::byte> KvPages::channel_page(int channel_group, int token_chunk) const {
  const std::size_t page = size(geometry_.page_elements());
  const std::size_t groups = size(geometry_.channel_groups());
  if (channel_group < 0 || size(channel_group) >= groups) {
    throw std::invalid_argument("KvPages: channel group " + std::to_string(channel_group) +
                                " does not exist; there are " + std::to_string(groups));
  }
  if (token_chunk < 0 || size(token_chunk) * groups * page >= channel_pages_.size()) {
    throw std::invalid_argument("KvPages: token chunk " + std::to_string(token_chunk) +
                                " does not exist; there are " +
                                std::to_string(channel_pages_.size() / (groups * page)));
  }
  const std::size_t start = (size(token_chunk) * groups + size(channel_group)) * page;
  return std::as_bytes(std::span(channel_pages_).subspan(start, page));
}

}  // namespace nearkv::kernels
