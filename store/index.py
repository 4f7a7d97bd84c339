"""A per-video FAISS index of embeddings: exact inner products (Eq. 3 ranks by them)."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np

from store.errors import CorruptData

FILE = "index.faiss"


def build_index(embeddings: np.ndarray) -> faiss.IndexFlatIP:
    """Exact inner-product index of (P, C) float32 embeddings; row i answers as id i."""
    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(np.ascontiguousarray(embeddings, np.float32))  # pyright: ignore[reportCallIssue]
    return index


def search_outside(
    index: faiss.IndexFlatIP, queries: np.ndarray, excluded: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """The n most similar rows of the index per query, outside that query's excluded row range.

    queries: (Q, C) float32. excluded: (Q, 2) int, rows [start, stop) that a query may not return. Returns ids (Q, n)
    int64 and similarities (Q, n) float32, best first; -1 and -inf where the index has fewer.
    """
    ids = np.full((len(queries), n), -1, np.int64)
    similarities = np.full((len(queries), n), -np.inf, np.float32)
    if n == 0 or index.ntotal == 0:
        return ids, similarities
    for row, (start, stop) in enumerate(excluded):
        allowed = faiss.IDSelectorNot(faiss.IDSelectorRange(int(start), int(stop)))
        found = index.search(  # pyright: ignore[reportCallIssue]
            np.ascontiguousarray(queries[row : row + 1], np.float32), n, params=faiss.SearchParameters(sel=allowed)
        )
        similarities[row], ids[row] = found[0][0], found[1][0]
    similarities[ids < 0] = -np.inf
    return ids, similarities


def write_index(folder: Path, index: faiss.Index) -> None:
    """Write `folder/index.faiss`."""
    faiss.write_index(index, str(folder / FILE))


def read_index(folder: Path) -> faiss.Index:
    """Read `folder/index.faiss`. CorruptData where FAISS cannot."""
    try:
        return faiss.read_index(str(folder / FILE))
    except RuntimeError as error:
        raise CorruptData(f"{folder / FILE} cannot be read ({error}); run index again") from None
