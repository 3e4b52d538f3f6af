// How the KV cache of a batch is divided over drives that attend.
//
// heads: each drive holds some heads of all sequences, as the InstInfer paper divides them. Drives
// beyond the number of heads hold nothing.
// sequences: each drive holds all heads of some sequences, dealt group by group like cards.
// Where the numbers do not divide, the first drives get one more.
#pragma once

#include <cstdint>
#include <vector>

#include "sim/core/fields.hpp"

namespace nearkv {

enum class KvDivision { heads, sequences };

void kv_division_field(FieldVisitor& v, KvDivision& division);

/// Rows [first, last) of each token, such as the KV heads of a layer.
struct RowRange {
  std::int64_t first = 0;
  std::int64_t last = 0;

  [[nodiscard]] std::int64_t count() const { return last - first; }
  [[nodiscard]] RowRange operator&(const RowRange& o) const;
};

/// The rows that a drive of `drives` holds of `rows`.
[[nodiscard]] RowRange rows_of_drive(KvDivision division, int drive, int drives, std::int64_t rows);

/// Sequences of each group that a drive holds: [drive][group].
[[nodiscard]] std::vector<std::vector<int>> sequences_of_drives(KvDivision division, int drives,
                                                                const std::vector<int>& groups);

/// Pairs [first, last), numbered sequence by sequence with `rows` rows each, whose row is in
/// `wanted`.
[[nodiscard]] std::int64_t pairs_within(std::int64_t first, std::int64_t last, std::int64_t rows,
                                        const RowRange& wanted);

}  // namespace nearkv
