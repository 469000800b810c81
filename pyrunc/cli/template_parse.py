"""From the text of a Go template to its tree, with the words of Go's own errors.

    text {{pipeline}} {{if pipeline}} … {{else}} … {{end}} {{range $i, $e := pipeline}} … {{end}}

Source: the Go documentation of text/template. Named templates are refused.
"""

import re
from collections.abc import Collection
from typing import Any, NamedTuple, NoReturn


class TemplateError(Exception):
    """The template is wrong, or does not fit its data; the text is Go's."""


class Node(NamedTuple):
    """A part of the tree: what *kind* it is, its text, where it stands, and what is below it.

    text: *value*. action: pipe. if, range, with: pipe, list, else list. list: nodes. break, continue.
    pipe: commands; *names* are the variables that it sets. command: operands.
    field: *value* is the tuple of names; var: the same after the variable's name; chain: the same of a node.
    dot, nil, call (the name of a function), string, number, bool: *value*.
    """

    kind: str
    text: str
    at: int
    value: Any = None
    nodes: tuple["Node", ...] = ()
    names: tuple[str, ...] = ()
    declares: bool = True


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    |(?P<char>'(?:[^'\\\n]|\\.)+')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?))
    |(?P<field>\.[^\W\d]\w*)
    |(?P<var>\$\w*)
    |(?P<word>[^\W\d]\w*)
    |(?P<sign>:=|[=|(),.])""",
    re.VERBOSE,
)
_BLOCKS = ("if", "range", "with")
_REFUSED = ("define", "template", "block")
_ESCAPES = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
    "\\": "\\", "'": "'", '"': '"',
}  # fmt: skip


def parse(text: str, functions: Collection[str]) -> Node:
    """The tree of *text*, which may call *functions*. Raises TemplateError."""
    return _Parser(text, functions).parse()


def unquote(text: str) -> str:
    """The value of a Go string in double quotes or backquotes, or of a character. Raises ValueError."""
    if text.startswith("`"):
        return text[1:-1]

    def one(match: re.Match[str]) -> str:
        body = match[1]
        if body in _ESCAPES:
            return _ESCAPES[body]
        if body[0] in "xuU":
            return chr(int(body[1:], 16))
        return chr(int(body, 8))

    escape = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", re.DOTALL)
    return escape.sub(one, text[1:-1])


class _Parser:
    def __init__(self, text: str, functions: Collection[str]) -> None:
        self.text = text
        self.functions = functions
        self.at = 0
        self.tokens: list[_Token] = []
        self.variables = ["$"]
        self.loops = 0

    def parse(self) -> Node:
        found, end = self._list()
        if end is not None:
            self._fail(f"unexpected {{{{{end.text}}}}}", end.at)
        return found

    def _fail(self, words: str, at: int | None = None) -> NoReturn:
        line = self.text.count("\n", 0, len(self.text) if at is None else at) + 1
        raise TemplateError(f"template: :{line}: {words}")

    # --- text and actions

    def _list(self) -> tuple[Node, _Token | None]:
        """Nodes up to the {{else}} or {{end}} that is returned with them, or to the end of the text."""
        begun, nodes = self.at, []
        while self.at < len(self.text):
            start = self.text.find("{{", self.at)
            piece = self.text[self.at : start if start >= 0 else len(self.text)]
            if start < 0:
                self.at = len(self.text)
                nodes.append(Node("text", piece, self.at, piece))
                break
            inside = start + 2
            trim = self.text[inside : inside + 1] == "-" and self.text[inside + 1 : inside + 2].isspace()
            if trim:
                piece = piece.rstrip(" \t\r\n")
                inside += 1
            if piece:
                nodes.append(Node("text", piece, self.at, piece))
            if self.text[inside:].lstrip().startswith("/*"):
                self._comment(inside)
                continue
            self._lex(inside)
            node, end = self._action()
            if end is not None:
                return Node("list", "", begun, nodes=tuple(nodes)), end
            if node is not None:
                nodes.append(node)
        return Node("list", "", begun, nodes=tuple(nodes)), None

    def _comment(self, inside: int) -> None:
        close = self.text.find("*/", inside)
        if close < 0:
            self._fail("unclosed comment", inside)
        match = re.compile(r"(\s-)?\}\}").match(self.text, close + 2)
        if match is None:
            self._fail("comment ends before closing delimiter", inside)
        self._leave(match.end(), bool(match[1]))

    def _leave(self, at: int, trim: bool) -> None:
        self.at = at
        if trim:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1

    def _lex(self, at: int) -> None:
        """Cut one action into tokens and go behind it."""
        self.tokens = []
        depth = 0
        while True:
            closing = re.compile(r"(\s+-)?\}\}").match(self.text, at)
            if closing:
                if depth:
                    self._fail("unclosed left paren", at)
                self._leave(closing.end(), bool(closing[1]))
                self.tokens.append(_Token("end", "}}", closing.start()))
                return
            match = _TOKEN.match(self.text, at)
            if at >= len(self.text):
                self._fail("unclosed action")
            if match is None:
                char = self.text[at]
                if char == '"':
                    self._fail("unterminated quoted string", at)
                if char == "`":
                    self._fail("unterminated raw quoted string", at)
                if char == "'":
                    self._fail("unterminated character constant", at)
                self._fail(f"unrecognized character in action: U+{ord(char):04X} {char!r}", at)
            kind = str(match.lastgroup)
            depth += {"(": 1, ")": -1}.get(match[0], 0)
            if depth < 0:
                self._fail("unexpected right paren", at)
            self.tokens.append(_Token(match[0] if kind == "sign" else kind, match[0], at))
            at = match.end()

    def _peek(self, skip: bool = True) -> _Token:
        while skip and self.tokens[0].kind == "space":
            self.tokens.pop(0)
        return self.tokens[0]

    def _next(self, skip: bool = True) -> _Token:
        token = self._peek(skip)
        if token.kind != "end":
            self.tokens.pop(0)
        return token

    def _action(self) -> tuple[Node | None, _Token | None]:
        token = self._peek()
        word = token.text if token.kind == "word" else ""
        if word in ("end", "else"):
            self._next()
            if word == "else" and self._peek().text in ("if", "with"):
                return None, _Token("else", "else", token.at)
            self._expect_end(word)
            return None, _Token(word, word, token.at)
        if word in _REFUSED:
            self._fail(f"{{{{{word}}}}} is not supported", token.at)
        if word in _BLOCKS:
            self._next()
            return self._block(word, token.at), None
        if word in ("break", "continue"):
            self._next()
            self._expect_end(word)
            if not self.loops:
                self._fail(f"{{{{{word}}}}} outside {{{{range}}}}", token.at)
            return Node(word, word, token.at), None
        if token.kind == "end":
            self._fail("missing value for command", token.at)
        pipe = self._pipe("command")
        return Node("action", f"{{{{{pipe.text}}}}}", token.at, nodes=(pipe,)), None

    def _expect_end(self, context: str) -> None:
        token = self._next()
        if token.kind != "end":
            self._fail(f'unexpected "{token.text}" in {context}', token.at)

    def _block(self, word: str, at: int) -> Node:
        known = len(self.variables)
        pipe = self._pipe(word)
        self.loops += word == "range"
        body, end = self._list()
        self.loops -= word == "range"
        other = Node("list", "", at)
        if end is not None and end.text == "else":
            nested = self._peek(skip=True) if self.tokens else None
            if nested is not None and nested.text in ("if", "with"):
                self._next()
                other = Node("list", "", end.at, nodes=(self._block(nested.text, nested.at),))
                del self.variables[known:]
                return Node(word, word, at, nodes=(pipe, body, other))
            other, end = self._list()
            if end is not None and end.text == "else":
                self._fail("expected end; found {{else}}", end.at)
        if end is None:
            self._fail("unexpected EOF")
        del self.variables[known:]
        return Node(word, word, at, nodes=(pipe, body, other))

    # --- pipelines

    def _pipe(self, context: str, closing: str = "end") -> Node:
        first = self._peek()
        names: list[str] = []
        declares = True
        if first.kind == "var":
            # "$x := …", "$x = …", or "$i, $e := …" of a range: otherwise it is an operand.
            ahead = [token for token in self.tokens if token.kind != "space"][:4]
            kinds = [token.kind for token in ahead]
            if kinds[1:2] in ([":="], ["="]):
                names, declares, count = [ahead[0].text], kinds[1] == ":=", 2
            elif kinds[1:4] == [",", "var", ":="] or (kinds[1:3] == [",", "var"] and context == "range"):
                if context != "range":
                    self._fail(f"too many declarations in {context}", first.at)
                names, count = [ahead[0].text, ahead[2].text], 4
            else:
                count = 0
            for _ in range(count):
                self._next()
            if declares:
                self.variables += names
        commands: list[Node] = []
        while True:
            token = self._peek()
            if token.kind in ("end", ")"):
                if token.kind != closing and token.kind == ")":
                    self._fail(f'unexpected ")" in {context}', token.at)
                if not commands:
                    self._fail(f"missing value for {context}", token.at)
                self._next()
                break
            commands.append(self._command(context))
        for command in commands[1:]:
            if command.nodes[0].kind in ("bool", "dot", "nil", "number", "string"):
                self._fail(
                    f"non executable command in pipeline stage {commands.index(command) + 1}", command.at
                )
        shown = f"{', '.join(names)} {':=' if declares else '='} " if names else ""
        text = shown + " | ".join(command.text for command in commands)
        return Node("pipe", text, first.at, nodes=tuple(commands), names=tuple(names), declares=declares)

    def _command(self, context: str) -> Node:
        operands: list[Node] = []
        at = self._peek().at
        while True:
            operand = self._operand()
            if operand is not None:
                operands.append(operand)
            token = self._next(skip=False)
            if token.kind == "space":
                continue
            if token.kind in ("end", ")"):
                if token.kind == ")":
                    self.tokens.insert(0, token)
                break
            if token.kind == "|":
                if self._peek().kind in ("end", ")"):
                    self._fail(f"missing value for {context}", token.at)
                break
            self._fail(f'unexpected "{token.text}" in operand', token.at)
        if not operands:
            self._fail("empty command", at)
        return Node("command", " ".join(node.text for node in operands), at, nodes=tuple(operands))

    def _operand(self) -> Node | None:
        token = self._peek()
        node = self._term(token)
        if node is None or self._peek(skip=False).kind != "field":
            return node
        at = self._peek(skip=False).at
        names = []
        while self._peek(skip=False).kind == "field":
            names.append(self._next(skip=False).text[1:])
        text = node.text + "".join(f".{name}" for name in names)
        if node.kind in ("field", "var"):
            return Node(node.kind, text, at, (*node.value, *names))
        if node.kind in ("bool", "string", "number", "nil", "dot"):
            self._fail(f"unexpected . after term {node.text!r}".replace("'", '"'), at)
        return Node("chain", text, at, tuple(names), nodes=(node,))

    def _term(self, token: _Token) -> Node | None:
        kind, text, at = token
        if kind in ("end", "space", "|", ")"):
            return None
        self._next()
        if kind == "word":
            if text in ("true", "false"):
                return Node("bool", text, at, text == "true")
            if text == "nil":
                return Node("nil", text, at)
            if text not in self.functions:
                self._fail(f'function "{text}" not defined', at)
            return Node("call", text, at, text)
        if kind == "field":
            return Node("field", text, at, (text[1:],))
        if kind == ".":
            return Node("dot", text, at)
        if kind == "var":
            if text not in self.variables:
                self._fail(f'undefined variable "{text}"', at)
            return Node("var", text, at, (text,))
        if kind == "string":
            return Node("string", text, at, unquote(text))
        if kind == "char":
            return Node("number", text, at, ord(unquote(text)))
        if kind == "number":
            return Node("number", text, at, _number(text))
        if kind == "(":
            pipe = self._pipe("parenthesized pipeline", ")")
            return Node("pipe", f"({pipe.text})", at, nodes=(pipe,))
        return self._fail(f'unexpected "{text}" in operand', at)


def _number(text: str) -> int | float:
    plain = text.replace("_", "")
    if "x" in plain.lower():
        return int(plain, 16)
    return float(plain) if set(plain) & set(".eE") else int(plain)
