"""The choice of a backend."""

import pytest

from sgformer.ops.dispatch import Backend, choose, explain, never

BACKENDS = {
    "picky": Backend(lambda n: "picky", lambda n: f"{n} is odd" if n % 2 else None, never),
    "small": Backend(lambda n: "small", never, lambda n: f"{n} is many" if n > 10 else None),
    "any": Backend(lambda n: "any", never, never),
}


@pytest.mark.parametrize(("n", "expected"), [(2, "picky"), (3, "small"), (13, "any"), (12, "picky")])
def test_auto_takes_the_first_without_an_objection(n, expected):
    assert choose("op", BACKENDS, "auto", n).run(n) == expected


def test_the_last_one_serves_where_all_object():
    slow = {"picky": BACKENDS["picky"], "small": BACKENDS["small"]}
    assert choose("op", slow, "auto", 13).run(13) == "small"


def test_a_named_backend_runs_though_slow_and_refuses_in_a_sentence():
    assert choose("op", BACKENDS, "small", 13).run(13) == "small"
    with pytest.raises(ValueError, match="op cannot run on backend 'picky' here: 3 is odd; backend 'auto' finds one"):
        choose("op", BACKENDS, "picky", 3)
    with pytest.raises(ValueError, match="op has no backend 'none'; choose one of auto, picky, small, any"):
        choose("op", BACKENDS, "none", 3)


def test_explain_asks_everyone():
    assert explain(BACKENDS, 13) == {"picky": "13 is odd", "small": "13 is many", "any": "yes"}
