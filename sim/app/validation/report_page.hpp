// A validation as data for the page of `nearkv report`.
#pragma once

#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/validation/report.hpp"

namespace nearkv {

/// {"suites": [{"name", "title", "source", "statistics", "requirements", "rows", "not_covered"}]}.
/// Rows have numbers for charts and "cells": what a table says of them, as in REPORT.md.
[[nodiscard]] nlohmann::json report_for_page(const std::vector<SuiteReport>& reports);

}  // namespace nearkv
