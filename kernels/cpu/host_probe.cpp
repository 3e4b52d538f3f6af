#include "kernels/cpu/host_probe.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <fstream>
#include <locale>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>

#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "kernels/cpu/simd.hpp"

namespace nearkv::kernels::cpu {

// -- Threads ----------------------------------------------------------------------------------

struct ThreadTeam::State {
  std::mutex mutex;
  std::condition_variable work_came;
  std::condition_variable work_done;
  const std::function<void(int)>* work = nullptr;
  std::uint64_t round = 0;  // of work; threads wait for the next
  int still_working = 0;
  bool stops = false;
  std::exception_ptr failure;
  std::vector<std::thread> threads;

  void call(const std::function<void(int)>& function, int thread) {
    try {
      function(thread);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) {
        failure = std::current_exception();
      }
    }
  }

  void serve(int thread) {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex);
    while (true) {
      work_came.wait(lock, [&] { return stops || round != seen; });
      if (stops) {
        return;
      }
      seen = round;
      const std::function<void(int)>& function = *work;
      lock.unlock();
      call(function, thread);
      lock.lock();
      if (--still_working == 0) {
        work_done.notify_one();
      }
    }
  }
};

ThreadTeam::ThreadTeam(int threads) : state_(std::make_unique<State>()) {
  if (threads < 1) {
    throw std::invalid_argument("threads: must be at least 1, is " + std::to_string(threads));
  }
  for (int thread = 1; thread < threads; ++thread) {
    state_->threads.emplace_back([state = state_.get(), thread] { state->serve(thread); });
  }
}

ThreadTeam::~ThreadTeam() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stops = true;
  }
  state_->work_came.notify_all();
  for (std::thread& thread : state_->threads) {
    thread.join();
  }
}

int ThreadTeam::size() const { return static_cast<int>(state_->threads.size()) + 1; }

void ThreadTeam::run(const std::function<void(int)>& work) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->work = &work;
    state_->still_working = static_cast<int>(state_->threads.size());
    ++state_->round;
  }
  state_->work_came.notify_all();
  state_->call(work, 0);
  std::unique_lock lock(state_->mutex);
  state_->work_done.wait(lock, [this] { return state_->still_working == 0; });
  if (state_->failure) {
    std::rethrow_exception(std::exchange(state_->failure, nullptr));
  }
}

Slice slice_of(std::size_t count, int index, int parts) {
  const auto i = static_cast<std::size_t>(index);
  const auto n = static_cast<std::size_t>(parts);
  const std::size_t small = count / n;
  const std::size_t larger = count % n;  // so many slices have one more
  return {.first = i * small + std::min(i, larger), .size = small + (i < larger ? 1 : 0)};
}

// -- Memory -----------------------------------------------------------------------------------

MemoryProbe::MemoryProbe(ThreadTeam& team, std::size_t bytes)
    : team_(team), words_(bytes / sizeof(std::uint64_t)) {
  if (words_ == 0 || bytes % sizeof(std::uint64_t) != 0) {
    throw std::invalid_argument("bytes: must be a multiple of 8 above 0, is " +
                                std::to_string(bytes));
  }
  from_ = std::unique_ptr<std::uint64_t[]>(new std::uint64_t[words_]);
  to_ = std::unique_ptr<std::uint64_t[]>(new std::uint64_t[words_]);
  team_.run([this](int thread) {
    const Slice slice = slice_of(words_, thread, team_.size());
    for (std::size_t i = slice.first; i < slice.first + slice.size; ++i) {
      from_[i] = i;
      to_[i] = 0;
    }
  });
}

void MemoryProbe::read() {
  std::atomic<std::uint64_t> sum{0};
  team_.run([&](int thread) {
    const Slice slice = slice_of(words_, thread, team_.size());
    sum += read_words({from_.get() + slice.first, slice.size});
  });
  checksum_ = sum;
}

void MemoryProbe::copy() {
  team_.run([this](int thread) {
    const Slice slice = slice_of(words_, thread, team_.size());
    std::memcpy(to_.get() + slice.first, from_.get() + slice.first,
                slice.size * sizeof(std::uint64_t));
  });
  checksum_ = to_[0] + to_[words_ / 2] + to_[words_ - 1];
}

// -- Matrix products --------------------------------------------------------------------------

struct GemmProbe::Matrices {
  Eigen::MatrixXf left;
  std::vector<Eigen::MatrixXf> right;
  Eigen::MatrixXf product;
  std::size_t turn = 0;
  std::size_t last = 0;  // which of `right` was multiplied last
};

GemmProbe::GemmProbe(ThreadTeam& team, const GemmShape& shape, std::size_t least_bytes)
    : team_(team), matrices_(std::make_unique<Matrices>()) {
  if (shape.rows < 1 || shape.columns < 1 || shape.depth < 1) {
    throw std::invalid_argument("shape: rows, columns and depth must be at least 1");
  }
  // Values in -1 .. 1 that differ by place and copy; what they are does not matter.
  const auto value = [](Eigen::Index i, Eigen::Index j, std::size_t copy) {
    constexpr int kPeriod = 251;
    const auto mixed =
        (static_cast<std::size_t>(i) * 7 + static_cast<std::size_t>(j) * 13 + copy) % kPeriod;
    return static_cast<float>(mixed) / (kPeriod / 2.0F) - 1.0F;
  };
  const auto filled = [&](int rows, int columns, std::size_t copy) {
    return Eigen::MatrixXf(Eigen::MatrixXf::NullaryExpr(
        rows, columns, [&](Eigen::Index i, Eigen::Index j) { return value(i, j, copy); }));
  };
  const std::size_t bytes = static_cast<std::size_t>(shape.depth) *
                            static_cast<std::size_t>(shape.columns) * sizeof(float);
  const std::size_t copies = std::max<std::size_t>(1, (least_bytes + bytes - 1) / bytes);
  matrices_->left = filled(shape.rows, shape.depth, 0);
  for (std::size_t copy = 0; copy < copies; ++copy) {
    matrices_->right.push_back(filled(shape.depth, shape.columns, copy));
  }
  matrices_->product = Eigen::MatrixXf::Zero(shape.rows, shape.columns);
}

GemmProbe::~GemmProbe() = default;

void GemmProbe::run() {
  Matrices& m = *matrices_;
  m.last = m.turn++ % m.right.size();
  team_.run([&](int thread) {
    const Slice slice = slice_of(static_cast<std::size_t>(m.product.cols()), thread, team_.size());
    if (slice.size > 0) {
      const auto first = static_cast<Eigen::Index>(slice.first);
      const auto size = static_cast<Eigen::Index>(slice.size);
      m.product.middleCols(first, size).noalias() =
          m.left * m.right[m.last].middleCols(first, size);
    }
  });
}

float GemmProbe::value(int row, int column) const { return matrices_->product(row, column); }

double GemmProbe::exact_value(int row, int column) const {
  const Matrices& m = *matrices_;
  return m.left.row(row).cast<double>().dot(m.right[m.last].col(column).cast<double>().transpose());
}

struct PrefillProbe::Matrices {
  Eigen::MatrixXf q;  // [d_head x tokens], a head after another
  Eigen::MatrixXf k;
  Eigen::MatrixXf v;
  Eigen::MatrixXf output;
};

PrefillProbe::PrefillProbe(ThreadTeam& team, const PrefillShape& shape)
    : team_(team), shape_(shape), matrices_(std::make_unique<Matrices>()) {
  if (shape.heads < 1 || shape.d_head < 1 || shape.tokens < 1) {
    throw std::invalid_argument("shape: heads, d_head and tokens must be at least 1");
  }
  const Eigen::Index columns = Eigen::Index{shape.heads} * shape.tokens;
  const auto filled = [&](int seed) {
    return Eigen::MatrixXf(
        Eigen::MatrixXf::NullaryExpr(shape.d_head, columns, [seed](Eigen::Index i, Eigen::Index j) {
          constexpr Eigen::Index kPeriod = 251;
          const auto mixed = static_cast<float>((i * 7 + j * 13 + seed) % kPeriod);
          return mixed / (kPeriod / 2.0F) - 1.0F;
        }));
  };
  matrices_->q = filled(1);
  matrices_->k = filled(2);
  matrices_->v = filled(3);
  matrices_->output = Eigen::MatrixXf::Zero(shape.d_head, columns);
}

PrefillProbe::~PrefillProbe() = default;

void PrefillProbe::run() {
  Matrices& m = *matrices_;
  const Eigen::Index tokens = shape_.tokens;
  const float scale = 1 / std::sqrt(static_cast<float>(shape_.d_head));
  team_.run([&](int thread) {
    const Slice heads = slice_of(static_cast<std::size_t>(shape_.heads), thread, team_.size());
    Eigen::MatrixXf scores(tokens, tokens);  // [key x query]
    for (std::size_t head = heads.first; head < heads.first + heads.size; ++head) {
      const Eigen::Index first = static_cast<Eigen::Index>(head) * tokens;
      scores.noalias() = m.k.middleCols(first, tokens).transpose() * m.q.middleCols(first, tokens);
      for (Eigen::Index query = 0; query < tokens; ++query) {
        auto seen = scores.col(query).head(query + 1);
        const float largest = seen.maxCoeff();
        seen = ((seen.array() - largest) * scale).exp();
        seen /= seen.sum();
        scores.col(query).tail(tokens - query - 1).setZero();
      }
      m.output.middleCols(first, tokens).noalias() = m.v.middleCols(first, tokens) * scores;
    }
  });
}

float PrefillProbe::value(int head, int token, int channel) const {
  return matrices_->output(channel, Eigen::Index{head} * shape_.tokens + token);
}

double PrefillProbe::exact_value(int head, int token, int channel) const {
  const Matrices& m = *matrices_;
  const Eigen::Index first = Eigen::Index{head} * shape_.tokens;
  const Eigen::VectorXd query = m.q.col(first + token).cast<double>();
  double sum = 0;
  double value = 0;
  for (int key = 0; key <= token; ++key) {
    const double weight = std::exp(query.dot(m.k.col(first + key).cast<double>()) /
                                   std::sqrt(static_cast<double>(shape_.d_head)));
    sum += weight;
    value += weight * static_cast<double>(m.v(channel, first + key));
  }
  return value / sum;
}

std::string eigen_version() {
  return std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." +
         std::to_string(EIGEN_MINOR_VERSION) + ", " + Eigen::SimdInstructionSetsInUse();
}

// -- The host ---------------------------------------------------------------------------------

namespace {

std::string text_of(const char* file) {
  std::ifstream stream(file);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

/// The leading number of "49152 kB" or "2595.124"; 0 without one.
double leading_number(const std::string& text) {
  std::istringstream stream(text);
  stream.imbue(std::locale::classic());
  double number = 0;
  return stream >> number ? number : 0;
}

int usable_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) {
    return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  }
  return CPU_COUNT(&cores);
}

}  // namespace

std::string proc_value(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) {
      continue;
    }
    const auto trimmed = [](std::string_view part) {
      const std::size_t first = part.find_first_not_of(" \t");
      if (first == std::string_view::npos) {
        return std::string_view{};
      }
      return part.substr(first, part.find_last_not_of(" \t") - first + 1);
    };
    if (trimmed(line.substr(0, colon)) == key) {
      return std::string(trimmed(line.substr(colon + 1)));
    }
  }
  return "";
}

HostProperties host_properties() {
  constexpr std::size_t kKibibyte = 1024;
  HostProperties host;
  const std::string cpu = text_of("/proc/cpuinfo");
  host.cpu_model = proc_value(cpu, "model name");
  host.megahertz = leading_number(proc_value(cpu, "cpu MHz"));
  host.cores = usable_cores();
  host.memory =
      static_cast<std::size_t>(leading_number(proc_value(text_of("/proc/meminfo"), "MemTotal"))) *
      kKibibyte;
  host.page_bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
  host.last_level_cache = cache > 0 ? static_cast<std::size_t>(cache) : 0;
  utsname name{};
  if (uname(&name) == 0) {
    host.kernel = std::string(name.sysname) + " " + name.release;
  }
  return host;
}

}  // namespace nearkv::kernels::cpu
