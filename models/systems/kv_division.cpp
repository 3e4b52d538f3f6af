#include "models/systems/kv_division.hpp"

#include <algorithm>

#include "sim/core/check.hpp"

namespace nearkv {

void kv_division_field(FieldVisitor& v, KvDivision& division) {
  v.one_of("division", division, {"heads", "sequences"},
           "what the drives divide: the KV heads of every sequence, or the sequences of the batch");
}

RowRange RowRange::operator&(const RowRange& o) const {
  const std::int64_t begin = std::max(first, o.first);
  return {begin, std::max(begin, std::min(last, o.last))};
}

RowRange rows_of_drive(KvDivision division, int drive, int drives, std::int64_t rows) {
  check(0 <= drive && drive < drives, "no such drive");
  if (division == KvDivision::sequences) {
    return {0, rows};
  }
  const std::int64_t each = rows / drives;
  const std::int64_t more = rows % drives;  // drives with one more
  const std::int64_t first = each * drive + std::min<std::int64_t>(drive, more);
  return {first, first + each + (drive < more ? 1 : 0)};
}

std::vector<std::vector<int>> sequences_of_drives(KvDivision division, int drives,
                                                  const std::vector<int>& groups) {
  if (division == KvDivision::heads) {
    return {static_cast<std::size_t>(drives), groups};
  }
  std::vector<std::vector<int>> sequences(static_cast<std::size_t>(drives));
  int next = 0;  // the drive whose turn it is
  for (const int group : groups) {
    for (int turn = 0; turn < drives; ++turn) {
      const int drive = (next + turn) % drives;
      sequences[static_cast<std::size_t>(drive)].push_back(group / drives +
                                                           (turn < group % drives ? 1 : 0));
    }
    next = (next + group) % drives;
  }
  return sequences;
}

std::int64_t pairs_within(std::int64_t first, std::int64_t last, std::int64_t rows,
                          const RowRange& wanted) {
  const auto before = [&](std::int64_t pair) {
    const RowRange in_last = RowRange{0, pair % rows} & wanted;
    return pair / rows * wanted.count() + in_last.count();
  };
  return before(last) - before(first);
}

}  // namespace nearkv
