"""Secrets: which names hold one, what is found in files, and command lines without them."""

import base64
import json

import pytest

from hf_diversity.publishing.secrets import find_secret, is_secret_name, known_secrets, mask_arguments

PLANTED = 'pa"ss/wö rd&+1'  # every escaping writes it in another way


@pytest.fixture(autouse=True)
def no_script(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "hub_token", "--api-key", "apiKey", "PGPWD", "PGPASSWORD", "SSH_PASSPHRASE", "GITHUB_PAT", "pat",
     "NPM_AUTH", "aws_secret_access_key", "OPENAI_KEY", "GOOGLE_CREDENTIALS", "wandb.key", "hubToken", "DB_PASS"],
)  # fmt: skip
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["PWD", "OLDPWD", "TOKENIZERS_PARALLELISM", "max_new_tokens", "tokenizer_name", "pad_token", "HF_TOKEN_PATH",
     "GIT_AUTHOR", "SSH_AUTH_SOCK", "KEY_FILE", "monkey", "compass", "pattern", "eos_token_id", "", "secretary"],
)  # fmt: skip
def test_names_of_none(name):
    assert not is_secret_name(name)


def test_values_that_are_paths_or_short_are_none(monkeypatch, tmp_path):
    for name, value in (("SOME_KEY", str(tmp_path)), ("OTHER_KEY", "short"), ("TOKENIZERS_PARALLELISM", "falsefalse")):
        monkeypatch.setenv(name, value)
    assert not {str(tmp_path), "short", "falsefalse"} & set(known_secrets().values())


@pytest.mark.parametrize(
    "written",
    [
        PLANTED,
        json.dumps({"note": PLANTED}),
        json.dumps({"note": PLANTED}, ensure_ascii=False),
        "pa&quot;ss/wö rd&amp;+1",
        "https://example.org/?q=pa%22ss%2Fw%C3%B6%20rd%26%2B1",
        "https://example.org/?q=pa%22ss%2Fw%C3%B6+rd%26%2B1",
    ],
)
def test_a_secret_is_found_in_every_form(monkeypatch, written):
    monkeypatch.setenv("SERVICE_PASSPHRASE", PLANTED)
    found = find_secret(f"before {written} after".encode(), known_secrets())
    assert found == "the environment variable SERVICE_PASSPHRASE"
    assert find_secret(b"before after", known_secrets()) is None


@pytest.mark.parametrize(
    "text",
    ["hf_" + "aB3" * 12, "ghp_" + "a1B2" * 9, "github_pat_" + "a1_B2" * 8, "glpat-" + "aB3-" * 6, "sk-" + "aB3x" * 10,
     "AKIA" + "ABCD" * 4, "xoxb-" + "12-ab" * 5, "-----BEGIN RSA PRIVATE KEY-----", "postgres://me:s3cretpw@db.example/x"],
)  # fmt: skip
def test_what_looks_like_a_secret(text):
    assert find_secret(f"a {text} b".encode(), {}) is not None


@pytest.mark.parametrize(
    "text",
    ["hf_diversity", "https://user:password@host/x", "https://me:$TOKEN@host", "https://example.org:8080/a@b",
     "risk-averse-" * 8, "sha256: " + "0123456789abcdef" * 4, base64.b64encode(bytes(range(256))).decode()],
)  # fmt: skip
def test_what_does_not(text):
    assert find_secret(f"a {text} b".encode(), {}) is None


def test_a_password_in_an_address_of_the_environment_is_known(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgres://me:long-enough@db/x")
    assert find_secret(b"x long-enough y", known_secrets()) == "the password in the environment variable DATABASE_URL"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--hub_token", "s3cret", "--lr", "1"], ["--hub_token", "...", "--lr", "1"]),
        (["--api-key=s3cret", "--lr=1"], ["--api-key=...", "--lr=1"]),
        (["hub_token=s3cret", "+a.hub_token=s3cret", "lr=1"], ["hub_token=...", "+a.hub_token=...", "lr=1"]),
        (["--api_keys", "s3cret1", "s3cret2", "--lr", "1"], ["--api_keys", "...", "...", "--lr", "1"]),
        (["--pat", "s3cret", "-p", "s3cret"], ["--pat", "...", "-p", "..."]),
        (["--args", '{"hub_token": "s3cret", "lr": 1}'], ["--args", "{\"hub_token\": '...', \"lr\": 1}"]),
        (["--db", "postgres://me:s3cret@host/x"], ["--db", "postgres://me:...@host/x"]),
        (["--note", "hf_" + "aB3" * 12], ["--note", "..."]),
        (["--tokenizer_name", "bert", "--max_new_tokens", "5"], ["--tokenizer_name", "bert", "--max_new_tokens", "5"]),
        (["--learning_rate", "-1e-3", "--layers", "a.*", "b"], ["--learning_rate", "-1e-3", "--layers", "a.*", "b"]),
        (["--hub_token", "-5s3cret"], ["--hub_token", "..."]),
    ],
)  # fmt: skip
def test_command_lines(words, expected):
    assert mask_arguments(words) == expected


def test_a_secret_of_the_environment_is_masked_wherever_it_stands(monkeypatch):
    monkeypatch.setenv("SERVICE_API_KEY", "planted-secret")
    assert mask_arguments(["--note", "with planted-secret inside"]) == ["--note", "with ... inside"]


def test_secrets_of_the_command_line_are_searched_in_files(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--service_password", "from-the-line"])
    assert find_secret(b"... from-the-line ...", known_secrets()) == "secret 1 of the command line"
