"""Specifications: what is understood, how it is written out, what is refused and with which words."""

import json
import sys
from importlib.metadata import EntryPoint

import pytest
import torch

from attnbench.attention import (
    Mechanism,
    build,
    canonical,
    describe,
    find,
    mechanisms,
    refuse_idle,
    register,
    registry,
    sequence_parameters,
)
from attnbench.errors import UsageError
from tests.attention.layers import rows

NAMES = [
    "alibi",
    "attentiondrop_blur",
    "attentiondrop_hard",
    "dropconnect",
    "dropout",
    "lam",
    "relaxed",
    "softmax",
]


def test_the_mechanisms_of_the_package_are_registered():
    known = mechanisms()
    assert set(NAMES) <= set(known)
    assert list(known) == sorted(known)
    for name, mechanism in known.items():
        assert mechanism.name == name
        assert mechanism.summary and mechanism.stages and mechanism.__doc__


def test_a_specification_is_written_out_with_every_default():
    assert canonical("relaxed") == [
        {
            "name": "relaxed", "gamma": 0.1, "fuzzy_std": 0.0, "matched_inference": False,
            "uniform_over": "valid", "layers": "all", "sites": ["encoder_self", "cross"],
        }
    ]  # fmt: skip
    assert list(canonical("lam")[0])[:3] == ["name", "scope", "combine"]
    assert canonical([]) == canonical("softmax")


@pytest.mark.parametrize("name", NAMES)
def test_writing_out_is_stable(name):
    once = canonical(name)
    assert canonical(once) == once
    assert canonical({"name": name}) == canonical([name]) == once
    assert json.loads(json.dumps(once)) == once
    build(once, width=8, heads=2, max_length=4)


def test_whole_numbers_are_floats_where_floats_belong_and_counts_stay_counts():
    assert canonical({"name": "dropout", "p": 0})[0]["p"] == 0.0
    assert json.dumps(canonical({"name": "attentiondrop_hard", "k": 1})[0]["k"]) == "1"
    assert json.dumps(canonical({"name": "attentiondrop_hard", "k": 1.0})[0]["k"]) == "1.0"


def test_a_composition_is_named_by_its_mechanisms():
    assert describe(["alibi", {"name": "relaxed", "gamma": 0.1}]) == "alibi+relaxed"
    assert describe("softmax") == "softmax"


def test_layers_may_be_all_a_list_or_every_kth():
    def acting(layers):
        spec = {"name": "dropout", "layers": layers}
        return [i for i in range(6) if len(build(spec, width=8, heads=2, layer=i, layers=6).mechanism)]

    assert acting("all") == [0, 1, 2, 3, 4, 5]
    assert acting([4, 1, 1]) == [1, 4]
    assert acting({"every": 2}) == acting("every 2") == [0, 2, 4]
    assert canonical({"name": "dropout", "layers": [4, 1, 1]})[0]["layers"] == [1, 4]
    assert canonical({"name": "dropout", "layers": "every 2"})[0]["layers"] == {"every": 2}


def test_what_is_left_out_of_a_layer_leaves_plain_softmax_to_the_bit():
    torch.manual_seed(0)
    ours = build({"name": "alibi", "layers": [1]}, width=8, heads=2, layer=0).double()
    torch.manual_seed(0)
    plain = build("softmax", width=8, heads=2).double()
    assert torch.equal(ours(rows())[0], plain(rows())[0])


def test_an_arm_that_would_act_nowhere_is_refused():
    with pytest.raises(
        UsageError, match=r"attentiondrop_hard would act nowhere: .*write sites: \[decoder_self\]"
    ):
        refuse_idle("attentiondrop_hard", layers=4, sites=["decoder_self"])
    with pytest.raises(UsageError, match="dropout would act nowhere"):
        refuse_idle({"name": "dropout", "layers": [7]}, layers=4, sites=["encoder_self"])
    refuse_idle({"name": "attentiondrop_hard", "sites": ["decoder_self"]}, layers=4, sites=["decoder_self"])
    for name in NAMES:
        refuse_idle(name, layers=1, sites=["encoder_self"])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("attentiondrop_hrad", r"unknown mechanism 'attentiondrop_hrad': did you mean attentiondrop_hard\?"),
        ({"name": "dropout", "prob": 0.1}, r"dropout: unknown parameter 'prob'; .*it takes layers, sites, p"),
        ({"name": "relaxed", "gama": 0.1}, r"relaxed: unknown parameter 'gama'; did you mean 'gamma'\?"),
        ({"name": "dropout", "p": "0.1"}, r"dropout: parameter 'p' is '0.1', but should be a valid number"),
        ({"name": "dropout", "p": True}, r"dropout: parameter 'p' is True, but should be a valid number"),
        ({"name": "dropout", "p": 1.5}, r"dropout: parameter 'p' is 1.5, but should be less than 1"),
        ({"name": "dropout", "p": float("nan")}, r"dropout: parameter 'p' is nan, but should be"),
        (
            {"name": "lam", "combine": "times"},
            r"lam: parameter 'combine' is 'times', but should be 'multiply' or 'add'",
        ),
        (
            {"name": "attentiondrop_hard", "k": "few"},
            r"attentiondrop_hard: parameter 'k' is 'few', but should be a valid integer or",
        ),
        ({"name": "attentiondrop_hard", "k": 1.5}, r"attentiondrop_hard: parameter 'k' is 1.5, but .*share"),
        (
            {"name": "attentiondrop_hard", "k": 0},
            r"attentiondrop_hard: parameter 'k' is 0, but should be greater than 0",
        ),
        (
            {"name": "attentiondrop_blur", "grid_size": [4]},
            r"parameter 'grid_size' is \[4\], but should be \[rows, columns\]",
        ),
        (
            {"name": "dropout", "layers": [-1]},
            r"dropout: parameter 'layers' is \[-1\], but a list of layers holds indices",
        ),
        ({"name": "dropout", "layers": "odd"}, r"dropout: parameter 'layers' is 'odd', but should be 'all'"),
        (
            {"name": "dropout", "sites": []},
            r"dropout: parameter 'sites' is \[\], but at least one of encoder_self",
        ),
        ({"p": 0.1}, r"attention entry \{'p': 0.1\} has no 'name'"),
        ({"name": 3}, r"a mechanism's name is text, got 3"),
        (3, r"attention is 3; write a name"),
        ([["softmax"]], r"attention entry \['softmax'\]: write a name"),
    ],
    ids=str,
)
def test_a_wrong_entry_is_refused_in_one_line(spec, words):
    with pytest.raises(UsageError, match=words) as caught:
        canonical(spec)
    assert "\n" not in str(caught.value)


def test_what_can_not_be_causal_is_refused():
    with pytest.raises(UsageError, match="relaxed can not be causal: uniform_over 'all'"):
        canonical({"name": "relaxed", "uniform_over": "all"}, causal=True)
    canonical({"name": "relaxed", "uniform_over": "all"})


def test_parameters_that_are_lists_are_known():
    assert sequence_parameters("attentiondrop_blur") == {"layers", "sites", "grid_size"}
    assert sequence_parameters("dropconnect") == {"layers", "sites", "maps"}


SOURCE = '''
"""A mechanism of a stranger."""
from attnbench.attention import Mechanism


class Louder(Mechanism):
    """Doubles the logits."""

    name = "louder"
    summary = "doubles the logits"

    def bias(self, c, logits):
        return 2 * logits


class Nothing(Mechanism):
    name = "nothing"
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def test_a_file_names_a_mechanism(file):
    name = f"{file}:Louder"
    assert canonical(name)[0]["name"] == name
    assert describe([name, "relaxed"]) == "louder+relaxed"
    built = build(name, width=8, heads=2).double()
    assert "louder" in built.mechanism
    plain = build("softmax", width=8, heads=2, kernel="reference").double()
    plain.load_state_dict(built.state_dict())
    with torch.no_grad():
        plain.q.weight *= 2
        plain.q.bias *= 2
    assert torch.allclose(built(rows())[0], plain(rows())[0])
    assert find(name) is find(name)
    file.write_text(SOURCE.replace("2 * logits", "3 * logits  # edited"))
    import os

    os.utime(file, ns=(1, 1))
    assert find(name).bias is not build(name, width=8, heads=2).mechanism["louder"]
    assert "louder" not in mechanisms()


@pytest.mark.parametrize(
    ("text", "target", "words"),
    [
        (None, "Louder", r"mechanism file '.*' does not exist"),
        (SOURCE, "Quieter", r"has no mechanism class 'Quieter'; it has Louder, Nothing"),
        ("def broken(:", "Louder", r"does not import: SyntaxError"),
        ("import nothing_of_this_name", "Louder", r"does not import: ModuleNotFoundError"),
        (SOURCE, "Nothing", r"mechanism class Nothing: it provides no stage"),
        (SOURCE.replace('"louder"', '"no name"'), "Louder", r"'name' is 'no name'; it must be an identifier"),
        (SOURCE.replace('"louder"', '"values"'), "Louder", r"it must be an identifier that is no method"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, text, target, words):
    path = tmp_path / "wrong.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=words):
        canonical(f"{path}:{target}")


def test_installed_packages_register_through_the_entry_point_group(monkeypatch, file):
    monkeypatch.syspath_prepend(file.parent)
    monkeypatch.setattr(registry, "_loaded", False)
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    point = EntryPoint("louder", "mine:Louder", "attnbench.attention")
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [point] if group == "attnbench.attention" else []
    )
    assert "louder" in mechanisms()
    monkeypatch.setattr(registry, "_loaded", False)
    broken = EntryPoint("broken", "mine:Missing", "attnbench.attention")
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken])
    with pytest.raises(UsageError, match=r"entry point 'broken' \(mine:Missing\) .* does not load"):
        mechanisms()
    sys.modules.pop("mine", None)


def test_a_name_is_taken_once():
    class Softmax(Mechanism):
        name = "softmax"

        def bias(self, c, logits):
            return logits

    with pytest.raises(UsageError, match="mechanism name 'softmax' is taken by attnbench"):
        register(Softmax)
    known = mechanisms()["softmax"]
    assert register(known) is known


def test_an_unknown_trait_is_refused():
    class Odd(Mechanism):
        name = "odd"
        requires = frozenset({"rows_sum_to_two"})

        def bias(self, c, logits):
            return logits

    with pytest.raises(UsageError, match="unknown trait 'rows_sum_to_two'"):
        register(Odd)
    assert "odd" not in mechanisms()
