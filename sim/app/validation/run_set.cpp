#include "sim/app/validation/run_set.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "sim/app/point_key.hpp"
#include "sim/core/hash.hpp"

namespace nearkv {

namespace fs = std::filesystem;

namespace {

std::optional<std::string> read_file(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  return stream.good() || stream.eof() ? std::optional(std::move(text)) : std::nullopt;
}

/// Records by key; a file is the hash of the record on the first line, and the record.
class RecordCache {
 public:
  explicit RecordCache(const fs::path& folder)
      : folder_(folder.empty() ? fs::path() : folder / "records" / program_hash()) {}

  std::optional<std::string> find(const std::string& key) const {
    const std::optional<std::string> text = folder_.empty() ? std::nullopt : read_file(file(key));
    const std::size_t end = text ? text->find('\n') : std::string::npos;
    if (end == std::string::npos) {
      return std::nullopt;
    }
    std::string record = text->substr(end + 1);
    const bool is_whole = text->compare(0, end, content_hash(record)) == 0;
    return is_whole ? std::optional(std::move(record)) : std::nullopt;
  }

  /// Drops what the programs of long ago left: each build has a folder of its own.
  void forget_old_programs() const {
    constexpr std::size_t kPrograms = 8;
    std::error_code ignored;
    std::vector<std::pair<fs::file_time_type, fs::path>> folders;
    for (const auto& entry : fs::directory_iterator(folder_.parent_path(), ignored)) {
      if (entry.path() != folder_) {
        folders.emplace_back(entry.last_write_time(ignored), entry.path());
      }
    }
    std::sort(folders.rbegin(), folders.rend());
    for (std::size_t i = kPrograms - 1; i < folders.size(); ++i) {
      fs::remove_all(folders[i].second, ignored);
    }
  }

  void store(const std::string& key, const std::string& record) const {
    if (!folder_.empty()) {
      write_file_atomically(file(key), content_hash(record) + "\n" + record);
    }
  }

 private:
  fs::path file(const std::string& key) const { return folder_ / (key + ".record"); }

  fs::path folder_;
};

}  // namespace

RunSet run_set(const std::vector<PreparedPoint>& points, const RunSetOptions& options) {
  const RecordCache cache(options.cache);
  std::vector<std::string> keys;
  std::map<std::string, PointOutcome> outcomes;
  std::vector<PreparedPoint> missing;
  std::vector<std::string> missing_keys;
  for (const PreparedPoint& point : points) {
    keys.push_back(config_key(point.config));
    const auto [outcome, is_new] = outcomes.emplace(keys.back(), PointOutcome{});
    if (!is_new) {
      continue;
    }
    if (std::optional<std::string> record = cache.find(keys.back())) {
      outcome->second.end = ChildEnd::finished;
      outcome->second.record_text = std::move(*record);
    } else {
      missing.push_back(point);
      missing_keys.push_back(keys.back());
    }
  }
  const auto store = [&](std::size_t i, const PointOutcome& outcome) {
    if (outcome.has_finished()) {
      cache.store(missing_keys[i], outcome.record_text);
    }
  };
  const bool is_worth_a_line = missing.size() > 1 || options.progress == Progress::Style::terminal;
  std::vector<PointOutcome> ran =
      run_points(missing, {options.jobs, options.label,
                           is_worth_a_line ? options.progress : Progress::Style::silent, store,
                           options.limits});
  for (std::size_t i = 0; i < missing.size(); ++i) {
    outcomes[missing_keys[i]] = std::move(ran[i]);
  }
  if (!missing.empty() && !options.cache.empty()) {
    cache.forget_old_programs();
  }
  RunSet set{.outcomes = {}, .run = missing.size()};
  for (const std::string& key : keys) {
    set.outcomes.push_back(outcomes.at(key));
  }
  return set;
}

}  // namespace nearkv
