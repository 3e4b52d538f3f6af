// Runs a sweep's points into its journal.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sim/app/progress.hpp"
#include "sim/app/run_limits.hpp"
#include "sim/app/sweep/result_store.hpp"
#include "sim/app/sweep/sweep_plan.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

/// Every count-th point from the index-th on (index from 0).
struct SweepShard {
  std::size_t index = 0;
  std::size_t count = 1;
};

/// What to do when the folder has results.
enum class EarlierResults { refuse, resume, retry_failed, drop };

struct PointRunOptions {
  int jobs = 1;
  Progress::Style progress = Progress::Style::silent;
  std::filesystem::path cache{};      // folder of results that sweeps share; empty: none
  std::function<void()> committed{};  // called after results were committed; may be empty
  RunLimitOptions limits{};           // of each point; go before those of the sweep's file
};

struct SweepCounts {
  std::size_t shared = 0;  // took the result of an equal point, of this or another sweep
  std::size_t ran = 0;
};

/// Another program writes to the folder of a sweep.
class FolderInUse : public ConfigError {
 public:
  using ConfigError::ConfigError;
};

/// A folder with a sweep's results; one program at a time writes there.
class SweepFolder {
 public:
  /// Makes the folder, takes its lock and opens the journal. Throws FolderInUse when another
  /// program has the lock, and ConfigError.
  explicit SweepFolder(std::filesystem::path folder);
  ~SweepFolder();
  SweepFolder(const SweepFolder&) = delete;
  SweepFolder& operator=(const SweepFolder&) = delete;

  [[nodiscard]] static std::filesystem::path journal_in(const std::filesystem::path& folder) {
    return folder / "journal.sqlite";
  }
  [[nodiscard]] const std::filesystem::path& path() const { return folder_; }
  [[nodiscard]] ResultStore& journal() { return *journal_; }
  [[nodiscard]] const ResultStore& journal() const { return *journal_; }
  /// Deletes all results.
  void clear();

 private:
  std::filesystem::path folder_;
  int lock_ = -1;
  std::unique_ptr<ResultStore> journal_;
};

/// Says in a journal whose results it has.
void begin_journal(ResultStore& journal, const SweepPlan& plan);

/// Throws ConfigError, which calls the store `name`, when it is of another sweep or program.
void check_is_of(const SweepPlan& plan, const ResultStore& store, const std::string& name);

/// Begins the folder's journal, or checks that it may go on. Throws ConfigError when it has results
/// that `earlier` does not allow, or is of another sweep or program.
void open_journal(const SweepPlan& plan, SweepFolder& folder, EarlierResults earlier);

/// The shard's points that are to run: those without a result, or with one that `earlier` retries.
[[nodiscard]] std::vector<std::size_t> points_to_run(const SweepPlan& plan,
                                                     const ResultStore& journal,
                                                     const SweepShard& shard,
                                                     EarlierResults earlier);

/// Runs points into a journal. Each result is there a moment after its point ended, however this
/// program ends. Throws Interrupted, and ConfigError when the journal cannot be written.
SweepCounts run_points(const SweepPlan& plan, std::vector<std::size_t> points, ResultStore& journal,
                       const PointRunOptions& options);

/// Gives points the result that the journal or the cache has of an equal point, and returns those
/// that neither knows.
[[nodiscard]] std::vector<std::size_t> take_known_results(const SweepPlan& plan,
                                                          const std::vector<std::size_t>& points,
                                                          ResultStore& journal, ResultStore& cache);

/// The file in a cache's folder with the results of this program.
[[nodiscard]] std::filesystem::path cache_file(const std::filesystem::path& cache);

/// Takes all results that `part`, of the same sweep and program, has. Throws ConfigError, which
/// calls it `name`, where it is of another.
void take_results(const SweepPlan& plan, ResultStore& journal, const ResultStore& part,
                  const std::string& name);

/// Takes the results of other folders of the same sweep and program into `folder`, and returns how
/// many points it then has. Throws ConfigError for a folder of another sweep or program.
std::size_t merge_sweeps(const SweepPlan& plan, const std::vector<std::filesystem::path>& parts,
                         SweepFolder& folder);

/// Runs a point in this process. Never throws: what stops it is its result.
[[nodiscard]] PointResult run_sweep_point(const nlohmann::json& config);

}  // namespace nearkv
