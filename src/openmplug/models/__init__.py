"""The models: tensors in, tensors out. No files, no tokenizers, no losses, no process groups.

Shape legend, the same everywhere: ``B`` batch, ``C`` channels, ``H W`` pixels, ``F`` frames, ``V`` vision tokens, ``T`` text
tokens, ``D`` width, ``N`` heads, ``K`` candidates or beams, ``R`` rows (``R = B * K`` where several rows belong to one item),
``Q`` queue length. A mask is bool with True = may be attended to.
"""
