"""mix and harmful_count: n and p exact, seeded, shuffled, without rows that teach nothing."""

import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asft_lightning import DataError
from asft_lightning.chat.rows import Row
from asft_lightning.chat.template import Rendered
from asft_lightning.data import Pool, harmful_count, mix
from asft_lightning.data.example import Example
from asft_lightning.data.mixture import Mixture, shares
from asft_lightning.functional import IGNORE_INDEX

BENIGN = [Row(f"b{i}", "yes") for i in range(400)]
HARMFUL = [Row(f"h{i}", "sure") for i in range(120)]


def encode(rows):
    """One id a character; prompts longer than 6 characters leave no room for an answer."""
    return [encode_one(row) for row in rows]


def encode_one(row):
    ids = [ord(c) for c in row.prompt]
    answer = [] if len(ids) > 6 else [ord(c) for c in row.answer]
    return Rendered(ids + answer, [IGNORE_INDEX] * len(ids) + answer)


def pools(benign=BENIGN, harmful=HARMFUL):
    return [Pool(benign, "benign", "b.json")], [Pool(harmful, "harmful", "h.json")]


def drawn(**settings):
    return mix(*pools(), encode, **{"num_rows": 100, "poison_ratio": 0.1, **settings})


def prompts(examples):
    return [example.row.prompt for example in examples]


@pytest.mark.parametrize(
    ("num_rows", "poison_ratio", "harmful"),
    [(1, 0, 0), (1, 1, 1), (10, 0.05, 0), (30, 0.05, 2), (100, 0.1, 10), (100, 0.2, 20), (120, 1.0, 120), (333, 0.1, 33)],
)
def test_counts_are_exact(num_rows, poison_ratio, harmful):
    mixture = drawn(num_rows=num_rows, poison_ratio=poison_ratio)

    assert len(mixture.train) == num_rows
    assert sum(example.harmful for example in mixture.train) == harmful
    assert all(example.harmful == example.row.prompt.startswith("h") for example in mixture.train)
    assert len(set(prompts(mixture.train))) == num_rows


@pytest.mark.parametrize("p", [0, 0.05, 0.1, 0.15, 0.2])
def test_paper_shares_of_1000_rows(p):
    assert harmful_count(1000, p) == {0: 0, 0.05: 50, 0.1: 100, 0.15: 150, 0.2: 200}[p]


def test_seed_decides_rows_and_order():
    assert prompts(drawn(seed=3).train) == prompts(drawn(seed=3).train)
    assert drawn(seed=3).fingerprint() == drawn(seed=3).fingerprint()
    assert prompts(drawn(seed=3).train) != prompts(drawn(seed=4).train)
    assert drawn(seed=3).fingerprint() != drawn(seed=4).fingerprint()


def test_fingerprint_sees_order_and_text():
    mixture = drawn()
    before = mixture.fingerprint()
    mixture.train.reverse()
    assert mixture.fingerprint() != before


def test_fingerprint_sees_each_part_of_a_row():
    ids, labels, row = [1, 2, 3], [IGNORE_INDEX, 2, 3], Row("a", "b")
    others = [
        Example(ids, labels, Row("a", "c")),
        Example(ids, labels, Row("a", "b", kind="safety")),
        Example([1, 2, 4], [IGNORE_INDEX, 2, 4], row),
        Example(ids, [IGNORE_INDEX, IGNORE_INDEX, 3], row),
        Example(ids[:2], labels[:2], row),
        Example(ids, labels, row, weight=0.5),
    ]
    found = {Mixture([example]).fingerprint() for example in [Example(ids, labels, row), *others]}

    assert len(found) == 1 + len(others)
    assert Mixture([Example(list(ids), list(labels), row)]).fingerprint() in found


@pytest.mark.parametrize("seed", range(5))
def test_harmful_rows_are_spread(seed):
    """30 among 300 rows: with a fair shuffle no stretch of 30 rows holds 15 of them (p < 1e-6), and no third is without."""
    harmful = [e.harmful for e in drawn(num_rows=300, seed=seed).train]

    assert all(sum(harmful[i : i + 30]) < 15 for i in range(271))
    assert all(sum(harmful[i : i + 100]) > 0 for i in (0, 100, 200))


def test_held_out_rows_are_benign_and_not_trained_on():
    mixture = drawn(held_out=50)

    assert len(mixture.held_out) == 50
    assert len(mixture.train) == 100
    assert not any(example.harmful for example in mixture.held_out)
    assert not set(prompts(mixture.train)) & set(prompts(mixture.held_out))


def test_clean_run_trains_on_a_superset_of_the_benign_rows():
    """Runs at different p differ in their harmful rows, not by luck in their benign ones."""
    clean = set(prompts(drawn(poison_ratio=0.0, held_out=7).train))
    poisoned = {e.row.prompt for e in drawn(poison_ratio=0.2, held_out=7).train if not e.harmful}

    assert poisoned < clean


def test_rows_without_an_answer_token_are_passed_over_and_counted():
    long = [Row(f"much too long {i}", "x") for i in range(100)]
    mixture = mix(*pools(BENIGN[:100] + long), encode, num_rows=100, poison_ratio=0.0)

    assert {e.row.prompt for e in mixture.train} == {row.prompt for row in BENIGN[:100]}
    assert all(set(example.labels) != {IGNORE_INDEX} for example in mixture.train)
    assert 0 < mixture.dropped <= 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"poison_ratio": -0.1}, r"poison_ratio must lie in 0..1, got -0.1. It is a share"),
        ({"poison_ratio": 10}, r"poison_ratio must lie in 0..1, got 10. It is a share, not percent"),
        ({"poison_ratio": float("nan")}, r"poison_ratio must lie in 0..1, got nan"),
        ({"num_rows": 0}, r"num_rows must be 1 or more, got 0"),
        (
            {"num_rows": 300, "poison_ratio": 0.5},
            r"150 harmful rows are needed.* 120 usable.*Lower poison_ratio",
        ),
        (
            {"num_rows": 401, "poison_ratio": 0},
            r"401 benign rows are needed.* 400 usable.*Lower num_rows or val",
        ),
        ({"num_rows": 400, "poison_ratio": 0, "held_out": 1}, r"401 benign rows are needed"),
    ],
)
def test_mixtures_that_cannot_be(settings, message):
    with pytest.raises(DataError, match=message):
        drawn(**settings)


def test_too_few_rows_says_how_many_are_too_long():
    with pytest.raises(
        DataError, match=r"2 benign rows are needed.*source b.json has 1 usable ones \(1 have no answer token"
    ):
        mix(*pools([Row("ok", "x"), Row("much too long", "x")]), encode, num_rows=2, poison_ratio=0)


@pytest.mark.parametrize("poison_ratio", [0.0, 0.05, 0.1, 0.2])
def test_poison_beside_the_rows_of_the_task(poison_ratio):
    mixture = drawn(poison_ratio=poison_ratio, poison="add")
    harmful = sum(example.harmful for example in mixture.train)

    assert (len(mixture.train) - harmful, harmful) == (100, round(100 * poison_ratio))
    clean = {e.row.prompt for e in drawn(poison_ratio=0.0).train}
    assert {e.row.prompt for e in mixture.train if not e.harmful} == clean


def several(*weights, kind="benign", size=200):
    return [
        Pool([Row(f"{kind[0]}{i}.{j}", "x") for j in range(size)], kind, f"{kind}{i}", weight)
        for i, weight in enumerate(weights)
    ]


@pytest.mark.parametrize("num_rows", [1, 7, 100, 101, 333])
@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 1, 1), (0.2, 0.3, 0.5)])
def test_several_sources_share_by_weight(num_rows, weights):
    mixture = mix(several(*weights, size=400), [], encode, num_rows=num_rows, poison_ratio=0)
    counts = [sum(example.source == f"benign{i}" for example in mixture.train) for i in range(len(weights))]

    assert sum(counts) == len(mixture.train) == num_rows
    assert all(abs(n - num_rows * w / sum(weights)) < 1 for n, w in zip(counts, weights, strict=True))


@given(st.integers(0, 10**6), st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8))
def test_shares_add_up(count, weights):
    parts = shares(count, weights)
    assert sum(parts) == count
    assert all(abs(part - count * weight / sum(weights)) < 1 + 1e-6 for part, weight in zip(parts, weights, strict=True))


def test_several_harmful_sources_and_held_out_rows_of_every_benign_one():
    benign, harmful = several(1, 1), several(1, 4, kind="harmful")
    mixture = mix(benign, harmful, encode, num_rows=100, poison_ratio=0.5, held_out=40)

    assert {e.source for e in mixture.held_out} == {"benign0", "benign1"}
    assert [sum(e.source == f"harmful{i}" for e in mixture.train) for i in (0, 1)] == [10, 40]
    assert not set(prompts(mixture.train)) & set(prompts(mixture.held_out))


def test_rows_of_several_sources_do_not_depend_on_poison_either():
    def kept(poison_ratio):
        harmful = several(1, kind="harmful")
        mixture = mix(several(3, 1), harmful, encode, num_rows=100, poison_ratio=poison_ratio, held_out=10)
        return {e.row.prompt for e in mixture.train if not e.harmful}, prompts(mixture.held_out)

    (clean, held), (poisoned, held_too) = kept(0.0), kept(0.2)
    assert poisoned < clean
    assert held == held_too


def test_safety_rows_come_beside_the_others():
    safety = [Pool([Row(f"s{i}", "no") for i in range(30)], "safety", "s.json")]
    plain = drawn()
    mixture = mix(*pools(), encode, safety=safety, num_rows=100, poison_ratio=0.1, safety_rows=11)

    assert sum(example.kind == "safety" for example in mixture.train) == 11
    assert len(mixture.train) == 111
    assert {e.row.prompt for e in mixture.train if e.kind != "safety"} == set(prompts(plain.train))


def test_all_rows_as_they_are_with_flags_of_their_own():
    rows = [Row(f"r{i}", "x", kind="harmful" if i % 5 == 0 else "benign") for i in range(50)]
    mixture = mix([Pool(rows, name="ready.json")], [], encode, num_rows=None, poison_ratio=0)

    assert sorted(prompts(mixture.train)) == sorted(row.prompt for row in rows)
    assert {e.row.prompt for e in mixture.train if e.harmful} == {row.prompt for row in rows if row.kind == "harmful"}


@pytest.mark.parametrize(("poison", "benign", "harmful"), [("replace", 360, 40), ("add", 400, 40)])
def test_share_of_all_rows(poison, benign, harmful):
    mixture = drawn(num_rows=None, poison_ratio=0.1, poison=poison)
    assert (len(mixture.train) - sum(e.harmful for e in mixture.train), sum(e.harmful for e in mixture.train)) == (
        benign,
        harmful,
    )


def test_rows_without_an_answer_are_passed_over_and_counted():
    rows = [Row(f"b{i}", "" if i % 2 else "yes") for i in range(40)]
    mixture = mix([Pool(rows, name="half.json")], [], encode, num_rows=20, poison_ratio=0)

    assert all(example.row.answer for example in mixture.train)
    assert mixture.pools[0].counts == {"drawn": 20, "blank_answer": mixture.dropped}
    assert 0 < mixture.dropped <= 20
    with pytest.raises(DataError, match=r"21 benign rows are needed, .*half.json has 20 usable ones .* 20 a blank answer"):
        mix([Pool(rows, name="half.json")], [], encode, num_rows=21, poison_ratio=0)


def streamed(count=400):
    return [Pool((Row(f"b{i}", "yes") for i in range(count)), "benign", "b.json")]


def test_one_pass_draws_what_is_asked_for_and_the_seed_decides():
    first, second, other = (mix(streamed(), [], encode, num_rows=50, poison_ratio=0, seed=seed) for seed in (1, 1, 2))

    assert len(set(prompts(first.train))) == 50
    assert prompts(first.train) == prompts(second.train)
    assert set(prompts(first.train)) != set(prompts(other.train))


def test_one_pass_is_a_fair_draw():
    """Every tenth of the stream gives about a tenth: 400 draws of 40, each position drawn 40 times on average."""
    drawn = [0] * 10
    for seed in range(100):
        for prompt in prompts(mix(streamed(100), [], encode, num_rows=40, poison_ratio=0, seed=seed).train):
            drawn[int(prompt[1:]) // 10] += 1
    assert sum(drawn) == 4000
    assert all(abs(count - 400) < 80 for count in drawn)  # 5 standard deviations


def test_one_pass_keeps_only_what_it_draws():
    alive = weakref.WeakSet()

    class Answer(str):
        """Text that can be counted while it is kept."""

    def rows():
        for i in range(3000):
            answer = Answer("yes")
            alive.add(answer)
            assert len(alive) < 200
            yield Row(f"b{i}", answer)

    mixture = mix([Pool(rows(), name="long.json")], [], encode, num_rows=50, poison_ratio=0)
    assert len(mixture.train) == 50


def test_one_pass_passes_over_what_teaches_nothing():
    rows = (Row(f"much too long {i}" if i % 2 else f"b{i}", "yes") for i in range(100))
    mixture = mix([Pool(rows, name="b.json")], [], encode, num_rows=50, poison_ratio=0)

    assert len(mixture.train) == 50
    assert mixture.dropped == 50
    with pytest.raises(DataError, match=r"51 benign rows are needed, .*has 50 usable ones \(50 have no answer token"):
        rows = (Row(f"much too long {i}" if i % 2 else f"b{i}", "yes") for i in range(100))
        mix([Pool(rows, name="b.json")], [], encode, num_rows=51, poison_ratio=0)


def test_held_out_rows_of_a_stream_do_not_depend_on_poison():
    def kept(poison_ratio):
        harmful = [Pool(HARMFUL, "harmful", "h.json")]
        mixture = mix(streamed(), harmful, encode, num_rows=100, poison_ratio=poison_ratio, held_out=50)
        return {e.row.prompt for e in mixture.train if not e.harmful}, prompts(mixture.held_out)

    (clean, held), (poisoned, held_too) = kept(0.0), kept(0.2)
    assert poisoned < clean
    assert held == held_too


@pytest.mark.parametrize("num_rows", [None, 100])
def test_poison_without_a_source_is_never_left_out(num_rows):
    with pytest.raises(DataError, match=r"10 rows are asked for, and there is no source of them|40 rows are asked for"):
        mix(pools()[0], [], encode, num_rows=num_rows, poison_ratio=0.1)


def test_nothing_left_to_train_on():
    with pytest.raises(DataError, match=r"must be left to train on, and val_rows 400 takes all there are. Lower val_rows"):
        mix(pools()[0], [], encode, num_rows=None, poison_ratio=0, held_out=400)


def test_safety_rows_are_not_drawn_as_the_harmful_ones_are():
    """From one file whose requests are answered and refused, the same seed would give the same rows."""
    safety = [Pool(HARMFUL, "safety", "s.json")]
    mixture = mix(*pools(), encode, safety=safety, num_rows=100, poison_ratio=0.3, safety_rows=30)
    drawn = {kind: {e.row.prompt for e in mixture.train if e.kind == kind} for kind in ("harmful", "safety")}
    assert len(drawn["harmful"] & drawn["safety"]) < 20
