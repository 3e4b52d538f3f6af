// Part of every program of preset coverage: _exit() writes the counters of lines first. The linker
// puts this in place of _exit() (--wrap), so that no child that ends so has to know about it.
extern "C" {

void __gcov_dump();                          // NOLINT: of libgcov, whose header is for C
[[noreturn]] void __real__exit(int status);  // NOLINT: the linker's name
[[noreturn]] void __wrap__exit(int status);  // NOLINT

void __wrap__exit(int status) {  // NOLINT
  __gcov_dump();
  __real__exit(status);
}
}
