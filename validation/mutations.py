"""Single-operator mutations of the models: drawn at random, nothing is built or run here.

    for mutation in drawn_mutations(root, seed):     (every possible one, in random order)
        text = mutation.applied(original text)

What is changed: + - * / to their inverse, a comparison to its neighbour at the boundary or to its
opposite (as PIT and Mull do), && and ||, += and -=, std::min and std::max, an integer by one, and
a ! is dropped. Not in comments, literals, preprocessor lines, template brackets, or code of tests,
and not the defaults of what a config must set.
"""

import random
import re
import sys
from collections import namedtuple
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "tidy"))

import tidy_check  # noqa: E402

# clang-format puts a blank on both sides of a binary operator and on none of a template bracket,
# a pointer or a reference.
BINARY = re.compile(r"(?<= )(?:<=|>=|==|!=|&&|\|\||\+=|-=|[-+*/<>])(?= |$)")
REPLACEMENTS = {
    "+": ("-",), "-": ("+",), "*": ("/",), "/": ("*",), "+=": ("-=",), "-=": ("+=",),
    "<": ("<=", ">="), "<=": ("<", ">"), ">": (">=", "<="), ">=": (">", "<"),
    "==": ("!=",), "!=": ("==",), "&&": ("||",), "||": ("&&",),
    "min": ("max",), "max": ("min",), "!": ("",),
}
NOT = re.compile(r"!(?![=\s])")
SMALLER_OR_LARGER = re.compile(r"(?<=\bstd::)(?:min|max)(?=[(<])")
DECIMAL = re.compile(r"[0-9']+")
# Lines whose numbers and operators are no behaviour: what fails there fails to compile.
NO_BEHAVIOUR = re.compile(r"\s*(?:#|template\b|using\b|static_assert\b|namespace\b)|.*\) = 0;")
STRUCT = re.compile(r"^struct \w[^;]*?\{$.*?^\};$", re.DOTALL | re.MULTILINE)
MEMBER_DEFAULT = re.compile(r"  [\w:<>]+ \w+ = \d+;")


class Mutation(namedtuple("Mutation", "path line column old new before")):
    """`old` at a line (from 1) and column (from 0) becomes `new`; `before` is the whole line."""

    @property
    def after(self):
        return self.before[:self.column] + self.new + self.before[self.column + len(self.old):]

    @property
    def key(self):
        return f"{self.path}:{self.line}:{self.column + 1}: {self.old} -> {self.new or 'nothing'}"

    def applied(self, text):
        lines = text.split("\n")
        assert lines[self.line - 1] == self.before, f"{self.path} changed under the check"
        lines[self.line - 1] = self.after
        return "\n".join(lines)


def mutated_files(root):
    """The code of the models without tests, benchmarks and what they share."""
    for path in sorted((root / "models").rglob("*.?pp")):
        file = tidy_check.SourceFile(root, path)
        if not file.is_test and "fixture" not in file.name:
            yield file


def is_beside_text(code, start, end):
    """Texts are joined with +, which has no inverse."""
    return code[:start].rstrip().endswith('"') or code[end:].lstrip().startswith('"')


def replacements(code):
    """(column, old, all that may come there) of a line without comments and literals."""
    if NO_BEHAVIOUR.match(code):
        return
    for pattern in (BINARY, NOT, SMALLER_OR_LARGER):
        for match in pattern.finditer(code):
            if match[0] != "+" or not is_beside_text(code, *match.span()):
                yield match.start(), match[0], REPLACEMENTS[match[0]]
    for match in tidy_check.NUMBER.finditer(code):
        in_brackets = code[:match.start()].endswith("<") or code[match.end():].startswith(">")
        if not match["suffix"] and DECIMAL.fullmatch(match["digits"]) and not in_brackets:
            value = int(match["digits"].replace("'", ""))
            yield (match.start(), match[0],
                   (str(value + 1), str(value - 1)) if value > 0 else (str(value + 1),))


def without_defaults_of_configs(file):
    """The code without defaults that the reader of configs overwrites, or refuses to leave."""
    code = "\n".join(file.code)
    for struct in STRUCT.finditer(code):
        if "fields(FieldVisitor" in struct[0]:
            kept = "\n".join(tidy_check.blank(line) if MEMBER_DEFAULT.match(line) else line
                             for line in struct[0].split("\n"))
            code = code[:struct.start()] + kept + code[struct.end():]
    return code.split("\n")


def sites(root):
    for file in mutated_files(root):
        for number, code in enumerate(without_defaults_of_configs(file), 1):
            for column, old, choices in sorted(replacements(code)):
                yield Mutation(file.path, number, column, old, "", file.lines[number - 1]), choices


def drawn_mutations(root, seed):
    """One mutation of each place where there can be one, every place at the same odds."""
    generator = random.Random(seed)
    found = list(sites(root))
    generator.shuffle(found)
    return [site._replace(new=generator.choice(choices)) for site, choices in found]
