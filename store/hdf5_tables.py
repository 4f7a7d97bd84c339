"""Tables in HDF5: a group with one array per column, as any HDF5 tool shows it, and back without a loss.

A column of numbers or texts is an array of one value per row. A column of lists is an array (rows, longest list), the
rest filled with NaN, with `COLUMN.length` (rows,) int32 beside it: -1 where there is no list. Where a value is missing,
`COLUMN.valid`, of the shape of the column's array, is 0.
"""

from __future__ import annotations

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store.hdf5 import fixed_text, read_array, read_json_text, write_array, write_json_text

METADATA = "metadata"  # what Parquet notes beside the columns; it takes part in the file's checksum


def write_columns(parent: h5py.Group, table: pa.Table, row: str) -> None:
    """Write a table into an empty group. row: name of the rows' dimension."""
    for field in table.schema:
        column = table[field.name].combine_chunks()
        if pa.types.is_list(field.type):
            _write_lists(parent, field.name, column, row)
        else:
            write_array(parent, field.name, _filled(column), (row,))
            _write_valid(parent, field.name, _valid(column), (row,))
    metadata = table.schema.metadata
    write_json_text(parent, METADATA, metadata and {key.decode(): value.decode() for key, value in metadata.items()})


def read_columns(parent: h5py.Group, schema: pa.Schema) -> pa.Table:
    """The table again. KeyError, TypeError or ValueError where the group does not hold one of this schema."""
    columns = []
    for field in schema:
        if pa.types.is_list(field.type):
            columns.append(_read_lists(parent, field))
            continue
        values, valid = read_array(parent, field.name), _read_valid(parent, field.name)
        if pa.types.is_string(field.type):
            values = np.array([value.decode() for value in values], dtype=object)
        columns.append(pa.array(values, type=field.type, mask=None if valid is None else ~valid))
    metadata = read_json_text(parent, METADATA)
    # none at all and an empty one make different files
    return pa.table(columns, schema=schema if metadata is None else schema.with_metadata(metadata))


def _filled(column: pa.Array) -> np.ndarray:
    """Values of a column, with something harmless where there is none."""
    if pa.types.is_string(column.type):
        return fixed_text(column.fill_null("").to_pylist())
    fill = np.nan if pa.types.is_floating(column.type) else 0
    return column.fill_null(fill).to_numpy(zero_copy_only=False)


def _valid(column: pa.Array) -> np.ndarray:
    return column.is_valid().to_numpy(zero_copy_only=False)


def _write_valid(parent: h5py.Group, name: str, valid: np.ndarray, dims: tuple[str, ...]) -> None:
    if not valid.all():
        write_array(parent, f"{name}.valid", valid.astype(np.uint8), dims)


def _read_valid(parent: h5py.Group, name: str) -> np.ndarray | None:
    """None where every value is there."""
    return read_array(parent, f"{name}.valid").astype(bool) if f"{name}.valid" in parent else None


def _write_lists(parent: h5py.Group, name: str, column: pa.ListArray, row: str) -> None:
    length = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False).astype(np.int32)  # pyright: ignore[reportAttributeAccessIssue]
    inner = column.flatten()
    cells = _cells(length, int(length.max(initial=0)))
    values = np.full(cells.shape, np.nan, np.dtype(inner.type.to_pandas_dtype()))
    values[cells] = _filled(inner)
    valid = np.ones(cells.shape, bool)
    valid[cells] = _valid(inner)
    write_array(parent, name, values, (row, name))
    write_array(parent, f"{name}.length", length, (row,))
    _write_valid(parent, name, valid, (row, name))


def _read_lists(parent: h5py.Group, field: pa.Field) -> pa.ListArray:
    values, length = read_array(parent, field.name), read_array(parent, f"{field.name}.length")
    valid = _read_valid(parent, field.name)
    cells = _cells(length, values.shape[1])
    inner = pa.array(values[cells], type=field.type.value_type, mask=None if valid is None else ~valid[cells])
    offsets = np.concatenate([[0], np.cumsum(np.maximum(length, 0))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), inner, type=field.type, mask=pa.array(length < 0))


def _cells(length: np.ndarray, longest: int) -> np.ndarray:
    """(rows, longest) bool: the cells that hold a list's values."""
    return np.arange(longest) < length[:, None]
