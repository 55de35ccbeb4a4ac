"""Shapes of images, and the order in which they are seen."""

from collections import Counter

import pytest

from adire_assets.families.diffusion.training.buckets import Order, nearest, shapes


def test_the_buckets_of_a_resolution_have_about_its_area() -> None:
    found = shapes(512, multiple=64)
    assert {(512, 512), (448, 576), (576, 448), (256, 1024)} <= set(found)
    assert all(width % 64 == height % 64 == 0 for width, height in found)
    areas = [width * height / 512**2 for width, height in found]
    assert max(areas) <= 1 and min(areas) > 0.75
    assert all((height, width) in found for width, height in found)
    # A small base that divides by 16 has steps of 16, not of 64.
    assert (112, 144) in shapes(128, multiple=16)


@pytest.mark.parametrize(
    ("size", "bucket"),
    [((800, 800), (512, 512)), ((1000, 512), (704, 320)), ((512, 683), (448, 576))],
)
def test_an_image_goes_where_the_least_is_cut(size: tuple[int, int], bucket: tuple) -> None:
    width, height = nearest(size, shapes(512, multiple=64))
    assert abs(width / height - size[0] / size[1]) <= abs(bucket[0] / bucket[1] - size[0] / size[1])


def test_every_row_is_seen_once_in_each_epoch_and_in_another_order() -> None:
    order = Order((tuple(range(6)),), size=1, seed=3)
    seen = [order.batch(number)[1][0] for number in range(12)]
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    assert seen[:6] != seen[6:]


def test_batches_are_of_one_bucket_and_each_bucket_has_its_share() -> None:
    order = Order((tuple(range(10)), tuple(range(10, 14)), (14,)), size=2, seed=3)
    assert order.epoch == (5, 2, 1)
    taken = [order.batch(number) for number in range(16)]
    for bucket, rows in taken:
        assert set(rows) <= set(order.rows[bucket])
    assert Counter(bucket for bucket, _ in taken) == {0: 10, 1: 4, 2: 2}
    assert [bucket for bucket, _ in taken[:8]] != [bucket for bucket, _ in taken[8:]]
    counts = Counter(row for _, rows in taken[:8] for row in rows)
    assert counts == {**dict.fromkeys(range(14), 1), 14: 2}


def test_repeated_rows_come_as_often_as_asked() -> None:
    order = Order(((0, 0, 0, 1),), size=1, seed=0)
    assert Counter(order.batch(number)[1][0] for number in range(8)) == {0: 6, 1: 2}
