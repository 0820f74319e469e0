"""Templates of `moonlib plugins new`: per kind a component and its test, each a real one.

`moonlib.templates.new_plugin` copies the two files of a kind and puts the new names in place of ``Template`` and
``moonlib.templates.<kind>``. The tests run with moonlib's own, so that a template cannot go stale.
"""
