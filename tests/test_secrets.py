"""Secrets: which names hold one, what is found in files, and command lines without them."""

import base64
import json
import time

import pytest

from hf_diversity.publishing.secrets import find_secret, is_secret_name, known_secrets, mask_arguments, secret_key_in

PLANTED = 'pa"ss/wö rd&+1'  # every escaping writes it in another way


@pytest.fixture(autouse=True)
def no_script(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])


@pytest.mark.parametrize(
    "name",
    """
    HF_TOKEN hub_token --api-key apiKey PGPWD PGPASSWORD SSH_PASSPHRASE GITHUB_PAT pat NPM_AUTH
    aws_secret_access_key GOOGLE_CREDENTIALS hubToken DB_PASS TS_AUTHKEY AWS_ACCESSKEY HF_TOKENS API_TOKENS
    WANDB_APIKEYS Authorization BEARER SENTRY_DSN HF_TOKEN_2 use_auth_token
    """.split(),
)
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["OPENAI_KEY", "SSHPASS", "GH_TOKEN_RO", "AZURE_STORAGE_CONNECTION_STRING", "SLACK_WEBHOOK_URL"]
)
def test_names_of_secrets_in_the_environment_alone(name):
    assert is_secret_name(name, environment=True) and not is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    """
    PWD OLDPWD TOKENIZERS_PARALLELISM max_new_tokens tokenizer_name pad_token HF_TOKEN_PATH KEY keys
    GIT_AUTHOR SSH_AUTH_SOCK KEY_FILE monkey compass pattern eos_token_id label_key text_key
    num_key_value_heads placeholder_token assistant_token token_type_ids token_pooling tokens_per_batch p
    """.split(),
)
def test_names_of_none(name):
    assert not is_secret_name(name)


def test_values_that_are_paths_words_or_short_are_none(monkeypatch, tmp_path):
    for name, value in (
        ("SOME_KEY", str(tmp_path)), ("OTHER_KEY", "short"), ("TOKENIZERS_PARALLELISM", "falsefalse"),
        ("POSTGRES_PASSWORD", "postgres"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    assert not {str(tmp_path), "short", "falsefalse", "postgres"} & set(known_secrets().values())


@pytest.mark.parametrize("secret", ["attention2", "a-longer-secret-of-many-words1", "hf_" + "aB3" * 12])
@pytest.mark.parametrize("before", [r"\n", r"\t", r"\u00e9", "%3D", "%20", "\x1b[0m", "=", "\n", '"'])
def test_behind_an_escape_a_secret_is_found(monkeypatch, secret, before):
    monkeypatch.setenv("SOME_PASSWORD", secret)
    assert find_secret(f"x {before}{secret} y".encode(), known_secrets()) is not None


def test_long_texts_take_linear_time():
    for text in (b"sk-" * 200_000, b"a=" * 300_000, b"hf_" * 200_000, b"x://" * 150_000):
        start = time.process_time()
        find_secret(text, {"a": "0123456789"})
        assert time.process_time() - start < 20, "quadratic: minutes"
    mask_arguments(["a=" * 3000, '{"a":' * 1000, "a=[" * 1500])


def test_a_part_of_a_longer_word_is_no_secret(monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "attention2")
    assert find_secret(b"attention2d, selfattention2", known_secrets()) is None
    assert find_secret(b"(attention2)", known_secrets()) is not None


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
    ["hf_" + "aB3" * 12, "ghp_" + "a1B2" * 9, "github_pat_" + "a1_B2" * 8, "glpat-" + "aB3-" * 6, "sk-" + "aB3x" * 10, "https://tok3nTok3n@host/simple",
     "AKIA" + "ABCD" * 4, "xoxb-" + "12-ab" * 5, "-----BEGIN RSA PRIVATE KEY-----", "postgres://me:s3cretpw@db.example/x"],
)  # fmt: skip
def test_what_looks_like_a_secret(text):
    assert find_secret(f"a {text} b".encode(), {}) is not None


@pytest.mark.parametrize(
    "text",
    ["hf_diversity", "https://user:password@host/x", "https://me:$TOKEN@host", "https://example.org:8080/a@b",
     "docker://python:3.12@sha256:" + "0" * 64, "sk-learn-contrib-and-some-other-long-name-here",
     "ssh://git@host/x",
     "risk-averse-" * 8, "sha256: " + "0123456789abcdef" * 4, base64.b64encode(bytes(range(256))).decode()],
)  # fmt: skip
def test_what_does_not(text):
    assert find_secret(f"a {text} b".encode(), {}) is None


def test_a_password_in_an_address_of_the_environment_is_known(monkeypatch):
    monkeypatch.setenv("URLS", "postgres://me:long-enough@db/x https://other-one2@host/y")
    assert find_secret(b"x long-enough y", known_secrets()) == "password 1 in the environment variable URLS"
    assert find_secret(b"x other-one2 y", known_secrets()) == "password 2 in the environment variable URLS"


def test_ends_of_lines_are_no_part_of_a_secret(monkeypatch):
    monkeypatch.setenv("A_KEY", "abcdefghij1\n")
    assert find_secret(b"abcdefghij1", known_secrets()) is not None


def test_keys_of_json_that_hold_secrets():
    assert secret_key_in({"a": [{"api_key": "s3cret-unknown"}]}) == "api_key"
    assert secret_key_in({"api_key": {"value": ["s3cret-unknown"]}}) == "api_key"
    harmless = {
        "hub_token": None,
        "token": "<HUB_TOKEN>",
        "pad_token": "[PAD]1234",
        "api_key": "...",
        "password": 12345678,
    }
    assert secret_key_in([harmless, {"vocab": {"password": 1}}]) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--hub_token", "s3cret", "--lr", "1"], ["--hub_token", "...", "--lr", "1"]),
        (["--hub_token", "c2VjcmV0LXZhbHVl=", "--lr", "1"], ["--hub_token", "...", "--lr", "1"]),
        (["--api-key=s3cret", "--lr=1"], ["--api-key=...", "--lr=1"]),
        (["--api-key", "-----BEGIN", "--lr=1"], ["--api-key", "...", "--lr=1"]),
        (["hub_token=s3cret", "+a.hub_token=s3cret", "lr=1"], ["hub_token=...", "+a.hub_token=...", "lr=1"]),
        (["--api_keys", "s3cret1", "s3cret2", "--lr", "1"], ["--api_keys", "...", "...", "--lr", "1"]),
        (["--pat", "s3cret", "-p", "bert"], ["--pat", "...", "-p", "bert"]),
        (["--args", '{"hub_token": "s3cret", "lr": 1}'], ["--args", '{"hub_token": "...", "lr": 1}']),
        (["--args", '{"hub_token": "s3\\"cret", "lr": 1}'], ["--args", '{"hub_token": "...", "lr": 1}']),
        (["--args", '{"hub_token": ["s3cret"]}'], ["--args", '{"hub_token": ...}']),
        (["--args", "{hub_token: s3cret, lr: 1}"], ["--args", "{hub_token: ..., lr: 1}"]),
        (["--model_args", "pretrained=x,token=s3cret"], ["--model_args", "pretrained=x,token=..."]),
        (["--kwargs=hub_token=s3cret,lr=1"], ["--kwargs=hub_token=...,lr=1"]),
        (["--header", "Authorization: Bearer s3cret"], ["--header", "Authorization: ..."]),
        (["--header", "authorization: token s3cret"], ["--header", "authorization: ..."]),
        (["--args", '{"hub_token": {"value": "s3cret"}}'], ["--args", '{"hub_token": ...}']),
        (["--args", r'{\"hub_token\": \"s3cret\", \"a\": 1}'], ["--args", r'{\"hub_token\": \"...\", \"a\": 1}']),
        (["--command", "python x.py --hub_token s3cret -v"], ["--command", "python x.py --hub_token ... -v"]),
        (["--db", "postgres://me:s3cretpw@host/x"], ["--db", "postgres://me:...@host/x"]),
        (["--note", "hf_" + "aB3" * 12], ["--note", "..."]),
        (["--tokenizer_name", "bert", "--max_new_tokens", "5"], ["--tokenizer_name", "bert", "--max_new_tokens", "5"]),
        (["--learning_rate", "-1e-3", "--layers", "a.key=0.1"], ["--learning_rate", "-1e-3", "--layers", "a.key=0.1"]),
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
