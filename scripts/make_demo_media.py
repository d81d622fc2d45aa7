"""Makes the video clips that ship with the demo anew; needs ffmpeg with libx264.

Usage: python scripts/make_demo_media.py [DIRECTORY]

Without a directory the clips go to ursa_pipelines/embedded/media/. All pictures are test patterns that
ffmpeg draws, so nobody is shown and nobody's rights are touched. The same build of ffmpeg makes the same
bytes; another one may not, which changes the demo's digests and nothing else.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "ursa_pipelines" / "embedded" / "media"

FRONT = "testsrc2=size=160x120:rate=15"
SIDE = "mandelbrot=size=160x120:rate=15:end_scale=0.01:end_pts=90"
SCREEN = "cellauto=size=160x120:rate=5:rule=110:seed=7"

CLIPS = {
    **{f"front_{index}": (FRONT, 2 * index, 2 * index + 2) for index in range(3)},
    **{f"side_{index}": (SIDE, 2 * index, 2 * index + 2) for index in range(3)},
    "screen": (SCREEN, 0, 6),
}


def main() -> int:
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        print("ffmpeg is not installed (Debian: apt install ffmpeg; macOS: brew install ffmpeg)", file=sys.stderr)
        return 1
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED
    directory.mkdir(parents=True, exist_ok=True)
    for name, (pattern, start, end) in CLIPS.items():
        clip = directory / f"{name}.mp4"
        encode(ffmpeg, f"{pattern},trim=start={start}:end={end},setpts=PTS-STARTPTS", clip)
        print(f"{clip}  {clip.stat().st_size:,} bytes")
    return 0


def encode(ffmpeg: str, source: str, clip: Path) -> None:
    """Writes `clip`: H.264 main profile, 4:2:0, index first, so that browsers and phones play it too."""
    command = [ffmpeg, "-loglevel", "error", "-y", "-f", "lavfi", "-i", source, "-an", "-map_metadata", "-1"]
    command += ["-c:v", "libx264", "-profile:v", "main", "-pix_fmt", "yuv420p", "-preset", "veryslow", "-crf", "24"]
    # One thread and no version strings: with them two runs would differ.
    command += ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart", str(clip)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
