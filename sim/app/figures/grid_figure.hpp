// A figure whose points lie along an axis: kinds grid, quantities and shares.
#pragma once

#include <memory>
#include <vector>

#include "sim/app/figure_results.hpp"
#include "sim/app/figures/figure.hpp"

namespace nearkv {

class GridFigure final : public Figure {
 public:
  GridFigure(FigureConfig config, const Suite& paper);

  [[nodiscard]] std::vector<PreparedPoint> points(bool quick) const override;
  [[nodiscard]] std::optional<std::size_t> position(const PointName& point,
                                                    bool quick) const override;
  [[nodiscard]] bool is_whole(bool quick) const override;
  [[nodiscard]] FigureContent content(std::vector<RecordView> records, bool quick) const override;

 private:
  void check_quantities(const FigureResults& results) const;

  FigureConfig config_;
};

/// Throws ConfigError.
[[nodiscard]] std::unique_ptr<Figure> make_grid_figure(const std::filesystem::path& file,
                                                       const Suite& paper);

}  // namespace nearkv
