"""`--where`: rows of a table chosen by a pandas query that can only compare columns, never call what it likes."""

from __future__ import annotations

import ast

import pandas as pd

from store.errors import ConfigError

METHODS = {"isna", "notna", "isin", "between", "abs", "contains", "startswith", "endswith", "fullmatch", "len", "lower"}
ATTRIBUTES = {*METHODS, "str"}
NODES = (
    ast.Expression, ast.BoolOp, ast.boolop, ast.BinOp, ast.operator, ast.UnaryOp, ast.unaryop, ast.Compare, ast.cmpop,
    ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple, ast.Attribute, ast.Call, ast.keyword,
)  # fmt: skip


def matching(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Rows of a table for which a pandas query is true, such as "score < 0.5 and frame > 10".

    ConfigError, naming the columns, where it is no such query: for anything but columns, numbers, texts, comparisons,
    arithmetic and METHODS, and where it has no truth for each row.
    """
    try:
        _check(ast.parse(where.strip(), mode="eval"), set(table.columns))
        # the engine is named, so that results do not depend on whether numexpr is installed
        chosen = table.eval(where.strip(), engine="python", local_dict={}, global_dict={})
        if not isinstance(chosen, pd.Series) or chosen.dtype != bool:
            raise ValueError("it is not true or false for each row")
    except Exception as error:  # whatever pandas raises for an expression is about the expression
        reason = " ".join(str(error).split()) or type(error).__name__
        columns = ", ".join(table.columns)
        raise ConfigError(f"--where {where!r} cannot be used: {reason}; columns: {columns}") from None
    return table.loc[chosen]


def _check(tree: ast.Expression, columns: set[str]) -> None:
    """ValueError for what `matching` does not take."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in columns:
            raise ValueError(f"there is no column {node.id!r}")
        if isinstance(node, ast.Attribute) and node.attr not in ATTRIBUTES:
            raise ValueError(f"there is no {node.attr!r} here; there are {', '.join(sorted(ATTRIBUTES))}")
        if not isinstance(node, NODES) or isinstance(node, ast.Pow):  # 9**9**9 would never end
            raise ValueError(f"{type(node).__name__} is more than a query may hold")
