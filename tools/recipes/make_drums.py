"""Make course_lib/assets/drums.npz: 54 percussion one-shots of two Debian packages, as 0.512 s at
16 kHz, with class, source and split.

    apt-get download sonic-pi-samples hydrogen-drumkits
    for package in *.deb; do dpkg-deb -x $package raw; done
    pip install soundfile
        reads FLAC; no dependency of the course
    python tools/recipes/make_drums.py raw
        prints the digest that course_lib/lab/data/percussion.py expects

Mono, resampled, the onset at 1 ms, cut or padded, faded out, peak 0.9. What is one source is
decided here, before anything is augmented: `ONE_SOURCE` says which recordings belong together, and
every third source of a class is for testing.
"""
import argparse
import hashlib
from pathlib import Path

import npz
import numpy as np
import soundfile
from scipy.signal import resample_poly

FILE = Path(__file__).parents[2] / "course_lib/assets/drums.npz"
# of the recordings, one after the other, in the order below
SHA256 = "602842024ddefe18896c7be2d986b89d0c08e4ee7ca07495d18e2ac152480884"
RATE = 16_000
LENGTH = 8192
LEAD = 16                                                   # samples before the onset
FADE = 256                                                  # samples of fade-out
ONSET = 0.02                                                # of the peak
PEAK = 0.9

SONIC_PI = "usr/share/sonic-pi/samples"
AUDIOPHOB = "usr/share/hydrogen/data/drumkits/Audiophob"
RUMPF = "usr/share/hydrogen/data/drumkits/rumpf_kit_z01_h2"

# Sonic Pi: by name. Audiophob: by authors whose other sounds Sonic Pi's package states to be CC0,
# where the kit's name and the file's agree. rumpf_kit: household objects under the names of a drum
# kit; those whose spectrogram is that of the name.
RECORDINGS = {
    "kick": {
        SONIC_PI: "bd_808 bd_ada bd_boom bd_fat bd_gas bd_haus bd_klub bd_mehackit bd_pure bd_sone "
                  "bd_tek bd_zome bd_zum drum_bass_hard drum_bass_soft drum_heavy_kick "
                  "elec_hollow_kick elec_soft_kick",
        RUMPF: "beats_06-38 beats_07-18 beats_07-20",
    },
    "snare": {
        SONIC_PI: "sn_dolf sn_zome sn_dub sn_generic drum_snare_hard drum_snare_soft elec_snare "
                  "elec_lo_snare elec_mid_snare elec_hi_snare elec_filt_snare",
        AUDIOPHOB: "124382__cubix__8bit-snare",
        RUMPF: "beats_01-21",
    },
    "cymbal": {
        SONIC_PI: "drum_cymbal_closed drum_cymbal_open drum_cymbal_pedal drum_cymbal_hard "
                  "drum_cymbal_soft drum_splash_hard drum_splash_soft elec_cymbal",
        RUMPF: "beats_09-10 beats_08-31",
    },
    "tom": {
        SONIC_PI: "drum_tom_hi_hard drum_tom_hi_soft drum_tom_mid_hard drum_tom_mid_soft "
                  "drum_tom_lo_hard drum_tom_lo_soft elec_fuzz_tom",
        AUDIOPHOB: "99930__menegass__noise-tom0 99931__menegass__noise-tom1 101450__menegass__tomh",
    },
}

# The first names the source. Highest correlation of the waveforms over shifts and resampling:
ONE_SOURCE = (
    ("drum_bass_hard", "drum_bass_soft"),                   # 0.93
    ("beats_07-18", "beats_07-20"),                         # 0.78, 2.75 semitones apart
    ("sn_dolf", "sn_zome"),                                 # 0.74, one author
    ("drum_snare_hard", "drum_snare_soft"),                 # 0.48, by their names
    ("drum_cymbal_closed", "drum_cymbal_open", "drum_cymbal_pedal"),    # one hi-hat, by their names
    ("drum_cymbal_hard", "drum_cymbal_soft"),               # 0.70
    ("drum_splash_hard", "drum_splash_soft"),               # 0.78
    # one drum, at 0, -4 or -5 and -9 semitones: 0.98 to 0.99
    ("drum_tom_hi_hard", "drum_tom_hi_soft", "drum_tom_mid_hard", "drum_tom_mid_soft",
     "drum_tom_lo_hard", "drum_tom_lo_soft"),
    ("99930__menegass__noise-tom0", "99931__menegass__noise-tom1"),     # 0.88, 3 semitones apart
)                                                                                    # fmt: skip
SOURCE = {name: names[0] for names in ONE_SOURCE for name in names}


def find(raw: Path) -> list[tuple[str, Path]]:
    """(class, file) of each recording, in the order of the table."""
    return [
        (label, next((raw / folder).glob(f"{name}.*"), raw / folder / name))
        for label, folders in RECORDINGS.items()
        for folder, names in folders.items()
        for name in names.split()
    ]


def one_shot(file: Path) -> np.ndarray:
    """A recording as (8192,) int16."""
    x, rate = soundfile.read(file, always_2d=True)
    x = resample_poly(x.mean(1), RATE, rate)
    onset = np.argmax(np.abs(x) > ONSET * np.abs(x).max())
    x = np.pad(x, (LEAD, 0))[onset : onset + LENGTH]
    x[-FADE:] *= 0.5 + 0.5 * np.cos(np.pi * np.arange(1, FADE + 1) / FADE)
    x = np.pad(x, (0, LENGTH - len(x)))
    return np.round(32767 * PEAK / np.abs(x).max() * x).astype(np.int16)


def held_out_sources(labels: list[str], sources: list[str]) -> set[str]:
    """Every third source of each class."""
    of_class = {label: dict.fromkeys(s for c, s in zip(labels, sources) if c == label)
                for label in RECORDINGS}
    return {source for found in of_class.values() for source in list(found)[2::3]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("raw", type=Path, help="folder with both packages, unpacked")
    recordings = find(parser.parse_args().raw)
    labels = [label for label, _ in recordings]
    files = [file for _, file in recordings]
    found = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    if found != SHA256:
        raise SystemExit(f"the recordings are not those of this recipe: their SHA-256 is {found}")
    names = [file.stem for file in files]
    sources = [SOURCE.get(name, name) for name in names]
    held_out = held_out_sources(labels, sources)
    arrays = {
        "x": np.stack([one_shot(file) for file in files]),
        "y": np.array([list(RECORDINGS).index(label) for label in labels], np.uint8),
        "names": np.array(names),
        "sources": np.array(sources),
        "test": np.array([source in held_out for source in sources]),
    }
    print(npz.write(FILE, arrays))


if __name__ == "__main__":
    main()
