"""Ready pieces for frameworks with a training loop of their own: optional, imported by nobody else.

Each module has one function, which imports its framework when it is called.

The map::

    lightning.py       a callback for Lightning's Trainer
    ray.py             in the workers of a Ray job, for observability.ray
    transformers.py    a callback for Hugging Face's Trainer
"""
