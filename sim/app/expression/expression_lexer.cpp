#include "sim/app/expression/expression_lexer.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <string_view>
#include <system_error>

#include <fmt/format.h>

#include "sim/core/check.hpp"

namespace nearkv {

namespace {

bool begins_name(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_'; }
bool is_in_name(char c) { return begins_name(c) || std::isdigit(static_cast<unsigned char>(c)); }

class Lexer {
 public:
  explicit Lexer(const std::string& text) : text_(text) {}

  std::vector<Token> tokens() {
    std::vector<Token> all;
    do {
      all.push_back(next());
    } while (all.back().kind != Token::Kind::end);
    return all;
  }

 private:
  Token next() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_])) != 0) {
      ++at_;
    }
    Token token{.column = at_ + 1};
    if (at_ == text_.size()) {
      token.text = "the end";
      return token;
    }
    const char c = text_[at_];
    if (std::isdigit(static_cast<unsigned char>(c)) != 0) {
      number(token);
    } else if (begins_name(c)) {
      token.kind = Token::Kind::name;
      while (at_ < text_.size() && is_in_name(text_[at_])) {
        token.text += text_[at_++];
      }
    } else if (c == '"') {
      quoted(token);
    } else {
      symbol(token);
    }
    return token;
  }

  void number(Token& token) {
    token.kind = Token::Kind::number;
    const char* const begin = text_.data() + at_;
    const auto [rest, error] = std::from_chars(begin, text_.data() + text_.size(), token.number);
    if (error != std::errc{} || !std::isfinite(token.number)) {
      fail_at(token.column, "a number that is too large or too small");
    }
    token.text.assign(begin, rest);
    at_ += token.text.size();
  }

  void quoted(Token& token) {
    token.kind = Token::Kind::text;
    const std::size_t end = text_.find('"', at_ + 1);
    if (end == std::string::npos) {
      fail_at(token.column, "a quote that is not closed");
    }
    token.text = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
  }

  void symbol(Token& token) {
    constexpr std::array<std::string_view, 16> kSymbols{"<=", ">=", "==", "!=", "<", ">", "+", "-",
                                                        "*",  "/",  "(",  ")",  "[", "]", ".", ","};
    const std::string_view rest = std::string_view(text_).substr(at_);
    const auto* const found =
        std::find_if(kSymbols.begin(), kSymbols.end(),
                     [rest](std::string_view s) { return rest.starts_with(s); });
    if (found == kSymbols.end()) {
      fail_at(token.column,
              fmt::format("{} has no meaning here; the operators are + - * / ( ) < <= > "
                          ">= and or not",
                          in_quotes(rest.substr(0, 1))));
    }
    token.kind = Token::Kind::symbol;
    token.text = *found;
    at_ += found->size();
  }

  const std::string& text_;
  std::size_t at_ = 0;
};

}  // namespace

void fail_at(std::size_t column, const std::string& problem) {
  throw ConfigError(fmt::format("column {}: {}", column, problem));
}

std::vector<Token> tokens_of(const std::string& text) { return Lexer(text).tokens(); }

}  // namespace nearkv
