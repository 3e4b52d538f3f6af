#include "sim/core/deadlock.hpp"

#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

using namespace nearkv;

namespace {

StuckActor waits(const std::string& name, const std::string& what,
                 std::vector<std::size_t> up_to = {}, bool is_held = true) {
  return {.name = name, .waits_for = what, .up_to = std::move(up_to), .is_held = is_held};
}

StuckActor ended(const std::string& name) { return {.name = name, .has_ended = true}; }

std::string text_of(const std::vector<StuckActor>& actors) {
  return describe_stuck(actors, "a job");
}

}  // namespace

TEST_CASE("deadlock: a chain is followed to its end, then come the others, idle ones last") {
  CHECK(text_of({waits("idle", "a job"), waits("alone", "a page"), waits("first", "x", {4}),
                 ended("gone"), waits("second", "y", {5}, /*is_held=*/false),
                 waits("third", "z", {3})}) ==
        "but first waits for x, held by second; second waits for y, which third is to finish; "
        "third waits for z, held by gone (ended); alone waits for a page; idle waits for a job");
}

TEST_CASE("deadlock: a cycle comes first, without the actors that lead to it") {
  CHECK(text_of({waits("leads", "x", {2}), waits("alone", "a page"), waits("a", "x", {3}),
                 waits("b", "y", {4}), waits("c", "z", {2})}) ==
        "in a cycle: a waits for x, held by b; b waits for y, held by c; c waits for z, held by a; "
        "besides, leads waits for x, held by a; alone waits for a page");
  CHECK(text_of({waits("a", "x", {0})}) == "in a cycle: a waits for x, held by itself");
}

TEST_CASE("deadlock: a cycle is found behind any of several holders") {
  CHECK(text_of({waits("a", "x", {1, 2}), waits("b", "a page"), waits("c", "z", {0})}) ==
        "in a cycle: a waits for x, held by b, c; c waits for z, held by a; besides, b waits for a "
        "page");
  // Two that meet again are none.
  CHECK(text_of({waits("a", "x", {1, 2}), waits("b", "y", {3}), waits("c", "z", {3}),
                 waits("d", "a page")}) ==
        "but a waits for x, held by b, c; b waits for y, held by d; d waits for a page; c waits "
        "for z, held by d");
}

TEST_CASE("deadlock: of many actors and holders the first are named") {
  std::vector<StuckActor> actors;
  for (int i = 0; i < 30; ++i) {
    actors.push_back(waits("a" + std::to_string(i), "a page"));
  }
  CHECK(text_of(actors).ends_with("; a19 waits for a page; and 10 more"));

  actors.push_back(waits("last", "x", {3, 1, 1, 2, 0, 4}));
  CHECK(text_of(actors).starts_with("but last waits for x, held by a0, a1, a2 and 2 more; a3"));
  CHECK(text_of(actors).ends_with("; a18 waits for a page; and 11 more"));

  actors.clear();
  for (std::size_t i = 0; i < 30; ++i) {
    actors.push_back(waits("a" + std::to_string(i), "x", {(i + 1) % 30}));
  }
  CHECK(text_of(actors).starts_with("in a cycle: a0 waits for x, held by a1; a1 "));
  CHECK(text_of(actors).ends_with("; a19 waits for x, held by a20; and 10 more"));
}
