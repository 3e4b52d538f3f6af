#include "sim/app/figure_config.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "models/llm/huggingface_config.hpp"
#include "models/systems/design_point.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

template <class T>
bool has_duplicates(std::vector<T> values) {
  std::sort(values.begin(), values.end());
  return std::adjacent_find(values.begin(), values.end()) != values.end();
}

std::vector<std::string> series_names(const FigureConfig& figure) {
  std::vector<std::string> names;
  for (const FigureSeries& series : figure.series) {
    names.push_back(series.name);
  }
  return names;
}

/// "1.4GB/s" becomes "1.4GB-s".
std::string file_name_part(std::string text) {
  std::replace_if(
      text.begin(), text.end(),
      [](char c) {
        return !is_file_name({&c, 1}) && c != '.';
      },
      '-');
  return text;
}

PreparedPoint point_at(const FigureConfig& figure, std::size_t series, const json& value) {
  const std::string at = axis_text(value);
  PreparedPoint point{
      .origin = fmt::format("{}, {}, {} {}", figure.name, figure.series[series].name,
                            figure.axis.name, at),
      .name = fmt::format("{}_{}_{}", figure.series[series].name, file_name_part(figure.axis.name),
                          file_name_part(at)),
      .config = figure.points[series],
  };
  try {
    set_existing(point.config, figure.axis.path, value, "/axis/path");
    check_point(point.config);
  } catch (const ConfigError& error) {
    throw ConfigError(prefix_lines(
        fmt::format("{}: /axis/values: {}", figure.file.string(), value.dump()), error.what()));
  }
  return point;
}

}  // namespace

void FigureAxis::fields(FieldVisitor& v) {
  v.parameter("path", path, "what is set along the axis: a path of the design points");
  v.parameter("name", name, "what the axis is called");
  v.parameter("unit", unit, "unit of its values");
  axis_field(v, "values", values, "values of the axis, in order");
  axis_field(v, "quick", quick, "those that --quick runs");
  v.require(!has_duplicates(values.texts()), "values", "has a value twice; name each once");
  v.require(!has_duplicates(quick.texts()), "quick", "has a value twice; name each once");
  for (const std::string& text : quick.texts()) {
    v.require(values.contains(text), "quick",
              fmt::format("{} is not among /axis/values; --quick runs a part of them", text));
  }
}

void FigureSeries::fields(FieldVisitor& v) {
  v.parameter("name", name, "name of the series in tables, files and claims");
  v.require(is_file_name(name), "name",
            fmt::format("\"{}\" names files; use letters, digits, '.', '_' and '-', and start "
                        "with a letter or digit",
                        name));
  v.object({"point", "the design point that the series runs along the axis"},
           [](FieldVisitor& inner) {
             DesignPoint point;
             point.fields(inner);
           });
}

void FigureHeading::fields(FieldVisitor& v) {
  v.parameter("title", title, "what the figure shows, in one line");
  v.parameter("source", source, "where the paper shows it");
}

void FigureQuantity::fields(FieldVisitor& v) {
  v.parameter("label", label, "what it is called");
  v.parameter("metric", metric, "the metric that it is taken from");
  v.one_of("of", of, {"run", "layer", "decode_time"},
           "run: the metric as it is; layer: divided by the model's layers; decode_time: times the "
           "decode time, of which the metric is a share");
}

void FigureConfig::fields(FieldVisitor& v) {
  FigureHeading::fields(v);
  auto chosen = static_cast<std::size_t>(kind);
  const FieldInfo info{"kind", "what the figure shows of its records"};
  v.variant(info, {kGridKinds.begin(), kGridKinds.end()}, chosen,
            [this](std::size_t which, FieldVisitor& inner) {
              if (static_cast<GridKind>(which) == GridKind::quantities) {
                inner.list_of("quantities", quantities, "the numbers of each point", at_least(1));
              }
            });
  kind = static_cast<GridKind>(chosen);
  v.parameter("metric", metric, "the metric whose intervals it shows; of a grid, its table's");
  v.group("axis", axis, "what changes along a series");
  v.list_of("series", series, "one design point each, run at every axis value");
  v.require(!series.empty(), "series", "is empty; must have at least one series");
  v.require(!has_duplicates(series_names(*this)), "series",
            "has two series of one name; names must differ");
}

std::vector<std::string> known_figures() {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(shipped_configs() / "figures", ignored)) {
    if (entry.path().extension() == ".json") {
      names.push_back(entry.path().stem().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

fs::path figure_file(const std::string& name, std::string_view also) {
  const std::vector<std::string> known = known_figures();
  if (std::find(known.begin(), known.end(), name) == known.end()) {
    const std::string nearest = nearest_name(name, known);
    throw ConfigError(fmt::format(
        "{}: unknown figure; {}{}", name,
        nearest.empty() ? "" : fmt::format("did you mean \"{}\"? ", nearest),
        known.empty()
            ? fmt::format("there are none in {}", (shipped_configs() / "figures").string())
            : fmt::format("there are: {}{}", fmt::join(known, ", "), also)));
  }
  return shipped_configs() / "figures" / (name + ".json");
}

json load_figure_document(const fs::path& file) { return load_config(file, translate_huggingface); }

FigureHeading load_heading(const fs::path& file) {
  const json document = load_figure_document(file);
  FigureHeading heading{.file = file, .name = file.stem().string(), .title = {}, .source = {}};
  for (auto [key, text] : {std::pair{"title", &heading.title}, {"source", &heading.source}}) {
    if (!document.is_object() || !document.contains(key) || !document.at(key).is_string()) {
      throw ConfigError(
          fmt::format("{}: /{}: missing; a figure has a text there", file.string(), key));
    }
    *text = document.at(key).get<std::string>();
  }
  return heading;
}

FigureConfig load_figure(const fs::path& file) {
  FigureConfig figure;
  figure.file = file;
  figure.name = file.stem().string();
  const json document = load_figure_document(file);
  try {
    read_fields(with_axis_values_as_text(document),
                [&figure](FieldVisitor& v) { figure.fields(v); });
  } catch (const ConfigError& error) {
    throw ConfigError(prefix_lines(file.string(), error.what()));
  }
  for (const json& series : document.at("series")) {
    figure.points.push_back(series.at("point"));
  }
  return figure;
}

const AxisValues& axis_values(const FigureConfig& figure, bool quick) {
  return quick ? figure.axis.quick : figure.axis.values;
}

PreparedPoint figure_point(const FigureConfig& figure, const std::string& series,
                           const std::string& at) {
  const std::vector<std::string> names = series_names(figure);
  const auto chosen = std::find(names.begin(), names.end(), series);
  const auto value =
      std::find_if(figure.axis.values.values.begin(), figure.axis.values.values.end(),
                   [&at](const json& known) { return axis_text(known) == at; });
  check(chosen != names.end() && value != figure.axis.values.values.end(),
        "a figure is asked for a point that it does not have");
  return point_at(figure, static_cast<std::size_t>(chosen - names.begin()), *value);
}

std::vector<PreparedPoint> figure_points(const FigureConfig& figure, bool quick) {
  std::vector<PreparedPoint> points;
  for (std::size_t s = 0; s < figure.series.size(); ++s) {
    for (const json& value : axis_values(figure, quick).values) {
      points.push_back(point_at(figure, s, value));
    }
  }
  return points;
}

}  // namespace nearkv
