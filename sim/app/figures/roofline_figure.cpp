#include "sim/app/figures/roofline_figure.hpp"

#include <utility>

#include <fmt/format.h>

#include "models/gpu/gpu.hpp"
#include "models/llm/operators.hpp"
#include "sim/app/figures/design_points.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

struct RooflinePass {
  std::string name;
  SequenceBatch batch{};

  void fields(FieldVisitor& v) {
    v.parameter("name", name, "what it is called");
    v.parameter("sequences", batch.sequences, "batch size", {1, 1 << 20});
    v.parameter("new_tokens", batch.new_tokens, "of each sequence: 1 in decode", {1, 1 << 20});
    v.parameter("context", batch.context, "keys that the last new token sees, itself included",
                {1, 1 << 30});
    v.require(batch.context >= batch.new_tokens, "context", "must be at least new_tokens");
  }
};

struct RooflineConfig {
  FigureHeading heading;
  FlopRate published_engine_peak{};
  std::vector<RooflinePass> passes;
  std::vector<FigureSeries> points;

  void fields(FieldVisitor& v) {
    heading.fields(v);
    v.constant("published_engine_peak", published_engine_peak,
               "the most that an engine on the paper's FPGA could compute");
    v.list_of("passes", passes, "passes over a layer whose operators run on the GPU", at_least(1));
    v.list_of("points", points, "design points whose CSDs attend; the GPU is the first one's",
              at_least(1));
  }
};

/// A roof or an operator; nothing where it has no such number.
struct RooflineRow {
  std::string what;  // "roof" or "operator"
  std::string machine;
  std::string name;
  std::string pass{};
  std::optional<double> peak{};       // FLOP/s, of roofs
  std::optional<double> bandwidth{};  // B/s, likewise
  std::optional<double> flops{};      // of operators
  std::optional<double> bytes{};
  std::optional<double> achieved{};  // FLOP/s
};

double as_number(FlopRate rate) { return static_cast<double>(rate.per_second()); }
double as_number(Rate rate) { return static_cast<double>(rate.per_second()); }

double engine_peak(const CsdConfig& csd) {
  return as_number(csd.engine.gemv_rate) * csd.engine.attention_kernels *
         csd.engine.gemv_units_per_kernel;
}

class RooflineFigure final : public TableFigure {
 public:
  RooflineFigure(ReadFigure<RooflineConfig> read, const Suite& paper)
      : TableFigure(read.config.heading, paper, "",
                    named_points(read.config.points, read.document.at("points"))),
        config_(std::move(read.config)) {
    for (const NamedPoint& point : own_points()) {
      points_.push_back(design_point_of(point.config));
      if (points_.back().csd.empty()) {
        throw ConfigError(fmt::format("{}: /points/{}/point/csd: is empty; a CSD attends here",
                                      heading().file.string(), points_.size() - 1));
      }
    }
  }

 protected:
  [[nodiscard]] FigureTable table(std::span<const RecordView> records) const override {
    return as_table(rows(records));
  }

  [[nodiscard]] std::string text(std::span<const RecordView> records) const override {
    std::vector<RooflineRow> roofs;
    std::vector<RooflineRow> operators;
    for (RooflineRow& row : rows(records)) {
      std::vector<RooflineRow>& of_its_kind = row.what == "roof" ? roofs : operators;
      of_its_kind.push_back(std::move(row));
      of_its_kind.back().what.clear();  // the heading says it
    }
    return fmt::format(
        "roofs\n\n{}\noperators of a layer, and decode attention of a whole run\n\n{}",
        as_table(roofs).text(), as_table(operators).text());
  }

  [[nodiscard]] std::vector<std::string> notes() const override {
    return {"GPU: bytes when each operand passes once; attention as one kernel, KV in VRAM",
            "CSD: bytes read from flash; the time is that of commands, reads and engine",
            fmt::format("FPGA: an engine of at most {} would fit, by the paper",
                        format_short(config_.published_engine_peak))};
  }

 private:
  [[nodiscard]] static FigureTable as_table(const std::vector<RooflineRow>& rows) {
    using Cell = FigureTable::Cell;
    const auto cell = [](const std::optional<double>& number) {
      return number ? Cell(*number) : Cell();
    };
    FigureTable table({{"what"},
                       {"machine"},
                       {"name"},
                       {"pass"},
                       {"peak", "FLOP/s"},
                       {"bandwidth", "B/s"},
                       {"flops", "FLOP"},
                       {"bytes", "B"},
                       {"intensity", "FLOP/B"},
                       {"achieved", "FLOP/s"}});
    for (const RooflineRow& row : rows) {
      table.row({row.what.empty() ? Cell() : Cell(row.what), row.machine, row.name,
                 row.pass.empty() ? Cell() : Cell(row.pass), cell(row.peak), cell(row.bandwidth),
                 cell(row.flops), cell(row.bytes),
                 row.flops ? Cell(*row.flops / *row.bytes) : Cell(), cell(row.achieved)});
    }
    return table;
  }

  [[nodiscard]] std::vector<RooflineRow> rows(std::span<const RecordView> records) const {
    const CsdConfig& csd = points_.front().csd.front();
    std::vector<RooflineRow> rows{
        {.what = "roof",
         .machine = "GPU",
         .name = points_.front().gpu.front().name,
         .peak = as_number(points_.front().gpu.front().tensor_peak),
         .bandwidth = as_number(points_.front().gpu.front().memory_bandwidth)},
        {.what = "roof",
         .machine = "CSD",
         .name = "CSD",
         .peak = engine_peak(csd),
         .bandwidth = as_number(csd.flash.channel_rate()) * csd.flash.channels},
        {.what = "roof",
         .machine = "FPGA",
         .name = "engine at most",
         .peak = as_number(config_.published_engine_peak)}};
    add_gpu_operators(rows);
    for (std::size_t i = 0; i < records.size(); ++i) {
      rows.push_back(attention_in_csd(i, records[i]));
    }
    return rows;
  }

  void add_gpu_operators(std::vector<RooflineRow>& rows) const {
    const Gpu gpu(points_.front().gpu.front());
    for (const RooflinePass& pass : config_.passes) {
      for (const OperatorWork& work :
           layer_operators(points_.front().model, pass.batch, AttentionKernel::fused)) {
        if (work.flops.count() > 0) {
          const auto flops = static_cast<double>(work.flops.count());
          rows.push_back({.what = "operator",
                          .machine = "GPU",
                          .name = std::string(work.name),
                          .pass = pass.name,
                          .flops = flops,
                          .bytes = static_cast<double>(work.bytes.count()),
                          .achieved = flops / to_seconds(gpu.time_of(work))});
        }
      }
    }
  }

  /// Of the first drive; others do the same for their heads.
  [[nodiscard]] RooflineRow attention_in_csd(std::size_t point, const RecordView& record) const {
    const auto metric = [&](const char* name) {
      const std::optional<double> value = record.metric(name);
      if (!value) {
        throw ConfigError(fmt::format("{}: /points/{}: the run has no {} ({})",
                                      heading().file.string(), point, name, record.status()));
      }
      return *value;
    };
    const CsdConfig& csd = points_[point].csd.front();
    const double flops =
        metric("utilization/csd/0/gemv_units") * metric("decode_time") * engine_peak(csd);
    return {.what = "operator",
            .machine = "CSD",
            .name = own_points()[point].name,
            .pass = "decode",
            .flops = flops,
            .bytes = metric("decode_traffic/csd/0/flash/read"),
            .achieved = flops / metric("decode/phase/csd_attention")};
  }

  RooflineConfig config_;
  std::vector<DesignPoint> points_;
};

}  // namespace

std::unique_ptr<Figure> make_roofline_figure(const std::filesystem::path& file,
                                             const Suite& paper) {
  return std::make_unique<RooflineFigure>(read_figure<RooflineConfig>(file), paper);
}

}  // namespace nearkv
