// From the text of an expression to its words and signs.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace nearkv {

/// A word of an expression.
struct Token {
  enum class Kind { number, name, text, symbol, end };

  Kind kind = Kind::end;
  std::string text{};
  double number = 0;
  std::size_t column = 1;
};

/// All of them; the last one is the end. Throws ConfigError "column 7: ...".
[[nodiscard]] std::vector<Token> tokens_of(const std::string& text);

/// Throws ConfigError "column 7: ...".
[[noreturn]] void fail_at(std::size_t column, const std::string& problem);

}  // namespace nearkv
