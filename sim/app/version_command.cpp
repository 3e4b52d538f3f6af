// nearkv version: what this program was built from and with.
#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "build_info.hpp"
#include "sim/app/commands.hpp"

namespace nearkv {

void add_version_command(CLI::App& command, int& exit_status) {
  static_cast<void>(exit_status);
  command.callback([] {
    fmt::print("nearkv {}\n", build_info::kVersion);
    fmt::print("  compiler      {}, {}{}{}\n", build_info::kCompiler, build_info::kBuildType,
               build_info::kSanitizers.empty() ? "" : ", sanitizers ", build_info::kSanitizers);
    fmt::print("  SimGrid       {}\n", build_info::kSimgridVersion);
    fmt::print("  CUDA Toolkit  {}; CUDA kernels {}\n", build_info::kCudaToolkit,
               build_info::kCudaKernels);
  });
}

}  // namespace nearkv
