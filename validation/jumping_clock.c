// To be loaded before a program (LD_PRELOAD): its wall clock is wrong, by up to 12 hours in either
// direction, and jumps every 50 ms. Other clocks stay as they are, as after a change of the time
// of a machine. NEARKV_CLOCK chooses among such clocks. crash_safety_check.py compiles and uses it.
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t offset(void) {
  const unsigned long jumps_a_second = 20;
  const unsigned long most = 12 * 3600;
  struct timespec now;
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
  const char *chosen = getenv("NEARKV_CLOCK");
  unsigned long number = (unsigned long)now.tv_sec * jumps_a_second +
                         (unsigned long)now.tv_nsec / (1000000000UL / jumps_a_second);
  number += chosen ? strtoul(chosen, NULL, 10) << 32 : 0;
  number = (number + 1) * 0x9e3779b97f4a7c15UL;  // as SplitMix64 mixes
  number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9UL;
  return (time_t)((number >> 33) % (2 * most)) - (time_t)most;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
  const int result = (int)syscall(SYS_clock_gettime, clock, at);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    at->tv_sec += offset();
  }
  return result;
}

int gettimeofday(struct timeval *at, void *zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) {
    *at = now.tv_sec;
  }
  return now.tv_sec;
}
