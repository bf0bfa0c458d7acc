"""Local paths and names: what is taken out of texts and JSON, and what is left as it is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from named_machine import HOST, USER

from hf_diversity.publishing.local_names import LocalNames


@pytest.mark.parametrize(
    "kept",
    [
        "direct, 17 nodes: https://example.org/home/page, /ratio/a, a/tmp/b, node-170, hf.co/someone/run",
        "train/dev/test and/or 3/4, </data> <br/> ~5 s, a ~ b, C: 5, x:/y",
        "data:image/png;base64,iVBOR+/opt/abc/def/home/x==",
        "labels /m/09x0r and /m/05zppz",
        r"$\alpha\beta$ and \\ in LaTeX",
        "s3://data/run/x, gs://home/x, the model quillon7/base, https://huggingface.co/datasets/quillon7/data",
    ],
)
def test_what_stays(machine, kept):
    assert LocalNames(machine / "my run", keep="someone").remove(kept) == (kept, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"HOME/my run/checkpoint-2"', '"checkpoint-2"'),
        ("in HOME/a/b.json, at", "in b.json, at"),
        ("(/home/else/model)", "(model)"),
        ("see /gpfs/project/x/run, /content/drive/y; /Volumes/Disk/z", "see run, y; z"),
        ("~/runs/a and ~else/b", "a and b"),
        ("at '/home/else/My Runs/out' and `/scratch/a b/c d`", "at 'out' and `c d`"),
        ("/home/alice", "~"),
        ("HOME", "~"),
        ("in /Users/alice/ now", "in ~ now"),
        ("/export/quillon7", "~"),
        (r"D:\work\me\run and C:\Users\me", "run and ~"),
        (r"\\server\share\run", "run"),
        ("file:///home/me/x", "file://x"),
        ("--out=/home/me/x", "--out=x"),
        ("[](https://huggingface.co//home/else/model)", "[](https://huggingface.co/model)"),
        (f"{USER}@{HOST}", "user@host"),
        (f"on {HOST.split('.')[0]}", "on host"),
    ],
)
def test_what_goes(machine, text, expected):
    names = LocalNames(machine / "my run", keep="someone")
    assert names.remove(text.replace("HOME", str(machine)))[0] == expected


def test_the_owner_of_the_repository_is_left(machine):
    assert LocalNames(keep=USER).remove(f"by {USER}, on {HOST}") == (f"by {USER}, on host", 1)


def test_json_value_by_value(machine):
    value = {
        "model": "/home/else/My Models/base v2",
        "said": 'he said "/home/else/x" and \\ "no"\n',
        "user": USER,
        "hostname": HOST,
        "count": 3,
        "list": [f"{machine}/a", None, True, 0.1],
        "/home/a/x": 1,
        "/home/b/x": 2,
        "id2label": {"0": "/home/label", "1": "/home/me/label"},
        "label2id": {"/home/me/label": 1},
    }
    cleaned, count = LocalNames().remove_from_value(value)
    assert cleaned == {
        "model": "base v2", "said": 'he said "x" and \\ "no"\n', "user": "user", "hostname": "host", "count": 3,
        "list": ["a", None, True, 0.1], "x": 1, "x (2)": 2, "id2label": value["id2label"],
        "label2id": value["label2id"],
    }  # fmt: skip
    assert count == 7


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
PATHS = st.sampled_from(["/home/planted dir/x", "/gpfs/planted dir/x", "~/planted dir/x", "D:\\planted dir\\x"])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False), st.integers(), TEXTS, PATHS,
              st.builds("{}\n'{}' {}".format, TEXTS, PATHS, TEXTS).filter(lambda text: text.count("'") == 2)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
def test_any_json_stays_json_of_the_same_form_without_planted_folders(value):
    cleaned, count = LocalNames().remove_from_value(value)
    assert "planted" not in json.dumps(cleaned)
    assert ("planted" not in json.dumps(value)) or count

    def form(item):
        if isinstance(item, dict):
            return [form(inner) for inner in item.values()]
        return [form(inner) for inner in item] if isinstance(item, list) else type(item)

    assert form(cleaned) == form(value)
