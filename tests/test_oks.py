"""OKS average precision: pycocotools' numbers, COCO's definition, and files that lack something."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gzip
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from glpose.keypoints import JointSet
from glpose.metrics.oks import OKSResult, evaluate, evaluate_content, format_table
from store.errors import DataError

JOINTS = JointSet(
    name="robot",
    joints=("head", "left_hand", "right_hand", "left_foot", "right_foot"),
    flip_pairs=((1, 2), (3, 4)),
    groups={"Head": (0,), "Hand": (1, 2), "Foot": (3, 4)},
    limbs=((0, 1), (0, 2)),
    upper_body=(0, 1, 2),
    sigmas=(0.03, 0.06, 0.06, 0.09, 0.09),
)
POSE = np.array([[50, 10, 2], [20, 50, 2], [80, 50, 1], [30, 150, 2], [70, 150, 2]], float)  # in a box of 100 x 160
THRESHOLDS = np.linspace(0.5, 0.95, 10)
Content = dict[str, Any]
Results = list[dict[str, Any]]


def annotation(image: int, pose: np.ndarray = POSE, number: int = 1, **other: Any) -> Content:
    person = {"id": number, "image_id": image, "category_id": 1, "keypoints": pose.ravel().tolist()}
    return {**person, "bbox": [0, 0, 100, 160], "area": 8000.0, "iscrowd": 0, "num_keypoints": 5, **other}


def annotated(*people: Content, images: int = 2) -> Content:
    return {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(1, images + 1)],
        "annotations": list(people),
        "categories": [{"id": 1, "name": "person", "keypoints": list(JOINTS.joints)}],
    }


def pose(image: int, keypoints: np.ndarray = POSE, score: float = 0.9) -> Content:
    return {"image_id": image, "category_id": 1, "keypoints": keypoints.ravel().tolist(), "score": score}


def moved(dx: float, dy: float = 0) -> np.ndarray:
    return POSE + np.array([dx, dy, 0])


def random_case(seed: int, people: int = 4) -> tuple[Content, Results]:
    """Five images of people of all sizes, some ignored, found more or less well, with false positives."""
    rng = np.random.default_rng(seed)
    persons: list[Content] = []
    poses: Results = []
    for image in range(1, 6):
        for _ in range(rng.integers(0, people + 1)):
            scale = rng.choice([0.15, 0.4, 1.0, 2.0])
            where = rng.uniform(0, 300, 2)
            points = POSE * [scale, scale, 1] + [*where, 0]
            points[:, 2] = rng.choice([0, 1, 2], 5, p=[0.2, 0.2, 0.6])
            if rng.random() < 0.1:
                points[:, 2] = 0
            box = [*where.tolist(), 100 * scale, 160 * scale]
            crowd, counted = int(rng.random() < 0.15), int((points[:, 2] > 0).sum())
            area = 0.5 * box[2] * box[3]
            persons.append(
                annotation(image, points, len(persons) + 1, bbox=box, area=area, iscrowd=crowd, num_keypoints=counted)
            )
            for _ in range(rng.choice([0, 1, 2], p=[0.15, 0.65, 0.2])):
                noise = np.c_[rng.normal(0, rng.choice([2, 5, 12]) * scale, (5, 2)), np.zeros(5)]
                poses.append(pose(image, points + noise, rng.random()))
        poses += [pose(image, moved(*rng.uniform(0, 400, 2)), rng.random()) for _ in range(rng.integers(0, 2))]
    return annotated(*persons, images=5), poses


def similarity(truth: Content, found: Content, sigmas: np.ndarray) -> float:
    """OKS: exp(-d^2 / (2 s^2 k^2)) with s^2 the area and k = 2 sigma, averaged over the annotated joints."""
    g, d = (np.reshape(one["keypoints"], (-1, 3)) for one in (truth, found))
    has = g[:, 2] > 0
    if has.any():
        squares = ((g - d)[has, :2] ** 2).sum(axis=1)
        sigmas = sigmas[has]
    else:  # nothing annotated: the distance to the box, doubled
        x, y, w, h = truth["bbox"]
        low, high = np.array([x - w, y - h]), np.array([x + 2 * w, y + 2 * h])
        squares = (np.maximum(0, np.maximum(low - d[:, :2], d[:, :2] - high)) ** 2).sum(axis=1)
    return float(np.exp(-squares / (2 * truth["area"] * (2 * sigmas) ** 2)).mean())


def by_definition(content: Content, results: Results, low: float = 0, high: float = 1e10) -> tuple[np.ndarray, float]:
    """AP at every threshold and AR in percent, from COCO's description, for people of area [low, high]."""
    sigmas = np.array(JOINTS.sigmas)
    precisions, recalls = [], []
    for threshold in THRESHOLDS:
        outcomes: list[tuple[float, bool]] = []  # score and whether right, of all poses that count
        total = 0
        for image in content["images"]:
            people = [person for person in content["annotations"] if person["image_id"] == image["id"]]
            regular = [
                not person["iscrowd"] and person["num_keypoints"] > 0 and low <= person["area"] <= high
                for person in people
            ]
            total += sum(regular)
            free = set(range(len(people)))
            found = [one for one in results if one["image_id"] == image["id"]]
            for one in sorted(found, key=lambda one: -one["score"])[:20]:
                values = {n: similarity(people[n], one, sigmas) for n in free}
                close = [n for n in free if values[n] >= threshold]
                best = max(close, key=lambda n: (regular[n], values[n], n), default=None)  # the last of equals
                if best is None:
                    points = np.reshape(one["keypoints"], (-1, 3))[:, :2]
                    width, height = points.max(axis=0) - points.min(axis=0)
                    if low <= width * height <= high:
                        outcomes.append((one["score"], False))
                    continue
                if regular[best]:
                    outcomes.append((one["score"], True))
                if not people[best]["iscrowd"]:
                    free.remove(best)
        right = np.array([is_right for _, is_right in sorted(outcomes, key=lambda outcome: -outcome[0])], bool)
        if not total:
            return np.full(len(THRESHOLDS), np.nan), math.nan
        recall = right.cumsum() / total
        precision = right.cumsum() / np.arange(1, len(right) + 1)
        levels = np.linspace(0, 1, 101)
        at_least = [precision[recall >= level].max(initial=0) for level in levels]
        precisions.append(100 * np.mean(at_least))
        recalls.append(100 * recall.max(initial=0))
    return np.array(precisions), float(np.mean(recalls))


def official(gt: Path, pred: Path) -> list[float]:
    """AP, AP50, AP75, medium, large, AR in percent of pycocotools as it is commonly called."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(gt))
        scorer = COCOeval(truth, truth.loadRes(str(pred)), "keypoints")
        scorer.params.kpt_oks_sigmas = np.array(JOINTS.sigmas)
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return [100 * float(value) if value >= 0 else math.nan for value in scorer.stats[:6]]


def numbers(result: OKSResult) -> list[float]:
    return [result.ap, result.ap50, result.ap75, result.ap_medium, result.ap_large, result.ar]


def scored(content: Content, results: Results, joints: JointSet = JOINTS) -> OKSResult:
    return evaluate_content(content, results, joints)


def write(folder: Path, content: Any, results: Any) -> tuple[Path, Path]:
    gt, pred = folder / "gt.json", folder / "pred.json"
    gt.write_text(json.dumps(content))
    pred.write_text(json.dumps(results))
    return gt, pred


@pytest.mark.parametrize("seed", range(12))
def test_by_definition(seed: int) -> None:
    content, results = random_case(seed)
    at, recall = by_definition(content, results)
    medium, large = by_definition(content, results, 32**2, 96**2)[0], by_definition(content, results, 96**2)[0]
    expected = [at.mean(), at[0], at[5], medium.mean(), large.mean(), recall]
    assert numbers(scored(content, results)) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_random_cases_are_neither_easy_nor_hopeless() -> None:
    found = [scored(*random_case(seed)).ap for seed in range(12)]
    assert 20 < np.mean(found) < 80 and np.std(found) > 5


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("boxes", [False, True])
def test_the_same_files_give_the_official_numbers(tmp_path: Path, seed: int, boxes: bool) -> None:
    content, results = random_case(seed)
    if boxes:  # then pycocotools takes a pose's area from them
        for n, one in enumerate(results):
            one["bbox"] = [0, 0, 10 + 20 * (n % 7), 40]
    gt, pred = write(tmp_path, content, results)
    assert numbers(evaluate(gt, pred, JOINTS)) == pytest.approx(official(gt, pred), abs=1e-12, nan_ok=True)


def test_crowded_images_count_20_poses(tmp_path: Path) -> None:
    content, results = random_case(5, people=36)
    result = scored(content, results)
    assert result.ap == pytest.approx(by_definition(content, results)[0].mean(), abs=1e-9)
    assert "highest score in an image" in result.problems[0]
    assert not scored(*random_case(0)).problems
    people = [annotation(1, moved(300 * n), n, bbox=[300 * n, 0, 100, 160]) for n in range(1, 26)]
    all_found = [pose(1, moved(300 * n), n / 30) for n in range(1, 26)]
    result = scored(annotated(*people), all_found)
    assert result.ar == pytest.approx(80)  # 20 of 25
    assert result.pck.mean == 100  # the cap is AP's alone


def test_perfect_and_hopeless_predictions() -> None:
    content = annotated(annotation(1), annotation(1, moved(500), 2), annotation(2, number=3))
    perfect = scored(content, [pose(1), pose(1, moved(500), 0.3), pose(2)])
    assert numbers(perfect) == pytest.approx([100, 100, 100, 100, math.nan, 100], nan_ok=True)
    assert (perfect.mean, perfect.pck.mean, perfect.images) == (perfect.ap, 100, 2)
    far = scored(content, [pose(1, moved(5000)), pose(2, moved(0, 1e200))])
    assert (far.ap, far.ar, far.pck.mean) == (0, 0, 0)


def test_one_pose_at_a_known_similarity() -> None:
    sigmas = dataclasses.replace(JOINTS, sigmas=(0.05,) * 5)
    # (2 sigma)^2 x area x 2 = 160, so that a shift of sqrt(160 ln(1 / 0.72)) px is an OKS of 0.72
    found = [pose(1, moved(math.sqrt(160 * math.log(1 / 0.72))))]
    result = scored(annotated(annotation(1)), found, sigmas)
    assert (result.ap, result.ap50, result.ap75) == pytest.approx((50, 100, 0))  # right at 0.50 ... 0.70
    assert scored(annotated(annotation(1)), found, dataclasses.replace(JOINTS, sigmas=(0.1,) * 5)).ap > 80
    assert scored(annotated(annotation(1)), found, dataclasses.replace(JOINTS, sigmas=(0.02,) * 5)).ap == 0


def test_crowds_and_people_without_joints_are_ignored() -> None:
    nobody = POSE * [1, 1, 0]
    content = annotated(
        annotation(1),
        annotation(1, moved(500), 2, iscrowd=1, bbox=[500, 0, 100, 160]),
        annotation(2, nobody, 3, num_keypoints=0),
    )
    found = [pose(1), pose(1, moved(500), 0.95), pose(1, moved(501), 0.94), pose(2, moved(10), 0.99)]
    result = scored(content, found)
    assert (result.ap, result.ar) == (pytest.approx(100), 100)
    assert result.pck.people == 1
    content["annotations"][1]["iscrowd"] = 0
    assert scored(content, found).ap < 100  # one of the two poses is now a false positive


def test_no_predictions_and_nobody_annotated() -> None:
    result = scored(annotated(annotation(1)), [])
    assert numbers(result) == pytest.approx([0, 0, 0, 0, math.nan, 0], nan_ok=True)
    assert result.pck.mean == 0
    for results in ([], [pose(1)]):
        nobody = scored(annotated(), results)
        assert np.isnan([*numbers(nobody), nobody.pck.mean]).all()
        assert nobody.as_json()["mean"] is None
    assert math.isnan(scored(annotated(images=0), []).ap)


@pytest.mark.parametrize("key", ["id", "iscrowd", "num_keypoints"])
def test_what_annotations_may_lack(key: str) -> None:
    content, results = random_case(3)
    for person in content["annotations"]:
        if key != "iscrowd" or not person["iscrowd"]:
            del person[key]
    assert numbers(scored(content, results)) == numbers(scored(*random_case(3)))


def test_repeated_ids_change_nothing() -> None:
    content, results = random_case(3)
    for entry in content["annotations"]:
        entry["id"] = 0
    for entry in results:
        entry["id"] = 7
    assert numbers(scored(content, results)) == numbers(scored(*random_case(3)))


def test_a_missing_area_is_a_share_of_the_box() -> None:
    person, found = annotation(1, area=0.53 * 16000), [pose(1, moved(7.25))]
    expected = scored(annotated(person), found)
    assert 0 < expected.ap < 100
    assert scored(annotated({**person, "area": None}), found).ap == expected.ap
    # without a box as well: the joints' extent, 60 x 140 px, widened by 30 %
    extent = {**person, "bbox": [11, -11, 78, 182], "area": 0.53 * 78 * 182}
    bare = {key: value for key, value in person.items() if key not in ("bbox", "area")}
    with_extent, without = (scored(annotated(one), found) for one in (extent, bare))
    assert without.as_json() == with_extent.as_json()
    assert with_extent.ap < expected.ap
    one_joint = {**bare, "keypoints": [50, 10, 2] + [0] * 12}
    assert scored(annotated(one_joint), [pose(1)]).ap == pytest.approx(100)  # 1 px^2 rather than 0


def test_joints_are_found_by_name() -> None:
    content, results = random_case(7)
    expected = scored(content, results)
    order = [3, 0, 5, 2, 1, 4]  # 5: a joint that the set lacks
    content["categories"][0]["keypoints"] = [[*JOINTS.joints, "tail"][joint] for joint in order]
    for entry in [*content["annotations"], *results]:
        points = np.reshape(entry["keypoints"], (5, 3)).tolist()
        entry["keypoints"] = np.ravel([[*points, [999, 999, 2]][joint] for joint in order]).tolist()
    for entry in content["annotations"]:
        entry["num_keypoints"] += 1
    assert numbers(scored(content, results)) == pytest.approx(numbers(expected), abs=1e-9, nan_ok=True)


def test_order_of_entries_and_kinds_of_ids_change_nothing() -> None:
    content, results = random_case(8)
    expected = numbers(scored(content, results))
    for entries in (content["images"], content["annotations"], results):
        np.random.default_rng(0).shuffle(entries)
    assert numbers(scored(content, results)) == pytest.approx(expected, abs=1e-9, nan_ok=True)
    for image in content["images"]:
        image["id"] = f"clip/{image['id']}"
    for entry in [*content["annotations"], *results]:
        entry["image_id"] = f"clip/{entry['image_id']}"
    assert numbers(scored(content, results)) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_other_categories_and_unlabelled_images_are_left_out() -> None:
    content = annotated(annotation(1), annotation(2, moved(50), 2, category_id=2, keypoints=[1, 2, 2]), images=3)
    content["categories"] += [{"id": 2, "name": "ball", "keypoints": ["centre"]}, {"id": 3, "name": "tree"}]
    content["images"][2]["is_labeled"] = False
    found = [pose(1), {**pose(2), "category_id": 2, "keypoints": [9, 9, 1]}, pose(3)]
    result = scored(content, found)
    assert (result.ap, result.images, result.pck.people) == (pytest.approx(100), 2, 1)


def test_pck_pairs_by_the_largest_similarity() -> None:
    people = [annotation(1), annotation(1, moved(30), 2, bbox=[30, 0, 100, 160]), annotation(2, number=3)]
    # PCK@0.2 of 160 px: 32 px. The first pose is nearer to the first person, who has to leave it to the second.
    found = [pose(1, moved(14), 0.9), pose(1, moved(-20), 0.5), pose(1, moved(700), 0.99)]
    result = scored(annotated(*people), found)
    assert result.pck.counts["right"]["head"] == 2  # the person in image 2 has no pose
    assert result.pck.groups == pytest.approx(dict.fromkeys(JOINTS.groups, 200 / 3))
    assert evaluate_content(annotated(*people), found, JOINTS, alpha=0.1).pck.mean == pytest.approx(100 / 3)


def test_files_may_be_gzipped_and_nothing_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, results = random_case(1)
    gt, pred = tmp_path / "gt.json.gz", tmp_path / "pred.json.gz"
    for path, value in ((gt, content), (pred, results)):
        path.write_bytes(gzip.compress(json.dumps(value).encode()))
    result = evaluate(gt, pred, JOINTS)
    assert numbers(result) == numbers(scored(content, results))
    assert capsys.readouterr() == ("", "")
    as_json = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert as_json["mean"] == as_json["ap"] == result.ap
    assert as_json["pck"]["mean"] == result.pck.mean


def test_what_is_given_is_left_as_it_was() -> None:
    content, results = random_case(2)
    before = copy.deepcopy((content, results))
    scored(content, results)
    assert (content, results) == before


def test_table() -> None:
    perfect = scored(annotated(annotation(1)), [pose(1)])
    nobody = scored(annotated(), [])
    assert format_table({"ours": perfect, "nobody": nobody}).splitlines() == [
        "AP to AR: OKS (COCO); then PCK@0.2 of max(w, h)",
        "            AP    AP50    AP75      AR    Head    Hand    Foot     Avg",
        "ours     100.0   100.0   100.0   100.0   100.0   100.0   100.0   100.0",
        "nobody       -       -       -       -       -       -       -       -",
    ]


def entry_of(where: str, number: int, **changes: Any) -> Callable[[Content, Results], None]:
    """Change an entry; None removes the key."""

    def change(content: Content, results: Results) -> None:
        entry = (results if where == "results" else content[where])[number]
        for key, value in changes.items():
            entry[key] = value
            if value is None:
                del entry[key]

    return change


MALFORMED = {
    "gt.json is malformed: annotation 1: its keypoints holds something that is not a finite": [
        entry_of("annotations", 1, keypoints=[math.nan, 1, 2] * 5),
        entry_of("annotations", 1, keypoints=[1, math.inf, 1] * 5),
        entry_of("annotations", 1, keypoints=[1, 1, math.nan] * 5),
        entry_of("annotations", 1, keypoints=[1, None, 1] * 5),
    ],
    "gt.json is malformed: annotation 1: ": [
        entry_of("annotations", 1, keypoints=[1, 2]),
        entry_of("annotations", 1, keypoints="nose"),
        entry_of("annotations", 1, keypoints={"head": [1, 2]}),
        entry_of("annotations", 1, keypoints=[10**400, 1, 2] * 5),
        entry_of("annotations", 1, bbox=[1, 2, 3]),
        entry_of("annotations", 1, bbox=[1, 2, math.nan, 4]),
        entry_of("annotations", 1, area=-1),
        entry_of("annotations", 1, area="large"),
        entry_of("annotations", 1, area=None, bbox=[0, 0, 1e308, 1e308]),
        entry_of("annotations", 1, num_keypoints=[]),
        entry_of("annotations", 1, image_id=None),
        entry_of("annotations", 1, image_id=[1]),
        entry_of("annotations", 1, category_id=None),
    ],
    "gt.json is malformed: annotation 0: the annotations have no image 77": [entry_of("annotations", 0, image_id=77)],
    "gt.json is malformed: annotation 0: the annotations have no category 9": [
        entry_of("annotations", 0, category_id=9)
    ],
    "gt.json is malformed: image 1: it has no 'id'": [entry_of("images", 1, id=None)],
    "gt.json is malformed: image 1: its id [1] is neither": [entry_of("images", 1, id=[1])],
    "gt.json is malformed: the image id 1 stands twice": [entry_of("images", 1, id=1)],
    "gt.json does not name 'right_foot' of the joint set 'robot'": [
        entry_of("categories", 0, keypoints=[*JOINTS.joints[:4], "wheel"])
    ],
    "gt.json is malformed: categories: unhashable": [entry_of("categories", 0, keypoints=[["head"]])],
    "gt.json: no category names its keypoints; 'robot' needs 'head'": [
        entry_of("categories", 0, keypoints=None),
        lambda content, results: content.update(categories=[]),
    ],
    "gt.json: categories 'cat' and 'dog' name the same joints": [
        lambda content, results: content.update(
            categories=[{"id": n, "name": name, "keypoints": JOINTS.joints} for n, name in ((1, "cat"), (2, "dog"))]
        )
    ],
    "gt.json is malformed: categories: ": [entry_of("categories", 0, keypoints=5)],
    "gt.json is malformed: category 0: ": [lambda content, results: content.update(categories=["person"])],
    "gt.json is not a COCO-style annotation file: it has no list 'annotations'": [
        lambda content, results: content.update(annotations={}),
        lambda content, results: content.pop("annotations"),
    ],
    "pred.json is malformed: pose 1: ": [
        entry_of("results", 1, keypoints=[math.nan] * 15),
        entry_of("results", 1, keypoints=[1] * 14),
        entry_of("results", 1, keypoints=None),
        entry_of("results", 1, score=None),
        entry_of("results", 1, score=math.nan),
        entry_of("results", 1, score="high"),
        entry_of("results", 1, image_id=77),
        entry_of("results", 1, category_id=7),
        entry_of("results", 1, bbox=[1]),
        lambda content, results: results.__setitem__(1, 5),
    ],
}


@pytest.mark.parametrize(
    ("message", "change"), [(message, change) for message, changes in MALFORMED.items() for change in changes]
)
def test_malformed_entries(tmp_path: Path, message: str, change: Callable[[Content, Results], None]) -> None:
    content, results = annotated(annotation(1), annotation(2, number=2)), [pose(1), pose(2)]
    change(content, results)
    with pytest.raises(DataError) as caught:
        evaluate(*write(tmp_path, content, results), JOINTS)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(caught.value)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    gt, pred = write(tmp_path, annotated(annotation(1)), [pose(1)])
    with pytest.raises(DataError, match=r"nowhere\.json does not exist"):
        evaluate(gt, tmp_path / "nowhere.json", JOINTS)
    with pytest.raises(DataError, match=r"pred\.json is not a COCO-style annotation file: it has no list 'images'"):
        evaluate(pred, pred, JOINTS)
    with pytest.raises(DataError, match=r"gt\.json holds a dict; COCO results are a list of poses"):
        evaluate(gt, gt, JOINTS)
    pred.write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"pred\.json is not readable JSON"):
        evaluate(gt, pred, JOINTS)
    damaged = tmp_path / "pred.json.gz"
    damaged.write_bytes(gzip.compress(b"[]")[:-4])
    with pytest.raises(DataError, match=r"pred\.json\.gz is not readable JSON"):
        evaluate(gt, damaged, JOINTS)


@pytest.mark.parametrize("sigmas", [(), (0.1,), (0.1, 0.1, 0.1, 0.1, 0.0), (0.1, 0.1, 0.1, 0.1, math.nan)])
def test_sigmas_are_needed(sigmas: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="joint set 'robot' needs 5 sigmas above 0, one per joint, for OKS"):
        scored(annotated(annotation(1)), [], dataclasses.replace(JOINTS, sigmas=sigmas))
