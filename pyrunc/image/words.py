"""Words of a Dockerfile: quotes, backslashes and variables, as a shell has them.

    'as it is'    "$variables, and a backslash before a quote or dollar sign"    a backslash before any sign
    $name    ${name}    ${name:-text if it is empty}    ${name:+text if not}    ${name:?error if it is empty}

Source: Docker's reference of Dockerfiles, "Environment replacement".
"""

from pyrunc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_SPACE = " \t\v\f\r\n"
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_SPECIAL = frozenset("@*#!?-$")
_MAX_DEPTH = 50


def split(text: str) -> list[str]:
    """Return the words of *text*; quotes and backslashes stay, and keep the space that they protect."""
    words = []
    word = ""
    quote = ""
    i = 0
    while i < len(text):
        sign = text[i]
        if not quote and sign in _SPACE:
            if word:
                words.append(word)
            word = ""
        elif sign == "\\" and quote != "'" and i + 1 < len(text):
            word += text[i : i + 2]
            i += 1
        else:
            if sign in "'\"":
                quote = "" if sign == quote else quote or sign
            word += sign
        i += 1
    return [*words, word] if word else words


def expand(word: str, variables: "Mapping[str, str]") -> str:
    """Return *word* without quotes, with its *variables* replaced; one that is not there is empty.

    Raises InvalidArgument, in Docker's words.
    """
    try:
        expander = _Expander(word, variables)
        return expander.until("")
    except InvalidArgument as exc:
        shown = word.replace("\\", "\\\\").replace('"', '\\"')
        raise InvalidArgument(f'failed to process "{shown}": {exc}') from exc


class _Expander:
    def __init__(self, text: str, variables: "Mapping[str, str]") -> None:
        self._text = text
        self._variables = variables
        self._at = 0
        self._depth = 0

    def _next(self) -> str:
        sign = self._text[self._at : self._at + 1]
        self._at += 1
        return sign

    def until(self, stop: str) -> str:
        """All up to *stop*, which is passed over, or up to the end."""
        found = ""
        while sign := self._next():
            if sign == stop:
                return found
            if sign == "'":
                found += self._single()
            elif sign == '"':
                found += self._double()
            elif sign == "$":
                found += self._variable()
            elif sign == "\\":
                found += self._next()  # a last one says nothing
            else:
                found += sign
        if stop:
            raise InvalidArgument("syntax error: missing '}'")
        return found

    def _single(self) -> str:
        end = self._text.find("'", self._at)
        if end < 0:
            raise InvalidArgument("unexpected end of statement while looking for matching single-quote")
        found = self._text[self._at : end]
        self._at = end + 1
        return found

    def _double(self) -> str:
        found = ""
        while sign := self._next():
            if sign == '"':
                return found
            if sign == "$":
                found += self._variable()
            elif sign == "\\":
                escaped = self._next()
                found += escaped if escaped in ('"', "$", "\\") else sign + escaped
            else:
                found += sign
        raise InvalidArgument("unexpected end of statement while looking for matching double-quote")

    def _name(self) -> str:
        """A name; one sign where it begins with a digit or is special."""
        start = self._at
        first = self._text[start : start + 1]
        if first.isdigit() or (first and first in _SPECIAL):
            self._at += 1
        else:
            while self._text[self._at : self._at + 1] in _NAME:
                self._at += 1
        return self._text[start : self._at]

    def _variable(self) -> str:
        if self._text[self._at : self._at + 1] != "{":
            name = self._name()
            return self._variables.get(name, "") if name else "$"
        self._at += 1
        if self._text[self._at : self._at + 1] in ("", "}", ":"):
            raise InvalidArgument("syntax error: bad substitution")
        name = self._name()
        value = self._variables.get(name, "")
        sign = self._next()
        if sign == "}":
            return value
        if sign != ":":
            raise InvalidArgument("missing ':' in substitution")
        modifier = self._next()
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise InvalidArgument(f"nested deeper than {_MAX_DEPTH} levels")
        word = self.until("}")
        self._depth -= 1
        if modifier == "-":
            return value or word
        if modifier == "+":
            return word if value else ""
        if modifier == "?":
            if not value:
                raise InvalidArgument(f"{name}: {word or 'is not allowed to be unset'}")
            return value
        raise InvalidArgument(f"unsupported modifier ({modifier}) in substitution")
