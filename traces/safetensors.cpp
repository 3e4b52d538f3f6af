#include "traces/safetensors.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <limits>
#include <span>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include "sim/core/check.hpp"
#include "sim/core/hash.hpp"
#include "sim/core/strict_json.hpp"
#include "sim/core/units.hpp"

namespace nearkv::traces {

namespace {

using nlohmann::json;

constexpr std::int64_t kLengthBytes = 8;
// Some 80,000 tensors. The format allows 100 MB, which take gigabytes and seconds to parse.
constexpr std::int64_t kLongestHeader = 8 << 20;
constexpr std::size_t kBlock = std::size_t{1} << 20;  // bytes read at once

struct Dtype {
  std::string_view name;
  int bytes;
};
constexpr std::array kDtypes{
    Dtype{"BOOL", 1}, Dtype{"U8", 1},  Dtype{"I8", 1},  Dtype{"F8_E4M3", 1}, Dtype{"F8_E5M2", 1},
    Dtype{"I16", 2},  Dtype{"U16", 2}, Dtype{"F16", 2}, Dtype{"BF16", 2},    Dtype{"I32", 4},
    Dtype{"U32", 4},  Dtype{"F32", 4}, Dtype{"I64", 8}, Dtype{"U64", 8},     Dtype{"F64", 8}};

const Dtype* dtype_of(std::string_view name) {
  const auto* const found = std::ranges::find(kDtypes, name, &Dtype::name);
  return found == kDtypes.end() ? nullptr : found;
}

std::string dtype_names() {
  std::vector<std::string_view> names;
  for (const Dtype& dtype : kDtypes) {
    names.push_back(dtype.name);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

std::uint64_t little_endian(const char* bytes, std::size_t count) {
  std::uint64_t value = 0;
  for (std::size_t i = count; i-- > 0;) {
    value = value << 8 | static_cast<unsigned char>(bytes[i]);
  }
  return value;
}

/// IEEE 754 binary16, exactly; infinity and NaN too.
float half_to_float(std::uint32_t half) {
  const std::uint32_t exponent = half >> 10 & 0x1fU;
  const std::uint32_t mantissa = half & 0x3ffU;
  const float sign = (half & 0x8000U) == 0 ? 1.0F : -1.0F;
  if (exponent == 0x1fU) {
    const float infinity = std::numeric_limits<float>::infinity();
    return mantissa == 0 ? sign * infinity : std::numeric_limits<float>::quiet_NaN();
  }
  if (exponent == 0) {
    return sign * static_cast<float>(mantissa) * 0x1.0p-24F;
  }
  return sign * std::bit_cast<float>((exponent + 127 - 15) << 23 | mantissa << 13);
}

void to_floats(std::string_view dtype, const char* bytes, std::span<float> values) {
  for (float& value : values) {
    if (dtype == "F32") {
      value = std::bit_cast<float>(static_cast<std::uint32_t>(little_endian(bytes, 4)));
      bytes += 4;
      continue;
    }
    const auto bits = static_cast<std::uint32_t>(little_endian(bytes, 2));
    value = dtype == "F16" ? half_to_float(bits) : std::bit_cast<float>(bits << 16);
    bytes += 2;
  }
}

bool is_list_of_counts(const json& value) {
  return value.is_array() && std::ranges::all_of(value, [](const json& count) {
           return count.is_number_unsigned() &&
                  count.get<std::uint64_t>() <=
                      static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
         });
}

/// What is wrong with a tensor's entry, as "field: what"; empty when nothing is, and `info` is set
/// but for `begin`, which is an offset in the data.
std::string parse_tensor(const json& entry, TensorInfo& info) {
  if (!entry.is_object()) {
    return fmt::format("is {}; an object with dtype, shape and data_offsets was expected",
                       printable(entry.dump()));
  }
  for (const auto& [key, value] : entry.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return fmt::format("{}: unknown field; a tensor has dtype, shape and data_offsets",
                         printable(key));
    }
  }
  for (const char* field : {"dtype", "shape", "data_offsets"}) {
    if (!entry.contains(field)) {
      return fmt::format("{}: is missing", field);
    }
  }
  const json& dtype = entry.at("dtype");
  const Dtype* known = dtype.is_string() ? dtype_of(dtype.get_ref<const std::string&>()) : nullptr;
  if (known == nullptr) {
    return fmt::format("dtype: is {}; must be one of {}", printable(dtype.dump()), dtype_names());
  }
  const json& shape = entry.at("shape");
  if (!is_list_of_counts(shape)) {
    return fmt::format("shape: is {}; must be a list of whole numbers from 0",
                       printable(shape.dump()));
  }
  const json& offsets = entry.at("data_offsets");
  if (!is_list_of_counts(offsets) || offsets.size() != 2) {
    return fmt::format("data_offsets: is {}; must be two whole numbers, begin and end",
                       printable(offsets.dump()));
  }
  info.dtype = known->name;
  info.shape = shape.get<std::vector<std::int64_t>>();
  constexpr Int128 kMost{std::numeric_limits<std::int64_t>::max()};
  Int128 bytes = known->bytes;
  for (const std::int64_t extent : info.shape) {
    bytes = std::min(bytes * extent, kMost);
  }
  info.begin = offsets.at(0).get<std::int64_t>();
  const auto end = offsets.at(1).get<std::int64_t>();
  if (end < info.begin || Int128{end} - info.begin != bytes) {
    return fmt::format(
        "data_offsets: is [{}, {}]; {} of shape [{}] takes {} bytes", info.begin, end, info.dtype,
        fmt::join(info.shape, ", "),
        bytes < kMost ? fmt::format("{}", static_cast<std::int64_t>(bytes)) : "more than 2^63");
  }
  info.elements = (end - info.begin) / known->bytes;
  return "";
}

/// The same for __metadata__.
std::string parse_metadata(const json& object, std::map<std::string, std::string>& metadata) {
  if (!object.is_object()) {
    return fmt::format("is {}; must be an object of strings", printable(object.dump()));
  }
  for (const auto& [key, value] : object.items()) {
    if (!value.is_string()) {
      return fmt::format("{}: is {}; must be a string", printable(key), printable(value.dump()));
    }
    metadata[key] = value.get<std::string>();
  }
  return "";
}

}  // namespace

std::string TensorInfo::place_of(std::int64_t number) const {
  std::vector<std::int64_t> place(shape.size());
  for (std::size_t i = shape.size(); i-- > 0;) {
    place[i] = number % shape[i];
    number /= shape[i];
  }
  return fmt::format("[{}]", fmt::join(place, ", "));
}

Safetensors::Safetensors(const std::string& file) : file_(file), name_(printable(file)) {
  open();
  try {
    parse_header(read_header());
    place_tensors();
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

Safetensors::~Safetensors() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
  }
}

Safetensors::Safetensors(Safetensors&& other) noexcept
    : file_(std::move(other.file_)),
      name_(std::move(other.name_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_),
      data_begin_(other.data_begin_),
      metadata_(std::move(other.metadata_)),
      tensors_(std::move(other.tensors_)) {}

void Safetensors::fail(std::string_view what) const {
  throw ConfigError(fmt::format("{}: {}", name_, what));
}

void Safetensors::fail(std::string_view tensor, std::string_view what) const {
  throw ConfigError(fmt::format("{}: {}: {}", name_, printable(tensor), what));
}

void Safetensors::open() {
  descriptor_ = ::open(file_.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) {
    if (errno == ENOENT) {
      fail("no such file; name a .safetensors file");
    }
    fail(fmt::format("cannot be opened ({})", std::generic_category().message(errno)));
  }
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    fail("is not a regular file; name a .safetensors file");
  }
  size_ = status.st_size;
}

void Safetensors::read_bytes(std::int64_t begin, char* bytes, std::size_t count) const {
  while (count > 0) {
    const ssize_t got = ::pread(descriptor_, bytes, count, begin);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      fail(got == 0 ? fmt::format("ended at byte {}, but had {} when it was opened", begin, size_)
                    : fmt::format("cannot be read ({})", std::generic_category().message(errno)));
    }
    bytes += got;
    begin += got;
    count -= static_cast<std::size_t>(got);
  }
}

std::string Safetensors::read_header() {
  if (size_ < kLengthBytes) {
    fail(
        fmt::format("has {} bytes; a .safetensors file starts with {} bytes that hold the length "
                    "of its header",
                    size_, kLengthBytes));
  }
  std::array<char, kLengthBytes> length_bytes{};
  read_bytes(0, length_bytes.data(), length_bytes.size());
  const std::uint64_t length = little_endian(length_bytes.data(), length_bytes.size());
  if (length > static_cast<std::uint64_t>(kLongestHeader)) {
    fail(
        fmt::format("is no .safetensors file: its first {} bytes, the length of the header, say "
                    "{} bytes; at most {} are allowed",
                    kLengthBytes, length, kLongestHeader));
  }
  data_begin_ = kLengthBytes + static_cast<std::int64_t>(length);
  if (data_begin_ > size_) {
    fail(fmt::format("has {} bytes, but its header ends at byte {}; the file seems to be cut off",
                     size_, data_begin_));
  }
  std::string text(length, '\0');
  read_bytes(kLengthBytes, text.data(), text.size());
  if (!text.starts_with('{')) {
    fail(fmt::format("header: starts with {}; a JSON object was expected from byte {}",
                     in_quotes(text.substr(0, 1)), kLengthBytes));
  }
  return text;
}

void Safetensors::parse_header(const std::string& text) {
  json header;
  try {
    header = parse_strict_json(text, name_ + ": header");
  } catch (const json::parse_error& error) {
    const auto at = std::max<std::int64_t>(static_cast<std::int64_t>(error.byte), 1) - 1;
    fail(fmt::format("header: is no JSON at byte {} of the file", kLengthBytes + at));
  } catch (const json::out_of_range&) {
    fail("header: has a number that is too large");
  }
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadataEntry) {
      const std::string problem = parse_metadata(entry, metadata_);
      if (!problem.empty()) {
        fail(name, problem);
      }
      continue;
    }
    TensorInfo& info = tensors_[name];
    if (const std::string problem = parse_tensor(entry, info); !problem.empty()) {
      fail(name, problem);
    }
  }
}

void Safetensors::place_tensors() {
  std::vector<std::pair<const std::string*, TensorInfo*>> order;
  for (auto& [name, info] : tensors_) {
    order.emplace_back(&name, &info);
  }
  // An empty tensor may share its place with the tensor that begins there: it goes first.
  std::ranges::stable_sort(order, {}, [](const auto& tensor) {
    return std::pair(tensor.second->begin, tensor.second->elements > 0);
  });
  std::int64_t end = 0;
  std::string before = "the data starts at 0";
  for (const auto& [name, info] : order) {
    if (info->begin != end) {
      fail(*name, fmt::format("data_offsets: begins at {}, but {}; tensors must lie one behind the "
                              "other{}",
                              info->begin, before,
                              info->begin < end ? " (they overlap)" : " (there is a gap)"));
    }
    end = info->begin + info->elements * dtype_of(info->dtype)->bytes;
    before = fmt::format("{} ends at {}", printable(*name), end);
    if (end > size_ - data_begin_) {
      fail(*name,
           fmt::format("ends at byte {} of the file, which has {}; the file seems to be cut off",
                       Int128{data_begin_} + end, size_));
    }
    info->begin += data_begin_;
  }
  if (data_begin_ + end != size_) {
    fail(fmt::format("has {} bytes, but its last tensor ends at byte {}; must be equal", size_,
                     data_begin_ + end));
  }
}

std::vector<float> Safetensors::read(const std::string& tensor, std::int64_t first,
                                     std::int64_t count) const {
  const auto found = tensors_.find(tensor);
  check(found != tensors_.end(), "a tensor was asked for that the file does not have");
  const TensorInfo& info = found->second;
  check(first >= 0 && count >= 0 && first <= info.elements && count <= info.elements - first,
        "elements were asked for that the tensor does not have");
  if (info.dtype != "F16" && info.dtype != "BF16" && info.dtype != "F32") {
    fail(tensor, fmt::format("dtype: is {}; must be F16, BF16 or F32", info.dtype));
  }
  const auto width = static_cast<std::size_t>(dtype_of(info.dtype)->bytes);
  std::vector<float> values(static_cast<std::size_t>(count));
  std::vector<char> block(std::min(kBlock, values.size() * width));
  for (std::size_t done = 0; done < values.size();) {
    const std::size_t now = std::min(block.size() / width, values.size() - done);
    const std::int64_t number = first + static_cast<std::int64_t>(done);
    read_bytes(info.begin + number * static_cast<std::int64_t>(width), block.data(), now * width);
    to_floats(info.dtype, block.data(), std::span(values).subspan(done, now));
    done += now;
  }
  const auto bad = std::ranges::find_if_not(values, [](float x) { return std::isfinite(x); });
  if (bad != values.end()) {
    fail(tensor, fmt::format("element {} is {}; must be a finite number",
                             info.place_of(first + (bad - values.begin())), *bad));
  }
  return values;
}

std::string Safetensors::content_hash() const {
  ContentHasher hasher;
  std::vector<char> block(kBlock);
  for (std::int64_t at = 0; at < size_;) {
    const auto now = std::min(static_cast<std::int64_t>(kBlock), size_ - at);
    read_bytes(at, block.data(), static_cast<std::size_t>(now));
    hasher.add({block.data(), static_cast<std::size_t>(now)});
    at += now;
  }
  return hasher.hash();
}

}  // namespace nearkv::traces
