// Which rows a fit uses.
#include <algorithm>

#include <fmt/format.h>

#include "sim/app/fit/fit_problem.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

[[noreturn]] void refuse(const FitSpec& spec, const std::string& problem) {
  throw ConfigError(fmt::format("{}: {}", spec.file.string(), problem));
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& names) {
  const std::string nearest = nearest_name(word, names);
  return nearest.empty() ? fmt::format("there are: {}", fmt::join(names, ", "))
                         : fmt::format("did you mean \"{}\"?", nearest);
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

void FitProblem::choose_rows(const FitSpec& spec) {
  const auto add = [&](std::vector<FitRow>& rows, std::size_t suite, const Row& row) {
    rows.push_back({suite, row, spec.sigma.value_or(row.tolerance)});
  };
  std::vector<std::string> groups;  // of rows of role fit
  for (std::size_t s = 0; s < suites_.size(); ++s) {
    bool has_fit_rows = false;
    for (const Row& row : suites_[s].rows) {
      const bool is_chosen = spec.groups.empty() || contains(spec.groups, row.group);
      if (!row.reference.has_value()) {
        continue;  // a truth has no residual
      }
      if (row.role == RowRole::test) {
        if (is_chosen) {
          add(test_rows_, s, row);
        }
        continue;
      }
      has_fit_rows = true;
      groups.push_back(row.group);
      if (is_chosen && spec.rows.empty()) {
        add(rows_, s, row);
      }
    }
    if (!has_fit_rows) {
      refuse(spec, fmt::format("/suites/{}: {} has no row of role fit with a number; it is for "
                               "judging, not for fitting",
                               s, suites_[s].name));
    }
  }
  for (std::size_t i = 0; i < spec.groups.size(); ++i) {
    if (!contains(groups, spec.groups[i])) {
      std::sort(groups.begin(), groups.end());
      groups.erase(std::unique(groups.begin(), groups.end()), groups.end());
      refuse(spec, fmt::format("/groups/{}: no row of role fit is in the group {}; {}", i,
                               in_quotes(spec.groups[i]), did_you_mean(spec.groups[i], groups)));
    }
  }
  choose_named_rows(spec);
  check_rows(spec);
}

void FitProblem::choose_named_rows(const FitSpec& spec) {
  std::vector<std::string> fit_rows;
  for (const Suite& suite : suites_) {
    for (const Row& row : suite.rows) {
      if (row.role == RowRole::fit && row.reference) {
        fit_rows.push_back(row.id);
      }
    }
  }
  for (std::size_t i = 0; i < spec.rows.size(); ++i) {
    const std::string& id = spec.rows[i];
    const std::size_t known = rows_.size();
    for (std::size_t s = 0; s < suites_.size(); ++s) {
      for (const Row& row : suites_[s].rows) {
        if (row.id != id) {
          continue;
        }
        if (row.role == RowRole::test) {
          refuse(spec, fmt::format("/rows/{}: {} is a test row of {}; a test row never enters a "
                                   "fit. Rows of role fit are: {}",
                                   i, in_quotes(id), suites_[s].name, fmt::join(fit_rows, ", ")));
        }
        if (!row.reference) {
          refuse(spec, fmt::format("/rows/{}: {} is a truth; a fit needs rows with a number", i,
                                   in_quotes(id)));
        }
        rows_.push_back({s, row, spec.sigma.value_or(row.tolerance)});
      }
    }
    if (rows_.size() != known + 1) {
      refuse(spec, fmt::format("/rows/{}: {} {}; {}", i, in_quotes(id),
                               rows_.size() == known ? "is no row of these suites"
                                                     : "is a row of more than one suite",
                               rows_.size() == known ? did_you_mean(id, fit_rows)
                                                     : "name the suites in fits of their own"));
    }
  }
}

void FitProblem::check_rows(const FitSpec& spec) const {
  for (const FitRow& row : rows_) {
    const std::string where =
        fmt::format("{}: {}: row {}", spec.file.string(), suites_[row.suite].name, row.row.id);
    if (*row.row.reference <= 0) {
      throw ConfigError(
          fmt::format("{}: the reference is {:g}; a fit in logarithms needs one "
                      "above 0; name the other rows in \"rows\"",
                      where, *row.row.reference));
    }
    if (row.sigma <= 0) {
      throw ConfigError(
          fmt::format("{}: its tolerance is 0; say with \"sigma\" how far off rows may be", where));
    }
  }
}

}  // namespace nearkv
