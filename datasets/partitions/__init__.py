"""Preparation in partitions: pure functions from files to files, run by a pool or by Ray.

`docs/preparation.md` shows the steps. Raw ids are mixed into 64-bit keys; a partition is a range of
keys, of users or of items. A task reads one piece of the source or one partition, writes files of
its own or rows of its own in a shared file, and returns a few numbers.
"""
