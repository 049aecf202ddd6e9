"""Chapters as files: read, run, swept, reported, exported. Nothing here imports torch when it is imported.

- `chapters`: the notebooks; `student_version`: the one with exercises; `parameters`: what may be set in them
- `kernels`: the kernel of a run; `execution`: one run; `sweeps`: many, here or on a `cluster`, kept in a `store`
- `outcomes`: what became of them, as tables; `pictures`: the figures of executed notebooks
- `paper_claims`: the papers' figures beside ours; `margins`: how far our figures are from leaving their bands
- `reports`: the page of all chapters; `html_export` and `slides`: a chapter as a page or as slides

A chapter uses `paper_claims`, the first one also `chapters.course_map`; the example of a sweep uses `sweeps`.
"""
