// Runs a sweep's points into its journal.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "sim/app/progress.hpp"
#include "sim/app/sweep/result_store.hpp"
#include "sim/app/sweep/sweep_plan.hpp"

namespace nearkv {

/// Every count-th point from the index-th on (index from 0).
struct SweepShard {
  std::size_t index = 0;
  std::size_t count = 1;
};

/// What to do when the folder has results.
enum class EarlierResults { refuse, resume, retry_failed, drop };

struct SweepRunOptions {
  int jobs = 1;
  SweepShard shard;
  EarlierResults earlier = EarlierResults::refuse;
  Progress::Style progress = Progress::Style::silent;
  std::filesystem::path cache;  // folder of results that sweeps share; empty: none
};

struct SweepCounts {
  std::size_t asked = 0;    // points of this shard
  std::size_t earlier = 0;  // had a result in the journal
  std::size_t shared = 0;   // took that of an equal point, of this or another sweep
  std::size_t ran = 0;
};

/// A folder with a sweep's results; one program at a time writes there.
class SweepFolder {
 public:
  /// Makes the folder, takes its lock and opens the journal. Throws ConfigError when another
  /// program has the lock.
  explicit SweepFolder(std::filesystem::path folder);
  ~SweepFolder();
  SweepFolder(const SweepFolder&) = delete;
  SweepFolder& operator=(const SweepFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return folder_; }
  [[nodiscard]] ResultStore& journal() { return *journal_; }
  /// Deletes all results.
  void clear();

 private:
  [[nodiscard]] std::filesystem::path journal_file() const { return folder_ / "journal.sqlite"; }

  std::filesystem::path folder_;
  int lock_ = -1;
  std::unique_ptr<ResultStore> journal_;
};

/// Runs the points that have no result. Each result is in the journal a moment after its point
/// ended, however this program ends. Throws Interrupted, and ConfigError when the journal has
/// results that `earlier` does not allow, is of another sweep or program, or cannot be written.
SweepCounts run_sweep(const SweepPlan& plan, SweepFolder& folder, const SweepRunOptions& options);

/// Takes the results of other folders of the same sweep and program into `folder`, and returns how
/// many points it then has. Throws ConfigError for a folder of another sweep or program.
std::size_t merge_sweeps(const SweepPlan& plan, const std::vector<std::filesystem::path>& parts,
                         SweepFolder& folder);

/// Runs a point in this process. Never throws: what stops it is its result.
[[nodiscard]] PointResult run_sweep_point(const nlohmann::json& config);

}  // namespace nearkv
