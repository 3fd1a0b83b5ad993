"""Write a clip from Python.

    python examples/use_as_a_library.py MODEL_FOLDER CLIP.flac

After `make demo` there is a model in demo/models/unet.
"""

import sys

from dualdiff import audio
from dualdiff.generation.pipeline import Pipeline

pipeline = Pipeline.load(sys.argv[1])
clip = pipeline.generate(games={pipeline.games[0]: 0.7, pipeline.games[-1]: 0.3}, length_s=10, seed=1)
audio.write(sys.argv[2], clip.waveform, clip.sample_rate)
print(clip.recipe)
