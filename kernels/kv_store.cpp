#include "kernels/kv_store.hpp"

#include <stdexcept>
#include <string>

#include "kernels/api.hpp"

namespace nearkv::kernels {
namespace {

struct Bound {
  const char* name;
  int value;
  int end;
};

void require_below(const Bound& bound) {
  if (bound.value < 0 || bound.value >= bound.end) {
    throw std::invalid_argument(std::string("KvStore: ") + bound.name + " is " +
                                std::to_string(bound.value) + "; must be 0 to " +
                                std::to_string(bound.end - 1));
  }
}

int checked_size(const char* name, int size) {
  if (size < 1) {
    throw std::invalid_argument(std::string("KvStore: ") + name + " is " + std::to_string(size) +
                                "; must be at least 1");
  }
  return size;
}

}  // namespace

KvStore::KvStore(const PageGeometry& geometry, const KvStoreShape& shape, KeyCopies copies)
    : geometry_(geometry), shape_(shape) {
  const auto heads = static_cast<std::size_t>(checked_size("sequences", shape.sequences)) *
                     static_cast<std::size_t>(checked_size("layers", shape.layers)) *
                     static_cast<std::size_t>(checked_size("kv_heads", shape.kv_heads));
  heads_.assign(heads, KvPages(geometry, copies));
}

void KvStore::reserve(int tokens) {
  for (KvPages& head : heads_) {
    head.reserve(tokens);
  }
}

std::size_t KvStore::index(const HeadPlace& place) const {
  require_below({"sequence", place.sequence, shape_.sequences});
  require_below({"layer", place.layer, shape_.layers});
  require_below({"kv_head", place.kv_head, shape_.kv_heads});
  const auto layer = static_cast<std::size_t>(place.sequence) * shape_.layers + place.layer;
  return layer * static_cast<std::size_t>(shape_.kv_heads) + place.kv_head;
}

std::vector<PagePlace> KvStore::append(const HeadPlace& head, std::span<const float> k,
                                       std::span<const float> v) {
  KvPages& pages = heads_[index(head)];
  pages.append(k, v);
  std::vector<PagePlace> filled;
  const int tokens = pages.tokens();
  if (tokens % geometry_.tokens_per_group() == 0) {
    const int group = tokens / geometry_.tokens_per_group() - 1;
    filled.push_back({head, PageStream::key_tokens, group});
    filled.push_back({head, PageStream::value_tokens, group});
  }
  if (pages.has_channel_copy() && tokens % geometry_.tokens_per_channel_page() == 0) {
    const int chunk = tokens / geometry_.tokens_per_channel_page() - 1;
    for (int group = 0; group < geometry_.channel_groups(); ++group) {
      filled.push_back(
          {head, PageStream::key_channels, chunk * geometry_.channel_groups() + group});
    }
  }
  return filled;
}

void KvStore::check_element(const HeadPlace& head, int token, int channel) const {
  require_below({"token", token, this->head(head).tokens()});
  require_below({"channel", channel, geometry_.d_head()});
}

ElementPlace KvStore::key(const HeadPlace& head, int token, int channel) const {
  check_element(head, token, channel);
  const int row = token % geometry_.tokens_per_group();
  return {{head, PageStream::key_tokens, token / geometry_.tokens_per_group()},
          row * geometry_.d_head() + channel};
}

ElementPlace KvStore::value(const HeadPlace& head, int token, int channel) const {
  ElementPlace place = key(head, token, channel);
  place.page.stream = PageStream::value_tokens;
  return place;
}

ElementPlace KvStore::channel_key(const HeadPlace& head, int channel, int token) const {
  check_element(head, token, channel);
  if (!this->head(head).has_channel_copy()) {
    throw std::invalid_argument("KvStore: there is no channel-indexed copy of K");
  }
  const int chunk_tokens = geometry_.tokens_per_channel_page();
  const int group = channel / geometry_.channels_per_group();
  return {
      {head, PageStream::key_channels, token / chunk_tokens * geometry_.channel_groups() + group},
      channel % geometry_.channels_per_group() * chunk_tokens + token % chunk_tokens};
}

bool KvStore::is_on_flash(const PagePlace& place) const {
  const KvPages& pages = head(place.head);
  if (place.page < 0) return false;
  if (place.stream == PageStream::key_channels) {
    return pages.has_channel_copy() && place.page < geometry_.flushed_channel_pages(pages.tokens());
  }
  return place.page < geometry_.flushed_token_groups(pages.tokens());
}

std::span<const std::byte> KvStore::bytes(const PagePlace& place) const {
  const KvPages& pages = head(place.head);
  switch (place.stream) {
    case PageStream::key_tokens:
      return pages.k_page(place.page);
    case PageStream::value_tokens:
      return pages.v_page(place.page);
    case PageStream::key_channels:
      break;
  }
  const int groups = geometry_.channel_groups();
  return place.page < 0 ? pages.channel_page(0, place.page)
                        : pages.channel_page(place.page % groups, place.page / groups);
}

std::int64_t KvStore::pages_on_flash() const {
  std::int64_t pages = 0;
  for (const KvPages& head : heads_) {
    pages += std::int64_t{2} * geometry_.flushed_token_groups(head.tokens());
    if (head.has_channel_copy()) pages += geometry_.flushed_channel_pages(head.tokens());
  }
  return pages;
}

std::int64_t KvStore::buffered_bytes() const {
  std::int64_t bytes = 0;
  for (const KvPages& head : heads_) {
    const std::int64_t row = std::int64_t{geometry_.d_head()} * PageGeometry::element_bytes;
    bytes += head.has_channel_copy() ? geometry_.buffered_bytes(head.tokens())
                                     : 2 * row * geometry_.buffered_tokens(head.tokens());
  }
  return bytes;
}

std::vector<PagePlace> KvStore::places(const HeadPlace& head, const TouchedPages& touched) {
  std::vector<PagePlace> places;
  places.reserve(touched.total());
  const auto add = [&](PageStream stream, const std::vector<std::uint32_t>& pages) {
    for (const std::uint32_t page : pages) {
      places.push_back({head, stream, static_cast<int>(page)});
    }
  };
  add(PageStream::key_tokens, touched.token_k);
  add(PageStream::value_tokens, touched.token_v);
  add(PageStream::key_channels, touched.channel_k);
  return places;
}

}  // namespace nearkv::kernels
