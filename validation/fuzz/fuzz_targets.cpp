#include "validation/fuzz/fuzz_targets.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "models/faults/fault_timeline.hpp"
#include "models/llm/huggingface_config.hpp"
#include "sim/app/expression/expression.hpp"
#include "sim/app/expression/value_expression.hpp"
#include "sim/app/point.hpp"
#include "sim/app/sweep/result_store.hpp"
#include "sim/app/sweep/sweep_plan.hpp"
#include "sim/app/validation/suite.hpp"
#include "sim/core/config.hpp"
#include "sim/core/test_folder.hpp"
#include "sim/core/units.hpp"
#include "traces/block_trace.hpp"
#include "traces/captured_kv.hpp"
#include "traces/fio_log.hpp"
#include "traces/kv_page_trace.hpp"
#include "traces/request_trace.hpp"
#include "traces/safetensors.hpp"

namespace nearkv {

namespace {

namespace fs = std::filesystem;

constexpr Bytes kCapacity = Bytes{std::int64_t{1} << 40};

/// The bytes as a file of this process.
fs::path file_of(std::string_view bytes, const std::string& name) {
  static const TestFolder folder;
  return folder.write(name, bytes);
}

/// Calls `work`; that it refuses is fine.
template <class Work>
void may_refuse(const Work& work) {
  try {
    work();
  } catch (const ConfigError&) {
  }
}

template <class Reader, class Record>
void read_all(Reader& reader, Record record) {
  while (reader.next(record)) {
  }
}

/// A parser of quantities and its inverse agree.
template <class Quantity>
void round_trip(Quantity (*parse)(std::string_view), std::string_view text) {
  Quantity value{};
  try {
    value = parse(text);
  } catch (const std::invalid_argument&) {
    return;  // what the parsers say of themselves; readers of configs make a ConfigError of it
  }
  check(parse(format_exact(value)) == value, "a quantity that changes when it is written");
}

void fuzz_quantity(std::string_view bytes) {
  round_trip(&parse_duration, bytes);
  round_trip(&parse_bytes, bytes);
  round_trip(&parse_rate, bytes);
  round_trip(&parse_flop_rate, bytes);
  round_trip(&parse_power, bytes);
  round_trip(&parse_energy, bytes);
}

void fuzz_design_point(std::string_view bytes) {
  const fs::path file = file_of(bytes, "point.json");
  may_refuse([&] { static_cast<void>(prepare_point(file, {})); });
}

/// Lines of "path=value" for a shipped point: what a JSON text would hardly ever come to.
void fuzz_overrides(std::string_view bytes) {
  std::vector<std::string> overrides;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t end = std::min(bytes.find('\n', at), bytes.size());
    overrides.emplace_back(bytes.substr(at, end - at));
    at = end + 1;
  }
  may_refuse([&] {
    static_cast<void>(
        prepare_point(path_of("nearkv:design_points/insti_sparf_opt13b_a6000.json"), overrides));
  });
}

void fuzz_sweep(std::string_view bytes) {
  const fs::path file = file_of(bytes, "sweep.json");
  may_refuse([&] {
    const SweepPlan plan(load_sweep(file));
    for (const std::size_t point : {std::size_t{0}, plan.size() / 2, plan.size() - 1}) {
      static_cast<void>(plan.config(point));
      static_cast<void>(plan.values(point));
    }
  });
}

void fuzz_block_trace(std::string_view bytes) {
  const fs::path file = file_of(bytes, "block.trace");
  may_refuse([&] {
    traces::BlockTraceOptions options;
    options.capacity = kCapacity;
    traces::BlockTraceReader reader(file.string(), options);
    read_all(reader, traces::BlockRecord{});
  });
}

void fuzz_fio_log(std::string_view bytes) {
  const fs::path file = file_of(bytes, "fio.log");
  may_refuse([&] {
    traces::BlockTraceOptions options;
    options.capacity = kCapacity;
    traces::FioLogReader reader(file.string(), options);
    read_all(reader, traces::BlockRecord{});
  });
}

void fuzz_fault_times(std::string_view bytes) {
  const fs::path file = file_of(bytes, "times.txt");
  may_refuse([&] { static_cast<void>(read_fault_times(file.string())); });
}

void fuzz_kv_page_trace(std::string_view bytes) {
  const fs::path file = file_of(bytes, "pages.kvtrace");
  may_refuse([&] {
    traces::KvTraceReader reader(file.string());
    read_all(reader, traces::KvTraceRecord{});
  });
}

void fuzz_safetensors(std::string_view bytes) {
  constexpr std::int64_t kMostElements = 1 << 16;
  const fs::path file = file_of(bytes, "kv.safetensors");
  may_refuse([&] {
    const traces::Safetensors tensors(file.string());
    for (const auto& [name, info] : tensors.tensors()) {
      may_refuse([&, &tensor = name, elements = info.elements] {
        static_cast<void>(tensors.read(tensor, 0, std::min(elements, kMostElements)));
      });
    }
  });
  may_refuse([&] { static_cast<void>(traces::CapturedKv(file.string())); });
}

void fuzz_requests(std::string_view bytes) {
  const fs::path file = file_of(bytes, "requests.txt");
  may_refuse([&] {
    traces::RequestTraceReader reader(file.string(), {});
    read_all(reader, traces::RequestRecord{});
  });
}

void fuzz_huggingface_config(std::string_view bytes) {
  const fs::path file = file_of(bytes, "config.json");
  may_refuse([&] {
    const HuggingFaceModel model = read_huggingface_config(load_json(file), file);
    static_cast<void>(shape_as_json(model.shape, origin_of(model, file)));
  });
}

void fuzz_expression(std::string_view bytes) {
  const std::string text(bytes);
  may_refuse([&] { static_cast<void>(evaluate_arithmetic(text)); });
  may_refuse([&] { static_cast<void>(Expression(text, {{"a", {}}, {"b", {{"c"}, {"d"}}}})); });
  may_refuse([&] {
    const std::vector<ValueName> names{{"a", false}, {"b", false}, {"system", true}};
    const ValueExpression expression(text, names);
    const std::vector<NamedValue> values{2.0, NamedValue(), std::string("insti_dense")};
    if (expression.is_truth()) {
      static_cast<void>(expression.holds(values));
    } else {
      static_cast<void>(expression.number(values));
    }
  });
}

void fuzz_result_store(std::string_view bytes) {
  const fs::path file = file_of(bytes, "journal.sqlite");
  may_refuse([&] {
    ResultStore store = ResultStore::to_read(file);
    static_cast<void>(store.note("sweep"));
    static_cast<void>(store.points());
    static_cast<void>(store.statuses());
    store.for_each([](std::size_t, const std::string&, const PointResult&) {});
  });
}

void fuzz_suite(std::string_view bytes) {
  const fs::path file = file_of(bytes, "suite.json");
  may_refuse([&] { static_cast<void>(load_suite(file)); });
}

}  // namespace

const std::map<std::string, FuzzTarget>& fuzz_targets() {
  static const std::map<std::string, FuzzTarget> targets{
      {"quantity", fuzz_quantity},
      {"design_point", fuzz_design_point},
      {"overrides", fuzz_overrides},
      {"sweep", fuzz_sweep},
      {"block_trace", fuzz_block_trace},
      {"fio_log", fuzz_fio_log},
      {"fault_times", fuzz_fault_times},
      {"kv_page_trace", fuzz_kv_page_trace},
      {"safetensors", fuzz_safetensors},
      {"requests", fuzz_requests},
      {"huggingface_config", fuzz_huggingface_config},
      {"expression", fuzz_expression},
      {"result_store", fuzz_result_store},
      {"suite", fuzz_suite},
  };
  return targets;
}

}  // namespace nearkv
