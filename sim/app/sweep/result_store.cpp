#include "sim/app/sweep/result_store.hpp"

#include <cerrno>
#include <cstring>
#include <functional>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sqlite3.h>
#include <unistd.h>

#include "sim/core/check.hpp"
#include "sim/core/hash.hpp"

namespace nearkv {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int kApplicationId = 0x4e4b5653;  // "NKVS": says whose file it is
constexpr int kFormat = 2;
constexpr int kToWrite = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
constexpr int kBusyMilliseconds = 60'000;  // other programs share the cache

constexpr const char* kSchema = R"(
  CREATE TABLE IF NOT EXISTS note (
    name TEXT PRIMARY KEY, text TEXT NOT NULL, seal TEXT NOT NULL) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS metric_list (
    id INTEGER PRIMARY KEY, names TEXT NOT NULL UNIQUE, seal TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS result (
    key TEXT PRIMARY KEY, status TEXT NOT NULL, detail TEXT NOT NULL,
    metric_list INTEGER NOT NULL, numbers BLOB NOT NULL, seal TEXT NOT NULL) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS point (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL, seal TEXT NOT NULL);
)";

/// A hash of a row, kept with it: SQLite does not notice a bit that changed on the disk.
template <class... Columns>
std::string seal_of(const Columns&... columns) {
  constexpr std::size_t kLength = 16;
  std::string text;
  ((text += fmt::format("{} ", columns), text += '\0'), ...);
  return content_hash(text).substr(0, kLength);
}

std::string names_of(const std::vector<Metric>& metrics) {
  json names = json::array();
  for (const Metric& metric : metrics) {
    names.push_back({metric.name, metric.unit});
  }
  return names.dump();
}

std::string numbers_of(const std::vector<Metric>& metrics) {
  std::string bytes(metrics.size() * sizeof(double), '\0');
  for (std::size_t i = 0; i < metrics.size(); ++i) {
    std::memcpy(bytes.data() + i * sizeof(double), &metrics[i].value, sizeof(double));
  }
  return bytes;
}

}  // namespace

struct ResultStore::Database {
  /// A statement; compiled once, and kept for the next query of this text.
  class Query {
   public:
    Query(const Database& database, std::string_view text)
        : database_(database), text_(text), statement_(database.take_compiled(text)) {
      if (statement_ == nullptr) {
        database.require(sqlite3_prepare_v3(database.handle, text.data(),
                                            static_cast<int>(text.size()),
                                            SQLITE_PREPARE_PERSISTENT, &statement_, nullptr));
      }
    }
    ~Query() { database_.keep_compiled(text_, statement_); }
    Query(const Query&) = delete;
    Query& operator=(const Query&) = delete;

    Query& bind(std::int64_t number) {
      database_.require(sqlite3_bind_int64(statement_, ++bound_, number));
      return *this;
    }
    Query& bind(const std::string& text) {
      database_.require(sqlite3_bind_text(statement_, ++bound_, text.data(),
                                          static_cast<int>(text.size()), SQLITE_TRANSIENT));
      return *this;
    }
    Query& bind_bytes(const std::string& bytes) {
      database_.require(sqlite3_bind_blob(statement_, ++bound_, bytes.data(),
                                          static_cast<int>(bytes.size()), SQLITE_TRANSIENT));
      return *this;
    }
    /// Whether there is a row.
    bool step() {
      const int result = sqlite3_step(statement_);
      if (result != SQLITE_ROW && result != SQLITE_DONE) {
        database_.require(result);
      }
      return result == SQLITE_ROW;
    }
    [[nodiscard]] std::int64_t number(int column) const {
      return sqlite3_column_int64(statement_, column);
    }
    [[nodiscard]] std::string bytes(int column) const {
      const void* data = sqlite3_column_blob(statement_, column);
      return data == nullptr
                 ? ""
                 : std::string(static_cast<const char*>(data),
                               static_cast<std::size_t>(sqlite3_column_bytes(statement_, column)));
    }

   private:
    const Database& database_;
    std::string text_;
    sqlite3_stmt* statement_;
    int bound_ = 0;
  };

  /// `name` is what SQLite is told where it differs from the file.
  Database(fs::path path, int flags, const std::string& name = {}) : file(std::move(path)) {
    const int opened =
        sqlite3_open_v2(name.empty() ? file.c_str() : name.c_str(), &handle, flags, nullptr);
    if (opened != SQLITE_OK) {
      const std::string problem = problem_of(opened);
      sqlite3_close(handle);
      throw ConfigError(problem);
    }
  }
  ~Database() {
    for (const auto& [text, statement] : compiled) {
      sqlite3_finalize(statement);
    }
    sqlite3_close(handle);
  }
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  [[nodiscard]] std::int64_t number_of(const char* query_text) const {
    Query query(*this, query_text);
    query.step();
    return query.number(0);
  }

  [[nodiscard]] bool is_new() const { return number_of("SELECT count(*) FROM sqlite_master") == 0; }

  void check_is_ours() const {
    const std::int64_t id = number_of("PRAGMA application_id");
    const std::int64_t format = number_of("PRAGMA user_version");
    if (id != kApplicationId || format != kFormat) {
      throw ConfigError(fmt::format(
          "{}: {}; move it away or name another folder", file.string(),
          id != kApplicationId
              ? "is no file of results"
              : fmt::format("has format {}, and this program writes {}", format, kFormat)));
    }
  }

  void prepare() {
    sqlite3_busy_timeout(handle, kBusyMilliseconds);
    const bool was_empty = is_new();
    if (!was_empty) {
      check_is_ours();
    }
    run("PRAGMA journal_mode = WAL");
    run("PRAGMA synchronous = NORMAL");  // in WAL: at most the last results are lost, none is torn
    if (was_empty) {
      run("BEGIN IMMEDIATE");
      run(kSchema);
      run(fmt::format("PRAGMA application_id = {}", kApplicationId));
      run(fmt::format("PRAGMA user_version = {}", kFormat));
      run("COMMIT");
    }
  }

  /// Null where there is none, or another query has it.
  sqlite3_stmt* take_compiled(std::string_view text) const {
    const auto found = compiled.find(text);
    return found == compiled.end() ? nullptr : std::exchange(found->second, nullptr);
  }

  void keep_compiled(const std::string& text, sqlite3_stmt* statement) const {
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    sqlite3_stmt*& kept = compiled[text];
    if (kept == nullptr) {
      kept = statement;
    } else {
      sqlite3_finalize(statement);
    }
  }

  void run(const std::string& statements) const {
    require(sqlite3_exec(handle, statements.c_str(), nullptr, nullptr, nullptr));
  }

  void begin() {
    if (!is_writing) {
      run("BEGIN IMMEDIATE");
      is_writing = true;
    }
  }

  void require(int result) const {
    if (result != SQLITE_OK) {
      throw ConfigError(problem_of(result));
    }
  }

  void require_whole(bool is_whole) const {
    if (!is_whole) {
      throw ConfigError(problem_of(SQLITE_CORRUPT));
    }
  }

  [[nodiscard]] std::string problem_of(int result) const {
    switch (result & 0xff) {
      case SQLITE_FULL:
        return fmt::format(
            "{}: the disk is full; results so far are kept: make room and go on "
            "with --resume",
            file.string());
      case SQLITE_READONLY:
      case SQLITE_PERM:
      case SQLITE_CANTOPEN:
        return fmt::format("{}: cannot be written; name another folder with --out", file.string());
      case SQLITE_CORRUPT:
      case SQLITE_NOTADB:
        return fmt::format("{}: is damaged or no file of results; move it away and run again",
                           file.string());
      default:
        return fmt::format("{}: {}", file.string(), sqlite3_errmsg(handle));
    }
  }

  std::int64_t metric_list_of(const std::string& names) {
    if (const auto known = list_ids.find(names); known != list_ids.end()) {
      return known->second;
    }
    Query(*this, "INSERT OR IGNORE INTO metric_list (names, seal) VALUES (?, ?)")
        .bind(names)
        .bind(seal_of(names))
        .step();
    Query query(*this, "SELECT id FROM metric_list WHERE names = ?");
    query.bind(names);
    check(query.step(), "a list of metrics that was just added");
    return list_ids.emplace(names, query.number(0)).first->second;
  }

  /// Name and unit of each metric of a list.
  const json& names_of_list(std::int64_t id) {
    const auto [known, is_new] = lists.try_emplace(id);
    if (is_new) {
      Query query(*this, "SELECT names, seal FROM metric_list WHERE id = ?");
      query.bind(id);
      require_whole(query.step() && query.bytes(1) == seal_of(query.bytes(0)));
      known->second = json::parse(query.bytes(0));
    }
    return known->second;
  }

  /// Of the columns status, detail, metric_list, numbers and seal, from `first` on.
  PointResult result_of(const std::string& key, const Query& query, int first) {
    PointResult result{query.bytes(first), query.bytes(first + 1), {}};
    const std::string numbers = query.bytes(first + 3);
    require_whole(query.bytes(first + 4) ==
                  seal_of(key, result.status, result.detail, query.number(first + 2), numbers));
    const json& names = names_of_list(query.number(first + 2));
    require_whole(numbers.size() == names.size() * sizeof(double));
    for (std::size_t i = 0; i < names.size(); ++i) {
      double value = 0;
      std::memcpy(&value, numbers.data() + i * sizeof(double), sizeof(double));
      result.metrics.push_back({names[i][0], value, names[i][1], {}});
    }
    return result;
  }

  fs::path file;
  sqlite3* handle = nullptr;
  bool is_writing = false;
  mutable std::map<std::string, sqlite3_stmt*, std::less<>> compiled;
  std::map<std::string, std::int64_t> list_ids;
  std::map<std::int64_t, json> lists;
};

ResultStore::ResultStore(const fs::path& file) {
  std::error_code ignored;
  fs::create_directories(file.parent_path(), ignored);
  database_ = std::make_unique<Database>(file, kToWrite);
  database_->prepare();
}

ResultStore::ResultStore() : database_(std::make_unique<Database>(":memory:", kToWrite)) {
  database_->prepare();
}

ResultStore::ResultStore(std::unique_ptr<Database> database) : database_(std::move(database)) {}

ResultStore ResultStore::to_read(const fs::path& file) {
  // Nothing is made beside the file, and no lock is asked of a file system that may have none.
  std::string name = "file:";
  for (const char letter : fs::absolute(file).string()) {
    const bool is_special = letter == '?' || letter == '#' || letter == '%';
    name += is_special ? fmt::format("%{:02x}", static_cast<int>(letter)) : std::string(1, letter);
  }
  auto database = std::make_unique<Database>(file, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI,
                                             name + "?immutable=1");
  database->check_is_ours();
  return ResultStore(std::move(database));
}

ResultStore::~ResultStore() = default;
ResultStore::ResultStore(ResultStore&&) noexcept = default;

std::optional<std::string> ResultStore::note(const std::string& name) const {
  Database::Query query(*database_, "SELECT text, seal FROM note WHERE name = ?");
  query.bind(name);
  if (!query.step()) {
    return std::nullopt;
  }
  database_->require_whole(query.bytes(1) == seal_of(name, query.bytes(0)));
  return query.bytes(0);
}

void ResultStore::set_note(const std::string& name, const std::string& text) {
  database_->begin();
  Database::Query(*database_, "INSERT OR REPLACE INTO note (name, text, seal) VALUES (?, ?, ?)")
      .bind(name)
      .bind(text)
      .bind(seal_of(name, text))
      .step();
}

std::optional<PointResult> ResultStore::find(const std::string& key) const {
  Database::Query query(*database_,
                        "SELECT status, detail, metric_list, numbers, seal FROM result "
                        "WHERE key = ?");
  query.bind(key);
  return query.step() ? std::optional(database_->result_of(key, query, 0)) : std::nullopt;
}

void ResultStore::add(const std::string& key, const PointResult& result) {
  database_->begin();
  const std::int64_t list = database_->metric_list_of(names_of(result.metrics));
  const std::string numbers = numbers_of(result.metrics);
  Database::Query(*database_,
                  "INSERT OR REPLACE INTO result "
                  "(key, status, detail, metric_list, numbers, seal) VALUES (?, ?, ?, ?, ?, ?)")
      .bind(key)
      .bind(result.status)
      .bind(result.detail)
      .bind(list)
      .bind_bytes(numbers)
      .bind(seal_of(key, result.status, result.detail, list, numbers))
      .step();
}

void ResultStore::add_point(std::size_t point, const std::string& key) {
  database_->begin();
  Database::Query(*database_, "INSERT OR REPLACE INTO point (number, key, seal) VALUES (?, ?, ?)")
      .bind(static_cast<std::int64_t>(point))
      .bind(key)
      .bind(seal_of(point, key))
      .step();
}

void ResultStore::remove_point(std::size_t point) {
  database_->begin();
  Database::Query(*database_, "DELETE FROM point WHERE number = ?")
      .bind(static_cast<std::int64_t>(point))
      .step();
}

void ResultStore::commit() {
  if (database_->is_writing) {
    database_->run("COMMIT");
    database_->is_writing = false;
  }
}

void ResultStore::write_copy(const fs::path& file) const {
  const fs::path unfinished = fmt::format("{}.{}.tmp", file.string(), getpid());
  std::error_code problem;
  fs::remove(unfinished, problem);
  const auto fail = [&](const std::string& why) {
    fs::remove(unfinished, problem);
    throw ConfigError(fmt::format("{}: cannot be written ({})", file.string(), why));
  };
  Database::Query query(*database_, "VACUUM INTO ?");
  query.bind(unfinished.string());
  try {
    query.step();
  } catch (const ConfigError&) {
    fail(sqlite3_errmsg(database_->handle));
  }
  // SQLite leaves it to the system when a copy is on the disk.
  const int written = open(unfinished.c_str(), O_RDONLY | O_CLOEXEC);
  if (written < 0 || fsync(written) != 0) {
    fail(std::strerror(errno));
  }
  ::close(written);
  fs::rename(unfinished, file, problem);
  if (problem) {
    fail(problem.message());
  }
}

std::vector<std::size_t> ResultStore::points() const {
  std::vector<std::size_t> points;
  Database::Query query(*database_, "SELECT number, key, seal FROM point ORDER BY number");
  while (query.step()) {
    points.push_back(static_cast<std::size_t>(query.number(0)));
    database_->require_whole(query.bytes(2) == seal_of(points.back(), query.bytes(1)));
  }
  return points;
}

std::map<std::string, std::size_t> ResultStore::statuses() const {
  std::map<std::string, std::size_t> counts;
  Database::Query query(*database_,
                        "SELECT status, count(*) FROM point JOIN result USING (key) GROUP BY 1");
  while (query.step()) {
    counts[query.bytes(0)] = static_cast<std::size_t>(query.number(1));
  }
  return counts;
}

void ResultStore::for_each(
    const std::function<void(std::size_t, const std::string&, const PointResult&)>& use) const {
  Database::Query query(*database_,
                        "SELECT number, key, point.seal, status, detail, metric_list, numbers, "
                        "result.seal FROM point LEFT JOIN result USING (key) ORDER BY number");
  while (query.step()) {
    const auto point = static_cast<std::size_t>(query.number(0));
    const std::string key = query.bytes(1);
    database_->require_whole(query.bytes(2) == seal_of(point, key));
    use(point, key, database_->result_of(key, query, 3));
  }
}

}  // namespace nearkv
