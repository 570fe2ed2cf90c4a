"""Data sets in the files that their authors publish.

A reader takes a folder and says None where the files are not in it. It knows which file holds what, whose an example
is, what is to be learned, and what stays together; how a file is read, it leaves to `pfljax.data.layouts`.
"""
