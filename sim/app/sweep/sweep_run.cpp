#include "sim/app/sweep/sweep_run.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include "build_info.hpp"
#include "sim/app/point.hpp"
#include "sim/app/point_key.hpp"
#include "sim/app/process_pool.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::chrono::milliseconds kCommitEvery{250};

json as_json(const PointResult& result) {
  json metrics = json::array();
  for (const Metric& metric : result.metrics) {
    metrics.push_back({metric.name, metric.value, metric.unit});
  }
  return {result.status, result.detail, std::move(metrics)};
}

PointResult result_of(const json& written) {
  PointResult result{written[0], written[1], {}};
  for (const json& metric : written[2]) {
    result.metrics.push_back({metric[0], metric[1], metric[2], {}});
  }
  return result;
}

PointResult result_of(const ChildResult& child, const RunLimits& limits) {
  if (is_stopped(child.end)) {
    return {std::string(name_of(RunStatus::stopped)), stopped_detail(child.end, limits), {}};
  }
  return child.end == ChildEnd::finished ? result_of(json::parse(child.output))
                                         : PointResult{"failed", child.output, {}};
}

/// Those of the command line, else those of the file.
RunLimits limits_of(const Sweep& sweep, const RunLimitOptions& options) {
  RunLimits limits = limits_of(options);
  if (options.wall.empty() && sweep.most_seconds) {
    limits.child.most_seconds = *sweep.most_seconds;
    limits.wall = fmt::format("{} s (most_seconds)", *sweep.most_seconds);
  }
  if (options.memory.empty() && sweep.most_memory) {
    limits.child.most_bytes = sweep.most_memory->count();
    limits.memory = format_exact(*sweep.most_memory) + " of memory (most_memory)";
  }
  return limits;
}

/// Paths at which two sweeps differ, the first few.
std::string differences(const json& a, const json& b) {
  std::vector<std::string> paths;
  for (const json& change : json::diff(a, b)) {
    paths.push_back(change.at("path"));
  }
  std::sort(paths.begin(), paths.end());
  constexpr std::size_t kShown = 5;
  const std::string rest =
      paths.size() > kShown ? fmt::format(" and {} more", paths.size() - kShown) : "";
  paths.resize(std::min(paths.size(), kShown));
  return fmt::format("{}{}", fmt::join(paths, ", "), rest);
}

void check_earlier(const SweepPlan& plan, const SweepFolder& folder, const ResultStore& journal,
                   EarlierResults allowed) {
  const std::string place = folder.path().string();
  if (allowed == EarlierResults::refuse) {
    throw ConfigError(fmt::format(
        "{}: has results of {} of {} points of this name; --resume goes on, --again starts over, "
        "--out names another folder",
        place, journal.points().size(), journal.note("points").value_or("?")));
  }
  const json before = json::parse(journal.note("sweep").value_or("null"));
  if (before != plan.sweep().document) {
    throw ConfigError(fmt::format(
        "{}: cannot be resumed: the sweep was another one when it was begun; what changed: {}; "
        "--again starts over",
        place, differences(before, plan.sweep().document)));
  }
  if (journal.note("program") != program_hash()) {
    throw ConfigError(
        fmt::format("{}: cannot be resumed: it was begun by another build of nearkv ({}); "
                    "--again starts over",
                    place, journal.note("version").value_or("unknown")));
  }
}

std::optional<PointResult> known_result(const std::string& key, const ResultStore& journal,
                                        const ResultStore* cache) {
  if (std::optional<PointResult> known = journal.find(key); known && known->is_repeatable()) {
    return known;
  }
  return cache != nullptr ? cache->find(key) : std::nullopt;
}

/// Runs points into a journal.
class Runner {
 public:
  Runner(const SweepPlan& plan, std::vector<std::size_t> points, ResultStore& journal,
         const PointRunOptions& options)
      : plan_(plan),
        journal_(journal),
        options_(options),
        limits_(limits_of(plan.sweep(), options.limits)),
        todo_(std::move(points)) {
    if (!options.cache.empty()) {
      cache_ = std::make_unique<ResultStore>(cache_file(options.cache));
    }
  }

  SweepCounts run() {
    Progress progress(plan_.sweep().name, todo_.size(), options_.progress);
    const auto next = [&] { return next_task(progress); };
    const auto work = [this](std::size_t point) {
      return as_json(run_sweep_point(plan_.config(point))).dump();
    };
    const auto done = [&](std::size_t point, const ChildResult& child) {
      say_diagnostics(progress, point, child);
      finish(point, result_of(child, limits_));
      progress.advance();
    };
    const auto tick = [&] {
      progress.tick();
      commit_now_and_then();
    };
    try {
      run_in_processes(next, {options_.jobs, tick, limits_.child}, work, done);
    } catch (const Interrupted&) {
      commit();
      throw;
    }
    commit();
    return counts_;
  }

 private:
  /// The next point that must run; those whose result is known are written on the way.
  std::optional<std::size_t> next_task(Progress& progress) {
    while (next_ < todo_.size()) {
      const std::size_t point = todo_[next_++];
      std::string key = plan_.key(point);
      if (const std::optional<PointResult> known = known_result(key, journal_, cache_.get())) {
        journal_.add(key, *known);
        journal_.add_point(point, key);
        ++counts_.shared;
        progress.advance();
        commit_now_and_then();
        continue;
      }
      if (!running_.try_emplace(key).second) {
        running_[key].push_back(point);  // an equal point is running
        continue;
      }
      keys_.emplace(point, std::move(key));
      return point;
    }
    return std::nullopt;
  }

  void finish(std::size_t point, const PointResult& result) {
    const std::string key = keys_.extract(point).mapped();
    journal_.add(key, result);
    journal_.add_point(point, key);
    const auto equal_points = running_.extract(key);
    for (const std::size_t equal : equal_points.mapped()) {
      journal_.add_point(equal, key);
      ++counts_.shared;
    }
    if (cache_ && result.is_repeatable()) {
      cache_->add(key, result);
    }
    ++counts_.ran;
    commit_now_and_then();
  }

  void say_diagnostics(Progress& progress, std::size_t point, const ChildResult& child) const {
    if (!child.diagnostics.empty()) {
      std::string text = child.diagnostics;
      text.erase(text.find_last_not_of('\n') + 1);
      progress.say(prefix_lines(fmt::format("point {}", point + 1), text));
    }
  }

  void commit_now_and_then() {
    const auto now = std::chrono::steady_clock::now();
    if (now - committed_ >= kCommitEvery) {
      commit();
      committed_ = now;
    }
  }

  void commit() {
    journal_.commit();
    if (cache_) {
      cache_->commit();
    }
    if (options_.committed) {
      options_.committed();
    }
  }

  const SweepPlan& plan_;
  ResultStore& journal_;
  const PointRunOptions& options_;
  RunLimits limits_;
  std::unique_ptr<ResultStore> cache_;
  std::vector<std::size_t> todo_;
  std::size_t next_ = 0;
  std::map<std::size_t, std::string> keys_;                  // of the points that run
  std::map<std::string, std::vector<std::size_t>> running_;  // and points equal to them
  std::chrono::steady_clock::time_point committed_{};
  SweepCounts counts_;
};

}  // namespace

SweepFolder::SweepFolder(fs::path folder) : folder_(std::move(folder)) {
  check_output_folder(folder_);
  fs::create_directories(folder_);
  const fs::path file = folder_ / "lock";
  lock_ = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_ < 0) {
    throw ConfigError(fmt::format("{}: {}", file.string(), std::strerror(errno)));
  }
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    std::string holder;
    std::getline(std::ifstream(file), holder);
    ::close(lock_);
    throw FolderInUse(
        fmt::format("{}: another program writes there ({}); wait for it, or name "
                    "another folder with --out",
                    folder_.string(), holder));
  }
  const std::string holder = fmt::format("process {}\n", getpid());
  if (ftruncate(lock_, 0) != 0 ||
      write(lock_, holder.data(), holder.size()) != static_cast<ssize_t>(holder.size())) {
    ::close(lock_);
    throw ConfigError(fmt::format("{}: {}", file.string(), std::strerror(errno)));
  }
  journal_ = std::make_unique<ResultStore>(journal_in(folder_));
}

SweepFolder::~SweepFolder() {
  journal_.reset();  // before another program may open it
  ::close(lock_);
}

void SweepFolder::clear() {
  journal_.reset();
  for (const char* ending : {"", "-wal", "-shm"}) {
    fs::remove(journal_in(folder_).string() + ending);
  }
  journal_ = std::make_unique<ResultStore>(journal_in(folder_));
}

void check_is_of(const SweepPlan& plan, const ResultStore& store, const std::string& name) {
  if (json::parse(store.note("sweep").value_or("null")) != plan.sweep().document) {
    throw ConfigError(fmt::format("{}: has results of another sweep", name));
  }
  if (store.note("program") != program_hash()) {
    throw ConfigError(fmt::format("{}: was made by another build of nearkv ({})", name,
                                  store.note("version").value_or("unknown")));
  }
}

void begin_journal(ResultStore& journal, const SweepPlan& plan) {
  journal.set_note("sweep", plan.sweep().document.dump());
  journal.set_note("points", std::to_string(plan.size()));
  journal.set_note("program", program_hash());
  journal.set_note("version", std::string(build_info::kVersion));
  journal.commit();
}

void open_journal(const SweepPlan& plan, SweepFolder& folder, EarlierResults earlier) {
  const bool has_results = folder.journal().note("sweep").has_value();
  if (has_results && earlier != EarlierResults::drop) {
    check_earlier(plan, folder, folder.journal(), earlier);
    return;
  }
  if (has_results) {
    folder.clear();
  }
  begin_journal(folder.journal(), plan);
}

std::vector<std::size_t> points_to_run(const SweepPlan& plan, const ResultStore& journal,
                                       const SweepShard& shard, EarlierResults earlier) {
  std::vector<bool> has_result(plan.size());
  if (earlier == EarlierResults::retry_failed) {
    journal.for_each([&](std::size_t point, const std::string&, const PointResult& result) {
      has_result.at(point) = result.is_repeatable();
    });
  } else {
    for (const std::size_t point : journal.points()) {
      has_result.at(point) = true;
    }
  }
  std::vector<std::size_t> points;
  for (std::size_t i = shard.index; i < plan.size(); i += shard.count) {
    if (!has_result[i]) {
      points.push_back(i);
    }
  }
  return points;
}

SweepCounts run_points(const SweepPlan& plan, std::vector<std::size_t> points, ResultStore& journal,
                       const PointRunOptions& options) {
  return Runner(plan, std::move(points), journal, options).run();
}

std::vector<std::size_t> take_known_results(const SweepPlan& plan,
                                            const std::vector<std::size_t>& points,
                                            ResultStore& journal, ResultStore& cache) {
  std::vector<std::size_t> unknown;
  for (const std::size_t point : points) {
    const std::string key = plan.key(point);
    if (const std::optional<PointResult> known = known_result(key, journal, &cache)) {
      journal.add(key, *known);
      journal.add_point(point, key);
    } else {
      unknown.push_back(point);
    }
  }
  journal.commit();
  return unknown;
}

fs::path cache_file(const fs::path& cache) {
  return cache / "points" / (program_hash() + ".sqlite");
}

void take_results(const SweepPlan& plan, ResultStore& journal, const ResultStore& part,
                  const std::string& name) {
  check_is_of(plan, part, name);
  part.for_each([&](std::size_t point, const std::string& key, const PointResult& result) {
    journal.add(key, result);
    journal.add_point(point, key);
  });
  journal.commit();
}

std::size_t merge_sweeps(const SweepPlan& plan, const std::vector<fs::path>& parts,
                         SweepFolder& folder) {
  ResultStore& journal = folder.journal();
  if (!journal.note("sweep")) {
    begin_journal(journal, plan);
  }
  check_is_of(plan, journal, folder.path().string());
  for (const fs::path& part : parts) {
    take_results(plan, journal, ResultStore(SweepFolder::journal_in(part)), part.string());
  }
  return journal.points().size();
}

PointResult run_sweep_point(const json& config) {
  try {
    const RunRecord record = simulate({.origin = {}, .name = {}, .config = config});
    const RunOutcome& outcome = record.outcome;
    return {std::string(name_of(outcome.status)), outcome.status_detail, outcome.metrics.all()};
  } catch (const ConfigError& error) {
    return {"refused", error.what(), {}};
  } catch (const std::exception& error) {
    return {"failed", error.what(), {}};
  }
}

}  // namespace nearkv
