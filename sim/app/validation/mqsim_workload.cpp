#include "sim/app/validation/mqsim_workload.hpp"

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

// L'Ecuyer 1999, table II: the two recurrences of order 3, and MQSim's norm.
constexpr std::array<std::int64_t, 2> kModuli{4294967087, 4294944443};
constexpr double kA12 = 1403580;
constexpr double kA13 = -810728;
constexpr double kA21 = 527612;
constexpr double kA23 = -1370589;
constexpr double kNorm = 2.328306549295728e-10;
constexpr int kStreams = 200;  // MQSim: seed / 200 + 1 steps of 2^(seed mod 200)

using Vector = std::array<std::int64_t, 3>;
using Matrix = std::array<Vector, 3>;

/// a x b + c as MQSim's machine does it, modulo 2^64, then the remainder with the sign of that.
std::int64_t multiply_add(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t modulus) {
  const auto wrapped =
      static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b) + static_cast<std::uint64_t>(c);
  return static_cast<std::int64_t>(wrapped) % modulus;
}

Matrix multiply(const Matrix& a, const Matrix& b, std::int64_t modulus) {
  Matrix product{};
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      for (std::size_t k = 0; k < 3; ++k) {
        product[i][j] = multiply_add(a[i][k], b[k][j], product[i][j], modulus);
      }
    }
  }
  return product;
}

Vector multiply(const Matrix& a, const Vector& v, std::int64_t modulus) {
  Vector product{};
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      product[i] = multiply_add(a[i][j], v[j], product[i], modulus);
    }
  }
  return product;
}

double remainder(double x, std::int64_t modulus) {
  const auto m = static_cast<double>(modulus);
  const double rest = x - static_cast<double>(static_cast<std::int64_t>(x / m)) * m;
  return rest < 0 ? rest + m : rest;
}

}  // namespace

MqsimRandom::MqsimRandom(int seed) : state_{} {
  const std::array<Matrix, 2> steps{{
      {{{0, 1, 0},
        {0, 0, 1},
        {kModuli[0] + static_cast<std::int64_t>(kA13), static_cast<std::int64_t>(kA12), 0}}},
      {{{0, 1, 0},
        {0, 0, 1},
        {kModuli[1] + static_cast<std::int64_t>(kA23), 0, static_cast<std::int64_t>(kA21)}}},
  }};
  for (std::size_t i = 0; i < 2; ++i) {
    Matrix power = steps[i];
    for (int e = seed % kStreams; e > 0; --e) {
      power = multiply(power, power, kModuli[i]);
    }
    Vector state{1, 1, 1};
    for (int n = seed / kStreams + 1; n != 0; n /= 2) {
      if (n % 2 != 0) {
        state = multiply(power, state, kModuli[i]);
      }
      power = multiply(power, power, kModuli[i]);
    }
    for (std::size_t j = 0; j < 3; ++j) {
      state_[i][j] = static_cast<double>(state[j]);
    }
  }
}

double MqsimRandom::next() {
  auto& [a, b] = state_;
  const double p1 = remainder(kA12 * a[1] + kA13 * a[0], kModuli[0]);
  a = {a[1], a[2], p1};
  const double p2 = remainder(kA21 * b[2] + kA23 * b[0], kModuli[1]);
  b = {b[1], b[2], p2};
  const double p = p1 - p2;
  return ((p < 0 ? p + static_cast<double>(kModuli[0]) : p) + 1) * kNorm;
}

std::uint64_t MqsimRandom::uniform(std::uint64_t lowest, std::uint64_t highest) {
  return lowest + static_cast<std::uint64_t>(static_cast<double>(highest - lowest + 1) * next());
}

// MQSim gives its flow the seeds s for the kind of a request and s + 1 for its address.
MqsimRequests::MqsimRequests(const MqsimWorkload& workload)
    : workload_(workload),
      end_(workload.last_sector >= 0
               ? workload.last_sector
               : static_cast<std::int64_t>(static_cast<double>(workload.sectors - 1) *
                                           workload.working_set)),
      kinds_(workload.seed),
      addresses_(workload.seed + 1) {
  check(workload.request_sectors > 0 && workload.alignment > 0 && end_ > 0,
        "a workload without sectors");
  if (workload.pattern == MqsimWorkload::Pattern::streaming) {
    streaming_next_ =
        static_cast<std::int64_t>(addresses_.uniform(0, static_cast<std::uint64_t>(end_)));
    streaming_next_ -= streaming_next_ % workload.alignment;
    if (workload.stream_start >= 0) {
      streaming_next_ = workload.stream_start;
    }
  }
}

std::int64_t MqsimRequests::next_streaming() {
  const std::int64_t length = workload_.request_sectors;
  const std::int64_t first = streaming_next_ + length > end_ ? 0 : streaming_next_;
  streaming_next_ += length;
  if (streaming_next_ > end_) {
    streaming_next_ = 0;
  }
  if (const std::int64_t over = streaming_next_ % workload_.alignment; over != 0) {
    streaming_next_ += workload_.alignment - over;
  }
  return first;
}

bool MqsimRequests::next(BlockRequest& request) {
  if (generated_ == workload_.requests) {
    return false;
  }
  std::int64_t first = 0;
  if (workload_.pattern == MqsimWorkload::Pattern::streaming) {
    first = next_streaming();
  } else {
    first = static_cast<std::int64_t>(addresses_.uniform(0, static_cast<std::uint64_t>(end_)));
    if (first + workload_.request_sectors > end_) {
      first = 0;
    }
  }
  first -= first % workload_.alignment;
  request.op = kinds_.next() > workload_.reads ? BlockOp::write : BlockOp::read;
  request.id = static_cast<std::uint64_t>(generated_++);
  request.id |= request.op == BlockOp::write ? kIsWrite : 0;
  request.first = Bytes{first * kSectorBytes};
  request.size = Bytes{workload_.request_sectors * kSectorBytes};
  return true;
}

}  // namespace nearkv
