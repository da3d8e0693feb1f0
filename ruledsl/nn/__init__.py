"""Rules as torch modules: a layer for any rule (`layer`), and a small language model of such layers (`model`).

`assume` says what a layer adds to a rule's text. It needs no torch, so this file imports nothing.
"""
