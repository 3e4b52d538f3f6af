#include "traces/page_set_code.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <stdexcept>

#include <fmt/format.h>

namespace nearkv::traces {

namespace {

constexpr int kGroupBits = 7;
constexpr int kByteBits = 8;
constexpr std::uint8_t kMoreFollow = 1U << kGroupBits;
constexpr int kMostRice = 15;
constexpr std::uint8_t kRiceMask = 0x0f;
constexpr std::uint8_t kComplement = 0x10;
constexpr std::uint8_t kChanges = 0x20;

/// Pages of `before` that count at n pages.
std::vector<int> below(const std::vector<int>& before, int pages) {
  return {before.begin(), std::lower_bound(before.begin(), before.end(), pages)};
}

std::vector<int> difference_of(const std::vector<int>& a, const std::vector<int>& b) {
  std::vector<int> all;
  std::set_symmetric_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(all));
  return all;
}

std::vector<int> complement_of(const std::vector<int>& set, int pages) {
  std::vector<int> all;
  auto next = set.begin();
  for (int page = 0; page < pages; ++page) {
    if (next != set.end() && *next == page) {
      ++next;
    } else {
      all.push_back(page);
    }
  }
  return all;
}

/// A list of pages as it is written.
struct Coding {
  std::uint8_t control = 0;
  std::vector<int> list;
  std::int64_t bits = 0;
};

/// With the Rice parameter that needs the fewest bits, the smaller one of equals.
Coding best_coding(std::uint8_t flags, std::vector<int> list) {
  Coding best{flags, {}, std::numeric_limits<std::int64_t>::max()};
  for (int rice = 0; rice <= kMostRice; ++rice) {
    std::int64_t bits = static_cast<std::int64_t>(list.size()) * (rice + 1);
    int last = -1;
    for (const int page : list) {
      bits += (page - last - 1) >> rice;
      last = page;
    }
    if (bits < best.bits) {
      best.bits = bits;
      best.control = static_cast<std::uint8_t>(flags | rice);
    }
  }
  best.list = std::move(list);
  return best;
}

class BitWriter {
 public:
  explicit BitWriter(std::string& bytes) : bytes_(bytes) {}

  void bit(bool one) {
    if (used_ == 0) {
      bytes_ += '\0';
    }
    bytes_.back() = static_cast<char>(static_cast<std::uint8_t>(bytes_.back()) |
                                      (one ? 1U : 0U) << static_cast<unsigned>(used_));
    used_ = (used_ + 1) % kByteBits;
  }

 private:
  std::string& bytes_;
  int used_ = 0;  // bits of the last byte
};

class BitReader {
 public:
  explicit BitReader(ByteReader& bytes) : bytes_(bytes) {}

  bool bit() {
    if (used_ == 0) {
      byte_ = bytes_.byte();
    }
    const bool one = (byte_ >> used_ & 1U) != 0;
    used_ = (used_ + 1) % kByteBits;
    return one;
  }

 private:
  ByteReader& bytes_;
  std::uint8_t byte_ = 0;
  unsigned used_ = 0;  // bits of the byte
};

}  // namespace

void append_number(std::string& bytes, std::uint64_t value) {
  while (value >= kMoreFollow) {
    bytes += static_cast<char>(value | kMoreFollow);
    value >>= kGroupBits;
  }
  bytes += static_cast<char>(value);
}

void append_signed(std::string& bytes, std::int64_t value) {
  const auto twice = static_cast<std::uint64_t>(value) << 1U;
  append_number(bytes, value < 0 ? ~twice : twice);
}

std::uint8_t ByteReader::byte() {
  if (at_end()) {
    throw std::invalid_argument("it ends too early");
  }
  return static_cast<std::uint8_t>(bytes_[at_++]);
}

std::uint64_t ByteReader::number() {
  std::uint64_t value = 0;
  for (unsigned shift = 0;; shift += kGroupBits) {
    const std::uint64_t group = byte();
    const std::uint64_t bits = group & (kMoreFollow - 1U);
    if (shift >= std::numeric_limits<std::uint64_t>::digits || bits << shift >> shift != bits) {
      throw std::invalid_argument("a number has more than 64 bits");
    }
    value |= bits << shift;
    if (group < kMoreFollow) {
      return value;
    }
  }
}

std::int64_t ByteReader::signed_number() {
  const std::uint64_t twice = number();
  const auto half = static_cast<std::int64_t>(twice >> 1U);
  return (twice & 1U) != 0 ? ~half : half;
}

void append_page_set(std::string& bytes, const std::vector<int>& set, int pages,
                     const std::vector<int>& before) {
  const std::vector<int> old = below(before, pages);
  Coding best = best_coding(0, set);
  const auto offer = [&best](std::uint8_t flags, std::vector<int> list) {
    Coding coding = best_coding(flags, std::move(list));
    if (coding.bits < best.bits) {
      best = std::move(coding);
    }
  };
  std::vector<int> changes = difference_of(set, old);
  offer(kComplement, complement_of(set, pages));
  offer(kChanges | kComplement, complement_of(changes, pages));
  offer(kChanges, std::move(changes));

  bytes += static_cast<char>(best.control);
  append_number(bytes, best.list.size());
  const int rice = best.control & kRiceMask;
  BitWriter writer(bytes);
  int last = -1;
  for (const int page : best.list) {
    const int gap = page - last - 1;
    for (int zeros = gap >> rice; zeros > 0; --zeros) {
      writer.bit(false);
    }
    writer.bit(true);
    for (int i = 0; i < rice; ++i) {
      writer.bit((gap >> i & 1) != 0);
    }
    last = page;
  }
}

std::vector<int> read_page_set(ByteReader& bytes, int pages, const std::vector<int>& before) {
  const std::uint8_t control = bytes.byte();
  if ((control & ~(kRiceMask | kComplement | kChanges)) != 0) {
    throw std::invalid_argument(fmt::format("{} is no control byte of a page set", control));
  }
  const std::uint64_t count = bytes.number();
  if (count > static_cast<std::uint64_t>(pages)) {
    throw std::invalid_argument(
        fmt::format("{} pages are listed, but the context fills {}", count, pages));
  }
  const int rice = control & kRiceMask;
  std::vector<int> set;
  set.reserve(count);
  BitReader reader(bytes);
  std::int64_t next = 0;  // the lowest page that may follow
  while (set.size() < count) {
    while (!reader.bit()) {
      next += std::int64_t{1} << rice;
      if (next >= pages) {
        break;
      }
    }
    for (int i = 0; next < pages && i < rice; ++i) {
      next += std::int64_t{reader.bit()} << i;
    }
    if (next >= pages) {
      throw std::invalid_argument(
          fmt::format("page {} is not on flash at this context, which fills {}", next, pages));
    }
    set.push_back(static_cast<int>(next++));
  }
  if ((control & kChanges) != 0) {
    set = difference_of(set, below(before, pages));
  }
  return (control & kComplement) != 0 ? complement_of(set, pages) : set;
}

}  // namespace nearkv::traces
