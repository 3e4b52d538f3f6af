#include "sim/app/figures/endurance_figure.hpp"

#include <cstdint>
#include <utility>

#include <fmt/format.h>

#include "sim/app/figures/design_points.hpp"
#include "sim/app/point.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

namespace {

/// A design point and how often it writes K.
struct EnduranceDesign : FigureSeries {
  int key_copies = 0;

  void fields(FieldVisitor& v) {
    FigureSeries::fields(v);
    v.parameter("key_copies", key_copies, "times that K is written: 2 with SparF's second copy",
                {1, 2});
  }
};

struct EnduranceConfig {
  FigureHeading heading;
  double endurance_factor = 0;
  std::int64_t tokens_per_user_and_day = 0;
  std::int64_t days_per_year = 0;
  std::vector<std::int64_t> years;
  std::string claims_about;
  std::vector<EnduranceDesign> points;

  void fields(FieldVisitor& v) {
    heading.fields(v);
    v.constant("endurance_factor", endurance_factor,
               "erase cycles of the drives' flash over those of /csd/0/kv_ftl/bad_blocks",
               at_least(1));
    v.constant("tokens_per_user_and_day", tokens_per_user_and_day, "tokens a user writes in a day",
               at_least(1));
    v.parameter("days_per_year", days_per_year, "days of a year", at_least(1));
    v.parameter("years", years, "lifetimes", at_least(1));
    v.parameter("claims_about", claims_about, "run of the paper's suite that is one of the points");
    v.list_of("points", points, "design points; their drives wear", at_least(1));
  }
};

double sum_over_drives(const RecordView& record, const std::string& prefix,
                       const std::string& ending) {
  double sum = 0;
  for (const Metric& metric : record.metrics_below(prefix)) {
    sum += metric.name.ends_with(ending) ? metric.value : 0;
  }
  return sum;
}

/// Bytes that all drives programmed over the tokens of the batch.
double programmed_a_token(const RecordView& record) {
  const json& workload = record.config().at("workload");
  const auto number = [&](const char* key) { return plain_value(workload.at(key)).get<double>(); };
  const std::string ending = "/flash/programmed";
  return (sum_over_drives(record, "prefill_traffic/csd/", ending) +
          sum_over_drives(record, "decode_traffic/csd/", ending)) /
         (number("batch") * (number("prompt_tokens") + number("output_tokens")));
}

class EnduranceFigure final : public TableFigure {
 public:
  EnduranceFigure(ReadFigure<EnduranceConfig> read, const Suite& paper)
      : TableFigure(read.config.heading, paper, read.config.claims_about,
                    named_points(read.config.points, read.document.at("points"))),
        config_(std::move(read.config)) {}

 protected:
  [[nodiscard]] FigureTable table(std::span<const RecordView> records) const override {
    FigureTable table(
        {{"design"}, {"counted"}, {"programmed_per_token", "B"}, {"tokens"}, {"years"}, {"users"}});
    for (std::size_t i = 0; i < records.size(); ++i) {
      const bool is_twice = config_.points[i].key_copies > 1;
      const std::optional<double> tokens = records[i].metric(
          is_twice ? "kv_ftl/csd/0/writable_tokens_with_copy" : "kv_ftl/csd/0/writable_tokens");
      if (!tokens) {
        throw ConfigError(fmt::format("{}: /points/{}: has no CSD that wears: {}",
                                      heading().file.string(), i, records[i].status()));
      }
      const double user = static_cast<double>(config_.tokens_per_user_and_day) *
                          static_cast<double>(config_.days_per_year);
      for (const std::int64_t years : config_.years) {
        const auto lifetime = static_cast<double>(years);
        table.row({config_.points[i].name,
                   std::string(is_twice ? "K twice, V once" : "K and V once"),
                   programmed_a_token(records[i]), *tokens, lifetime,
                   config_.endurance_factor * *tokens / (user * lifetime)});
      }
    }
    return table;
  }

  [[nodiscard]] std::vector<std::string> notes() const override {
    return {"tokens: until the flash of all drives is worn out, at the erase cycles of its config",
            fmt::format("users: with {} tokens a day each, and {:g} times these erase cycles",
                        config_.tokens_per_user_and_day, config_.endurance_factor),
            "programmed_per_token: what the run wrote; tokens that wait in buffers are not in it"};
  }

 private:
  EnduranceConfig config_;
};

}  // namespace

std::unique_ptr<Figure> make_endurance_figure(const std::filesystem::path& file,
                                              const Suite& paper) {
  return std::make_unique<EnduranceFigure>(read_figure<EnduranceConfig>(file), paper);
}

}  // namespace nearkv
