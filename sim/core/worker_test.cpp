#include "sim/core/worker.hpp"

#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>

using namespace nearkv;
using namespace std::chrono_literals;

namespace {

SimTime at(SimDuration since_start) { return SimTime{} + since_start; }

}  // namespace

TEST_CASE("worker: jobs run one after another in the order of posting") {
  Engine engine;
  const NodeId node = engine.add_node("host");
  std::vector<std::string> log;
  std::vector<SimTime> done_at;
  engine.spawn("driver", node, [&] {
    Worker worker(engine, "worker", node);
    const auto job = [&](const char* name, SimDuration time) {
      return [&log, &engine, name, time] {
        log.push_back(std::string(name) + " begins");
        engine.wait_until(engine.now() + time);
        log.push_back(std::string(name) + " ends");
      };
    };
    std::vector<Completion> done(3);
    worker.post(job("a", 5us), done[0]);
    worker.post(job("b", 0us), done[1]);
    worker.post(job("c", 7us), done[2]);
    CHECK(log.empty());  // an actor is not interrupted by what it posts
    for (Completion& completion : done) {
      engine.wait(completion);
      done_at.push_back(completion.at());
    }
    worker.stop();
  });
  engine.run();
  CHECK(log ==
        std::vector<std::string>{"a begins", "a ends", "b begins", "b ends", "c begins", "c ends"});
  CHECK(done_at == std::vector<SimTime>{at(5us), at(5us), at(12us)});
}

TEST_CASE("worker: it sleeps without jobs and wakes at the picosecond of the next one") {
  Engine engine;
  const NodeId node = engine.add_node("host");
  std::vector<SimTime> begun;
  engine.spawn("driver", node, [&] {
    Worker worker(engine, "worker", node);
    for (int i = 0; i < 3; ++i) {
      engine.wait_until(engine.now() + 10us + 1_ps);
      Completion done;
      worker.post([&] { begun.push_back(engine.now()); }, done);
      engine.wait(done);
      CHECK(done.at() == engine.now());
    }
    worker.stop();
  });
  engine.run();
  CHECK(begun == std::vector<SimTime>{at(10us + 1_ps), at(20us + 2_ps), at(30us + 3_ps)});
}

TEST_CASE("worker: stop lets it finish the jobs it has, and takes no further ones") {
  Engine engine;
  const NodeId node = engine.add_node("host");
  int jobs = 0;
  engine.spawn("driver", node, [&] {
    Worker worker(engine, "worker", node);
    std::vector<Completion> done(2);
    for (Completion& completion : done) {
      worker.post(
          [&] {
            engine.wait_until(engine.now() + 1us);
            ++jobs;
          },
          completion);
    }
    worker.stop();
    worker.stop();  // harmless
    Completion late;
    CHECK_THROWS_AS(worker.post([] {}, late), CheckFailure);
    CHECK(jobs == 0);
    for (Completion& completion : done) {
      engine.wait(completion);
    }
  });
  engine.run();
  CHECK(jobs == 2);
}

TEST_CASE("worker: stopped while it sleeps, or before its first turn, it ends") {
  for (const bool sleeps : {false, true}) {
    Engine engine;
    const NodeId node = engine.add_node("host");
    engine.spawn("driver", node, [&] {
      Worker worker(engine, "worker", node);
      if (sleeps) {
        engine.wait_until(at(1us));
      }
      worker.stop();
    });
    engine.run();  // would throw Deadlock if the worker stayed
  }
}

TEST_CASE("worker: one that nobody stops is a deadlock that names it") {
  Engine engine;
  const NodeId node = engine.add_node("host");
  std::unique_ptr<Worker> worker;
  engine.spawn("driver", node, [&] {
    worker = std::make_unique<Worker>(engine, "forgotten", node);
    Completion done;
    worker->post([] {}, done);
    engine.wait(done);
  });
  CHECK_THROWS_WITH_AS(engine.run(),
                       "deadlock at 0 ps: nothing is left to happen, but forgotten waits for a job",
                       Deadlock);
}

TEST_CASE("worker: who waits for a job is held up by the worker, and by what that waits for") {
  Engine engine;
  const NodeId node = engine.add_node("host");
  Completion page;
  Completion stored;
  std::unique_ptr<Worker> storer;
  std::unique_ptr<Worker> idle;
  engine.spawn("loader", node, [&] {
    Completion loaded;
    engine.wait(loaded, "the inputs of layer 3");
  });
  engine.spawn("driver", node, [&] {
    idle = std::make_unique<Worker>(engine, "idle", node);
    storer = std::make_unique<Worker>(engine, "storer", node);
    storer->post([&] { engine.wait(page, "a page"); }, stored);
    engine.wait(stored, "the KV of layer 2");
  });
  CHECK_THROWS_WITH_AS(
      engine.run(),
      "deadlock at 0 ps: nothing is left to happen, but driver waits for the KV of "
      "layer 2, which storer is to finish; storer waits for a page; loader waits "
      "for the inputs of layer 3; idle waits for a job",
      Deadlock);
}

TEST_CASE("worker: the actor may outlive the handle") {
  Engine engine;
  const NodeId node = engine.add_node("host");
  bool ran = false;
  Completion done;
  engine.spawn("driver", node, [&] {
    {
      Worker worker(engine, "worker", node);
      worker.post(
          [&] {
            engine.wait_until(engine.now() + 3us);
            ran = true;
          },
          done);
      worker.stop();
    }
    engine.wait(done);
    CHECK(engine.now() == at(3us));
  });
  engine.run();
  CHECK(ran);
}

TEST_CASE("worker: a job may post further jobs to its own worker") {
  Engine engine;
  const NodeId node = engine.add_node("host");
  std::vector<int> order;
  engine.spawn("driver", node, [&] {
    Worker worker(engine, "worker", node);
    Completion outer;
    Completion inner;
    Completion second;
    worker.post(
        [&] {
          worker.post([&] { order.push_back(3); }, inner);
          order.push_back(1);
        },
        outer);
    worker.post([&] { order.push_back(2); }, second);
    engine.wait(inner);
    worker.stop();
  });
  engine.run();
  CHECK(order == std::vector<int>{1, 2, 3});
}

TEST_CASE("worker: several actors may post; two workers work at the same time") {
  Engine engine;
  const NodeId node = engine.add_node("host");
  SimTime end{};
  engine.spawn("driver", node, [&] {
    Worker first(engine, "first", node);
    Worker second(engine, "second", node);
    const auto job = [&] { engine.wait_until(engine.now() + 4us); };
    Completion helped;
    engine.spawn("helper", node, [&] {
      first.post(job, helped);
      engine.wait(helped);
      first.stop();
    });
    Completion mine;
    second.post(job, mine);
    engine.wait(mine);
    second.stop();
    end = engine.now();
    // `first` and `helped` are the helper's until it has ended.
    engine.wait_until(at(10us));
  });
  engine.run();
  CHECK(end == at(4us));
}

TEST_CASE("worker: an exception of a job ends the run; jobs behind it are dropped") {
  Engine engine;
  const NodeId node = engine.add_node("host");
  bool ran = false;
  bool went_on = false;
  engine.spawn("driver", node, [&] {
    Worker worker(engine, "worker", node);
    std::vector<Completion> done(2);
    worker.post([] { throw std::runtime_error("the job failed"); }, done[0]);
    worker.post([&] { ran = true; }, done[1]);
    engine.wait(done[1]);
    went_on = true;
  });
  CHECK_THROWS_WITH_AS(engine.run(), "the job failed", std::runtime_error);
  CHECK(!ran);
  CHECK(!went_on);
}

TEST_CASE("worker: killed in the middle of a job, it gives back what the job holds") {
  Engine engine;
  const NodeId node = engine.add_node("host");
  int held = 0;
  struct Hold {
    explicit Hold(int& count) : count_(count) { ++count_; }
    ~Hold() { --count_; }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    int& count_;
  };
  engine.spawn("driver", node, [&] {
    Worker worker(engine, "worker", node);
    Completion done;
    worker.post(
        [&] {
          const Hold hold(held);
          engine.wait_until(at(1s));
        },
        done);
    engine.wait_until(at(1us));
    CHECK(held == 1);
    throw std::runtime_error("the driver failed");
  });
  CHECK_THROWS_WITH_AS(engine.run(), "the driver failed", std::runtime_error);
  CHECK(held == 0);
}
