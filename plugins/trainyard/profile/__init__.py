"""Where the time of a step goes: traces of profilers read into one model, analysed, compared.

``readers`` alone touch files; ``intervals``, ``model`` and the analysis are pure. The formulas are
those of docs/profiles.md.
"""
