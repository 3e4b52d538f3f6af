// A figure without an axis: it makes one table of its config and of the records of some points.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "sim/app/figures/figure.hpp"
#include "sim/app/figures/figure_table.hpp"

namespace nearkv {

/// A design point of such a figure.
struct NamedPoint {
  std::string name;
  nlohmann::json config;  // resolved
};

/// Points that its claims are about run behind its own: those that the paper's suite has.
class TableFigure : public Figure {
 public:
  /// `run` is the suite's run whose claims the figure shows; empty when there are none. Throws
  /// ConfigError for points that are not valid.
  TableFigure(const FigureHeading& heading, const Suite& paper, const std::string& run,
              std::vector<NamedPoint> points);

  [[nodiscard]] std::vector<PreparedPoint> points(bool quick) const final;
  [[nodiscard]] std::optional<std::size_t> position(const PointName& point, bool quick) const final;
  [[nodiscard]] bool is_whole(bool quick) const final;
  [[nodiscard]] FigureContent content(std::vector<RecordView> records, bool quick) const final;

 protected:
  [[nodiscard]] const std::vector<NamedPoint>& own_points() const { return own_points_; }
  /// Of the CSV. `records` are those of own_points(), in their order.
  [[nodiscard]] virtual FigureTable table(std::span<const RecordView> records) const = 0;
  /// For terminals.
  [[nodiscard]] virtual std::string text(std::span<const RecordView> records) const {
    return table(records).text();
  }
  /// What a reader must know, a line each; long ones are wrapped.
  [[nodiscard]] virtual std::vector<std::string> notes() const { return {}; }

 private:
  std::vector<NamedPoint> own_points_;
  std::vector<PreparedPoint> points_;
  std::vector<PointName> claimed_;  // behind the own ones
};

/// A figure's config and the document that it was read of.
template <class Config>
struct ReadFigure {
  Config config;
  nlohmann::json document;
};

void read_figure_fields(const std::filesystem::path& file, nlohmann::json document,
                        const FieldLister& fields);

/// Reads a figure whose kind is known; `Config` has a heading and fields(). Throws ConfigError
/// whose lines start with the file.
template <class Config>
[[nodiscard]] ReadFigure<Config> read_figure(const std::filesystem::path& file) {
  ReadFigure<Config> read{{}, load_figure_document(file)};
  read.config.heading = load_heading(file);
  read_figure_fields(file, read.document, [&read](FieldVisitor& v) { read.config.fields(v); });
  return read;
}

}  // namespace nearkv
