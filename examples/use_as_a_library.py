"""Write a clip from Python.

    python examples/use_as_a_library.py nano clip.flac
    python examples/use_as_a_library.py models/unet clip.flac

`nano` is the model that ships with dualdiff.
"""

import sys

from dualdiff import Pipeline, write_audio

if len(sys.argv) != 3:
    sys.exit("usage: python use_as_a_library.py MODEL CLIP")
pipeline = Pipeline.load(sys.argv[1])
clip = pipeline.generate(games={pipeline.games[0]: 0.7, pipeline.games[-1]: 0.3}, length_s=10, seed=1)
write_audio(sys.argv[2], clip.waveform, clip.sample_rate)
print(clip.recipe)
