#include "kernels/methods.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

#include "kernels/requests.hpp"

namespace nearkv::kernels {

std::string_view name_of(const Method& method) {
  struct Names {
    std::string_view operator()(const DenseOptions&) const { return "dense"; }
    std::string_view operator()(const SparqOptions&) const { return "sparq"; }
    std::string_view operator()(const SparfOptions&) const { return "sparf"; }
    std::string_view operator()(const H2oOptions&) const { return "h2o"; }
    std::string_view operator()(const StreamingOptions&) const { return "streaming"; }
    std::string_view operator()(const WindowOptions&) const { return "window"; }
  };
  return std::visit(Names{}, method);
}

const SelectOptions* select_options(const Method& method) {
  if (const auto* sparq = std::get_if<SparqOptions>(&method)) return sparq;
  return std::get_if<SparfOptions>(&method);
}

H2oHistory::H2oHistory(const H2oOptions& options, std::span<const float> mass)
    : options_(options), context_(static_cast<int>(mass.size())) {
  check_options(options);
  for (std::size_t token = 0; token < mass.size(); ++token) {
    if (!(mass[token] >= 0.0F && std::isfinite(mass[token]))) {
      throw std::invalid_argument("h2o: mass of token " + std::to_string(token) + " is " +
                                  std::to_string(mass[token]) + "; must be finite and at least 0");
    }
  }
  // The heaviest of the tokens before the youngest; of equal ones the younger.
  const int before = std::max(0, context_ - options.recent);
  tokens_.resize(static_cast<std::size_t>(before));
  std::iota(tokens_.begin(), tokens_.end(), 0);
  std::stable_sort(tokens_.begin(), tokens_.end(), [&](int a, int b) {
    const float mass_a = mass[static_cast<std::size_t>(a)];
    const float mass_b = mass[static_cast<std::size_t>(b)];
    return mass_a > mass_b || (mass_a == mass_b && a > b);
  });
  tokens_.resize(static_cast<std::size_t>(std::min(before, options.heavy)));
  std::sort(tokens_.begin(), tokens_.end());
  for (int token = before; token < context_; ++token) {
    tokens_.push_back(token);
  }
  for (const int token : tokens_) {
    mass_.push_back(mass[static_cast<std::size_t>(token)]);
  }
}

void H2oHistory::step(std::span<const float> received) {
  if (received.size() != tokens_.size() + 1) {
    throw std::invalid_argument("h2o: a step has received mass for " +
                                std::to_string(received.size()) + " tokens; must be the " +
                                std::to_string(tokens_.size()) + " kept ones and the new one");
  }
  tokens_.push_back(context_++);
  mass_.push_back(0.0F);
  for (std::size_t i = 0; i < received.size(); ++i) {
    mass_[i] += received[i];
  }
  evict();
}

void H2oHistory::evict() {
  const auto budget = static_cast<std::size_t>(options_.heavy) + options_.recent;
  if (tokens_.size() <= budget) return;
  const auto first_recent =
      std::lower_bound(tokens_.begin(), tokens_.end(), context_ - options_.recent);
  const auto candidates = first_recent - tokens_.begin();
  const auto lightest = std::min_element(mass_.begin(), mass_.begin() + candidates);
  tokens_.erase(tokens_.begin() + (lightest - mass_.begin()));
  mass_.erase(lightest);
}

}  // namespace nearkv::kernels
