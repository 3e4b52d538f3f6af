// What happened in a part of a run, for people: which resource worked when, on what, and why each
// thing happened when it did. The loop points to a log while one is wanted (EventLoop::activity());
// without one nothing is recorded and nothing costs time. Recording never changes what is
// simulated.
//
// Resources are named by their config path or metric prefix ("gpu/0/compute", "csd/0/nvme"). A
// service is a span in which a resource works; services of one resource that overlap lie on lanes
// of their own, as on equal servers. Long runs have more services than a viewer shows: above
// `most_spans`, services of one lane that are less than merged_gap() apart become one span, which
// counts them and keeps their sums.
//
// Causes. A cause is a moment, the moment before it without which it would not have come then, and
// pieces: what passed in between. An actor that waits goes on because of what it waited for: a
// service, a flow, or another actor or a component that finished a completion. So the causes of a
// moment form a chain without gaps, back to the start of the recording: the critical path.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sim/core/units.hpp"

namespace nearkv {

/// What becomes of a piece of time: the resource works for whom we look at, or is waited for (it
/// works for others, or is shared with them).
enum class Activity : std::uint8_t { working, waiting };

class ActivityLog {
 public:
  /// Ids of texts; equal texts have equal ids.
  using Text = std::int32_t;
  using Cause = std::int32_t;
  static constexpr Cause kNoCause = -1;
  static constexpr std::int32_t kNobody = -1;

  struct Options {
    std::int64_t most_spans = 0;  // of all resources together, about
  };
  explicit ActivityLog(const Options& options) : most_spans_(options.most_spans) {}

  // -- Services.

  /// A number that says what a service was about; `name` with its unit ("bytes"). Merged services
  /// add them up, or lose those that do not add up (sizes of a matrix).
  struct Argument {
    std::string_view name;
    std::int64_t value;
    bool adds_up = true;
  };
  struct Service {
    std::string_view resource;
    std::string_view what;
    SimTime start;
    SimTime done;
    /// Time of work within it; none: all of it. Less for a part of a shared resource.
    std::int64_t busy_ps = -1;
    std::span<const Argument> arguments = {};
    std::int32_t arrow = kNobody;  // ends, or passes on, this arrow
    bool is_fine = false;          // merged with equal neighbours without a gap at once
  };
  /// The resource works from `start` to `done`.
  void service(const Service& service);
  /// The actor that has its turn is going to wait for a time because of this service: until `done`,
  /// or until the `start` of one that explains further.
  void explain(std::string_view resource, std::string_view what, SimTime start, SimTime done,
               Activity activity = Activity::working);
  void counter(std::string_view name, std::string_view unit, SimTime at, std::int64_t value);
  /// An arrow from what the actor does now to the services that name it.
  [[nodiscard]] std::int32_t begin_arrow(SimTime now);

  // -- Actors; numbered by the engine, which calls most of this.

  void spawned(std::int32_t actor, std::string name, SimTime now);
  void begin_turn(std::int32_t actor) { turn_ = actor; }
  void end_turn() { turn_ = kNobody; }
  [[nodiscard]] bool has_turn() const { return turn_ != kNobody; }
  /// Why the actor that has its turn is at `now`.
  [[nodiscard]] Cause cause(SimTime now);
  /// The actor has waited from `begin` to `end` for a point of time.
  void waited_for_time(SimTime begin, SimTime end);
  /// Likewise for a completion that `why` finished; kNoCause: nobody recorded why. Who waits for
  /// kIdle has nothing to do, which is not shown.
  static constexpr std::string_view kIdle = "a job";
  void waited_for(std::string_view what, SimTime begin, SimTime end, Cause why);
  struct Flow {
    std::span<const std::string_view> links;
    std::string_view slowest;  // the link that limits it, in so much time when it is alone
    SimDuration alone;
    Bytes size;
    std::span<const SimDuration> at_full_rate;  // by link
  };
  /// Likewise for data on their way.
  void flowed(const Flow& flow, SimTime begin, SimTime end);

  /// What an actor is at: slices that enclose each other. A phase also names the causes in it.
  enum class Scope : std::uint8_t { step, layer, phase };
  void begin_scope(Scope kind, std::string_view name, SimTime now);
  void end_scope(SimTime now);

  // -- Causes.

  struct Piece {
    std::string_view resource;
    std::string_view what;
    Activity activity;
    SimDuration time;
  };
  /// `at` follows from `before`, with these pieces in between, in order; check()s their sum.
  Cause after(Cause before, SimTime at, std::span<const Piece> pieces);
  /// A moment whose cause nobody has recorded.
  Cause root(SimTime at);

  // -- What is shown. Everything before the first window is left out again.

  /// Something to look at as a whole (a decode step).
  struct Window {
    std::string name;
    SimTime begin;
    SimTime end;
    Cause last;  // why it ended
  };
  void begin_window(SimTime now);
  void end_window(std::string name, SimTime now);

  // -- Reading.

  struct Span {
    SimTime start;
    SimTime done;
    std::int64_t busy_ps = 0;
    Text what = 0;
    std::int32_t count = 1;
    std::int32_t first_argument = 0;  // into arguments()
    std::int32_t arguments = 0;
  };
  struct StoredArgument {
    Text name;
    std::int64_t value;
    bool adds_up;
  };
  struct Lane {
    std::vector<Span> spans;
    SimTime free{};
  };
  struct Slice {  // of an actor; encloses those behind it that begin before it ends
    SimTime begin;
    SimTime end;
    Text name;
    bool is_wait;
  };
  /// Why an actor is going to wait.
  struct Reason {
    Text resource;
    Text what;
    SimTime start;
    SimTime done;
    Activity activity;
  };
  struct Actor {
    std::string name;
    std::vector<Slice> slices;  // in the order in which they began
    // While the run goes on.
    Cause cause = kNoCause;
    std::vector<std::size_t> open;  // slices
    std::vector<Text> phases;
    std::vector<Scope> scopes;
    std::vector<Reason> reasons;  // since its last wait
  };
  struct Sample {
    SimTime at;
    std::int64_t value;
  };
  struct Counter {
    std::string unit;
    std::vector<Sample> samples;
  };
  struct ArrowEnd {
    std::int32_t arrow;
    SimTime at;
    std::int32_t actor;  // or else on a lane of a resource
    Text resource;
    std::int32_t lane;
  };
  struct CauseNode {
    Cause before;
    SimTime at;
    Text phase;
    std::int32_t first_piece;  // into pieces()
    std::int32_t pieces;
  };
  struct StoredPiece {
    Text resource;
    Text what;
    Activity activity;
    SimDuration time;
  };
  [[nodiscard]] const std::map<std::string, std::vector<Lane>, std::less<>>& lanes() const {
    return lanes_;
  }
  [[nodiscard]] const std::map<std::int32_t, Actor>& actors() const { return actors_; }
  [[nodiscard]] const std::map<std::string, Counter, std::less<>>& counters() const {
    return counters_;
  }
  [[nodiscard]] const std::vector<ArrowEnd>& arrows() const { return arrows_; }
  [[nodiscard]] const std::vector<Window>& windows() const { return windows_; }
  [[nodiscard]] const std::string& text(Text id) const {
    return texts_[static_cast<std::size_t>(id)];
  }
  [[nodiscard]] const StoredArgument& argument(std::int32_t index) const {
    return arguments_[static_cast<std::size_t>(index)];
  }
  [[nodiscard]] const CauseNode& node(Cause cause) const {
    return nodes_[static_cast<std::size_t>(cause)];
  }
  [[nodiscard]] std::span<const StoredPiece> pieces(const CauseNode& node) const {
    return std::span(pieces_).subspan(static_cast<std::size_t>(node.first_piece),
                                      static_cast<std::size_t>(node.pieces));
  }
  /// Services of one lane that are nearer to each other than this are one span.
  [[nodiscard]] SimDuration merged_gap() const { return merged_gap_; }
  [[nodiscard]] std::int64_t services() const { return services_; }
  /// Waits of actors that are not shown, because there were too many.
  [[nodiscard]] std::int64_t waits_left_out() const { return waits_left_out_; }

  /// The phase of causes outside of any.
  static constexpr Text kNoPhase = -1;

 private:
  [[nodiscard]] Text text_of(std::string_view text);
  [[nodiscard]] Actor& turn() { return actors_[turn_]; }
  void add_slice(SimTime begin, SimTime end, Text name);
  std::size_t add_to_lane(std::vector<Lane>& lanes, const Span& span, bool is_fine);
  void drop_before(SimTime begin);
  void merge(Span& last, const Span& next);
  void merge_more();
  [[nodiscard]] Cause add_node(Cause before, SimTime at, std::span<const StoredPiece> pieces);

  std::int64_t most_spans_;
  std::map<std::string, Text, std::less<>> text_ids_;
  std::vector<std::string> texts_;
  std::map<std::string, std::vector<Lane>, std::less<>> lanes_;  // by resource
  std::vector<StoredArgument> arguments_;
  std::map<std::int32_t, Actor> actors_;
  std::map<std::string, Counter, std::less<>> counters_;
  std::vector<ArrowEnd> arrows_;
  std::vector<Window> windows_;
  std::vector<CauseNode> nodes_;
  std::vector<StoredPiece> pieces_;
  std::int32_t turn_ = kNobody;
  std::int32_t next_arrow_ = 0;
  std::int64_t spans_ = 0;
  std::int64_t slices_ = 0;
  std::int64_t services_ = 0;
  std::int64_t waits_left_out_ = 0;
  SimDuration merged_gap_{};
};

}  // namespace nearkv
