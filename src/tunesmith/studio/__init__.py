"""The studio: a page on which a base is adapted from a folder of recordings to something to hear.

It computes nothing of its own: each tab calls the functions that the command line calls. ``work`` runs
what takes long, ``places`` says where things lie, ``shelf`` lends sounds and reports to the page, and
``server`` decides who may see it.
"""
