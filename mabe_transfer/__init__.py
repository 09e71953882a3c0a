"""Turn data from two worlds into one policy: offline RL with behaviour priors across domains."""

__version__ = "0.1.0"
