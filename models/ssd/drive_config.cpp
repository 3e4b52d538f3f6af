#include "models/ssd/drive_config.hpp"

#include <algorithm>

namespace nearkv {

using namespace std::chrono_literals;

void DriveControllerConfig::fields(FieldVisitor& v) {
  v.parameter("cores", cores, "embedded cores that run the firmware", {1, 64});
  v.constant("command_cost", command_cost,
             "firmware time of one read, write or other command of a block device",
             range_of(0_ps, 1s));
  v.constant("lookup_cost", lookup_cost,
             "firmware time of one look-up in the mapping table, one a page", range_of(0_ps, 1s));
  v.constant("completion_cost", completion_cost, "firmware time of one completion",
             range_of(0_ps, 1s));
  v.constant(
      "codeword", codeword,
      "data of one ECC codeword, the least that is read of a page (all of a smaller page); its "
      "part of the spare area comes with it",
      range_of(512_B, 64_KiB));
}

void DriveDramConfig::fields(FieldVisitor& v) {
  v.parameter("capacity", capacity, "DRAM of the drive", range_of(1_MiB, Bytes{1LL << 42}));
  v.constant("rate", rate, "rate into and out of the drive's DRAM; 0B/s: it takes no time",
             range_of(Rate{0}, 1'000'000_MBps));  // unit: a limit against slips, 1 TB/s
  v.parameter("read_data", read_data, "data of reads pass the DRAM too, not only those of writes");
}

void DriveConfig::fields(FieldVisitor& v) {
  v.group("flash", flash, "flash array of the drive");
  v.group("nvme", nvme, "NVMe front end: queue pairs, and how commands and completions travel");
  v.group("link", link,
          "the drive's end of its PCIe link, for replays; in a design point /pcie says what the "
          "link carries");
  v.group("controller", controller, "controller cores and firmware costs");
  v.group("dram", dram, "DRAM of the drive");
  v.group("ftl", ftl, "flash translation layer of the drive as a block device");
  v.require([this] { return geometry().is_addressable(); }, "flash",
            "has more pages than the FTL's 32-bit page numbers can name");
  v.require(
      [this] {
        const Bytes buffer = ftl.write_buffer.capacity;
        return buffer == Bytes{} || buffer >= flash.page_size;
      },
      "ftl", "the write buffer must hold at least one flash page, or be 0B: none");
  v.require(
      [this] {
        const Bytes table = ftl.mapping.ideal ? Bytes{} : ftl.mapping.cache_capacity;
        return ftl.write_buffer.capacity + table <= dram.capacity;
      },
      "dram", "must hold the FTL's write buffer and mapping cache");
}

FtlGeometry DriveConfig::geometry() const {
  return {.channels = flash.channels,
          .ways_per_channel = flash.chips_per_channel,
          .dies_per_way = flash.dies_per_chip,
          .planes_per_die = flash.planes_per_die,
          .blocks_per_plane = flash.blocks_per_plane,
          .pages_per_block = flash.pages_per_block};
}

Bytes DriveConfig::block_capacity() const {
  return flash.page_size * ftl.logical_pages(geometry());
}

Bytes DriveConfig::read_transfer(Bytes from, Bytes size) const {
  const Bytes codeword = controller.codeword;
  const Bytes first = codeword * (from / codeword);
  const Bytes end = codeword * ((from + size - Bytes{1}) / codeword + 1);
  const Bytes data = std::min(end, flash.page_size) - first;
  const std::int64_t spare =
      ceil_div(flash.spare_size.count() * data.count(), flash.page_size.count());
  return data + Bytes{spare};
}

}  // namespace nearkv
