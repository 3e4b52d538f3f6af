#include "models/kv/recorded_reads.hpp"

#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

using traces::KvTraceHeader;
using traces::KvTraceRecord;

constexpr const char* kTracePath = "system/kv_source/trace";

}  // namespace

RecordedReads::RecordedReads(const std::string& file, const Use& use) : file_(file) {
  traces::KvTraceReader reader(file);
  header_ = reader.header();
  check_fit(use);
  read(reader);
  check_contexts(use);
}

void RecordedReads::check_fit(const Use& use) const {
  if (header_.method != "sparf") {
    throw TraceMismatch(kTracePath, fmt::format("{} was recorded with the method {}; must be sparf",
                                                printable(file_), header_.method));
  }
  const auto require_equal = [&](const char* path, const char* text, auto is, auto recorded) {
    if (is != recorded) {
      throw TraceMismatch(
          path, fmt::format(fmt::runtime(text), is) +
                    fmt::format(", but {} was recorded with {}", printable(file_), recorded));
    }
  };
  const auto option = [this](const char* name) {
    const auto found = header_.options.find(name);
    if (found == header_.options.end()) {
      throw TraceMismatch(kTracePath, fmt::format("{} does not say its {} among the options in its "
                                                  "header; record it with nearkv record",
                                                  printable(file_), name));
    }
    return found->second;
  };
  require_equal("model/head_dim", "is {}", use.shape.d_head, header_.d_head);
  require_equal("model/kv_heads", "gives {} query heads that share a KV head",
                use.shape.queries_per_kv_head, header_.queries_per_kv_head);
  require_equal("csd/0/flash/page_size", "is {} bytes", use.geometry.page_bytes(),
                header_.page_size);
  require_equal("csd/0/layout/channels_per_group", "is {}", use.geometry.channels_per_group(),
                header_.channels_per_group);
  require_equal("system/sparsity/channels", "is {}", use.sparsity.channels,
                header_.estimate_channels);
  require_equal("system/sparsity/selected_share", "is {}", use.sparsity.selected_share,
                option("k_share"));
  require_equal("system/sparsity/local_window_share", "is {}", use.sparsity.local_window_share,
                option("local_window_share"));
}

void RecordedReads::read(traces::KvTraceReader& reader) {
  for (KvTraceRecord record; reader.next(record);) {
    Layer& layer = records_[record.context][record.layer];
    layer.push_back(std::exchange(record, {}));
  }
}

void RecordedReads::check_contexts(const Use& use) const {
  for (int context = use.first_context; context <= use.last_context; ++context) {
    if (context_for(context) == 0) {
      throw TraceMismatch(
          kTracePath,
          fmt::format("{} has {} contexts from {} to {}; the run needs {} to {}, and no recorded "
                      "one has as many full pages as {}: record with --contexts {}:{}",
                      printable(file_), records_.size(), records_.begin()->first,
                      records_.rbegin()->first, use.first_context, use.last_context, context,
                      use.first_context, use.last_context));
    }
  }
}

bool RecordedReads::serves(int recorded, int context) const {
  return header_.token_pages(recorded) == header_.token_pages(context) &&
         header_.channel_pages(recorded) == header_.channel_pages(context);
}

int RecordedReads::context_for(int context) const {
  const auto above = records_.lower_bound(context);  // or equal
  const bool has_above = above != records_.end() && serves(above->first, context);
  if (above != records_.begin()) {
    const int below = std::prev(above)->first;
    if (serves(below, context) && (!has_above || context - below <= above->first - context)) {
      return below;
    }
  }
  return has_above ? above->first : 0;
}

int RecordedReads::layers(int context) const {
  return static_cast<int>(records_.at(context_for(context)).size());
}

std::vector<HeadReads> RecordedReads::at(int context, int layer) const {
  const Layer& records = std::next(records_.at(context_for(context)).begin(), layer)->second;
  const HeadShape shape{header_.d_head, header_.queries_per_kv_head};
  std::vector<HeadReads> all;
  all.reserve(records.size());
  for (const KvTraceRecord& record : records) {
    HeadReads& reads =
        all.emplace_back(sparse_work(shape, {context, header_.estimate_channels, record.attended}));
    reads.channel_pages = record.channel_pages;
    reads.key_pages = record.key_pages;
    reads.value_pages = record.value_pages;
  }
  return all;
}

std::string origin_of(const std::string& trace) {
  const traces::KvTraceReader reader(trace);
  const KvTraceHeader& header = reader.header();
  return fmt::format("{} ({}, from {} with hash {}), as recorded in a trace with hash {}",
                     printable(header.model), printable(header.source_kind),
                     printable(header.source), printable(header.source_hash),
                     printable(reader.records_hash()));
}

}  // namespace nearkv
