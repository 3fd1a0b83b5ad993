"""The recipe in examples/free-music, as far as it goes without a network."""

import hashlib
import importlib.util
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from dualdiff.core.errors import DataError, DualdiffError
from dualdiff.data.fingerprint_store import prints_path, write_prints
from dualdiff.data.manifest import DatasetConfig, Row, write_ledger
from dualdiff.evaluation.game_classifier import GameClassifier, game_classifier_part, load_game_classifier
from dualdiff.evaluation.training_fingerprints import load_fingerprints
from dualdiff.generation.pipeline import Pipeline
from dualdiff.model_store.components import add_part
from dualdiff.project.settings import open_project
from tests.model_store.test_model import write_model

RECIPE = Path(__file__).parent.parent / "examples" / "free-music"


def script(name):
    spec = importlib.util.spec_from_file_location(name, RECIPE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


fetch, ship = script("fetch"), script("ship")

NOTES = b"".join(bytes([0, 0x90, key, 100, 96, 0x80, key, 0]) for key in (60, 64, 67, 72))
TRACK = NOTES + b"\0\xff\x2f\0"
MIDI = b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96) + b"MTrk" + struct.pack(">I", len(TRACK)) + TRACK
"""Four notes of half a second."""


def wad(lumps, magic=b"IWAD"):
    data, directory = b"", b""
    for name, content in lumps:
        directory += struct.pack("<ii8s", 12 + len(data), len(content), name.encode())
        data += content
    return struct.pack("<4sii", magic, len(lumps), 12 + len(data)) + data + directory


def source(**changes):
    return fetch.Source(**{"game": "G", "packages": ("g",), "music": ("music/**/*",), "licence": "MIT"} | changes)


def put(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_midi_lumps_of_a_wad_are_found_by_name_and_content():
    archive = wad([("PLAYPAL", b"MThd colours"), ("D_E1M1", MIDI), ("D_INTRODU", b"MUS\x1a a kind we cannot play")])
    assert list(fetch.lumps(archive)) == [("E1M1", MIDI)]


@pytest.mark.parametrize("broken", [b"IWAD", wad([("D_E1M1", MIDI)])[:-1], b"RIFF" + wad([])[4:]])
def test_what_is_no_wad_is_refused(broken):
    with pytest.raises(DataError, match="WAD"):
        list(fetch.lumps(broken))


def make_deb(folder, name, files):
    """A Debian package of some music, built by dpkg-deb."""
    root = folder.parent / f"{name}-root"
    put(root, {f"usr/share/music/{file}": data for file, data in files.items()})
    control = f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: music\n"
    put(root, {"DEBIAN/control": control.encode(), f"usr/share/doc/{name}/copyright": b"Copyright A"})
    folder.mkdir(exist_ok=True)
    subprocess.run(["dpkg-deb", "--build", root, folder / f"{name}_1.0_all.deb"], check=True, capture_output=True)


def test_music_is_found_once_and_under_names_of_its_own(tmp_path):
    files = {"ice/cave.ogg": b"a", "wood/cave.ogg": b"b", "wood/copy.ogg": b"b", "menu.xm": b"c", "menu.txt": b"d"}
    files["doom.wad"] = wad([("D_E1M1", MIDI), ("D_E2M6", MIDI)])
    found = fetch.originals(source(), put(tmp_path, {f"music/{name}": data for name, data in files.items()}))
    assert [(one.name, one.data) for one in found] == [
        ("E1M1.mid", MIDI),
        ("ice-cave.ogg", b"a"),
        ("menu.xm", b"c"),
        ("wood-cave.ogg", b"b"),
    ]
    assert [one.track for one in found] == ["E1M1.flac", "ice-cave.ogg", "menu.flac", "wood-cave.ogg"]


def test_a_package_without_music_is_told(tmp_path):
    with pytest.raises(DataError, match="no music at"):
        fetch.originals(source(), tmp_path)


def original(name, data, game="G"):
    return fetch.Original(game, name, data)


def test_music_that_is_not_what_was_pinned_is_refused_by_name():
    package = [fetch.Package("g-data", "2.0", Path("g.deb"))]
    pins = {("G", name): hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b", "c")} | {("H", "z"): "0"}
    whole = [original(name, name.encode()) for name in "abc"]
    fetch.require_pinned("G", package, whole, pins)
    fetch.require_pinned("I", package, [original("z", b"not pinned", game="I")], pins)
    with pytest.raises(DataError, match=r"g-data 2\.0: .* 3 files of G .*\(b, c, new\)") as error:
        fetch.require_pinned("G", package, [whole[0], original("b", b"changed"), original("new", b"new")], pins)
    assert "--accept" in error.value.hint


COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Comment: a colon: in a comment
 Files: not a field, it is indented

Files: *
Copyright: 2001, The Team
License: GPL-3+

Files: base/music/free.ogg
 base/music/also free.ogg
 ./dat/music/tune.xm
Copyright:
 Ann <ann@example.org>
 Bob
License: CC-BY-3.0
Comment: thanks

Files: base/music/closed.ogg
Copyright: Eve
License: CC-BY-SA-3.0

License: CC-BY-3.0
 The text.
"""


def test_files_are_selected_by_the_licence_stated_for_them(tmp_path):
    names = ("free.ogg", "closed.ogg", "unlisted.ogg", "tune.xm")
    put(tmp_path, {f"usr/share/g/music/{name}": name.encode() for name in names})
    own = source(music=("usr/share/g/music/*",), allowed=("CC-BY-3.0",))
    found = fetch.originals(own, tmp_path, COPYRIGHT)
    assert [one.name for one in found] == ["free.ogg", "tune.xm"], "a wildcard states no file's own licence"
    (line,) = fetch.attributions(own, found, COPYRIGHT)
    assert line == "G: free.ogg, tune.xm: by Ann <ann@example.org>; Bob; CC-BY-3.0"
    with pytest.raises(DataError, match="no music"):
        fetch.originals(source(music=("usr/share/g/music/*",), allowed=("MIT",)), tmp_path, COPYRIGHT)


def test_music_is_taken_out_of_archives(tmp_path):
    put(tmp_path, {"base/other.txt": b""})
    with zipfile.ZipFile(tmp_path / "base" / "0music.pk3", "w") as archive:
        archive.writestr("music/free.ogg", b"a")
        archive.writestr("music/readme.txt", b"b")
    found = fetch.originals(source(music=("base/*.pk3",), allowed=("CC-BY-3.0",)), tmp_path, COPYRIGHT)
    assert [(one.name, one.data) for one in found] == [("free.ogg", b"a")]


def test_parts_of_a_song_are_mixed(tmp_path):
    parts = {"guitar": 0.5 * np.ones((1000, 2)), "song": np.full((1500, 2), 0.25)}
    (tmp_path / "songs" / "My song").mkdir(parents=True)
    for name, samples in parts.items():
        soundfile.write(tmp_path / "songs" / "My song" / f"{name}.flac", samples, 44100)
    (song,) = fetch.originals(source(music=("songs/*",), stems=True), tmp_path)
    assert song.track == "My song.flac"
    track = tmp_path / "music" / song.track
    fetch.make_track(song, track, tmp_path)
    mixed, rate = soundfile.read(track)
    assert (len(mixed), rate) == (1500, 44100)
    assert mixed[:1000] == pytest.approx(0.7, abs=1e-3)
    assert mixed[1000:] == pytest.approx(0.7 / 3, abs=1e-3)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_music_of_an_earlier_package_is_left_out(tmp_path):
    packages = tmp_path / "packages"
    for name, files in {"one": {"a.ogg": b"same"}, "two": {"b.ogg": b"same", "c.ogg": b"new"}}.items():
        make_deb(packages, name, files)
    both = [source(packages=(name,), music=("usr/share/music/*",)) for name in ("one", "two")]
    rows = fetch.collect(both, packages, tmp_path / "scratch", tmp_path / "notices")
    assert [[own.name for own in row.music] for row in rows] == [["a.ogg"], ["c.ogg"]]
    assert sorted(path.name for path in (tmp_path / "notices").iterdir()) == ["one.txt", "two.txt"]


def test_the_recipe_pins_every_permissive_game_and_only_those():
    pins = fetch.read_pins(RECIPE / "music.sha256")
    permissive = fetch.read_sources(RECIPE / "sources.toml", ["permissive"])
    assert {game for game, _ in pins} == {one.game for one in permissive}
    known = {"BSD-2-Clause", "BSD-3-Clause", "Zlib", "MIT", "public domain"}
    assert all(one.licence in known or one.allowed for one in permissive)
    assert not any("SA" in licence or licence.startswith("GPL-2") for one in permissive for licence in one.allowed)
    everything = fetch.read_sources(RECIPE / "sources.toml", ["permissive", "copyleft"])
    assert len({one.game for one in everything}) >= 12


def test_the_settings_of_the_recipe_are_settings(tmp_path):
    shutil.copy(RECIPE / "dualdiff.toml", tmp_path)
    settings = open_project(tmp_path).settings
    assert settings.dataset.folder == DatasetConfig().folder == "music"
    assert settings.vae_train.steps > 1000


def test_missing_programs_are_named_in_one_line():
    with pytest.raises(DualdiffError) as error:
        fetch.require_tools({"sh": "dash", "no-such-program": "b-package", "nor-this": "a-package"})
    assert error.value.message.endswith(": a-package, b-package")
    assert error.value.hint.startswith("sudo apt-get install")
    assert error.value.hint.endswith("a-package b-package")


def test_notices_and_ledger_say_what_came_from_where(tmp_path):
    root = put(tmp_path / "root", {"usr/share/doc/g/copyright": b"Copyright A", "CREDITS": b"by B"})
    package = fetch.Package("g", "1.2-3", Path("g.deb"))
    fetch.copy_notices(source(notices=("CREDITS",)), package, root, tmp_path / "LICENSES")
    assert (tmp_path / "LICENSES" / "g.txt").read_text() == "Copyright A\nby B"
    found = [original("a.mid", b""), original("b.mid", b""), original("c.ogg", b"")]
    text = fetch.ledger([fetch.Found(source(), package, found)], fetch.Package("sounds", "9", Path("s.deb")), "MIT")
    row = text.splitlines()[-1]
    assert row.startswith("| G | 3 | MIT | g | 1.2-3 | MIDI, rendered by fluidsynth with sounds 9 (MIT); audio files")


def test_audio_is_taken_as_it_is_and_not_twice(tmp_path):
    track = tmp_path / "music" / "a.ogg"
    fetch.make_track(original("a.ogg", b"first"), track, tmp_path)
    fetch.make_track(original("a.ogg", b"second"), track, tmp_path)
    assert track.read_bytes() == b"first"
    assert [path.name for path in track.parent.iterdir()] == ["a.ogg"]


def module():
    """A module of one instrument and one pattern, in the format of ProTracker."""
    wave = bytes([64] * 16 + [192] * 16)
    instrument = struct.pack(">22sHBBHH", b"square", len(wave) // 2, 0, 64, 0, len(wave) // 2)
    silent = struct.pack(">22sHBBHH", b"", 0, 0, 0, 0, 1)
    cell = struct.pack(">HH", 428, 0x1000)  # C-2 of the first instrument
    pattern = (cell + bytes(12)) + bytes(16 * 63)
    return b"test".ljust(20, b"\0") + instrument + silent * 30 + bytes([1, 127]) + bytes(128) + b"M.K." + pattern + wave


@pytest.mark.skipif(shutil.which("openmpt123") is None, reason="openmpt123 is not installed")
def test_modules_are_rendered(tmp_path):
    fetch.make_track(original("a.mod", module()), tmp_path / "a.flac", tmp_path)
    samples, rate = soundfile.read(tmp_path / "a.flac")
    assert rate == fetch.SAMPLE_RATE
    assert samples.shape == (len(samples), 2)
    assert len(samples) > 7 * rate
    assert 0.001 < abs(samples).max() < 0.99


@pytest.mark.skipif(shutil.which("openmpt123") is None, reason="openmpt123 is not installed")
def test_a_module_that_cannot_be_rendered_is_told(tmp_path):
    with pytest.raises(DualdiffError):
        fetch.make_track(original("a.xm", b"no module"), tmp_path / "a.flac", tmp_path)
    assert not list(tmp_path.iterdir())


def soundfont():
    """The smallest SoundFont there can be: one preset, one instrument, one cycle of a square wave, looped."""

    def chunk(name, data):
        return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    def listed(kind, *chunks):
        return chunk(b"LIST", kind + b"".join(chunks))

    wave = struct.pack("<64h", *[9000] * 32, *[-9000] * 32) * 4 + bytes(92)
    header = struct.pack("<20sIIIIIBbHH", b"square", 0, 256, 64, 192, 16000, 60, 0, 0, 1)
    return chunk(
        b"RIFF",
        b"sfbk"
        + listed(b"INFO", chunk(b"ifil", struct.pack("<HH", 2, 1)), chunk(b"INAM", b"test\0\0"))
        + listed(b"sdta", chunk(b"smpl", wave))
        + listed(
            b"pdta",
            chunk(
                b"phdr",
                struct.pack("<20sHHHIII", b"p", 0, 0, 0, 0, 0, 0) + struct.pack("<20sHHHIII", b"EOP", 0, 0, 1, 0, 0, 0),
            ),
            chunk(b"pbag", struct.pack("<HHHH", 0, 0, 1, 0)),
            chunk(b"pmod", bytes(10)),
            chunk(b"pgen", struct.pack("<HHHH", 41, 0, 0, 0)),
            chunk(b"inst", struct.pack("<20sH", b"i", 0) + struct.pack("<20sH", b"EOI", 1)),
            chunk(b"ibag", struct.pack("<HHHH", 0, 0, 2, 0)),
            chunk(b"imod", bytes(10)),
            chunk(b"igen", struct.pack("<HHHHHH", 54, 1, 53, 0, 0, 0)),
            chunk(b"shdr", header + struct.pack("<20sIIIIIBbHH", b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0)),
        ),
    )


@pytest.mark.skipif(shutil.which("fluidsynth") is None, reason="fluidsynth is not installed")
def test_midi_is_rendered(tmp_path):
    (tmp_path / "s.sf2").write_bytes(soundfont())
    fetch.make_track(original("a.mid", MIDI), tmp_path / "a.flac", tmp_path / "s.sf2")
    samples, rate = soundfile.read(tmp_path / "a.flac")
    assert rate == fetch.SAMPLE_RATE
    assert len(samples) > 2 * rate
    assert 0.001 < abs(samples).max() < 0.99


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_a_package_that_lies_there_is_not_fetched_again(tmp_path):
    control = b"Package: g\nVersion: 1:1.2-3\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: test\n"
    put(tmp_path / "g", {"DEBIAN/control": control})
    subprocess.run(["dpkg-deb", "--build", "g", "g_1.2-3_all.deb"], cwd=tmp_path, check=True, capture_output=True)
    package = fetch.fetch(["g"], tmp_path)
    assert (package.name, package.version, package.file) == ("g", "1:1.2-3", tmp_path / "g_1.2-3_all.deb")


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt-get is not installed")
def test_a_package_that_cannot_be_had_is_told(tmp_path):
    with pytest.raises(DualdiffError, match=r"no-such-package-\d or no-such-package-\d is not to be had") as error:
        fetch.fetch(["no-such-package-1", "no-such-package-2"], tmp_path)
    assert "apt-get update" in error.value.hint


@pytest.fixture
def trained(tmp_path):
    """A model, and the folder of the music that it learned from."""
    put(tmp_path / "music" / "LICENSES", {"G.txt": b"Copyright A", "README.md": b"the ledger"})
    rows = [
        Row(path=f"{game}/1.ogg", game=game, state="used", split="train", duration_s=8.0, sha256=letter * 64)
        for game, letter in (("A", "a"), ("B", "b"), ("C", "c"))
    ]
    write_ledger(tmp_path / "dataset.jsonl", rows)
    words = np.random.default_rng(0).integers(1, 2**32, (3, 80), dtype=np.uint32)
    write_prints(prints_path(tmp_path), {row.sha256: own for row, own in zip(rows, words, strict=True)})
    return write_model(tmp_path / "models"), tmp_path / "music"


def test_a_shipped_model_is_half_as_large_and_plays_nearly_the_same(trained, tmp_path):
    model, music = trained
    meter = GameClassifier(("A", "B"), 4, torch.randn(6, 2), torch.randn(2), {"fitted on windows": 3})
    add_part(model, game_classifier_part(meter))
    size = ship.ship(model, music, tmp_path / "nano")
    assert size < 0.7 * sum(path.stat().st_size for path in model.iterdir())
    one, other = (Pipeline.load(folder, precision="float32") for folder in (model, tmp_path / "nano"))
    assert one.model.unet_hash != other.model.unet_hash
    noise = torch.randn(1, *one.encode(torch.zeros(2, 32000)).shape[1:])
    decoded = [made.model.vae_model.vae.decode(noise) for made in (one, other)]
    assert 0 < (decoded[0] - decoded[1]).norm() < 0.05 * decoded[0].norm()
    assert torch.equal(load_game_classifier(tmp_path / "nano").weights, meter.weights)
    assert [track.game for track in load_fingerprints(tmp_path / "nano").index.tracks] == ["A", "B"]
    assert "Copyright A" in (tmp_path / "nano" / "NOTICES.txt").read_text(encoding="utf-8")


def test_a_model_is_not_shipped_without_notices_or_when_large(trained, tmp_path, monkeypatch):
    model, music = trained
    with pytest.raises(DataError, match="no notices"):
        ship.ship(model, tmp_path, tmp_path / "nano")
    assert not (tmp_path / "nano").exists()
    monkeypatch.setattr(ship, "LARGEST_BYTES", 1000)
    with pytest.raises(DataError, match="more than"):
        ship.ship(model, music, tmp_path / "nano")
