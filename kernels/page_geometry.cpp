#include "kernels/page_geometry.hpp"

#include <stdexcept>
#include <string>

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

}  // namespace nearkv::kernels
