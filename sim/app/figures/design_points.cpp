#include "sim/app/figures/design_points.hpp"

#include "sim/core/config.hpp"

namespace nearkv {

DesignPoint design_point_of(const nlohmann::json& config) {
  DesignPoint point;
  read_fields(config, [&point](FieldVisitor& v) { point.fields(v); });
  return point;
}

}  // namespace nearkv
