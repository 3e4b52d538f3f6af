// A validation as data for the page of `nearkv report`.
#pragma once

#include <vector>

#include <nlohmann/json.hpp>

#include "sim/app/validation/report.hpp"

namespace nearkv {

/// {"suites": [{"name", "title", "source", "statistics", "requirements", "rows", "not_covered"}]}.
/// A row is as claim_as_json() has it, with "cells": what a table says of it, as in REPORT.md.
[[nodiscard]] nlohmann::json report_for_page(const std::vector<SuiteReport>& reports);

}  // namespace nearkv
