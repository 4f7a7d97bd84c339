"""A per-video FAISS index of embeddings: exact inner products (Eq. 3 ranks by them)."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np

from store.errors import CorruptData
from store.folder import Commit
from store.places import Place
from store.record import fingerprint

FILE = "index.faiss"


def made_from(features: Commit) -> str:
    """What a video's index notes as its inputs: digest of the features and proposals that it was made from."""
    return fingerprint(features.digest)


def build_index(embeddings: np.ndarray) -> faiss.IndexFlatIP:
    """Exact inner-product index of (P, C) float32 embeddings; row i answers as id i."""
    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(np.ascontiguousarray(embeddings, np.float32))  # pyright: ignore[reportCallIssue]
    return index


def search_outside(
    index: faiss.Index, rows: np.ndarray, eligible: np.ndarray, excluded: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each of these rows of the index, the n eligible rows most similar to it, outside its excluded range.

    rows: (Q,) row numbers to search for. eligible: (E,) row numbers that may be found. excluded: (Q, 2) int, row
    numbers [start, stop) that the query may not return. Returns row numbers (Q, n) int64 and similarities (Q, n)
    float32, best first; -1 and -inf where there are fewer.
    """
    ids = np.full((len(rows), n), -1, np.int64)
    similarities = np.full((len(rows), n), -np.inf, np.float32)
    if n == 0 or len(eligible) == 0:
        return ids, similarities
    among = faiss.IDSelectorBatch(eligible)
    for position, (row, (start, stop)) in enumerate(zip(rows, excluded, strict=True)):
        outside = faiss.IDSelectorNot(faiss.IDSelectorRange(int(start), int(stop)))
        parameters = faiss.SearchParameters(sel=faiss.IDSelectorAnd(among, outside))  # pyright: ignore[reportCallIssue]
        query = index.reconstruct(int(row))[None]  # pyright: ignore[reportCallIssue]
        found = index.search(query, n, params=parameters)  # pyright: ignore[reportCallIssue]
        similarities[position], ids[position] = found[0][0], found[1][0]
    similarities[ids < 0] = -np.inf
    return ids, similarities


def write_index(folder: Path, index: faiss.Index) -> None:
    """Write `folder/index.faiss`."""
    # written by Python, whose error for a full disk can be told from others; FAISS's cannot
    (folder / FILE).write_bytes(faiss.serialize_index(index).tobytes())


def read_index(folder: Place) -> faiss.Index:
    """Read `folder/index.faiss`. CorruptData where FAISS cannot."""
    try:
        return faiss.deserialize_index(np.frombuffer((folder / FILE).read_bytes(), np.uint8))
    except (OSError, RuntimeError) as error:
        raise CorruptData(f"{folder / FILE} cannot be read ({error}); run index again") from None
