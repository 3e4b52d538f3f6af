#include "sim/app/request_summary.hpp"

#include <string>

#include <doctest/doctest.h>

#include "sim/app/record_view.hpp"
#include "sim/core/record.hpp"

using namespace nearkv;

namespace {

RunRecord served_record() {
  RunRecord record;
  record.name = "served";
  record.fidelity = "sampled";
  record.config = {{"workload", {{"kind", "trace"}, {"file", "a.csv"}, {"requests", 1000}}}};
  Metrics& metrics = record.outcome.metrics;
  metrics.add("requests", 64, "1", "d");
  metrics.add("request_rate", 0.5, "request/s", "d");
  metrics.add("makespan", 128, "s", "d");
  metrics.add("ttft", 2, "s", "d");
  metrics.add("ttft/p50", 1.5, "s", "d");
  metrics.add("ttft/p99", 9, "s", "d");
  return record;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("request summary: the headline says what was served") {
  RunRecord record = served_record();
  CHECK(workload_text(RecordView(record.to_json("0"))) == "64 requests of a.csv");
  record.outcome.metrics = {};  // a run that did not come to an end
  CHECK(workload_text(RecordView(record.to_json("0"))) == "1000 requests of a.csv");
  record.config = {{"workload", {{"kind", "lengths"}, {"requests", 9}}}};
  CHECK(workload_text(RecordView(record.to_json("0"))) == "9 requests");
  record.config = {
      {"workload", {{"kind", "fixed"}, {"batch", 4}, {"prompt_tokens", 8}, {"output_tokens", 2}}}};
  CHECK(workload_text(RecordView(record.to_json("0"))) == "batch 4, 8 + 2 tokens");
}

TEST_CASE("request summary: times that there are, goodput where there are limits") {
  RunRecord record = served_record();
  std::string text = request_summary(RecordView(record.to_json("0")));
  INFO(text);
  CHECK(contains(text, "requests: 0.5000 request/s, all served in 128.0 s\n"));
  CHECK(contains(text, "to the first token  2.000 s  1.500 s    -    -  9.000 s\n"));
  CHECK_FALSE(contains(text, "a further token"));
  CHECK_FALSE(contains(text, "goodput"));
  record.outcome.metrics.add("requests_in_limits", 0.25, "1", "d");
  record.outcome.metrics.add("goodput", 0.125, "request/s", "d");
  record.outcome.metrics.add("goodput_tokens", 4, "token/s", "d");
  text = request_summary(RecordView(record.to_json("0")));
  CHECK(contains(text,
                 "goodput 0.1250 request/s (4.000 token/s), 25.0 % of the requests keep the "
                 "limits\n"));
  record.outcome.metrics = {};
  CHECK(request_summary(RecordView(record.to_json("0"))).empty());
}
