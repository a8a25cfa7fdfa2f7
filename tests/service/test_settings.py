"""The settings: what is read, and what stops the start."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.__main__ import main
from service.settings import MANIFEST, BadSetting, Settings


def refusal(**environ: str) -> str:
    with pytest.raises(BadSetting) as caught:
        Settings.read(environ)
    return str(caught.value)


def test_without_variables_all_defaults_hold() -> None:
    assert Settings.read({"PATH": "/bin"}) == Settings()


def test_values_are_read_by_name() -> None:
    settings = Settings.read({"SEQSERVE_WORKERS": "3", "SEQSERVE_API_KEYS": "first-key, second-key"})
    assert (settings.workers, settings.api_keys) == (3, ("first-key", "second-key"))


def test_an_empty_value_is_none() -> None:
    assert Settings.read({"SEQSERVE_DEVICE": ""}).device == "auto"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().workers = 2  # type: ignore[misc]


def test_an_unknown_name_stops_the_start_and_names_its_neighbour() -> None:
    said = refusal(SEQSERVE_WORKER="2")
    assert "SEQSERVE_WORKER=2 is no setting" in said
    assert "did you mean SEQSERVE_WORKERS?" in said


def test_a_removed_setting_names_its_replacement() -> None:
    assert "SEQSERVE_WORKERS" in refusal(SEQSERVE_OWNER="auto")


def test_a_name_in_small_letters_is_unknown() -> None:
    assert "did you mean SEQSERVE_WORKERS?" in refusal(SEQSERVE_workers="2")


def test_the_variables_of_the_trainers_are_none_of_ours() -> None:
    assert Settings.read({"SEQSERVE_DATA": "/data", "SEQSERVE_CACHE": "/cache"}) == Settings()


def test_a_removed_setting_stops_the_start() -> None:
    assert refusal(SEQSERVE_CACHE_BYTES="1000").startswith("SEQSERVE_CACHE_BYTES is no longer a setting")


def test_a_bad_value_stops_the_start_and_says_what_is_allowed() -> None:
    assert refusal(SEQSERVE_DEVICE="gpu").startswith(
        "SEQSERVE_DEVICE=gpu is not allowed: input should be 'auto', 'cpu' or 'cuda'"
    )


def test_the_default_deadline_is_not_over_the_highest() -> None:
    assert "SEQSERVE_DEADLINE_MAX_S=5" in refusal(SEQSERVE_DEADLINE_S="6", SEQSERVE_DEADLINE_MAX_S="5")


@pytest.mark.parametrize("name", ["SEQSERVE_API_KEYS", "SEQSERVE_APIKEYS", "SEQSERVE_STATEKEY"])
def test_the_value_of_a_secret_is_never_shown(name: str) -> None:
    assert "hush" not in refusal(**{name: "hush"})
    assert "hush" not in repr(Settings(api_keys=("hush-hush",), state_key=("hush-hush-hush-hush",)))


def test_a_directory_of_bundles_stands_for_all_of_them(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST).write_text("{}")
    (tmp_path / "no-bundle").mkdir()
    settings = Settings(bundles=(str(tmp_path / "b"), str(tmp_path)))
    assert [path.name for path in settings.bundle_paths()] == ["b", "a"]


def test_a_directory_may_say_which_of_its_bundles_come_first(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    (tmp_path / "order.txt").write_text("c\nmissing\nb\n")
    found = Settings(bundles=(str(tmp_path),)).bundle_paths()
    assert [path.name for path in found] == ["c", "b", "a", "d"]


def test_a_path_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="holds none"):
        Settings(bundles=(str(tmp_path),)).bundle_paths()


def test_the_command_shows_every_setting(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQSERVE_WORKERS", "2")
    monkeypatch.setenv("SEQSERVE_STATE_KEY", "hush-hush-hush-hush")
    assert main(["settings"]) == 0
    shown = capsys.readouterr().out
    assert "SEQSERVE_WORKERS = 2  (default 1)" in shown
    assert "hush" not in shown
    assert all(f"SEQSERVE_{field.upper()} = " in shown for field in Settings.model_fields)


def test_the_command_refuses_a_bad_setting(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQSERVE_SLOT", "2")
    assert main(["settings"]) == 1
    assert "SEQSERVE_SLOTS" in capsys.readouterr().err


def test_help_opens_with_a_command_to_paste(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("bentoml serve service.app:Seqserve\n")
