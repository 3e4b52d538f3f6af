#include "traces/request_trace.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "sim/core/random.hpp"
#include "traces/request_writer.hpp"
#include "traces/test_files.hpp"
#include "validation/test_source_folder.hpp"

using namespace nearkv;
using namespace nearkv::traces;
using namespace std::chrono_literals;

namespace {

using Records = std::vector<RequestRecord>;

Records records_of(const std::string& file, const RequestTraceOptions& options = {},
                   RequestFormat* format = nullptr, std::int64_t* failed = nullptr) {
  RequestTraceReader reader(file, options);
  Records all;
  for (RequestRecord record; reader.next(record);) {
    all.push_back(record);
  }
  if (format != nullptr) {
    *format = reader.format();
  }
  if (failed != nullptr) {
    *failed = reader.failed();
  }
  return all;
}

Records read(const std::string& text, const RequestTraceOptions& options = {}) {
  return records_of(TemporaryFile(text).path(), options);
}

RequestFormat format_of(const std::string& text) {
  return RequestTraceReader(TemporaryFile(text).path(), {}).format();
}

std::string refusal(const std::string& text, const RequestTraceOptions& options = {}) {
  return refusal_of([&] { static_cast<void>(read(text, options)); });
}

const std::string kAzure = "arrived_at,num_prefill_tokens,num_decode_tokens\n";
const std::string kOriginal = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
const std::string kBurst = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n";
const std::string kArxiv = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n";

/// As numpy.percentile has it: linear between the two nearest.
double percentile(std::vector<int> values, double share) {
  std::ranges::sort(values);
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - std::floor(place)) * (values[above] - values[below]);
}

}  // namespace

TEST_CASE("request trace: each format is known by its first line") {
  CHECK(read(kAzure + "0.5,374,44\n4.314579,396,1\n") ==
        Records{{0s, 374, 44}, {3'814'579us, 396, 1}});
  CHECK(read(kOriginal + "2023-11-16 23:59:59.5,374,44\r\n2023-11-17 00:00:00.0000001,1,7\r\n") ==
        Records{{0s, 374, 44}, {500'000'100ns, 1, 7}});
  CHECK(read(kBurst + "5,ChatGPT,472,18,490,Conversation log\n\n45,GPT-4,7,3,10,API log") ==
        Records{{0s, 472, 18}, {40s, 7, 3}});
  CHECK(read(kArxiv + "3772,54,3826,69.85\n2015,156,2171,12.9\n") ==
        Records{{0s, 3772, 54}, {0s, 2015, 156}});
  CHECK(read("{\"timestamp\": 0, \"input_length\": 6755, \"output_length\": 500, \"hash_ids\": "
             "[0, 1, [2]]}\n"
             "{\"output_length\": 1, \"timestamp\": 27.25, \"input_length\": 2}\n") ==
        Records{{0s, 6755, 500}, {27'250us, 2, 1}});
  CHECK(format_of(kAzure + "0,1,1\n") == RequestFormat::azure);
  CHECK(format_of(kOriginal) == RequestFormat::azure_original);
  CHECK(format_of(kBurst) == RequestFormat::burstgpt);
  CHECK(format_of(kArxiv) == RequestFormat::arxiv);
  CHECK(format_of("\n {\"timestamp\": 0}") == RequestFormat::mooncake);
}

TEST_CASE("request trace: columns in any order, more of them, a byte order mark") {
  CHECK(read("\xef\xbb\xbfnum_decode_tokens, x ,arrived_at,num_prefill_tokens\n 7 ,,1e1,\t9\n") ==
        Records{{0s, 9, 7}});
  CHECK(read("Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total "
             "tokens,Log Type\n5,,0.1,GPT-4,3,4,7,API log\n") == Records{{0s, 3, 4}});
  // The arrivals of a trace are left out when it is read as one without.
  CHECK(read(kAzure + "7,1,2\n3,1,2\n", {.format = RequestFormat::arxiv}) ==
        Records{{0s, 1, 2}, {0s, 1, 2}});
}

TEST_CASE("request trace: requests that failed are left out and counted") {
  const TemporaryFile file(kBurst + "5,A,472,0,472,x\n6,A,0,0,0,x\n7,A,1,2,3,x\n9,A,0,5,5,x\n");
  std::int64_t failed = 0;
  CHECK(records_of(file.path(), {}, nullptr, &failed) == Records{{0s, 1, 2}});
  CHECK(failed == 3);
  CHECK(refusal(kBurst + "5,A,472,0,472,x\n") == "FILE: has no request but 1 that failed");
}

TEST_CASE("request trace: the first ones are skipped, arrivals are scaled") {
  const std::string text = kAzure + "1,10,1\n2,20,2\n2,30,3\n4.5,40,4\n";
  CHECK(read(text, {.first = 1}) == Records{{0s, 20, 2}, {0s, 30, 3}, {2500ms, 40, 4}});
  CHECK(read(text, {.first = 3}) == Records{{0s, 40, 4}});
  CHECK(read(text, {.time_scale = 0.5}).back().at == 1750ms);
  CHECK(read(text, {.time_scale = 0}).back().at == 0s);
  CHECK(refusal(text, {.first = 4}) ==
        "FILE: has 4 requests only, and all of them were to be skipped");
  // 61 days, as in BurstGPT's first file
  const std::string months = kBurst + "0,A,1,1,2,x\n5270400,A,1,1,2,x\n";
  CHECK(refusal(months) ==
        "FILE:3: Timestamp: is \"5270400\", more than 53 days after the first request; use fewer "
        "requests or a time scale");
  CHECK(read(months, {.time_scale = 0.5}).back().at == 2'635'200s);
  CHECK(read(months, {.first = 1}).size() == 1);
}

TEST_CASE("request trace: each mistake has its message") {
  CHECK(refusal("") == "FILE: the file is empty; a trace was expected");
  CHECK(refusal("\n \n") == "FILE: has no request");
  CHECK(refusal(kAzure) == "FILE: has no request");
  CHECK(refusal("time,tokens\n1,2\n") ==
        "FILE:1: is \"time,tokens\"; a request trace begins with the names of its columns: azure "
        "(arrived_at,num_prefill_tokens,num_decode_tokens), azure_original "
        "(TIMESTAMP,ContextTokens,GeneratedTokens), burstgpt (Timestamp,Request tokens,Response "
        "tokens), arxiv (num_prefill_tokens,num_decode_tokens), or JSON lines (mooncake: "
        "timestamp,input_length,output_length)");
  CHECK(refusal("arrived_at,num_prefill_tokens\n") ==
        "FILE:1: column \"num_decode_tokens\" is missing; azure has "
        "arrived_at,num_prefill_tokens,num_decode_tokens");
  CHECK(refusal("num_decode_tokens,x\n") ==
        "FILE:1: column \"num_prefill_tokens\" is missing; arxiv has "
        "num_prefill_tokens,num_decode_tokens");
  CHECK(refusal(kArxiv, {.format = RequestFormat::azure}) ==
        "FILE:1: column \"arrived_at\" is missing; azure has "
        "arrived_at,num_prefill_tokens,num_decode_tokens");
  CHECK(refusal("arrived_at,num_prefill_tokens,num_decode_tokens,arrived_at\n") ==
        "FILE:1: column \"arrived_at\" is there twice; keep one of the two");
  CHECK(refusal(kAzure + "0,1\n") == "FILE:2: has 2 columns; the header has 3");
  CHECK(refusal(kAzure + "0,1,2,3\n") == "FILE:2: has 4 columns; the header has 3");
  CHECK(refusal(kAzure + "0,1,1\n0,-5,1\n") ==
        "FILE:3: num_prefill_tokens: is \"-5\"; must be a whole number from 1 to 1048576");
  CHECK(refusal(kAzure + "0,5,0\n") ==
        "FILE:2: num_decode_tokens: is \"0\"; must be a whole number from 1 to 1048576");
  CHECK(refusal(kAzure + "0,5,1.5\n").starts_with("FILE:2: num_decode_tokens: is \"1.5\"; must"));
  CHECK(refusal(kAzure + "0,1048577,1\n").starts_with("FILE:2: num_prefill_tokens: is \"1048577"));
  CHECK(refusal(kAzure + "0,99999999999,1\n").starts_with("FILE:2: num_prefill_tokens: is \"9999"));
  CHECK(refusal(kAzure + "0,,1\n").starts_with("FILE:2: num_prefill_tokens: is \"\"; must be a"));
  CHECK(refusal(kBurst + "0,A,5,-1,4,x\n") ==
        "FILE:2: Response tokens: is \"-1\"; must be a whole number from 0 to 1048576");
  CHECK(refusal(kAzure + "-1,1,1\n") ==
        "FILE:2: arrived_at: is \"-1\"; must be a number of seconds >= 0, such as 12.5");
  CHECK(refusal(kOriginal + "12.5,1,1\n") ==
        "FILE:2: TIMESTAMP: is \"12.5\"; must be a date such as 2023-11-16 18:17:03.9799600");
  CHECK(refusal(kAzure + "4,1,1\n3.2,1,1\n") ==
        "FILE:3: arrived_at: is \"3.2\", before the \"4\" of an earlier request; must be in order "
        "of arrival");
  CHECK(refusal(kAzure + std::string(1 << 21, '1')) ==
        "FILE: line 2 has more than 1048576 bytes; a trace is text in short lines");
}

TEST_CASE("request trace: each mistake in JSON lines has its message") {
  const std::string good = "{\"timestamp\": 5, \"input_length\": 1, \"output_length\": 1}\n";
  CHECK(refusal(good + "{\"timestamp\": 6, \"input_length\": 1}\n") ==
        "FILE:2: output_length: is missing; a line has timestamp, input_length, output_length and "
        "hash_ids");
  CHECK(refusal(good + "{\"timestamp\": 6, \"input_length\": -3, \"output_length\": 1}\n") ==
        "FILE:2: input_length: is \"-3\"; must be a whole number from 1 to 1048576");
  CHECK(refusal(good + "{\"timestamp\": 6, \"input_length\": [3], \"output_length\": 1}\n")
            .starts_with("FILE:2: input_length: is "));
  CHECK(refusal(good + "{\"timestamp\": \"x\", \"input_length\": 3, \"output_length\": 1}\n") ==
        "FILE:2: timestamp: is \"no number\"; must be a number of milliseconds >= 0");
  CHECK(refusal(good + "{\"timestamp\": 4, \"input_length\": 3, \"output_length\": 1}\n") ==
        "FILE:2: timestamp: is \"4\", before the \"5\" of an earlier request; must be in order of "
        "arrival");
  CHECK(refusal(
            "{\"timestamp\": 4, \"timestamp\": 4, \"input_length\": 3, \"output_length\": 1}\n") ==
        "FILE:1: timestamp: is there twice; keep one of the two");
  for (const std::string bad : {"[1]", "{\"timestamp\": 5", "6,1,1", "{\"timestamp\": 1e999}"}) {
    CAPTURE(bad);
    CHECK(refusal(good + bad).starts_with("FILE:2: is \""));
  }
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100'000; ++i) {
    deep += "{\"a\":";
  }
  CHECK(refusal(good + deep).starts_with("FILE:2: is \""));
}

TEST_CASE("request trace: what is written reads back, compressed too") {
  Rng rng(11, "traces/request_trace_test");
  Records records;
  SimDuration at{};
  for (int i = 0; i < 500; ++i) {
    records.push_back({at, 1 + static_cast<int>(rng.below(kMostRequestTokens)),
                       1 + static_cast<int>(rng.below(2000))});
    at += std::chrono::nanoseconds{rng.below(3) == 0 ? 0 : rng.below(10'000'000'000)};
  }
  for (std::size_t i = 0; i < kRequestFormats.size(); ++i) {
    const auto format = static_cast<RequestFormat>(i);
    Records expected = records;
    if (!has_arrivals(format)) {
      std::ranges::for_each(expected, [](RequestRecord& record) { record.at = 0s; });
    }
    for (const std::string ending : {".trace", ".trace.gz"}) {
      CAPTURE(kRequestFormats[i]);
      CAPTURE(ending);
      const TemporaryFile file("", ending);
      RequestTraceWriter writer(file.path(), format);
      std::ranges::for_each(records, [&](const RequestRecord& record) { writer.add(record); });
      writer.finish();
      RequestFormat found{};
      CHECK(records_of(file.path(), {}, &found) == expected);
      CHECK(found == format);
      CHECK(file.text().starts_with("\x1f\x8b") == (ending == ".trace.gz"));
    }
  }
}

TEST_CASE("request trace: an unfinished file leaves nothing, a folder is no file") {
  const TemporaryFile file("before");
  {
    RequestTraceWriter writer(file.path(), RequestFormat::azure);
    writer.add({1s, 1, 1});
    CHECK_THROWS_AS(writer.add({999ms, 1, 1}), CheckFailure);
    CHECK_THROWS_AS(writer.add({1s, 0, 1}), CheckFailure);
  }
  CHECK(file.text() == "before");
  CHECK(refusal_of([] { RequestTraceWriter("/nowhere/a.csv", RequestFormat::azure); }) ==
        "/nowhere/a.csv: cannot be written (No such file or directory); name a file in a folder "
        "that is writable");
}

TEST_CASE("request trace: the fixtures hold the same requests in every format") {
  const std::string folder = source_folder() + "/traces/fixtures/small.";
  const Records azure = records_of(folder + "azure.csv");
  REQUIRE(azure.size() == 64);
  CHECK(azure.front() == RequestRecord{0s, 254, 123});
  CHECK(records_of(folder + "azure_original.csv") == azure);
  std::int64_t failed = 0;
  const Records burstgpt = records_of(folder + "burstgpt.csv", {}, nullptr, &failed);
  CHECK(failed == 4);
  const Records mooncake = records_of(folder + "mooncake.jsonl");
  const Records arxiv = records_of(folder + "arxiv.csv");
  REQUIRE((burstgpt.size() == 64 && mooncake.size() == 64 && arxiv.size() == 64));
  const auto cut = [](SimDuration at, SimDuration unit) { return at / unit * unit; };
  for (std::size_t i = 0; i < azure.size(); ++i) {
    const auto& [at, prompt, output] = azure[i];
    CHECK(arxiv[i] == RequestRecord{0s, prompt, output});
    CHECK(mooncake[i] == RequestRecord{cut(at, 1ms), prompt, output});
    CHECK(burstgpt[i] == RequestRecord{cut(at, 1s), prompt, output});
  }
}

// Counts and percentiles as published beside the files, which round them.
TEST_CASE("request trace: the real traces have the published lengths") {
  struct Known {
    std::string file;
    RequestFormat format;
    std::size_t count;
    std::array<double, 3> prompt;
    std::array<double, 3> output;
  };
  const std::vector<Known> known{
      {"azure_2023_conversation.csv",
       RequestFormat::azure,
       19'366,
       {1020, 2734, 4142},
       {129, 424, 601}},
      {"azure_2023_code.csv", RequestFormat::azure, 8'819, {1469, 5188, 7436}, {13, 55, 251}},
      {"arxiv_summarization.csv",
       RequestFormat::arxiv,
       28'257,
       {2730, 3702, 3933},
       {167, 372, 3271}},
      {"mooncake_conversation.jsonl.gz",
       RequestFormat::mooncake,
       12'031,
       {6909, 27'367, 85'400},
       {350, 597, 1119}},
  };
  constexpr std::array kShares{0.5, 0.9, 0.99};
  for (const Known& trace : known) {
    const std::string file = source_folder() + "/../shared/traces/" + trace.file;
    if (!std::filesystem::exists(file)) {
      MESSAGE("not here: ", trace.file);
      continue;
    }
    CAPTURE(trace.file);
    RequestFormat format{};
    const Records records = records_of(file, {}, &format);
    CHECK(format == trace.format);
    CHECK(records.size() == trace.count);
    CHECK(std::ranges::is_sorted(records, {}, &RequestRecord::at));
    std::vector<int> prompts;
    std::vector<int> outputs;
    for (const RequestRecord& record : records) {
      prompts.push_back(record.prompt_tokens);
      outputs.push_back(record.output_tokens);
    }
    for (std::size_t i = 0; i < kShares.size(); ++i) {
      CHECK(std::abs(percentile(prompts, kShares[i]) - trace.prompt[i]) <= 0.5);
      CHECK(std::abs(percentile(outputs, kShares[i]) - trace.output[i]) <= 0.5);
    }
  }
}
