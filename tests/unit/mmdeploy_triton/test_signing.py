"""Signed releases: who signed them, that nothing changed since, and what is refused; also by OpenSSF's own command."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from served import three_components

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.triton.repository import publish, stage

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


def write_keys(name: str, password: bytes | None = None) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    Path(f"{name}.pem").write_bytes(key.private_bytes(PEM, PKCS8, encryption))
    public = key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    Path(f"{name}.pub").write_bytes(public)


@pytest.fixture(autouse=True)
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release that is live and not signed, two pairs of keys beside it."""
    monkeypatch.chdir(tmp_path)
    write_keys("ours")
    write_keys("theirs")
    staged = stage(tmp_path / "staged", three_components(tmp_path / "artifacts"))
    (tmp_path / ".gitignore").write_text("x")
    publish(
        staged.path,
        tmp_path / "model_repository",
        "pair",
        release_id="r1",
        extra_files={".gitignore": Path(".gitignore")},
    )
    return Path("model_repository/pair").resolve()


def said(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    assert run(commands, argv) == code
    out, err = capsys.readouterr()
    return out + err


def test_who_signed_it_is_known_and_any_tool_can_check(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "sign", "--key", "ours.pem")
    assert "signed by the owner of ours.pub" in said(capsys, "verify", "--public-key", "ours.pub")
    assert "is signed with another key" in said(capsys, "verify", "--public-key", "theirs.pub", code=1)
    theirs = [sys.executable, "-m", "model_signing", "verify", "key", str(release), "--no-ignore-git-paths",
              "--signature", str(release / "model.sig"), "--public_key", "ours.pub"]  # fmt: skip
    checked = subprocess.run(theirs, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    said(capsys, "sign", "--key", "theirs.pem")
    said(capsys, "verify", "--public-key", "theirs.pub")
    assert not list(release.glob(".model.sig*"))


def test_a_release_that_is_signed_before_it_is_live(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Path] = []

    def sign(folder: Path) -> None:
        seen.append(folder)
        raise RuntimeError("no key")

    with pytest.raises(RuntimeError, match="no key"):
        publish(Path("staged"), Path("model_repository"), "pair", release_id="r2", extra_files={}, sign=sign)
    assert not seen[0].exists()
    assert Path("model_repository/pair").resolve().name == "r1"


@pytest.mark.parametrize("name", ["fusion/config.pbtxt", ".gitignore", "manifest.json"])
def test_a_file_that_was_changed_with_its_manifest_is_refused(
    release: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    said(capsys, "sign", "--key", "ours.pem")
    (release / name).write_text((release / name).read_text() + "\n")
    if name != "manifest.json":
        from mmdeploy.triton.staging import write_manifest

        (release / "model.sig").rename("kept.sig")
        write_manifest(release, "spoken_digits")
        Path("kept.sig").rename(release / "model.sig")
    assert said(capsys, "verify").endswith("1 release, 0 refused\n")
    told = said(capsys, "verify", "--public-key", "ours.pub", code=1)
    assert "its files are not those that were signed (" in told and name in told
    told = said(capsys, "serve", "--public-key", "ours.pub", "--http-port", "0", code=3)
    assert f"error: {release} is refused: its files are not those that were signed" in told


def test_no_signature_and_one_that_is_none(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "it is not signed: there is no model.sig" in said(capsys, "verify", "--public-key", "ours.pub", code=1)
    assert "it is not signed" in said(capsys, "serve", "--public-key", "ours.pub", code=3)
    said(capsys, "sign", "--key", "ours.pem")
    whole = (release / "model.sig").read_text()
    for damaged in ("", "{}", "[]", whole[:100], "\0" * 100):
        (release / "model.sig").write_text(damaged)
        assert "model.sig is no signature" in said(capsys, "verify", "--public-key", "ours.pub", code=1)
    bundle = json.loads(whole)
    signature = bundle["dsseEnvelope"]["signatures"][0]
    signature["sig"] = signature["sig"][:-8] + "AAAAAAA="
    (release / "model.sig").write_text(json.dumps(bundle))
    assert "the signature does not belong to" in said(capsys, "verify", "--public-key", "ours.pub", code=1)


def test_a_signature_of_another_release_is_refused(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "sign", "--key", "ours.pem")
    shutil.copy(release / "model.sig", "kept.sig")
    Path("extra").write_text("")
    publish(Path("staged"), Path("model_repository"), "pair", release_id="r2", extra_files={"extra": Path("extra")})
    shutil.copy("kept.sig", Path("model_repository/pair") / "model.sig")
    assert "not those that were signed (" in said(capsys, "verify", "--public-key", "ours.pub", code=1)


def test_what_was_changed_since_is_not_signed(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (release / "fusion/config.pbtxt").write_text("")
    assert "is not what was published" in said(capsys, "sign", "--key", "ours.pem", code=3)
    assert not (release / "model.sig").exists()


def test_keys_that_cannot_be_used(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_keys("locked", b"secret")
    edwards = ed25519.Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, serialization.NoEncryption())
    Path("edwards.pem").write_bytes(edwards)
    assert "gone.pem cannot be read: No such file" in said(capsys, "sign", "--key", "gone.pem", code=2)
    for key in ("edwards.pem", "ours.pub"):
        told = said(capsys, "sign", "--key", key, code=2)
        assert f"{key} is no elliptic private key in PEM\nhint: make one: openssl ecparam" in told
    assert "ours.pem is no elliptic public key" in said(capsys, "verify", "--public-key", "ours.pem", code=2)
    assert "is encrypted, and MMDEPLOY_SIGNING_PASSWORD" in said(capsys, "sign", "--key", "locked.pem", code=2)
    monkeypatch.setenv("MMDEPLOY_SIGNING_PASSWORD", "wrong")
    assert "does not open it" in said(capsys, "sign", "--key", "locked.pem", code=2)
    monkeypatch.setenv("MMDEPLOY_SIGNING_PASSWORD", "secret")
    said(capsys, "sign", "--key", "locked.pem")
    assert "signed by" in said(capsys, "verify", "--public-key", "locked.pub")


def test_a_build_with_a_key_that_cannot_be_used_ends_before_it_begins(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = said(capsys, "build", str(tiny_recipe), "--sign-key", "ours.pub", code=2)
    assert "ours.pub is no elliptic private key" in told and "started" not in told


def test_without_the_library_it_is_told_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmdeploy.triton.signing.find_spec", lambda name: None)
    assert "multimodal-deploy[signing]" in said(capsys, "sign", "--key", "ours.pem", code=4)
