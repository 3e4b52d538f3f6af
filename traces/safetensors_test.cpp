#include "traces/safetensors.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "kernels/half.hpp"
#include "sim/core/hash.hpp"
#include "traces/test_files.hpp"

using namespace nearkv;
using namespace nearkv::traces;

namespace {

std::string little_endian(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) {
    text += static_cast<char>(value >> (8 * i) & 0xffU);
  }
  return text;
}

std::string file_of(const std::string& header, const std::string& data = "") {
  return little_endian(header.size(), 8) + header + data;
}

std::string halves(const std::vector<std::uint16_t>& values) {
  std::string data;
  for (const std::uint16_t value : values) {
    data += little_endian(value, 2);
  }
  return data;
}

std::string refusal(const std::string& bytes) {
  const TemporaryFile file(bytes);
  return refusal_of([&] { static_cast<void>(Safetensors(file.path())); });
}

/// Refusal of one tensor "x" with these fields and 8 bytes of data.
std::string refusal_of_fields(const std::string& fields) {
  return refusal(file_of("{\"x\":{" + fields + "}}", std::string(8, '\0')));
}

std::string refusal_of_read(const std::string& dtype, const std::string& data) {
  const TemporaryFile file(file_of(R"({"a.b":{"dtype":")" + dtype +
                                       R"(","shape":[2,2],"data_offsets":[0,)" +
                                       std::to_string(data.size()) + "]}}",
                                   data));
  const Safetensors tensors(file.path());
  return refusal_of([&] { static_cast<void>(tensors.read("a.b", 1, 3)); });
}

// Two tensors of 4 and 8 bytes.
const std::string kTwo = R"({"a":{"dtype":"F16","shape":[2,1],"data_offsets":[0,4]},)"
                         R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})";

std::string two_with(const std::string& from, const std::string& to) {
  std::string text = kTwo;
  text.replace(text.find(from), from.size(), to);
  return file_of(text, std::string(12, '\0'));
}

}  // namespace

TEST_CASE("safetensors: metadata, tensors and values of all three number formats") {
  const std::string header = R"({"__metadata__":{"who":"me","numbers":"[1, 2]"},)"
                             R"("h":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]},)"
                             R"("b":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]},)"
                             R"("f":{"dtype":"F32","shape":[],"data_offsets":[12,16]}}   )";
  const std::string bytes =
      file_of(header, halves({0x3c00, 0xc000, 0x0001, 0x7bff, 0x3f80, 0xc2f7}) +
                          little_endian(std::bit_cast<std::uint32_t>(-0.1F), 4));
  const TemporaryFile file(bytes);
  const Safetensors tensors(file.path());
  CHECK(tensors.metadata() ==
        std::map<std::string, std::string>{{"who", "me"}, {"numbers", "[1, 2]"}});
  REQUIRE(tensors.tensors().size() == 3);
  const TensorInfo& info = tensors.tensors().at("h");
  CHECK(info.dtype == "F16");
  CHECK(info.shape == std::vector<std::int64_t>{2, 2});
  CHECK(info.elements == 4);
  CHECK(info.begin == 8 + static_cast<std::int64_t>(header.size()));
  CHECK(info.place_of(2) == "[1, 0]");
  CHECK(tensors.read("h", 0, 4) == std::vector<float>{1.0F, -2.0F, 0x1.0p-24F, 65504.0F});
  CHECK(tensors.read("h", 1, 2) == std::vector<float>{-2.0F, 0x1.0p-24F});
  CHECK(tensors.read("h", 4, 0).empty());
  CHECK(tensors.read("b", 0, 2) == std::vector<float>{1.0F, -123.5F});
  CHECK(tensors.read("f", 0, 1) == std::vector<float>{-0.1F});
  CHECK_THROWS_AS(static_cast<void>(tensors.read("g", 0, 1)), CheckFailure);
  CHECK_THROWS_AS(static_cast<void>(tensors.read("h", 3, 2)), CheckFailure);
  CHECK_THROWS_AS(static_cast<void>(tensors.read("h", -1, 2)), CheckFailure);
  CHECK(tensors.content_hash() == content_hash(bytes));
}

TEST_CASE("safetensors: no tensors, and tensors without elements") {
  const TemporaryFile none(file_of("{}"));
  CHECK(Safetensors(none.path()).tensors().empty());
  const TemporaryFile empty(
      file_of(R"({"z":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},)"
              R"("y":{"dtype":"F16","shape":[3,0],"data_offsets":[16,16]},)"
              R"("x":{"dtype":"F16","shape":[0,9223372036854775807,9],"data_offsets":[0,0]}})",
              std::string(16, '\0')));
  const Safetensors tensors(empty.path());
  CHECK(tensors.tensors().at("x").elements == 0);
  CHECK(tensors.read("y", 0, 0).empty());
}

TEST_CASE("safetensors: every finite half is read exactly") {
  std::string data;
  for (std::uint32_t half = 0; half < 0x10000U; ++half) {
    data += little_endian((half & 0x7c00U) == 0x7c00U ? 0 : half, 2);
  }
  const TemporaryFile file(
      file_of(R"({"h":{"dtype":"F16","shape":[65536],"data_offsets":[0,131072]}})", data));
  const std::vector<float> values = Safetensors(file.path()).read("h", 0, 0x10000);
  int wrong = 0;
  for (std::uint32_t half = 0; half < 0x10000U; ++half) {
    const bool is_finite = (half & 0x7c00U) != 0x7c00U;
    const auto bits = static_cast<std::uint16_t>(is_finite ? half : 0);
    const float right = kernels::half_to_float(bits);
    // Bits, so that -0 differs from 0.
    wrong += std::bit_cast<std::uint32_t>(values[half]) != std::bit_cast<std::uint32_t>(right);
  }
  CHECK(wrong == 0);
}

TEST_CASE("safetensors: a tensor of several blocks, read from its middle") {
  constexpr std::int64_t kCount = 900'000;  // F32: 3.4 MiB
  std::string data;
  for (std::int64_t i = 0; i < kCount; ++i) {
    data += little_endian(std::bit_cast<std::uint32_t>(static_cast<float>(i)), 4);
  }
  const std::string bytes =
      file_of(R"({"x":{"dtype":"F32","shape":[9,100000],"data_offsets":[0,3600000]}})", data);
  const TemporaryFile file(bytes);
  Safetensors opened(file.path());
  const Safetensors tensors(std::move(opened));
  const std::vector<float> values = tensors.read("x", 7, kCount - 7);
  REQUIRE(values.size() == static_cast<std::size_t>(kCount - 7));
  std::int64_t wrong = 0;
  for (std::int64_t i = 7; i < kCount; ++i) {
    wrong += values[static_cast<std::size_t>(i - 7)] != static_cast<float>(i);
  }
  CHECK(wrong == 0);
  CHECK(tensors.content_hash() == content_hash(bytes));
}

TEST_CASE("safetensors: a file that is none") {
  CHECK(refusal_of([] { Safetensors("no/such.safetensors"); }) ==
        "no/such.safetensors: no such file; name a .safetensors file");
  CHECK(refusal_of([] { Safetensors("/"); }) ==
        "/: is not a regular file; name a .safetensors file");
  CHECK(refusal("") ==
        "FILE: has 0 bytes; a .safetensors file starts with 8 bytes that hold the length of its "
        "header");
  CHECK(refusal("1234567") ==
        "FILE: has 7 bytes; a .safetensors file starts with 8 bytes that hold the length of its "
        "header");
  CHECK(refusal("PK\x03\x04 a zip archive, as PyTorch saves") ==
        "FILE: is no .safetensors file: its first 8 bytes, the length of the header, say "
        "8800140462016121680 bytes; at most 8388608 are allowed");
  CHECK(refusal(little_endian((8 << 20) + 1, 8)) ==
        "FILE: is no .safetensors file: its first 8 bytes, the length of the header, say "
        "8388609 bytes; at most 8388608 are allowed");
  CHECK(refusal(little_endian(8 << 20, 8) + "{}") ==
        "FILE: has 10 bytes, but its header ends at byte 8388616; the file seems to be cut off");
}

TEST_CASE("safetensors: a header that is no JSON object") {
  CHECK(refusal(file_of("")) ==
        "FILE: header: starts with \"\"; a JSON object was expected from byte 8");
  CHECK(refusal(file_of(" {}")) ==
        "FILE: header: starts with \" \"; a JSON object was expected from byte 8");
  CHECK(refusal(file_of("[]")) ==
        "FILE: header: starts with \"[\"; a JSON object was expected from byte 8");
  CHECK(refusal(file_of("{\"a\":1,}")) == "FILE: header: is no JSON at byte 15 of the file");
  CHECK(refusal(file_of("{} {}")) == "FILE: header: is no JSON at byte 11 of the file");
  CHECK(refusal(file_of("{\"a\":{\"dtype\":")) ==
        "FILE: header: is no JSON at byte 22 of the file");
  CHECK(refusal(file_of("{\"\xff\":1}")) == "FILE: header: is no JSON at byte 10 of the file");
  CHECK(refusal(file_of(std::string(100'000, '{'))) ==
        "FILE: header: is no JSON at byte 9 of the file");
  CHECK(refusal(file_of("{\"a\":1e999}")) == "FILE: header: has a number that is too large");
}

TEST_CASE("safetensors: a header of too many values, or nested too deep") {
  std::string many = "{\"x\":[0";
  for (int i = 1; i < 1'500'000; ++i) {
    many += ",0";
  }
  CHECK(refusal(file_of(many + "]}")) ==
        "FILE: header: /x/1499997: more than 1500000 values; nothing needs so many");
  CHECK(refusal(file_of("{\"x\":" + std::string(100, '[')))
            .ends_with("/0/0: nested deeper than 64 levels; nothing needs that"));
}

TEST_CASE("safetensors: a name that appears twice") {
  const std::string tensor = R"({"dtype":"F16","shape":[0],"data_offsets":[0,0]})";
  CHECK(refusal(file_of("{\"a\":" + tensor + ",\"b\":" + tensor + ",\"a\":" + tensor + "}")) ==
        "FILE: header: /a: duplicate key; keep one of the two");
  CHECK(refusal(file_of(R"({"__metadata__":{"k":"1","k":"2"}})")) ==
        "FILE: header: /__metadata__/k: duplicate key; keep one of the two");
  CHECK(refusal_of_fields(R"("dtype":"F16","dtype":"F32","shape":[2],"data_offsets":[0,8])") ==
        "FILE: header: /x/dtype: duplicate key; keep one of the two");
}

TEST_CASE("safetensors: metadata that are no strings") {
  CHECK(refusal(file_of(R"({"__metadata__":["a"]})")) ==
        "FILE: __metadata__: is [\"a\"]; must be an object of strings");
  CHECK(refusal(file_of(R"({"__metadata__":{"steps":64}})")) ==
        "FILE: __metadata__: steps: is 64; must be a string");
}

TEST_CASE("safetensors: a field that is wrong") {
  const std::string names =
      "must be one of BOOL, U8, I8, F8_E4M3, F8_E5M2, I16, U16, F16, BF16, I32, U32, F32, I64, "
      "U64, F64";
  CHECK(refusal(file_of(R"({"x":[0,8]})", std::string(8, '\0'))) ==
        "FILE: x: is [0,8]; an object with dtype, shape and data_offsets was expected");
  CHECK(refusal_of_fields(R"("dtype":"F32","shape":[2],"data_offset":[0,8])") ==
        "FILE: x: data_offset: unknown field; a tensor has dtype, shape and data_offsets");
  CHECK(refusal_of_fields(R"("dtype":"F32","shape":[2])") == "FILE: x: data_offsets: is missing");
  CHECK(refusal_of_fields(R"("shape":[2],"data_offsets":[0,8])") == "FILE: x: dtype: is missing");
  CHECK(refusal_of_fields(R"("dtype":"F17","shape":[2],"data_offsets":[0,8])") ==
        "FILE: x: dtype: is \"F17\"; " + names);
  CHECK(refusal_of_fields(R"("dtype":16,"shape":[2],"data_offsets":[0,8])") ==
        "FILE: x: dtype: is 16; " + names);
  CHECK(refusal_of_fields(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])") ==
        "FILE: x: shape: is [-2]; must be a list of whole numbers from 0");
  CHECK(refusal_of_fields(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])") ==
        "FILE: x: shape: is [2.0]; must be a list of whole numbers from 0");
  CHECK(refusal_of_fields(R"("dtype":"F32","shape":2,"data_offsets":[0,8])") ==
        "FILE: x: shape: is 2; must be a list of whole numbers from 0");
  CHECK(refusal_of_fields(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8])") ==
        "FILE: x: shape: is [18446744073709551615]; must be a list of whole numbers from 0");
  CHECK(refusal_of_fields(R"("dtype":"F32","shape":[2],"data_offsets":[8])") ==
        "FILE: x: data_offsets: is [8]; must be two whole numbers, begin and end");
  CHECK(refusal_of_fields(R"("dtype":"F32","shape":[2],"data_offsets":[-8,0])") ==
        "FILE: x: data_offsets: is [-8,0]; must be two whole numbers, begin and end");
}

TEST_CASE("safetensors: data that are not where they should be") {
  CHECK(refusal_of_fields(R"("dtype":"F16","shape":[2],"data_offsets":[0,8])") ==
        "FILE: x: data_offsets: is [0, 8]; F16 of shape [2] takes 4 bytes");
  CHECK(refusal_of_fields(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])") ==
        "FILE: x: data_offsets: is [8, 0]; F32 of shape [2] takes 8 bytes");
  CHECK(refusal_of_fields(
            R"("dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0])") ==
        "FILE: x: data_offsets: is [0, 0]; F32 of shape [4294967296, 4294967296, 4] takes "
        "more than 2^63 bytes");
  CHECK(refusal(two_with("[4,12]", "[2,10]")) ==
        "FILE: b: data_offsets: begins at 2, but a ends at 4; tensors must lie one behind the "
        "other (they overlap)");
  CHECK(refusal(two_with("[4,12]", "[0,8]")) ==
        "FILE: b: data_offsets: begins at 0, but a ends at 4; tensors must lie one behind the "
        "other (they overlap)");
  CHECK(refusal(two_with("[4,12]", "[6,14]")) ==
        "FILE: b: data_offsets: begins at 6, but a ends at 4; tensors must lie one behind the "
        "other (there is a gap)");
  CHECK(refusal_of_fields(R"("dtype":"F16","shape":[2],"data_offsets":[4,8])") ==
        "FILE: x: data_offsets: begins at 4, but the data starts at 0; tensors must lie one "
        "behind the other (there is a gap)");
  CHECK(refusal(file_of(kTwo, std::string(11, '\0'))) ==
        "FILE: b: ends at byte 130 of the file, which has 129; the file seems to be cut off");
  CHECK(refusal(file_of(kTwo)) ==
        "FILE: a: ends at byte 122 of the file, which has 118; the file seems to be cut off");
  CHECK(refusal(file_of(kTwo, std::string(15, '\0'))) ==
        "FILE: has 133 bytes, but its last tensor ends at byte 130; must be equal");
  CHECK(refusal(file_of("{}", "x")) ==
        "FILE: has 11 bytes, but its last tensor ends at byte 10; must be equal");
}

TEST_CASE("safetensors: a value that cannot be used") {
  CHECK(refusal_of_read("F16", halves({0, 0, 0, 0})).empty());
  CHECK(refusal_of_read("F16", halves({0x7c00, 0, 0x7e00, 0})) ==
        "FILE: a.b: element [1, 0] is nan; must be a finite number");
  CHECK(refusal_of_read("F16", halves({0, 0, 0, 0xfc00})) ==
        "FILE: a.b: element [1, 1] is -inf; must be a finite number");
  CHECK(refusal_of_read("BF16", halves({0, 0x7f80, 0, 0})) ==
        "FILE: a.b: element [0, 1] is inf; must be a finite number");
  CHECK(refusal_of_read("F32", std::string(4, '\0') + "\xff\xff\xff\x7f" + std::string(8, '\0')) ==
        "FILE: a.b: element [0, 1] is nan; must be a finite number");
  CHECK(refusal_of_read("I32", std::string(16, '\0')) ==
        "FILE: a.b: dtype: is I32; must be F16, BF16 or F32");
}

TEST_CASE("safetensors: a file that shrinks while it is open") {
  const TemporaryFile file(file_of(kTwo, std::string(12, '\0')));
  const Safetensors tensors(file.path());
  std::filesystem::resize_file(file.path(), 124);
  CHECK(tensors.read("a", 0, 2) == std::vector<float>{0, 0});
  CHECK(refusal_of([&] { static_cast<void>(tensors.read("b", 0, 2)); }) ==
        "FILE: ended at byte 124, but had 130 when it was opened");
  CHECK(refusal_of([&] { static_cast<void>(tensors.content_hash()); }) ==
        "FILE: ended at byte 124, but had 130 when it was opened");
}
