#include "sim/app/validation/table_rows.hpp"

#include <array>
#include <utility>

#include <fmt/format.h>

#include "models/systems/design_point.hpp"
#include "sim/app/validation/framework_call.hpp"
#include "sim/core/allowed_paths.hpp"
#include "sim/core/check.hpp"
#include "sim/core/config.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

struct Reader {
  std::string_view kind;
  Table (*read)(const TableSpec&);
  bool has_point;
  bool has_framework;
};
constexpr std::array kReaders{Reader{"mqsim", read_mqsim_table, false, false},
                              Reader{"flexgen", read_flexgen_table, true, false},
                              Reader{"h200_micro", read_h200_micro_table, true, true}};

}  // namespace

TableSpec read_table_spec(const json& rows, const fs::path& folder, const std::string& other_file) {
  TableSpec spec;
  std::size_t chosen = 0;
  std::vector<std::string_view> kinds;
  for (const Reader& reader : kReaders) {
    kinds.push_back(reader.kind);
  }
  const auto fields = [&](FieldVisitor& v) {
    v.choice({"kind", "the reader of the table"}, kinds, chosen);
    v.parameter("file", spec.file, "the table, relative to the suite's folder");
    v.parameter("role", spec.role, "fit or test, of all rows; empty: the reader's rule");
    v.require(spec.role.empty() || spec.role == "fit" || spec.role == "test", "role",
              fmt::format("is {}; must be fit or test", in_quotes(spec.role)));
    if (kReaders[chosen].has_point) {
      v.object({"point", "the design point that rows change"}, [](FieldVisitor& inner) {
        DesignPoint point;
        point.fields(inner);
      });
    }
    if (kReaders[chosen].has_framework) {
      v.object({"framework", "constants of the framework that was measured"},
               framework_call_fields);
    }
  };
  json completed = rows;
  if (completed.is_object() && !completed.contains("role")) {
    completed["role"] = "";
  }
  read_fields(completed, fields);
  spec.kind = kinds[chosen];
  if (other_file.empty()) {
    const fs::path file = folder / spec.file;
    allowed_paths().check(file, spec.file, "/file");
    spec.file = file.string();
  } else {
    spec.file = other_file;  // the user named it
  }
  spec.point = rows.value("point", json());
  spec.framework = rows.value("framework", json());
  return spec;
}

Table read_table(const TableSpec& spec) {
  for (const Reader& reader : kReaders) {
    if (reader.kind == spec.kind) {
      return reader.read(spec);
    }
  }
  check(false, "a table of no kind");
  return {};
}

}  // namespace nearkv
