"""FAISS indices of embeddings, and exact searches in them that leave a range of rows out (Eq. 3 ranks so)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import faiss
import numpy as np

from store.errors import CorruptData
from store.folder import Commit
from store.places import Place
from store.record import fingerprint

FILE = "index.faiss"
FEW = 1 << 20  # products of queries and vectors that are held at once, 4 MB; FAISS searches where there are more
GPU_MOST = 2048  # results a query that FAISS gives on a GPU

# queries from which on FAISS multiplies matrices: 4 times faster for a video's 130, but 1.15 raised it to 128,000
faiss.cvar.distance_compute_blas_threshold = 20


def made_from(features: Commit, gallery: Mapping[str, str]) -> str:
    """What a video's index notes as its inputs: digest of the features and proposals that it was made from.

    gallery: split -> digest of the features of all its videos, where references may be of any; else empty.
    """
    return fingerprint([features.digest, dict(gallery)] if gallery else features.digest)


def gallery_of(made: Commit) -> dict[str, str]:
    """The gallery that a video's index was made from, as `made_from` takes it."""
    return made.meta.get("gallery", {})


def gallery_digest(features: Mapping[str, Commit], videos: Iterable[str]) -> str:
    """Identifies what references of a split are looked for in: the features of all its videos."""
    return fingerprint([[name, features[name].digest] for name in sorted(videos)])


def build_index(embeddings: np.ndarray) -> faiss.IndexFlatIP:
    """Exact inner-product index of (P, C) float32 embeddings; row i answers as id i."""
    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(np.ascontiguousarray(embeddings, np.float32))  # pyright: ignore[reportCallIssue]
    return index


def on_device(index: faiss.Index, device: str) -> faiss.Index:
    """The index on the GPU, where this FAISS finds one; as it is for the device "cpu". device: as torch names it."""
    kind, _, number = device.partition(":")
    if kind == "cpu" or not faiss.get_num_gpus():
        return index
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), int(number or 0), index)


def search_outside(
    index: faiss.Index, queries: np.ndarray, excluded: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each query, the n rows of the index most similar to it, outside its excluded range.

    queries: (Q, C) float32. excluded: (Q, 2) int, rows [start, stop) that the query may not return. Returns rows (Q, n)
    int64 and similarities (Q, n) float32, best first; -1 and -inf where there are fewer. The number of threads and the
    device change nothing, but where two rows are equally similar to the last bits.
    """
    rows = np.full((len(queries), n), -1, np.int64)
    similarity = np.full((len(queries), n), -np.inf, np.float32)
    if n == 0 or index.ntotal == 0:
        return rows, similarity
    if isinstance(index, faiss.IndexFlat) and len(queries) * index.ntotal <= FEW:
        _search_few(index, queries, excluded, rows, similarity)
    else:
        _search_many(index, queries, excluded, rows, similarity)
    return rows, similarity


def _search_few(
    index: faiss.IndexFlat, queries: np.ndarray, excluded: np.ndarray, rows: np.ndarray, similarity: np.ndarray
) -> None:
    """Fill rows and similarity (Q, n): all products, the excluded ones masked, and FAISS's heaps over them."""
    vectors = index.reconstruct_n(0, index.ntotal)  # pyright: ignore[reportCallIssue]
    products = queries @ vectors.T
    number = np.arange(index.ntotal)
    products[(number >= excluded[:, :1]) & (number < excluded[:, 1:])] = -np.inf
    heaps = faiss.float_minheap_array_t()
    heaps.nh, heaps.k = rows.shape
    heaps.ids, heaps.val = faiss.swig_ptr(rows), faiss.swig_ptr(similarity)
    heaps.heapify()
    heaps.addn(index.ntotal, faiss.swig_ptr(products))
    heaps.reorder()
    similarity[rows < 0] = -np.inf


def _search_many(
    index: faiss.Index, queries: np.ndarray, excluded: np.ndarray, rows: np.ndarray, similarity: np.ndarray
) -> None:
    """Fill rows and similarity (Q, n): search for more than n, drop what is excluded, search again for who lacks some.

    FAISS has selectors for this, but on a GPU no flat index takes one, and on a CPU it then compares one pair after the
    other, several times slower than by products of matrices.
    """
    n = rows.shape[1]
    pending, wanted = np.arange(len(queries)), 0
    while len(pending) and wanted < index.ntotal:
        wanted = min(2 * max(n, wanted), index.ntotal)
        if wanted > GPU_MOST and not isinstance(index, faiss.IndexFlat):
            index = faiss.index_gpu_to_cpu(index)
        _, found = index.search(queries[pending], wanted)  # pyright: ignore[reportCallIssue]
        allowed = (found < excluded[pending, :1]) | (found >= excluded[pending, 1:])
        place = allowed.cumsum(axis=1)
        query, at = np.nonzero(allowed & (place <= n))
        rows[pending[query], place[query, at] - 1] = found[query, at]
        pending = pending[place[:, -1] < n]
    # the last bits of a product of matrices differ with the number of threads and on a GPU: each pair's own does not
    query, at = np.nonzero(rows >= 0)
    vectors = index.reconstruct_batch(rows[query, at])  # pyright: ignore[reportCallIssue]
    similarity[query, at] = np.einsum("mc,mc->m", queries[query], vectors)
    order = np.lexsort((rows, -similarity), axis=1)
    rows[:] = np.take_along_axis(rows, order, 1)
    similarity[:] = np.take_along_axis(similarity, order, 1)


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
