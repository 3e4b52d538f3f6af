// How the K and V of one head divide into flash pages.
//
// Layouts: InstInfer / InstAttention (arXiv 2409.04992, HPCA 2025), section on the dual KV layout.
#pragma once

#include <cstdint>

namespace nearkv::kernels {

struct PageGeometrySpec {
  int d_head;              ///< channels of one head
  int page_bytes;          ///< flash page
  int channels_per_group;  ///< channels that share a page of the channel-indexed K copy
};

/// Pages of 2-byte elements.
///
/// Token group: `tokens_per_group` = floor(page / (2 d_head)) consecutive tokens, one page for
/// their K rows and one for their V rows (16 tokens for 4 KiB and d_head 128). Channel group:
/// `channels_per_group` consecutive channels; one page holds `tokens_per_channel_page` =
/// floor(page / (2 channels_per_group)) consecutive tokens of them (256 for 8 channels, 1024 for
/// 2). Where a size does not divide the page (d_head 80: 25 rows of 160 bytes in 4096), elements
/// never straddle pages and the end of each page is zero padding.
///
/// Only full pages go to flash. Younger tokens wait in the CSD's DRAM: the last
/// context mod tokens_per_group tokens in the token group buffer, the last
/// context mod tokens_per_channel_page tokens in the channel group buffer. Kernels read both, but
/// only flushed pages count as flash reads.
class PageGeometry {
 public:
  /// Throws std::invalid_argument unless all are at least 1, the page is even and holds one row of
  /// d_head elements, and channels_per_group divides d_head.
  explicit PageGeometry(const PageGeometrySpec& spec);

  [[nodiscard]] int d_head() const { return spec_.d_head; }
  [[nodiscard]] int page_bytes() const { return spec_.page_bytes; }
  [[nodiscard]] int channels_per_group() const { return spec_.channels_per_group; }
  [[nodiscard]] int page_elements() const { return spec_.page_bytes / element_bytes; }
  [[nodiscard]] int tokens_per_group() const { return page_elements() / spec_.d_head; }
  [[nodiscard]] int channel_groups() const { return spec_.d_head / spec_.channels_per_group; }
  [[nodiscard]] int tokens_per_channel_page() const {
    return page_elements() / spec_.channels_per_group;
  }

  // Counts at a context of `context` tokens >= 0; std::invalid_argument if negative.

  /// Token groups on flash: so many K pages and as many V pages.
  [[nodiscard]] int flushed_token_groups(int context) const;
  /// Tokens at the end that are in the token group buffer only, 0 .. tokens_per_group - 1.
  [[nodiscard]] int buffered_tokens(int context) const;
  /// Token chunks of the channel-indexed copy on flash: so many pages for each channel group.
  [[nodiscard]] int flushed_channel_chunks(int context) const;
  /// Tokens at the end whose channel-indexed copy is in the channel group buffer only.
  [[nodiscard]] int buffered_channel_tokens(int context) const;
  /// All channel-indexed pages on flash: channel_groups x flushed_channel_chunks.
  [[nodiscard]] int flushed_channel_pages(int context) const;
  /// CSD DRAM that the buffered tokens of this KV head fill: K and V rows in the token group buffer
  /// and K again in the channel group buffer. A device may share the two K parts.
  [[nodiscard]] std::int64_t buffered_bytes(int context) const;

  static constexpr int element_bytes = 2;  // FP16

 private:
  PageGeometrySpec spec_;
};

}  // namespace nearkv::kernels
