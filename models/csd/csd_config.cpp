#include "models/csd/csd_config.hpp"

#include <algorithm>

namespace nearkv {

using namespace std::chrono_literals;

void FeedConfig::fields(FieldVisitor& v) {
  auto chosen = static_cast<std::size_t>(kind);
  const FieldInfo info{
      "kind",
      "how pages come to the attention kernels: blocks of heads through a staging "
      "buffer in DRAM, or page by page through slots, which can hold up the flash"};
  v.variant(info, {"blocks", "pages"}, chosen, [this](std::size_t which, FieldVisitor& inner) {
    if (which == 0) {
      inner.parameter("heads_per_block", heads_per_block,
                      "heads whose pages are staged together before the engine computes",
                      {1, 1 << 20});
      inner.parameter("staging_buffers", staging_buffers,
                      "blocks in the staging memory: with 1 reading and computing alternate, with "
                      "2 or more they overlap",
                      {1, 16});
      return;
    }
    inner.parameter("key_buffers", key_buffers,
                    "slots for pages of K between the channels and the kernels", {1, 1 << 20});
    inner.parameter("value_buffers", value_buffers, "slots for pages of V", {1, 1 << 20});
    inner.parameter("heads_in_flight", heads_in_flight, "heads that the engine works on at a time",
                    {1, 1 << 20});
  });
  kind = static_cast<FeedKind>(chosen);
}

void AttentionEngineConfig::fields(FieldVisitor& v) {
  v.group("feed", feed, "how pages come from the flash channels to the attention kernels");
  v.constant("on_chip_memory", on_chip_memory,
             "memory of the engine for the page slots between channels and kernels",
             range_of(0_B, Bytes{1LL << 36}));
  v.constant("attend_cost", attend_cost, "firmware time of one attend command", range_of(0_ps, 1s));
  v.parameter("attention_kernels", attention_kernels, "attention kernels of the engine", {1, 64});
  v.parameter("gemv_units_per_kernel", gemv_units_per_kernel, "GeMV units of one attention kernel",
              {1, 1024});
  v.constant("gemv_rate", gemv_rate, "FP16 compute rate of one GeMV unit",
             range_of(FlopRate{1}, FlopRate{1'000'000'000'000'000}));
  v.constant("softmax_latency", softmax_latency,
             "time of one head's scores through a softmax unit; heads follow each other in it",
             range_of(0_ps, 1s));
  v.constant("filter_rate", filter_rate,
             "rate of the filter of one flash channel, which drops what was not selected",
             range_of(Rate{1}, 1'000'000_MBps));
  v.constant("argtopk_rate", argtopk_rate, "elements a second that the argtopk unit compares",
             {1, std::numeric_limits<double>::max()});
}

void CsdPowerConfig::fields(FieldVisitor& v) {
  v.constant("idle", idle,
             "power of a drive that has nothing to do, static power of the engine included",
             at_least(0));
  v.constant("engine", engine, "power that the attention engine adds while its kernels compute",
             at_least(0));
  v.constant("controller_core", controller_core, "power that each busy controller core adds",
             at_least(0));
  v.constant("flash_read", flash_read, "energy to read a flash page and bring it to the controller",
             at_least(0));
  v.constant("flash_program", flash_program, "energy to bring a page to the flash and program it",
             at_least(0));
}

void CsdConfig::fields(FieldVisitor& v) {
  v.parameter("count", count, "equal drives of this kind", {1, 64});
  DriveConfig::fields(v);
  v.group("layout", layout, "placement of the KV cache on the flash array");
  v.group("kv_ftl", kv_ftl, "flash translation layer of the KV cache");
  v.parameter("store_chunk", store_chunk,
              "size of the chunks in which prefill's KV arrives and is programmed",
              range_of(64_KiB, Bytes{1LL << 36}));
  v.group("engine", engine, "attention engine");
  v.group("power", power, "power states of a drive, and energies of its flash");
  v.constant("price_usd", price_usd, "purchase price of a drive in US dollars", at_least(0));
  v.require(store_chunk <= dram.capacity, "store_chunk", "must fit in dram/capacity");
  const auto fed_by_blocks = [this] { return engine.feed.kind == FeedKind::blocks; };
  v.require([&] { return fed_by_blocks() || flash.is_event_driven(); }, "engine",
            "feed pages needs the flash policy data_out_first or out_of_order, which know when "
            "each page leaves its channel");
  v.require(
      [&] {
        const std::int64_t slots =
            std::int64_t{engine.feed.key_buffers} + engine.feed.value_buffers;
        return fed_by_blocks() || flash.page_size * slots <= engine.on_chip_memory;
      },
      "engine", "the pages of key_buffers and value_buffers do not fit in on_chip_memory");
}

Bytes CsdConfig::staging_memory(std::int64_t head_pages, int pairs) const {
  if (engine.feed.kind == FeedKind::pages) {
    return Bytes{0};  // its slots are the engine's
  }
  const std::int64_t most = std::int64_t{engine.feed.heads_per_block} * engine.feed.staging_buffers;
  return flash.page_size * (head_pages * std::min<std::int64_t>(most, pairs));
}

}  // namespace nearkv
