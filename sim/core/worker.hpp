// A worker: an actor that does the jobs it is given, in order, like a thread with a queue.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "sim/core/activity_log.hpp"
#include "sim/core/check.hpp"
#include "sim/core/engine.hpp"

namespace nearkv {

class Worker {
 public:
  /// Spawned at once; works as long as there are jobs, and ends after stop().
  Worker(Engine& engine, const std::string& name, NodeId node)
      : engine_(engine),
        shared_(std::make_shared<Shared>()),
        actor_(engine.spawn(name, node, [&engine, shared = shared_] { work(engine, *shared); })) {}

  [[nodiscard]] ActorId actor() const { return actor_; }

  /// Queues a job; inside another actor. `done` is finished when the job has returned.
  void post(std::function<void()> job, Completion& done) {
    check(!shared_->stopped, "a job for a worker that was stopped");
    Engine::set_finisher(done, actor_);
    shared_->jobs.push_back({std::move(job), &done});
    wake();
  }

  /// Lets the worker end after the jobs it has. A run ends only when all workers have ended.
  void stop() {
    shared_->stopped = true;
    wake();
  }

 private:
  struct Job {
    std::function<void()> body;
    Completion* done;
  };
  // Shared with the actor, which may outlive the handle by one wake-up.
  struct Shared {
    std::deque<Job> jobs;
    Completion* idle = nullptr;
    bool stopped = false;
  };

  static void work(Engine& engine, Shared& shared) {
    while (true) {
      while (!shared.jobs.empty()) {
        const Job job = shared.jobs.front();
        shared.jobs.pop_front();
        job.body();
        engine.finish(*job.done);
      }
      if (shared.stopped) {
        return;
      }
      Completion next_job;
      shared.idle = &next_job;
      engine.wait(next_job, ActivityLog::kIdle);
    }
  }

  void wake() {
    if (shared_->idle != nullptr) {
      engine_.finish(*std::exchange(shared_->idle, nullptr));
    }
  }

  Engine& engine_;
  std::shared_ptr<Shared> shared_;
  ActorId actor_;
};

}  // namespace nearkv
