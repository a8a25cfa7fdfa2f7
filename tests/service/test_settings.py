"""The settings: what is read, and what stops the start."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.__main__ import main
from service.cpu_limit import available_cpus
from service.settings import MANIFEST, REMOVED, RENAMED, RUN_FILE, BadSetting, Settings, allowed
from tests.support.bentoml_server import free_port
from tests.support.unprivileged import public_folder, unprivileged


def refusal(**environ: str) -> str:
    with pytest.raises(BadSetting) as caught:
        Settings.read(environ)
    return str(caught.value)


def test_without_variables_all_settings_have_their_defaults() -> None:
    assert Settings.read({"PATH": "/bin"}) == Settings()


def test_variables_set_fields() -> None:
    settings = Settings.read({"SEQSERVE_WORKERS": "3", "SEQSERVE_API_KEYS": "first-key, second-key"})
    assert (settings.workers, settings.api_keys) == (3, ("first-key", "second-key"))


def test_workers_can_be_counted_from_the_cpus() -> None:
    assert Settings.read({"SEQSERVE_WORKERS": "auto"}).workers == available_cpus()


def test_an_empty_value_means_the_default() -> None:
    assert Settings.read({"SEQSERVE_DEVICE": ""}).device == "auto"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().workers = 2  # type: ignore[misc]


def test_an_unknown_name_stops_the_start_with_a_suggestion() -> None:
    message = refusal(SEQSERVE_WORKER="2")
    assert message.startswith("SEQSERVE_WORKER=2 ")
    assert "SEQSERVE_WORKERS" in message


def test_every_problem_is_reported_in_a_line_of_its_own() -> None:
    wrong = {"WORKER": "2", "SLOTS": "1", "DEVICE": "gpu", "DEADLINE_S": "-1", "OWNER": "1"}
    lines = refusal(**{f"SEQSERVE_{name}": value for name, value in wrong.items()}).splitlines()
    assert sorted(line.split(" ")[0].partition("=")[0] for line in lines) == sorted(
        f"SEQSERVE_{name}" for name in wrong
    )


def test_a_name_in_lower_case_is_unknown() -> None:
    assert "SEQSERVE_WORKERS" in refusal(SEQSERVE_workers="2")


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_setting_stops_the_start_with_its_new_name(old: str, new: str) -> None:
    assert new in refusal(**{old: "1"})
    assert new.removeprefix("SEQSERVE_").lower() in Settings.model_fields


@pytest.mark.parametrize("name", REMOVED)
def test_a_removed_setting_stops_the_start(name: str) -> None:
    assert name in refusal(**{name: "1000"})


def test_the_variables_of_training_and_tests_are_ignored() -> None:
    others = {"SEQSERVE_DATA": "/data", "SEQSERVE_CACHE": "/cache", "SEQSERVE_E2E": "full"}
    assert Settings.read(others) == Settings()


def test_a_bad_value_stops_the_start_with_the_allowed_ones() -> None:
    message = refusal(SEQSERVE_DEVICE="gpu")
    for part in ("SEQSERVE_DEVICE=gpu", "auto", "cpu", "cuda"):
        assert part in message


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("WORKERS", "many", "whole number"),
        ("WORKERS", "1.5", "whole number"),
        ("WORKERS", "0", "1"),
        ("WORKERS", "1000", "256"),
        ("DEADLINE_S", "soon", "number"),
        ("DEADLINE_S", "nan", "86400"),
        ("GRPC_PORT", "70000", "65535"),
        ("RATE_LIMIT", "5", "100/s"),
        ("VARIANT", "A!", "fp32"),
        ("BUNDLES", ",", "1"),
        ("ACCESS_LOG", "yes", "errors"),
        ("API_KEYS", "short", "8"),
    ],
)
def test_a_bad_value_is_named_with_its_setting_and_limit(name: str, value: str, limit: str) -> None:
    message = refusal(**{f"SEQSERVE_{name}": value})
    assert message.startswith("SEQSERVE_API_KEYS " if name == "API_KEYS" else f"SEQSERVE_{name}={value} ")
    assert limit in message


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "https://app.example.org/",
            "https://App.example.org",
            "HTTPS://app.example.org",
            "http://*.x",
            "app.example",
        ),
        *("https://app.example.org/path", "https://app.example.org:443", "http://app.example.org:80", "https://"),
        *(
            "https://user@app.example.org",
            "https://app.example.org:0443",
            "//app.example.org",
            "https://bücher.example",
        ),
    ],
)
def test_an_origin_that_can_never_match_stops_the_start(origin: str) -> None:
    assert "SEQSERVE_CORS_ORIGINS" in refusal(SEQSERVE_CORS_ORIGINS=f"https://fine.example,{origin}")


@pytest.mark.parametrize(
    "origin",
    [
        *("*", "null", "https://app.example.org", "http://localhost:8080", "http://[::1]:8080", "http://10.0.0.1"),
        *("https://app.example.org:80", "chrome-extension://abcdef", "https://xn--bcher-kva.example"),
    ],
)
def test_an_origin_that_browsers_send_is_accepted(origin: str) -> None:
    assert Settings.read({"SEQSERVE_CORS_ORIGINS": f" {origin} ,"}).cors_origins == (origin,)


@pytest.mark.parametrize("host", ["https://a.example", "a.example:3000", "a.example/", "a.*.example", "**"])
def test_a_host_name_that_can_never_match_stops_the_start(host: str) -> None:
    assert "SEQSERVE_ALLOWED_HOSTS" in refusal(SEQSERVE_ALLOWED_HOSTS=host)


def test_the_default_deadline_is_at_most_the_longest() -> None:
    assert "SEQSERVE_DEADLINE_MAX_S=5" in refusal(SEQSERVE_DEADLINE_S="6", SEQSERVE_DEADLINE_MAX_S="5")


@pytest.mark.parametrize("name", ["SEQSERVE_API_KEYS", "SEQSERVE_APIKEYS", "SEQSERVE_STATEKEY"])
def test_the_value_of_a_secret_is_never_shown(name: str) -> None:
    assert "hush" not in refusal(**{name: "hush"})
    assert "hush" not in repr(Settings(api_keys=("hush-hush",), state_key=("hush-hush-hush-hush",)))


def test_a_directory_of_bundles_means_all_of_them(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST).write_text("{}")
    (tmp_path / "no-bundle").mkdir()
    settings = Settings(bundles=(str(tmp_path / "b"), str(tmp_path)))
    assert [path.name for path in settings.bundle_paths()] == ["b", "a"]


def test_order_txt_orders_the_bundles_of_a_directory(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    (tmp_path / "order.txt").write_text("c\nmissing\nb\n")
    found = Settings(bundles=(str(tmp_path),)).bundle_paths()
    assert [path.name for path in found] == ["c", "b", "a", "d"]


def test_a_directory_of_runs_means_their_bundles(tmp_path: Path) -> None:
    for name in ("b/bundle", "a/bundle", "c", "not-exported"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("b/bundle", "a/bundle", "c"):
        (tmp_path / name / MANIFEST).write_text("{}")
    found = Settings(bundles=(str(tmp_path),)).bundle_paths()
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a/bundle", "b/bundle", "c"]


def test_a_run_without_a_bundle_is_skipped_among_others(tmp_path: Path) -> None:
    for name in ("a/bundle", "b"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / name / RUN_FILE).write_text("{}")
    (tmp_path / "a/bundle" / MANIFEST).write_text("{}")
    settings = Settings(bundles=(str(tmp_path), str(tmp_path / "b")))
    assert settings.bundle_paths() == [tmp_path / "a/bundle"]
    assert settings.unexported_runs() == [tmp_path / "b"]
    with pytest.raises(BadSetting, match=f"export {tmp_path}/b"):
        Settings(bundles=(str(tmp_path / "b"),)).bundle_paths()


def test_a_path_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="SEQSERVE_BUNDLES"):
        Settings(bundles=(str(tmp_path),)).bundle_paths()


def unreadable(folder: Path) -> str:
    """Return the message about a directory of bundles."""
    with unprivileged(), pytest.raises(BadSetting) as caught:
        Settings(bundles=(str(folder),)).bundle_paths()
    return str(caught.value)


@pytest.mark.parametrize("inside", ["a", "."])
def test_a_directory_that_cannot_be_read_is_refused(inside: str) -> None:
    with public_folder() as folder:
        (folder / "a").mkdir()
        (folder / "a" / MANIFEST).write_text("{}")
        (folder / inside).chmod(0)
        assert str(folder / inside) in unreadable(folder)
        (folder / inside).chmod(0o755)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_the_check_names_a_bundle_that_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None]
) -> None:
    (tmp_path / "a").mkdir()
    make(tmp_path / "a" / MANIFEST)
    monkeypatch.setenv("SEQSERVE_BUNDLES", str(tmp_path))
    assert main(["check"]) == 1
    assert str(tmp_path / "a" / MANIFEST) in capsys.readouterr().err


@pytest.mark.parametrize("target", ["nowhere", "link"])
def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / target)
    with pytest.raises(BadSetting, match="link"):
        Settings(bundles=(str(tmp_path),)).bundle_paths()


def test_an_order_txt_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "order.txt").write_bytes(b"\xff")
    with pytest.raises(BadSetting, match=r"order\.txt"):
        Settings(bundles=(str(tmp_path),)).bundle_paths()


def test_hidden_directories_and_lost_and_found_are_no_bundles(tmp_path: Path) -> None:
    for name in ("a", ".a.half-written", "lost+found"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST).write_text("{}")
    assert [path.name for path in Settings(bundles=(str(tmp_path),)).bundle_paths()] == ["a"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_manifest_that_is_no_file_does_not_hide_its_bundle(tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tmp_path / "a").mkdir()
    make(tmp_path / "a" / MANIFEST)
    for part in (tmp_path, tmp_path / "a"):
        assert Settings(bundles=(str(part),)).bundle_paths() == [tmp_path / "a"]


def test_the_command_shows_every_setting(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQSERVE_WORKERS", "2")
    monkeypatch.setenv("SEQSERVE_STATE_KEY", "hush-hush-hush-hush")
    assert main(["settings"]) == 0
    shown = capsys.readouterr().out
    assert "SEQSERVE_WORKERS = 2  (default 1)" in shown
    assert "hush" not in shown
    for field in Settings.model_fields:
        assert f"SEQSERVE_{field.upper()} = " in shown
        assert allowed(field) in shown


def test_the_command_refuses_a_bad_setting(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQSERVE_WORKER", "2")
    assert main(["settings"]) == 1
    assert "SEQSERVE_WORKERS" in capsys.readouterr().err


def test_the_command_needs_a_verb() -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("serve", "settings", "check"))


def test_check_fails_for_a_store_that_does_not_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQSERVE_RATE_LIMIT_STORE", f"redis://user:secret@127.0.0.1:{free_port()}")
    assert main(["check"]) == 1
    assert "SEQSERVE_RATE_LIMIT_STORE" in capsys.readouterr().err


def test_check_reports_every_problem(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQSERVE_API_KEYS_FILE", "/nope")
    monkeypatch.setenv("SEQSERVE_BUNDLES", "/nope")
    assert main(["check"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[1] for line in lines] == ["SEQSERVE_API_KEYS_FILE=/nope", "SEQSERVE_BUNDLES=/nope"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SEQSERVE_API_KEYS_FILE", "/nope"),
        ("SEQSERVE_API_KEYS_FILE", "/"),
        ("SEQSERVE_API_KEYS_FILE", "pyproject.toml"),
        ("SEQSERVE_RATE_LIMIT_STORE", "redis://user:secret@x:99999999"),
        ("SEQSERVE_RATE_LIMIT_STORE", "sqlite:///nope/secret"),
        ("SEQSERVE_VARIANT", "fp64"),
        ("SEQSERVE_BUNDLES", "/nope"),
        ("OTEL_TRACES_EXPORTER", "nope"),
    ],
)
def test_check_names_the_setting_in_one_line(
    name: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["check"]) == 1
    message = capsys.readouterr().err
    assert name.removesuffix("_TRACES_EXPORTER") in message
    assert message.count("\n") == 1
    assert "secret" not in message
