#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernels/api.hpp"

namespace nearkv::kernels {
namespace {

void require_at_least_one(const char* name, int value) {
  if (value < 1) {
    throw std::invalid_argument(std::string("PageGeometry: ") + name + " is " +
                                std::to_string(value) + "; must be at least 1");
  }
}

int checked_context(int context) {
  if (context < 0) {
    throw std::invalid_argument("PageGeometry: context is " + std::to_string(context) +
                                "; must not be negative");
  }
  return context;
}

}  // namespace

PageGeometry::PageGeometry(const PageGeometrySpec& spec) : spec_(spec) {
  require_at_least_one("d_head", spec.d_head);
  require_at_least_one("page_bytes", spec.page_bytes);
  require_at_least_one("channels_per_group", spec.channels_per_group);
  if (spec.page_bytes % element_bytes != 0) {
    throw std::invalid_argument("PageGeometry: page_bytes is " + std::to_string(spec.page_bytes) +
                                "; must be even, an element is 2 bytes");
  }
  if (page_elements() < spec.d_head) {
    throw std::invalid_argument("PageGeometry: a page of " + std::to_string(spec.page_bytes) +
                                " bytes cannot hold one token of d_head " +
                                std::to_string(spec.d_head) + "; page_bytes must be at least " +
                                std::to_string(std::int64_t{spec.d_head} * element_bytes));
  }
  if (spec.d_head % spec.channels_per_group != 0) {
    throw std::invalid_argument("PageGeometry: channels_per_group is " +
                                std::to_string(spec.channels_per_group) +
                                "; must divide d_head, which is " + std::to_string(spec.d_head));
  }
}

int PageGeometry::flushed_token_groups(int context) const {
  return checked_context(context) / tokens_per_group();
}

int PageGeometry::buffered_tokens(int context) const {
  return checked_context(context) % tokens_per_group();
}

int PageGeometry::flushed_channel_chunks(int context) const {
  return checked_context(context) / tokens_per_channel_page();
}

int PageGeometry::buffered_channel_tokens(int context) const {
  return checked_context(context) % tokens_per_channel_page();
}

int PageGeometry::flushed_channel_pages(int context) const {
  return channel_groups() * flushed_channel_chunks(context);
}

std::int64_t PageGeometry::buffered_bytes(int context) const {
  const std::int64_t rows = 2 * buffered_tokens(context) + buffered_channel_tokens(context);
  return rows * spec_.d_head * element_bytes;
}

TouchedPages dense_pages(const PageGeometry& geometry, int context, const DenseOptions& options) {
  if (context < 1) {
    throw std::invalid_argument("attention: context is " + std::to_string(context) +
                                "; must be at least 1");
  }
  if (options.first_token < 0 || options.first_token >= context) {
    throw std::invalid_argument("attention: first_token is " + std::to_string(options.first_token) +
                                "; must be 0 to " + std::to_string(context - 1) +
                                ", below the context");
  }
  TouchedPages touched;
  touched.context = context;
  touched.pages_per_channel_group = geometry.flushed_channel_chunks(context);
  const int flushed = geometry.flushed_token_groups(context);
  for (int group = options.first_token / geometry.tokens_per_group(); group < flushed; ++group) {
    touched.token_k.push_back(static_cast<std::uint32_t>(group));
  }
  touched.token_v = touched.token_k;
  const int first_buffered = flushed * geometry.tokens_per_group();
  touched.buffered_tokens = context - std::max(first_buffered, options.first_token);
  return touched;
}

}  // namespace nearkv::kernels
