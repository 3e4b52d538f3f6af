#include "sim/app/record_figures.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "sim/core/random.hpp"

namespace nearkv {

namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

double share(double part, double whole) { return whole > 0 ? part / whole : kNone; }

/// Ascending, without duplicates.
std::vector<int> union_of(const std::vector<kernels::HeadSelection>& heads,
                          std::vector<int> kernels::HeadSelection::*list) {
  std::vector<int> all;
  for (const kernels::HeadSelection& head : heads) {
    all.insert(all.end(), (head.*list).begin(), (head.*list).end());
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

/// Different values of number / divisor below an end; the numbers ascend.
int distinct_quotients(const std::vector<int>& numbers, int divisor, int end) {
  int count = 0;
  int last = -1;
  for (const int number : numbers) {
    const int quotient = number / divisor;
    if (quotient >= end) {
      break;
    }
    count += quotient != last ? 1 : 0;
    last = quotient;
  }
  return count;
}

double mass_kept(const kernels::AttentionState& kept, const kernels::AttentionState& all) {
  // e^x from the project's own function: equal on every machine.
  return std::min(1.0, kept.sum * portable_exp(double{kept.max} - double{all.max}) / all.sum);
}

double relative_error(std::span<const float> found, std::span<const float> exact) {
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    difference += (double{found[i]} - exact[i]) * (double{found[i]} - exact[i]);
    norm += double{exact[i]} * exact[i];
  }
  return share(std::sqrt(difference), std::sqrt(norm));
}

}  // namespace

RecordFigures figures_of(const kernels::PageGeometry& geometry, int context,
                         const kernels::AttentionResult& sparse,
                         const kernels::AttentionResult& dense) {
  RecordFigures figures;
  const std::size_t queries = dense.states.size();
  const std::size_t d_head = dense.output.size() / queries;
  const auto count = static_cast<double>(queries);
  for (std::size_t query = 0; query < queries; ++query) {
    figures.mass_kept += mass_kept(sparse.states[query], dense.states[query]) / count;
    figures.alpha += sparse.alpha[query] / count;
    figures.output_error +=
        relative_error(std::span(sparse.output).subspan(query * d_head, d_head),
                       std::span(dense.output).subspan(query * d_head, d_head)) /
        count;
  }
  const kernels::TouchedPages& touched = sparse.touched;
  const double channels = touched.distinct_channels;
  const double tokens = touched.distinct_tokens;
  const double token_groups = geometry.flushed_token_groups(context);
  const bool has_first_step = touched.distinct_channels > 0;
  figures.channel_share = has_first_step ? channels / geometry.d_head() : kNone;
  figures.channel_page_share = has_first_step ? share(static_cast<double>(touched.channel_k.size()),
                                                      geometry.flushed_channel_pages(context))
                                              : kNone;
  figures.token_share = tokens / context;
  figures.token_page_share = share(static_cast<double>(touched.token_k.size()), token_groups);
  figures.element_volume = channels / (2 * geometry.d_head()) + tokens / context;
  figures.page_volume = share(static_cast<double>(touched.total()), 2 * token_groups);
  return figures;
}

PageShares page_shares(const kernels::PageGeometry& geometry, int context,
                       const std::vector<kernels::HeadSelection>& heads) {
  const std::vector<int> channels = union_of(heads, &kernels::HeadSelection::channels);
  const std::vector<int> tokens = union_of(heads, &kernels::HeadSelection::tokens);
  const int groups = geometry.channel_groups();
  const int chunks = geometry.flushed_channel_chunks(context);
  const int token_groups = geometry.flushed_token_groups(context);
  const int channel_pages =
      distinct_quotients(channels, geometry.channels_per_group(), groups) * chunks;
  const int token_pages = distinct_quotients(tokens, geometry.tokens_per_group(), token_groups);
  return {channels.empty() ? kNone : share(channel_pages, groups * chunks),
          share(token_pages, token_groups),
          share(channel_pages + 2.0 * token_pages, 2.0 * token_groups)};
}

void GeometryFigures::add(const PageShares& shares) {
  channel_page_share.add(shares.channel_pages);
  token_page_share.add(shares.token_pages);
  page_volume.add(shares.volume);
}

void Spread::add(double value) {
  if (std::isnan(value)) {
    return;
  }
  least_ = count_ == 0 ? value : std::min(least_, value);
  most_ = count_ == 0 ? value : std::max(most_, value);
  ++count_;
  const double distance = value - mean_;
  mean_ += distance / static_cast<double>(count_);
  squares_ += distance * (value - mean_);
}

double Spread::mean() const { return count_ > 0 ? mean_ : kNone; }

double Spread::standard_deviation() const {
  return count_ > 0 ? std::sqrt(squares_ / static_cast<double>(count_)) : kNone;
}

const std::array<RecordFigure, kRecordFigures>& record_figures() {
  static constexpr std::array<RecordFigure, kRecordFigures> kAll{{
      {"mass_kept", "mass kept", "attention mass of the attended tokens, by dense attention",
       &RecordFigures::mass_kept},
      {"alpha", "alpha", "that mass as the method estimates it", &RecordFigures::alpha},
      {"output_error", "error", "distance of the output from that of dense attention",
       &RecordFigures::output_error},
      {"channel_share", "channels", "channels that score, of all", &RecordFigures::channel_share},
      {"channel_page_share", "their pages", "channel-indexed pages read, of all on flash",
       &RecordFigures::channel_page_share},
      {"token_share", "tokens", "attended tokens, of all", &RecordFigures::token_share},
      {"token_page_share", "their pages", "token-indexed pages read, of all on flash",
       &RecordFigures::token_page_share},
      {"element_volume", "elements", "elements read, of those of dense attention",
       &RecordFigures::element_volume},
      {"page_volume", "flash", "flash pages read, of those of dense attention",
       &RecordFigures::page_volume},
  }};
  return kAll;
}

void RecordSummary::add(const RecordFigures& values) {
  for (std::size_t i = 0; i < figures.size(); ++i) {
    figures[i].add(values.*record_figures()[i].value);
  }
}

void RecordSummary::add_means(const RecordSummary& other) {
  for (std::size_t i = 0; i < figures.size(); ++i) {
    figures[i].add(other.figures[i].mean());
  }
}

}  // namespace nearkv
