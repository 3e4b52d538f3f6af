#include "sim/core/engine.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <exception>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <simgrid/Exception.hpp>
#include <simgrid/kernel/resource/Action.hpp>
#include <simgrid/kernel/resource/Model.hpp>
#include <simgrid/s4u.hpp>

#include "sim/core/activity_log.hpp"
#include "sim/core/deadlock.hpp"
#include "sim/core/hash.hpp"

namespace nearkv {

namespace sg = simgrid::s4u;
using SimgridModel = simgrid::kernel::resource::Model;
using SimgridAction = simgrid::kernel::resource::Action;

namespace {

/// SimGrid's clock in picoseconds, rounded up; what lies a few rounding errors above a whole
/// picosecond is that picosecond. Where a double does not resolve one, rounded to the nearest.
SimTime to_sim_time(double seconds) {
  constexpr double kPicosecondsPerSecond = 1e12;
  constexpr double kFewRoundingErrors = 4 * std::numeric_limits<double>::epsilon();
  constexpr double kLeastSlack = 1e-3;
  constexpr double kMostSlack = 0.5;
  const double picoseconds = std::min(seconds, 2 * to_seconds(kLongestRun)) * kPicosecondsPerSecond;
  const double slack = std::clamp(picoseconds * kFewRoundingErrors, kLeastSlack, kMostSlack);
  return SimTime{SimDuration{static_cast<std::int64_t>(std::ceil(picoseconds - slack))}};
}

/// What a run means must not depend on SimGrid's defaults. SimGrid takes these once a process.
void pin_simgrid_settings() {
  static const bool pinned = [] {
    sg::Engine::set_config("network/model:CM02");
    sg::Engine::set_config("network/TCP-gamma:0");
    sg::Engine::set_config("network/crosstraffic:0");
    sg::Engine::set_config("network/optim:Lazy");
    // Flows that end less than this apart are merged, the later one early: below a picosecond.
    sg::Engine::set_config("surf/precision:1e-15");
    return true;
  }();
  check(pinned, "SimGrid's settings are not pinned");
}

/// SimGrid installs a handler that prints its own state and calls exit() at Ctrl-C. What Ctrl-C
/// means is the program's business: this puts back the handler that was there.
class InterruptKeeper {
 public:
  InterruptKeeper() : handler_(std::signal(SIGINT, SIG_DFL)) {}
  InterruptKeeper(const InterruptKeeper&) = delete;
  InterruptKeeper& operator=(const InterruptKeeper&) = delete;
  ~InterruptKeeper() { static_cast<void>(std::signal(SIGINT, handler_)); }

 private:
  void (*handler_)(int);
};

sg::Engine make_simgrid_engine() {
  std::vector<std::string> arguments{"nearkv", "--log=root.thres:critical",
                                     "--log=xbt_cfg.thres:critical",
                                     "--log=ker_engine.app:file:/dev/null"};
#ifdef NEARKV_SIMGRID_ARGUMENT
  arguments.emplace_back(NEARKV_SIMGRID_ARGUMENT);  // the sanitizers need its thread contexts
#endif
  std::vector<char*> argv;
  for (std::string& argument : arguments) {
    argv.push_back(argument.data());
  }
  argv.push_back(nullptr);
  auto argc = static_cast<int>(arguments.size());
  const InterruptKeeper keeper;
  return sg::Engine(&argc, argv.data());
}

}  // namespace

struct Engine::Impl {
  class LoopModel;

  struct Route {
    std::vector<int> links;
    SimDuration latency{};
    Bytes sent{};
  };
  struct Flow {
    Completion latency_paid;
    NodeId from{};
    NodeId to{};
    Bytes size{};
    const Route* route = nullptr;
    std::vector<std::uint64_t> flow_times;  // of its links when it began, while a log is kept
  };
  /// What an actor waits for.
  struct Wait {
    std::string_view what;
    const Completion* completion = nullptr;
    const HeldByActors* held = nullptr;
  };
  struct ActorState {
    std::string name;
    sg::Host* host = nullptr;
    std::function<void()> body;
    sg::ActorPtr actor;  // none before its first turn
    Wait wait;
    bool finished = false;
    Flow flow;  // the one that it waits for, if any
  };
  struct LinkState {
    std::string name;
    sg::Link* link = nullptr;
    Rate bandwidth{};
    SimDuration latency{};
    Bytes carried{};
    int flows = 0;
    SimTime busy_since{};
    SimDuration busy{};
    SimTime changed{};            // when `flows` did
    std::uint64_t flow_time = 0;  // the integral of `flows` until then, ps, modulo 2^64

    void change_flows(int by, SimTime at) {
      const auto since = static_cast<std::uint64_t>((at - changed).count());
      flow_time += static_cast<std::uint64_t>(flows) * since;
      changed = at;
      busy_since = flows == 0 ? at : busy_since;
      flows += by;
      busy += flows == 0 ? at - busy_since : SimDuration{};
    }
  };

  static constexpr int kNobody = Completion::kNobody;

  Impl();

  // Who waits for a completion: an actor (its number), or the flow of an actor that pays latency.
  static constexpr int flow_of(int actor) { return kNobody - 1 - actor; }
  static constexpr bool is_flow(int waiter) { return waiter < kNobody; }
  static constexpr int actor_of_flow(int waiter) { return kNobody - 1 - waiter; }

  // -- Called by actors.
  void begin_turn(int me);
  void end_turn(const Wait& wait);
  void run_body(int me);
  Flow& begin_flow(NodeId from, NodeId to, Bytes size);
  void end_flow(const Flow& flow);
  void record_flow(const Flow& flow, SimTime begin) const;
  void audit_links() const;
  [[nodiscard]] bool wait(Completion& completion, std::string_view what,
                          const HeldByActors* held = nullptr);

  // -- Called by SimGrid's kernel, between the turns of actors.
  void run_loop_to(SimTime bound);
  void begin_instant(SimTime at);
  void deliver_finished();
  void put_on_links(int actor);
  void collect_arrived();
  void resume_due();
  void watch(const std::vector<int>& batch);
  [[nodiscard]] std::string last_woken() const;
  void kill_actors();
  [[nodiscard]] std::string describe_deadlock() const;

  [[nodiscard]] bool is_over() const { return stopped || alive == 0; }
  void fail(const std::exception_ptr& why) {
    failure = failure ? failure : why;
    stopped = true;
  }

  sg::Engine simgrid = make_simgrid_engine();
  EventLoop loop;
  TimerQueue timers{loop};
  std::shared_ptr<SimgridModel> model;
  SimgridModel* network = nullptr;
  sg::NetZone* zone = nullptr;
  std::vector<sg::Host*> nodes;
  std::set<std::string> node_names;
  std::vector<LinkState> links;
  std::set<std::string> link_names;
  std::map<std::pair<int, int>, Route> routes;
  std::vector<std::unique_ptr<ActorState>> actors;
  std::vector<int> due;                          // actors that go on at this instant
  std::map<const SimgridAction*, int> on_links;  // the actor of each flow; never iterated over
  SimTime now{};
  std::optional<SimTime> ahead;      // when `awaited` finish: the loop ran ahead to there
  std::vector<Completion*> awaited;  // finished, and their waiters do not know yet
  std::vector<int> changed_links;    // SimGrid does not know their bandwidth yet
  std::exception_ptr failure;
  std::uint64_t digest = 0;
  std::int64_t wakeups = 0;
  SimTime instant{};  // of the last wake-ups
  std::int64_t wakeups_at_instant = 0;
  std::int64_t most_at_one_instant = kMostAtOneInstant;
  std::array<int, 8> woken{};  // the last ones, the next to be replaced at wakeups_at_instant
  int alive = 0;               // actors that have not returned
  int current = kNobody;       // the actor that has its turn
  bool running = false;
  bool stopped = false;  // something failed: no further event, no further turn
  bool killed = false;
};

/// Joins the event loop to SimGrid's clock. Not idempotent: asked for its next event, the loop
/// runs ahead to the bound that the other models give, and stops at the first completion that
/// somebody waits for.
class Engine::Impl::LoopModel final : public SimgridModel {
 public:
  explicit LoopModel(Impl& impl) : Model("nearkv_event_loop"), impl_(impl) {}

  bool next_occurring_event_is_idempotent() override { return false; }

  /// Seconds from now until something happens. `bound` is that time for the other models; below
  /// 0 means never.
  double next_occurring_event(double bound) override {
    if (!impl_.is_over() && !impl_.due.empty()) {
      return is_at_this_instant(bound) ? bound : 0.0;
    }
    // The same sum as SimGrid will make, so that both round to the same picosecond; the events of
    // that picosecond itself wait until it has come.
    guarded([&] {
      impl_.run_loop_to(bound < 0 ? kNever : since_origin(sg::Engine::get_clock() + bound));
      if (!impl_.is_over() && !impl_.ahead && bound < 0) {
        throw Deadlock(impl_.describe_deadlock());
      }
    });
    if (impl_.stopped) {
      impl_.kill_actors();
    }
    if (impl_.is_over() || !impl_.ahead) {
      return bound;
    }
    const double clock = sg::Engine::get_clock() - origin_;
    const double step = std::max(0.0, to_seconds(*impl_.ahead) - clock);
    return bound < 0 ? step : std::min(step, bound);
  }

  /// SimGrid's clock has come to `simgrid_now`, where next_occurring_event() sent it.
  void update_actions_state(double simgrid_now, double delta) override {
    guarded([&] {
      impl_.begin_instant(impl_.ahead.value_or(delta > 0 ? since_origin(simgrid_now) : impl_.now));
      // Flows that arrive within this picosecond first.
      if (impl_.on_links.empty() ||
          !is_at_this_instant(impl_.network->next_occurring_event(simgrid_now))) {
        impl_.resume_due();
      }
    });
  }

 private:
  /// Whether SimGrid's other models have an event `bound` seconds from now, in this picosecond.
  [[nodiscard]] bool is_at_this_instant(double bound) const {
    return bound >= 0 && since_origin(sg::Engine::get_clock() + bound) <= impl_.now;
  }

  [[nodiscard]] SimTime since_origin(double clock) const { return to_sim_time(clock - origin_); }

  /// Calls `step`; an exception must not pass through SimGrid's kernel.
  template <class Step>
  void guarded(Step step) {
    if (impl_.is_over()) {
      return;
    }
    try {
      step();
    } catch (...) {
      impl_.fail(std::current_exception());
    }
  }

  Impl& impl_;
  double origin_ = sg::Engine::get_clock();  // SimGrid's clock outlives its engines
};

Engine::Impl::Impl() {
  pin_simgrid_settings();
  zone = sg::create_full_zone("platform");
  model = std::make_shared<LoopModel>(*this);
  simgrid.add_model(model);
  for (SimgridModel* candidate : simgrid.get_all_models()) {
    network = candidate->get_name() == "Network_CM02" ? candidate : network;
  }
  check(network != nullptr, "SimGrid has no CM02 network model");
  check(simgrid.get_all_models().back() == model.get(), "the event loop is not the last model");
}

// -- Turns of actors ----------------------------------------------------------------------------

void Engine::Impl::begin_turn(int me) {
  while (stopped) {
    sg::this_actor::suspend();  // resumed at the instant of the failure: only to be killed
  }
  current = me;
  if (loop.activity() != nullptr) {
    loop.activity()->begin_turn(me);
  }
  ++wakeups;
  digest = mix_hash(digest, static_cast<std::uint64_t>(now.time_since_epoch().count()));
  digest = mix_hash(digest, static_cast<std::uint64_t>(me));
}

/// Gives up the turn, and returns in the next one. Nothing else in a turn may call SimGrid's
/// kernel, as that would let other actors in between.
void Engine::Impl::end_turn(const Wait& wait) {
  const int me = std::exchange(current, kNobody);
  if (loop.activity() != nullptr) {
    loop.activity()->end_turn();
  }
  actors[me]->wait = wait;
  sg::this_actor::suspend();
  begin_turn(me);
}

void Engine::Impl::run_body(int me) {
  begin_turn(me);
  try {
    actors[me]->body();
  } catch (const simgrid::ForcefulKillException&) {
    throw;  // SimGrid unwinds the stack of a killed actor with it
  } catch (...) {
    fail(std::current_exception());
  }
  actors[me]->finished = true;
  --alive;
  current = kNobody;
  if (loop.activity() != nullptr) {
    loop.activity()->end_turn();
  }
}

Engine::Impl::Flow& Engine::Impl::begin_flow(NodeId from, NodeId to, Bytes size) {
  const auto route = routes.find({from.index, to.index});
  check(route != routes.end(), "a flow without a route");
  route->second.sent += size;
  Flow& flow = actors[current]->flow;
  flow = {.latency_paid = {},
          .from = from,
          .to = to,
          .size = size,
          .route = &route->second,
          .flow_times = {}};
  flow.latency_paid.waiter_ = flow_of(current);
  timers.finish_at(now + flow.route->latency, flow.latency_paid);
  for (const int index : flow.route->links) {
    LinkState& link = links[index];
    link.change_flows(1, now);
    if (loop.activity() != nullptr) {
      flow.flow_times.push_back(link.flow_time);
    }
  }
  return flow;
}

void Engine::Impl::end_flow(const Flow& flow) {
  for (const int index : flow.route->links) {
    LinkState& link = links[index];
    link.carried += flow.size;
    link.change_flows(-1, now);
  }
}

/// What was sent over each route has arrived over each of its links.
void Engine::Impl::audit_links() const {
  std::vector<Bytes> sent(links.size());
  for (const auto& [ends, route] : routes) {
    for (const int index : route.links) {
      sent[static_cast<std::size_t>(index)] += route.sent;
    }
  }
  for (std::size_t i = 0; i < links.size(); ++i) {
    check(links[i].flows == 0 && links[i].carried == sent[i],
          "a link carried something else than what was sent over it");
  }
}

/// The link that limited the flow is the one with the least bandwidth for each of the flows that it
/// carried meanwhile, on average.
void Engine::Impl::record_flow(const Flow& flow, SimTime begin) const {
  std::vector<std::string_view> names;
  std::vector<SimDuration> at_full_rate;
  const LinkState* slowest = nullptr;
  double smallest_share = 0;
  const auto time = static_cast<double>((now - begin).count());
  for (std::size_t i = 0; i < flow.route->links.size(); ++i) {
    const LinkState& link = links[flow.route->links[i]];
    names.emplace_back(link.name);
    at_full_rate.push_back(time_for(flow.size, link.bandwidth));
    // Of a flow that began before the log, nobody knows.
    const double flows = i < flow.flow_times.size()
                             ? static_cast<double>(link.flow_time - flow.flow_times[i]) / time
                             : 1;
    const double share = static_cast<double>(link.bandwidth.per_second()) / flows;
    if (slowest == nullptr || share < smallest_share) {
      slowest = &link;
      smallest_share = share;
    }
  }
  if (slowest != nullptr) {
    loop.activity()->flowed({.links = names,
                             .slowest = slowest->name,
                             .alone = flow.route->latency + time_for(flow.size, slowest->bandwidth),
                             .size = flow.size,
                             .at_full_rate = at_full_rate},
                            begin, now);
  }
}

/// Whether there was something to wait for.
bool Engine::Impl::wait(Completion& completion, std::string_view what, const HeldByActors* held) {
  check(current != kNobody, "only an actor can wait");
  if (completion.done()) {
    check(completion.at_ <= now, "a completion was seen before its time");
    return false;
  }
  check(completion.waiter_ == kNobody, "two actors wait for one completion");
  completion.waiter_ = current;
  end_turn({what, &completion, held});
  return true;
}

// -- The kernel's side --------------------------------------------------------------------------

/// Runs events before `bound`, up to a completion that somebody waits for.
void Engine::Impl::run_loop_to(SimTime bound) {
  while (!ahead) {
    std::optional<SimTime> finished_at;
    try {
      finished_at = loop.run(bound - SimDuration{1});
    } catch (const NoProgress& stuck) {
      throw NoProgress(stuck.what() + last_woken());
    }
    if (!finished_at) {
      return;
    }
    for (Completion* completion : loop.take_finished()) {
      if (completion->waiter_ != kNobody) {
        awaited.push_back(completion);
        ahead = finished_at;
      }
    }
  }
}

void Engine::Impl::begin_instant(SimTime at) {
  now = std::max(now, at);
  require_before_end(now);
  do {
    deliver_finished();
    run_loop_to(now + SimDuration{1});
  } while (ahead);
  collect_arrived();
}

void Engine::Impl::deliver_finished() {
  check(!ahead || *ahead == now, "a component has an event in the past");
  for (const int changed : std::exchange(changed_links, {})) {
    const LinkState& link = links[changed];
    link.link->set_bandwidth(static_cast<double>(link.bandwidth.per_second()));
  }
  for (const Completion* completion : std::exchange(awaited, {})) {
    const int waiter = completion->waiter_;
    if (is_flow(waiter)) {
      put_on_links(actor_of_flow(waiter));
    } else {
      due.push_back(waiter);
    }
  }
  ahead.reset();
}

void Engine::Impl::put_on_links(int actor) {
  const Flow& flow = actors[actor]->flow;
  const sg::CommPtr comm = sg::Comm::sendto_init();
  comm->set_payload_size(static_cast<std::uint64_t>(flow.size.count()))->detach();
  comm->set_source(nodes[flow.from.index])->set_destination(nodes[flow.to.index]);
  check(!network->get_started_action_set()->empty(), "SimGrid did not start a flow");
  SimgridAction& action = network->get_started_action_set()->back();
  check(action.get_activity() == comm->get_impl(), "SimGrid started another flow");
  // CM02 weights a flow by one over its latency, as TCP does; here all have one weight.
  action.set_sharing_penalty(1.0);
  on_links[&action] = actor;
}

void Engine::Impl::collect_arrived() {
  for (const SimgridAction& action : *network->get_finished_action_set()) {
    const auto found = on_links.find(&action);
    check(found != on_links.end(), "SimGrid finished a flow that nobody started");
    due.push_back(found->second);
    on_links.erase(found);
  }
}

void Engine::Impl::resume_due() {
  std::vector<int> batch = std::exchange(due, {});
  std::sort(batch.begin(), batch.end());
  watch(batch);
  for (const int number : batch) {  // SimGrid runs them one after another in this order
    ActorState& state = *actors[number];
    if (state.actor) {
      state.actor->resume();
    } else {
      state.actor = sg::Actor::create(state.name, state.host, [this, number] { run_body(number); });
    }
  }
}

/// Counts wake-ups of one picosecond.
void Engine::Impl::watch(const std::vector<int>& batch) {
  if (now != instant) {
    instant = now;
    wakeups_at_instant = 0;
  }
  for (const int number : batch) {
    woken[static_cast<std::size_t>(wakeups_at_instant++) % woken.size()] = number;
  }
  if (wakeups_at_instant > most_at_one_instant) {
    throw NoProgress(fmt::format("no progress: over {} wake-ups at {} ({} ps){}",
                                 most_at_one_instant, format_short(now.time_since_epoch()),
                                 now.time_since_epoch().count(), last_woken()));
  }
}

/// The actors that went on last at the last instant.
std::string Engine::Impl::last_woken() const {
  std::set<int> numbers;
  for (std::int64_t i = 0; i < std::min<std::int64_t>(wakeups_at_instant, woken.size()); ++i) {
    numbers.insert(woken[static_cast<std::size_t>(i)]);
  }
  std::vector<std::string> names;  // several actors may have one
  for (const int number : numbers) {
    const std::string& name = actors[number]->name;
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      names.push_back(name);
    }
  }
  return names.empty() ? ""
                       : fmt::format("; the actors that went on last: {}", fmt::join(names, ", "));
}

void Engine::Impl::kill_actors() {
  if (!std::exchange(killed, true)) {
    sg::Actor::kill_all();
  }
}

std::string Engine::Impl::describe_deadlock() const {
  std::vector<StuckActor> stuck;
  for (const auto& actor : actors) {
    StuckActor& one = stuck.emplace_back();
    one.name = actor->name;
    one.has_ended = actor->finished;
    if (actor->finished) {
      continue;
    }
    const Wait& wait = actor->wait;
    one.is_held = wait.held != nullptr;
    one.waits_for = one.is_held ? wait.held->waited_for() : wait.what;
    for (const ActorId holder : one.is_held ? wait.held->holders() : std::vector<ActorId>{}) {
      if (holder != kNoActor) {
        one.up_to.push_back(static_cast<std::size_t>(holder.index));
      }
    }
    if (!one.is_held && wait.completion != nullptr && wait.completion->finisher_ != kNobody) {
      one.up_to.push_back(static_cast<std::size_t>(wait.completion->finisher_));
    }
  }
  return fmt::format("deadlock at {}: nothing is left to happen, {}",
                     format_short(now.time_since_epoch()),
                     describe_stuck(stuck, std::string(ActivityLog::kIdle)));
}

// -- Engine -------------------------------------------------------------------------------------

Engine::Engine() : impl_(std::make_unique<Impl>()) {}
Engine::~Engine() = default;

NodeId Engine::add_node(const std::string& name) {
  check(!impl_->running, "a node was added after the run began");
  check(impl_->node_names.insert(name).second, fmt::format("there are two nodes {}", name));
  impl_->nodes.push_back(impl_->zone->create_host(name, 1.0)->seal());
  return NodeId{static_cast<int>(impl_->nodes.size()) - 1};
}

LinkId Engine::add_link(const std::string& name, Rate bandwidth, SimDuration latency) {
  check(!impl_->running, "a link was added after the run began");
  check(bandwidth > Rate{0}, "a link without bandwidth");
  check(latency >= SimDuration{0}, "a link with a negative latency");
  check(impl_->link_names.insert(name).second, fmt::format("there are two links {}", name));
  // SimGrid's link has no latency: the event loop pays it, exactly (begin_flow).
  sg::Link* link = impl_->zone->create_link(name, static_cast<double>(bandwidth.per_second()));
  impl_->links.push_back(
      {.name = name, .link = link->seal(), .bandwidth = bandwidth, .latency = latency});
  return LinkId{static_cast<int>(impl_->links.size()) - 1};
}

void Engine::add_route(NodeId from, NodeId to, const std::vector<LinkId>& links) {
  check(!impl_->running, "a route was added after the run began");
  check(from.index != to.index && !links.empty(), "a route needs two nodes and a link");
  std::vector<sg::LinkInRoute> hops;
  Impl::Route route;
  for (const LinkId id : links) {
    const Impl::LinkState& link = impl_->links.at(id.index);
    hops.emplace_back(link.link);
    route.links.push_back(id.index);
    route.latency += link.latency;
  }
  check(impl_->routes.try_emplace({from.index, to.index}, route).second,
        "there are two routes between the same nodes");
  impl_->zone->add_route(impl_->nodes.at(from.index)->get_netpoint(),
                         impl_->nodes.at(to.index)->get_netpoint(), nullptr, nullptr, hops, false);
}

EventLoop& Engine::loop() { return impl_->loop; }

ActorId Engine::spawn(const std::string& name, NodeId node, std::function<void()> body) {
  Impl& impl = *impl_;
  check(!impl.running || impl.current != Impl::kNobody, "only an actor spawns during the run");
  check(static_cast<bool>(body), "an actor without a body");
  const int number = static_cast<int>(impl.actors.size());
  impl.actors.push_back(std::make_unique<Impl::ActorState>());
  Impl::ActorState& state = *impl.actors.back();
  state.name = name;
  state.host = impl.nodes.at(node.index);
  state.body = std::move(body);
  ++impl.alive;
  impl.due.push_back(number);
  if (activity() != nullptr) {
    activity()->spawned(number, name, now());
  }
  return {number};
}

void Engine::record(ActivityLog* log) {
  impl_->loop.set_activity(log);
  if (log == nullptr) {
    return;
  }
  for (std::size_t number = 0; number < impl_->actors.size(); ++number) {
    log->spawned(static_cast<int>(number), impl_->actors[number]->name, now());
  }
  if (impl_->current != Impl::kNobody) {
    log->begin_turn(impl_->current);
  }
}

ActivityLog* Engine::activity() const { return impl_->loop.activity(); }

void Engine::run() {
  Impl& impl = *impl_;
  check(!impl.running, "an engine runs once");
  impl.running = true;
  impl.zone->seal();
  impl.simgrid.run();
  if (impl.failure) {
    std::rethrow_exception(impl.failure);
  }
  check(impl.alive == 0, "SimGrid's run ended before the actors");
  impl.audit_links();
}

void Engine::set_most_at_one_instant(std::int64_t most) {
  impl_->most_at_one_instant = most;
  impl_->loop.set_most_at_one_instant(most);
}

SimTime Engine::now() const { return impl_->now; }

ActorId Engine::current() const { return {impl_->current}; }

void Engine::wait_until(SimTime at) {
  check(at >= now(), "an actor was told to wait for the past");
  if (at == now()) {
    return;
  }
  const SimTime begin = now();
  Completion reached;
  impl_->timers.finish_at(at, reached);
  static_cast<void>(impl_->wait(reached, "a time"));
  if (activity() != nullptr) {
    activity()->waited_for_time(begin, now());
  }
}

void Engine::wait(Completion& completion, std::string_view what, const HeldByActors* held) {
  const SimTime begin = now();
  if (impl_->wait(completion, what, held) && activity() != nullptr) {
    activity()->waited_for(what, begin, now(), completion.cause_);
  }
}

void Engine::set_finisher(Completion& completion, ActorId finisher) {
  completion.finisher_ = finisher.index;
}

void Engine::finish(Completion& completion) {
  Impl& impl = *impl_;
  if (impl.stopped) {
    return;
  }
  check(impl.current != Impl::kNobody, "only an actor finishes a completion by Engine::finish()");
  check(!completion.done(), "a completion was finished twice");
  completion.done_ = true;
  completion.at_ = now();
  if (activity() != nullptr) {
    completion.cause_ = activity()->cause(now());
  }
  if (completion.waiter_ != Completion::kNobody) {
    impl.due.push_back(completion.waiter_);
  }
}

void Engine::transfer(NodeId from, NodeId to, Bytes size) {
  check(impl_->current != Impl::kNobody, "only an actor can transfer");
  check(size > Bytes{0}, "a flow without bytes");
  const SimTime begin = now();
  const Impl::Flow& flow = impl_->begin_flow(from, to, size);
  impl_->end_turn({.what = "a flow"});
  impl_->end_flow(flow);
  if (activity() != nullptr) {
    impl_->record_flow(flow, begin);
  }
}

void Engine::set_bandwidth(LinkId link, Rate bandwidth) {
  check(impl_->current != Impl::kNobody, "only an actor changes a link");
  check(bandwidth > Rate{0}, "a link without bandwidth");
  impl_->links.at(link.index).bandwidth = bandwidth;
  impl_->changed_links.push_back(link.index);
  // SimGrid is told between the turns of actors, at this same time.
  Completion told;
  impl_->timers.finish_at(now(), told);
  static_cast<void>(impl_->wait(told, "a link's new bandwidth"));
}

std::uint64_t Engine::digest() const { return impl_->digest; }
std::int64_t Engine::wakeups() const { return impl_->wakeups; }
Bytes Engine::carried(LinkId link) const { return impl_->links.at(link.index).carried; }
SimDuration Engine::busy(LinkId link) const { return impl_->links.at(link.index).busy; }

}  // namespace nearkv
