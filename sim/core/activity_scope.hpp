// A scope of an actor in the activity log, if there is one, as long as a C++ scope.
#pragma once

#include <cstdint>
#include <string_view>

#include <fmt/format.h>

#include "sim/core/activity_log.hpp"
#include "sim/core/engine.hpp"

namespace nearkv {

class ActivityScope {
 public:
  ActivityScope(Engine& engine, ActivityLog::Scope kind, std::string_view name) : engine_(engine) {
    if (engine.activity() != nullptr) {
      engine.activity()->begin_scope(kind, name, engine.now());
    }
  }
  /// "layer 3".
  ActivityScope(Engine& engine, ActivityLog::Scope kind, std::string_view name, std::int64_t number)
      : engine_(engine) {
    if (engine.activity() != nullptr) {
      engine.activity()->begin_scope(kind, fmt::format("{} {}", name, number), engine.now());
    }
  }
  ~ActivityScope() {
    if (engine_.activity() != nullptr) {
      engine_.activity()->end_scope(engine_.now());
    }
  }
  ActivityScope(const ActivityScope&) = delete;
  ActivityScope& operator=(const ActivityScope&) = delete;

 private:
  Engine& engine_;
};

}  // namespace nearkv
