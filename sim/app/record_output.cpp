#include "sim/app/record_output.hpp"

#include <cmath>
#include <vector>

#include <fmt/format.h>

#include "build_info.hpp"
#include "sim/app/table.hpp"
#include "sim/core/units.hpp"

namespace nearkv {

namespace {

using nlohmann::json;
using Align = TextTable::Align;

constexpr int kDigits = 3;

std::string number_text(double value) {
  return std::isnan(value) ? "-" : format_significant(value, kDigits);
}

std::vector<std::string> row_of(std::string name, const RecordSummary& summary,
                                double (Spread::*what)() const) {
  std::vector<std::string> cells{std::move(name)};
  for (const Spread& figure : summary.figures) {
    cells.push_back(figure.count() == 0 ? "-" : number_text((figure.*what)()));
  }
  return cells;
}

std::string figures_table(const RecordResult& result) {
  std::vector<TextTable::Column> columns{{"layer", Align::left}};
  for (const RecordFigure& figure : record_figures()) {
    columns.push_back({figure.label, Align::right});
  }
  TextTable table(columns);
  for (std::size_t layer = 0; layer < result.layers.size(); ++layer) {
    table.row(row_of(fmt::format("{}", result.source.layers[layer]), result.layers[layer],
                     &Spread::mean));
  }
  table.row(row_of("mean", result.all, &Spread::mean));
  table.row(row_of("sd of heads", result.all, &Spread::standard_deviation));
  table.row(row_of("least", result.all, &Spread::least));
  table.row(row_of("most", result.all, &Spread::most));
  return table.text();
}

std::string geometry_table(const RecordResult& result) {
  TextTable table({{"page", Align::right},
                   {"tokens a page", Align::right},
                   {"channels a group", Align::right},
                   {"channel pages read", Align::right},
                   {"token pages read", Align::right},
                   {"flash", Align::right}});
  for (const GeometryFigures& figures : result.geometries) {
    const kernels::PageGeometry& geometry = figures.geometry;
    table.row(
        {format_exact(Bytes{geometry.page_bytes()}), fmt::format("{}", geometry.tokens_per_group()),
         fmt::format("{}", geometry.channels_per_group()),
         number_text(figures.channel_page_share.mean()),
         number_text(figures.token_page_share.mean()), number_text(figures.page_volume.mean())});
  }
  return table.text();
}

json json_of(double value) { return std::isnan(value) ? json() : json(value); }

json json_of(const Spread& spread) {
  if (spread.count() == 0) {
    return nullptr;
  }
  return {{"mean", json_of(spread.mean())},
          {"sd", json_of(spread.standard_deviation())},
          {"least", spread.least()},
          {"most", spread.most()}};
}

json json_of(const RecordSummary& summary) {
  json object = json::object();
  for (std::size_t i = 0; i < summary.figures.size(); ++i) {
    object[record_figures()[i].name] = json_of(summary.figures[i]);
  }
  return object;
}

json json_of(const kernels::PageGeometry& geometry) {
  return {{"page_size", geometry.page_bytes()},
          {"tokens_per_group", geometry.tokens_per_group()},
          {"channels_per_group", geometry.channels_per_group()},
          {"tokens_per_channel_page", geometry.tokens_per_channel_page()}};
}

json source_json(const RecordSourceInfo& source) {
  return {{"kind", source.kind},
          {"name", source.name},
          {"model", source.model},
          {"text", source.text},
          {"hash", source.hash},
          {"layers", source.layers},
          {"kv_heads", source.kv_heads},
          {"d_head", source.d_head},
          {"queries_per_kv_head", source.query_heads}};
}

}  // namespace

std::string record_summary(const RecordResult& result) {
  const RecordSourceInfo& source = result.source;
  const kernels::PageGeometry& geometry = result.geometry;
  const std::string text = source.text.empty() ? "" : ", text " + source.text;
  std::string summary =
      fmt::format("{}: {}{}; {} layers, {} KV heads of {} channels with {} query heads each\n",
                  source.name, source.model, text, source.layers.size(), source.kv_heads.size(),
                  source.d_head, source.query_heads);
  summary += fmt::format("{}: {} of dense attention's elements for each query head\n",
                         result.method.text(), number_text(result.method.traffic()));
  summary += fmt::format(
      "{} steps at contexts {} to {}; pages of {} hold {} tokens, or {} channels of {} tokens\n\n",
      result.contexts.size(), result.contexts.front(), result.contexts.back(),
      format_exact(Bytes{geometry.page_bytes()}), geometry.tokens_per_group(),
      geometry.channels_per_group(), geometry.tokens_per_channel_page());
  summary += figures_table(result);
  summary +=
      "\nQuery heads that share a KV head read its pages once: channels, tokens and pages are "
      "those\n"
      "of any of them. Elements and flash are shares of what dense attention reads. A dash: no "
      "page\n"
      "of the kind is full at these contexts.\n\nThe same selections on other pages\n\n";
  return summary + geometry_table(result);
}

json record_json(const RecordResult& result) {
  json heads = json::array();
  const std::size_t kv_heads = result.source.kv_heads.size();
  for (std::size_t i = 0; i < result.heads.size(); ++i) {
    heads.push_back({{"layer", result.source.layers[i / kv_heads]},
                     {"kv_head", result.source.kv_heads[i % kv_heads]},
                     {"over_steps", json_of(result.heads[i])}});
  }
  json layers = json::array();
  for (std::size_t i = 0; i < result.layers.size(); ++i) {
    layers.push_back(
        {{"layer", result.source.layers[i]}, {"over_heads", json_of(result.layers[i])}});
  }
  json geometries = json::array();
  for (const GeometryFigures& figures : result.geometries) {
    json object = json_of(figures.geometry);
    object["channel_page_share"] = json_of(figures.channel_page_share);
    object["token_page_share"] = json_of(figures.token_page_share);
    object["page_volume"] = json_of(figures.page_volume);
    geometries.push_back(object);
  }
  json docs = json::object();
  for (const RecordFigure& figure : record_figures()) {
    docs[figure.name] = figure.doc;
  }
  return {{"format", "nearkv-kv-recording"},
          {"version", 1},
          {"program", build_info::kVersion},
          {"source", source_json(result.source)},
          {"method",
           {{"name", result.method.name()},
            {"options", result.method.options()},
            {"traffic", result.method.traffic()}}},
          {"geometry", json_of(result.geometry)},
          {"contexts", result.contexts},
          {"figures", docs},
          {"heads", heads},
          {"layers", layers},
          {"over_heads", json_of(result.all)},
          {"geometries_over_steps", geometries}};
}

}  // namespace nearkv
