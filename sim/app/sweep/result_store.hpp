// Results of design points in an SQLite file: the journal of a sweep, and the cache that sweeps
// share. A result is there whole or not at all, whatever ends the program or the machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sim/core/metrics.hpp"

namespace nearkv {

/// What a point of a sweep came to.
struct PointResult {
  std::string status;  // the record's (ok, out_of_memory, stopped, ...), or refused, failed
  std::string detail;  // what overflowed, or the message
  std::vector<Metric> metrics;  // without docs; empty where it did not run

  /// Whether running the point again gives the same: it ran, or its config is refused.
  [[nodiscard]] bool is_repeatable() const { return status != "failed" && status != "stopped"; }
};

class ResultStore {
 public:
  /// Opens or makes the file. Throws ConfigError when it cannot be read or is none of ours.
  explicit ResultStore(const std::filesystem::path& file);
  /// In memory.
  ResultStore();
  /// A file that nobody writes, to be read alone. Throws the same.
  [[nodiscard]] static ResultStore to_read(const std::filesystem::path& file);
  ~ResultStore();
  ResultStore(const ResultStore&) = delete;
  ResultStore& operator=(const ResultStore&) = delete;
  ResultStore(ResultStore&&) noexcept;

  // All below throw ConfigError when the file cannot be read or written.

  /// A text that the store was given under this name.
  [[nodiscard]] std::optional<std::string> note(const std::string& name) const;
  void set_note(const std::string& name, const std::string& text);

  [[nodiscard]] std::optional<PointResult> find(const std::string& key) const;
  /// Kept until commit(); find() sees it at once.
  void add(const std::string& key, const PointResult& result);
  /// Says that a point of the sweep has the result of this key.
  void add_point(std::size_t point, const std::string& key);
  void remove_point(std::size_t point);
  /// Makes what was added last.
  void commit();
  /// Writes what is committed to another file, which is there whole or not at all.
  void write_copy(const std::filesystem::path& file) const;

  /// Points that have a result, ascending.
  [[nodiscard]] std::vector<std::size_t> points() const;
  /// Numbers of points by status.
  [[nodiscard]] std::map<std::string, std::size_t> statuses() const;
  /// Each point with its key and result, ascending.
  void for_each(
      const std::function<void(std::size_t, const std::string&, const PointResult&)>& use) const;

 private:
  struct Database;
  explicit ResultStore(std::unique_ptr<Database> database);

  std::unique_ptr<Database> database_;
};

}  // namespace nearkv
