#include "sim/app/machine.hpp"

#include <doctest/doctest.h>

namespace nearkv {

TEST_CASE("machine: values are read out of the kernel's lines") {
  const std::string text =
      "processor\t: 0\nmodel name\t: A CPU: 3 GHz\nmodel name\t: another\nPRETTY_NAME=\"A "
      "system\"\n";
  CHECK(value_of_line(text, "model name") == "A CPU: 3 GHz");
  CHECK(value_of_line(text, "PRETTY_NAME") == "A system");
  CHECK(value_of_line(text, "name").empty());
  CHECK(value_of_line("", "name").empty());
  CHECK(value_of_line("last=", "last").empty());
}

TEST_CASE("machine: this one has a core and memory") {
  const nlohmann::json machine = machine_as_json();
  CHECK(machine.at("cores").get<int>() >= 1);
  CHECK(machine.at("memory_bytes").get<double>() > 0);
  CHECK(machine.contains("processor"));
  CHECK(machine.contains("system"));
}

}  // namespace nearkv
