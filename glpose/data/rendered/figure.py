"""A dressed person as one triangle mesh: body, clothes, hair and things carried, each face with its colour."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from glpose.data.rendered.actions import Array
from glpose.data.rendered.colours import Colour
from glpose.data.rendered.rig import SEGMENT, SEGMENTS

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Figure:
    """A mesh at rest, in the frame of a Body.

    vertices: (V, 3) metres; shares: (V, 15) of segments; faces: (F, 3); colours: (4 F, 3) BGR 0..255, of the four parts
    of every face; head, carried: (F,) bool, what belongs to the head, hair and hats too, and what is not of the person.
    edges: (E, 2) whose middles are the vertices V, V + 1, ... of `fine`, (4 F, 3), four faces for each of `faces`.
    """

    vertices: Array
    shares: Array
    faces: Ints
    colours: Array
    head: NDArray[np.bool_]
    carried: NDArray[np.bool_]
    edges: Ints = field(init=False)
    fine: Ints = field(init=False)

    def __post_init__(self) -> None:
        edges, fine = subdivide(self.faces, len(self.vertices))
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "fine", fine)

    def refine(self, values: Array) -> Array:
        """(..., V + E, C): values (..., V, C) of the vertices, then their means along edges."""
        middles = 0.5 * (values[..., self.edges[:, 0], :] + values[..., self.edges[:, 1], :])
        return np.concatenate([values, middles], axis=-2)


def subdivide(faces: Ints, count: int) -> tuple[Ints, Ints]:
    """Edges (E, 2) of triangles (F, 3) and the four triangles (4 F, 3) that each is cut into at its edges' middles.

    count: of vertices; edge e's middle is vertex count + e.
    """
    pairs = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    edges, where = np.unique(pairs, axis=0, return_inverse=True)
    ab, bc, ca = (count + where.reshape(3, -1)).astype(np.int64)
    a, b, c = faces.T
    parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    fine = np.stack([np.stack(part, axis=1) for part in parts], axis=1)
    return edges.astype(np.int64), fine.reshape(-1, 3)


@dataclass(frozen=True)
class Piece:
    """Part of a figure: vertices (V, 3), shares (V, 15), faces (F, 3), and colours (4 F, 3)."""

    vertices: Array
    shares: Array
    faces: Ints
    colours: Array
    head: bool = False
    carried: bool = False


def join(pieces: list[Piece]) -> Figure:
    """All pieces as one figure."""
    starts = np.cumsum([0] + [len(piece.vertices) for piece in pieces])[:-1]
    counts = [len(piece.faces) for piece in pieces]
    shares = np.concatenate([piece.shares for piece in pieces])
    faces = np.concatenate([piece.faces + start for piece, start in zip(pieces, starts, strict=True)])
    of_head = shares.argmax(axis=1)[faces[:, 0]] == SEGMENT["head"]
    return Figure(
        np.concatenate([piece.vertices for piece in pieces]),
        shares,
        faces,
        np.concatenate([piece.colours for piece in pieces]),
        of_head | np.repeat([piece.head for piece in pieces], counts),
        np.repeat([piece.carried for piece in pieces], counts),
    )


def plain(colour: Colour, faces: int) -> Array:
    """(4 F, 3): one colour."""
    return np.tile(np.array(colour, np.float64), (4 * faces, 1))


def rigid(segment: str, count: int) -> Array:
    """(count, 15): vertices that move with one segment."""
    out = np.zeros((count, len(SEGMENTS)))
    out[:, SEGMENT[segment]] = 1
    return out


def grid_faces(rows: int, columns: int) -> Ints:
    """(2 (rows - 1) columns, 3) triangles between rings of `columns` vertices each, closed around."""
    at = np.arange(rows * columns).reshape(rows, columns)
    right = np.roll(at, -1, axis=1)
    a, b, c, d = at[:-1].ravel(), right[:-1].ravel(), right[1:].ravel(), at[1:].ravel()
    return np.concatenate([np.stack([a, d, b], axis=1), np.stack([b, d, c], axis=1)])


def ellipsoid(
    segment: str, centre: Array, radii: tuple[float, float, float], colour: Colour, least: float = -1.0
) -> Piece:
    """A ball of half-sizes `radii` that moves with a segment; of it what is above `least` (-1: all, 0: a cap)."""
    heights = np.linspace(1, least, 8)
    around = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    wide = np.sqrt(np.clip(1 - heights**2, 0, 1))[:, None]
    ring = np.stack(
        [wide * np.sin(around), np.broadcast_to(heights[:, None], (8, 12)), wide * np.cos(around)], axis=2
    ).reshape(-1, 3)
    faces = grid_faces(8, 12)
    return Piece(centre + ring * radii, rigid(segment, len(ring)), faces, plain(colour, len(faces)))


def tube(segment: str, start: Array, end: Array, radii: tuple[float, float], colour: Colour, sides: int = 8) -> Piece:
    """A tapered stick from start to end, open at its ends, that moves with a segment and is carried."""
    along = (end - start) / np.linalg.norm(end - start)
    first = np.cross(along, [0.31, 0.17, 0.93])
    first /= np.linalg.norm(first)
    second = np.cross(along, first)
    around = np.linspace(0, 2 * np.pi, sides, endpoint=False)[:, None]
    ring = np.cos(around) * first + np.sin(around) * second
    steps = np.linspace(0, 1, 5)[:, None, None]
    radius = radii[0] * (1 - steps) + radii[1] * steps
    vertices = (start * (1 - steps) + end * steps + radius * ring).reshape(-1, 3)
    faces = grid_faces(5, sides)[:, ::-1]
    return Piece(vertices, rigid(segment, len(vertices)), faces, plain(colour, len(faces)), carried=True)


def quad(segment: str, corners: Array, colour: Colour) -> Piece:
    """A flat rectangle, corners (4, 3) counter-clockwise from outside."""
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    return Piece(corners, rigid(segment, 4), faces, plain(colour, 2))
