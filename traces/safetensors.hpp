// Reader of .safetensors files (github.com/huggingface/safetensors, "Format"): 8 bytes
// little-endian length of the header, the header, then the data of all tensors without gaps. The
// header is a JSON object of tensors by name, {"dtype": "F16", "shape": [3, 2112, 64],
// "data_offsets": [begin, end]}, offsets from the start of the data; "__metadata__" is an object of
// strings. Data is row-major and little-endian.
//
// Opening reads the header only and checks all of it, and that the file is as long as it says. All
// problems are ConfigErrors that name the file, and the tensor and field or the byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace nearkv::traces {

/// The entry of the header that is no tensor.
inline constexpr const char* kMetadataEntry = "__metadata__";

struct TensorInfo {
  std::string dtype;                // as in the header: "F16"
  std::vector<std::int64_t> shape;  // empty for a scalar
  std::int64_t begin = 0;           // byte of the file
  std::int64_t elements = 0;

  /// "[1, 20, 3]" of an element by its number in row-major order.
  [[nodiscard]] std::string place_of(std::int64_t number) const;
};

class Safetensors {
 public:
  /// Throws ConfigError.
  explicit Safetensors(const std::string& file);
  ~Safetensors();
  Safetensors(Safetensors&& other) noexcept;
  Safetensors(const Safetensors&) = delete;
  Safetensors& operator=(const Safetensors&) = delete;
  Safetensors& operator=(Safetensors&&) = delete;

  [[nodiscard]] const std::map<std::string, std::string>& metadata() const { return metadata_; }
  [[nodiscard]] const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }

  /// Elements first .. first + count - 1 (in row-major order) of a tensor of dtype F16, BF16 or
  /// F32, exactly. Throws ConfigError for another dtype, for an element that is not finite and
  /// when the file cannot be read. check()s name and range. May be called from several threads.
  [[nodiscard]] std::vector<float> read(const std::string& tensor, std::int64_t first,
                                        std::int64_t count) const;

  /// Of the bytes of the whole file (sim/core/hash.hpp); reads all of it.
  [[nodiscard]] std::string content_hash() const;

  /// Throws ConfigError "file: what".
  [[noreturn]] void fail(std::string_view what) const;
  /// Throws ConfigError "file: tensor: what".
  [[noreturn]] void fail(std::string_view tensor, std::string_view what) const;

 private:
  void open();
  /// Fills `bytes` from byte `begin` of the file.
  void read_bytes(std::int64_t begin, char* bytes, std::size_t count) const;
  [[nodiscard]] std::string read_header();
  void parse_header(const std::string& text);
  /// Checks that the data of all tensors fills the rest of the file; makes begin a file offset.
  void place_tensors();

  std::string file_;
  std::string name_;  // for messages
  int descriptor_ = -1;
  std::int64_t size_ = 0;
  std::int64_t data_begin_ = 0;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, TensorInfo> tensors_;
};

}  // namespace nearkv::traces
