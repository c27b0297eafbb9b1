"""Readers of weight files: one file for each format, from the bytes to a `Checkpoint`.

How to add a reader: 1. recognize the content in `recognise.py`; 2. write a function to a `Checkpoint` in a file here;
3. enter it in the table of `open.py`, and a seed in `tests/checkpoint/seeds.py`.
"""
