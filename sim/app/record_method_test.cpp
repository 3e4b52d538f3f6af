#include "sim/app/record_method.hpp"

#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <variant>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "sim/core/check.hpp"

using namespace nearkv;

namespace {

RecordMethodOptions options(const std::string& method, const std::string& ratio = "1/8") {
  return {.method = method,
          .ratio = ratio.empty() ? std::nullopt : std::optional(ratio),
          .r = {},
          .k_share = {},
          .window_share = {},
          .heavy_share = {},
          .sinks = {}};
}

std::string refusal(const RecordMethodOptions& wrong) {
  try {
    const RecordMethod method(wrong, 128);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("record method: at 1/8 SparF has the shipped parameters") {
  const RecordMethod method(options("sparf", ""), 128);
  CHECK(method.estimate_channels() == 16);
  CHECK(method.options() == std::map<std::string, double>{
                                {"r", 16}, {"k_share", 0.0625}, {"local_window_share", 0.25}});
  const auto sparf = std::get<kernels::SparfOptions>(method.at(1024, 1));
  CHECK(sparf.r == 16);
  CHECK(sparf.k == 64);
  CHECK(sparf.local_window == 16);
  CHECK(std::get<kernels::SparqOptions>(RecordMethod(options("sparq"), 128).at(1024, 1)).k == 64);
}

TEST_CASE("record method: the ratio is the share of elements that is moved") {
  constexpr int kContext = 6400;
  for (const int d_head : {64, 80, 96, 128}) {
    for (const auto& [text, ratio] : {std::pair{"1", 1.0},
                                      {"1/2", 0.5},
                                      {"0.3", 0.3},
                                      {"1/8", 0.125},
                                      {"1/16", 0.0625},
                                      {"1/32", 0.03125}}) {
      CAPTURE(d_head);
      CAPTURE(text);
      const RecordMethod sparf(options("sparf", text), d_head);
      const auto chosen = std::get<kernels::SparfOptions>(sparf.at(kContext, 1));
      const double moved =
          (kContext * chosen.r + 2.0 * chosen.k * d_head) / (2.0 * kContext * d_head);
      // k is a whole number of tokens.
      CHECK(std::abs(moved - ratio) <= 0.5 / kContext + 1e-12);
      CHECK(sparf.traffic() == doctest::Approx(ratio));
      CHECK(chosen.k >= 1);
      for (const std::string name : {"h2o", "streaming", "window"}) {
        const RecordMethod method(options(name, text), d_head);
        CHECK(method.traffic() == ratio);
        const kernels::Method at = method.at(kContext, kContext);
        const int tokens = name == "h2o" ? std::get<kernels::H2oOptions>(at).heavy +
                                               std::get<kernels::H2oOptions>(at).recent
                           : name == "window" ? std::get<kernels::WindowOptions>(at).window
                                              : std::get<kernels::StreamingOptions>(at).sinks +
                                                    std::get<kernels::StreamingOptions>(at).window;
        CHECK(tokens == std::lround(kContext * ratio));
      }
    }
  }
  // All channels, half of the tokens: as much as dense attention.
  const auto all =
      std::get<kernels::SparfOptions>(RecordMethod(options("sparf", "1"), 64).at(100, 1));
  CHECK(all.r == 64);
  CHECK(all.k == 50);
}

TEST_CASE("record method: H2O keeps what the first step gave it, the others grow") {
  const auto h2o = std::get<kernels::H2oOptions>(RecordMethod(options("h2o"), 128).at(2000, 1000));
  CHECK(h2o.heavy == 63);  // of 125
  CHECK(h2o.recent == 62);
  const auto streaming =
      std::get<kernels::StreamingOptions>(RecordMethod(options("streaming"), 128).at(2000, 1000));
  CHECK(streaming.sinks == 4);
  CHECK(streaming.window == 246);
  // Fewer tokens than sinks.
  CHECK(std::get<kernels::StreamingOptions>(RecordMethod(options("streaming"), 128).at(8, 8))
            .window == 1);
  CHECK(RecordMethod(options("dense", ""), 128).traffic() == 1);
}

TEST_CASE("record method: single parameters replace those of the ratio") {
  RecordMethodOptions given = options("sparf", "");
  given.r = 32;
  CHECK(refusal(given) ==
        "--ratio: is 0.125, but r = 32 of 128 channels alone move 0.125 of dense attention's "
        "elements; choose a larger ratio or a smaller --r");
  given.k_share = 0.125;
  given.window_share = 0;
  const auto sparf = std::get<kernels::SparfOptions>(RecordMethod(given, 128).at(1000, 1));
  CHECK(sparf.r == 32);
  CHECK(sparf.k == 125);
  CHECK(sparf.local_window == 0);
  RecordMethodOptions with_r = options("sparf");
  with_r.r = 8;  // moves 1/32, so that k may be 3/32 of S
  CHECK(std::get<kernels::SparfOptions>(RecordMethod(with_r, 128).at(3200, 1)).k == 300);
}

TEST_CASE("record method: wrong options are named") {
  CHECK(refusal(options("sparse")) ==
        "--method: is \"sparse\"; must be one of dense, sparq, sparf, h2o, streaming, window");
  for (const std::string ratio : {"0", "2", "1/0", "1/8/2", "x", "1/", "-1/8", "nan"}) {
    CHECK(refusal(options("window", ratio)) ==
          fmt::format("--ratio: is \"{}\"; must be above 0 and at most 1, such as 1/8 or 0.125",
                      ratio));
  }
  CHECK(refusal(options("dense")) ==
        "--ratio: is for all methods but dense; --method is \"dense\"");
  RecordMethodOptions other = options("h2o");
  other.r = 8;
  CHECK(refusal(other) == "--r: is for sparq and sparf; --method is \"h2o\"");
  other = options("sparf");
  other.sinks = 4;
  CHECK(refusal(other) == "--sinks: is for streaming; --method is \"sparf\"");
  other = options("h2o");
  other.heavy_share = 1;
  CHECK(refusal(other) == "--heavy-share: is 1; must be at least 0 and below 1");
  other = options("sparf");
  other.r = 129;
  CHECK(refusal(other) == "--r: is 129; must be 1 to the 128 channels of a head");
  other.r = 8;
  other.k_share = 0.1;
  CHECK(refusal(other) == "--ratio: follows from --r and --k-share; leave one of the three out");
  other.ratio.reset();
  other.k_share = 1.5;
  CHECK(refusal(other) == "--k-share: is 1.5; must be above 0 and at most 1");
}
