// The part of the flash engine that looks at what commands are for: policy data_out_first with
// commands of garbage collection, of the mapping table, or held ones.
#include <bit>

#include "models/flash/flash_engine.hpp"
#include "sim/core/check.hpp"

namespace nearkv {

namespace {

[[nodiscard]] std::size_t index_of(PageOp op) { return static_cast<std::size_t>(op); }
[[nodiscard]] std::size_t index_of(PageCause cause) { return static_cast<std::size_t>(cause); }

}  // namespace

/// The command that a unit takes from this queue: the first of the front's die that is not held.
FlashEngine::Index FlashEngine::first_takeable(const Queue& queue) const {
  Index index = queue.head;
  while (index != kNone && (nodes_[index].is_held || nodes_[index].die != nodes_[queue.head].die)) {
    index = nodes_[index].next;
  }
  return index;
}

/// With data_out_first: reads before programs before erases, but a collection's commands before the
/// host's of any kind; an erase that is held keeps the host out. Read priority is implied.
FlashEngine::Choice FlashEngine::choose_by_cause(Unit& unit) const {
  const auto waits = [](const Queue& queue) { return queue.head != kNone; };
  const auto internal = [&unit](PageOp op, PageCause cause) {
    return &unit.internal[index_of(op)][index_of(cause)];
  };
  const int read = 0;
  const int program = 1;
  const int erase = 2;
  if (unit.is_ending) {
    return {};
  }
  Queue* const merges = internal(PageOp::read, PageCause::merge);
  Queue* const host_reads = waits(unit.waiting[read]) ? &unit.waiting[read] : merges;
  if (unit.array != kNone) {
    return can_interrupt(unit) ? Choice{read, host_reads, nullptr} : Choice{};
  }
  Queue* const host_programs = &unit.waiting[program];
  Queue* const look_ups = internal(PageOp::read, PageCause::mapping);
  Queue* const tables = internal(PageOp::program, PageCause::mapping);
  Queue* const moves_in = internal(PageOp::read, PageCause::collection);
  Queue* const moves_out = internal(PageOp::program, PageCause::collection);
  Queue* const erases = internal(PageOp::erase, PageCause::collection);
  Choice choice;
  if (waits(*look_ups)) {
    choice = {read, look_ups, waits(*moves_in) ? moves_in : host_reads};
  } else if (waits(*moves_in)) {
    choice = {read, moves_in, host_reads};
  } else if (waits(*moves_out)) {
    choice = {program, moves_out, host_programs};
  } else if (waits(*erases)) {
    choice = {erase, erases, nullptr};
  } else if (waits(*host_reads)) {
    choice = {read, host_reads, nullptr};
  } else if (waits(*tables)) {
    choice = {program, tables, host_programs};
  } else if (waits(*host_programs)) {
    choice = {program, host_programs, nullptr};
  } else if (waits(unit.waiting[erase])) {
    choice = {erase, &unit.waiting[erase], nullptr};
  }
  const bool is_empty = unit.data_out == 0;
  const bool can_take =
      choice.op == read ? is_empty || config_.cache_read : is_empty && unit.suspended == kNone;
  return choice.op >= 0 && can_take && first_takeable(*choice.first) != kNone ? choice : Choice{};
}

/// Links what may run together with a command behind `last`: of the die and page index that are
/// `wanted`, in planes that are not taken.
void FlashEngine::take_partners(Queue& queue, bool is_host, const Node& wanted,
                                std::uint32_t& taken, Index& last) {
  const auto link = [&](Index index) {
    nodes_.take(index, queue, is_host);
    taken |= std::uint32_t{1} << nodes_[index].plane;
    nodes_[last].next = index;
    last = index;
  };
  if (is_host && unit_at(wanted.channel, wanted.unit).held_commands == 0) {
    Node partner = wanted;
    partner.cause = PageCause::host;
    for (partner.plane = 0; partner.plane < config_.planes_per_die; ++partner.plane) {
      const bool is_taken = (taken >> partner.plane & 1U) != 0;
      if (const Index index = is_taken ? kNone : nodes_.oldest_of(partner); index != kNone) {
        link(index);
      }
    }
    return;
  }
  for (Index index = queue.head; index != kNone;) {
    const Node& node = nodes_[index];
    const Index next = node.next;
    if (!node.is_held && node.die == wanted.die && node.page == wanted.page &&
        (taken >> node.plane & 1U) == 0) {
      link(index);
    }
    index = next;
  }
}

/// As take_group(), from the queues of the unit's causes. Partners have the page index of the
/// queue's front, even when that is held.
FlashEngine::Index FlashEngine::take_by_cause(Unit& unit, int& planes) {
  const Choice choice = choose_by_cause(unit);
  check(choice.op >= 0, "a unit takes a command that it does not have");
  Queue* const host = &unit.waiting[choice.op];
  if (choice.first == host && unit.held_commands == 0) {
    return nodes_.take_group(*host, planes);
  }
  const Index lead = first_takeable(*choice.first);
  Node wanted = nodes_[lead];
  wanted.page = nodes_[choice.first->head].page;
  nodes_.take(lead, *choice.first, choice.first == host);
  planes = 1;
  if (config_.multi_plane) {
    std::uint32_t taken = std::uint32_t{1} << wanted.plane;
    Index last = lead;
    for (Queue* const queue : {choice.first, choice.second}) {
      if (queue != nullptr && queue->head != kNone) {
        take_partners(*queue, queue == host, wanted, taken, last);
      }
    }
    planes = std::popcount(taken);
  }
  return lead;
}

/// Pages of the mapping leave before those of the host, and these before those of a collection.
void FlashEngine::push_ready(Channel& channel, Index node) {
  const auto rank = [this](Index index) {
    const PageCause cause = nodes_[index].cause;
    return cause == PageCause::mapping ? 0 : cause == PageCause::collection ? 2 : 1;
  };
  Queue& queue = channel.ready_pages;
  if (!has_causes_ || queue.head == kNone || rank(queue.tail) <= rank(node)) {
    nodes_.push(queue, node);
    return;
  }
  Index before = kNone;
  Index next = queue.head;
  while (rank(next) <= rank(node)) {
    before = next;
    next = nodes_[next].next;
  }
  nodes_[node].next = next;
  (before == kNone ? queue.head : nodes_[before].next) = node;
}

}  // namespace nearkv
