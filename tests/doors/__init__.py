"""Tests of the other ways in: the image, the dev container, Binder, Colab."""
