"""Ready pieces for frameworks with a training loop of their own: optional, imported by nobody else.

Each module has one function, which imports its framework when it is called.

The map::

    lightning.py       a callback for Lightning's Trainer
    transformers.py    a callback for Hugging Face's Trainer
"""
