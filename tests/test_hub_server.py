"""The loopback Hub of the tests, by the real client: what the other tests take for granted."""

import pytest
import timm
import torch
from hub_server import LARGE
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from tiny import tiny_timm


def test_client_creates_commits_tags_and_reads_back(hub, tmp_path):
    api, large = HfApi(), b"\x00\x01" * LARGE
    assert api.whoami()["name"] == "someone"
    api.create_repo("someone/model", private=True)
    api.create_repo("someone/model", exist_ok=True)
    first = api.create_commit(
        "someone/model",
        [CommitOperationAdd("large.bin", large), CommitOperationAdd("a/small.txt", b"one")],
        commit_message="first",
    )
    api.create_tag("someone/model", tag="v1")
    second = api.create_commit(
        "someone/model",
        [CommitOperationAdd("a/small.txt", b"two"), CommitOperationDelete("large.bin")],
        commit_message="second",
    )
    again = api.create_commit("someone/model", [CommitOperationAdd("a/small.txt", b"two")], commit_message="same")
    assert again.oid == second.oid != first.oid and hub.repositories["someone/model"].private
    assert hub.repositories["someone/model"].titles == ["initial commit", "first", "second"]
    assert api.repo_info("someone/model").sha == second.oid
    entries = {entry.path: entry for entry in api.list_repo_tree("someone/model", recursive=True, revision="v1")}
    assert entries["large.bin"].lfs.size == len(large) and entries["a/small.txt"].lfs is None
    assert [info.path for info in api.get_paths_info("someone/model", ["a/small.txt", "no"])] == ["a/small.txt"]
    for revision, text in (("v1", b"one"), ("main", b"two"), (first.oid, b"one")):
        path = api.hf_hub_download("someone/model", "a/small.txt", revision=revision)
        with open(path, "rb") as file:
            assert file.read() == text
    with open(api.hf_hub_download("someone/model", "large.bin", revision="v1"), "rb") as file:
        assert file.read() == large
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("someone/model", "large.bin")
    with pytest.raises(RevisionNotFoundError):
        api.repo_info("someone/model", revision="none")


def test_branches_and_pull_requests_stand_beside_main(hub):
    api = HfApi()
    api.create_repo("someone/model")
    api.create_branch("someone/model", branch="trial")
    api.create_branch("someone/model", branch="trial", exist_ok=True)
    operation = [CommitOperationAdd("file", b"trial")]
    api.create_commit("someone/model", operation, commit_message="on trial", revision="trial")
    pull = api.create_commit(
        "someone/model", [CommitOperationAdd("file", b"pull")], commit_message="proposed", create_pr=True
    )
    repository = hub.repositories["someone/model"]
    assert repository.files() == {} and repository.files("trial") == {"file": b"trial"}
    assert pull.pr_revision == "refs/pr/1" and repository.files("refs/pr/1") == {"file": b"pull"}
    refs = api.list_repo_refs("someone/model", include_pull_requests=True)
    assert {ref.name for ref in refs.branches} == {"main", "trial"} and len(refs.pull_requests) == 1


def test_rights_are_those_of_the_token(hub, monkeypatch):
    HfApi().create_repo("someone/model", private=True)
    for token, status in (("hf_loopbackread", 403), ("hf_unknown", 401)):
        with pytest.raises(HfHubHTTPError) as refused:
            HfApi(token=token).create_commit(
                "someone/model", [CommitOperationAdd("file", b"")], commit_message="not mine"
            )
        assert refused.value.response.status_code == status
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HfHubHTTPError):
        HfApi(token=False).repo_info("someone/model")
    with pytest.raises(RepositoryNotFoundError):
        HfApi().repo_info("someone/other")


def test_timm_pushes_to_it_and_loads_from_it(hub):
    model = tiny_timm("test_resnet", in_chans=3).eval()  # timm < 1.0.31 keeps no other number
    timm.models.push_to_hf_hub(model, "someone/timm")
    loaded = timm.create_model("hf-hub:someone/timm", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), model(images), rtol=0, atol=0)
