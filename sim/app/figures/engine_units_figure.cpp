#include "sim/app/figures/engine_units_figure.hpp"

#include <utility>

#include <fmt/format.h>

#include "models/csd/csd.hpp"
#include "models/csd/csd_flash.hpp"
#include "models/kv/head_reads.hpp"
#include "sim/app/figures/design_points.hpp"
#include "sim/app/table.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

struct PublishedUnits {
  SimDuration gemv_latency{};
  FlopRate gemv_rate{};
  SimDuration softmax_latency{};
  FlopRate softmax_rate{};
  SimDuration filter_latency{};
  Rate filter_rate{};

  void fields(FieldVisitor& v) {
    v.constant("gemv_latency", gemv_latency, "a GeMV unit, one head, 16 tokens");
    v.constant("gemv_rate", gemv_rate, "its compute rate");
    v.constant("softmax_latency", softmax_latency, "a softmax unit");
    v.constant("softmax_rate", softmax_rate, "its compute rate");
    v.constant("filter_latency", filter_latency, "the filter of a channel controller");
    v.constant("filter_rate", filter_rate, "its rate");
  }
};

struct EngineUnitsConfig {
  FigureHeading heading;
  PublishedUnits published;
  json point;

  void fields(FieldVisitor& v) {
    heading.fields(v);
    v.group("published", published, "what the paper gives");
    v.object({"point", "a design point with a CSD"}, [](FieldVisitor& inner) {
      DesignPoint read;
      read.fields(inner);
    });
  }
};

/// What the drive did for one token group of one head, and what that was.
struct OneGroup {
  Csd::Work work;
  std::int64_t flops;
  int tokens;
};

OneGroup attend_one_group(const CsdConfig& config, const ModelShape& model) {
  const kernels::PageGeometry pages({.d_head = static_cast<int>(model.head_dim),
                                     .page_bytes = static_cast<int>(config.flash.page_size.count()),
                                     .channels_per_group = config.layout.channels_per_group});
  const HeadReads reads = dense_reads(pages, {.d_head = pages.d_head(), .queries_per_kv_head = 1},
                                      pages.tokens_per_group());
  auto batch = std::make_shared<AttendBatch>();
  batch->segments.push_back({1, {reads}});
  batch->seal();
  EventLoop loop;
  Csd csd(loop, config, "csd/0", {});
  Completion done;
  csd.submit_attend(SimTime{}, batch, done);
  while (!done.done() && loop.run(kNever)) {
    static_cast<void>(loop.take_finished());
  }
  check(done.done(), "a drive that does not finish its one command");
  return {csd.work(), reads.attention_flops.count(), pages.tokens_per_group()};
}

/// Time that a page takes longer because it passes a channel's filter.
SimDuration filter_time(const CsdConfig& config) {
  CsdFlash plain(config, "csd/0", 1);
  if (plain.is_event_driven()) {
    return plain.filtered(0, SimTime{}) - SimTime{};
  }
  CsdFlash filtering(config, "csd/0", 1);
  const CsdFlash::Stream keys = plain.stream({}, 0, KvStream::key_tokens);
  return filtering.read_filtered(SimTime{}, keys, 0) - plain.read(SimTime{}, keys, 0);
}

/// A unit figure of the paper and ours.
struct UnitRow {
  std::string unit;
  std::string quantity;
  std::string measure;  // "s"
  double paper;
  std::optional<double> ours;  // nothing where the model has no such number
  std::string of_what;
  bool is_comparable = true;  // false where the two are of different amounts

  [[nodiscard]] std::optional<double> difference() const {
    return ours && is_comparable ? std::optional(*ours / paper - 1) : std::nullopt;
  }
};

template <class AnyRate>
double rate(AnyRate of) {
  return static_cast<double>(of.per_second());
}

constexpr double kPercent = 100;

class EngineUnitsFigure final : public TableFigure {
 public:
  EngineUnitsFigure(ReadFigure<EngineUnitsConfig> read, const Suite& paper)
      : TableFigure(read.config.heading, paper, "", {}),
        config_(std::move(read.config)),
        point_(design_point_of(read.document.at("point"))) {
    if (point_.csd.empty()) {
      throw ConfigError(
          fmt::format("{}: /point/csd: is empty; the engine is a CSD's", heading().file.string()));
    }
  }

 protected:
  [[nodiscard]] FigureTable table(std::span<const RecordView> /*records*/) const override {
    using Cell = FigureTable::Cell;
    FigureTable table({{"unit"},
                       {"quantity"},
                       {"measure"},
                       {"paper"},
                       {"ours"},
                       {"relative_difference"},
                       {"of_what"}});
    for (const UnitRow& row : rows()) {
      table.row({row.unit, row.quantity, row.measure, row.paper,
                 row.ours ? Cell(*row.ours) : Cell(),
                 row.difference() ? Cell(*row.difference()) : Cell(), row.of_what});
    }
    return table;
  }

  [[nodiscard]] std::string text(std::span<const RecordView> /*records*/) const override {
    constexpr auto kRight = TextTable::Align::right;
    TextTable table(
        {{"unit"}, {""}, {"paper", kRight}, {"ours", kRight}, {"difference", kRight}, {"of what"}});
    for (const UnitRow& row : rows()) {
      table.row({row.unit, row.quantity, format_metric(row.paper, row.measure),
                 row.ours ? format_metric(*row.ours, row.measure) : "-",
                 row.difference() ? fmt::format("{:+.1f} %", *row.difference() * kPercent) : "",
                 row.of_what});
    }
    return table.text();
  }

  [[nodiscard]] std::vector<std::string> notes() const override {
    return {
        "rates and the softmax latency are the paper's, and configured in the CSD; the other "
        "numbers follow from them"};
  }

 private:
  [[nodiscard]] std::vector<UnitRow> rows() const {
    constexpr double kProducts = 2;  // not a constant: Q K and P V
    const CsdConfig& config = point_.csd.front();
    const OneGroup group = attend_one_group(config, point_.model);
    const double gemv = to_seconds(group.work.gemv_busy);
    const double softmax =
        to_seconds(group.work.computing) - gemv / config.engine.gemv_units_per_kernel;
    const double filter = to_seconds(filter_time(config));
    const auto page = static_cast<double>(config.flash.page_size.count());
    const PublishedUnits& paper = config_.published;
    return {{"GeMV", "latency", "s", to_seconds(paper.gemv_latency), gemv / kProducts,
             fmt::format("{} tokens of a head, one of the two products", group.tokens)},
            {"GeMV", "rate", "FLOP/s", rate(paper.gemv_rate),
             static_cast<double>(group.flops) / gemv, "one unit"},
            {"softmax", "latency", "s", to_seconds(paper.softmax_latency), softmax,
             "one head; heads follow each other in the unit"},
            {"softmax", "rate", "FLOP/s", rate(paper.softmax_rate), std::nullopt,
             "not modelled: softmax is a latency, pipelined over heads"},
            {"filter", "rate", "B/s", rate(paper.filter_rate), page / filter, "one flash channel"},
            {"filter", "latency", "s", to_seconds(paper.filter_latency), filter,
             fmt::format("a page of {} B; of how much the paper's is, it does not say",
                         config.flash.page_size.count()),
             false}};
  }

  EngineUnitsConfig config_;
  DesignPoint point_;
};

}  // namespace

std::unique_ptr<Figure> make_engine_units_figure(const std::filesystem::path& file,
                                                 const Suite& paper) {
  return std::make_unique<EngineUnitsFigure>(read_figure<EngineUnitsConfig>(file), paper);
}

}  // namespace nearkv
