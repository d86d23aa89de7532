"""Conditions on the rows of a table, written as text: parsed, never evaluated as code.

    diagnosis == 'normal' or brixia <= 3
    lung_mask.notna() and diagnosis in ('other_infection', 'covid19')

A condition compares columns with texts and numbers (==, !=, <, <=, >, >=, in, not in), asks whether
they are known (.notna(), .isna()), and joins that by and, or, not, with brackets. A comparison with
an unknown value is false, but for != and not in. This is what `pandas.DataFrame.eval` makes of the
same text, which also runs code.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda column, values: column.isin(values),
    ast.NotIn: lambda column, values: ~column.isin(values),
}
JOIN: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.And: operator.and_,
    ast.Or: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
MEMBERSHIP = (ast.In, ast.NotIn)
KNOWN = {"notna": lambda column: column.notna(), "isna": lambda column: column.isna()}
LONGEST = 1000  # letters of a condition
FORM = (
    "a condition compares columns with texts and numbers, as in \"diagnosis == 'normal' and "
    'brixia <= 3"; ==, !=, <, <=, >, >=, in, not in, .notna(), .isna(), and, or, not'
)

Condition = Callable[[Any], Any]  # a table -> which rows it holds for, bool (N,)


def parse(text: str, setting: str = "condition") -> Condition:
    """A condition from its text.

    Args:
        text: See above.
        setting: Whose text it is, for messages.

    Returns:
        A function of a table. It raises ValueError where the table lacks a column, or where a
        column of texts is compared with a number.

    Raises:
        ValueError: The text is no condition; the message names the setting and the part.
    """
    try:
        if len(text) > LONGEST:
            raise SyntaxError(f"it is longer than {LONGEST} letters")
        condition = _condition(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        why = error.msg if isinstance(error, SyntaxError) else "it is nested too deep"
        raise ValueError(f"{setting}: {text[:LONGEST]!r} is no condition: {why}; {FORM}") from None

    def rows(table: Any) -> Any:
        try:
            return condition(table)
        except KeyError as error:
            raise ValueError(
                f"{setting}: {text!r} asks for the column {error.args[0]!r}; there are: "
                f"{', '.join(sorted(map(str, table)))}"
            ) from None
        except TypeError as error:
            raise ValueError(f"{setting}: {text!r} does not fit the columns: {error}") from None

    return rows


def _condition(node: ast.expr) -> Condition:
    """A node of the tree that is true or false for each row."""
    if isinstance(node, ast.BoolOp):
        return _joined(JOIN[type(node.op)], [_condition(value) for value in node.values])
    if isinstance(node, ast.BinOp) and type(node.op) in JOIN:
        return _joined(JOIN[type(node.op)], [_condition(node.left), _condition(node.right)])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.Invert)):
        inner = _condition(node.operand)
        return lambda table: ~inner(table)
    if isinstance(node, ast.Call):
        return _is_known(node)
    if isinstance(node, ast.Compare):
        return _comparison(node)
    raise SyntaxError(f"{ast.unparse(node)!r} is not true or false")


def _joined(join: Callable[[Any, Any], Any], parts: list[Condition]) -> Condition:
    def rows(table: Any) -> Any:
        found = parts[0](table)
        for part in parts[1:]:
            found = join(found, part(table))
        return found

    return rows


def _is_known(node: ast.Call) -> Condition:
    """`column.notna()` or `column.isna()`."""
    method = node.func
    if not isinstance(method, ast.Attribute) or method.attr not in KNOWN:
        raise SyntaxError(f"{ast.unparse(node)!r} is none of .notna(), .isna()")
    if node.args or node.keywords:
        raise SyntaxError(f"{ast.unparse(node)!r}: nothing stands in these brackets")
    column, ask = _column(method.value), KNOWN[method.attr]
    return lambda table: ask(table[column])


def _comparison(node: ast.Compare) -> Condition:
    """`column < 3`, `3 < column`, `column in ('a', 'b')`, or a chain of such."""
    sides, parts = [node.left, *node.comparators], []
    for left, operation, right in zip(sides, node.ops, sides[1:], strict=False):
        compare = COMPARE.get(type(operation))
        if compare is None:
            raise SyntaxError(f"{ast.unparse(node)!r} compares by 'is'; write == or .isna()")
        parts.append(_one_comparison(left, compare, right, isinstance(operation, MEMBERSHIP)))
    return _joined(operator.and_, parts)


def _one_comparison(
    left: ast.expr, compare: Callable[[Any, Any], Any], right: ast.expr, membership: bool
) -> Condition:
    if membership:
        column, values = _column(left), _values(right)
        return lambda table: compare(table[column], values)
    if isinstance(left, ast.Name) and isinstance(right, ast.Name):
        first, second = left.id, right.id
        return lambda table: compare(table[first], table[second])
    if isinstance(left, ast.Name):
        column, value = left.id, _value(right)
        return lambda table: compare(table[column], value)
    column, value = _column(right), _value(left)
    return lambda table: compare(value, table[column])


def _column(node: ast.expr) -> str:
    if not isinstance(node, ast.Name):
        raise SyntaxError(f"{ast.unparse(node)!r} is no column")
    return node.id


def _values(node: ast.expr) -> list[Any]:
    if not isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        raise SyntaxError(f"{ast.unparse(node)!r} is no list, such as ('a', 'b')")
    return [_value(one) for one in node.elts]


def _value(node: ast.expr) -> Any:
    """A text or a number; -1 is a minus before a number."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node, sign = node.operand, -1
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return sign * value
    if isinstance(value, bool) or (isinstance(value, str) and sign == 1):
        return value
    raise SyntaxError(f"{ast.unparse(node)!r} is no text between quotes and no number")
