#include "sim/core/trace_events.hpp"

#include <algorithm>
#include <cctype>
#include <map>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

constexpr std::string_view kThreads = "threads";  // the process of the actors

bool is_digit(char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; }

/// "csd/0" of "csd/0/gemv_units", "host" of "host/cores".
std::string_view process_of(std::string_view resource) {
  const std::size_t first = resource.find('/');
  if (first == std::string_view::npos || first + 1 == resource.size() ||
      !is_digit(resource[first + 1])) {
    return resource.substr(0, first);
  }
  return resource.substr(0, resource.find('/', first + 1));
}

/// By names, with the numbers in them as numbers: channel/2 is before channel/10.
struct NaturalOrder {
  bool operator()(const std::string& a, const std::string& b) const {
    std::size_t i = 0;
    std::size_t j = 0;
    while (i < a.size() && j < b.size()) {
      if (is_digit(a[i]) && is_digit(b[j])) {
        const std::size_t a_begin = i;
        const std::size_t b_begin = j;
        i = std::min(a.find_first_not_of("0123456789", i), a.size());
        j = std::min(b.find_first_not_of("0123456789", j), b.size());
        const auto a_number = std::string_view(a).substr(a_begin, i - a_begin);
        const auto b_number = std::string_view(b).substr(b_begin, j - b_begin);
        if (a_number != b_number) {
          return a_number.size() != b_number.size() ? a_number.size() < b_number.size()
                                                    : a_number < b_number;
        }
      } else if (a[i] != b[j]) {
        return a[i] < b[j];
      } else {
        ++i;
        ++j;
      }
    }
    return a.size() - i < b.size() - j;
  }
};

/// An event of a track; at one time ends come first, then begins, then arrows.
struct TrackEvent {
  enum class Order { end, begin, arrow };
  SimTime at;
  Order order;
  std::string text;  // the event's JSON but for pid, tid and ts
};

class TraceWriter {
 public:
  TraceWriter(const ActivityLog& log, const TraceNotes& notes) : log_(log), notes_(notes) {
    check(!log.windows().empty(), "a trace of a log without a window");
    origin_ = log.windows().front().begin;
  }

  std::string text() {
    for (const ActivityLog::ArrowEnd& end : log_.arrows()) {
      const bool begins = end.actor != ActivityLog::kNobody;
      Arrow& arrow = arrows_[end.arrow];
      arrow.has_begin |= begins;
      if (!begins && (arrow.last == nullptr || arrow.last->at <= end.at)) {
        arrow.last = &end;
      }
    }
    text_ =
        "{\"displayTimeUnit\": \"ns\",\n\"otherData\": " + other_data() + ",\n\"traceEvents\": [\n";
    write_actors();
    write_resources();
    write_counters();
    text_ += "\n]}\n";
    return std::move(text_);
  }

 private:
  using Json = nlohmann::ordered_json;

  static std::string quoted(std::string_view text) { return nlohmann::json(text).dump(); }

  [[nodiscard]] std::string other_data() const {
    Json data = Json::object();
    for (const auto& [name, value] : notes_.values) {
      data[name] = value;
    }
    data["notes"] = notes_.notes;
    return data.dump();
  }

  [[nodiscard]] std::string time(SimTime at) const {
    constexpr std::int64_t kPicoseconds = 1'000'000;  // unit: of a microsecond
    const std::int64_t ps = (std::max(at, origin_) - origin_).count();
    return fmt::format("{}.{:06}", ps / kPicoseconds, ps % kPicoseconds);
  }

  void add(const std::string& event) {
    text_ += (is_first_ ? "" : ",\n") + event;
    is_first_ = false;
  }

  int process(std::string_view name) {
    const auto [found, is_new] =
        processes_.try_emplace(std::string(name), static_cast<int>(processes_.size()) + 1);
    if (is_new) {
      const int pid = found->second;
      add(fmt::format(R"({{"ph":"M","pid":{},"name":"process_name","args":{{"name":{}}}}})", pid,
                      quoted(name)));
      add(fmt::format(R"({{"ph":"M","pid":{},"name":"process_sort_index","args":)"
                      R"({{"sort_index":{}}}}})",
                      pid, pid));
    }
    return found->second;
  }

  /// Sorts and writes the events of a new track.
  void write_track(std::string_view process_name, std::string_view name,
                   std::vector<TrackEvent> events) {
    const int pid = process(process_name);
    const int tid = ++tracks_;
    add(fmt::format(R"({{"ph":"M","pid":{},"tid":{},"name":"thread_name","args":{{"name":{}}}}})",
                    pid, tid, quoted(name)));
    add(fmt::format(R"({{"ph":"M","pid":{},"tid":{},"name":"thread_sort_index","args":)"
                    R"({{"sort_index":{}}}}})",
                    pid, tid, tid));
    std::stable_sort(events.begin(), events.end(), [](const TrackEvent& a, const TrackEvent& b) {
      return a.at != b.at
                 ? a.at < b.at
                 : (a.order == TrackEvent::Order::arrow) < (b.order == TrackEvent::Order::arrow);
    });
    for (const TrackEvent& event : events) {
      add(fmt::format(R"({{"pid":{},"tid":{},"ts":{},{}}})", pid, tid, time(event.at), event.text));
    }
  }

  void add_arrow(std::vector<TrackEvent>& events, const ActivityLog::ArrowEnd& end) const {
    const Arrow& arrow = arrows_.at(end.arrow);
    if (!arrow.has_begin || arrow.last == nullptr) {
      return;
    }
    const char* phase = end.actor != ActivityLog::kNobody ? "s" : arrow.last == &end ? "f" : "t";
    events.push_back({end.at, TrackEvent::Order::arrow,
                      fmt::format(R"("ph":"{}","cat":"command","name":"command","id":{}{})", phase,
                                  end.arrow, *phase == 's' ? "" : R"(,"bp":"e")")});
  }

  static TrackEvent begin(SimTime at, std::string_view category, const std::string& name,
                          const std::string& arguments = "") {
    return {at, TrackEvent::Order::begin,
            fmt::format(R"("ph":"B","cat":"{}","name":{}{})", category, quoted(name),
                        arguments.empty() ? "" : fmt::format(R"(,"args":{{{}}})", arguments))};
  }
  static TrackEvent end(SimTime at) { return {at, TrackEvent::Order::end, R"("ph":"E")"}; }

  void write_actors() {
    for (const auto& [number, actor] : log_.actors()) {
      std::vector<TrackEvent> events;
      std::vector<SimTime> open;  // ends of the slices around what comes next
      for (const ActivityLog::Slice& slice : actor.slices) {
        const SimTime slice_end = std::min(slice.end, log_.windows().back().end);
        while (!open.empty() && open.back() <= slice.begin) {
          events.push_back(end(open.back()));
          open.pop_back();
        }
        events.push_back(
            begin(slice.begin, slice.is_wait ? "wait" : "scope", log_.text(slice.name)));
        open.push_back(open.empty() ? slice_end : std::min(slice_end, open.back()));
      }
      for (; !open.empty(); open.pop_back()) {
        events.push_back(end(open.back()));
      }
      if (events.empty()) {
        continue;
      }
      for (const ActivityLog::ArrowEnd& arrow : log_.arrows()) {
        if (arrow.actor == number) {
          add_arrow(events, arrow);
        }
      }
      write_track(kThreads, actor.name, std::move(events));
    }
  }

  [[nodiscard]] std::string arguments_of(const ActivityLog::Span& span) const {
    std::string text;
    const auto append = [&text](const std::string& name, const std::string& value) {
      text += fmt::format("{}{}:{}", text.empty() ? "" : ",", quoted(name), value);
    };
    for (std::int32_t i = 0; i < span.arguments; ++i) {
      const ActivityLog::StoredArgument& argument = log_.argument(span.first_argument + i);
      append(log_.text(argument.name), std::to_string(argument.value));
    }
    if (span.count > 1) {
      append("services", std::to_string(span.count));
    }
    if (span.busy_ps != (span.done - span.start).count()) {
      append("busy_us", time(origin_ + SimDuration{span.busy_ps}));
    }
    return text;
  }

  void write_resources() {
    std::map<std::string, const std::vector<ActivityLog::Lane>*, NaturalOrder> sorted;
    for (const auto& [resource, lanes] : log_.lanes()) {
      sorted[resource] = &lanes;
    }
    for (const auto& [resource, lanes] : sorted) {
      for (std::size_t lane = 0; lane < lanes->size(); ++lane) {
        std::vector<TrackEvent> events;
        for (const ActivityLog::Span& span : (*lanes)[lane].spans) {
          events.push_back(begin(span.start, "service", log_.text(span.what), arguments_of(span)));
          events.push_back(end(span.done));
        }
        for (const ActivityLog::ArrowEnd& arrow : log_.arrows()) {
          if (arrow.actor == ActivityLog::kNobody && log_.text(arrow.resource) == resource &&
              arrow.lane == static_cast<std::int32_t>(lane)) {
            add_arrow(events, arrow);
          }
        }
        if (!events.empty()) {
          write_track(process_of(resource),
                      lane == 0 ? resource : fmt::format("{} #{}", resource, lane + 1),
                      std::move(events));
        }
      }
    }
  }

  void write_counters() {
    for (const auto& [name, counter] : log_.counters()) {
      const int pid = process(process_of(name));
      for (const ActivityLog::Sample& sample : counter.samples) {
        add(fmt::format(R"({{"pid":{},"ts":{},"ph":"C","name":{},"args":{{"{}":{}}}}})", pid,
                        time(sample.at), quoted(fmt::format("{} [{}]", name, counter.unit)),
                        counter.unit, sample.value));
      }
    }
  }

  const ActivityLog& log_;
  const TraceNotes& notes_;
  /// One that does not begin, or leads nowhere, is left out.
  struct Arrow {
    bool has_begin = false;
    const ActivityLog::ArrowEnd* last = nullptr;
  };
  SimTime origin_{};
  std::map<std::int32_t, Arrow> arrows_;
  std::map<std::string, int> processes_;
  int tracks_ = 0;
  bool is_first_ = true;
  std::string text_;
};

}  // namespace

std::string trace_events(const ActivityLog& log, const TraceNotes& notes) {
  return TraceWriter(log, notes).text();
}

}  // namespace nearkv
