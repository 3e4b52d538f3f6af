#include "sim/app/uncertainty/constant_samples.hpp"

#include <algorithm>
#include <cctype>
#include <utility>

#include "sim/app/uncertainty/distributions.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

using nlohmann::json;

UncertainConstants uncertain_constants(const std::vector<ConstantUse>& constants) {
  UncertainConstants uncertain;
  for (const ConstantUse& use : constants) {
    if (use.source == "fit" || use.source == "assumed") {
      const bool varies = use.number.has_value() && use.number->interval.has_value();
      (varies ? uncertain.varied : uncertain.held).push_back(use);
    }
  }
  return uncertain;
}

std::string draw_name(const std::string& path) {
  std::string name;
  std::size_t start = 0;
  while (start < path.size()) {
    const std::size_t end = std::min(path.find('/', start + 1), path.size());
    const std::string part = path.substr(start + 1, end - start - 1);
    const bool is_index = !part.empty() && std::all_of(part.begin(), part.end(), [](char c) {
      return std::isdigit(static_cast<unsigned char>(c)) != 0;
    });
    name += "/" + (is_index ? "*" : part);
    start = end;
  }
  return name;
}

std::vector<ConstantSample> draw_samples(const json& config, const std::vector<ConstantUse>& varied,
                                         const SampleOptions& options) {
  const auto count = static_cast<std::size_t>(options.count);
  std::vector<ConstantSample> samples(count, {{}, config});
  for (const ConstantUse& use : varied) {
    const std::vector<double> probabilities =
        stratified_probabilities(options.seed, "samples" + draw_name(use.path), count);
    const json::json_pointer place(use.path);
    for (std::size_t i = 0; i < count; ++i) {
      const json written =
          number_as_json(use.number->type, quantile_of(*use.number, probabilities[i]));
      samples[i].values.push_back(number_from_json(use.number->type, written));
      json& constant = samples[i].config.at(place);
      constant["value"] = written;
      constant.erase("interval");  // a sample may lie outside
    }
  }
  return samples;
}

}  // namespace nearkv
