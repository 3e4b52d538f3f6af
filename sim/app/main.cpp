#include "sim/app/cli.hpp"

int main(int argument_count, char** arguments) {
  return nearkv::run_command_line(argument_count, arguments);
}
